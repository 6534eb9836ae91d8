"""The parts of docs/scale.md that are measured, and the simulation behind them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report, scale
from benchmarks.__main__ import RESULTS, STUDIES
from benchmarks.models import SHAPES, write_model
from benchmarks.queues import Plant, departures, waits
from benchmarks.workers import copies
from tests.readme.blocks import DOCS


@pytest.mark.parametrize("name", ["workers", "ray", "scale"])
def test_the_page_tells_the_results(name: str, tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text((DOCS / "scale.md").read_text("utf-8"), "utf-8")
    results = json.loads(RESULTS.with_name(f"{name}.json").read_text("utf-8"))
    report.put(page, name, STUDIES[name].page(results))
    assert page.read_text("utf-8") == (DOCS / "scale.md").read_text("utf-8"), f"run: python -m benchmarks {name}"


@pytest.mark.slow
def test_the_projection_follows_from_what_was_measured() -> None:
    results = json.loads(RESULTS.with_name("scale.json").read_text("utf-8"))
    fitted = scale.fit(results["models"])
    for kind, lines in results["fit"].items():
        assert {name: pytest.approx(line) for name, line in lines.items()} == fitted[kind]
    for name, projection in results["projection"].items():
        found = scale.project(results, name)
        pairs = zip(found.pop("simulated"), projection.pop("simulated"), strict=True)
        assert all(one == pytest.approx(told) for one, told in pairs)
        assert found == pytest.approx(projection)


@pytest.mark.slow
def test_a_fork_shares_a_model_with_the_process_that_loaded_it(tmp_path: Path) -> None:
    model = write_model(SHAPES["big"], tmp_path)
    found = copies(model)
    assert model.stat().st_size < found["forked"] < 0.75 * found["loaded"]


def test_one_after_another_leaves_a_queue() -> None:
    left = departures(np.array([0.0, 1.0, 5.0]), np.array([2.0, 2.0, 1.0]))
    assert left.tolist() == [2.0, 4.0, 6.0]


def test_the_simulation_agrees_with_what_is_known_of_one_queue() -> None:
    rate, mean = 5000.0, 1e-4
    found = waits(Plant(1, 1, mean, 1e-12), rate)
    # A queue with Poisson arrivals and exponential service: the time in it is exponential too (Kleinrock, 1975).
    expected = 1 / (1 / mean - rate)
    assert found.mean() == pytest.approx(expected, rel=0.02)
    assert np.quantile(found, 0.99) == pytest.approx(expected * np.log(100), rel=0.05)
    assert np.array_equal(found, waits(Plant(1, 1, mean, 1e-12), rate))


def test_the_line_through_costs() -> None:
    assert scale._line([(1, 3.0), (2, 5.0), (3, 7.0)]) == pytest.approx({"base": 1.0, "each": 2.0})
