"""Decodes JSON requests for one model straight into typed lists and arrays."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from elman.codec.arrays import features_array, numbers_array, signal_array, tokens_array
from elman.codec.faults import decode_body, echoed, invalid_field
from elman.codec.input_format import InputFormat
from elman.codec.limits import MAX_LISTS, Limits, check_lists
from elman.codec.numbers import NotPlain, read_numbers
from elman.codec.requests import NewSession, PredictRequest, StepsRequest
from elman.codec.tensors import json_type, object_type, tensor_array
from elman.codec.text import Unknown, read_text
from elman.engine.sequence import Inputs
from elman.errors import InvalidField, TooLong
from elman.repository.network import Array

# The type of the other fields of a plain body. Making it takes several microseconds.
_PLAIN_STEPS = StepsRequest[Any]


def place_of(index: int, many: bool) -> str:
    """The `where` of a sequence, such as `sequences[3]`."""
    return f"sequences[{index}]" if many else "sequence"


MANY_SEQUENCES = 500
"""With more sequences, a request is decoded in the codec pool, and its answer is encoded there."""

# The inputs of more sequences come from the codec pool in a bundle.
_FEW_INPUTS = 16

# What inputs have beside their data, if it is nothing.
_DATA_ALONE = Inputs(np.zeros(0))[1:]


class ManySequences(Exception):
    """A request has more sequences than were to be decoded at once."""


@dataclass(frozen=True)
class JSONDecoder:
    """Decodes the requests of one model. Can be pickled, for the codec pool.

    The types of a body follow the model's input. So a string or a boolean among numbers is refused by the decoder, and
    never becomes a number.
    """

    format: InputFormat
    limits: Limits

    def predict(self, content: bytes, most: int | None = None) -> tuple[PredictRequest[Any, Any], list[Inputs]]:
        """A predict request and its sequences. Raises ManySequences if there are more than `most`.

        The data of a sequence is `(length, features)` in the network's dtype, `(length,)` token ids, or float32
        `(samples,)` for a model of frames, not cut yet. Raises RequestError with the `where` of the first error.
        """
        plain = self._plain(content, self._plain_predict)
        if plain is None:
            request = decode_body(self._predict, content)
            items, many = _items(request)
        else:
            request, items, many = plain
        if many and len(items) > self.limits.max_sequences:
            raise TooLong(
                f"the request has {len(items)} sequences",
                where="sequences",
                expected=f"at most {self.limits.max_sequences} sequences",
            )
        if most is not None and len(items) > most:
            raise ManySequences
        if isinstance(request.state, list) and len(request.state) != len(items):
            raise InvalidField(
                f"there are {len(request.state)} states for {len(items)} sequences",
                where="state",
                expected="one state for all sequences, or one for each",
            )
        if request.heads:
            self.check_heads(request.heads)
        if request.static is None and not (self.format.statics or self.format.further or self.format.tokens):
            inputs = [Inputs(self.array(item, place_of(index, many))) for index, item in enumerate(items)]
        else:
            statics = self.statics_of_each(request.static, len(items), many, held=request.state is not None)
            inputs = [
                self.inputs(item, place_of(index, many), one)
                for index, (item, one) in enumerate(zip(items, statics, strict=True))
            ]
        request.sequence, request.sequences = (UNSET, [None]) if many else (None, UNSET)
        request.static = None
        return request, inputs

    def steps(self, content: bytes, defaults: Mapping[str, Any]) -> tuple[StepsRequest[Any], Inputs]:
        """A steps request and its sequence. Options that the body leaves out are set from `defaults`, by attribute.

        Raises RequestError with the `where` of the first error.
        """
        plain = self._plain(content, _PLAIN_STEPS)
        if plain is not None and not plain[2]:
            request, (item,), _ = plain
        else:
            request = decode_body(self._steps, content)
            item = request.sequence
        if defaults:
            given = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            for name, value in defaults.items():
                if ("return" if name == "returns" else name) not in given:
                    setattr(request, name, value)
        request.sequence = None
        self.check_heads(request.heads)
        return request, self.inputs(item, "sequence")

    def session(self, content: bytes) -> tuple[NewSession[Any], tuple[Array, ...]]:
        """A request for a new session and its static inputs. An empty body is a request without options.

        Raises RequestError with the `where` of the first error.
        """
        request: NewSession[Any] = decode_body(self._session, content or b"{}")
        statics = self.statics(request.static, held=request.state is not None)
        request.static = None
        return request, statics

    def array(self, item: Any, where: str) -> Array:
        """One decoded sequence of numbers or token ids as an array, as in `predict`. Raises RequestError."""
        convert: Callable[..., Array] = features_array
        if isinstance(item, np.ndarray):
            convert = numbers_array
        elif self.format.tokens:
            convert = tokens_array
        elif self.format.frames:
            convert = signal_array
        return convert(item, self.format, where, self.limits)

    def inputs(self, item: Any, where: str, statics: tuple[Array, ...] = ()) -> Inputs:
        """One decoded sequence and its static inputs. Raises RequestError."""
        further = self.format.further
        if not further:
            data, unknown = self.read(item, where)
            return Inputs(data, (), statics, unknown)
        values = [getattr(item, name) for name in item.__struct_fields__]
        data, unknown = self.read(values[0], f"{where}.{self.format.data}")
        arrays = []
        for tensor, value in zip(further, values[1:], strict=True):
            place = f"{where}.{tensor.name}"
            arrays.append(tensor_array(value, tensor, place, self.limits))
            if len(arrays[-1]) != len(data):
                raise InvalidField(
                    f"{tensor.name!r} has {len(arrays[-1])} steps, {self.format.data!r} has {len(data)}",
                    where=place,
                    expected=f"{len(data)} steps",
                )
        return Inputs(data, tuple(arrays), statics, unknown)

    def read(self, item: Any, where: str) -> tuple[Array, Unknown]:
        """One decoded sequence as an array, and its unknown characters if it is a text. Raises RequestError."""
        if isinstance(item, str):
            return read_text(item, self.format, where, self.limits)
        return self.array(item, where), ()

    def statics(self, decoded: Any, where: str = "static", *, held: bool = False) -> tuple[Array, ...]:
        """The static inputs of one sequence, from an object of class `static`; none where a state `held` them.

        Raises RequestError, also if they are missing.
        """
        tensors = self.format.statics
        if held or not tensors:
            if decoded is not None:
                raise InvalidField(
                    "the state or session has its static inputs already" if held else "the model has no static inputs",
                    where=where,
                    expected="no static",
                )
            return ()
        if decoded is None:
            raise InvalidField("the static inputs are missing", where=where, expected=[one.name for one in tensors])
        values = [getattr(decoded, name) for name in decoded.__struct_fields__]
        return tuple(
            tensor_array(value, tensor, f"{where}.{tensor.name}", self.limits)
            for tensor, value in zip(tensors, values, strict=True)
        )

    def statics_in(self, value: Any) -> tuple[Array, ...]:
        """As `statics`, from decoded JSON: an object by name, or None. Raises RequestError."""
        try:
            return self.statics(None if value is None else msgspec.convert(value, self.static))
        except msgspec.ValidationError as error:
            text, _, place = str(error).partition(" - at `$")
            raise invalid_field(f"{text} - at `$.static{place or '`'}", self._session.type) from None

    def check_heads(self, heads: list[str]) -> None:
        """Raise InvalidField if the model has no such head."""
        for index, name in enumerate(heads):
            if name not in self.format.heads:
                raise InvalidField(
                    f"the model has no head {echoed(name)!r}",
                    where=f"heads[{index}]",
                    expected=list(self.format.heads) or "no heads",
                )

    def statics_of_each(
        self, static: Any, num_sequences: int, many: bool, *, held: bool = False
    ) -> list[tuple[Array, ...]]:
        """The static inputs of each sequence, from one object of class `static` or a list. Raises RequestError.

        many: whether the request may have a list.
        """
        if not isinstance(static, list) or held:
            return [self.statics(static, held=held)] * num_sequences
        if not many:
            raise InvalidField("static is a list, for one sequence", where="static", expected="an object by name")
        if len(static) != num_sequences:
            raise InvalidField(
                f"there are {len(static)} objects of static inputs for {num_sequences} sequences",
                where="static",
                expected="one object for all sequences, or a list with one for each",
            )
        return [self.statics(one, f"static[{index}]") for index, one in enumerate(static)]

    @cached_property
    def static(self) -> Any:
        """The class of the static inputs in JSON."""
        return object_type("Statics", [(one.name, json_type(one)) for one in self.format.statics])

    @cached_property
    def item(self) -> Any:
        """The type of a sequence in JSON."""
        further = self.format.further
        if not further:
            return self._data
        return object_type("Inputs", [(self.format.data, self._data), *((one.name, json_type(one)) for one in further)])

    @cached_property
    def _data(self) -> Any:
        """The type of the data of a sequence in JSON."""
        if self.format.tokens:
            return list[int] | str
        if self.format.frames:
            return list[float]
        number: Any = float if self.format.missing is None else float | None
        return list[list[number] | number] if self.format.features == 1 else list[list[number]]

    @cached_property
    def _plain_predict(self) -> Any:
        """The type of the other fields of a plain body."""
        return PredictRequest[Any, self.static]  # type: ignore[name-defined]

    @cached_property
    def _predict(self) -> Any:
        return msgspec.json.Decoder(PredictRequest[self.item, self.static])  # type: ignore[name-defined]

    @cached_property
    def _steps(self) -> Any:
        return msgspec.json.Decoder(StepsRequest[self.item])  # type: ignore[name-defined]

    @cached_property
    def _session(self) -> Any:
        return msgspec.json.Decoder(NewSession[self.static])  # type: ignore[name-defined]

    @cached_property
    def _width(self) -> int | None:
        """Numbers per row for `read_numbers`; None if a sequence is not a list of numbers or rows."""
        if self.format.further:
            return None
        return 0 if self.format.frames else self.format.features

    def _plain(self, content: bytes, kind: Any) -> tuple[Any, list[Any], bool] | None:
        """As `read_numbers`, with the options in a request of class `kind`; None if the body is not plain or valid.

        Raises TooLarge.
        """
        if self._width is None:
            return None
        if len(content) > MAX_LISTS:
            check_lists(content)
        try:
            fields, items, many = read_numbers(content, self._width)
            if not fields:  # there are no options to check
                return kind.__origin__(sequence=None), items, many
            fields["sequence"] = None
            return msgspec.convert(fields, kind), items, many
        except (NotPlain, msgspec.ValidationError):
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {"format": self.format, "limits": self.limits}


@dataclass(frozen=True)
class Bundle:
    """Many inputs that are data alone, as one array: one takes far less time to send to another process than many."""

    data: Array
    lengths: list[int]

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Inputs]:
        return (Inputs(self.data[start:end]) for start, end in pairwise(accumulate(self.lengths, initial=0)))


def predict_bundled(decoder: JSONDecoder, content: bytes) -> tuple[PredictRequest[Any, Any], list[Inputs] | Bundle]:
    """As `predict`, in the codec pool. Many inputs come in a bundle, if they can."""
    request, inputs = decoder.predict(content)
    if len(inputs) <= _FEW_INPUTS or any([one[1:] != _DATA_ALONE for one in inputs]):
        return request, inputs
    return request, Bundle(np.concatenate([one.data for one in inputs]), [len(one.data) for one in inputs])


def _items(request: PredictRequest[Any, Any]) -> tuple[list[Any], bool]:
    """The sequences of a decoded request, and whether they came as `sequences`. Raises InvalidField."""
    if (request.sequence is UNSET) == (request.sequences is UNSET):
        raise InvalidField(
            "the body needs either sequence, for one, or sequences, for many",
            expected=["sequence", "sequences"],
        )
    many = request.sequence is UNSET
    return (list(request.sequences or ()) if many else [request.sequence]), many
