"""What only a run shows: what a mask says of a real step, and whether an output has as many steps as the data."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from elman.errors import ModelRefused
from elman.repository.extents import Extents
from elman.repository.graph import RECURRENT, all_graphs, attribute
from elman.repository.graph_axes import TIME
from elman.repository.graph_io import GraphInput
from elman.repository.graph_rewrite import GraphRewrite, axes_of
from elman.repository.graph_trace import node_label
from elman.repository.network import Array
from elman.repository.probe_feeds import probe_feeds
from elman.repository.runtime import RuntimeFailure

# Steps of the longest probe. A number in the graph that is larger might be a number of steps too.
_LONGEST = 2048


def find_polarity(rewrite: GraphRewrite) -> bool:
    """Find what each mask says of a real step, where the spec does not. Raises ModelRefused where it stays open.

    Returns whether one is 0 there, which is not what the probes were given.
    """
    before = rewrite.roles.others
    others = [_decided(rewrite, other) if other.role == "mask" else other for other in rewrite.roles.others]
    rewrite.roles = replace(rewrite.roles, others=tuple(others))
    return any(one.valid is None and other.valid == 0 for one, other in zip(before, others, strict=True))


def _decided(rewrite: GraphRewrite, mask: GraphInput) -> GraphInput:
    if mask.valid is not None:
        return mask
    found = _polarity(rewrite, mask)
    if found is None:
        raise ModelRefused(
            f"the input {mask.name!r} may be 1 for a real step and 0 for padding, or the other way round, or no mask",
            node=f"input {mask.name!r}",
            remedy="Say in model.json which it is: a mask with valid 1, a mask with valid 0, or a sequence that each "
            "request gives.",
            template={"inputs": {mask.name: {"role": "mask", "valid": 1}}},
        )
    return replace(mask, valid=found, found=f"{mask.found}; steps where it is {1 - found} are left out")


def _polarity(rewrite: GraphRewrite, mask: GraphInput) -> int | None:
    """1 or 0 where the steps that a mask leaves out are seen: what is made of them no longer moves with the data.

    A mask that a recurrent node reads may be a feature, such as which values are missing, and is not decided.
    """
    graph = rewrite.graph
    reached = graph.forward([mask.name])
    if any(node.op_type in RECURRENT | {"Loop", "Scan"} and set(node.input) & reached for node in graph.proto.node):
        return None
    session, feeds = rewrite.watching, probe_feeds(rewrite, *rewrite.extents()[0])
    pattern = np.zeros(feeds[mask.name].shape, feeds[mask.name].dtype)
    pattern[:, ::2] = 1
    names = [n for n in session.output_names if n in reached and rewrite.trace[n].reads and _moves_by_step(rewrite, n)]
    data = feeds[rewrite.roles.data]
    other = _other_data(rewrite, data)
    try:
        runs = [
            session.run(names, {**feeds, mask.name: pattern, rewrite.roles.data: values}) for values in (data, other)
        ]
    except RuntimeFailure:
        return None
    votes = {_vote(rewrite, name, one, two) for name, one, two in zip(names, *runs, strict=True)} - {None}
    return votes.pop() if len(votes) == 1 else None


def _moves_by_step(rewrite: GraphRewrite, name: str) -> bool:
    return axes_of(rewrite, name)[1] is not None and rewrite.trace[name].mixes is None


def _other_data(rewrite: GraphRewrite, data: Array) -> Array:
    if data.dtype.kind == "f":
        return (data[::-1] * 0.5 + 0.25).astype(data.dtype)
    return np.ones_like(data)


def _vote(rewrite: GraphRewrite, name: str, one: Array, two: Array) -> int | None:
    """Which value of the mask lets a tensor move with the data, where the other does not."""
    time = axes_of(rewrite, name)[1] or 0
    moved = np.moveaxis(one != two, time, 0)
    moved = moved.reshape(len(moved), -1).any(axis=1)
    marked, unmarked = moved[::2], moved[1::2]
    if marked.all() and not unmarked.any():
        return 1
    if unmarked.all() and not marked.any():
        return 0
    return None


def find_clocks(rewrite: GraphRewrite) -> None:
    """Note the outputs that have other steps than the data, by a run that is longer than every number in the graph.

    An output whose steps are seen to be the data's in the graph itself needs no run.
    """
    timed = {name: time for name in rewrite.roles.outputs if (time := axes_of(rewrite, name)[1]) is not None}
    mixed = {name for name in timed if rewrite.trace[name].mixes}
    if rewrite.window is None:
        extents = Extents(rewrite.graph, rewrite.shapes[0], {})
        own = extents.of(rewrite.roles.data, 0 if rewrite.layout == "time_first" else 1)
        timed = {name: time for name, time in timed.items() if name in mixed or extents.of(name, time) != own}
    if not timed or rewrite.layout == "step":
        return
    length = _past_every_number(rewrite.graph.model)
    seen: dict[str, Array] = {}
    if rewrite.window is None and length <= _LONGEST:
        try:
            feeds = probe_feeds(rewrite, rewrite.extents()[0][0], length)
            seen = dict(zip(timed, rewrite.watching.run(list(timed), feeds), strict=True))
        except RuntimeFailure:
            seen = {}
    for name, time in timed.items():
        follows = all(
            factor.kind == TIME and factor.extents == tuple(steps for _, steps in rewrite.extents())
            for factor in rewrite.trace[name].axes[time]
        )
        other = seen[name].shape[time] != length if name in seen else name in mixed and rewrite.window is None
        if not follows or other:
            rewrite.own_clocks.add(name)
            traced = rewrite.trace[name]
            rewrite.trace[name] = replace(traced, mixes=traced.mixes or node_label(rewrite.graph.producer[name]))


def _past_every_number(model: onnx.ModelProto) -> int:
    """One more than the largest whole number in a graph that is not there to mean the end."""
    most = 24
    for graph in all_graphs(model.graph):
        tensors = list(graph.initializer) + [
            value
            for node in graph.node
            if (value := attribute(node, "value")) is not None and node.op_type == "Constant"
        ]
        for tensor in tensors:
            if isinstance(tensor, onnx.TensorProto) and tensor.data_type in (6, 7) and np.prod(tensor.dims) <= 64:
                numbers = np.abs(numpy_helper.to_array(tensor).astype(np.float64)).reshape(-1)
                most = max(most, int(max((n for n in numbers if n < 2**31 - 1), default=0)))
        for node in graph.node:
            values = [attribute(node, name) or [] for name in ("value_ints", "starts", "ends", "pads", "kernel_shape")]
            single = attribute(node, "value_int")
            numbers_of = [abs(int(n)) for some in values for n in some] + ([] if single is None else [abs(single)])
            most = max(most, max((n for n in numbers_of if n < 2**31 - 1), default=0))
    return most + 1
