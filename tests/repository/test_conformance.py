"""The conformance cases of the onnx package: each served with its expected output, or refused with its reason."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
import pytest
from conftest import run_alone
from onnx.backend.test.case.node import gru, lstm, rnn

from elman.errors import ModelRefused
from elman.repository.graph import RECURRENT
from elman.repository.model_file import load_model
from tests.reference import Array

# The modules are imported for what they register.
assert gru and lstm and rnn
CASES = [case for case in node_cases._NodeTestCases if case.model.graph.node[0].op_type in RECURRENT]
BATCHWISE = [case for case in CASES if case.name.endswith("batchwise")]
SERVED = [case for case in CASES if case not in BATCHWISE]
# What the server finds out by itself; every other input of these graphs is a weight.
RUNNING = ("X", "sequence_lens", "initial_h", "initial_c")


def cases(chosen: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def feeds(case: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs and the expected outputs of a case, by name."""
    inputs, outputs = case.data_sets[0]
    graph = case.model.graph
    return (
        {value.name: np.asarray(array) for value, array in zip(graph.input, inputs, strict=True)},
        {value.name: np.asarray(array) for value, array in zip(graph.output, outputs, strict=True)},
    )


def write(case: Any, folder: Path, **spec: Any) -> Path:
    path = folder / "model.onnx"
    onnx.save(case.model, path)
    if spec:
        (folder / "model.json").write_text(json.dumps(spec))
    return path


def weights(case: Any) -> dict[str, Any]:
    inputs, _ = feeds(case)
    return {name: array.tolist() for name, array in inputs.items() if name not in RUNNING}


def test_there_are_eighteen() -> None:
    assert len(CASES) == 18


@cases(SERVED)
def test_it_answers_as_expected(case: Any, tmp_path: Path) -> None:
    inputs, outputs = feeds(case)
    # The weights are inputs of these graphs and the extents are the example's: model.json says which is which.
    data = {"name": "X", "batch_axis": 1, "time_axis": 0}
    path = write(case, tmp_path, input=data, constants=weights(case), outputs=["Y_h"])
    model = load_model(path, "case", 1)
    for row in range(inputs["X"].shape[1]):
        found = run_alone(model, inputs["X"][:, row], "final")
        np.testing.assert_allclose(found[-1], outputs["Y_h"][:, row].reshape(-1), rtol=1e-5, atol=1e-6)


@cases([case for case in SERVED if "Y" in feeds(case)[1]])
def test_its_steps_are_as_expected(case: Any, tmp_path: Path) -> None:
    inputs, outputs = feeds(case)
    data = {"name": "X", "batch_axis": 1, "time_axis": 0}
    path = write(case, tmp_path, input=data, constants=weights(case), outputs=["Y"])
    try:
        model = load_model(path, "case", 1)
    except ModelRefused as refused:
        # Y is (time, directions, batch, hidden).
        assert "batch and time axes" in refused.reason
        assert "'Y'" in str(refused.node)
        return
    for row in range(inputs["X"].shape[1]):
        found = run_alone(model, inputs["X"][:, row], "steps")
        np.testing.assert_allclose(found, outputs["Y"][:, :, row].reshape(len(found), -1), rtol=1e-5, atol=1e-6)


@cases(SERVED)
def test_without_a_model_json_it_is_refused_with_the_one_to_start_from(case: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as caught:
        load_model(write(case, tmp_path), "case", 1)
    assert caught.value.template is not None, str(caught.value)
    assert set(weights(case)) <= set(caught.value.template.get("constants", {}))


@cases(BATCHWISE)
def test_layout_1_is_refused(case: Any, tmp_path: Path) -> None:
    for spec in ({}, {"constants": weights(case)}):
        with pytest.raises(ModelRefused, match="layout=1") as caught:
            load_model(write(case, tmp_path, **spec), "case", 1)
        assert case.model.graph.node[0].op_type in str(caught.value.node)
        assert "layout=0" in str(caught.value.remedy)
