"""Writes one exported model: NAME/1/model.onnx, and in NAME/rows.npz what a few sequences give to each of its inputs.

The arrays are named `row/input`, in the shape that the file takes, with a batch of one. A file that takes a state has
one step after the other on the first axis, and its pairs of state in NAME/state.json. `row/answer i` is what the
framework itself gives for output i.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

Row = dict[str, np.ndarray]


def version_folder(folder: Path, name: str) -> Path:
    """The folder of the model's first version, made."""
    version = folder / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    return version


def write_rows(folder: Path, name: str, rows: Iterable[Row], state: dict[str, str] | None = None) -> None:
    """Write the sequences, and which output replaces which input after each step."""
    arrays = {f"{index}/{key}": value for index, row in enumerate(rows) for key, value in row.items()}
    np.savez(folder / name / "rows.npz", **arrays)
    if state:
        (folder / name / "state.json").write_text(json.dumps(state), "utf-8")
