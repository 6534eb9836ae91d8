"""What is kept of a sequence between two requests.

The state, the last output, the static inputs, and the unread end of a signal.
"""

import struct
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from elman.engine.packing import Packing
from elman.repository.feeding import feeds_on
from elman.repository.model import Model
from elman.repository.network import Array, InputTensor, Network

_COUNT = struct.Struct("<i")


# Not frozen, which would take three times as long: each step makes two.
@dataclass(slots=True)
class Snapshot:
    """Where a sequence stands. It is never changed.

    Attributes:
        state: packed by `Packing`.
        output: the last output, float32 `(output_size,)`; None if the model does not feed on it, or gave none yet.
        carry: samples of a signal that completed no window yet, float32 `(samples,)`; None where the input is no
            signal.
        statics: the static inputs, in the order of `Network.statics`.
        recent: for a model of windows, the steps that belong to the next window: the data, then each further input.
        memory: what is kept of the rows, as in `elman.codec.rows`, float64 `(3, features)`; None before the first one,
            and if the model needs nothing of them.
    """

    state: bytes
    output: Array | None = None
    carry: Array | None = None
    statics: tuple[Array, ...] = ()
    recent: tuple[Array, ...] = ()
    memory: Array | None = None


class SnapshotFormat:
    """Snapshots of one model as bytes.

    All snapshots of a sequence have one length, so that a store never has to move them.
    """

    def __init__(self, model: Model) -> None:
        packing, network = Packing(model.network), model.network
        self._packing, self._states = packing, network.states
        told = {name for name, one in model.spec.controls.items() if one.control == "corrid"}
        self._told = next((at for at, state in enumerate(network.states) if state.input in told), None)
        spec = model.spec.input
        self._state_nbytes = packing.nbytes
        self._output_size = network.output_size if feeds_on(model) else 0
        # What is left over is always less than a window.
        self._most_carry = max(network.features or 0, spec.left_pad) if model.frames else 0
        self.feeds_on = bool(self._output_size)
        initial = packing.pack([state.initial for state in network.states], [0])[0]
        carry = np.zeros(spec.left_pad, np.float32) if model.frames else None
        self._statics = network.statics
        self._most_recent = (network.window or 1) - 1 if model.slides else 0
        self._series = _series(network) if self._most_recent else ()
        self._memory = (3, network.features or 0) if spec.remembers else None
        recent = tuple(np.zeros((0, *shape), dtype) for shape, dtype in self._series)
        self.first = Snapshot(initial, None, carry, recent=recent)
        self._nbytes = len(self.pack(self.first))

    def first_of(self, correlation_id: int | str) -> Snapshot:
        """The first snapshot of a sequence with the id that its client gives it, for a graph that is told it.

        Raises ValueError if the graph takes no such number.
        """
        if self._told is None:
            return self.first
        initial = [state.initial for state in self._states]
        number = initial[self._told].dtype
        limits = np.iinfo(number)
        if isinstance(correlation_id, int) and correlation_id > limits.max and number == np.int64:
            correlation_id -= 2**64  # the same 64 bits, with a sign
        if not isinstance(correlation_id, int) or not limits.min <= correlation_id <= limits.max:
            raise ValueError(f"its graph is told the id, as a number of type {number.name}")
        initial[self._told] = np.full_like(initial[self._told], correlation_id)
        return replace(self.first, state=self._packing.pack(initial, [0])[0])

    def pack(self, snapshot: Snapshot) -> bytes:
        """A snapshot as bytes."""
        parts = [snapshot.state]
        if self._output_size:
            output = snapshot.output
            parts.append(_COUNT.pack(output is not None))
            filled = np.zeros(self._output_size, "<f4") if output is None else np.ascontiguousarray(output, "<f4")
            parts.append(filled.tobytes())
        if self._most_carry and snapshot.carry is not None:
            carry = np.ascontiguousarray(snapshot.carry, "<f4").tobytes()
            parts.append(_COUNT.pack(len(carry)))
            parts.append(carry.ljust(4 * self._most_carry, b"\0"))
        if self._series:
            parts.append(_COUNT.pack(len(snapshot.recent[0])))
            for steps, (shape, dtype) in zip(snapshot.recent, self._series, strict=True):
                size = self._most_recent * prod(shape) * dtype.itemsize
                parts.append(np.ascontiguousarray(steps, dtype).tobytes().ljust(size, b"\0"))
        if self._memory:
            memory = snapshot.memory
            parts.append(_COUNT.pack(memory is not None))
            parts.append((np.zeros(self._memory) if memory is None else memory).astype("<f8").tobytes())
        if self._statics:
            values = zip(self._statics, snapshot.statics, strict=False)
            parts += [_pack_static(tensor, value) for tensor, value in values]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def unpack(self, content: bytes) -> Snapshot:
        """The inverse of `pack`. Raises ValueError if the bytes have not the length of this model's snapshots."""
        snapshot, rest = self._unpack(content)
        if rest:
            raise _misfit(content)
        return snapshot

    def unpack_all(self, content: bytes) -> list[Snapshot]:
        """Several snapshots, packed one after the other. Raises ValueError as `unpack` does."""
        snapshots = []
        while content:
            snapshot, content = self._unpack(content)
            snapshots.append(snapshot)
        return snapshots

    def _unpack(self, content: bytes) -> tuple[Snapshot, bytes]:
        """The first snapshot in some bytes, and the bytes after it. Raises ValueError if they are too few."""
        if len(content) < self._nbytes:
            raise _misfit(content)
        at = self._state_nbytes
        statics, rest = [], content[self._nbytes :]
        for tensor in self._statics:
            value, rest = _unpack_static(tensor, rest)
            statics.append(value)
        output = carry = memory = None
        recent: tuple[Array, ...] = ()
        if self._output_size:
            (known,) = _COUNT.unpack_from(content, at)
            at += _COUNT.size
            if known:
                output = np.frombuffer(content, "<f4", self._output_size, at)
            at += 4 * self._output_size
        if self._most_carry:
            (size,) = _COUNT.unpack_from(content, at)
            carry = np.frombuffer(content, "<f4", size // 4, at + _COUNT.size)
        if self._series:
            recent = self._recent(content, at)
        if self._memory:
            memory = self._memory_in(content, self._memory)
        return Snapshot(content[: self._state_nbytes], output, carry, tuple(statics), recent, memory), rest

    def _memory_in(self, content: bytes, shape: tuple[int, int]) -> Array | None:
        """The memory, the last part before the static inputs; None if there is none."""
        at = self._nbytes - 8 * prod(shape)
        (known,) = _COUNT.unpack_from(content, at - _COUNT.size)
        return np.frombuffer(content, "<f8", prod(shape), at).reshape(shape) if known else None

    def _recent(self, content: bytes, at: int) -> tuple[Array, ...]:
        """The steps that belong to the next window, which begin at a position."""
        (count,) = _COUNT.unpack_from(content, at)
        at += _COUNT.size
        recent = []
        for shape, dtype in self._series:
            recent.append(np.frombuffer(content, dtype, count * prod(shape), at).reshape(count, *shape))
            at += self._most_recent * prod(shape) * dtype.itemsize
        return tuple(recent)


def _misfit(content: bytes) -> ValueError:
    return ValueError(f"a snapshot of {len(content)} bytes, which does not fit this model")


def _series(network: Network) -> tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]:
    """The shape of a step and the dtype, of the data and of each further input."""
    data = (() if network.features is None else (network.features,)), network.input_dtype
    return (data, *((tuple(extent or 1 for extent in one.shape), one.dtype) for one in network.further))


def _pack_static(tensor: InputTensor, value: Array) -> bytes:
    """The extents that the model leaves open, and the values."""
    open_extents = [extent for extent, declared in zip(value.shape, tensor.shape, strict=True) if declared is None]
    return b"".join([*map(_COUNT.pack, open_extents), np.ascontiguousarray(value, tensor.dtype).tobytes()])


def _unpack_static(tensor: InputTensor, content: bytes) -> tuple[Array, bytes]:
    """The first static input in some bytes, and the bytes after it. Raises ValueError if they are too few."""
    shape, at = [], 0
    try:
        for declared in tensor.shape:
            if declared is None:
                (declared,) = _COUNT.unpack_from(content, at)
                at += _COUNT.size
            shape.append(declared)
    except struct.error:
        raise ValueError("a snapshot without its static inputs") from None
    size = prod(shape)
    value = np.frombuffer(content, tensor.dtype, size, at).reshape(shape)
    return value, content[at + value.nbytes :]
