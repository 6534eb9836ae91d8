"""Bodies of octets, and the options in their query strings."""

from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.codec.input_format import InputFormat
from elman.codec.limits import Limits
from elman.codec.octets import _pairs, check_no_query, decode_octets, parse_query
from elman.codec.requests import PredictQuery, StepsQuery, StreamQuery
from elman.errors import ElmanError

LIMITS = Limits(max_steps=8, max_sequences=3)
ROWS = InputFormat("rows", "float64", 2)
IDS = InputFormat("ids", "int64", None, vocabulary_size=3)
SIGNAL = InputFormat("signal", "float32", 4, stride=2)


def test_numbers_are_little_endian_and_row_major() -> None:
    array = decode_octets(np.array([[1, 2], [3, 4]], "<f4").tobytes(), ROWS, LIMITS).data
    assert array.dtype == np.float64 and array.tolist() == [[1, 2], [3, 4]]
    assert decode_octets(np.array([2, 0], "<i4").tobytes(), IDS, LIMITS).data.tolist() == [2, 0]
    assert decode_octets(np.array([1, 2, 3], "<f4").tobytes(), SIGNAL, LIMITS).data.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "format", "code"),
    [
        (b"\0" * 12, ROWS, "wrong_features"),
        (b"", ROWS, "empty_sequence"),
        (np.array([[1, np.inf]], "<f4").tobytes(), ROWS, "not_finite"),
        (np.zeros((9, 2), "<f4").tobytes(), ROWS, "too_long"),
        (np.array([3], "<i4").tobytes(), IDS, "unknown_token"),
        (np.zeros(17, "<f4").tobytes(), SIGNAL, "too_long"),
    ],
)
def test_a_fault_has_its_code(content: bytes, format: InputFormat, code: str) -> None:
    with pytest.raises(ElmanError) as caught:
        decode_octets(content, format, LIMITS)
    assert caught.value.code == code


def test_a_query_gives_typed_options() -> None:
    query = parse_query(b"return=steps&decode=false&top=5&timeout=2.5&return_state=true", PredictQuery, PredictQuery)
    assert query == PredictQuery(returns="steps", decode=False, top=5, timeout=2.5, return_state=True)
    assert parse_query(b"", StepsQuery, StepsQuery) == StepsQuery()
    assert parse_query(b"at=7", StepsQuery, StepsQuery).at == 7
    assert parse_query(b"session=ab&ttl=60", StreamQuery, StreamQuery) == StreamQuery(session="ab", ttl=60.0)


@given(text=st.text("at=&&%+20;3é", max_size=12))
def test_a_query_is_split_as_the_library_splits_it(text: str) -> None:
    assert _pairs(text) == parse_qsl(text, keep_blank_values=True)


@pytest.mark.parametrize(
    ("query", "where"),
    [
        (b"top=0", "top"), (b"top=1001", "top"), (b"top=x", "top"), (b"timeout=nan", "timeout"),
        (b"timeout=0", "timeout"), (b"return=all", "return"), (b"decode=yes", "decode"), (b"at=1", "at"),
        (b"speed=9", "speed"), (b"top=1&top=1", "top"), (b"return=", "return"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_named(query: bytes, where: str) -> None:
    with pytest.raises(ElmanError) as caught:
        parse_query(query, PredictQuery, PredictQuery)
    assert (caught.value.code, caught.value.where) == ("invalid_field", where)


def test_the_choices_of_an_option_are_told() -> None:
    with pytest.raises(ElmanError) as caught:
        parse_query(b"return=FINAL", PredictQuery, PredictQuery)
    assert (caught.value.expected, str(caught.value.detail)) == (["final", "steps"], "there is no choice 'FINAL'")


def test_a_json_request_has_no_query() -> None:
    check_no_query(b"")
    with pytest.raises(ElmanError):
        check_no_query(b"top=1")
