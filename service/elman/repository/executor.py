"""One run of a network on arrays: what the proof and the engine share, so that what was proved is what serves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from elman.repository.network import Array, Network
from elman.repository.runtime import GraphSession, RuntimeFailure


class Executor:
    """A network opened in ONNX Runtime.

    Args:
        network: the network in normal form.
        min_rows: rows of the smallest batch that is run. The RNN operator takes another path for a single row and
            rounds differently there; with `min_rows=2` a dummy row keeps it on the common one.
    """

    def __init__(self, network: Network, min_rows: int = 1, session: GraphSession | None = None) -> None:
        self.network = network
        self.min_rows = min_rows
        self.session = session or GraphSession(network.model)
        self._fetches = network.fetches()

    def initial_states(self, rows: int) -> list[Array]:
        """The state that `rows` new sequences start from."""
        return [np.repeat(state.initial, rows, axis=state.batch_axis) for state in self.network.states]

    def run(
        self,
        data: Array,
        lengths: Array,
        states: list[Array],
        select: Array,
        others: Sequence[Array] = (),
        *,
        heads: bool = False,
    ) -> tuple[list[Array], list[Array]]:
        """Advance a batch.

        Args:
            data: `(batch, time, features)` or `(batch, time)`, padded.
            lengths: int32 `(batch,)`, from 1 to time.
            states: as `Network.states`, batch on the axis of each.
            select: int64 `(selected, 2)` pairs of row and step whose outputs are wanted; may be empty.
            others: further sequences and statics, as in `Network.feeds`.
            heads: whether the outputs beside the primary one are wanted.

        Returns:
            each output `(selected, size)`, the primary one first, and the states after each row's length.

        Raises:
            RuntimeFailure: the graph failed on this batch.
        """
        rows, wanted = len(lengths), len(select)
        limit = None if self.network.own_clock else wanted
        if rows < self.min_rows:
            data, lengths, states, others = self._pad_rows(data, lengths, states, others)
        if wanted < self.min_rows or not wanted:
            select = np.concatenate([select, np.zeros((self.min_rows - wanted, 2), np.int64)])
        feeds = self.network.feeds(data, lengths, states, select, others)
        answers = self.network.answering if heads else self.network.answering[:1]
        found = self.session.run(self.network.fetches(heads=True) if heads else self._fetches, feeds)
        outputs, after = found[: len(answers)], found[len(answers) :]
        if rows < self.min_rows:
            after = [
                value.take(range(rows), axis=state.batch_axis)
                for state, value in zip(self.network.states, after, strict=True)
            ]
        try:
            pairs = zip(answers, outputs, strict=True)
            chosen = [self.network.rows(one, output, select)[:limit] for one, output in pairs]
        except (ValueError, IndexError):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise RuntimeFailure(f"the outputs have the shapes {shapes} for {len(lengths)} rows", None) from None
        return chosen, after

    def _pad_rows(
        self, data: Array, lengths: Array, states: list[Array], others: Sequence[Array]
    ) -> tuple[Array, Array, list[Array], list[Array]]:
        more = self.min_rows - len(lengths)
        data, *others = (np.concatenate([one, np.zeros((more, *one.shape[1:]), one.dtype)]) for one in (data, *others))
        lengths = np.concatenate([lengths, np.ones(more, np.int32)])
        states = [
            np.concatenate([value, _zeros(state.row_shape, more, state.batch_axis, value.dtype)], state.batch_axis)
            for state, value in zip(self.network.states, states, strict=True)
        ]
        return data, lengths, states, list(others)


def _zeros(row_shape: tuple[int, ...], rows: int, axis: int, dtype: np.dtype[Any]) -> Array:
    return np.zeros((*row_shape[:axis], rows, *row_shape[axis:]), dtype)
