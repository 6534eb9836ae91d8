"""A model.json that is wrong in one part: the refusal names that part, and without it the file is served."""

import json
import time
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import run_alone
from onnx import TensorProto, helper
from test_refusals import load, refusal
from test_roles import rows

from elman.codec.answer import OutputFormat
from elman.errors import ModelRefused
from elman.repository.spec import ModelSpec
from elman.repository.spec_parts import name_part


def tagger() -> onnx.ModelProto:
    """(batch, time, features) with two states that are inputs and outputs."""
    return graphs.tagger(states=("h0", "c0"), finals=("hn", "cn"))


def cell() -> onnx.ModelProto:
    """One step a run, and two states."""
    return graphs.mixing_cell(("a_in", "b_in"), ("a_out", "b_out"))


def gained() -> onnx.ModelProto:
    """Two inputs of each step, one of each sequence, `gain`, and one that is the same for all, `rate`."""
    nodes = [
        helper.make_node("Concat", ["input", "other"], ["both"], axis=2),
        helper.make_node("Transpose", ["both"], ["moved"], perm=[1, 0, 2]),
        graphs.recurrent("GRU"),
        helper.make_node("Squeeze", ["y4", "one"], ["y3"]),
        helper.make_node("Transpose", ["y3"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("Unsqueeze", ["gain", "one"], ["gains"]),
        helper.make_node("Mul", ["steps", "gains"], ["louder"]),
        helper.make_node("Mul", ["louder", "rate"], ["output"]),
    ]
    extents = {"input": ["batch", "time", 3], "other": ["batch", "time", 2], "gain": ["batch", 4], "rate": []}
    inputs = [graphs.value(name, dims) for name, dims in extents.items()]
    tensors = [*graphs.weights("GRU", features=5), graphs.constant("one", [1])]
    return graphs.model(nodes, inputs, [graphs.value("output", ["batch", "time", 4])], tensors)


FILES = {"tagger": tagger, "cell": cell, "letters": graphs.letters, "gained": gained}


def states(*pairs: tuple[str, str], axis: int = 1) -> dict[str, Any]:
    return {"state": [{"input": name, "output": output, "batch_axis": axis} for name, output in pairs]}


def port(name: str, **fields: Any) -> dict[str, Any]:
    return {"inputs": {name: fields}}


# The file, its model.json, and the part that the refusal names.
PARTS: list[tuple[str, dict[str, Any], str]] = [
    ("tagger", {"input": {"name": "h0"}}, 'input.name is "h0"'),
    ("tagger", {"input": {"batch_axis": 1, "time_axis": 0}}, "input.batch_axis is 1 and input.time_axis is 0"),
    ("tagger", {"input": {"time_axis": 2}}, "input.time_axis is 2"),
    ("tagger", {"input": {"batch_axis": 1}}, "input.batch_axis is 1"),
    ("tagger", port("input", time_axis=0), "inputs.input.time_axis is 0"),
    ("tagger", port("input", role="static"), 'inputs.input is {"role": "static"}'),
    ("tagger", states(("h0", "cn"), ("c0", "hn")), "state is [{"),
    ("tagger", states(("h0", "hn"), ("c0", "hn")), "state is [{"),
    ("tagger", states(("h0", "hn"), ("c0", "cn"), axis=2), "state is [{"),
    ("tagger", states(("h0", "output"), ("c0", "cn")), "state is [{"),
    ("tagger", port("h0", role="state", output="hn", batch_axis=0), "inputs.h0.batch_axis is 0"),
    ("tagger", port("h0", role="state", output="cn"), "inputs.h0 is {"),
    ("tagger", port("h0", role="sequence"), "inputs.h0 is {"),
    ("tagger", {"outputs": {"output": {"role": "unused"}}}, "outputs is {"),
    ("cell", {"input": {"time_axis": 1}}, "input.time_axis is 1"),
    ("cell", {"input": {"batch_axis": 1}}, "input.batch_axis is 1"),
    ("cell", {"state": []}, "state is []"),
    ("cell", states(("a_in", "a_out"), ("b_in", "b_out")), "state is [{"),
    ("cell", states(("a_in", "output"), ("b_in", "b_out"), axis=0), "state is [{"),
    ("letters", {"input": {"name": "h"}}, 'input.name is "h"'),
    ("letters", {"input": {"batch_axis": 1, "time_axis": 0}}, "input.batch_axis is 1 and input.time_axis is 0"),
    ("letters", states(("h", "h_out"), axis=0), "state is [{"),
    ("letters", states(("input", "h_out")), "state is [{"),
    ("gained", {"input": {"name": "gain"}}, 'input.name is "gain"'),
    ("gained", {"input": {"time_axis": 2}}, "input.time_axis is 2"),
    ("gained", port("gain", role="sequence"), "inputs.gain is {"),
    ("gained", port("gain", batch_axis=1), "inputs.gain.batch_axis is 1"),
    ("gained", port("other", role="static"), "inputs.other is {"),
    ("gained", port("other", time_axis=2), "inputs.other.time_axis is 2"),
    ("gained", port("other", batch_axis=1, time_axis=0), "inputs.other is {"),
    ("gained", port("other", role="state", output="output"), "inputs.other is {"),
]


def written(cases: list[tuple[str, dict[str, Any], str]]) -> pytest.MarkDecorator:
    ids = [f"{file}-{json.dumps(spec)}" for file, spec, _ in cases]
    return pytest.mark.parametrize(("file", "spec", "said"), cases, ids=ids)


def with_rate(file: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the constant that the file needs, if it needs one."""
    return {"constants": {"rate": 2.0}} | spec if file == "gained" else spec


@pytest.mark.parametrize("file", FILES)
def test_the_files_are_served_without_the_wrong_part(tmp_path: Path, file: str) -> None:
    assert load(FILES[file](), tmp_path, with_rate(file, {})).proof.streaming


@written(PARTS)
def test_the_part_that_causes_a_refusal_is_named(tmp_path: Path, file: str, spec: dict[str, Any], said: str) -> None:
    refused = refusal(FILES[file](), tmp_path, with_rate(file, spec))
    assert refused.reason.startswith(f"the spec's {said}")
    assert "frozen" not in str(refused)
    assert "served" in str(refused.remedy)


# What is compared with the file before anything runs.
MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("tagger", states(("h0", "hn"), axis=5), "the spec's state.0.batch_axis is 5, and 'h0' has the axes"),
    ("gained", port("gain", batch_axis=3), "the spec's inputs.gain.batch_axis is 3, and 'gain' has the axes"),
    ("gained", port("other", time_axis=7), "the spec's inputs.other.time_axis is 7, and 'other' has the axes"),
    ("letters", {"input": {"name": "input", "time_axis": 2}}, "the spec's input.time_axis is 2, and 'input' has"),
    ("gained", {"inputs": {"rate": {"role": "static"}}, "constants": {}}, "the input 'rate' is 'static', but it is"),
    ("gained", {"inputs": {"rate": {"role": "lengths"}}, "constants": {}}, "the input 'rate' is 'lengths', but it is"),
    ("gained", port("other", role="mask", valid=1), "the input 'other' is 'mask', but it is float32 of the axes"),
    ("gained", port("one", role="static"), "the spec's inputs names 'one', which the graph does not have"),
    ("gained", {"constants": {"rate": 1, "gain": [1, 1]}}, "the constant for 'gain' is no float32 of shape"),
    ("tagger", {"constants": {"h0": 0}}, "the constant for 'h0' is no float32 of shape [1, 'batch', 4]"),
    ("gained", {"input": {"name": "rate"}}, "input.name and constants.rate are both the input 'rate'"),
    ("tagger", states(("h0", "hn"), ("h0", "cn")), "state.0 and state.1 are both the input 'h0'"),
    ("tagger", {"outputs": []}, "outputs lists the outputs that answer, and there is none in it"),
    ("tagger", {"input": {"kind": "tokens"}}, "the spec's input kind 'tokens' does not fit the graph"),
    ("tagger", {"input": {"vocabulary": ["a"]}}, "the spec's input vocabulary does not fit the graph"),
    ("letters", {"input": {"kind": "features"}}, "the spec's input kind 'features' does not fit the graph"),
    ("letters", {"input": {"size": 3}}, "the spec's input size does not fit the graph"),
    ("letters", {"input": {"vocabulary_size": 12}}, "12 tokens, the embedding has 11"),
    ("letters", {"input": {"vocabulary": ["a", "b"]}, "generation": {"start": "z"}}, "generation.start is 'z', which"),
]


@written(MISFITS)
def test_what_does_not_fit_the_file_is_named(tmp_path: Path, file: str, spec: dict[str, Any], said: str) -> None:
    assert said in refusal(FILES[file](), tmp_path, with_rate(file, spec)).reason


def test_a_file_that_takes_long_is_refused_without_another_try() -> None:
    """Else it would be refused for the time that it takes, and nobody would see what is wrong with it."""
    spec, refused = ModelSpec.model_validate({"state": [], "outputs": ["output"]}), ModelRefused("it is broken")
    tried: list[Any] = []

    def serves(one: dict[str, Any]) -> bool:
        tried.append(one)
        return False

    assert name_part(spec, refused, serves, time.monotonic() - 15) is refused
    assert tried == []
    assert name_part(spec, refused, serves, time.monotonic()) is refused
    assert len(tried) == 3


def test_a_frozen_axis_is_said_to_be_one_whatever_model_json_says(tmp_path: Path) -> None:
    frozen = graphs.constant("shape", [-1, 7, graphs.HIDDEN])
    after = (helper.make_node("Reshape", ["steps", "shape"], ["output"], name="view"),)
    spec = {"input": {"name": "input", "size": graphs.FEATURES}, "task": "tagging"}
    assert "is probably frozen" in refusal(graphs.tagger(after=after, tensors=(frozen,)), tmp_path, spec).reason


def test_inputs_may_name_the_axes_of_the_data(tmp_path: Path) -> None:
    """A file whose axes have no names, which go the other way than is usual."""
    proto = graphs.tagger()
    before = next(node for node in proto.graph.node if node.output[0] == "moved")
    before.op_type = "Identity"
    del before.attribute[:]
    proto.graph.input[0].CopyFrom(graphs.value("input", [None, None, graphs.FEATURES], TensorProto.FLOAT))
    told = load(proto, tmp_path / "told", port("input", batch_axis=1, time_axis=0))
    plain = load(graphs.tagger(), tmp_path / "plain")
    for row in rows(1, 6):
        np.testing.assert_array_equal(run_alone(told, row, "steps"), run_alone(plain, row, "steps"))


def test_the_vocabulary_of_a_model_of_features_is_that_of_its_answers(tmp_path: Path) -> None:
    """As of a network that reads sound and scores letters."""
    letters = ["-", "a", "b", "c"]
    model = load(tagger(), tmp_path, {"input": {"vocabulary": letters}, "decoder": {"kind": "tokens"}})
    assert (model.spec.input.kind, list(OutputFormat(model).names)) == ("features", letters)
