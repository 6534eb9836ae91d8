"""The package that `pip install` makes: small, and without what only a clone needs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.readme.blocks import README

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(README.parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("elman-*.whl")))


def test_it_holds_code_only(wheel: zipfile.ZipFile) -> None:
    names = [Path(name) for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.parts[0] for name in names} == {"elman", "models"}
    assert {name.suffix for name in names if name.parts[0] == "models"} == {".py"}
    assert sum(entry.file_size for entry in wheel.infolist()) < 2_000_000


def test_without_extras_it_needs_what_the_client_needs(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert sorted(needed) == ["httpx", "numpy", "tenacity"]


def test_it_carries_its_licence(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())
