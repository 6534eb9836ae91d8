"""Inputs in the common layout: (batch, time, features), or (batch, time) of ids, whatever order the author chose."""

from math import prod

import numpy as np
from onnx import NodeProto, helper

from elman.errors import ModelRefused
from elman.repository.graph import Graph, all_graphs, all_nodes
from elman.repository.network import Layout


def add_axis(graph: Graph, name: str, at: int, batch: int) -> None:
    """Take an axis of extent 1 from the input `name`, with its rows on the axis `batch`, and give it to its readers."""
    dims = [_free(dim) for dim in graph.dims(name)]
    inner = f"{name}.arranged"
    _rename_reads(graph, name, inner)
    # A Reshape, since what adds an axis is written in another way before opset 13.
    whole = [-1 if axis == batch else dim if isinstance(dim, int) else 0 for axis, dim in enumerate(dims)]
    shape = graph.add_initializer(f"{name}.shape", np.array(whole, np.int64))
    graph.set_input_dims(name, dims[:at] + dims[at + 1 :])
    graph.insert_after(None, [helper.make_node("Reshape", [name, shape], [inner])])


def add_rows(graph: Graph) -> None:
    """Give every input and output of a graph an axis of rows, of extent 1, in front."""
    for name in graph.inputs:
        dims = [_free(dim) for dim in graph.dims(name)]
        _rename_reads(graph, name, f"{name}.row")
        graph.set_input_dims(name, [1, *dims])
        graph.insert_after(None, [graph.axis_node("Squeeze", name, f"{name}.row", 0)])
    for output in graph.proto.output:
        name = output.name
        for node in all_nodes(graph.proto):
            node.output[:] = [f"{name}.row" if made == name else made for made in node.output]
            node.input[:] = [f"{name}.row" if read == name else read for read in node.input]
        graph.proto.node.append(graph.axis_node("Unsqueeze", f"{name}.row", name, 0))
        dims = [_free(dim) for dim in graph.dims(name)]
        output.CopyFrom(helper.make_tensor_value_info(name, output.type.tensor_type.elem_type, [1, *dims]))
    graph.index()


def arrange_input(graph: Graph, name: str, batch: int, time: int | None, *, first: bool = True) -> Layout:
    """Give the graph its input `name` as (batch, time, ...), and put what turns it round before its readers.

    An input that has its time before its batch is left so, where `first` says that its layout is the caller's to mind.
    One that counts one number a step becomes (batch, time, 1); of more axes than three the features are one axis.
    Returns the layout that the graph then takes.

    Raises ModelRefused if the data is of several ids a step.
    """
    dims = graph.dims(name)
    ids = graph.dtype(name).kind != "f"
    if time is None:
        _join_features(graph, name, batch)
        return "step"
    usual = len(dims) == (2 if ids else 3)
    if usual and (batch, time) == (0, 1):
        return "batch_first"
    if usual and first and (batch, time) == (1, 0):
        return "time_first"
    rest = [axis for axis in range(len(dims)) if axis not in (batch, time)]
    sizes = [dim for dim in (dims[axis] for axis in rest) if isinstance(dim, int)]
    if len(sizes) < len(rest):
        sizes = sizes or [1]
    single = ids and first
    if single and prod(sizes) > 1:
        raise ModelRefused(
            f"a step of {name!r} is {prod(sizes)} whole numbers, and the server takes one",
            node=f"input {name!r}",
            remedy="Export it with an input of float32, which the network casts, or with an input for each number.",
        )
    inner = f"{name}.arranged"
    _rename_reads(graph, name, inner)
    nodes: list[NodeProto] = []
    source = name
    if not rest and not ids:
        nodes.append(graph.axis_node("Squeeze", source, f"{name}.steps", 2))
        source = f"{name}.steps"
    elif len(rest) > 1 or (rest and single):
        shape = graph.add_initializer(f"{name}.shape", np.array([0, 0, *sizes], np.int64))
        nodes.append(helper.make_node("Reshape", [source, shape], [f"{name}.steps"]))
        source = f"{name}.steps"
    order = [batch, time, *rest]
    perm = [order.index(axis) for axis in range(len(dims))]
    nodes.append(helper.make_node("Transpose", [source], [inner], perm=perm))
    features: list[int | str] = [] if single or (ids and not rest) else [prod(sizes) if rest else 1]
    graph.set_input_dims(name, [_free(dims[batch]), _free(dims[time]), *features])
    graph.insert_after(None, nodes)
    return "batch_first"


def _join_features(graph: Graph, name: str, batch: int) -> None:
    """Make the features of a step one axis, after its rows, where they are several."""
    dims = graph.dims(name)
    sizes = [dim for axis, dim in enumerate(dims) if axis != batch]
    if len(dims) < 3 or batch != 0 or not all(isinstance(size, int) for size in sizes):
        return
    inner = f"{name}.joined"
    _rename_reads(graph, name, inner)
    shape = graph.add_initializer(f"{inner}.shape", np.array([-1, *sizes], np.int64))
    graph.set_input_dims(name, [_free(dims[0]), prod(size for size in sizes if isinstance(size, int))])
    graph.insert_after(None, [helper.make_node("Reshape", [name, shape], [inner])])


def _free(dim: int | str | None) -> int | str:
    return "" if dim is None else dim


def _rename_reads(graph: Graph, name: str, to: str) -> None:
    for one in all_graphs(graph.proto):
        for node in one.node:
            node.input[:] = [to if read == name else read for read in node.input]
        for value in one.output:
            if one is not graph.proto and value.name == name:
                value.name = to
    graph.index()
