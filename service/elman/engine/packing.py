"""State as bytes: all state tensors of a row, one after the other, to be stored or put into a token."""

import numpy as np

from elman.repository.network import Array, Network


class Packing:
    """Turns the state arrays of a batch into one block of bytes per row, and back.

    A packed state holds the tensors in the network's order, each row-major, little-endian, without the batch axis.
    """

    def __init__(self, network: Network) -> None:
        self._states = network.states
        self._sizes = [state.nbytes for state in network.states]
        # The axes with the batch axis first, and those of an array with the batch axis first as the network has them.
        self._first = [_moved(state.initial.ndim, state.batch_axis, 0) for state in network.states]
        self._back = [_moved(state.initial.ndim, 0, state.batch_axis) for state in network.states]
        self.nbytes = sum(self._sizes)

    def pack(self, values: list[Array], rows: list[int]) -> list[bytes]:
        """The packed states of `rows`. `values` holds one array per state tensor, with its batch axis."""
        if not self._states:
            return [b""] * len(rows)
        parts = []
        for state, axes, value in zip(self._states, self._first, values, strict=True):
            selected = value.take(rows, axis=state.batch_axis).transpose(axes)
            parts.append(np.ascontiguousarray(selected).reshape(len(rows), -1).view(np.uint8))
        block = (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)).tobytes()
        return [block[at : at + self.nbytes] for at in range(0, len(block), self.nbytes)]

    def unpack(self, states: list[bytes]) -> list[Array]:
        """The inverse of `pack`: one array per state tensor, with its batch axis."""
        if not self._states:
            return []
        block = np.frombuffer(b"".join(states), np.uint8).reshape(len(states), self.nbytes)
        values, at = [], 0
        for state, axes, size in zip(self._states, self._back, self._sizes, strict=True):
            part = np.ascontiguousarray(block[:, at : at + size]).view(state.dtype)
            values.append(part.reshape(len(states), *state.row_shape).transpose(axes))
            at += size
        return values

    def trace(self, states: list[bytes]) -> dict[str, Array]:
        """Packed states, one per step, as an array per tensor name: `(steps, numbers)` in the tensor's dtype."""
        values = self.unpack(states)
        return {
            state.name: np.ascontiguousarray(np.moveaxis(value, state.batch_axis, 0)).reshape(len(states), -1)
            for state, value in zip(self._states, values, strict=True)
        }


def _moved(ndim: int, source: int, destination: int) -> list[int]:
    """The order of `ndim` axes in which one is moved, as by `np.moveaxis`, which takes longer than the rest."""
    axes = [axis for axis in range(ndim) if axis != source]
    axes.insert(destination, source)
    return axes
