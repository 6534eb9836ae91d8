"""Runs batches: gathers inputs and states, runs the network, scatters states and outputs."""

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

import numpy as np

from elman.engine.packing import Packing
from elman.engine.scheduler import Batch
from elman.engine.sequence import INITIAL_SLOT, Sequence
from elman.errors import ModelFailed
from elman.repository.executor import Executor
from elman.repository.model import Model
from elman.repository.network import Array, Network
from elman.repository.runtime import RunStopped, RuntimeFailure

# The slots that hold the initial state.
_FIRST_SLOTS = 64
_FIRST = list(range(_FIRST_SLOTS))


class Runner:
    """One model's network and the states of its running sequences.

    There is one array per state tensor, with a slot for each running sequence. The first slots hold the initial state,
    which new sequences read. A sequence gets its own slot when a run leaves it unfinished, so most short sequences need
    none. If the slots of a batch are neighbours, its states are read and updated in place.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.network = model.network
        self._executor = Executor(model.network, model.proof.min_rows)
        self.packing = Packing(model.network)
        self._takes_more = bool(model.network.others)
        self._axes = [state.batch_axis for state in model.network.states]
        self._states = self._executor.initial_states(_FIRST_SLOTS)
        self._num_slots = _FIRST_SLOTS
        self._free: list[int] = []
        self._zeros = np.zeros((0,) if model.network.features is None else (0, model.network.features))
        self._grow(_FIRST_SLOTS)

    @property
    def num_slots(self) -> int:
        """Slots held by running sequences."""
        return self._num_slots - _FIRST_SLOTS - len(self._free)

    @property
    def nbytes(self) -> int:
        """Size of the state arrays."""
        return sum(states.nbytes for states in self._states)

    def run(self, batch: Batch) -> None:
        """Advance a batch. Sets outputs and requested states on each sequence, or `error` if the graph fails.

        Raises RunStopped if another thread stopped the run.
        """
        try:
            self._advance(batch.sequences, batch.counts)
        except RunStopped:
            raise
        except RuntimeFailure:
            self._advance_singly(batch)

    def stopper(self) -> Callable[[], None]:
        """Stops the run that is under way now, and no later one. Both calls may come from another thread."""
        return self._executor.session.stopper()

    def release(self, sequences: Iterable[Sequence]) -> None:
        """Free the states of sequences that are done or cancelled."""
        for sequence in sequences:
            sequence.block = None
            if sequence.slot != INITIAL_SLOT:
                heappush(self._free, sequence.slot)
                sequence.slot = INITIAL_SLOT

    def keep(self, block: Sequence, rows: list[int]) -> None:
        """Keep only some rows of a block that has run. One alone goes on as a sequence of one row."""
        assert block.block is not None, "it has run"
        kept = _Places(rows)
        states = [kept.read(value, axis) for axis, value in zip(self._axes, block.block, strict=True)]
        block.rows = len(rows)
        block.block = states if len(rows) > 1 else None
        if len(rows) == 1:
            block.slot = self._take_slot()
            place = _Places([block.slot])
            for axis, array, state in zip(self._axes, self._states, states, strict=True):
                place.write(array, axis, state)

    def _admit(self, sequences: list[Sequence]) -> None:
        """Put the states that new sequences start from into slots."""
        arriving = [s for s in sequences if s.state is not None and s.slot == INITIAL_SLOT]
        if not arriving or not self._states:
            return
        values = self.packing.unpack([sequence.state for sequence in arriving if sequence.state is not None])
        slots = []
        for sequence in arriving:
            sequence.slot = self._take_slot()
            sequence.state = None
            slots.append(sequence.slot)
        places = _Places(slots)
        for axis, states, value in zip(self._axes, self._states, values, strict=True):
            places.write(states, axis, value)

    def _advance(self, sequences: list[Sequence], counts: list[int]) -> None:
        if sequences[0].rows > 1:
            self._advance_block(sequences[0], counts[0])
            return
        given = [s.state for s in sequences if s.state is not None and s.slot == INITIAL_SLOT]
        # A slot is only taken by those that this run leaves unfinished, unless they are mixed with others.
        alike = len(given) == len(sequences)
        before = self.packing.unpack(given) if alike else self._read(sequences)
        plan = _Plan(sequences, counts)
        heads = bool(self.network.heads) and any([sequence.heads for sequence in sequences])
        outputs, after = self._executor.run(
            self._gather(sequences, counts),
            np.array(counts, np.int32),
            before,
            plan.pairs(),
            self._others(sequences, counts) if self._takes_more else (),
            heads=heads,
        )
        if alike:
            for sequence in sequences:
                sequence.state = None
        self._scatter(plan, after)
        plan.hand_out(outputs[0])
        if heads:
            plan.hand_out_heads(self.network, outputs[1:])

    def _read(self, sequences: list[Sequence]) -> list[Array]:
        """The states that sequences go on from, or start from."""
        self._admit(sequences)
        slots = [sequence.slot for sequence in sequences]
        if not any(slots) and len(slots) <= _FIRST_SLOTS:  # all are new
            slots = _FIRST[: len(slots)]
        places = _Places(slots)
        return [places.read(states, axis) for axis, states in zip(self._axes, self._states, strict=True)]

    def _advance_block(self, sequence: Sequence, steps: int) -> None:
        """Advance a block, whose states are kept as the graph gives them."""
        rows, begin = sequence.rows, sequence.cursor
        ends = steps == sequence.remaining
        states = sequence.block or self._first_states(sequence)
        pairs = [np.arange(rows), np.full(rows, steps - 1)] if ends else [np.zeros(0, np.int64)] * 2
        outputs, sequence.block = self._executor.run(
            # (rows, steps, features) or (rows, steps)
            np.ascontiguousarray(sequence.inputs[begin : begin + steps].swapaxes(0, 1), self.network.input_dtype),
            np.full(rows, steps, np.int32),
            states,
            np.stack(pairs, axis=1),
            [np.repeat(one, rows, axis=0) for one in (self._others([sequence], [steps]) if self._takes_more else ())],
        )
        if ends:
            sequence.last_output = outputs[0]

    def _first_states(self, block: Sequence) -> list[Array]:
        """The state that all rows of a block start from."""
        if block.state is None:
            return self._executor.initial_states(block.rows)
        values = self.packing.unpack([block.state])
        return [np.repeat(value, block.rows, axis=axis) for axis, value in zip(self._axes, values, strict=True)]

    def _others(self, sequences: list[Sequence], counts: list[int]) -> list[Array]:
        """As `Network.others`: `(batch, chunk, ...)`, padded with zeros, or `(batch, ...)` each."""
        others = []
        try:
            for at, one in enumerate(self.network.further):
                rows = [s.further[at][s.cursor : s.cursor + steps] for s, steps in zip(sequences, counts, strict=True)]
                padded = np.zeros((len(rows), max(counts), *rows[0].shape[1:]), one.dtype)
                for row, values, steps in zip(padded, rows, counts, strict=True):
                    row[:steps] = values
                others.append(padded)
            for at, one in enumerate(self.network.statics):
                others.append(np.stack([sequence.statics[at] for sequence in sequences]).astype(one.dtype, copy=False))
        except (
            ValueError,
            IndexError,
        ) as error:  # a value that is missing or has another shape: the rows are then run one by one
            raise RuntimeFailure(str(error), None) from None
        if self.network.end is not None:
            ends = [s.ends_after(steps) for s, steps in zip(sequences, counts, strict=True)]
            others.append(self.network.end_values(np.array(ends)))
        return others

    def _gather(self, sequences: list[Sequence], counts: list[int]) -> Array:
        """The next steps of each row, padded with zeros: (batch, chunk, features) or (batch, chunk)."""
        chunk = max(counts)
        if chunk > len(self._zeros):
            self._zeros = np.zeros((2 * chunk, *self._zeros.shape[1:]), self.network.input_dtype)
        parts = []
        for sequence, steps in zip(sequences, counts, strict=True):
            cursor = sequence.cursor
            parts.append(sequence.inputs[cursor : cursor + steps])
            if steps < chunk:
                parts.append(self._zeros[: chunk - steps])
        try:
            data = np.concatenate(parts, dtype=self.network.input_dtype, casting="unsafe")
        except ValueError as error:  # inputs of different shapes: the rows are then run one by one
            raise RuntimeFailure(str(error), None) from None
        return data.reshape(len(sequences), chunk, *data.shape[1:])

    def _scatter(self, plan: "_Plan", after: list[Array]) -> None:
        """Store the states of unfinished rows in slots, and hand out final states and traces."""
        sequences = plan.sequences
        if plan.unfinished:
            slots = []
            for row in plan.unfinished:
                sequence = sequences[row]
                if sequence.slot == INITIAL_SLOT:
                    sequence.slot = self._take_slot()
                slots.append(sequence.slot)
            places, rows = _Places(slots), _Places(plan.unfinished)
            for axis, states, value in zip(self._axes, self._states, after, strict=True):
                places.write(states, axis, rows.read(value, axis))
        if plan.final:
            for row, state in zip(plan.final, self.packing.pack(after, plan.final), strict=True):
                sequences[row].final_state = state
        if plan.traced:
            for row, state in zip(plan.traced, self.packing.pack(after, plan.traced), strict=True):
                trace = sequences[row].trace = sequences[row].trace or []
                trace.append(state)

    def _advance_singly(self, batch: Batch) -> None:
        """After a batch failed: run each row alone, so that only the faulty one fails."""
        for sequence, steps in zip(batch.sequences, batch.counts, strict=True):
            try:
                self._advance([sequence], [steps])
            except RunStopped:
                raise
            except RuntimeFailure as failure:
                where = f" at {failure.node}" if failure.node else ""
                sequence.error = ModelFailed(f"the model failed on this sequence{where}")

    def _take_slot(self) -> int:
        if not self._free:
            self._grow(self._num_slots)
        return heappop(self._free)  # the lowest, so that those of a batch are often neighbours

    def _grow(self, more: int) -> None:
        self._states = [
            np.concatenate([states, np.repeat(state.initial, more, axis=state.batch_axis)], axis=state.batch_axis)
            for state, states in zip(self.network.states, self._states, strict=True)
        ]
        self._free += range(self._num_slots, self._num_slots + more)
        self._num_slots += more


class _Plan:
    """The rows whose states are kept after a run, and the outputs that each sequence gets.

    A sequence that returns `steps` gets the output of each step, any other one that of its last step.
    """

    def __init__(self, sequences: list[Sequence], counts: list[int]) -> None:
        unfinished: list[int] = []
        final: list[int] = []
        traced: list[int] = []
        receivers: list[tuple[Sequence, int]] = []
        rows: list[int] = []
        selected: list[int] = []
        for row, (sequence, steps) in enumerate(zip(sequences, counts, strict=True)):
            ends = steps == sequence.remaining
            fed = sequence.feedback is not None
            if not ends or (fed and not sequence.anew):
                unfinished.append(row)
            if ends and sequence.keep_state:
                final.append(row)
            if sequence.keep_trace:
                traced.append(row)
            if sequence.returns == "steps" and not fed:
                receivers.append((sequence, steps))
                rows += [row] * steps
                selected += range(steps)
            elif ends:
                receivers.append((sequence, 1))
                rows.append(row)
                selected.append(steps - 1)

        self.sequences = sequences
        self.unfinished, self.final, self.traced = unfinished, final, traced
        self._receivers, self._rows, self._steps = receivers, rows, selected

    def pairs(self) -> Array:
        """The (row, step) pairs to decode, int64 `(selected, 2)`."""
        return np.array([self._rows, self._steps], np.int64).T.copy()

    def hand_out(self, outputs: Array) -> None:
        """Give the selected outputs, `(selected, output_size)`, to their sequences."""
        for sequence, rows in self._split(outputs):
            if sequence.feedback is None:
                sequence.outputs.append(rows)
                _check_last(sequence, rows)
            else:
                sequence.last_output = rows[-1]

    def hand_out_heads(self, network: Network, heads: list[Array]) -> None:
        """Give the selected rows of each head, `(selected, size)`, to the sequences that want them.

        Of a `final` head only the last row is given.
        """
        for at, (head, outputs) in enumerate(zip(network.heads, heads, strict=True)):
            for sequence, rows in self._split(outputs):
                if not sequence.heads:
                    continue
                _check_last(sequence, rows)
                if not sequence.head_outputs:
                    sequence.head_outputs = tuple([] for _ in heads)
                if head.role == "final" and network.outputs != "selected":
                    sequence.head_outputs[at][:] = [rows[-1:]]
                else:
                    sequence.head_outputs[at].append(rows)

    def _split(self, outputs: Array) -> Iterator[tuple[Sequence, Array]]:
        """Each sequence with its rows of an output."""
        if len(self._receivers) == 1:
            # A sequence that is run alone may have an output with another number of steps.
            sequence, steps = self._receivers[0]
            yield sequence, outputs if sequence.returns == "steps" and sequence.feedback is None else outputs[-steps:]
            return
        at = 0
        for sequence, steps in self._receivers:
            yield sequence, outputs[at : at + steps]
            at += steps


def _check_last(sequence: Sequence, rows: Array) -> None:
    """Set `error` if the last step of an output is wanted that has none, as one of a slower clock may."""
    if not len(rows) and sequence.returns == "final":
        steps = len(sequence.inputs)
        sequence.error = ModelFailed(f"the model gives no output for a sequence of length {steps}: it is too short")


class _Places:
    """Some places on the batch axis of state arrays. If each is the one after the last, they are a view of it."""

    __slots__ = ("_indices",)

    def __init__(self, places: list[int]) -> None:
        first, end = places[0], places[0] + len(places)
        neighbours = places[-1] == end - 1 and places == list(range(first, end))
        self._indices: Any = slice(first, end) if neighbours else np.array(places)

    def read(self, array: Array, axis: int) -> Array:
        """What is there."""
        if self._indices.__class__ is slice:
            return array[(slice(None),) * axis + (self._indices,)]
        found: Array = array.take(self._indices, axis)
        return found

    def write(self, array: Array, axis: int, values: Array) -> None:
        """Put values there."""
        array[(slice(None),) * axis + (self._indices,)] = values
