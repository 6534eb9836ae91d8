"""The sliding window of a session: the last steps are kept, and each new step completes a window."""

import numpy as np

from elman.engine.sequence import Inputs
from elman.repository.network import Array


def slide(recent: tuple[Array, ...], inputs: Inputs, window: int) -> tuple[list[Inputs], tuple[Array, ...]]:
    """Windows over the steps of a session.

    Args:
        recent: at most `window - 1` steps before these, of the data and of each further input; empty at the start.
        inputs: the new steps.
        window: steps of a window, at least 1.

    Returns:
        a window for each new step that completes one, the oldest first, and the steps to keep for the next call.
    """
    given = (inputs.data, *inputs.further)
    series = [np.concatenate(pair) for pair in zip(recent, given, strict=True)] if recent else list(given)
    ends = range(window, len(series[0]) + 1)
    parts = [[one[end - window : end] for one in series] for end in ends]
    windows = [Inputs(data, tuple(further), inputs.statics) for data, *further in parts]
    return windows, tuple(one[max(0, len(one) - window + 1) :].copy() for one in series)
