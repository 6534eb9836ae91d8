"""Files of one sequence without an axis of rows, (steps, features), as a module that was run on one writes them."""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from truth import Given, served

from elman.repository.model_file import load_model


def unbatched(cell: str, head: str, steps: Any, opset: int = 17) -> onnx.ModelProto:
    """The axis of rows is added before the cell and taken away after it."""
    rows, both = {"axes": [1]}, {"axes": [1, 2]}
    inputs: tuple[list[str], list[str]] = ["input"], ["y4"]
    tensors = graphs.weights(cell)
    if opset >= 13:
        tensors += [graphs.constant("rows", [1]), graphs.constant("both", [1, 2])]
        rows, both, inputs = {}, {}, (["input", "rows"], ["y4", "both"])
    nodes = [
        helper.make_node("Unsqueeze", inputs[0], ["moved"], **rows),
        graphs.recurrent(cell),
        helper.make_node("Squeeze", inputs[1], ["steps"], **both),
    ]
    nodes.append(
        {
            "steps": helper.make_node("Identity", ["steps"], ["output"]),
            "last": helper.make_node("Gather", ["steps", "end"], ["output"], axis=0),
            "mean": helper.make_node("ReduceMean", ["steps"], ["output"], axes=[0], keepdims=0),
        }[head]
    )
    tensors.append(graphs.constant("end", -1))
    given = [graphs.value("input", [steps, graphs.FEATURES])]
    return graphs.model(nodes, given, [graphs.value("output", None)], tensors, opset)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("steps", ["time", "n", 6])
@pytest.mark.parametrize("head", ["steps", "last", "mean"])
def test_they_are_served_one_sequence_a_run(tmp_path: Path, head: str, steps: Any, opset: int) -> None:
    cell = "LSTM" if head == "mean" else "GRU"
    path = graphs.save(unbatched(cell, head, steps, opset), tmp_path)
    model = load_model(path, "unbatched", 1)
    assert model.network.max_rows == 1
    assert model.network.inputs[0].shape == (graphs.FEATURES,)
    assert model.proof.streaming == (head != "mean")
    session, random = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]), np.random.default_rng(1)
    lengths = [6] * 3 if isinstance(steps, int) else [9, 1, 40]
    asked = [Given(random.standard_normal((length, graphs.FEATURES)).astype(np.float32)) for length in lengths]
    for one, answer in zip(asked, served(model, asked, "steps", max_chunk=4), strict=True):
        assert answer is not None
        (whole,) = session.run(None, {"input": one.data})
        found = answer["output"] if head == "steps" else answer["output"][-1]
        np.testing.assert_allclose(found, whole, atol=1e-6)


def test_rows_of_one_step_are_not_read_as_steps(tmp_path: Path) -> None:
    """(batch, features), where the axis of one step is added before the rows."""
    proto = unbatched("GRU", "steps", "n")
    proto.graph.initializer.append(graphs.constant("first", [0]))
    proto.graph.node[0].input[1] = "first"
    proto.graph.initializer.append(graphs.constant("outer", [0, 1]))
    proto.graph.node[2].input[1] = "outer"
    model = load_model(graphs.save(proto, tmp_path), "rows", 1)
    assert model.network.layout == "step"
    assert model.network.max_rows is None
