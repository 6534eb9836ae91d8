"""Which axes of a module's inputs are batch and time, and which of its results become outputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from elman.exporter.arguments import Argument, readings, undecided
from elman.exporter.errors import ExportRefused
from elman.exporter.reference import TRACED_AT, Inputs, Layout, Reference
from elman.repository.naming import names_state
from elman.repository.spec import InputRole, ModelSpec


def find_layout(
    module: Reference, inputs: Inputs, given: ModelSpec, roles: Mapping[str, InputRole]
) -> tuple[Inputs, Layout]:
    """The axes of the module's inputs, and the inputs with the role of each. Raises ExportRefused.

    Where the shapes allow several roles, each is tried. More than one that works is refused.
    """
    told = {name: one.role for name, one in given.inputs.items() if one.role is not None}
    ways = list(readings(inputs.others, inputs.x, {**told, **roles}))
    # An argument with the name of a state is a state, unless forward returns too few results for it.
    named = [way for way in ways if all(one.role == "state" or not names_state(one.name) for one in way)]
    if named and len(named) < len(ways) and _returns_states(module, inputs, named[0]):
        ways = named
    if len(ways) == 1:
        inputs = Inputs(inputs.x, ways[0], inputs.num_tokens)
        return inputs, _layout_of(module, inputs, given)
    working: list[tuple[Inputs, Layout]] = []
    failures: list[ExportRefused] = []
    for way in ways:
        tried = Inputs(inputs.x, way, inputs.num_tokens)
        try:
            layout = _layout_of(module, tried, given)
            _check_states(module.run(tried.traced(layout)), tried, layout)
            module.run(tried.at(layout, *_other_sizes(inputs.x)))
            working.append((tried, layout))
        except ExportRefused as failure:
            failures.append(failure)
    if not working:
        raise failures[0]
    if len(working) > 1:
        raise undecided([inputs.others for inputs, _ in working])
    return Inputs(inputs.x, working[0][0].others, inputs.num_tokens), working[0][1]


def _returns_states(module: Reference, inputs: Inputs, way: tuple[Argument, ...]) -> bool:
    """Whether forward returns at least an output and as many results as it takes states."""
    results = module.run([inputs.x, *(one.tensor for one in inputs.others)])
    return len(results) > sum(one.role == "state" for one in way)


def _other_sizes(x: Tensor) -> tuple[int, int]:
    """A batch and a time that the example has not, so that no axis fits by chance."""
    batch, time, *_ = (size for size in (7, 11, 13, 17) if size not in x.shape[:2])
    return batch, time


def _layout_of(module: Reference, inputs: Inputs, given: ModelSpec) -> Layout:
    """The axes of the module's inputs, whose roles are known. Raises ExportRefused.

    Where the spec does not name the batch axis, the first axis is taken for which one sequence of a batch does not
    change the answers of the others.
    """
    if inputs.x.is_floating_point() and inputs.x.dim() == 2:
        return Layout(0, None, _axes_of_others(inputs, given, 0, None))
    candidates = [Layout(axis, 1 - axis, _axes_of_others(inputs, given, axis, 1 - axis)) for axis in (0, 1)]
    if given.input.batch_axis is not None:
        return candidates[given.input.batch_axis]
    failures: list[ExportRefused] = []
    for layout in candidates:
        try:
            if _keeps_sequences_apart(module, inputs, layout):
                return layout
        except ExportRefused as failure:
            failures.append(failure)
    if len(failures) == len(candidates):
        raise failures[0]
    raise ExportRefused("a sequence's answer depends on the others in its batch, so none can be served alone")


def _axes_of_others(
    inputs: Inputs, given: ModelSpec, batch: int, time: int | None
) -> tuple[tuple[int, int | None], ...]:
    """The batch and time axis of each further argument, where the data has these."""
    states = iter(given.state or ())
    axes: list[tuple[int, int | None]] = []
    for one in inputs.others:
        if one.role == "state":
            state = next(states, None)
            axes.append((int(one.tensor.dim() > 2) if state is None else state.batch_axis, None))
        else:
            axes.append((batch, time) if one.role in ("sequence", "mask") else (0, None))
    return tuple(axes)


def _keeps_sequences_apart(module: Reference, inputs: Inputs, layout: Layout) -> bool:
    """Whether a change of the first sequence leaves the answers of all others as they were."""
    # Drawn numbers may lie where the module is not defined, such as below zero for a logarithm.
    for own in (False, True):
        apart = _apart(module, inputs, layout, own)
        if apart is not None:
            return apart
    raise ExportRefused("the module gives NaN on input like the example, and on the example's own numbers")


def _apart(module: Reference, inputs: Inputs, layout: Layout, own: bool) -> bool | None:
    """As `_keeps_sequences_apart`; None where the module gives NaN."""
    x, *others = inputs.at(layout, *TRACED_AT, own)
    other, *_ = inputs.at(layout, *TRACED_AT, own)
    changed = x.clone()
    changed.select(layout.batch_axis, 0).copy_(other.select(layout.batch_axis, 0))
    before, after = module.run([x, *others])[0], module.run([changed, *others])[0]
    axis = layout.batch_axis if _is_per_step(before, layout) else 0
    if axis >= before.dim() or before.shape[axis] != TRACED_AT[0]:
        return False
    if before.isnan().any() or after.isnan().any():
        return None
    before, after = (output.movedim(axis, 0)[1:] for output in (before, after))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def check_outputs(outputs: Sequence[Tensor], module: Reference, inputs: Inputs, layout: Layout) -> None:
    """Raises ExportRefused unless each output is a row a step or a sequence, and each new state has its old shape."""
    x = inputs.traced(layout)[0]
    if not _is_per_step(outputs[0], layout) and not _is_per_sequence(0, outputs, module, inputs, layout):
        raise ExportRefused(
            f"an input of {tuple(x.shape)} gives an output of {tuple(outputs[0].shape)}, which must keep the "
            "batch and time axes and add its own, as `head(y)`, or keep the batch axis alone, as `head(y[:, -1])`"
        )
    _check_states(outputs, inputs, layout)
    for index in range(1, len(outputs) - len(inputs.state)):
        if not _is_row(index, outputs, module, inputs, layout):
            raise ExportRefused(
                f"the result {index} of forward has the shape {tuple(outputs[index].shape)} for an input of "
                f"{tuple(x.shape)}: it is neither a row a step nor a row a sequence, so it cannot be answered"
            )


def _check_states(outputs: Sequence[Tensor], inputs: Inputs, layout: Layout) -> None:
    tensors = zip(inputs.others, inputs.traced(layout)[1:], strict=True)
    taken = [tuple(tensor.shape) for one, tensor in tensors if one.role == "state"]
    returned = [tuple(output.shape) for output in outputs[len(outputs) - len(taken) :]]
    if len(outputs) <= len(taken) or (taken and returned != taken):
        raise ExportRefused(
            f"forward must return the output and then each new state, shaped {taken}, but returns "
            f"{[tuple(output.shape) for output in outputs]}"
        )


def answering_results(outputs: Sequence[Tensor], module: Reference, inputs: Inputs, layout: Layout) -> tuple[int, ...]:
    """Indices of the results that are a row a step or a row a sequence.

    A module that takes no state may still return a final one, as `nn.LSTM` does. Nothing could be done with it.
    """
    rest = range(1, len(outputs))
    return 0, *(index for index in rest if _is_row(index, outputs, module, inputs, layout))


def _is_row(index: int, outputs: Sequence[Tensor], module: Reference, inputs: Inputs, layout: Layout) -> bool:
    leading = _leading(layout)
    per_step = outputs[index].shape[: len(leading)] == leading
    return per_step or _is_per_sequence(index, outputs, module, inputs, layout, least=1)


def _leading(layout: Layout) -> tuple[int, ...]:
    """The first axes of an output of one row a step, at TRACED_AT."""
    batch, time = TRACED_AT
    return (batch,) if layout.time_axis is None else (batch, time) if layout.batch_axis == 0 else (time, batch)


def _is_per_step(output: Tensor, layout: Layout) -> bool:
    """Whether an output at TRACED_AT has the batch and time axes of the data, and at least one more."""
    leading = _leading(layout)
    return output.dim() > len(leading) and output.shape[: len(leading)] == leading


def _is_per_sequence(
    index: int, outputs: Sequence[Tensor], module: Reference, inputs: Inputs, layout: Layout, least: int = 2
) -> bool:
    """Whether an output at TRACED_AT is one row a sequence: its shape changes with the batch, not with the length."""
    batch, time = TRACED_AT
    output = outputs[index]
    if layout.time_axis is None or output.dim() < least or output.shape[0] != batch:
        return False
    other = module.run(inputs.at(layout, batch + 1, time + 1))[index]
    return other.shape == (batch + 1, *output.shape[1:])
