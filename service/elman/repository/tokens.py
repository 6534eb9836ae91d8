"""Token ids: which inputs of a graph index a table, how many rows that has, and ids that a graph takes as floats."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from elman.repository.graph import Graph, attribute
from elman.repository.runtime import GraphSession, RuntimeFailure

_MOVES = frozenset("Cast Identity Reshape Squeeze Transpose Unsqueeze".split())
# Keras makes an id below 0 count from the end of its table, with these.
_ELEMENTWISE = _MOVES | frozenset("Add And Greater GreaterOrEqual Less LessOrEqual Mul Not Or Sub Where".split())
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def find_vocabulary_size(graph: Graph, data: str) -> int | None:
    """The number of rows of the embedding that the tokens index, where one is found."""
    sizes = [table.rows for table in _tables(graph, data) if table.plain or _arrives(graph, data, table)]
    return min(sizes) if sizes else None


def take_ids_as_integers(graph: Graph) -> None:
    """Declare an input of floats as int64 where the graph makes integers of them at once, to index a table.

    `keras.Input` is float32 unless it is told otherwise. The steps of such an input are ids and no features.
    """
    for name in graph.inputs:
        readers = graph.consumers.get(name, [])
        if graph.dtype(name).kind == "f" and all(map(_makes_integers, readers)) and list(_tables(graph, name)):
            graph.inputs[name].type.tensor_type.elem_type = TensorProto.INT64


def _makes_integers(node: NodeProto) -> bool:
    return node.op_type == "Cast" and attribute(node, "to") in _INTEGERS


@dataclass(frozen=True)
class _Table:
    """A table, the tensor that indexes it, and whether that holds the ids as they were given."""

    index: str
    rows: int
    plain: bool


def _tables(graph: Graph, data: str) -> list[_Table]:
    """The tables that an input indexes."""
    plain = graph.forward([data], lambda node: node.op_type in _MOVES)
    tables = []
    for name in sorted(graph.forward([data], lambda node: node.op_type in _ELEMENTWISE)):
        for node in graph.consumers.get(name, []):
            if node.op_type == "Gather" and node.input[1] == name and attribute(node, "axis", 0) == 0:
                table = graph.constant(node.input[0])
                if table is not None and table.ndim == 2:
                    tables.append(_Table(name, table.shape[0], name in plain))
    return tables


def _arrives(graph: Graph, data: str, table: _Table) -> bool:
    """Whether each id of a table reaches it as the number that it is, by a run of what stands between."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    between = Graph(model)
    between.set_outputs([table.index], {table.index: np.dtype(np.int64)})
    between.outputs[table.index].ClearField("type")
    if set(between.inputs) != {data}:
        return False
    ids = np.arange(table.rows).reshape([1] * (len(graph.dims(data)) - 1) + [-1])
    between.set_input_dims(data, [""] * ids.ndim)
    try:
        (seen,) = GraphSession(model.SerializeToString()).run([table.index], {data: ids.astype(graph.dtype(data))})
    except RuntimeFailure:
        return False
    return np.array_equal(np.ravel(seen), np.ravel(ids))
