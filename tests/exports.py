"""Exports that are made once and kept, because torch takes seconds for each."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tests.running import CACHE

_EXPORTS = CACHE / "exports"
_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy")


def cached_export(key_source: object, make: Callable[[Path], object]) -> Path:
    """The file that `make` writes to the path `model.onnx` that it is given, kept for the same key.

    Args:
        key_source: what is exported and how: source text, weights, sizes, options. Its `repr` is the key, together
            with the versions of torch and of the packages that write the file.
        make: writes the file, and any files beside it.
    """
    key = repr([key_source, *map(version, _PACKAGES)])
    kept = _EXPORTS / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not kept.exists():
        _EXPORTS.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=_EXPORTS))
        try:
            make(partial / "model.onnx")
            partial.rename(kept)
        except OSError:
            # Another process may have been faster. Its folder holds the same.
            if not kept.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return kept / "model.onnx"
