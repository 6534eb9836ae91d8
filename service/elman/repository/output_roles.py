"""Whether an output has a row for each step or for each sequence, where its axes leave that open."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from elman.errors import ModelRefused, SpecRefused
from elman.repository.graph_axes import TIME, Factor, plain_axis
from elman.repository.graph_rewrite import GraphRewrite, axes_of
from elman.repository.network import Array
from elman.repository.probe_feeds import probe_feeds
from elman.repository.runtime import RuntimeFailure


def find_output_roles(rewrite: GraphRewrite) -> None:
    """Settle the role of each output that answers: by the spec, or for a window by an experiment.

    Raises ModelRefused if the spec contradicts the graph, or if nothing decides.
    """
    for name in rewrite.roles.outputs:
        one = rewrite.spec.answers.get(name)
        told = None if one is None else one.role
        timed = rewrite.layout == "step" or axes_of(rewrite, name)[1] is not None
        looks = not timed and _is_as_long(rewrite, name)
        if told is None:
            if looks and _decide(rewrite, name):
                _set_axis(rewrite, name, timed=True)
        elif told != ("steps" if timed else "final"):
            # A window leaves both readings open. Elsewhere the runs of other lengths have shown which one holds.
            if not (looks if told == "steps" else rewrite.window is not None):
                raise _contradicted(name, told)
            _set_axis(rewrite, name, timed=told == "steps")
        _check_axes(rewrite, name)
    _check_extents(rewrite)


def _check_axes(rewrite: GraphRewrite, name: str) -> None:
    """Raise ModelRefused for an output with a further axis that is as long as the run, such as weights of attention."""
    pairs = enumerate(zip(*(shapes[name] for shapes in rewrite.shapes), strict=True))
    at = next((at for at, extents in pairs if len({*extents}) > 1 and at not in axes_of(rewrite, name)), None)
    if at is not None:
        steps = " and ".join(f"{shapes[name][at]} of {of[1]} steps" for shapes, of in _runs(rewrite))
        raise ModelRefused(
            f"axis {at} of the output {name!r} is of another length in each run: {steps}", **_without(rewrite, name)
        )


def _runs(rewrite: GraphRewrite) -> Iterable[tuple[dict[str, tuple[int, ...]], tuple[int, int]]]:
    return zip(rewrite.shapes, rewrite.extents(), strict=True)


def _without(rewrite: GraphRewrite, name: str) -> dict[str, Any]:
    """What to do about an output that is neither of steps nor of sequences: the others may answer."""
    alone = len(rewrite.roles.outputs) == 1
    return {
        "node": f"output {name!r}",
        "remedy": "Export what is made of it, with one row for each step or one for each sequence: nothing else of the "
        "graph answers."
        if alone
        else "Give it the role unused in model.json, and the other outputs answer.",
        "template": None if alone else {"outputs": {name: {"role": "unused"}}},
    }


def _check_extents(rewrite: GraphRewrite) -> None:
    """Raise ModelRefused for an output that is as long as a static input, such as the weights of attention."""
    feeds, longer = probe_feeds(rewrite, *rewrite.extents()[0]), dict[str, Array]()
    for one in rewrite.roles.others:
        value = feeds[one.name]
        for axis, dim in enumerate(rewrite.graph.dims(one.name)):
            if one.role == "static" and axis != one.batch_axis and not isinstance(dim, int):
                value = np.concatenate([value, value.take([0, 0], axis)], axis)
                longer[one.name] = value
    if not longer:
        return
    try:
        runs = [rewrite.watching.run(list(rewrite.roles.outputs), {**feeds, **more}) for more in ({}, longer)]
    except RuntimeFailure:
        return  # the proof says on what the graph does not run
    for name, before, after in zip(rewrite.roles.outputs, *runs, strict=True):
        if before.shape != after.shape:
            raise ModelRefused(
                f"the output {name!r} is as long as the input {min(longer)!r}, which is of another length in each "
                "request",
                **_without(rewrite, name),
            )


def _at(rewrite: GraphRewrite) -> int:
    """The axis on which the data, and an output with a row for each step, has its steps."""
    return 0 if rewrite.layout == "time_first" else 1


def _is_as_long(rewrite: GraphRewrite, name: str) -> bool:
    """Whether an output of a window has as many rows as the window has steps, in the place of the steps."""
    axes, extents = rewrite.trace[name].axes, (rewrite.window or 0,) * len(rewrite.shapes)
    return rewrite.window is not None and len(axes) > 2 and axes[_at(rewrite)] == plain_axis(extents)


def _set_axis(rewrite: GraphRewrite, name: str, *, timed: bool) -> None:
    traced, at = rewrite.trace[name], _at(rewrite)
    extents = (rewrite.window or 0,) * len(rewrite.shapes)
    axis = (Factor(TIME, extents),) if timed else plain_axis(extents)
    at = at if timed else axes_of(rewrite, name)[1] or 0
    rewrite.trace[name] = replace(traced, axes=(*traced.axes[:at], axis, *traced.axes[at + 1 :]))


def _decide(rewrite: GraphRewrite, name: str) -> bool:
    """Whether the rows of an output are those of the steps: no row moves with a later step, and each with its own.

    Raises ModelRefused where rows move with later steps: they may be steps that look ahead, or a block such as the
    values of a forecast.
    """
    rows, steps = rewrite.extents()[0]
    feeds = probe_feeds(rewrite, rows, steps)
    try:
        (before,) = rewrite.watching.run([name], feeds)
        moved = [_moved(rewrite, name, feeds, before, step) for step in sorted({1 % steps, steps // 2, steps - 1})]
    except RuntimeFailure:
        moved = [False]
    if all(moved):
        return True
    raise ModelRefused(
        f"the output {name!r} has {steps} rows, as many as the window has steps: one for each step, or a block",
        node=f"output {name!r}",
        remedy='Say its role in model.json: "final" if the rows are one answer for the whole window, such as the next '
        f'{steps} values; "steps" if there is one for each step.',
        template={"outputs": {name: {"role": "final"}}},
    )


def _moved(rewrite: GraphRewrite, name: str, feeds: dict[str, Array], before: Array, step: int) -> bool:
    """Whether another value at a step moves the row of that step, and no earlier one."""
    at = _at(rewrite)
    data = np.moveaxis(feeds[rewrite.roles.data].copy(), at, 0)
    data[step] = data[step] + 1 if data.dtype.kind == "f" else (data[step] == 0).astype(data.dtype)
    (after,) = rewrite.watching.run([name], {**feeds, rewrite.roles.data: np.moveaxis(data, 0, at)})
    rows = np.moveaxis(before != after, at, 0).reshape(len(data), -1).any(axis=1)
    return bool(rows[step]) and not rows[:step].any()


def _contradicted(name: str, told: str) -> ModelRefused:
    has = "no axis of time" if told == "steps" else "the axis of time"
    return SpecRefused(
        f"model.json says that the output {name!r} is {told!r}, but it has {has}",
        node=f"output {name!r}",
        remedy="Leave its role out. A request says whether it wants every step or the last one.",
    )
