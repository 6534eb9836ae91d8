"""Which axes of a module's inputs are batch and time, and which of its results become outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from elman.exporter.errors import ExportRefused
from elman.exporter.reference import TRACED_AT, Inputs, Layout, Reference
from elman.repository.spec import ModelSpec


def find_layout(module: Reference, inputs: Inputs, given: ModelSpec) -> Layout:
    """The axes of the module's inputs. Raises ExportRefused.

    Where the spec does not name the batch axis, the first axis is taken for which one sequence of a batch does not
    change the answers of the others.
    """
    state_axes = tuple(
        given.state[i].batch_axis if given.state else int(state.dim() > 2) for i, state in enumerate(inputs.state)
    )
    if inputs.x.is_floating_point() and inputs.x.dim() == 2:
        return Layout(0, None, state_axes)
    candidates = [Layout(axis, 1 - axis, state_axes) for axis in (0, 1)]
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


def _keeps_sequences_apart(module: Reference, inputs: Inputs, layout: Layout) -> bool:
    """Whether a change of the first sequence leaves the answers of all others as they were."""
    x, *state = inputs.traced(layout)
    other, *_ = inputs.traced(layout)
    changed = x.clone()
    changed.select(layout.batch_axis, 0).copy_(other.select(layout.batch_axis, 0))
    before, after = module.run([x, *state])[0], module.run([changed, *state])[0]
    axis = layout.batch_axis if _is_per_step(before, layout) else 0
    if axis >= before.dim() or before.shape[axis] != TRACED_AT[0]:
        return False
    before, after = (output.movedim(axis, 0)[1:] for output in (before, after))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def check_outputs(outputs: Sequence[Tensor], module: Reference, inputs: Inputs, layout: Layout) -> None:
    """Raises ExportRefused unless there is an output per step or per sequence, and each new state has its old shape."""
    num_states = len(inputs.state)
    x, *state = inputs.traced(layout)
    if not _is_per_step(outputs[0], layout) and not _is_per_sequence(outputs[0], module, inputs, layout):
        raise ExportRefused(
            f"an input of {tuple(x.shape)} gives an output of {tuple(outputs[0].shape)}, which must keep the "
            "batch and time axes and add its own, as `head(y)`, or keep the batch axis alone, as `head(y[:, -1])`"
        )
    taken = [tuple(tensor.shape) for tensor in state]
    returned = [tuple(output.shape) for output in outputs[len(outputs) - num_states :]]
    if len(outputs) <= num_states or (num_states and returned != taken):
        raise ExportRefused(
            f"forward must return the output and then each new state, shaped {taken}, but returns "
            f"{[tuple(output.shape) for output in outputs]}"
        )


def results_like_the_first(results: Sequence[Tensor], layout: Layout) -> tuple[int, ...]:
    """Indices of the results with the batch and time axes of the first one.

    A module that takes no state may still return a final one, as `nn.LSTM` does. Nothing could be done with it.
    """
    first = results[0]
    if _is_per_step(first, layout):
        return tuple(i for i, result in enumerate(results) if result.shape[:2] == first.shape[:2])
    return tuple(
        i for i, result in enumerate(results) if result.dim() == first.dim() and result.shape[:1] == first.shape[:1]
    )


def _is_per_step(output: Tensor, layout: Layout) -> bool:
    """Whether an output at TRACED_AT has the batch and time axes of the data, and at least one more."""
    batch, time = TRACED_AT
    leading = (batch,) if layout.time_axis is None else (batch, time) if layout.batch_axis == 0 else (time, batch)
    return output.dim() > len(leading) and output.shape[: len(leading)] == leading


def _is_per_sequence(output: Tensor, module: Reference, inputs: Inputs, layout: Layout) -> bool:
    """Whether an output at TRACED_AT is one row a sequence: its shape does not depend on the length."""
    batch, time = TRACED_AT
    if layout.time_axis is None or output.dim() < 2 or output.shape[0] != batch:
        return False
    return module.run(inputs.at(layout, batch, time + 1))[0].shape == output.shape
