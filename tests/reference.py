"""What the server must agree with: ONNX Runtime on the file as it was shipped, one sequence a run."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from elman.repository.model import Model
from elman.repository.model_file import load_model
from tests.running import STORE

Array = np.ndarray[Any, Any]

CELLS = ("vowels-rnn", "vowels-lstm", "vowels-gru")
BIDIRECTIONAL = "vowels-lstm-bidirectional"
NAMES = ("names-rnn", "names-lstm", "names-gru")


class Reference:
    """The original file, opened in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        spec = json.loads(self._session.get_modelmeta().custom_metadata_map["elman"])
        self._data = spec["input"]["name"]
        self._output = spec["outputs"][0]
        self._states = [value for value in self._session.get_inputs() if value.name != self._data]
        self._dtype = np.int64 if "int64" in self._input_type() else np.float32

    def outputs(self, sequence: Array) -> Array:
        """Every o_1..o_n of `sequence`: `(length, output_size)`.

        A second row of zeros goes along: with a single row the RNN operator goes another way and rounds differently.
        """
        data = np.stack([sequence, np.zeros_like(sequence)]).astype(self._dtype)
        states = {
            value.name: np.zeros([2 if isinstance(d, str) else d for d in value.shape], np.float32)
            for value in self._states
        }
        rows: Array = self._session.run([self._output], {self._data: data, **states})[0]
        return rows[0]

    def alone(self, sequence: Array) -> Array:
        """As `outputs`, with nothing beside the sequence."""
        states = {
            value.name: np.zeros([1 if isinstance(d, str) else d for d in value.shape], np.float32)
            for value in self._states
        }
        rows: Array = self._session.run([self._output], {self._data: sequence[None].astype(self._dtype), **states})[0]
        return rows[0]

    def _input_type(self) -> str:
        return next(value.type for value in self._session.get_inputs() if value.name == self._data)


@cache
def reference(name: str) -> Reference:
    return Reference(STORE / name / "1" / "model.onnx")


@cache
def model(name: str) -> Model:
    """A shipped model, as the server loads it."""
    return load_model(STORE / name / "1" / "model.onnx", name, 1)


@cache
def rewritten(name: str) -> ort.InferenceSession:
    """The graph that a plain RNN is served as, opened apart from the server."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model(name).network.model, options, providers=["CPUExecutionProvider"])


def expected(name: str, sequence: Array) -> Array:
    """The steps that a shipped model must give, to the bit: the whole sequence, alone in ONNX Runtime.

    LSTM and GRU run from the original file. The RNN operator rounds otherwise for one row than for two and is not what
    is served: its reference is the Scan that stands in for it, and that is held to the operator within rounding.
    """
    if not name.endswith("-rnn"):
        return reference(name).alone(sequence)
    network = model(name).network
    feeds = {
        network.input: sequence[None].astype(network.input_dtype),
        "elman.lengths": np.array([len(sequence)], np.int32),
        "elman.select": np.stack([np.zeros(len(sequence), np.int64), np.arange(len(sequence))], axis=1),
        **{state.input: state.initial for state in network.states},
    }
    rows: Array = rewritten(name).run([network.output], feeds)[0].reshape(len(sequence), -1)
    np.testing.assert_allclose(rows, reference(name).outputs(sequence), rtol=1e-3, atol=1e-3)
    return rows


def same_bits(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def float32(numbers: object) -> Array:
    """Numbers read from JSON, as the float32 that they were written from."""
    return np.array(numbers, np.float64).astype(np.float32)
