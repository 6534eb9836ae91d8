"""Text to token ids: one character a token, in the Unicode form that the vocabulary has."""

from collections import Counter
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
    table = format.token_ids
    if table is None:
        raise InvalidField(f"{format.name} has no vocabulary, so it takes no text", where=where, expected="token ids")
    read = format.normalised(text)
    check_length(len(read), where, limits)
    unknown = table.get(format.unknown) if format.unknown is not None else None
    ids = [table.get(character, unknown) for character in read]
    if None in ids:
        step = ids.index(None)
        counted = "" if read == text else ". Its place is counted in the text's NFC form"
        raise UnknownToken(f"the character {read[step]!r} is not in the vocabulary{counted}", where=f"{where}[{step}]")
    return np.array(ids, format.numpy_dtype), _missing(read, table) if unknown in ids else ()


def _missing(text: str, table: dict[str, int]) -> Unknown:
    return tuple(Counter([one for one in text if one not in table]).items())[:_MOST_UNKNOWN]


def listed_unknown(unknown: Unknown) -> list[dict[str, Any]]:
    """The field `unknown` of an answer."""
    return [{"character": one, "count": count} for one, count in unknown]
