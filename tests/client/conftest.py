"""Clients of the running server."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elman import Client
from tests.running import ROOT, STORE, RunningServer


@pytest.fixture
def elman(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def small_store(tmp_path: Path) -> Path:
    """A repository of two of the shipped models, for tests that start servers of their own."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("names-gru", "vowels-gru"):
        (folder / name).symlink_to(STORE / name)
    return folder


@pytest.fixture(scope="session")
def vowels() -> list[NDArray[np.float32]]:
    """The test sequences of Japanese Vowels: float32 `(time, 12)` each."""
    data = np.load(ROOT / "models" / "data" / "vowels.npz")
    return np.split(data["TEST_rows"].astype(np.float32), np.cumsum(data["TEST_lengths"], dtype=int)[:-1])
