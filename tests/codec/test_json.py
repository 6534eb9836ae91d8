"""JSON bodies become arrays, or an error with the place of the first fault."""

import json
import pickle
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.codec.faults import MOST_ECHOED, decode_body
from elman.codec.input_format import InputFormat
from elman.codec.json import JSONDecoder
from elman.codec.limits import MAX_LISTS, Limits, _count_lists
from elman.codec.requests import ForecastRequest
from elman.errors import ElmanError, TooLarge, TooLong
from elman.repository.network import InputTensor

LIMITS = Limits(max_steps=8, max_sequences=3)
ROWS = JSONDecoder(InputFormat("rows", "float32", 2), LIMITS)
COLUMN = JSONDecoder(InputFormat("column", "float32", 1), LIMITS)
TEXT = JSONDecoder(
    InputFormat("text", "int64", None, vocabulary=("a", "b", "?"), vocabulary_size=3, unknown="?"), LIMITS
)
IDS = JSONDecoder(InputFormat("ids", "int32", None, vocabulary_size=3), LIMITS)
SIGNAL = JSONDecoder(InputFormat("signal", "float32", 4, stride=2), LIMITS)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("decoder", "sequence", "expected"),
    [
        (ROWS, [[1, 2.5], [3, 4]], np.array([[1, 2.5], [3, 4]], np.float32)),
        (COLUMN, [1, [2], 3.5], np.array([[1], [2], [3.5]], np.float32)),
        (TEXT, "abz", np.array([0, 1, 2], np.int64)),
        (TEXT, [2, 0], np.array([2, 0], np.int64)),
        (IDS, [1, 2], np.array([1, 2], np.int32)),
        (SIGNAL, [1, 2, 3], np.array([1, 2, 3], np.float32)),
    ],
)
def test_a_sequence_is_an_array_of_the_networks_dtype(decoder: JSONDecoder, sequence: Any, expected: Any) -> None:
    request, ((array, further, statics, *_),) = decoder.predict(body(sequence=sequence))
    assert (further, statics) == ((), ())
    assert array.dtype == expected.dtype and np.array_equal(array, expected)
    assert (request.returns, request.decode, request.top, request.many) == ("final", True, 3, False)


def test_many_sequences_of_any_lengths_keep_their_order() -> None:
    request, inputs = ROWS.predict(body(sequences=[[[1, 2]], [[3, 4], [5, 6]]], **{"return": "steps"}))
    assert [one.data.tolist() for one in inputs] == [[[1, 2]], [[3, 4], [5, 6]]]
    assert request.many and request.returns == "steps"


@pytest.mark.parametrize(
    ("decoder", "content", "code", "where"),
    [
        (ROWS, body(sequences=[[[1, 2]], [[1, 2], [3]]]), "ragged_features", "sequences[1][1]"),
        (ROWS, body(sequence=[[1]]), "wrong_features", "sequence[0]"),
        (ROWS, body(sequence=[[1, 1e39]]), "not_finite", "sequence[0][1]"),
        (ROWS, body(sequence=[[1, "2"]]), "invalid_field", "sequence[0][1]"),
        (ROWS, body(sequence=[[1, 2]] * 9), "too_long", "sequence"),
        (ROWS, body(sequences=[[[1, 2]]] * 4), "too_long", "sequences"),
        (ROWS, body(sequence=[[1, 2]], sequences=[[[1, 2]]]), "invalid_field", None),
        (ROWS, body(sequences=[[[1, 2]]], state=["a", "b"]), "invalid_field", "state"),
        (ROWS, body(sequence=[[1, 2]], top=0), "invalid_field", "top"),
        (ROWS, body(sequence=[[1, 2]], top=2**70), "invalid_field", "top"),
        (TEXT, body(sequence=[3]), "unknown_token", "sequence[0]"),
        (IDS, body(sequence="ab"), "invalid_field", "sequence"),
        (TEXT, b'{"sequence": [1, NaN]}', "not_finite", "sequence[1]"),
        (ROWS, b'{"sequence": [[1, 2]]', "invalid_json", None),
    ],
)
def test_a_fault_is_told_with_its_place(decoder: JSONDecoder, content: bytes, code: str, where: str | None) -> None:
    with pytest.raises(ElmanError) as caught:
        decoder.predict(content)
    assert (caught.value.code, caught.value.where) == (code, where)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top": 0}, "1 to 1000"),
        ({"timeout": 0}, "more than 0"),
        ({"return": "all"}, ["final", "steps"]),
        ({"top": 1.5}, "integer"),
    ],
)
def test_the_bounds_of_an_option_are_told(fields: dict[str, Any], expected: object) -> None:
    with pytest.raises(ElmanError) as caught:
        ROWS.predict(body(sequence=[[1, 2]], **fields))
    assert caught.value.expected == expected


def test_the_bounds_of_an_item_are_told() -> None:
    decoder = msgspec.json.Decoder(ForecastRequest[list[float], Any])
    with pytest.raises(ElmanError) as caught:
        decode_body(decoder, body(series=[1], quantiles=[0.5, 1]))
    assert (caught.value.where, caught.value.expected) == ("quantiles[1]", "more than 0, less than 1")


@pytest.mark.parametrize(
    ("fields", "where", "near", "expected"),
    [
        ({"retrun": "steps"}, "retrun", "return", {"sequence", "sequences", "return", "static", "top"}),
        ({"static": {"aeg": 1.0}}, "static.aeg", "age", {"age", "speaker"}),
        ({"static": [{"age": 1.0, "zzz": 1}]}, "static[0].zzz", None, {"age", "speaker"}),
        ({"x" * 500: 1}, "x" * 80 + "...", None, {"sequence"}),
    ],
)
def test_a_field_that_does_not_exist_lists_those_that_do(
    fields: dict[str, Any], where: str, near: str | None, expected: set[str]
) -> None:
    statics = tuple(InputTensor(name, "static", (1,), np.dtype(np.float32), "spec") for name in ("age", "speaker"))
    decoder = JSONDecoder(InputFormat("rows", "float32", 2, statics=statics), LIMITS)
    with pytest.raises(ElmanError) as caught:
        decoder.predict(body(sequence=[[1, 2]], **fields))
    assert (caught.value.code, caught.value.where) == ("invalid_field", where)
    assert isinstance(caught.value.expected, list) and expected <= set(caught.value.expected)
    assert (f"did you mean {near!r}?" in caught.value.detail) == (near is not None)
    assert len(caught.value.detail) < 200


def test_a_frame_takes_the_options_of_its_stream_where_it_says_nothing() -> None:
    defaults = {"returns": "steps", "top": 7}
    request, _ = ROWS.steps(body(sequence=[[1, 2]], top=2), defaults)
    assert (request.returns, request.top, request.decode) == ("steps", 2, True)
    request, _ = ROWS.steps(body(sequence=[[1, 2]], **{"return": "final"}), defaults)
    assert (request.returns, request.top) == ("final", 7)


def test_a_decoder_can_be_sent_to_another_process() -> None:
    content = body(sequence="ab", top=1)
    request, (inputs,) = pickle.loads(pickle.dumps(TEXT)).predict(content)
    mine, (expected,) = TEXT.predict(content)
    assert np.array_equal(inputs.data, expected.data) and pickle.loads(pickle.dumps(request)) == mine


@pytest.mark.parametrize(
    "content",
    [
        # A NaN beside a long key and a long list: the place of each number is a link, and one becomes a text.
        b'{"' + b"k" * 200_000 + b'": [' + b"0," * 100_000 + b"NaN]}",
        # A name that looks like the end of a message of the decoder, many times over.
        b'{"sequence": [[1, 2]], "' + b"` - at `$" * 100_000 + b'": 1}',
        b'{"sequence": [[1, 2]], "' + b"x" * 1_000_000 + b'": 1}',
    ],
    ids=["NaN", "message", "name"],
)
def test_a_clients_own_text_is_cut_before_it_is_repeated(content: bytes) -> None:
    with pytest.raises(ElmanError) as caught:
        ROWS.predict(content)
    assert len(json.dumps(caught.value.problem())) < 1000 + 20 * MOST_ECHOED


@pytest.mark.parametrize("piece", [b"[],", b"{},"])
@pytest.mark.parametrize("start", [b'{"sequence": [', b'{"sequences": [[', b'{"sequence": [[1, 2]], "x": ['])
def test_a_body_of_too_many_lists_is_refused_before_they_are_made(start: bytes, piece: bytes) -> None:
    content = start + piece * MAX_LISTS
    tracemalloc.start()
    with pytest.raises(TooLarge, match="lists and objects"):
        ROWS.predict(content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * len(content)


def test_brackets_in_a_text_are_no_lists() -> None:
    with pytest.raises(TooLong, match="6000000 steps"):
        TEXT.predict(body(sequence="[" * 3 * MAX_LISTS))


texts = st.text('[{}]"\\:,a')
documents = st.recursive(
    texts | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)


@given(document=documents)
def test_the_lists_of_a_body_are_counted(document: Any) -> None:
    def num_lists(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + sum(map(num_lists, inner))

    assert _count_lists(json.dumps(document).encode()) == num_lists(document)
