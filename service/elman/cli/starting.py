"""Other programs of this installation, started from here."""

import importlib.util
import os
import sys
from pathlib import Path

from elman.cli.exits import CANNOT_START, refuse

ROOT = Path(__file__).resolve().parents[2]


def import_path() -> str:
    """PYTHONPATH with which a process finds these packages, whether they are installed or not."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def need_torch() -> None:
    """Exit, saying what to install, where the packages of training and export are not there."""
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise refuse(f"this needs {' and '.join(missing)}: pip install 'elman[train]'", CANNOT_START)


def become(module: str, arguments: list[str]) -> None:
    """Run a module of this installation in the place of this process, whose signals and exit code are then its own."""
    sys.stdout.flush()
    environment = {**os.environ, "PYTHONPATH": import_path()}
    # Without -P whatever is called like one of ours in the folder one stands in would be taken for it.
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)
