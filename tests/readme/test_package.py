"""The package that `pip install` makes: small, and without what only a clone needs."""

import re
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import elman
from tests.readme.blocks import README

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archive(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as one:
        yield one


def test_it_holds_code_only(archive: zipfile.ZipFile) -> None:
    names = [Path(name) for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.parts[0] for name in names} == {"elman"}
    code = {".py", ".typed", ".html", ".css", ".js", ".svg"}
    others = [name for name in names if name.suffix not in code and name.parts[1] != "demo"]
    assert {name.name for name in others} <= {"README.md"}, "the models of elman demo are the only data"
    demo = sum(entry.file_size for entry in archive.infolist() if entry.filename.startswith("elman/demo/"))
    assert demo < 1_000_000


def metadata(archive: zipfile.ZipFile) -> Message:
    return message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))))


def test_its_version_and_its_page_are_those_of_the_clone(archive: zipfile.ZipFile) -> None:
    """On an index, where there are no other files beside the page, its links and pictures lead to the project."""
    said = metadata(archive)
    assert said["Version"] == elman.__version__
    page = str(said.get_payload())
    links = re.findall(r"\]\(([^)\s]+)", page)
    assert links and all(link.startswith(("https://", "#")) for link in links)
    assert len(links) == len(re.findall(r"\]\(([^)\s]+)", README.read_text("utf-8")))
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)", page)
    assert all(picture.startswith("https://raw.") for picture in pictures)


def test_without_extras_it_needs_what_the_client_and_the_help_of_the_command_need(archive: zipfile.ZipFile) -> None:
    requirements = [Requirement(line) for line in metadata(archive).get_all("Requires-Dist", [])]
    needed = [one.name for one in requirements if "extra" not in str(one.marker)]
    assert sorted(needed) == ["httpx", "numpy", "sniffio", "typer"]


def test_it_carries_its_licence(archive: zipfile.ZipFile) -> None:
    assert any(name.endswith("/LICENSE") for name in archive.namelist())
