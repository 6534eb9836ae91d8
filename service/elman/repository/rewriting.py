"""Graph rewriting: a `lengths` input, state exposed, and only the steps that are asked for decoded.

The file on disk is never touched; all of this happens on a copy in memory.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx.inliner import inline_local_functions

from elman.errors import ModelRefused, SpecRefused
from elman.repository.arranging import add_rows
from elman.repository.controls import bind_controls, name_controls
from elman.repository.declared_axes import check_ports
from elman.repository.describing import describe_inputs, describe_outputs
from elman.repository.graph import RECURRENT, Graph, all_nodes, attribute
from elman.repository.graph_analysis import find_cell, find_features, find_marks
from elman.repository.graph_axes import TIME
from elman.repository.graph_io import find_roles
from elman.repository.graph_loops import scan_inputs
from elman.repository.graph_rewrite import GraphRewrite, axes_of, recurrent_inside
from elman.repository.graph_trace import node_label
from elman.repository.network import END, LENGTHS, Array, Network
from elman.repository.no_steps import refuse_no_steps
from elman.repository.ordering import sort_nodes
from elman.repository.pairing import directions, port
from elman.repository.places import round_alike
from elman.repository.precision import make_single
from elman.repository.probing import find_axes, free_dims
from elman.repository.rnn import replace_rnns
from elman.repository.scan_states import declare_ranks, find_limits
from elman.repository.selecting import find_outputs, pick_real_steps
from elman.repository.spec import ModelSpec
from elman.repository.specialise import bind_constants, inline_decided_branches
from elman.repository.states import add_lengths, alias_lengths, begin_with_zeros, collect_states, expose_states
from elman.repository.tokens import find_vocabulary_size, take_ids_as_integers

_RESERVED = "elman."
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


@dataclass(frozen=True)
class Rewriting:
    """What to change. The proof may ask for less than everything where a graph does not take it."""

    ragged: bool = True
    select: bool = True


@dataclass(frozen=True)
class Sample:
    """What the graph answered before it was rewritten, to hold the rewritten one against.

    `data` is `(batch, time, ...)` and `others` as in `Network.feeds`; `answers` holds each output that answers with its
    batch and its time axis; the states that the graph takes as inputs, `zero_states`, were zeros.
    """

    data: Array
    others: tuple[Array, ...]
    answers: tuple[tuple[Array, int | None, int | None], ...]
    zero_states: frozenset[str]


def rewrite_graph(model: onnx.ModelProto, spec: ModelSpec, want: Rewriting) -> tuple[Network, Sample]:
    """Bring a graph to normal form.

    Raises ModelRefused, naming the node and the remedy, where it cannot be.
    """
    given = spec
    prepared, spec = _prepare(model, spec)
    learned = _take_initialisers(prepared, spec)
    rewrite = _find_axes(prepared, spec)
    graph, roles = rewrite.graph, rewrite.roles
    _check_recurrent(prepared, rewrite)
    sample = _sample(rewrite)
    inputs = describe_inputs(prepared, rewrite)
    end = next((one for one in inputs if one.name == END), None)
    collect_states(rewrite, learned)
    kept = find_marks(rewrite)
    rewrite.look_ahead = kept.ahead
    ragged = want.ragged and kept.mixes is None and add_lengths(rewrite)
    if roles.lengths is not None:
        alias_lengths(graph, roles.lengths)
    if rewrite.look_ahead is None and kept.mixes is None:
        expose_states(rewrite)
    if roles.idle:
        begin_with_zeros(rewrite)
    find_limits(rewrite)
    cell, layers, hidden_size = find_cell(rewrite)
    outputs = find_outputs(rewrite, want.select)
    if ragged:
        replace_rnns(graph)
        if outputs != "selected":
            pick_real_steps(rewrite)
    else:
        refuse_no_steps(rewrite)
    declare_ranks(rewrite)
    round_alike(graph)
    dtypes = {name: graph.dtype(name) for name in rewrite.roles.outputs}
    dtypes |= {state.output: state.dtype for state in rewrite.states}
    graph.set_outputs([*rewrite.roles.outputs, *(state.output for state in rewrite.states)], dtypes)
    free_dims(graph.model, rewrite)
    graph.index()
    # A state input that nothing reads any more is gone; what is carried must be what the graph takes.
    rewrite.states = [state for state in rewrite.states if state.input in graph.inputs]
    if end is not None and END not in graph.inputs:
        end, sample = None, replace(sample, others=sample.others[:-1])
    network = Network(
        model=graph.model.SerializeToString(),
        inputs=name_controls(model, given, inputs),
        answers=describe_outputs(prepared, rewrite, roles, rewrite.roles.outputs),
        input=roles.data,
        input_dtype=graph.dtype(roles.data),
        layout=rewrite.layout,
        features=find_features(rewrite),
        vocabulary_size=find_vocabulary_size(graph, roles.data),
        ragged=ragged,
        outputs=outputs,
        states=tuple(rewrite.states),
        forward=rewrite.look_ahead is None,
        cell=cell,
        layers=layers,
        hidden_size=hidden_size,
        window=rewrite.window,
        max_rows=rewrite.max_rows,
        takes_lengths=LENGTHS in graph.inputs,
        look_ahead=rewrite.look_ahead,
        mixes_time=kept.mixes,
        mixes_rows=kept.strangers,
        open_ended=any(node.op_type == "Loop" for node in all_nodes(graph.model.graph)),
        end=end,
    )
    return network, sample


def _find_axes(graph: Graph, spec: ModelSpec) -> GraphRewrite:
    """As `find_axes`. A graph of one sequence, whose steps come first, gets an axis of rows of extent 1 before them."""
    check_ports(graph, spec)
    roles = find_roles(graph, spec)
    spec = spec.with_axes_of(roles.data)
    try:
        return find_axes(graph, spec, roles)
    except ModelRefused as refused:
        if spec.input.size or len(graph.inputs) > 1 or len(graph.dims(roles.data)) != 2 or not graph.recurrent():
            raise
        add_rows(graph)
        axes = spec.input.model_copy(update={"batch_axis": 0, "time_axis": 1})
        spec = spec.model_copy(update={"input": axes})
        try:
            rewrite = find_axes(graph, spec, find_roles(graph, spec))
        except ModelRefused:
            raise refused from refused.__cause__
        if TIME not in rewrite.scanned or rewrite.max_rows != 1:
            raise refused from refused.__cause__
        return rewrite


def _sample(rewrite: GraphRewrite) -> Sample:
    """What the first probe was given and answered."""
    values = rewrite.values[0]
    data = values[rewrite.roles.data]
    if rewrite.layout == "step":
        data = data[:, None]
    elif rewrite.layout == "time_first":
        data = data.swapaxes(0, 1)
    others = []
    for role in ("sequence", "static", "control"):
        for other in (other for other in rewrite.roles.others if other.role == role):
            value = np.moveaxis(values[other.name], other.batch_axis, 0)
            others.append(value[:, None] if rewrite.layout == "step" and role == "sequence" else value)
    answers = tuple((values[name], *axes_of(rewrite, name)) for name in rewrite.roles.outputs)
    return Sample(data, tuple(others), answers, frozenset(state.input for state in rewrite.roles.states))


def _prepare(model: onnx.ModelProto, spec: ModelSpec) -> tuple[Graph, ModelSpec]:
    """A copy to change, and the spec with what its control inputs become."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if copy.functions:
        copy = inline_local_functions(copy)
    _check_operators(copy)
    sort_nodes(copy)
    make_single(copy)
    bind_constants(copy, spec)
    spec = bind_controls(copy, spec)
    inline_decided_branches(copy)
    graph = Graph(copy)
    _check_tensors(graph)
    _check_weights(graph)
    _name_finals(graph)
    _thaw_reshapes(graph)
    take_ids_as_integers(graph)
    return graph, spec


def _name_finals(graph: Graph) -> None:
    """Name the last values of the states of each Scan, read or not."""
    for index, node in enumerate(node for node in graph.proto.node if node.op_type == "Scan"):
        named = [*node.output, *[""] * len(node.input)][: len(scan_inputs(node)[0])]
        node.output[: len(named)] = [name or f"elman.final{index}.{at}" for at, name in enumerate(named)]
    graph.index()


def _thaw_reshapes(graph: Graph) -> None:
    """Free the extents that torch's exporter freezes when it merges the directions of a recurrent output.

    Y is (time, directions, batch, hidden); moved to (time, batch, directions, hidden) it is reshaped to
    (example's time, -1, directions * hidden), which can only have meant to merge the last two axes.
    """
    for node in graph.proto.node:
        if node.op_type != "Reshape":
            continue
        move = graph.producer.get(node.input[0])
        source = graph.producer.get(move.input[0]) if move is not None and move.op_type == "Transpose" else None
        if move is None or source is None or source.op_type not in RECURRENT or source.output[0] != move.input[0]:
            continue
        target = graph.constant(node.input[1])
        width = attribute(source, "hidden_size", 0) * directions(source)
        merges = target is not None and target.size == 3 and int(target[2]) in (width, -1)
        if merges and attribute(move, "perm") == [0, 2, 1, 3]:
            name = graph.add_initializer(f"{node.output[0]}.thawed", np.array([0, 0, width], np.int64))
            kept = [item for item in node.attribute if item.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.input[1] = name
    graph.index()


def _check_operators(model: onnx.ModelProto) -> None:
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    reserved = next((name for name in names if name.startswith(_RESERVED)), None)
    if reserved is not None:
        raise ModelRefused(
            f"names of inputs and outputs that begin with {_RESERVED} are for what the server adds",
            node=f"tensor {reserved!r}",
            remedy="Give the input or output another name: torch has input_names and output_names for it.",
        )
    for node in all_nodes(model.graph):
        if node.domain not in _DOMAINS:
            raise ModelRefused(
                f"the operator {node.op_type} is of the domain {node.domain!r}, which is not known here",
                node=node_label(node),
                remedy="Export the model with the standard ONNX operators.",
            )
        if node.op_type in RECURRENT and attribute(node, "layout", 0) == 1:
            raise ModelRefused(
                "layout=1 is not implemented by ONNX Runtime",
                node=node_label(node),
                remedy="Export with layout=0, as torch.onnx.export does, and transpose outside the node.",
            )


def _check_recurrent(author: Graph, rewrite: GraphRewrite) -> None:
    """Refuse a graph in which nothing recurs. Raises ModelRefused.

    One that takes a fixed number of steps may be a recurrent network that its exporter unrolled. One that takes a row
    of numbers is more likely to be of any other kind.
    """
    unrolled = rewrite.window is not None and (len(author.dims(rewrite.roles.data)) > 2 or find_features(rewrite) != 1)
    if unrolled or rewrite.roles.states or any(recurrent_inside(node) for node in rewrite.graph.proto.node):
        return
    raise ModelRefused(
        "nothing in the graph is recurrent, and it takes no state",
        remedy="Elman serves recurrent networks; a server for any graph suits this one better.",
    )


def _check_tensors(graph: Graph) -> None:
    for name, value in {**graph.inputs, **graph.outputs}.items():
        if not value.type.tensor_type.elem_type:
            raise ModelRefused(
                f"{name!r} is a list, or of no declared type; requests and answers are tensors",
                node=f"tensor {name!r}",
                remedy="Join a list to one tensor before the export, as torch.stack does.",
            )


def _check_weights(graph: Graph) -> None:
    """Refuse recurrent nodes whose weights are not of their hidden size, as torch writes for projections."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}
    for node in graph.recurrent():
        weights, hidden_size = graph.constant(port(node, 2)), attribute(node, "hidden_size")
        if weights is not None and weights.shape[1:] != (gates[node.op_type] * hidden_size, hidden_size):
            raise ModelRefused(
                f"the recurrent weights are {list(weights.shape)}, which is not for a hidden size of {hidden_size}: "
                "the operator holds no projection (proj_size)",
                node=node_label(node),
                remedy="Train without proj_size, with a Linear after the layer, or export the cell as a Scan.",
            )


def _take_initialisers(graph: Graph, spec: ModelSpec) -> dict[str, Array]:
    """The learned initial states, by the name of the state input that each is for."""
    learned = {}
    initial = {name: one.initial for name, one in spec.inputs.items() if one.role == "state"}
    initial |= {state.input: state.initial for state in spec.state or ()}
    for name, tensor in initial.items():
        if tensor is None:
            continue
        value = graph.constant(tensor)
        if value is None:
            raise SpecRefused(
                f"the spec's initial state {tensor!r} is not an initialiser of the graph",
                node=f"state {name!r}",
                remedy="Name a tensor that the file holds, or leave initial out of model.json: a state starts at zero.",
            )
        learned[name] = value
    return learned
