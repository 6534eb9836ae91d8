"""One Ray for all tests here, on loopback and without anything that reports to its makers."""

import os
from collections.abc import Iterator

import pytest

# Ray reads these as it is imported.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray on this machine, started here."""
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
