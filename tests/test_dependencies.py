"""The exact versions that are installed here and in the container are those that pyproject.toml allows."""

import re
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.running import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# Its builds differ by machine.
NOT_LOCKED = {"torch"}


def pins(name: str) -> dict[str, set[Version]]:
    """The exact versions of each package in a lock: several where they differ by Python or machine."""
    found: dict[str, set[Version]] = {}
    text = (ROOT / name).read_text("utf-8")
    for package, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(package), set()).add(Version(version))
    return found


def required() -> list[Requirement]:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), *groups.values()]
    found = map(Requirement, chain(*lists, PROJECT["build-system"]["requires"]))
    return [one for one in found if one.name not in NOT_LOCKED | {"elman"}]


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_a_requirement_is_locked_within_its_bounds(requirement: Requirement) -> None:
    versions = pins("constraints.txt")[canonicalize_name(requirement.name)]
    assert all(version in requirement.specifier for version in versions)
    assert any(bound.operator in (">=", "==", "~=") for bound in requirement.specifier)


def test_the_image_is_made_of_the_same_versions() -> None:
    image, all_pins = pins("requirements-image.txt"), pins("constraints.txt")
    assert {"fastapi", "numpy", "onnxruntime"} <= image.keys()
    assert not {"pyarrow", "pytest"} & image.keys()
    assert {name: all_pins.get(name) for name in image} == image


@pytest.mark.parametrize("name", ["constraints.txt", "requirements-image.txt"])
def test_a_lock_names_no_index(name: str) -> None:
    assert not re.search(r"://|^--(?!hash)", (ROOT / name).read_text("utf-8"), re.MULTILINE)
