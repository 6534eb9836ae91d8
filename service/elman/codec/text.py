"""Text to token ids: one character a token, in the Unicode form that the vocabulary has."""

from typing import Any

import numpy as np

from elman.codec.arrays import check_length
from elman.codec.input_format import InputFormat
from elman.codec.limits import Limits
from elman.errors import InvalidField, UnknownToken
from elman.repository.network import Array

Unknown = tuple[tuple[str, int], ...]
"""Characters that are not in the vocabulary, each with its count."""

# Most different characters that an answer lists as unknown.
_MOST_UNKNOWN = 20


def read_text(text: str, format: InputFormat, where: str, limits: Limits) -> tuple[Array, Unknown]:
    """The token ids of the characters of a string, `(length,)`, and the characters that are not in the vocabulary.

    Of those the first 20 different ones are listed. Raises EmptySequence, TooLong, UnknownToken, and InvalidField if
    the model has no vocabulary.
    """
    if format.token_ids is None:
        raise InvalidField(f"{format.name} has no vocabulary, so it takes no text", where=where, expected="token ids")
    read = format.normalised(text)
    check_length(len(read), where, limits)
    codes = np.frombuffer(read.encode("utf-32-le", "surrogatepass"), np.uint32)
    ids = format.character_ids.take(codes, mode="clip")
    unknown: Unknown = ()
    if ids.min() < 0:
        missing = ids < 0
        instead = None if format.unknown is None else format.token_ids.get(format.unknown)
        if instead is None:
            step = int(missing.argmax())
            counted = "" if read == text else ". Its place is counted in the text's NFC form"
            raise UnknownToken(
                f"the character {read[step]!r} is not in the vocabulary{counted}", where=f"{where}[{step}]"
            )
        unknown = _counted(codes[missing])
        ids[missing] = instead
    return ids.astype(format.numpy_dtype, copy=False), unknown


def _counted(codes: Array) -> Unknown:
    """The first different characters, by their code points, each with its count."""
    found: list[tuple[str, int]] = []
    while len(codes) and len(found) < _MOST_UNKNOWN:
        others = codes != codes[0]
        found.append((chr(codes[0]), len(codes) - int(np.count_nonzero(others))))
        codes = codes[others]
    return tuple(found)


def listed_unknown(unknown: Unknown) -> list[dict[str, Any]]:
    """The field `unknown` of an answer."""
    return [{"character": one, "count": count} for one, count in unknown]
