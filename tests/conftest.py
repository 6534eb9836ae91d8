"""What every room shares: the tiers, a running server, and a way to start another."""

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.installing import installed, installed_with_extras, wheel  # noqa: F401  (fixtures)
from tests.running import STORE, RunningServer, running_server

StartServer = Callable[..., RunningServer]

OTHER_TIERS = {"slow", "torch", "browser", "docker", "exporters", "clients", "ray"}
# Folders whose tests run by themselves, by a mark of the same name, after make has installed what they need.
_APART = {"exporters", "clients", "ray"}
# What belongs to another tier as a whole: folders, and files that say so.
_WHOLE_FOLDERS = {"browser", "containers"}
_WHOLE_FILE = re.compile(r"^pytestmark = pytest\.mark\.torch$", re.MULTILINE)

# The files that take longest. They come first, so that none of them is left for one process at the end.
_LONGEST = [
    "containers/test_containers.py",
    "repository/test_matrix.py",
    "exporter/test_export.py",
    "properties/test_sessions.py",
    "readme/test_readme.py",
    "faults/test_workers.py",
    "cli/test_install.py",
    "repository/test_fuzz.py",
    "browser/test_states.py",
    "faults/test_stuck.py",
    "browser/test_page.py",
    "fuzz/test_fuzz.py",
    "cli/test_predict.py",
    "http/test_websocket.py",
    "faults/test_kill.py",
    "cli/test_export.py",
    "browser/test_named_inputs.py",
    "browser/test_explore.py",
]

_PROPERTIES = hypothesis.settings(
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.register_profile("quick", _PROPERTIES, max_examples=20)
hypothesis.settings.register_profile("full", _PROPERTIES, max_examples=100)


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("quick" if is_quick(config) else "full")


def is_quick(config: pytest.Config) -> bool:
    """Whether the quick tier alone is run, as by `make test`."""
    return bool(config.option.markexpr == "quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep the quick tier from importing what belongs to another, which needs packages that it does not install.

    The tests of other projects' exporters and clients, and of Ray, run by themselves: `make test-exporters`,
    `test-clients` and `test-ray`.
    """
    if collection_path.name in _APART and collection_path.is_dir() and config.option.markexpr != collection_path.name:
        return True
    if not is_quick(config):
        return None
    if collection_path.is_dir():
        return collection_path.name in _WHOLE_FOLDERS or None
    if collection_path.suffix != ".py":
        return None
    return bool(_WHOLE_FILE.search(collection_path.read_text("utf-8"))) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {str(Path(__file__).parent / name): place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))
    for item in items:
        if not OTHER_TIERS & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish(session: pytest.Session) -> None:
    if is_quick(session.config) and "torch" in sys.modules:
        raise pytest.UsageError("a quick test imports torch: its file needs the line `pytestmark = pytest.mark.torch`")


@pytest.fixture(scope="session", autouse=True)
def translations() -> Iterator[None]:
    """Torch parses all of its translations to ONNX for each export, which is half of the work. Here it does so once."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """The shipped models, served by one process for the whole session."""
    with running_server() as one:
        yield one


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of three of the shipped models, for servers of a test's own: all of them take seconds to load."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("names-gru", "vowels-gru", "vowels-lstm"):
        (folder / name).symlink_to(STORE / name)
    return folder


@pytest.fixture
def start_server(small_store: Path) -> Iterator[StartServer]:
    """Starts servers as `running_server` does; each is stopped, and its exit code checked, when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(models: Path = small_store, *flags: str, **settings: object) -> RunningServer:
            return stack.enter_context(running_server(models, *flags, **settings))  # type: ignore[arg-type]

        yield start
