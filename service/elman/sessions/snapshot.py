"""What is kept of a sequence between two requests: the state, the last output, and the unread end of a signal."""

import struct
from dataclasses import dataclass

import numpy as np

from elman.engine.packing import Packing
from elman.repository.feeding import feeds_on
from elman.repository.model import Model
from elman.repository.network import Array

_COUNT = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a sequence stands.

    Attributes:
        state: packed by `Packing`.
        output: the last output, float32 `(output_size,)`; None if the model does not feed on it, or gave none yet.
        carry: samples of a signal that completed no window yet, float32 `(samples,)`; None where the input is no
            signal.
    """

    state: bytes
    output: Array | None = None
    carry: Array | None = None


class SnapshotFormat:
    """Snapshots of one model as bytes. All have one length, so that a store never has to move them."""

    def __init__(self, model: Model) -> None:
        packing, network = Packing(model.network), model.network
        spec = model.spec.input
        self._state_nbytes = packing.nbytes
        self._output_size = network.output_size if feeds_on(model) else 0
        # What is left over is always less than a window.
        self._most_carry = max(network.features or 0, spec.left_pad) if model.frames else 0
        self.feeds_on = bool(self._output_size)
        initial = packing.pack([state.initial for state in network.states], [0])[0]
        carry = np.zeros(spec.left_pad, np.float32) if model.frames else None
        self.first = Snapshot(initial, None, carry)
        self.nbytes = len(self.pack(self.first))

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
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def unpack(self, content: bytes) -> Snapshot:
        """The inverse of `pack`. Raises ValueError if the bytes have not the length of this model's snapshots."""
        at = self._state_nbytes
        if len(content) != self.nbytes:
            raise ValueError(f"a snapshot of {len(content)} bytes, where this model's have {self.nbytes}")
        output = carry = None
        if self._output_size:
            (known,) = _COUNT.unpack_from(content, at)
            at += _COUNT.size
            if known:
                output = np.frombuffer(content, "<f4", self._output_size, at)
            at += 4 * self._output_size
        if self._most_carry:
            (size,) = _COUNT.unpack_from(content, at)
            carry = np.frombuffer(content, "<f4", size // 4, at + _COUNT.size)
        return Snapshot(content[: self._state_nbytes], output, carry)
