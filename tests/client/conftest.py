"""Clients of the running server."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from elman import Client
from tests.running import ROOT, RunningServer


@pytest.fixture
def elman(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="session")
def vowels() -> list[NDArray[np.float32]]:
    """The test sequences of Japanese Vowels: float32 `(time, 12)` each."""
    data = np.load(ROOT / "models" / "data" / "vowels.npz")
    return np.split(data["TEST_rows"].astype(np.float32), np.cumsum(data["TEST_lengths"], dtype=int)[:-1])
