"""Decodes JSON requests for one model straight into typed lists and arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from elman.codec.arrays import features_array, numbers_array, signal_array, text_array, tokens_array
from elman.codec.faults import decode_body
from elman.codec.input_format import InputFormat
from elman.codec.limits import Limits
from elman.codec.numbers import NotPlain, read_numbers
from elman.codec.requests import PredictRequest, StepsRequest
from elman.errors import InvalidField, TooLong
from elman.repository.network import Array


def place_of(index: int, many: bool) -> str:
    """The `where` of a sequence, such as `sequences[3]`."""
    return f"sequences[{index}]" if many else "sequence"


@dataclass(frozen=True)
class JSONDecoder:
    """Decodes the requests of one model. Can be pickled, for the codec pool.

    The types of a body follow the model's input. So a string or a boolean among numbers is refused by the decoder, and
    never becomes a number.
    """

    format: InputFormat
    limits: Limits

    def predict(self, content: bytes) -> tuple[PredictRequest[Any], list[Array]]:
        """A predict request and its sequences.

        A sequence is `(length, features)` in the network's dtype, `(length,)` token ids, or float32 `(samples,)` for a
        model of frames, not cut yet. Raises RequestError with the `where` of the first error.
        """
        plain = self._plain(content, PredictRequest[Any])
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
        if isinstance(request.state, list) and len(request.state) != len(items):
            raise InvalidField(
                f"there are {len(request.state)} states for {len(items)} sequences",
                where="state",
                expected="one state for all sequences, or one for each",
            )
        arrays = [self.array(item, place_of(index, many)) for index, item in enumerate(items)]
        request.sequence, request.sequences = (UNSET, [None]) if many else (None, UNSET)
        return request, arrays

    def steps(self, content: bytes, defaults: Mapping[str, Any]) -> tuple[StepsRequest[Any], Array]:
        """A steps request and its sequence. Options that the body leaves out are set from `defaults`, by attribute.

        Raises RequestError with the `where` of the first error.
        """
        plain = self._plain(content, StepsRequest[Any])
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
        return request, self.array(item, "sequence")

    def array(self, item: Any, where: str) -> Array:
        """One decoded sequence as an array, as in `predict`. Raises RequestError."""
        convert: Callable[..., Array] = features_array
        if isinstance(item, np.ndarray):
            convert = numbers_array
        elif self.format.tokens:
            convert = text_array if isinstance(item, str) else tokens_array
        elif self.format.frames:
            convert = signal_array
        return convert(item, self.format, where, self.limits)

    @cached_property
    def item(self) -> Any:
        """The type of a sequence in JSON."""
        if self.format.tokens:
            return list[int] | str
        if self.format.frames:
            return list[float]
        return list[list[float] | float] if self.format.features == 1 else list[list[float]]

    @cached_property
    def _predict(self) -> Any:
        return msgspec.json.Decoder(PredictRequest[self.item])  # type: ignore[name-defined]

    @cached_property
    def _steps(self) -> Any:
        return msgspec.json.Decoder(StepsRequest[self.item])  # type: ignore[name-defined]

    @cached_property
    def _width(self) -> int | None:
        """Numbers per row for `read_numbers`; None if a sequence is not of numbers."""
        return 0 if self.format.frames else self.format.features

    def _plain(self, content: bytes, kind: Any) -> tuple[Any, list[Any], bool] | None:
        """As `read_numbers`, with the options in a request of class `kind`; None if the body is not plain or valid."""
        if self._width is None:
            return None
        try:
            fields, items, many = read_numbers(content, self._width)
            fields["sequence"] = None
            return msgspec.convert(fields, kind), items, many
        except (NotPlain, msgspec.ValidationError):
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {"format": self.format, "limits": self.limits}


def _items(request: PredictRequest[Any]) -> tuple[list[Any], bool]:
    """The sequences of a decoded request, and whether they came as `sequences`. Raises InvalidField."""
    if (request.sequence is UNSET) == (request.sequences is UNSET):
        raise InvalidField(
            "the body needs either sequence, for one, or sequences, for many",
            expected=["sequence", "sequences"],
        )
    many = request.sequence is UNSET
    return (list(request.sequences or ()) if many else [request.sequence]), many
