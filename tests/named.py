"""Models with static inputs, further sequence inputs and heads, and what ONNX Runtime answers on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from tests.reference import Array
from tests.repository import graphs

FEATURES, HIDDEN, SPEAKERS = graphs.FEATURES, graphs.HIDDEN, 5


def tagger() -> onnx.ModelProto:
    """(batch, time, features), `gain` per step, `speaker` and `age` per sequence; heads `value`, `best`, `level`."""
    rng = np.random.default_rng(1)
    before = (
        helper.make_node("Gather", ["voices", "speaker"], ["voice"]),
        helper.make_node("Add", ["voice", "age"], ["shift"]),
        helper.make_node("Unsqueeze", ["shift", "one"], ["shift3"]),
        helper.make_node("Mul", ["input", "gain"], ["loud"]),
        helper.make_node("Add", ["loud", "shift3"], ["given"]),
    )
    after = (
        helper.make_node("Identity", ["steps"], ["output"]),
        helper.make_node("ReduceSum", ["steps", "last"], ["value"], keepdims=1),
        helper.make_node("ArgMax", ["steps"], ["best"], axis=2, keepdims=0),
        helper.make_node("Gather", ["steps", "minus"], ["level"], axis=1),
    )
    tensors = (
        graphs.constant("voices", rng.standard_normal((SPEAKERS, FEATURES)), np.float32),
        graphs.constant("last", [2]),
        graphs.constant("minus", -1),
    )
    extra = (
        graphs.value("gain", ["batch", "time", 1]),
        graphs.value("speaker", ["batch"], TensorProto.INT64),
        graphs.value("age", ["batch", 1]),
    )
    proto = graphs.tagger("GRU", before=before, after=after, tensors=tensors, extra=extra)
    kinds = {"value": TensorProto.FLOAT, "best": TensorProto.INT64, "level": TensorProto.FLOAT}
    proto.graph.output.extend([graphs.value(name, None, kind) for name, kind in kinds.items()])
    return proto


class Truth:
    """ONNX Runtime on the file as it is, one sequence at a time."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, one: dict[str, Any], static: dict[str, Any]) -> dict[str, Array]:
        feeds = {
            "input": np.array([one["input"]], np.float32),
            "gain": np.array([one["gain"]], np.float32).reshape(1, -1, 1),
            "speaker": np.array([static["speaker"]], np.int64),
            "age": np.array([static["age"]], np.float32).reshape(1, 1),
        }
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, (array[0] for array in self.session.run(None, feeds)), strict=True))


def sequence(length: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "input": rng.standard_normal((length, FEATURES)).astype(np.float32).tolist(),
        "gain": rng.uniform(0.5, 2.0, length).astype(np.float32).tolist(),
    }


def static(speaker: int, age: float) -> dict[str, Any]:
    return {"speaker": speaker, "age": [age]}


def letters() -> onnx.ModelProto:
    """A model of letters, with its state, whose scores are shifted by `style`: one of three rows."""
    proto = graphs.letters()
    rng = np.random.default_rng(2)
    proto.graph.node[-1].output[0] = "scores"
    proto.graph.initializer.append(graphs.constant("styles", 3 * rng.standard_normal((3, 11)), np.float32))
    proto.graph.node.extend(
        [
            helper.make_node("Gather", ["styles", "style"], ["shift2"]),
            helper.make_node("Unsqueeze", ["shift2", "one"], ["shift"]),
            helper.make_node("Add", ["scores", "shift"], ["output"]),
        ]
    )
    proto.graph.input.append(graphs.value("style", ["batch"], TensorProto.INT64))
    return proto


LETTERS = {"task": "generation", "decoder": {"kind": "tokens"}, "input": {"vocabulary": list("abcdefghijk")}}


def write_models(root: Path) -> Path:
    """A repository of both models, and `free`, which has one input and one output."""
    for name, proto, spec in (("tagger", tagger(), {}), ("letters", letters(), LETTERS), ("free", graphs.tagger(), {})):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        onnx.save(proto, folder / "model.onnx")
        (folder / "model.json").write_text(json.dumps(spec))
    return root
