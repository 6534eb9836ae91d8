"""Fixtures that every room shares: a running server, and a way to start another."""

import contextlib
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests.running import RunningServer, running_server

StartServer = Callable[..., RunningServer]

hypothesis.settings.register_profile(
    "elman",
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("elman")


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """The shipped models, served by one process for the whole session."""
    with running_server() as one:
        yield one


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers as `running_server` does; each is stopped, and its exit code checked, when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(running_server(*args, **settings))
