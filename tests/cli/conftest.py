"""A server with a model of every kind, small ones of ours among them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from elman.repository.spec import ForecastSpec
from tests.looping import RESIDUALS, forecaster, generator, put_forecaster, put_generator
from tests.running import STORE, RunningServer, running_server

PAIRS = ((0.5, -0.5), (-0.5, 0.5), (0.0, 0.0))


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: `writer` writes, `seer` forecasts, `many` forecasts two of four and knows the others ahead."""
    root = tmp_path_factory.mktemp("models")
    put_generator(root, "writer", generator("gru"))
    put_forecaster(root, "seer", forecaster("gru", 1, 1), ForecastSpec(residuals=RESIDUALS, minimum=0.0))
    many = ForecastSpec(target=(2, 0), known=(3, 1), residuals=PAIRS)
    put_forecaster(root, "many", forecaster("lstm", 4, 2), many)
    for name in ("names-gru", "vowels-gru"):
        (root / name).symlink_to(STORE / name)
    return root


@pytest.fixture(scope="package")
def served(root: Path) -> Iterator[RunningServer]:
    with running_server(root) as one:
        yield one
