"""The package as pip installs it: a wheel that is built once, and environments that hold it."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.running import ROOT


def pip(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what points Python, mypy or Elman to this checkout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY", "ELMAN_"))}
    return {**inherited, "COLUMNS": "200", "NO_COLOR": "1", **variables}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-300:]}")
    (path,) = folder.glob("elman-*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with the wheel and its base dependencies, and no extra."""
    folder = tmp_path_factory.mktemp("installed")
    python = _environment(folder)
    done = pip("--python", python, "install", "--only-binary", ":all:", str(wheel))
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr[-300:]}")
    return python


@pytest.fixture(scope="session")
def installed_with_extras(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with the wheel, and the dependencies that these tests run with."""
    folder = tmp_path_factory.mktemp("with-extras")
    python = _environment(folder)
    done = pip("--python", python, "install", "--no-deps", str(wheel))
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python3*/site-packages")
    # Python does not follow the .pth files of a folder that is added so, and an editable install is one.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _environment(folder: Path) -> str:
    venv.create(folder, with_pip=False)
    return str(folder / "bin" / "python")
