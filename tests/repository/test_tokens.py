"""Token ids as graphs take them: through arithmetic of their own, and as floats."""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import run_alone
from onnx import NodeProto, TensorProto, helper
from truth import Array, Truth

from elman.repository.graph import Graph
from elman.repository.model_file import load_model
from elman.repository.tokens import take_ids_as_integers

TOKENS = 11


def embedding(before: list[NodeProto], kind: int = TensorProto.INT64, **constants: Any) -> onnx.ModelProto:
    """(batch, time) "input" to "output" (batch, time, hidden); `before` makes "ids", which index the table."""
    proto = graphs.tagger(
        before=(*before, helper.make_node("Gather", ["table", "ids"], ["given"])),
        tensors=(
            graphs.constant("table", np.random.default_rng(0).standard_normal((TOKENS, graphs.FEATURES)), np.float32),
            *(graphs.constant(name, value) for name, value in constants.items()),
        ),
    )
    del proto.graph.input[:]
    proto.graph.input.append(graphs.value("input", ["batch", "time"], kind))
    return proto


def from_the_end() -> list[NodeProto]:
    """What Keras makes of an id below 0: it counts from the end of the table."""
    return [
        helper.make_node("Less", ["input", "zero"], ["below"]),
        helper.make_node("Add", ["input", "tokens"], ["from_end"]),
        helper.make_node("Where", ["below", "from_end", "input"], ["ids"]),
    ]


def own_answer(proto: onnx.ModelProto, ids: list[int], dtype: Any = np.int64) -> Array:
    return Truth(proto).answers({"input": np.array([ids], dtype)})["output"][0]


def test_a_table_is_found_behind_arithmetic_that_leaves_its_ids_alone(tmp_path: Path) -> None:
    proto = embedding(from_the_end(), zero=0, tokens=TOKENS)
    model = load_model(graphs.save(proto, tmp_path), "model", 1)
    assert model.spec.input.vocabulary_size == TOKENS
    ids = [3, 0, TOKENS - 1]
    np.testing.assert_array_equal(run_alone(model, np.array(ids), "steps"), own_answer(proto, ids))


def test_a_table_behind_an_offset_says_nothing_of_the_ids(tmp_path: Path) -> None:
    proto = embedding([helper.make_node("Sub", ["input", "one"], ["ids"])])
    model = load_model(graphs.save(proto, tmp_path), "model", 1)
    assert model.tokens
    assert model.spec.input.vocabulary_size is None


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_ids_that_a_graph_takes_as_floats_are_tokens(kind: int, tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["input"], ["ids"], to=TensorProto.INT32)
    model = load_model(graphs.save(embedding([cast], kind), tmp_path), "model", 1)
    assert model.tokens
    assert model.spec.input.vocabulary_size == TOKENS
    ids = [3, 0, TOKENS - 1]
    expected = own_answer(embedding([cast], TensorProto.FLOAT), ids, np.float32)
    np.testing.assert_array_equal(run_alone(model, np.array(ids), "steps"), expected)


def test_floats_that_something_else_reads_too_stay_floats() -> None:
    cast = helper.make_node("Cast", ["input"], ["ids"], to=TensorProto.INT64)
    proto = embedding([cast, helper.make_node("Exp", ["input"], ["feature"])], TensorProto.FLOAT)
    graph = Graph(proto)
    take_ids_as_integers(graph)
    assert graph.dtype("input") == np.float32
