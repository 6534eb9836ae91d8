"""The proof at load: does a network give the same bits whole, in chunks, step by step and among strangers?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from elman.repository.executor import Executor
from elman.repository.network import Array, Network
from elman.repository.runtime import GraphSession, RuntimeFailure

Batched = Literal["ragged", "equal", "alone"]

_LENGTHS = (1, 2, 5, 9, 17, 24)
# Rows of the largest batch that is proved, which is the largest that a calibration takes.
_MANY_ROWS = 64
# A neighbour this much larger than the others drags along whatever is scaled over a whole batch.
_WILD = 1e3
# Past this share of the output's magnitude a difference is no rounding: the output hangs on later steps.
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
    """

    batched: Batched
    chunked: bool
    streaming: bool
    exact: bool
    tolerance: float
    min_rows: int
    reason: str | None


@dataclass(frozen=True)
class _Answer:
    steps: Array  # (length, output_size), or (1, output_size) where only the last step is decoded
    states: list[Array]


def prove(network: Network) -> Proof:
    """Run probe sequences of the network's own kind every way that the server might, and compare bits.

    Raises RuntimeFailure where it does not even run on them alone.
    """
    session = GraphSession(network.model)
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


def _prove(executor: Executor, data: list[Array]) -> Proof:
    network = executor.network
    whole = [_run(executor, [row], chunk=len(row))[0] for row in data]
    proof = Proof("ragged", True, bool(network.states), True, 0.0, executor.min_rows, None)
    proof = _prove_chunks(executor, data, whole, proof)
    return _prove_batches(executor, data, whole, proof)


def _prove_chunks(executor: Executor, data: list[Array], whole: list[_Answer], proof: Proof) -> Proof:
    network = executor.network
    if network.look_ahead is not None or not network.forward:
        return replace(proof, chunked=False, streaming=False, reason=network.look_ahead)
    if network.layout == "step":
        return proof
    worst = 0.0
    for chunk in (1, 4, 7):
        seen = _attempt(executor, [[row] for row in data], chunk)
        worst = max(worst, _difference(whole, seen))
    if worst == 0.0:
        return proof
    scale = max(float(np.abs(answer.steps).max(initial=0.0)) for answer in whole) or 1.0
    if worst > _ROUNDING * scale:
        return replace(
            proof,
            chunked=False,
            streaming=False,
            reason=f"cut in chunks its outputs move by {worst:.2g}: "
            f"{network.mixes_time or 'an operator of it'} combines steps",
        )
    return replace(
        proof,
        chunked=False,
        exact=False,
        tolerance=worst,
        reason=f"cut in chunks its outputs move by {worst:.2g}",
    )


def _prove_batches(executor: Executor, data: list[Array], whole: list[_Answer], proof: Proof) -> Proof:
    network = executor.network
    if network.max_rows == 1:
        return replace(proof, batched="alone", reason=proof.reason or "its graph takes one sequence at a time")
    worst = 0.0
    if network.ragged or network.layout == "step":
        worst = _worst_batch(executor, [*data, *_wild(data)], len(data), whole, proof)
        if worst == 0.0:
            return proof
    equal = [np.resize(row, (9, *row.shape[1:])) for row in [*data, *_wild(data)]]
    alone = [_run(executor, [row], chunk=9)[0] for row in equal[: len(data)]]
    moved = _worst_batch(executor, equal, len(data), alone, proof)
    if moved == 0.0:
        reason = proof.reason or "padding of shorter sequences reaches its outputs"
        return replace(proof, batched="equal", reason=reason)
    why = f"among other sequences its outputs move by {min(worst or moved, moved):.2g}"
    return replace(proof, batched="alone", reason="; ".join(filter(None, [proof.reason, why])))


def _worst_batch(executor: Executor, rows: list[Array], count: int, alone: list[_Answer], proof: Proof) -> float:
    """The largest difference of the first `count` rows in batches, whole and, where that holds, in chunks."""
    chunks = [max(map(len, rows))] + ([1, 5] if proof.chunked else [])
    worst = 0.0
    for chunk in chunks:
        seen = _attempt(executor, [rows], chunk)
        worst = max(worst, _difference(alone, seen and seen[:count]))
    # A large batch goes through other blocks of the matrix products than a small one.
    many = rows + [row[::-1].copy() for row in rows * (_MANY_ROWS // len(rows))]
    seen = _attempt(executor, [many[:_MANY_ROWS]], max(map(len, rows)))
    return max(worst, _difference(alone, seen and seen[:count]))


def _attempt(executor: Executor, batches: list[list[Array]], chunk: int) -> list[_Answer] | None:
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


def _tail(answer: _Answer, other: _Answer) -> list[Array]:
    """Where only last steps are decoded, a run in chunks has one a chunk: compare what both have."""
    return [answer.steps[-min(len(answer.steps), len(other.steps)) :], *answer.states]


def _distance(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.tobytes() == b.tobytes():
        return 0.0
    if np.array_equal(a, b, equal_nan=np.issubdtype(a.dtype, np.floating)):
        return 0.0
    with np.errstate(all="ignore"):
        moved = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
    return moved if np.isfinite(moved) and moved > 0.0 else float("inf")


def _run(executor: Executor, rows: list[Array], chunk: int) -> list[_Answer]:
    """Advance `rows` together, `chunk` steps at a time, rows leaving as they end."""
    network = executor.network
    if network.layout == "step":
        chunk = 1
    states = executor.initial_states(len(rows))
    outputs: list[list[Array]] = [[] for _ in rows]
    finals: dict[int, list[Array]] = {}
    live, cursor = list(range(len(rows))), 0
    while live:
        counts = [min(chunk, len(rows[i]) - cursor) for i in live]
        lengths = np.array(counts, np.int32)
        data = _pad([rows[i][cursor : cursor + count] for i, count in zip(live, counts, strict=True)], max(counts))
        pairs = _steps(counts, last=network.outputs == "last")
        out, states = executor.run(data, lengths, states, np.array(pairs, np.int64))
        for (row, _), value in zip(pairs, out, strict=True):
            outputs[live[row]].append(value)
        cursor += max(counts)
        stay = [at for at, i in enumerate(live) if len(rows[i]) > cursor]
        for at, i in enumerate(live):
            if at not in stay:
                finals[i] = _take(executor, states, [at])
        states = _take(executor, states, stay)
        live = [live[at] for at in stay]
    return [_Answer(np.stack(steps), finals[i]) for i, steps in enumerate(outputs)]


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


def _probes(network: Network) -> list[Array]:
    rng = np.random.default_rng(1)
    if network.features is None:
        high = network.vocabulary_size or 2
        return [rng.integers(0, high, length).astype(network.input_dtype) for length in _LENGTHS]
    return [rng.standard_normal((length, network.features)).astype(network.input_dtype) for length in _LENGTHS]


def _wild(data: list[Array]) -> list[Array]:
    """Neighbours of wild magnitude; tokens have none, and are turned round instead."""
    if np.issubdtype(data[0].dtype, np.floating):
        return [(row * data[0].dtype.type(_WILD)).astype(row.dtype) for row in data]
    return [row[::-1].copy() for row in data]
