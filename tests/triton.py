"""Graphs as people make them for Triton's sequence batcher, each with the `config.pbtxt` beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tests.repository.graphs import FEATURES, HIDDEN, constant, model, recurrent, value, weights

KINDS = {"bool": TensorProto.BOOL, "int32": TensorProto.INT32, "fp32": TensorProto.FLOAT, "uint64": TensorProto.UINT64}
BATCH = "rows"


def config(text: str, *, controls: dict[str, str] | None = None, more: str = "") -> str:
    """A configuration of rows: `text` says inputs, outputs and states, `controls` the type of each control input."""
    told = []
    for kind, number in (controls or {}).items():
        no_and_yes = "false, true" if number == "bool" else "0, 1"
        values = f"data_type: TYPE_{number.upper()}" if kind == "CORRID" else f"{number}_false_true: [ {no_and_yes} ]"
        told.append(f'{{ name: "{kind}" control [ {{ kind: CONTROL_SEQUENCE_{kind} {values} }} ] }}')
    batching = f"control_input [ {', '.join(told)} ]\n" if told else ""
    return f'platform: "onnxruntime_onnx"\nmax_batch_size: 8\n{more}\n{text.replace("CONTROLS", batching)}\n'


def control(kind: str, number: str) -> onnx.ValueInfoProto:
    return value(kind, [BATCH, 1], KINDS[number])


def accumulator(start: str = "bool", ready: str = "fp32", end: str = "int32") -> onnx.ModelProto:
    """One step of `OUTPUT = S' = READY * INPUT + S`, begun anew by START; the last OUTPUT has CORRID added."""
    node = helper.make_node
    nodes = [
        node("Cast", ["START"], ["begins"], to=TensorProto.BOOL),
        node("Where", ["begins", "zero", "S"], ["kept"]),
        node("Cast", ["READY"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["INPUT", "real"], ["given"]),
        node("Add", ["kept", "given"], ["S_OUT"]),
        node("Cast", ["END"], ["ends"], to=TensorProto.FLOAT),
        node("Cast", ["CORRID"], ["id"], to=TensorProto.FLOAT),
        node("Mul", ["id", "ends"], ["added"]),
        node("Add", ["S_OUT", "added"], ["OUTPUT"]),
    ]
    inputs = [value("INPUT", [BATCH, 2]), value("S", [BATCH, 2])]
    inputs += [control("START", start), control("READY", ready), control("END", end), control("CORRID", "uint64")]
    outputs = [value("OUTPUT", [BATCH, 2]), value("S_OUT", [BATCH, 2])]
    return model(nodes, inputs, outputs, [constant("zero", 0, np.float32)])


ACCUMULATOR = """
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
sequence_batching {
  CONTROLS
  state [ { input_name: "S" output_name: "S_OUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
}
"""
ALL_CONTROLS = {"START": "bool", "READY": "fp32", "END": "int32", "CORRID": "uint64"}


def cell(kind: str = "GRU") -> onnx.ModelProto:
    """One step of a cell, `(rows, features)` and its state to `(rows, hidden)`, with a weight of END in the answer.

    START does not reach the state: what it begins with is in the configuration.
    """
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["INPUT", "first"], ["moved"]),
        node("Unsqueeze", ["H", "first"], ["h"]),
        recurrent(kind, states=("h",), finals=("final",)),
        node("Squeeze", ["final", "first"], ["H_OUT"]),
        node("Add", ["H_OUT", "START"], ["begun"]),
        node("Add", ["begun", "END"], ["OUTPUT"]),
    ]
    inputs = [value("INPUT", [BATCH, FEATURES]), value("H", [BATCH, HIDDEN]), control("START", "fp32")]
    outputs = [value("OUTPUT", [BATCH, HIDDEN]), value("H_OUT", [BATCH, HIDDEN])]
    return model(nodes, [*inputs, control("END", "fp32")], outputs, [*weights(kind), constant("first", [0])])


CELL = """
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
sequence_batching {
  oldest { max_candidate_sequences: 4 }
  max_sequence_idle_microseconds: 90500000
  CONTROLS
  state [ {
    input_name: "H" output_name: "H_OUT" data_type: TYPE_FP32 dims: [ 4 ]
    initial_state { name: "learned" data_type: TYPE_FP32 dims: [ 4 ] data_file: "h.bin" }
  } ]
}
"""
FIRST_H = np.array([0.5, -0.25, 0.125, 1.0], np.float32)


def chunks() -> onnx.ModelProto:
    """An LSTM over as many steps as a request has, whose states have their rows first, as Triton wants them."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["INPUT"], ["moved"], perm=[1, 0, 2]),
        node("Cast", ["START"], ["begins"], to=TensorProto.BOOL),
        node("Unsqueeze", ["begins", "first"], ["anew"]),
    ]
    for name in "HC":
        nodes += [
            node("Transpose", [name], [f"{name}0"], perm=[1, 0, 2]),
            node("Where", ["anew", "zero", f"{name}0"], [f"{name}1"]),
        ]
    nodes += [
        recurrent("LSTM", states=("H1", "C1"), finals=("Hn", "Cn")),
        *(node("Transpose", [f"{name}n"], [f"{name}_OUT"], perm=[1, 0, 2]) for name in "HC"),
        node("Squeeze", ["y4", "one"], ["y3"]),
        node("Transpose", ["y3"], ["OUTPUT"], perm=[1, 0, 2]),
    ]
    inputs = [value("INPUT", [BATCH, "steps", FEATURES]), control("START", "int32")]
    inputs += [value(name, [BATCH, 1, HIDDEN]) for name in "HC"]
    outputs = [value("OUTPUT", [BATCH, "steps", HIDDEN]), *(value(f"{name}_OUT", [BATCH, 1, HIDDEN]) for name in "HC")]
    tensors = [*weights("LSTM"), constant("first", [0]), constant("one", [1]), constant("zero", 0, np.float32)]
    return model(nodes, inputs, outputs, tensors)


CHUNKS = """
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]
sequence_batching {
  CONTROLS
  state [
    { input_name: "H" output_name: "H_OUT" data_type: TYPE_FP32 dims: [ 1, 4 ] },
    { input_name: "C" output_name: "C_OUT" data_type: TYPE_FP32 dims: [ 1, 4 ] }
  ]
}
"""


def save(root: Path, name: str, proto: onnx.ModelProto, text: str | None, version: int = 1, **files: Any) -> Path:
    """Put a model into a repository with its configuration; returns the model file."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    if text is not None:
        (root / name / "config.pbtxt").write_text(text)
    for file, content in files.items():
        path = root / name / {"labels": "labels.txt", "first": "initial_state/h.bin"}[file]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder / "model.onnx"


class Loop:
    """A graph run by ONNX Runtime alone, one row at a time, as a client with a loop of its own would.

    Args:
        proto: the graph; its inputs START, END, READY and CORRID are filled, and `X_OUT` is what follows the state `X`.
        first: what states begin with, of one row; zeros are for the others.
    """

    def __init__(self, proto: onnx.ModelProto, first: dict[str, Any] | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        self._first = first or {}
        self._shapes = {one.name: one.shape for one in self._session.get_inputs()}
        self._types = {one.name: _DTYPES[one.type] for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, data: Any, *, steps: int = 1, corrid: int = 0, ends: bool = True) -> Any:
        """The rows of OUTPUT, float32 `(length, size)`, `steps` of them a run; a graph of one step has no such axis."""
        states = {name.removesuffix("_OUT") for name in self._outputs if name.endswith("_OUT")}
        state = {name: np.zeros([1, *self._shapes[name][1:]], np.float32) for name in states}
        state |= {name: value[None] for name, value in self._first.items()}
        answers, one_step = [], len(self._shapes["INPUT"]) == 2
        for at in range(0, len(data), steps):
            piece = data[at : at + steps] if one_step else data[None, at : at + steps]
            said = {"START": at == 0, "END": ends and at + steps >= len(data), "READY": 1, "CORRID": corrid}
            told = {
                name: np.full((1, 1), value, self._types[name]) for name, value in said.items() if name in self._types
            }
            found = self._session.run(self._outputs, {"INPUT": piece, **state, **told})
            named = dict(zip(self._outputs, found, strict=True))
            state = {name: named[f"{name}_OUT"] for name in states}
            answers.append(named["OUTPUT"].reshape(len(piece) if one_step else piece.shape[1], -1))
        return np.concatenate(answers)


_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int32)": np.int32, "tensor(uint64)": np.uint64,
}  # fmt: skip
