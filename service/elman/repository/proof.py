"""The proof at load: does a network give the same bits whole, in chunks, step by step and among strangers?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from elman.repository.executor import Executor
from elman.repository.network import Array, Network
from elman.repository.runtime import GraphSession, RuntimeFailure

Batched = Literal["ragged", "equal", "alone"]

_LENGTHS = (1, 2, 5, 9, 17, 24)
# They are so many times as long where fewer than the least number of them are long enough for the graph.
_LONGER = (1, 8, 64)
_FEWEST = 3
# Rows of the largest batch that is proved, which is the largest that a calibration takes.
_MANY_ROWS = 64
# Rows and steps of the run that is tried for blocks of rows, which are fed back and take one step or a few a run.
_BLOCK_ROWS = 512
_BLOCK_STEPS = 2
# A neighbour this much larger than the others drags along whatever is scaled over a whole batch.
_WILD = 1e3
# Past this share of the output's magnitude a difference is no rounding: the output depends on later steps.
_ROUNDING = 0.05


@dataclass(frozen=True)
class Proof:
    """What a network was seen to keep.

    Attributes:
        batched: `ragged`: any lengths share a run; `equal`: only sequences of one length; `alone`: one at a time.
        chunked: a sequence may be cut anywhere and carried on from its state.
        streaming: state can be carried at all, exactly or within `tolerance`.
        exact: everything that the server does with it keeps the bits.
        tolerance: the largest difference seen between ways that the server uses.
        min_rows: rows of the smallest run that agrees with larger ones.
        reason: why not everything holds; None where it does.
        max_rows: rows of the largest run that was seen to agree with a row alone.
    """

    batched: Batched
    chunked: bool
    streaming: bool
    exact: bool
    tolerance: float
    min_rows: int
    reason: str | None
    max_rows: int


@dataclass(frozen=True)
class _Row:
    """One sequence: its steps, those of the further inputs, and its statics."""

    data: Array
    further: tuple[Array, ...] = ()
    statics: tuple[Array, ...] = ()

    def __len__(self) -> int:
        return len(self.data)

    def positive(self) -> "_Row":
        """The same without signs: features may be counts, whose logarithm the network takes."""
        further, statics = (tuple(map(_without_sign, group)) for group in (self.further, self.statics))
        return _Row(_without_sign(self.data), further, statics)

    def reversed(self) -> "_Row":
        return replace(self, data=self.data[::-1].copy(), further=tuple(one[::-1].copy() for one in self.further))

    def resized(self, length: int) -> "_Row":
        """Of another length, begun anew as often as it takes."""
        return replace(self, data=_resized(self.data, length), further=tuple(_resized(o, length) for o in self.further))


@dataclass(frozen=True)
class _Answer:
    outputs: list[Array]  # of each output (length, size), or (1, size) where only the last step is decoded
    states: list[Array]


def prove(network: Network, session: GraphSession) -> Proof:
    """Run probe sequences of the network's own kind every way that the server might, and compare bits.

    session: the network, opened. Raises RuntimeFailure where it does not even run on them alone.
    """
    data = _probes(network)
    proofs = []
    for min_rows in (1, 2):
        if min_rows > (network.max_rows or 2):
            continue
        proof = _prove(Executor(network, min_rows, session), data)
        if proof.exact and proof.reason is None:
            return proof
        proofs.append(proof)
    # The one that keeps most; a single row before two where they keep the same.
    return max(proofs, key=lambda proof: (proof.exact, proof.chunked, proof.batched != "alone", proof.batched))


def _prove(executor: Executor, data: list[_Row]) -> Proof:
    network = executor.network
    if network.mixes_time is not None:
        data = _long_enough(executor, data)
    whole = [_run(executor, [row], chunk=len(row))[0] for row in data]
    numbers = [at for at, answer in enumerate(whole) if all(np.isfinite(one).all() for one in answer.outputs)]
    if len(numbers) >= _FEWEST:
        # What is no number proves nothing.
        data, whole = [data[at] for at in numbers], [whole[at] for at in numbers]
    most = min(_MANY_ROWS, network.max_rows or _MANY_ROWS)
    proof = Proof("ragged", True, bool(network.states), True, 0.0, executor.min_rows, None, most)
    proof = _prove_chunks(executor, data, whole, proof)
    proof = _prove_batches(executor, data, whole, proof)
    return proof if proof.batched == "alone" else _prove_block(executor, data, proof)


def _long_enough(executor: Executor, data: list[_Row]) -> list[_Row]:
    """The rows that the graph runs on, and longer ones where it runs on few. What a window does not fit into fails."""
    for times in _LONGER if executor.network.window is None else (1,):
        rows = [row.resized(times * len(row)) for row in data]
        rows = [row for row in rows if _attempt(executor, [[row]], len(row)) is not None]
        if len(rows) >= _FEWEST:
            return rows
    return rows or data


def _prove_chunks(executor: Executor, data: list[_Row], whole: list[_Answer], proof: Proof) -> Proof:
    network = executor.network
    why = network.mixes_time and f"{network.mixes_time} combines steps"
    if network.window is not None:
        why = why or f"the graph takes {network.window} steps and no other number"
    if why or network.look_ahead is not None:
        return replace(proof, chunked=False, streaming=False, reason=network.look_ahead or why)
    if network.layout == "step":
        return proof
    worst = 0.0
    for chunk in (1, 4, 7):
        seen = _attempt(executor, [[row] for row in data], chunk)
        worst = max(worst, _difference(whole, seen))
    if worst == 0.0:
        return proof
    scale = max(_magnitude(steps) for answer in whole for steps in answer.outputs) or 1.0
    if worst > _ROUNDING * scale:
        return replace(
            proof,
            chunked=False,
            streaming=False,
            reason=f"cut in chunks its outputs move by {worst:.2g}: an operator of it combines steps",
        )
    return replace(
        proof,
        chunked=False,
        exact=False,
        tolerance=worst,
        reason=f"cut in chunks its outputs move by {worst:.2g}",
    )


def _prove_batches(executor: Executor, data: list[_Row], whole: list[_Answer], proof: Proof) -> Proof:
    network = executor.network
    why = "its graph takes one sequence at a time" if network.max_rows == 1 else None
    if network.mixes_rows is not None:
        why = f"{network.mixes_rows} combines the rows of a batch"
    elif network.own_clock:
        why = "its outputs have a number of steps of their own"
    if why:
        reasons = [proof.reason, None if network.max_rows == 1 and proof.reason else why]
        return replace(proof, batched="alone", reason="; ".join(filter(None, reasons)))
    worst = 0.0
    if network.ragged or network.layout == "step":
        worst = _worst_batch(executor, [*data, *_wild(data)], len(data), whole, proof)
        if worst == 0.0:
            return proof
    length = network.window or max(9, min(map(len, data)))
    equal = [row.resized(length) for row in [*data, *_wild(data)]]
    alone = [_run(executor, [row], chunk=length)[0] for row in equal[: len(data)]]
    moved = _worst_batch(executor, equal, len(data), alone, proof)
    if moved == 0.0:
        fixed = "it takes one number of steps" if network.window else "padding of shorter sequences reaches its outputs"
        reason = proof.reason or fixed
        return replace(proof, batched="equal", reason=reason)
    why = f"among other sequences its outputs move by {min(worst or moved, moved):.2g}"
    return replace(proof, batched="alone", reason="; ".join(filter(None, [proof.reason, why])))


def _prove_block(executor: Executor, data: list[_Row], proof: Proof) -> Proof:
    """Try whether each row of a large block gets the bits that it gets alone. A fixed window would take too long."""
    if executor.network.window is not None or executor.network.max_rows is not None:
        return proof
    steps = max(_BLOCK_STEPS, min(map(len, data)))
    if steps > _LENGTHS[-1]:
        return proof
    rows = [row.resized(steps) for row in data]
    alone = [_run(executor, [row], steps)[0] for row in rows]
    block = [index % len(rows) for index in range(_BLOCK_ROWS)]
    seen = _attempt(executor, [[rows[index] for index in block]], steps)
    same = _difference([alone[index] for index in block], seen) == 0.0
    return replace(proof, max_rows=_BLOCK_ROWS) if same else proof


def _worst_batch(executor: Executor, rows: list[_Row], count: int, alone: list[_Answer], proof: Proof) -> float:
    """The largest difference of the first `count` rows in batches, whole and, where that holds, in chunks."""
    chunks = [max(map(len, rows))] + ([1, 5] if proof.chunked else [])
    worst = 0.0
    for chunk in chunks:
        seen = _attempt(executor, [rows], chunk)
        worst = max(worst, _difference(alone, seen and seen[:count]))
    # A large batch goes through other blocks of the matrix products than a small one.
    many = rows + [row.reversed() for row in rows * (_MANY_ROWS // len(rows))]
    seen = _attempt(executor, [many[:_MANY_ROWS]], max(map(len, rows)))
    return max(worst, _difference(alone, seen and seen[:count]))


def _attempt(executor: Executor, batches: list[list[_Row]], chunk: int) -> list[_Answer] | None:
    """The answers of some batches, in order; None where the graph does not run on them."""
    try:
        return [answer for batch in batches for answer in _run(executor, batch, chunk)]
    except RuntimeFailure:
        return None


def _difference(expected: list[_Answer], seen: list[_Answer] | None) -> float:
    """0.0 only where every bit agrees; otherwise the largest difference, infinite where there is no comparing."""
    if seen is None:
        return float("inf")
    return max(
        _distance(a, b)
        for one, other in zip(expected, seen, strict=True)
        for a, b in zip(_tail(one, other), _tail(other, one), strict=True)
    )


def _magnitude(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=0.0))


def _tail(answer: _Answer, other: _Answer) -> list[Array]:
    """Where only last steps are decoded, a run in chunks has one a chunk: compare what both have."""
    shared = zip(answer.outputs, other.outputs, strict=True)
    return [*(one[-min(len(one), len(two)) :] for one, two in shared), *answer.states]


def _distance(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.tobytes() == b.tobytes():
        return 0.0
    with np.errstate(all="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    same = (a == b) | ((a != a) & (b != b))  # what is no number here is none there
    if same.all():
        return 0.0
    moved = float(apart[~same].max())
    return moved if np.isfinite(moved) and moved > 0.0 else float("inf")


def _run(executor: Executor, rows: list[_Row], chunk: int) -> list[_Answer]:
    """Advance `rows` together, `chunk` steps at a time, rows leaving as they end."""
    network = executor.network
    if network.layout == "step":
        chunk = 1
    states = executor.initial_states(len(rows))
    outputs: list[list[list[Array]]] = [[[] for _ in network.answering] for _ in rows]
    finals: dict[int, list[Array]] = {}
    live, cursor = list(range(len(rows))), 0
    while live:
        counts = [min(chunk, len(rows[i]) - cursor) for i in live]
        lengths = np.array(counts, np.int32)
        pieces = [
            [one[cursor : cursor + count] for one in (rows[i].data, *rows[i].further)]
            for i, count in zip(live, counts, strict=True)
        ]
        data, *others = (_pad(list(one), max(counts)) for one in zip(*pieces, strict=True))
        others += [np.stack(one) for one in zip(*(rows[i].statics for i in live), strict=True)]
        if network.end is not None:
            ends = np.array([cursor + count == len(rows[i]) for i, count in zip(live, counts, strict=True)])
            others.append(network.end_values(ends))
        pairs = _steps(counts, last=network.outputs == "last")
        found, states = executor.run(data, lengths, states, np.array(pairs, np.int64), others, heads=True)
        for at, out in enumerate(found):
            for (row, _), value in zip(pairs, out, strict=not network.own_clock):
                outputs[live[row]][at].append(value)
        cursor += max(counts)
        ended = {at for at, i in enumerate(live) if len(rows[i]) <= cursor}
        for at in ended:
            finals[live[at]] = _take(executor, states, [at])
        if ended:
            stay = [at for at in range(len(live)) if at not in ended]
            states, live = _take(executor, states, stay), [live[at] for at in stay]
    answers = [[_steps_of(network, at, one) for at, one in enumerate(found)] for found in outputs]
    return [_Answer(steps, finals[i]) for i, steps in enumerate(answers)]


def _steps_of(network: Network, at: int, rows: list[Array]) -> Array:
    """The rows of an output; of one that answers for the whole sequence, but the last."""
    final = network.answering[at].role == "final" and network.outputs != "selected"
    if not rows:  # an output of steps of its own may have none
        return np.zeros((0, network.answering[at].size), network.answering[at].dtype)
    return np.array(rows[-1:] if final else rows)


def _steps(counts: Iterable[int], last: bool) -> list[tuple[int, int]]:
    return [(row, step) for row, count in enumerate(counts) for step in range(count - 1 if last else 0, count)]


def _take(executor: Executor, states: list[Array], rows: list[int]) -> list[Array]:
    return [
        value.take(rows, axis=state.batch_axis) for state, value in zip(executor.network.states, states, strict=True)
    ]


def _pad(rows: list[Array], time: int) -> Array:
    data = np.zeros((len(rows), time, *rows[0].shape[1:]), rows[0].dtype)
    for at, row in enumerate(rows):
        data[at, : len(row)] = row
    return data


def _resized(data: Array, length: int) -> Array:
    return np.resize(data, (length, *data.shape[1:]))


def _probes(network: Network) -> list[_Row]:
    """Sequences of several lengths: of numbers drawn at random, of positive ones, of zeros, and of one that ends in
    zeros as padding.

    What is no number is the same however it is rounded, and a recurrent node makes a number of it. So an operator that
    is for positive numbers must be given some.
    """
    rng = np.random.default_rng(1)
    lengths = _LENGTHS if network.window is None else (network.window,) * len(_LENGTHS)
    rows = [_probe(network, rng, length) for length in lengths]
    for at in (2, 3, 5):
        rows[at] = rows[at].positive()
    rows[1].data[:] = 0
    rows[4].data[len(rows[4]) // 2 :] = 0
    return rows


def _probe(network: Network, rng: "np.random.Generator", length: int) -> _Row:
    def draw(shape: tuple[int | None, ...], dtype: np.dtype[Any], ids: int | None) -> Array:
        sizes = [extent or 3 for extent in shape]
        if ids is not None or dtype.kind in "iub":
            return rng.integers(0, ids or 2, sizes).astype(dtype)
        return rng.standard_normal(sizes).astype(dtype)

    tokens = network.features is None
    shape = (length,) if network.features is None else (length, network.features)
    data = draw(shape, network.input_dtype, (network.vocabulary_size or 2) if tokens else None)
    return _Row(
        data,
        tuple(draw((length, *one.shape), one.dtype, one.vocabulary_size) for one in network.further),
        tuple(draw(one.shape, one.dtype, one.vocabulary_size) for one in network.statics),
    )


def _without_sign(values: Array) -> Array:
    return np.abs(values) if np.issubdtype(values.dtype, np.floating) else values


def _wild(data: list[_Row]) -> list[_Row]:
    """Neighbours of wild magnitude; tokens have none, and are turned round instead."""
    if np.issubdtype(data[0].data.dtype, np.floating):
        return [replace(row, data=(row.data * row.data.dtype.type(_WILD)).astype(row.data.dtype)) for row in data]
    return [row.reversed() for row in data]
