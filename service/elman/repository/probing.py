"""Which axis of the data counts rows and which steps, found by running the graph and following its axes."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto

from elman.errors import ModelRefused
from elman.repository.arranging import add_axis, arrange_input
from elman.repository.cells import NoCell, write_as_cell
from elman.repository.controls import ADDED, stays
from elman.repository.declared_axes import check_size, check_two_axes
from elman.repository.experiments import find_clocks, find_polarity
from elman.repository.graph import Graph
from elman.repository.graph_axes import BATCH, TIME, Factor, Kind, Traced, plain_axis
from elman.repository.graph_io import GraphInput, Roles, read_others
from elman.repository.graph_rewrite import (
    LONGER_PROBES,
    PROBES,
    GraphRewrite,
    Probes,
    axes_of,
    recurrent_inside,
)
from elman.repository.graph_rules import RULES
from elman.repository.graph_trace import Tracer
from elman.repository.loop_body import NoScan
from elman.repository.loops import write_as_scan
from elman.repository.naming import names_batch
from elman.repository.network import END, LENGTHS, SELECT, Array
from elman.repository.origin import how_to_free
from elman.repository.output_roles import find_output_roles
from elman.repository.probe_feeds import probe_feeds, state_axis
from elman.repository.readings import Reading, Readings, contradicted_axis
from elman.repository.runtime import GraphSession, RuntimeFailure
from elman.repository.spec import ModelSpec
from elman.repository.specialise import inline_branches

_NOT_RUN = "the graph does not run"
# Lengths that are tried for a last step that counts: of so many in a row a network of strides reads one to its end.
_STRIDES = 16

Tried = tuple[Reading, GraphRewrite]
"""A reading of the axes, and the graph as it ran in it."""


def find_axes(graph: Graph, spec: ModelSpec, roles: Roles) -> GraphRewrite:
    """Read the axes of the data in the one way in which the graph runs and its recurrent nodes go over the steps.

    Raises ModelRefused where there is none, or more than one.
    """
    check_size(graph, spec, roles.data)
    try:
        return _find_axes(graph, spec, roles, PROBES)
    except ModelRefused as refused:
        for longer in LONGER_PROBES if _NOT_RUN in refused.reason else ():
            with suppress(ModelRefused, MemoryError):
                return _find_axes(graph, spec, roles, longer)
        raise


def _find_axes(graph: Graph, spec: ModelSpec, roles: Roles, probes: Probes) -> GraphRewrite:
    readings = Readings.of(graph.dims(roles.data), graph.dtype(roles.data), spec.input, carries=bool(roles.states))
    shown, unseen, failures = _try(graph, spec, roles, readings.agreeing, probes)
    if shown is not None:
        return _settled(shown[1])
    _check_names(graph, spec, roles, readings, probes, certain=bool(unseen))
    return _only(graph, spec, roles, unseen, failures)


def _try(
    graph: Graph, spec: ModelSpec, roles: Roles, axes: Iterable[tuple[Reading, ...]], probes: Probes
) -> tuple[Tried | None, list[Tried], list[tuple[Reading, ModelRefused]]]:
    """Run the graph in each reading of some axes, until one is shown to be right.

    Returns that one, those in which nothing goes over the steps, and those that fail.
    """
    dims = graph.dims(roles.data)
    failures: list[tuple[Reading, ModelRefused]] = []
    unseen: list[Tried] = []
    for variants in axes:
        for variant in variants:
            try:
                rewrite = _read(graph, spec, roles, variant, probes)
            except ModelRefused as refusal:
                failures.append((variant, refusal))
                continue
            if BATCH in rewrite.scanned and TIME in rewrite.scanned:
                continue  # rows follow each other as steps do, as in a graph that is made for one row
            if BATCH in rewrite.scanned:
                break  # what is taken for rows is gone over step by step
            if "" in rewrite.scanned and TIME not in rewrite.scanned and not roles.states:
                failures.append((variant, _scans_features(roles, variant, rewrite.scanned[""])))
                continue
            if variant.window is None and not variant.stepping and isinstance(dims[variant.time or 0], int):
                if any(rewrite.trace[name].mixes for name in roles.outputs):
                    continue  # declared for so many steps, and it reckons with them
            if not _gives_rows(rewrite):
                continue  # an output has no axis of rows, so it is run one row at a time
            if TIME in rewrite.scanned or variant.stepping:
                return (variant, rewrite), unseen, failures
            if variant.rows and variant.window is None and dims[variant.batch] != 1 and graph.recurrent():
                break  # what is one row here is what a recurrent node goes over
            unseen.append((variant, rewrite))
            break
    return None, unseen, failures


def _check_names(
    graph: Graph, spec: ModelSpec, roles: Roles, readings: Readings, probes: Probes, *, certain: bool
) -> None:
    """Raise ModelRefused if the graph is seen to take the axes in another way than their names say.

    `certain` asks for more than that it runs on single steps, as there are other readings.
    """
    shown, _, _ = _try(graph, spec, roles, readings.opposed, probes)
    if (
        shown is None
        or (certain and TIME not in shown[1].scanned)
        or not any(recurrent_inside(node) for node in shown[1].graph.proto.node)
    ):
        return
    name, dims = roles.data, graph.dims(roles.data)
    batch, time = shown[0].batch, shown[0].time
    axis = contradicted_axis((batch, time), dims, spec.input)
    takes = {batch: "takes it for rows", time: "goes over it step by step"}.get(axis, f"takes axis {batch} for rows")
    told = {"batch_axis": batch, "time_axis": time, "size": dims[-1] if time is None and len(dims) > 1 else None}
    raise ModelRefused(
        f"axis {axis} of {name!r} is named {dims[axis or 0]!r}, and the graph {takes}",
        node=f"input {name!r}",
        remedy="If the graph is right, say in model.json which axes are which. If the name is right, the network reads "
        "the wrong axis, as a torch layer does with the wrong batch_first: export it again.",
        template={"input": {"name": name, **{key: value for key, value in told.items() if isinstance(value, int)}}},
    )


def _scans_features(roles: Roles, reading: Reading, node: str) -> ModelRefused:
    return ModelRefused(
        f"with rows on axis {reading.batch} of {roles.data!r} and steps on axis {reading.time}, the {node} goes over "
        "an axis that is neither",
        node=f"input {roles.data!r}",
        remedy="Say which axes are which in model.json.",
        template={"input": {"name": roles.data, "batch_axis": 0, "time_axis": 1}},
    )


def _settled(rewrite: GraphRewrite) -> GraphRewrite:
    """What the axes do not tell, told by runs. Raises ModelRefused."""
    if find_polarity(rewrite):
        _probe(rewrite)
        trace(rewrite)
    find_output_roles(rewrite)
    find_clocks(rewrite)
    return rewrite


def _gives_rows(rewrite: GraphRewrite) -> bool:
    """Whether every output that answers has an axis for its rows, or there is but one row."""
    return rewrite.max_rows is not None or all(axes_of(rewrite, n)[0] is not None for n in rewrite.roles.outputs)


def _read(graph: Graph, spec: ModelSpec, roles: Roles, reading: Reading, probes: Probes) -> GraphRewrite:
    """Run a copy of the graph, with its inputs in the common layout, and follow its axes. Raises ModelRefused."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph.model)
    own = Graph(copy)
    if reading.single and reading.time is not None:
        reading = _without_time(own, roles, reading, reading.time)
    roles = read_others(own, spec, roles, reading.batch, reading.time)
    rewrite = GraphRewrite(own, spec, roles, max_rows=reading.rows, window=reading.window, probes=probes)
    rewrite.layout = arrange_input(own, roles.data, reading.batch, reading.time)
    arranged = []
    for other in roles.others:
        if other.role == "sequence" and reading.time is not None:
            arrange_input(own, other.name, other.batch_axis, other.time_axis, first=False)
            other = replace(other, batch_axis=0, time_axis=1)
        arranged.append(other)
    rewrite.roles = replace(roles, others=tuple(arranged))
    _probe(rewrite)
    _untie(rewrite)
    _simplify_loops(rewrite)
    tracer = trace(rewrite)
    while inline_branches(own, tracer.constant):
        _probe(rewrite)
        _simplify_loops(rewrite)
        tracer = trace(rewrite)
    return rewrite


def _without_time(graph: Graph, roles: Roles, reading: Reading, time: int) -> Reading:
    """Take the axis of a single step from the inputs that have one, as the server gives one step a run without it."""
    rank, taken = len(graph.dims(roles.data)), {*roles.idle, *(state.input for state in roles.states)}
    for name in list(graph.inputs):
        dims = graph.dims(name)
        if name not in taken and graph.consumers.get(name) and len(dims) == rank and dims[time] == 1:
            add_axis(graph, name, time, reading.batch)
    return replace(reading, batch=reading.batch - (time < reading.batch), time=None)


def _simplify_loops(rewrite: GraphRewrite) -> None:
    """Write each Loop as a Scan, and each Scan as the cell, that it is shown to be and answers as."""
    _rewrite_each(rewrite, "Loop", write_as_scan)
    _rewrite_each(rewrite, "Scan", write_as_cell)


def _rewrite_each(rewrite: GraphRewrite, operator: str, write: Callable[[GraphRewrite, NodeProto], None]) -> None:
    graph = rewrite.graph
    for outputs in [list(node.output) for node in graph.proto.node if node.op_type == operator]:
        node = next(node for node in graph.proto.node if list(node.output) == outputs)
        before, seen = onnx.GraphProto(), rewrite.values
        before.CopyFrom(graph.proto)
        try:
            write(rewrite, node)
            _probe(rewrite)
        except (NoScan, NoCell):
            continue
        except ModelRefused:
            rewrite.values = []
        if not _answer_alike(rewrite, seen):
            graph.proto.CopyFrom(before)
            graph.index()
            _probe(rewrite)


def _answer_alike(rewrite: GraphRewrite, before: list[dict[str, Array]]) -> bool:
    """Whether a graph that was changed gives what it gave, up to rounding."""
    return len(rewrite.values) == len(before) and all(
        np.allclose(now[name], then[name], rtol=1e-4, atol=1e-5, equal_nan=True)
        for now, then in zip(rewrite.values, before, strict=True)
        for name in rewrite.graph.outputs
        if name in then
    )


def trace(rewrite: GraphRewrite) -> Tracer:
    """Follow the axes of every tensor from the inputs."""
    clock: dict[Kind, tuple[int, ...]] = {}
    batch, time = (tuple(values) for values in zip(*rewrite.extents(), strict=True))
    if rewrite.max_rows is None:
        clock[BATCH] = batch
    if rewrite.layout != "step" and rewrite.window is None:
        clock[TIME] = time
    tracer = Tracer(rewrite.graph, _seeds(rewrite, batch, time), rewrite.shapes, clock, rewrite.values)
    rewrite.trace = tracer.trace(RULES)
    rewrite.scanned = tracer.scanned
    return tracer


def _seeds(rewrite: GraphRewrite, batch: tuple[int, ...], time: tuple[int, ...]) -> dict[str, Traced]:
    """What is known of the inputs."""
    roles, seeds = rewrite.roles, dict[str, Traced]()
    axes: dict[str, dict[int, Factor]] = {}
    rows = {} if rewrite.max_rows else {0: Factor(BATCH, batch)}
    steps = Factor(TIME, time)
    axes[roles.data] = rows if rewrite.layout == "step" else {**rows, 1: steps}
    if rewrite.layout == "time_first":
        axes[roles.data] = {1 - axis: factor for axis, factor in axes[roles.data].items()}
    for other in roles.others:
        axes[other.name] = {other.batch_axis: rows[0]} if rows else {}
        if other.time_axis is not None and rewrite.layout != "step":
            axes[other.name][other.time_axis] = steps
    carried = {state.input: state.batch_axis for state in roles.states}
    controls = {state.input for state in roles.states if state.output.startswith(ADDED)}
    carried |= {name: state_axis(rewrite, name) for name in roles.idle}
    for name, axis in carried.items():
        axes[name] = {axis: rows[0]} if rows else {}
    for name in rewrite.graph.inputs:
        shapes = [shapes[name] for shapes in rewrite.shapes]
        known = axes.get(name, {})
        of = tuple(
            (known[at],) if at in known and known[at].extents == extents else plain_axis(extents)
            for at, extents in enumerate(zip(*shapes, strict=True))
        )
        edge = (name in carried and not stays(rewrite.graph, name)) or name in (roles.lengths, END)
        moved = {name} if name in carried and name not in controls else {"lengths"} if name == roles.lengths else set()
        seeds[name] = Traced(of, reads=True, edge=edge, carried=frozenset(moved))
    return seeds


def _untie(rewrite: GraphRewrite) -> None:
    """Take inputs for blocks of a sequence where the graph runs with more steps of them than of the data."""
    loose = [one for one in rewrite.roles.others if one.role in ("sequence", "mask") and not one.tied]
    if not loose or rewrite.layout == "step":
        return
    names = {one.name: _steps_name(rewrite.graph, one) for one in loose}
    changed = {one.name: replace(one, found="it must have as many steps as the data") for one in loose}
    for name in dict.fromkeys(names.values()):
        together = [one for one in loose if names[one.name] == name]
        if _runs_longer(rewrite, together):
            found = "it may have another number of steps"
            changed |= {one.name: replace(one, role="static", time_axis=None, found=found) for one in together}
        elif all(one.role == "mask" for one in together):
            changed |= {one.name: one for one in together}
    rewrite.roles = replace(rewrite.roles, others=tuple(changed.get(one.name, one) for one in rewrite.roles.others))


def _steps_name(graph: Graph, other: GraphInput) -> str:
    """What an input calls its steps, which others may call so too; its own name where it says nothing."""
    dim = graph.dims(other.name)[other.time_axis or 0]
    return dim if isinstance(dim, str) else f"the steps of {other.name}"


def _runs_longer(rewrite: GraphRewrite, others: list[GraphInput]) -> bool:
    """Whether the graph runs with more steps of some inputs than of the data."""
    feeds = probe_feeds(rewrite, *rewrite.extents()[0])
    for other in others:
        value, axis = feeds[other.name], other.time_axis or 0
        feeds[other.name] = np.concatenate([value, value.take([0, 0], axis)], axis)
    try:
        rewrite.watching.run(rewrite.roles.outputs, feeds)
    except RuntimeFailure:
        return False
    return True


def _only(
    graph: Graph,
    spec: ModelSpec,
    roles: Roles,
    unseen: list[tuple[Reading, GraphRewrite]],
    failures: list[tuple[Reading, ModelRefused]],
) -> GraphRewrite:
    """The one reading in which nothing is seen to go over the steps, if there is just one that the file declares.

    Raises ModelRefused.
    """
    dims, name = graph.dims(roles.data), roles.data
    for _, rewrite in unseen:
        _check_every_step_counts(rewrite)
    # A file that takes one number of steps gets what it declares, whichever of its axes they are called.
    batches = {None if reading.rows else reading.batch for reading, _ in unseen}
    fixed = all(reading.window for reading, _ in unseen) and len(batches) == 1
    named = any(names_batch(dim) for dim in dims) or spec.input.time_axis is not None
    if unseen and (len(unseen) == 1 or fixed or named):
        return _settled(unseen[0][1])
    if unseen:
        raise ModelRefused(
            f"no recurrent node shows which axis of {name!r} is time",
            node=f"input {name!r}",
            remedy="Say which axes are which in model.json.",
            template={"input": {"name": name, "batch_axis": 0, "time_axis": 1}},
        )
    if not failures:
        raise ModelRefused(
            f"the data input {name!r} has the axes {dims}, which cannot be rows, steps and features",
            node=f"input {name!r}",
            remedy="Elman takes (batch, time, features) in any order, (batch, time), or one step (batch, features).",
        )
    check_two_axes(graph, spec, roles)
    reading, first = failures[0]
    time = None if reading.time is None else dims[reading.time]
    if reading.time is not None and not isinstance(time, int) and first.reason.startswith(_NOT_RUN):
        raise ModelRefused(
            f"the time axis of {name!r} is probably frozen: {first.reason}",
            node=first.node or f"input {name!r}",
            remedy=how_to_free(graph.model, declared=True),
        ) from first
    raise first


def _check_every_step_counts(rewrite: GraphRewrite) -> None:
    """Refuse a graph that was unrolled to its example's length: it fails on few steps, or reads only the first.

    Raises ModelRefused.
    """
    if rewrite.window is not None or rewrite.layout == "step":
        return
    session = rewrite.session or _open(_probe_model(rewrite))
    rows, length = rewrite.extents()[1]
    name = rewrite.roles.outputs[0]
    try:
        for steps in (1, 2):
            session.run([name], probe_feeds(rewrite, rows, steps))
        counts = any(_last_step_counts(rewrite, session, rows, length + more) for more in range(_STRIDES))
    except RuntimeFailure as failure:
        raise ModelRefused(
            f"the time axis of {rewrite.roles.data!r} is frozen: the network is unrolled to its example's length",
            node=failure.node or f"input {rewrite.roles.data!r}",
            remedy=how_to_free(rewrite.graph.model),
        ) from None
    if not counts:
        raise ModelRefused(
            f"the last steps of {rewrite.roles.data!r} change no answer: the network is unrolled to its example's "
            "length, or stops before the end",
            node=f"input {rewrite.roles.data!r}",
            remedy=f"{how_to_free(rewrite.graph.model)} A network that stops by a condition of its own is not served.",
        )


def _last_step_counts(rewrite: GraphRewrite, session: GraphSession, rows: int, length: int) -> bool:
    """Whether the last step of so many changes the first output. Raises RuntimeFailure."""
    name, feeds = rewrite.roles.outputs[0], probe_feeds(rewrite, rows, length)
    (whole,) = session.run([name], feeds)
    data = feeds[rewrite.roles.data].copy()
    last = data[-1:] if rewrite.layout == "time_first" else data[:, -1:]
    last += np.ones((), data.dtype)
    (moved,) = session.run([name], {**feeds, rewrite.roles.data: data})
    return not np.array_equal(whole, moved)


def _probe(rewrite: GraphRewrite) -> None:
    """Run the graph as it is at two extents and keep the shape of every tensor on the way."""
    rewrite.shapes, rewrite.values = [], []
    rewrite.session = session = _open(_probe_model(rewrite))
    varying = rewrite.graph.forward(rewrite.graph.inputs)
    for batch, length in rewrite.extents():
        try:
            feeds = probe_feeds(rewrite, batch, length)
            values = session.run(session.output_names, feeds)
        except RuntimeFailure as failure:
            raise _probe_failed(rewrite, failure, batch, length) from None
        named = {**feeds, **dict(zip(session.output_names, values, strict=True))}
        arrays = {key: value for key, value in named.items() if isinstance(value, np.ndarray)}
        rewrite.values.append({key: value for key, value in arrays.items() if key in varying})
        rewrite.shapes.append({key: np.shape(value) for key, value in arrays.items()})


def _probe_model(rewrite: GraphRewrite) -> onnx.ModelProto:
    """The graph as it is, with free axes, and every tensor on the way an output."""
    model = onnx.ModelProto()
    model.CopyFrom(rewrite.graph.model)
    _watch_all(model)
    free_dims(model, rewrite)
    return model


def free_dims(model: onnx.ModelProto, rewrite: GraphRewrite) -> None:
    """Declare batch and time dynamic: an exporter may write the example's extents where the graph takes any."""
    graph, roles = Graph(model), rewrite.roles
    fixed: int | str = rewrite.max_rows or "batch"
    steps: int | str = rewrite.window or "time"
    axes = {state.input: state.batch_axis for state in roles.states}
    axes |= {state.input: state.batch_axis for state in rewrite.states}
    axes |= {name: state_axis(rewrite, name) for name in roles.idle if name in graph.inputs}
    others = {other.name: other for other in roles.others}
    for name in graph.inputs:
        dims: list[int | str] = [dim if dim is not None else "" for dim in graph.dims(name)]
        if name == roles.data:
            batch_axis = 1 if rewrite.layout == "time_first" else 0
            dims[batch_axis] = fixed
            if rewrite.layout != "step":
                dims[1 - batch_axis] = steps
        elif name in others and dims:
            dims[others[name].batch_axis] = fixed
            if (time := others[name].time_axis) is not None:
                dims[time] = steps
        elif name not in (LENGTHS, SELECT) and dims:
            dims[axes.get(name, 1 if len(dims) > 2 else 0)] = fixed
        graph.set_input_dims(name, dims)


def _watch_all(model: onnx.ModelProto) -> None:
    """Make every tensor that a node makes an output, so that one run shows them all."""
    known = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known and node.op_type != "Constant":
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


def _probe_failed(rewrite: GraphRewrite, failure: RuntimeFailure, batch: int, length: int) -> ModelRefused:
    return ModelRefused(
        f"{_NOT_RUN} on {batch} sequences of {length} steps: {failure}",
        node=failure.node,
        remedy=f"Its batch or time axis was probably frozen at the example's. {how_to_free(rewrite.graph.model)}",
    )
