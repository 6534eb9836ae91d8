"""Log-probabilities of tokens, from the scores of a model.

They are those of the model's own distribution over its whole vocabulary: before a temperature, `top_k` or `top_p`, and
with the tokens that are never drawn.
"""

from typing import NamedTuple

import numpy as np

from elman.repository.network import Array


class TokenLogprob(NamedTuple):
    """The log-probability of a token, and the most probable tokens of its step with theirs, the best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def log_probabilities(scores: Array, probabilities: bool) -> Array:
    """The logarithm of the softmax of each row, float64 `(rows, vocabulary)`.

    probabilities: True if the scores are probabilities, and not logits or their logarithms.
    """
    z = as_logits(scores, probabilities)
    z -= z.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return z


def as_logits(scores: Array, probabilities: bool) -> Array:
    """A copy of the scores as float64, of probabilities the logarithm."""
    z: Array = scores.astype(np.float64)
    if probabilities:
        with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf
            z = np.log(np.maximum(z, 0.0))
    return z


def most_probable(row: Array, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most probable tokens of log-probabilities `(vocabulary,)`; none of probability 0."""
    return tuple((token, float(row[token])) for token in best_indices(row, count).tolist())


def best_indices(values: Array, count: int) -> Array:
    """The indices of the `count` highest values, highest first, of equals the first one first; none of -inf or NaN."""
    values = np.where(np.isnan(values), -np.inf, values)
    found = np.arange(len(values))
    if 0 < count < len(values):
        found = np.flatnonzero(values >= np.partition(values, len(values) - count)[len(values) - count])
    found = found[values[found] > -np.inf]
    order: Array = found[np.argsort(-values[found], kind="stable")][:count]
    return order
