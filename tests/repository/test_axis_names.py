"""What an axis is named takes part in its reading: where the graph takes it otherwise, the file is refused."""

import json
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import run_alone
from onnx import TensorProto, helper
from test_refusals import load, refusal
from test_roles import holds, rows
from truth import Given, Truth, served

from elman.repository.model_file import load_model

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN

ONE = graphs.constant("one", [1])


def layer(*dims: Any, batch_first: bool) -> onnx.ModelProto:
    """A GRU over (batch, time, features), or over (time, batch, features), whatever the axes are named."""
    turn = [1, 0, 2] if batch_first else [0, 1, 2]
    nodes = [
        helper.make_node("Transpose", ["input"], ["moved"], perm=turn),
        graphs.recurrent("GRU"),
        helper.make_node("Squeeze", ["y4", "one"], ["y3"]),
        helper.make_node("Transpose", ["y3"], ["output"], perm=turn),
    ]
    inputs = [graphs.value("input", [*dims, FEATURES])]
    return graphs.model(nodes, inputs, [graphs.value("output", None)], [*graphs.weights("GRU"), ONE])


def one_step(rows: Any) -> onnx.ModelProto:
    """`x[None]` in front of a layer that takes its steps first: each row is one step of a sequence of its own."""
    zero = graphs.constant("zero", [0])
    nodes = [
        helper.make_node("Unsqueeze", ["input", "zero"], ["moved"]),
        graphs.recurrent("LSTM"),
        helper.make_node("Squeeze", ["y4", "both"], ["output"]),
    ]
    tensors = [*graphs.weights("LSTM"), zero, graphs.constant("both", [0, 1])]
    inputs = [graphs.value("input", [rows, FEATURES])]
    return graphs.model(nodes, inputs, [graphs.value("output", None)], tensors)


@pytest.mark.parametrize("dims", [("batch", "time"), ("N", "L"), ("bsz", "seq_len"), (None, "steps"), ("B", None)])
def test_names_that_agree_are_honoured(tmp_path: Path, dims: tuple[Any, Any]) -> None:
    proto = layer(*dims, batch_first=True)
    model = load(proto, tmp_path / "batch")
    assert (model.network.layout, model.proof.exact) == ("batch_first", True)
    holds(model, proto, rows(9, 4, 1))
    assert load(layer(*dims[::-1], batch_first=False), tmp_path / "time").network.layout == "time_first"


@pytest.mark.parametrize(
    ("dims", "batch_first", "axis", "takes"),
    [
        (("time", "batch"), True, 1, "goes over it step by step"),
        (("batch", "time"), False, 0, "goes over it step by step"),
        (("seq", None), True, 0, "takes it for rows"),
        ((None, "n"), True, 1, "goes over it step by step"),
    ],
)
def test_a_name_that_the_graph_contradicts_is_refused_with_the_model_json_for_the_graph(
    tmp_path: Path, dims: tuple[Any, Any], batch_first: bool, axis: int, takes: str
) -> None:
    proto = layer(*dims, batch_first=batch_first)
    refused = refusal(proto, tmp_path)
    assert refused.reason == f"axis {axis} of 'input' is named {dims[axis]!r}, and the graph {takes}"
    assert refused.node == "input 'input'"
    batch, time = (0, 1) if batch_first else (1, 0)
    assert refused.template == {"input": {"name": "input", "batch_axis": batch, "time_axis": time}}
    (tmp_path / "model.json").write_text(json.dumps(refused.template))
    model = load_model(tmp_path / "model.onnx", "said", 1)
    (row,) = rows(9)
    data = row[None] if batch_first else row[:, None]
    expected = Truth(proto).answers({"input": data})["output"].reshape(9, HIDDEN)
    np.testing.assert_allclose(run_alone(model, row, "steps"), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["time", "seq_len", "T", "steps"])
def test_rows_that_are_named_as_steps_are_not_served_as_rows(tmp_path: Path, name: str) -> None:
    refused = refusal(one_step(name), tmp_path)
    assert refused.reason == f"axis 0 of 'input' is named {name!r}, and the graph takes it for rows"
    assert "export it again" in str(refused.remedy)
    assert refused.template == {"input": {"name": "input", "batch_axis": 0, "size": FEATURES}}
    (tmp_path / "model.json").write_text(json.dumps(refused.template))
    assert load_model(tmp_path / "model.onnx", "said", 1).network.layout == "step"


@pytest.mark.parametrize("name", ["batch", "N", "rows", None])
def test_rows_that_are_named_so_or_not_at_all_are_rows(tmp_path: Path, name: str | None) -> None:
    assert load(one_step(name), tmp_path).network.layout == "step"


def test_of_two_axes_that_are_named_as_time_the_graph_tells_which_it_is(tmp_path: Path) -> None:
    model = load(layer("samples", "time", batch_first=True), tmp_path / "first")
    assert model.network.layout == "batch_first"
    assert load(layer("samples", "time", batch_first=False), tmp_path / "second").network.layout == "time_first"


def test_an_id_a_row_is_no_sequence_where_the_rows_are_named_as_time(tmp_path: Path) -> None:
    """The names of both inputs are those of the other axis."""
    proto = layer("time", "batch", batch_first=True)
    proto.graph.input.append(graphs.value("who", ["time"], TensorProto.INT64))
    proto.graph.initializer.append(graphs.constant("table", np.ones((5, HIDDEN)), np.float32))
    proto.graph.node[-1].output[0] = "steps"
    proto.graph.node.extend(
        [
            helper.make_node("Gather", ["table", "who"], ["known"]),
            helper.make_node("Unsqueeze", ["known", "one"], ["wide"]),
            helper.make_node("Add", ["steps", "wide"], ["output"]),
        ]
    )
    assert "is named" in refusal(proto, tmp_path).reason


def test_a_static_input_beside_data_with_its_time_first(tmp_path: Path) -> None:
    """Nothing is named: the free axis of the static input counts rows, as its other one is fixed."""
    proto = layer(None, None, batch_first=False)
    proto.graph.input.append(graphs.value("level", [None, FEATURES]))
    proto.graph.node[0].input[0] = "raised"
    proto.graph.node.insert(0, helper.make_node("Add", ["input", "level"], ["raised"]))
    model = load(proto, tmp_path)
    assert [one.role for one in model.network.inputs] == ["sequence", "static"]
    assert (model.network.layout, model.proof.exact) == ("time_first", True)
    data, levels = rows(9, 4, 1), rows(1, 1, 1, seed=2)
    truth = Truth(proto)
    asked = [Given(row, {}, {"level": level[0]}) for row, level in zip(data, levels, strict=True)]
    for one, answer in zip(asked, served(model, asked, "steps", max_chunk=4), strict=True):
        (expected,) = truth.answers({"input": one.data[:, None], "level": one.statics["level"][None]}).values()
        assert answer is not None
        np.testing.assert_allclose(answer["output"], expected[:, 0], atol=1e-5)
