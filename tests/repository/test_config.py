"""`config.pbtxt` against the model file: what it declares is held against the graph, and what it says gives roles."""

import json
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import run_alone
from onnx import helper

from elman.errors import ModelRefused
from elman.repository.model import Model
from elman.repository.model_config import as_json, parse_config
from elman.repository.model_file import load_model
from elman.repository.repository import scan
from elman.repository.triton import chosen_versions, config_of
from tests import triton

ACCUMULATOR = triton.config(triton.ACCUMULATOR, controls=triton.ALL_CONTROLS)
CELL = triton.config(triton.CELL, controls={"START": "fp32", "END": "fp32"})
CELL_FILES = {"labels": b"up\ndown\nleft\nright\n", "first": triton.FIRST_H.tobytes()}


def load(folder: Path, proto: onnx.ModelProto, text: str, spec: dict[str, Any] | None = None, **files: bytes) -> Model:
    path = triton.save(folder, "model", proto, text, **files)
    if spec is not None:
        (path.parent / "model.json").write_text(json.dumps(spec))
    return load_model(path, "model", 1)


def notes(model: Model) -> tuple[str, ...]:
    assert model.triton is not None
    return model.triton.notes


# What cannot be followed is refused


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('platform: "onnxruntime_onnx"', 'platform: "pytorch_libtorch"', "the platform is 'pytorch_libtorch'; served"),
        ('platform: "onnxruntime_onnx"', 'backend: "python"', "the backend is 'python'; served are ONNX files"),
        ('platform: "onnxruntime_onnx"', "ensemble_scheduling { step [ { } ] }", "it is an ensemble of models"),
        ('platform: "onnxruntime_onnx"', "batch_input [ { kind: BATCH_ITEM_SHAPE } ]", "batch_input and batch_output"),
        (
            "max_batch_size: 8",
            'default_model_filename: "../a"',
            "'../a' is not the name of a file in the model's folder",
        ),
        ("max_batch_size: 8", "max_batch_size: -8", "max_batch_size is -8; it is 0 or more"),
        ("max_batch_size: 8", "", "input 'INPUT' has the dims [2] here and ['rows', 2] in the file"),
        ('name: "INPUT" ', "", "input 0 has no name"),
        ('name: "INPUT"', 'name: "OTHER"', "input 'OTHER' is not in the file, which has 'INPUT', 'S'"),
        ('name: "OUTPUT"', 'name: "INPUT"', "output 'INPUT' is not in the file, which has 'OUTPUT', 'S_OUT'"),
        ("TYPE_FP32 dims", "TYPE_FP16 dims", "input 'INPUT' is TYPE_FP16 here and float32 in the file"),
        ("data_type: TYPE_FP32 dims", "dims", "input 'INPUT' has no data_type; in the file it is TYPE_FP32"),
        ("dims: [ 2 ]", "dims: [ 3 ]", "input 'INPUT' has the dims [3], after an axis of rows as max_batch_size is 8,"),
        ("dims: [ 2 ]", "dims: [ -2 ]", "input 'INPUT' has the dim -2; a dim is -1 or more than 0"),
        ("dims: [ 2 ]", "", "input 'INPUT' has no dims"),
        ("dims: [ 2 ]", "dims: [ 3 ] reshape { shape: [ 2 ] }", "input 'INPUT' has the dims [3] and the reshape [2]"),
        ("input [ {", 'input [ { name: "INPUT" data_type: TYPE_FP32 dims: 2 }, {', "input 'INPUT' is declared twice"),
        ('input_name: "S" ', "", "state 0 has no input_name"),
        ('output_name: "S_OUT" ', "", "state 'S' has no output_name"),
        ('input_name: "S"', 'input_name: "Q"', "state 'Q' is not in the file"),
        ('output_name: "S_OUT"', 'output_name: "Q"', "the output 'Q' of state 'S' is not in the file"),
        ("state [ {", 'state [ { input_name: "S" output_name: "S_OUT" data_type: TYPE_FP32 dims: 2 }, {', "twice"),
        ('{ name: "START" c', "{ c", "control_input 0 has no name"),
        ('name: "END"', 'name: "START"', "control_input 'START' is declared twice"),
        (
            'name: "END"',
            'name: "S"',
            "control_input 'S' is declared twice, here and as another input, state or control",
        ),
        ('name: "INPUT"', 'name: "S"', "state 'S' is declared twice, here and as another input, state or control"),
        ("control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ]", "", "'END' has 0 controls; an input"),
        ('name: "END"', 'name: "NONE"', "control_input 'NONE' is not in the file"),
        ("bool_false_true: [ false, true ]", "", "control_input 'START' needs two values, for no and yes, in one of"),
        ("bool_false_true: [ false, true ]", "bool_false_true: [ true ]", "control_input 'START' needs two values"),
        ("bool_false_true: [ false, true ]", "int32_false_true: [ 0, 1 ]", "has int32_false_true, and is bool in the"),
        (
            "fp32_false_true: [ 0, 1 ]",
            "fp32_false_true: [ 0, inf ]",
            "control_input 'READY' has the values 0.0 and inf",
        ),
        ("int32_false_true: [ 0, 1 ]", "int32_false_true: [ 1, 1 ]", "control_input 'END' has the values 1 and 1"),
        ("data_type: TYPE_UINT64", "data_type: TYPE_STRING", "'CORRID' takes the id of a sequence as text"),
        ("data_type: TYPE_UINT64", "data_type: TYPE_INT32", "'CORRID' is TYPE_INT32 here and uint64 in the file"),
        ("sequence_batching {", "sequence_batching { iterative_sequence: true", "iterative_sequence runs one request"),
        ('name: "INPUT"', f'name: "{"X" * 5000}"', "config.pbtxt: input 'XXX"),
        ("max_batch_size: 8", "max_batch_size: eight", "line 2: Couldn't parse integer: eight"),
    ],
)
def test_what_does_not_fit_the_file_is_refused_by_name(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in ACCUMULATOR
    with pytest.raises(ModelRefused) as refusal:
        load(tmp_path, triton.accumulator(), ACCUMULATOR.replace(old, new, 1))
    assert refusal.value.reason.startswith("config.pbtxt: ") and reason in refusal.value.reason
    assert refusal.value.node == "config.pbtxt" and refusal.value.remedy
    assert len(refusal.value.reason) < 500


@pytest.mark.parametrize(
    ("old", "new", "files", "reason"),
    [
        ("", "", {"first": b"1234"}, "the file 'h.bin' has 4 bytes; state 'H' has 16"),
        ("", "", {"first": bytes(17)}, "the file 'h.bin' has more bytes; state 'H' has 16"),
        ("h.bin", "no.bin", {}, "the file 'initial_state/no.bin' cannot be read: No such file or directory"),
        ("h.bin", "../model.onnx", {}, "'../model.onnx' is not the name of a file in the model's folder"),
        ('data_file: "h.bin"', "", {}, "the initial_state of state 'H' has neither zero_data nor data_file"),
        ("initial_state {", "initial_state { } initial_state {", {}, "state 'H' begins with 2 values"),
        ("labels.txt", "/etc/passwd", {}, "'/etc/passwd' is not the name of a file"),
        ("", "", {"labels": b"up\ndown"}, "the file 'labels.txt' has 2 labels, and the output 'OUTPUT' 4 numbers"),
        ("", "", {"labels": b"\xff\xfe"}, "the labels in 'labels.txt' are no text in UTF-8"),
    ],
)
def test_a_file_beside_it_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, old: str, new: str, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(ModelRefused) as refusal:
        load(tmp_path, triton.cell(), CELL.replace(old, new, 1) if old else CELL, **(CELL_FILES | files))
    assert reason in refusal.value.reason and refusal.value.node == "config.pbtxt"


# model.json comes first


def test_model_json_comes_first_and_what_it_says_otherwise_is_told(tmp_path: Path) -> None:
    spec = {
        "inputs": {"START": {"role": "constant", "value": [[False]]}, "S": {"role": "state", "output": "OUTPUT"}},
        "outputs": ["S_OUT"],
        "decoder": {"kind": "labels", "labels": ["left", "right"]},
    }
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "labels.txt").write_text("up\ndown")
    text = ACCUMULATOR.replace('name: "OUTPUT" data', 'name: "OUTPUT" label_filename: "labels.txt" data')
    model = load(tmp_path, triton.accumulator(), text, spec)
    assert notes(model) == (
        "config.pbtxt: the role of the input 'S': \"state replaced by 'S_OUT'\" here and \"state replaced by "
        "'OUTPUT'\" in model.json, which is followed",
        "config.pbtxt: the role of the input 'START': 'start control' here and 'constant' in model.json, which is "
        "followed",
        "config.pbtxt: the outputs that answer: ('OUTPUT',) here and ('S_OUT',) in model.json, which is followed",
    )
    found = {one.name: (one.role, one.found.split(":")[0]) for one in model.network.inputs}
    assert found == {
        "INPUT": ("sequence", "config.pbtxt"),
        "S": ("state", "model.json"),
        "READY": ("control", "config.pbtxt"),
        "END": ("control", "config.pbtxt"),
        "CORRID": ("control", "config.pbtxt"),
    }
    assert model.network.states[0].output == "OUTPUT"


def test_controls_can_be_said_in_model_json_alone(tmp_path: Path) -> None:
    kinds = {"START": "start", "READY": "ready", "END": "end", "CORRID": "corrid"}
    spec = {"inputs": {name: {"role": "control", "control": kind} for name, kind in kinds.items()}}
    path = triton.save(tmp_path, "model", triton.accumulator(), None)
    (path.parent / "model.json").write_text(json.dumps(spec))
    model = load_model(path, "model", 1)
    data = np.array([[1, 2], [3, 4]], np.float32)
    assert run_alone(model, data, "steps").tobytes() == triton.Loop(triton.accumulator()).run(data).tobytes()
    for wrong, reason in (
        ({"role": "control"}, "says which control it is"),
        ({"role": "control", "control": "start", "false_true": [1, 1]}, "false_true are two values"),
    ):
        (path.parent / "model.json").write_text(json.dumps({"inputs": {"START": wrong}}))
        with pytest.raises(ModelRefused, match=reason):
            load_model(path, "model", 1)


def test_an_input_is_optional_only_if_the_file_has_its_value(tmp_path: Path) -> None:
    text = ACCUMULATOR.replace("dims: [ 2 ]", "dims: [ 2 ] optional: true", 1)
    model = load(tmp_path, triton.accumulator(), text)
    (note,) = notes(model)
    assert note.startswith("config.pbtxt: input 'INPUT' is optional, but the file has no value for it")


def test_an_end_that_no_answer_depends_on_is_left_out(tmp_path: Path) -> None:
    listed = ACCUMULATOR.replace('output [ { name: "OUTPUT"', 'output [ { name: "S_OUT"')
    model = load(tmp_path, triton.accumulator(), listed)
    assert model.network.end is None
    data = np.array([[1, 2], [3, 4]], np.float32)
    assert run_alone(model, data, "steps").tolist() == [[1, 2], [4, 6]]


def test_a_state_is_replaced_by_what_has_its_shape(tmp_path: Path) -> None:
    text = triton.config(triton.CHUNKS, controls={"START": "int32"}).replace(
        'output_name: "H_OUT"', 'output_name: "OUTPUT"'
    )
    with pytest.raises(ModelRefused, match=r"the output 'OUTPUT' has the shape .* in a run in which the state 'H' has"):
        load(tmp_path, triton.chunks(), text)


# What a control does over the steps of a run


def over_steps(name: str, operator: str) -> onnx.ModelProto:
    """`triton.chunks` with a control that reaches every step of the output."""
    proto = triton.chunks()
    proto.graph.node[-1].output[0] = "plain"
    nodes = [
        helper.make_node("Cast", [name], ["number"], to=1),
        helper.make_node("Unsqueeze", ["number", "one"], ["step"]),
        helper.make_node(operator, ["plain", "step"], ["OUTPUT"]),
    ]
    proto.graph.node.extend(nodes)
    if name != "START":
        proto.graph.input.append(triton.control(name, "int32"))
    return proto


@pytest.mark.parametrize(
    ("name", "operator", "cut"),
    [("READY", "Mul", True), ("CORRID", "Add", True), ("START", "Add", False), ("END", "Add", False)],
)
def test_a_sequence_is_cut_only_if_no_step_is_told_where_its_run_begins_or_ends(
    tmp_path: Path, name: str, operator: str, cut: bool
) -> None:
    proto = over_steps(name, operator)
    text = triton.config(triton.CHUNKS, controls={"START": "int32", name: "int32"})
    model = load(tmp_path, proto, text)
    assert (model.proof.chunked, model.proof.exact) == (cut, True)
    data = np.random.default_rng(0).standard_normal((300, triton.FEATURES)).astype(np.float32)
    assert run_alone(model, data, "steps").tobytes() == triton.Loop(proto).run(data, steps=len(data)).tobytes()


@pytest.mark.parametrize("form", ["Mul", "Where"])
def test_a_state_that_start_sets_anew_is_carried_and_one_that_it_changes_otherwise_is_not(
    tmp_path: Path, form: str
) -> None:
    """`h * (1 - START)` hands h on; `h * (2 - START)` doubles it in every run, so no sequence may be cut."""
    for one, streaming in ((1.0, True), (2.0, False)):
        proto = triton.chunks()
        names = [name for node in proto.graph.node if node.op_type == "Where" for name in node.output]
        if form == "Mul":
            kept = [node for node in proto.graph.node if node.op_type != "Where"]
            del proto.graph.node[:]
            cast = helper.make_node("Cast", ["anew"], ["number"], to=1)
            rest = helper.make_node("Sub", ["whole", "number"], ["factor"])
            gates = [helper.make_node("Mul", ["factor", f"{name[0]}0"], [name]) for name in names]
            at = next(i for i, node in enumerate(kept) if node.op_type == "LSTM")
            proto.graph.node.extend([*kept[:at], cast, rest, *gates, *kept[at:]])
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(one), "whole"))
        elif one == 2.0:
            for node in proto.graph.node:
                if node.op_type == "Where":  # the other way round: zeros but for the first run
                    node.input[1], node.input[2] = node.input[2], node.input[1]
        model = load(tmp_path, proto, triton.config(triton.CHUNKS, controls={"START": "int32"}))
        assert model.proof.streaming == streaming


# Versions, and the configuration as it is shown


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [12]),
        ("latest { }", [12]),
        ("latest { num_versions: 2 }", [7, 12]),
        ("all { }", [1, 7, 12]),
        ("specific { versions: [ 12, 1, 9 ] }", [1, 9, 12]),
    ],
)
def test_the_version_policy_is_triton_s(policy: str, served: list[int]) -> None:
    text = f"version_policy {{ {policy} }}" if policy else ""
    assert chosen_versions(parse_config(text.encode()).message, [7, 1, 12]) == served


def test_the_configuration_is_shown_as_it_was_read_or_as_the_server_found_it(tmp_path: Path) -> None:
    text = ACCUMULATOR + 'parameters { key: "a" value { string_value: "b" } } instance_group [ { } ]'
    model = load(tmp_path, triton.accumulator(), text)
    shown = as_json(config_of("model", model.network, model.triton, 4))
    assert shown["max_batch_size"] == 8 and shown["name"] == "model" and shown["parameters"]["a"]["string_value"] == "b"
    assert [one["name"] for one in shown["sequence_batching"]["control_input"]] == list(triton.ALL_CONTROLS)
    assert "instance_group" not in shown
    plain = as_json(config_of("model", model.network, None, 0))
    assert plain["backend"] == "onnxruntime" and "sequence_batching" not in plain
    assert [(one["name"], one["dims"], one["data_type"]) for one in plain["input"]] == [("INPUT", [-1, 2], "TYPE_FP32")]
    assert [(one["name"], one["dims"]) for one in plain["output"]] == [("OUTPUT", [-1, 2])]


def test_a_state_that_is_listed_as_an_output_is_an_answer_too(tmp_path: Path) -> None:
    listed = 'output [ { name: "S_OUT" data_type: TYPE_FP32 dims: [ 2 ] }, {'
    model = load(tmp_path, triton.accumulator(), ACCUMULATOR.replace("output [ {", listed, 1))
    assert model.network.output_names == ("S_OUT", "OUTPUT")
    assert [state.output for state in model.network.states][:1] == ["S_OUT"]
    data = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    assert run_alone(model, data, "steps").tolist() == [[1, 2], [4, 6], [9, 12]]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("first", [None, 0.25])
def test_a_step_that_is_a_vector_is_one_row(tmp_path: Path, width: int, first: float | None) -> None:
    """`max_batch_size: 0`, and no axis of the file could count rows."""
    node = helper.make_node
    nodes = [
        node("Cast", ["START"], ["begins"], to=1),
        node("Add", ["S", "INPUT"], ["S_OUT"]),
        node("Sub", ["S_OUT", "begins"], ["OUTPUT"]),
    ]
    inputs = [graphs.value("INPUT", [width]), graphs.value("S", [width]), graphs.value("START", [1], 6)]
    proto = graphs.model(nodes, inputs, [graphs.value("OUTPUT", [width]), graphs.value("S_OUT", [width])], [])
    text = triton.config(triton.ACCUMULATOR, controls={"START": "int32"}).replace("max_batch_size: 8", "")
    text = text.replace("dims: [ 2 ]", f"dims: [ {width} ]")
    files = {}
    if first is not None:
        initial = f'initial_state {{ data_type: TYPE_FP32 dims: {width} data_file: "h.bin" }}'
        text = text.replace(f"dims: [ {width} ] }} ]\n}}", f"dims: [ {width} ] {initial} }} ]\n}}")
        files["first"] = np.full(width, first, np.float32).tobytes()
    model = load(tmp_path, proto, text, **files)
    data = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
    state, expected = np.full(width, first or 0.0, np.float32), []
    for step, row in enumerate(data):
        state = state + row
        expected.append(state - np.float32(step == 0))
    assert run_alone(model, data, "steps").tobytes() == np.array(expected).tobytes()
    assert (model.network.max_rows, model.proof.streaming, model.proof.exact) == (1, True, True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('default_model_filename: "net.onnx"', ["tagger/3/net.onnx"]),
        ('default_model_filename: "net.onnx" version_policy { all { } }', ["tagger/1/net.onnx", "tagger/3/net.onnx"]),
        ("version_policy { specific { versions: [ 2, 9 ] } }", ["tagger/2/model.onnx", "tagger/9/model.onnx"]),
        # What cannot be read is for the load to refuse, so that versions that are served stay.
        ('default_model_filename: "../1/net.onnx"', ["tagger/2/model.onnx"]),
        ("version_policy { none", ["tagger/2/model.onnx"]),
    ],
)
def test_the_files_of_a_repository_are_those_that_it_names(tmp_path: Path, text: str, found: list[str]) -> None:
    for file in ("1/net.onnx", "2/model.onnx", "3/net.onnx"):
        (tmp_path / "tagger" / file).parent.mkdir(parents=True)
        (tmp_path / "tagger" / file).write_text("")
    (tmp_path / "tagger" / "config.pbtxt").write_text(text)
    entries, refusals = scan(tmp_path)
    assert [str(entry.path.relative_to(tmp_path)) for entry in entries] == found
    assert refusals == []
