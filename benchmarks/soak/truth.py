"""What the answers must be: ONNX Runtime on the shipped files, one sequence a run, fed by plain loops."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks import paths
from benchmarks.environments import ROOT

Array = np.ndarray[Any, Any]

STORE = ROOT / "models" / "store"
VALUES = ("vowels-gru", "vowels-lstm", "vowels-lstm-bidirectional")
TURNING = ("names-gru", "names-lstm")
"""The two files that one name is switched between."""
WRITER = "names-lstm-generator"
SEER = "sunspots-gru"
HORIZON = 12
MAX_TOKENS = 30

_NUM_INPUTS = 24
_MAX_LENGTH = 150


class Plain:
    """A shipped model as it lies in its file."""

    def __init__(self, name: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        content = (STORE / name / "1" / "model.onnx").read_bytes()
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.spec = json.loads(self._session.get_modelmeta().custom_metadata_map["elman"])
        self._data = self.spec["input"]["name"]
        inputs = self._session.get_inputs()
        self._states = {one.name: _zeros(one.shape) for one in inputs if one.name != self._data}
        self._dtype = np.int64 if any("int64" in one.type for one in inputs) else np.float32

    def outputs(self, sequence: Array) -> Array:
        """Every output of `sequence` `(length, ...)`: float32 `(length, output_size)`."""
        feeds = {self._data: sequence[None].astype(self._dtype), **self._states}
        rows: Array = self._session.run([self.spec["outputs"][0]], feeds)[0]
        return rows[0]


def _zeros(shape: list[int | str]) -> Array:
    return np.zeros([1 if isinstance(extent, str) else extent for extent in shape], np.float32)


@dataclass(frozen=True)
class Case:
    """A sequence `(length, ...)`, and its outputs `(length, output_size)`."""

    sequence: Array
    outputs: Array


@dataclass(frozen=True)
class Text:
    """A prompt, and the text that the likeliest tokens make of it."""

    prompt: str
    text: str
    tokens: list[int]


class Truth:
    """All that is asked for, with the right answers.

    Attributes:
        values: cases by model, of features.
        turning: the outputs of each of the two files, for the same token ids.
        texts: what the generator writes.
        forecasts: (body, right points) of the forecaster.
    """

    def __init__(self, repository: Path, seed: int = 0) -> None:
        """Puts the forecaster into `repository`, without what its file says of its errors."""
        rng = np.random.default_rng(seed)
        self.values = {name: _cases(Plain(name), rng) for name in VALUES}
        ids = [rng.integers(1, 60, int(rng.integers(1, 40))) for _ in range(_NUM_INPUTS)]
        one, other = (Plain(name) for name in TURNING)
        self.turning = [(row, one.outputs(row), other.outputs(row)) for row in ids]
        writer = Plain(WRITER)
        self.texts = [_write(writer, prompt) for prompt in ("", "Mc", "Lind", "O", "van ", "Sch", "Kowal")]
        loop = paths.Loop(SEER, repository, paths.Settings(samples=0, horizon=HORIZON))
        self.forecasts: list[tuple[dict[str, Any], Array]] = []
        for length in rng.integers(20, 120, _NUM_INPUTS):
            loop.series = 100 * rng.random((length, 1))
            self.forecasts.append(({"series": loop.series[:, 0].tolist(), "horizon": HORIZON}, loop.run()[0, :, 0]))


def _cases(model: Plain, rng: np.random.Generator) -> list[Case]:
    lengths = rng.integers(1, _MAX_LENGTH, _NUM_INPUTS)
    sequences = [rng.standard_normal((length, 12), np.float32) for length in lengths]
    return [Case(sequence, model.outputs(sequence)) for sequence in sequences]


def _write(model: Plain, prompt: str) -> Text:
    """Append the likeliest token, and read all of them again, until the end token."""
    vocabulary, generation = model.spec["input"]["vocabulary"], model.spec["generation"]
    start, end = vocabulary.index(generation["start"]), vocabulary.index(generation["end"])
    never = [start, *(vocabulary.index(token) for token in generation["conditions"].values())]
    read = [start, *map(vocabulary.index, prompt)]
    tokens: list[int] = []
    while len(tokens) < MAX_TOKENS:
        scores = model.outputs(np.array([*read, *tokens]))[-1]
        scores[never] = -np.inf
        token = int(scores.argmax())
        if token == end:
            break
        tokens.append(token)
    return Text(prompt, "".join(vocabulary[token] for token in tokens), tokens)
