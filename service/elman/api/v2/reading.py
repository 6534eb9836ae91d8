"""The tensors of a request to sequences of the engine."""

from dataclasses import dataclass

import numpy as np

from elman.api.segment import cut_whole, with_memory
from elman.api.server import ServedModel
from elman.api.v2.messages import Tensor
from elman.api.v2.ports import Ports
from elman.codec.arrays import check_length, check_samples, check_tokens
from elman.codec.datatypes import BYTES
from elman.codec.faults import echoed
from elman.codec.finite import finite
from elman.codec.rows import as_read
from elman.codec.tensors import typed
from elman.codec.text import read_text
from elman.engine.sequence import Inputs
from elman.errors import InvalidField, TooLong, WrongFeatures, WrongLength
from elman.repository.network import Array, InputTensor


@dataclass(slots=True)
class Given:
    """The sequences of a request.

    Attributes:
        inputs: one for each row.
        time: steps of the longest row, padding included.
        single_steps: whether the tensors have no time axis: one step of each row.
        states: the packed state that each row starts from; None for the initial state.
        where: the place of the primary input.
    """

    inputs: list[Inputs]
    time: int
    single_steps: bool
    states: list[bytes] | None
    where: str


def read_tensors(served: ServedModel, tensors: list[Tensor], in_sequence: bool = False, begins: bool = False) -> Given:
    """The sequences that some tensors are. Raises RequestError with the `where` of the first error.

    Args:
        in_sequence: whether they are parts of sequences, which are left as they are given.
        begins: whether they are the first parts. Later ones may leave out the static inputs.
    """
    if not in_sequence and is_plain(served, tensors):
        (tensor,) = tensors
        data = finite(tensor.array, served.format.numpy_dtype, tensor.where)
        return Given(list(map(Inputs, data)), data.shape[1], False, None, tensor.where)
    return _Reader(served, tensors).read(in_sequence, begins)


def is_plain(served: ServedModel, tensors: list[Tensor]) -> bool:
    """Whether tensors are rows of steps and nothing else, within the limits. Any others are left to the reader."""
    ports, limits = served.ports, served.decoder.limits
    if len(tensors) != 1 or not ports.plain:
        return False
    array, name = tensors[0].array, tensors[0].name
    shape = array.shape
    return (
        len(shape) == 3
        and name == ports.data.name
        and array.dtype.kind == "f"
        and shape[2] == served.format.features
        and 0 < shape[0] <= limits.max_sequences
        and 0 < shape[1] <= limits.max_steps
    )


class _Reader:
    """Reads the tensors of one request."""

    def __init__(self, served: ServedModel, tensors: list[Tensor]) -> None:
        self.served = served
        self.ports: Ports = served.ports
        self.format = served.format
        self.limits = served.decoder.limits
        self.named: dict[str, Tensor] = {}
        for tensor in tensors:
            if tensor.name in self.named:
                raise InvalidField(f"the input {echoed(tensor.name)!r} comes twice", where=tensor.where)
            self.named[tensor.name] = tensor

    def read(self, in_sequence: bool, begins: bool) -> Given:
        """The sequences."""
        network = self.served.model.network
        data = self._take(self.ports.data)
        self.where = data.where
        rows, single_steps = self._data(data)
        inputs = [Inputs(one) for one in rows]
        if network.further or network.statics:
            further = [self._further(one, rows, single_steps) for one in network.further]
            needed = not in_sequence or begins or any(one.name in self.named for one in network.statics)
            statics = [self._static(one, len(rows)) for one in network.statics] if needed else []
            for index, one in enumerate(rows):
                inputs[index] = Inputs(
                    one, tuple([value[index] for value in further]), tuple([value[index] for value in statics])
                )
        states = self._states(len(rows)) if self.named else None
        if self.named:
            self._refuse_rest()
        if not in_sequence and (self.format.frames or self.format.remembers or network.window is not None):
            inputs = [self._whole(one, f"{data.where}[{index}]") for index, one in enumerate(inputs)]
        return Given(inputs, max([len(one.data) for one in inputs] + [self.time]), single_steps, states, data.where)

    def _take(self, tensor: InputTensor) -> Tensor:
        """The tensor of an input that a request must have."""
        found = self.named.pop(tensor.name, None)
        if found is None:
            raise InvalidField(
                f"the input {tensor.name!r} is missing",
                where="inputs",
                expected=[name for name, *_ in self.ports.inputs],
            )
        return found

    def _data(self, tensor: Tensor) -> tuple[list[Array], bool]:
        """The rows of the primary input, without their padding, and whether they are single steps."""
        array, format, where = tensor.array, self.format, tensor.where
        self.time = 0
        if tensor.datatype == BYTES:
            return self._texts(tensor), False
        self._check_kind(tensor, "iu" if format.tokens else "fiu", BYTES if format.token_ids is not None else None)
        single_steps = self.served.model.network.layout == "step" and array.ndim == (1 if format.tokens else 2)
        if single_steps:
            array = array[:, None]
        elif format.features == 1 and array.ndim == 2 and not format.frames:
            array = array[..., None]
        wanted = 2 if format.tokens or format.frames else 3
        if array.ndim != wanted or (wanted == 3 and array.shape[2] != format.features):
            shape = next(shape for name, _, shape in self.ports.inputs if name == tensor.name)
            raise WrongFeatures(
                f"the shape is {list(tensor.array.shape)}, the model takes {list(shape)}",
                where=f"{where}.shape",
                expected=list(shape),
            )
        if self.ports.time_first:
            array = array.swapaxes(0, 1)
        lengths = self._lengths(array)
        self.time = 0 if format.frames else array.shape[1]
        if format.frames:
            check_samples(array.shape[1], format, where, self.limits)
        else:
            check_length(array.shape[1], where, self.limits)
        if min(lengths) < array.shape[1]:
            # What is in the padding does not matter.
            real = np.arange(array.shape[1]) < np.array(lengths)[:, None]
            array = np.where(real if array.ndim == 2 else real[..., None], array, array.dtype.type(0))
        array = self._checked(array, where)
        rows = [row[:length] for row, length in zip(array, lengths, strict=True)]
        if format.prepares:
            rows = [as_read(row, format, f"{where}[{index}]") for index, row in enumerate(rows)]
        return rows, single_steps

    def _checked(self, array: Array, where: str) -> Array:
        """Numbers or token ids of all rows in the dtype of the network. Rows in the data's units stay as they are."""
        format = self.format
        if format.tokens:
            return check_tokens(array, format, where)
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
        if format.prepares:
            return array
        return finite(array, np.dtype(np.float32) if format.frames else format.numpy_dtype, where)

    def _texts(self, tensor: Tensor) -> list[Array]:
        """The tokens of texts, `[batch]` or `[batch, 1]`."""
        self._check_kind(tensor, "O" if self.format.token_ids is not None else "")
        rows = tensor.array.reshape(-1)
        if tensor.array.shape not in ((len(rows),), (len(rows), 1)):
            raise WrongFeatures(
                f"the shape is {list(tensor.array.shape)}", where=f"{tensor.where}.shape", expected=[-1]
            )
        self._check_rows(len(rows))
        if any(name in self.named for name in self.ports.lengths):
            raise InvalidField("texts have lengths of their own", where=tensor.where, expected="no lengths")
        read = []
        for index, text in enumerate(rows):
            where = f"{tensor.where}[{index}]"
            try:
                read.append(read_text(text.decode(), self.format, where, self.limits)[0])
            except UnicodeDecodeError:
                raise InvalidField("the text is not valid UTF-8", where=where, expected="UTF-8") from None
        return read

    def _check_rows(self, count: int) -> None:
        most = self.limits.max_sequences
        if not count:
            raise InvalidField("the batch has no rows", where=f"{self.where}.shape", expected="1 row or more")
        if count > most:
            raise TooLong(f"the batch has {count} rows", where=f"{self.where}.shape", expected=f"at most {most} rows")

    def _lengths(self, array: Array) -> list[int]:
        """The number of steps or samples of each row."""
        count, time = array.shape[:2]
        self._check_rows(count)
        names = self.ports.lengths & self.named.keys() if self.named else ()
        if not names:
            return [time] * count
        tensor = self.named.pop(min(names))
        self._check_kind(tensor, "iu")
        lengths = tensor.array
        if lengths.shape not in ((count,), (count, 1)):
            raise WrongLength(f"the shape is {list(lengths.shape)}", where=f"{tensor.where}.shape", expected=[count])
        found: list[int] = lengths.reshape(-1).tolist()
        for index, length in enumerate(found):
            if not 1 <= length <= time:
                raise WrongLength(
                    f"row {index} has a length of {length}, of {time} steps in the tensor",
                    where=f"{tensor.where}[{index}]",
                    expected=f"1 to {time}",
                )
        return found

    def _further(self, one: InputTensor, rows: list[Array], single_steps: bool) -> list[Array]:
        """A further sequence input of each row."""
        tensor = self._take(one)
        array = tensor.array[:, None] if single_steps else tensor.array
        array = array.swapaxes(0, 1) if self.ports.time_first and array.ndim > 1 else array
        array = self._shaped(array, (len(rows), self.time, *one.shape), one, tensor)
        return [
            typed(row[: len(data)], one, f"{tensor.where}[{index}]")
            for index, (row, data) in enumerate(zip(array, rows, strict=True))
        ]

    def _static(self, one: InputTensor, count: int) -> Array:
        """A static input of all rows, `(batch, ...)`."""
        tensor = self._take(one)
        return typed(self._shaped(tensor.array, (count, *one.shape), one, tensor), one, tensor.where)

    def _shaped(self, array: Array, shape: tuple[int | None, ...], one: InputTensor, tensor: Tensor) -> Array:
        """A tensor of the right datatype, in a shape. An extent of 1 at the end may be there or not."""
        self._check_kind(tensor, {"f": "fiu", "b": "b"}.get(one.dtype.kind, "iu"))
        if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
            array = array[..., 0]
        elif array.ndim == len(shape) - 1 and shape[-1] == 1:
            array = array[..., None]
        if array.ndim != len(shape) or any(
            want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
        ):
            expected = [-1 if extent is None else extent for extent in shape]
            raise WrongFeatures(
                f"the shape is {list(tensor.array.shape)}, and {expected} is needed",
                where=f"{tensor.where}.shape",
                expected=expected,
            )
        return array

    def _check_kind(self, tensor: Tensor, kinds: str, other: str | None = None) -> None:
        """Raise InvalidField if a tensor is not of one of some kinds of numpy dtypes."""
        if tensor.array.dtype.kind in kinds:
            return
        names = {"f": "FP16, FP32, FP64 or BF16", "i": "INT8 to INT64", "u": "UINT8 to UINT64", "b": "BOOL"}
        expected = [names[kind] for kind in kinds if kind in names] + ([other] if other else [])
        raise InvalidField(
            f"the input {tensor.name!r} cannot be {tensor.datatype}",
            where=f"{tensor.where}.datatype",
            expected=expected or [one for name, one, _ in self.ports.inputs if name == tensor.name],
        )

    def _states(self, count: int) -> list[bytes] | None:
        """The packed state that each row starts from."""
        states = self.served.model.network.states
        given: dict[int, Array] = {}
        for name in [name for name in self.named if name in self.ports.states]:
            tensor, at = self.named.pop(name), self.ports.states[name]
            state = states[at]
            shape = tuple(count if axis == state.batch_axis else extent for axis, extent in enumerate(state.shape))
            if tensor.array.shape != shape or at in given:
                raise WrongFeatures(
                    f"the shape is {list(tensor.array.shape)}", where=f"{tensor.where}.shape", expected=list(shape)
                )
            self._check_kind(tensor, state.dtype.kind)
            given[at] = finite(tensor.array, state.dtype, tensor.where)
            largest = float(np.abs(given[at]).max(initial=0.0))
            if state.limit is not None and largest > state.limit:
                raise InvalidField(
                    f"the state has {largest:.6g}, and the model rounds it to 8 bits, which end before",
                    where=tensor.where,
                    expected=f"{-state.limit:.6g} to {state.limit:.6g}",
                )
        if not given:
            return None
        missing = [f"state.{one.name}" for at, one in enumerate(states) if at not in given]
        if missing:
            raise InvalidField("the state is not complete", where="inputs", expected=missing)
        return self.served.queue.runner.packing.pack([given[at] for at in range(len(states))], list(range(count)))

    def _refuse_rest(self) -> None:
        tensor = next(iter(self.named.values()))
        filled = {one.name: one.role for one in self.served.model.network.inputs}
        why = f"is filled by the server: it is a {filled[tensor.name]}" if tensor.name in filled else "does not exist"
        raise InvalidField(
            f"the input {echoed(tensor.name)!r} {why}",
            where=f"{tensor.where}.name",
            expected=[*(name for name, *_ in self.ports.inputs), *sorted({*self.ports.lengths, *self.ports.states})],
        )

    def _whole(self, inputs: Inputs, where: str) -> Inputs:
        """A row cut into frames, scaled by its series, or of the one length that the model takes."""
        window = self.served.model.network.window
        inputs = cut_whole(self.served, inputs, where)
        if window is not None and len(inputs.data) != window:
            raise WrongLength(
                f"the row has {len(inputs.data)} steps, the model takes exactly {window}", where=where, expected=window
            )
        return with_memory(self.served, inputs, None, where)
