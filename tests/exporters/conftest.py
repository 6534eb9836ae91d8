"""Files of real exporters: each framework in an environment of its own, made by `make test-exporters`."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.running import ROOT

HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / ".exporters"
# The frameworks that this run tests: those that make has installed for it.
CHOSEN = os.environ.get("ELMAN_EXPORTERS", "").split()

Exported = Callable[[str], Path]


def python_of(framework: str) -> Path:
    return ENVIRONMENTS / framework / "bin" / "python"


def run_with(framework: str, script: Path, *arguments: str, folder: Path | None = None) -> None:
    """Run a script in a framework's environment. Fails with what it printed last."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ELMAN_"))}
    command = [str(python_of(framework)), str(script), *arguments]
    ran = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, f"{script.name} in {framework} ended with {ran.returncode}:\n{ran.stderr[-3000:]}"


@cache
def exported_by(framework: str) -> Path:
    """The folder of a framework's files, written again where its scripts or its packages are others than before."""
    script = HERE / "exports" / f"{framework}_models.py"
    listed = subprocess.run(
        [str(python_of(framework)), "-m", "pip", "list", "--format", "freeze"], capture_output=True, check=True
    )
    key = hashlib.sha256(script.read_bytes() + (HERE / "exports" / "writing.py").read_bytes() + listed.stdout)
    folder = ENVIRONMENTS / "exported" / f"{framework}-{key.hexdigest()[:16]}"
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        run_with(framework, script, str(partial))
        partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def exported() -> Exported:
    return exported_by
