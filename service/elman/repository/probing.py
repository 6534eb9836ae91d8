"""Which axis is the batch and which is time, found by running the graph as it is at two extents."""

from typing import Any

import numpy as np
import onnx

from elman.errors import ModelRefused
from elman.repository.graph import QUANTISED, RECURRENT, Graph, all_nodes, attribute
from elman.repository.graph_analysis import find_look_ahead
from elman.repository.graph_rewrite import PROBES, GraphRewrite
from elman.repository.network import LENGTHS, SELECT, Array, Layout
from elman.repository.runtime import GraphSession, RuntimeFailure

_THAW = (
    "Export with a dynamic time axis: torch.onnx.export(..., dynamic_shapes=...), or elman.export, which also "
    "does it for nn.RNN."
)


def find_axes(rewrite: GraphRewrite) -> None:
    """Find which axis of the data is the batch and which is time, by running the graph at two extents."""
    graph, name = rewrite.graph, rewrite.roles.data
    dims = graph.dims(name)
    tokens = not np.issubdtype(graph.dtype(name), np.floating)
    rank = 1 if tokens else 2
    size = rewrite.spec.input.size
    if rank == 2 and dims and size is not None and dims[-1] not in (size, None) and isinstance(dims[-1], int):
        raise ModelRefused(
            f"the spec's input size is {size}, the graph's is {dims[-1]}",
            node=f"input {name!r}",
            remedy=f"Leave size out of model.json, or make it {dims[-1]}.",
        )
    if len(dims) == rank:
        rewrite.layout = "step"
        _probe(rewrite, dims)
        return
    if len(dims) != rank + 1:
        raise ModelRefused(
            f"the data input {name!r} has {len(dims)} axes",
            node=f"input {name!r}",
            remedy="Elman takes (batch, time, features), (batch, time) tokens, or (batch, features) without time.",
        )
    failures = []
    for layout in _layouts(rewrite, dims):
        for max_rows in (None, 1):
            rewrite.layout, rewrite.max_rows = layout, max_rows
            try:
                _probe(rewrite, dims)
            except ModelRefused as refusal:
                failures.append(refusal)
                continue
            if _time_follows(rewrite):
                _check_every_step_counts(rewrite, dims)
                return
    batch, time = (0, 1) if _layouts(rewrite, dims)[0] == "batch_first" else (1, 0)
    extent = dims[time]
    if isinstance(extent, int):
        raise _frozen(rewrite, extent, failures)
    if failures:
        raise failures[0]
    raise ModelRefused(
        f"no recurrent node reads the time axis of {name!r}",
        node=f"input {name!r}",
        remedy="Say which axes are which in model.json.",
        template={"input": {"name": name, "batch_axis": batch, "time_axis": time}},
    )


def _layouts(rewrite: GraphRewrite, dims: list[int | str | None]) -> list[Layout]:
    given = rewrite.spec.input
    if given.time_axis is not None or given.batch_axis is not None:
        time_first = given.time_axis == 0 or given.batch_axis == 1
        return ["time_first" if time_first else "batch_first"]
    return ["batch_first", "time_first"]


def _time_follows(rewrite: GraphRewrite) -> bool:
    """Whether every recurrent node, which reads (time, batch, input), went over as many steps as were given.

    A network unrolled to its example's length reads only so many steps of a longer input, without a word.
    """
    nodes = rewrite.graph.recurrent()
    times = tuple(length for _, length in PROBES)
    if nodes:
        return all(tuple(shapes[node.input[0]][0] for shapes in rewrite.shapes) == times for node in nodes)
    dim = rewrite.graph.dims(rewrite.roles.data)[0 if rewrite.layout == "time_first" else 1]
    return not isinstance(dim, int)


def _check_every_step_counts(rewrite: GraphRewrite, dims: list[int | str | None]) -> None:
    """Refuse a graph without recurrent nodes that was unrolled: it fails on few steps, or reads only the first.

    Raises ModelRefused.
    """
    if any(node.op_type in RECURRENT | QUANTISED for node in all_nodes(rewrite.graph.proto)):
        return
    session = _open(_probe_model(rewrite))
    rows, length = rewrite.max_rows or 2, PROBES[1][1]
    name = rewrite.roles.outputs[0]
    feeds = _probe_feeds(rewrite, rows, length, dims)
    try:
        (whole,) = session.run([name], feeds)
        for steps in (1, 2):
            session.run([name], _probe_feeds(rewrite, rows, steps, dims))
        data = feeds[rewrite.roles.data].copy()
        last = data[-1:] if rewrite.layout == "time_first" else data[:, -1:]
        last += np.ones((), data.dtype)
        (moved,) = session.run([name], {**feeds, rewrite.roles.data: data})
    except RuntimeFailure as failure:
        raise _unrolled(rewrite, failure.node) from None
    if np.array_equal(whole, moved):
        raise _unrolled(rewrite, None)


def _unrolled(rewrite: GraphRewrite, node: str | None) -> ModelRefused:
    return ModelRefused(
        f"the time axis of {rewrite.roles.data!r} is frozen: the network is unrolled to its example's length",
        node=node or f"input {rewrite.roles.data!r}",
        remedy=_THAW,
    )


def _probe(rewrite: GraphRewrite, dims: list[int | str | None]) -> None:
    """Run the graph as it is at two extents and keep the shape of every tensor on the way."""
    rewrite.shapes, rewrite.values = [], []
    session = _open(_probe_model(rewrite))
    for batch, length in PROBES:
        try:
            rows = rewrite.max_rows or batch
            feeds = _probe_feeds(rewrite, rows, length, dims)
            values = session.run(session.output_names, feeds)
        except RuntimeFailure as failure:
            raise _probe_failed(rewrite, failure, batch, length) from None
        named = {**feeds, **dict(zip(session.output_names, values, strict=True))}
        rewrite.values.append(named)
        rewrite.shapes.append({key: np.shape(value) for key, value in named.items()})


def _probe_model(rewrite: GraphRewrite) -> onnx.ModelProto:
    """The graph as it is, with free axes, and every tensor on the way an output."""
    model = onnx.ModelProto()
    model.CopyFrom(rewrite.graph.model)
    _watch_all(model, rewrite.graph)
    free_dims(model, rewrite)
    return model


def free_dims(model: onnx.ModelProto, rewrite: GraphRewrite) -> None:
    """Declare batch and time dynamic: an exporter may write the example's extents where the graph takes any."""
    graph = Graph(model)
    fixed: int | str = rewrite.max_rows or "batch"
    axes = {state.input: state.batch_axis for state in rewrite.roles.states}
    for name in graph.inputs:
        dims: list[int | str] = [dim if dim is not None else "" for dim in graph.dims(name)]
        if name == rewrite.roles.data:
            batch_axis = 1 if rewrite.layout == "time_first" else 0
            dims[batch_axis] = fixed
            if rewrite.layout != "step":
                dims[1 - batch_axis] = "time"
        elif name == rewrite.roles.lengths:
            dims = [fixed] * len(dims)
        elif name not in (LENGTHS, SELECT) and dims:
            dims[axes.get(name, 1 if len(dims) > 2 else 0)] = fixed
        graph.set_input_dims(name, dims)


def _watch_all(model: onnx.ModelProto, graph: Graph) -> None:
    """Make every tensor that depends on an input an output, so that one run shows them all."""
    varying = graph.forward(graph.inputs)
    known = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name in varying and name not in known:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
                known.add(name)
    for value in model.graph.output:
        if value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def _open(model: onnx.ModelProto) -> GraphSession:
    try:
        return GraphSession(model.SerializeToString())
    except RuntimeFailure as failure:
        remedy = "Export it with operators, and an opset, that this release of ONNX Runtime knows."
        raise ModelRefused(f"ONNX Runtime does not open it: {failure}", node=failure.node, remedy=remedy) from None


def _probe_feeds(rewrite: GraphRewrite, rows: int, length: int, dims: list[int | str | None]) -> dict[str, Array]:
    graph, roles = rewrite.graph, rewrite.roles
    shape = [rows, length]
    if rewrite.layout == "time_first":
        shape.reverse()
    if rewrite.layout == "step":
        shape = [rows]
    shape += [rewrite.spec.input.size or 1 if not isinstance(dim, int) else dim for dim in dims[len(shape) :]]
    feeds: dict[str, Array] = {roles.data: probe_data(shape, graph.dtype(roles.data))}
    axes = {state.input: state.batch_axis for state in roles.states}
    for name in graph.inputs:
        if name == roles.lengths:
            feeds[name] = np.full(rows, length, graph.dtype(name))
        elif name != roles.data:
            axis = axes.get(name, 1 if len(graph.dims(name)) > 2 else 0)
            feeds[name] = np.zeros(state_dims(rewrite, name, axis, rows), graph.dtype(name))
    return feeds


def probe_data(shape: list[int], dtype: np.dtype[Any]) -> Array:
    """Plausible input of a shape: unit normal features, or token 0, which every vocabulary has."""
    if np.issubdtype(dtype, np.floating):
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def state_dims(rewrite: GraphRewrite, name: str, batch_axis: int, rows: int) -> list[int]:
    graph = rewrite.graph
    dims = graph.dims(name)
    sizes = [attribute(node, "hidden_size") for node in graph.recurrent()]
    shape = []
    for axis, dim in enumerate(dims):
        if axis == batch_axis:
            shape.append(rows)
        elif isinstance(dim, int):
            shape.append(dim)
        elif axis == len(dims) - 1 and len(set(sizes)) == 1:
            shape.append(sizes[0])
        elif axis == 0 and len(dims) == 3 and sizes:
            shape.append(len(sizes) * (2 if find_look_ahead(graph) else 1))
        else:
            raise ModelRefused(
                f"the extent of axis {axis} of the state {name!r} is not declared",
                node=f"input {name!r}",
                remedy="Export with only the batch axis of the state dynamic.",
            )
    return shape


def _frozen(rewrite: GraphRewrite, time: int, failures: list[ModelRefused]) -> ModelRefused:
    first = failures[0] if failures else None
    return ModelRefused(
        f"the time axis of {rewrite.roles.data!r} is frozen at {time} steps" + (f": {first.reason}" if first else ""),
        node=(first and first.node) or f"input {rewrite.roles.data!r}",
        remedy=_THAW,
    )


def _probe_failed(rewrite: GraphRewrite, failure: RuntimeFailure, batch: int, length: int) -> ModelRefused:
    return ModelRefused(
        f"the graph does not run on {batch} sequences of {length} steps: {failure}",
        node=failure.node,
        remedy="Its batch or time axis was probably frozen at the example's when it was exported; "
        "export with both dynamic, or with elman.export.",
    )
