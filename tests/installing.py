"""The package as it is installed: a wheel that is built once, and environments that hold it.

uv does what pip does, from the same index, with a fraction of the work. The processes that test at once share what it
has made.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import ROOT


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what points Python, mypy or Elman to this checkout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY", "ELMAN_"))}
    return {**inherited, "COLUMNS": "200", "NO_COLOR": "1", **variables}


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of the processes of this run fills, and the others wait for."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""

    def make(folder: Path) -> None:
        built = uv("build", "--wheel", "--python", sys.executable, "--out-dir", str(folder), str(ROOT))
        if built.returncode:
            pytest.skip(f"no wheel can be built here: {built.stderr[-300:]}")

    (path,) = made_once(tmp_path_factory, "wheel", make).glob("elman-*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with the wheel and its base dependencies, and no extra."""

    def make(folder: Path) -> None:
        python = _environment(folder)
        done = uv("pip", "install", "--python", python, "--only-binary", ":all:", str(wheel))
        if done.returncode:
            pytest.skip(f"no package index can be reached: {done.stderr[-300:]}")

    return _python(made_once(tmp_path_factory, "installed", make))


@pytest.fixture(scope="session")
def installed_with_extras(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with the wheel, and the dependencies that these tests run with."""

    def make(folder: Path) -> None:
        done = uv("pip", "install", "--python", _environment(folder), "--no-deps", str(wheel))
        assert done.returncode == 0, done.stderr
        (site,) = folder.glob("lib/python3*/site-packages")
        # Python does not follow the .pth files of a folder that is added so, and an editable install is one.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    return _python(made_once(tmp_path_factory, "with-extras", make))


def _environment(folder: Path) -> str:
    venv.create(folder, with_pip=False)
    return _python(folder)


def _python(folder: Path) -> str:
    return str(folder / "bin" / "python")
