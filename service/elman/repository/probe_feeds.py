"""What the probes of a graph are given: something plausible for every input, of any number of rows and steps."""

from typing import Any

import numpy as np

from elman.errors import ModelRefused
from elman.repository.graph import attribute
from elman.repository.graph_io import GraphInput
from elman.repository.graph_rewrite import GraphRewrite
from elman.repository.network import Array
from elman.repository.pairing import batch_axis


def probe_feeds(rewrite: GraphRewrite, rows: int, length: int) -> dict[str, Array]:
    """Something plausible for every input, of so many rows and steps; states are zeros."""
    graph, roles = rewrite.graph, rewrite.roles
    dims = graph.dims(roles.data)
    shape = [rows] if rewrite.layout == "step" else [rows, length]
    if rewrite.layout == "time_first":
        shape.reverse()
    shape += [rewrite.spec.input.size or 1 if not isinstance(dim, int) else dim for dim in dims[len(shape) :]]
    feeds: dict[str, Array] = {roles.data: probe_data(shape, graph.dtype(roles.data))}
    for other in roles.others:
        feeds[other.name] = _probe_other(rewrite, other, rows, length)
    axes = {state.input: state.batch_axis for state in roles.states}
    for name in graph.inputs:
        if name not in feeds:
            axis = axes.get(name, state_axis(rewrite, name))
            feeds[name] = np.zeros(state_dims(rewrite, name, axis, rows), graph.dtype(name))
    return feeds


def _probe_other(rewrite: GraphRewrite, other: GraphInput, rows: int, length: int) -> Array:
    dtype = rewrite.graph.dtype(other.name)
    if other.role == "lengths":
        return np.full(rows, length, dtype)
    shape = [5 if not isinstance(dim, int) else dim for dim in rewrite.graph.dims(other.name)]
    if shape:
        shape[other.batch_axis] = rows
    if other.time_axis is not None:
        shape[other.time_axis] = length
    if other.role == "mask":
        return np.full(shape, 1 if other.valid is None else other.valid, dtype)
    return probe_data(shape, dtype)


def probe_data(shape: list[int], dtype: np.dtype[Any]) -> Array:
    """Plausible input of a shape: unit normal features, or token 0, which every vocabulary has."""
    if np.issubdtype(dtype, np.floating):
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype) if dtype == np.bool_ else np.zeros(shape, dtype)


def state_dims(rewrite: GraphRewrite, name: str, batch_axis: int, rows: int) -> list[int]:
    """The shape of a state of so many rows. Raises ModelRefused where the file does not say it."""
    graph = rewrite.graph
    dims = graph.dims(name)
    sizes = [attribute(node, "hidden_size") for node in graph.recurrent()]
    ways = [2 if attribute(node, "direction", "forward") == "bidirectional" else 1 for node in graph.recurrent()]
    shape = []
    for axis, dim in enumerate(dims):
        if axis == batch_axis:
            shape.append(rows)
        elif isinstance(dim, int):
            shape.append(dim)
        elif axis == len(dims) - 1 and len(set(sizes)) == 1:
            shape.append(sizes[0])
        elif axis == 0 and len(dims) == 3 and sizes:
            shape.append(sum(ways))
        else:
            raise ModelRefused(
                f"the extent of axis {axis} of the state {name!r} is not declared",
                node=f"input {name!r}",
                remedy="Export with only the batch axis of the state dynamic.",
            )
    return shape


def state_axis(rewrite: GraphRewrite, name: str) -> int:
    """The axis of an input that starts a recurrent node on which its rows lie."""
    return batch_axis(rewrite.graph, name)
