"""The examples beside a model are held-out sequences that its predict route takes as they stand."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.examples import LARGEST, held_out, write_examples
from models.tasks import Task
from models.train import EXAMPLE_STEPS, HERE, RECIPES, TASKS

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: load() for name, load in TASKS.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_examples_are_held_out_sequences_of_every_label(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name.split("-")[0]]
    path = HERE / "store" / name / "1" / "examples.json"
    examples = json.loads(path.read_text("utf-8"))
    assert path.stat().st_size <= LARGEST
    assert examples == held_out(task, EXAMPLE_STEPS)
    assert [one["expected"] for one in examples] == list(task.labels)
    if task.vocabulary is None:
        beginnings = [np.round(np.float64(one[:EXAMPLE_STEPS]), 4).tolist() for one in task.test.sequences]
        assert all(one["sequence"] in beginnings for one in examples)


def test_examples_that_are_too_large_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 40000"):
        write_examples(tmp_path / "model.onnx", [{"title": "long", "sequence": "x" * LARGEST, "expected": None}])
    assert not list(tmp_path.iterdir())
