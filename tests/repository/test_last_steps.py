"""A last step that the graph picks is that of each row, also where rows of several lengths share a run."""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from onnx import helper
from test_carried import carries_on
from test_refusals import load
from test_roles import holds, rows

from elman.repository.model import Model

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN
RAGGED = (9, 1, 40, 4, 17)

# By operator set and by how the step is picked: the nodes from "steps", (batch, time, hidden), to "whole".
PICKS: dict[str, tuple[int, list[Any]]] = {
    "an index": (17, [("Gather", ["steps", "last"], {"axis": 1})]),
    "an index of one": (17, [("Gather", ["steps", "last1"], {"axis": 1})]),
    "a slice": (17, [("Slice", ["steps", "last1", "end", "at1"], {})]),
    "an index of the first axis": (17, [("Gather", ["y3", "last"], {"axis": 0})]),
    "an index, in an old operator set": (11, [("Gather", ["steps", "last1"], {"axis": 1})]),
}


def picking(pick: str, *, static: bool, steps: bool) -> onnx.ModelProto:
    """An LSTM with the answer "whole", made of its last step and of a `static` input, and maybe with its `steps`."""
    opset, made = PICKS[pick]
    axes: dict[str, Any] = {"axes": [1]} if opset < 13 else {}
    nodes = [
        helper.make_node("Transpose", ["input"], ["moved"], perm=[1, 0, 2]),
        graphs.recurrent("LSTM"),
        helper.make_node("Squeeze", ["y4"] if axes else ["y4", "at1"], ["y3"], **axes),
        helper.make_node("Transpose", ["y3"], ["steps"], perm=[1, 0, 2]),
        *(helper.make_node(operator, inputs, ["picked"], **more) for operator, inputs, more in made),
        helper.make_node("Reshape", ["picked", "flat"], ["row"]),
    ]
    inputs = [graphs.value("input", ["batch", "time", FEATURES])]
    if static:
        inputs.append(graphs.value("who", ["batch", HIDDEN]))
        nodes += [helper.make_node("Concat", ["row", "who"], ["both"], axis=1)]
    nodes += [helper.make_node("Tanh", ["both" if static else "row"], ["whole"])]
    tensors = [
        *graphs.weights("LSTM"),
        graphs.constant("last", -1),
        graphs.constant("last1", [-1]),
        graphs.constant("end", [2**31 - 1]),
        graphs.constant("at1", [1]),
        graphs.constant("flat", [-1, HIDDEN]),
    ]
    outputs = [graphs.value("whole", None), *([graphs.value("steps", None)] if steps else [])]
    return graphs.model(nodes, inputs, outputs, tensors, opset)


def is_ragged(model: Model) -> None:
    proof = model.proof
    assert (proof.batched, proof.chunked, proof.exact, proof.reason) == ("ragged", True, True, None), proof


@pytest.mark.parametrize("pick", PICKS)
def test_an_answer_a_step_and_an_answer_a_sequence(tmp_path: Path, pick: str) -> None:
    proto = picking(pick, static=False, steps=True)
    model = load(proto, tmp_path)
    is_ragged(model)
    holds(model, proto, rows(*RAGGED))


@pytest.mark.parametrize("pick", PICKS)
def test_an_answer_of_the_last_step_and_of_a_static_input(tmp_path: Path, pick: str) -> None:
    proto = picking(pick, static=True, steps=False)
    model = load(proto, tmp_path)
    is_ragged(model)
    data = rows(*RAGGED)
    holds(model, proto, data, who=[np.full(HIDDEN, len(row), np.float32) / 40 for row in data])


def test_it_carries_on(tmp_path: Path) -> None:
    model = load(picking("an index", static=False, steps=False), tmp_path)
    is_ragged(model)
    carries_on(model, rows(9, 4))
