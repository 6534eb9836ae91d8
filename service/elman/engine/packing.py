"""State as bytes: every tensor of a row, one after the other, so that a state can be stored, sealed and moved."""

import numpy as np

from elman.repository.network import Array, Network


class Packing:
    """Turns the state arrays of a batch into one block of bytes a row, and back.

    A packed state holds the tensors in the network's order, each row-major, little-endian, without the batch axis.
    """

    def __init__(self, network: Network) -> None:
        self._states = network.states
        self._sizes = [state.nbytes for state in network.states]
        self.nbytes = sum(self._sizes)

    def pack(self, values: list[Array], rows: list[int]) -> list[bytes]:
        """The states of some rows, of arrays with the batch on the axis of each."""
        if not self._states:
            return [b""] * len(rows)
        parts = []
        for state, value in zip(self._states, values, strict=True):
            taken = np.moveaxis(value.take(rows, axis=state.batch_axis), state.batch_axis, 0)
            parts.append(np.ascontiguousarray(taken).reshape(len(rows), -1).view(np.uint8))
        block = (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)).tobytes()
        return [block[at : at + self.nbytes] for at in range(0, len(block), self.nbytes)]

    def unpack(self, states: list[bytes]) -> list[Array]:
        """Packed states as arrays with the batch on the axis of each. The inverse of `pack`."""
        if not self._states:
            return []
        block = np.frombuffer(b"".join(states), np.uint8).reshape(len(states), self.nbytes)
        values, at = [], 0
        for state, size in zip(self._states, self._sizes, strict=True):
            part = np.ascontiguousarray(block[:, at : at + size]).view(state.dtype)
            values.append(np.moveaxis(part.reshape(len(states), *state.row_shape), 0, state.batch_axis))
            at += size
        return values

    def trace(self, states: list[bytes]) -> dict[str, Array]:
        """Packed states, one a step, by the name of each tensor: `(steps, numbers)` in its dtype."""
        values = self.unpack(states)
        return {
            state.name: np.ascontiguousarray(np.moveaxis(value, state.batch_axis, 0)).reshape(len(states), -1)
            for state, value in zip(self._states, values, strict=True)
        }
