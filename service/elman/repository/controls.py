"""Control inputs, by which a graph is told where in its sequence a run is.

All but the end are carried as state, so that they hold in every batch, in every chunk and in every session. START is a
state that begins at yes and is no from then on. READY begins at yes and CORRID at 0, and they stay as they are. The end
alone is given with each run, since only the request knows it.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from elman.errors import ModelRefused, SpecRefused
from elman.repository.graph import Graph, attribute
from elman.repository.network import END, InputTensor
from elman.repository.spec import ModelSpec, PortSpec, StateSpec

ADDED = "elman."
"""Begins the names of what is added to a graph."""


def bind_controls(model: onnx.ModelProto, spec: ModelSpec) -> ModelSpec:
    """Give each control input what it needs in the graph; the spec with the roles that it then has.

    Raises ModelRefused for one that no sequence fills.
    """
    graph = Graph(model)
    kinds = [one.control for one in spec.controls.values()]
    for name, one in spec.controls.items():
        if kinds.count(one.control) > 1:
            raise _refusal(name, f"is one of several for {one.control!r}", "Give each control to one input.")
        _check(graph, name, one)
    ports, states = dict(spec.inputs), spec.state
    for name, one in spec.controls.items():
        if one.control == "end":
            del ports[name]
            ports[END] = PortSpec(role="control", control="end", batch_axis=0)
            _give_end(graph, name, one)
            continue
        state = _carry(graph, name, one)
        if states is None:
            ports[name] = PortSpec(role="state", output=state.output, initial=state.initial, batch_axis=0)
        else:
            del ports[name]
            states = (*states, state)
    return spec.model_copy(update={"inputs": ports, "state": states})


def _check(graph: Graph, name: str, one: PortSpec) -> None:
    if name not in graph.inputs:
        known = ", ".join(map(repr, graph.inputs))
        raise _refusal(name, "is not there", f"The inputs of the graph are {known}.")
    dims, dtype = graph.dims(name), graph.dtype(name)
    if dtype.kind not in ("iu" if one.control == "corrid" else "iufb"):
        raise _refusal(name, f"is of {dtype.name}, and sequences have numbers", "Export it as a number.")
    if not dims or any(dim != 1 for dim in dims[1:]):
        raise _refusal(
            name, f"has the axes {dims}, and the server has one value for each row", "Export it as (batch, 1)."
        )


def _refusal(name: str, what: str, remedy: str) -> ModelRefused:
    return SpecRefused(f"the control input {name!r} {what}", node=f"input {name!r}", remedy=remedy)


def _carry(graph: Graph, name: str, one: PortSpec) -> StateSpec:
    """Make a control a state: its value before the first run, and a node for what it is from then on."""
    dtype, rank = graph.dtype(name), len(graph.dims(name))
    no, yes = (np.full((1,) * rank, value).astype(dtype) for value in one.false_true)
    following, shape = f"{ADDED}{name}.next", f"{ADDED}{name}.shape"
    initial = graph.add_initializer(f"{ADDED}{name}.first", np.zeros_like(no) if one.control == "corrid" else yes)
    if one.control == "start":
        value = numpy_helper.from_array(no.reshape(1))
        nodes = [
            helper.make_node("Shape", [name], [shape]),
            helper.make_node("ConstantOfShape", [shape], [following], value=value),
        ]
    else:
        nodes = [helper.make_node("Identity", [name], [following])]
    graph.insert_after(None, nodes)
    graph.proto.output.append(_like(graph, name, following))
    graph.index()
    return StateSpec(input=name, output=following, batch_axis=0, initial=initial)


def stays(graph: Graph, name: str) -> bool:
    """Whether an input is a control that is the same in all runs of a sequence."""
    following = graph.producer.get(f"{ADDED}{name}.next")
    return following is not None and following.op_type == "Identity"


def starts(graph: Graph) -> set[str]:
    """The controls that are 0 but for the first run of a sequence."""
    found = set()
    for name in graph.inputs:
        following = graph.producer.get(f"{ADDED}{name}.next")
        if following is not None and following.op_type == "ConstantOfShape":
            if not numpy_helper.to_array(attribute(following, "value")).any():
                found.add(name)
    return found


def _like(graph: Graph, name: str, other: str) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto()
    value.CopyFrom(graph.inputs[name])
    value.name = other
    return value


def _give_end(graph: Graph, name: str, one: PortSpec) -> None:
    """Make the end an input of yes or no, in the place of the author's."""
    dtype, given = graph.dtype(name), _like(graph, name, END)
    given.type.tensor_type.elem_type = TensorProto.BOOL
    kept = [value for value in graph.proto.input if value.name != name]
    del graph.proto.input[:]
    graph.proto.input.extend([*kept, given])
    if dtype == np.bool_:  # ONNX Runtime chooses between numbers alone
        node = helper.make_node("Identity" if one.false_true[1] else "Not", [END], [name])
    else:
        no, yes = (
            graph.add_initializer(f"{ADDED}{name}.{index}", np.asarray(value).astype(dtype))
            for index, value in enumerate(one.false_true)
        )
        node = helper.make_node("Where", [END, yes, no], [name])
    graph.insert_after(None, [node])


def name_controls(author: onnx.ModelProto, spec: ModelSpec, inputs: Iterable[InputTensor]) -> tuple[InputTensor, ...]:
    """The inputs as the author calls them: a control is neither a state nor an input of yes or no."""
    graph, controls = Graph(author), spec.controls
    names = {END if one.control == "end" else name: name for name, one in controls.items()}
    return tuple(
        replace(
            one,
            name=names[one.name],
            role="control",
            dtype=graph.dtype(names[one.name]),
            found=f"{one.found}: {controls[names[one.name]].control}",
        )
        if one.name in names
        else one
        for one in inputs
    )
