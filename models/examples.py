"""Held-out sequences to try a model with, in `examples.json` beside its file. The playground offers them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.tasks import Task

LARGEST = 40_000
"""Bytes of an examples file."""

DIGITS = 4
"""Decimals of a feature. Examples are for trying; the exact data is in models/data."""

Example = dict[str, Any]
"""title, sequence (as a predict request takes it) and expected (a label or None). Forecasters add other fields."""


def write_examples(model: Path, examples: Sequence[Example]) -> Path:
    """Write `examples` beside the file `model`, and return their path. Raises ValueError if they are too large."""
    text = "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in examples) + "\n]\n"
    size = len(text.encode())
    if size > LARGEST:
        raise ValueError(f"{len(examples)} examples take {size} bytes, more than {LARGEST}")
    path = model.parent / "examples.json"
    path.write_text(text, "utf-8")
    return path


def held_out(task: Task, most_steps: int | None = None, seed: int = 0) -> list[Example]:
    """One held-out sequence of each label, chosen by `seed`, and cut to its first `most_steps` steps."""
    generator = np.random.default_rng(seed)
    chosen = [int(generator.choice(np.flatnonzero(task.test.labels == label))) for label in range(len(task.labels))]
    return [_example(task, i, most_steps) for i in chosen]


def _example(task: Task, index: int, most_steps: int | None) -> Example:
    sequence, label = task.test.sequences[index], task.labels[task.test.labels[index]]
    if task.vocabulary is not None:
        text = "".join(task.vocabulary[token] for token in sequence)
        return {"title": text, "sequence": text, "expected": label}
    title = task.titles[index] if task.titles else f"{label}, held out"
    rows = [[round(float(value), DIGITS) for value in row] for row in sequence[:most_steps]]
    return {"title": title, "sequence": rows, "expected": label}
