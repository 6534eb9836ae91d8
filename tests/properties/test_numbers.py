"""Bodies of plain numbers are read by a path of their own: whatever it takes, it takes as the general one does."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elman.codec.input_format import InputFormat
from elman.codec.json import JSONDecoder
from elman.codec.limits import Limits
from elman.codec.numbers import NotPlain, read_numbers
from elman.errors import ElmanError

LIMITS = Limits(max_steps=8, max_sequences=3)
FORMATS = (
    InputFormat("rows", "float32", 2),
    InputFormat("column", "float32", 1),
    InputFormat("half", "float16", 2),
    InputFormat("double", "float64", 2),
    InputFormat("signal", "float32", 4, stride=2),
)

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-3, 3),
    st.integers(-(2**70), 2**70),
    st.sampled_from([1e38, 3.5e38, -1e39, 1e308, 70000.0, 5e-324, -0.0]),
)
ODD = st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=3), st.just({}), st.just([]))
ROWS = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=9)
SEQUENCES = st.one_of(
    ROWS,
    st.lists(NUMBERS, max_size=9),
    st.lists(st.lists(NUMBERS, min_size=1, max_size=1), max_size=4),
    st.lists(st.lists(NUMBERS, max_size=3), max_size=4),
    st.recursive(ODD, lambda inner: st.lists(inner, max_size=3), max_leaves=12),
)
OPTIONS = st.lists(
    st.sampled_from(
        [
            ("return", "steps"), ("return", "all"), ("decode", False), ("decode", 1), ("top", 2), ("top", 0),
            ("top", True), ("timeout", 3), ("timeout", -1.5), ("timeout", None), ("state", "[["), ("state", ["a", "b"]),
            ("return_state", True), ("at", 4), ("at", -1), ("unknown", 1), ("unknown", [1]),
        ]
    ),
    max_size=2,
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bodies as text, so that a name may stand in it twice."""
    fields: list[tuple[str, Any]] = list(draw(OPTIONS))
    if draw(st.booleans()):
        fields.append(("sequence", draw(SEQUENCES)))
    if not fields or draw(st.booleans()):
        fields.append(("sequences", draw(st.lists(SEQUENCES, max_size=4))))
    fields = draw(st.permutations(fields))
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields)
    # A body of more than 4 KiB is counted by NumPy.
    ends = [("", ""), (" ", "\n"), (" " * 5000, ""), ("\ufeff", ""), ("", "]"), ("", "{}")]
    before, after = draw(st.sampled_from(ends))
    return f"{before}{{{text}}}{after}".encode()


def outcome(decoder: JSONDecoder, kind: str, content: bytes) -> tuple[Any, ...]:
    """What a decoder makes of a body, in a form that can be compared bit for bit."""
    try:
        if kind == "predict":
            request, inputs = decoder.predict(content)
        else:
            steps, (array, *_) = decoder.steps(content, {})
            return steps, array.dtype, array.shape, array.tobytes()
    except ElmanError as error:
        return type(error), error.detail, error.where, error.expected
    return request, [(a.dtype, a.shape, a.tobytes()) for a, *_ in inputs]


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("kind", ["predict", "steps"])
@given(content=bodies())
@example(content=b'{"sequence": [[1, 2], [[3, 4], []]]}')
@example(content=b'{"sequence": [[[1, 2], []], [3, 4]]}')
@example(content=b'{"sequence": [[[1, 2], []], [3, 4]]}' + b" " * 5000)
@example(content=b'{"sequence": [[1, 2], [3, 4]], "sequence": [[5, 6]]}')
@example(content=b'{"sequence": [[1, 2]], "sequences": null}')
@example(content=b'{"sequences": [[[1, 2]], [[3, 4], [5, 6]]], "state": ["a", "b"]}')
@example(content=b'{"sequences": [[[1, 2]], [[3, 4]], [[3, 4]], [[3, 4]]]}')
@example(content=b'{"sequences": []}')
@example(content=b'{"sequence": [[1, 2], [3, true]]}')
@example(content=b'{"sequence": [[1, 2]], "static": 5}')
@example(content=b'{"sequence": [[1, 2]], "static": {}}')
@example(content=b'{"sequence": [[1, 2]], "heads": "a"}')
@example(content=b'[{"sequence": [[1, 2]]}]')
def test_it_is_the_general_path_but_for_the_time(format: InputFormat, kind: str, content: bytes) -> None:
    plain, general = JSONDecoder(format, LIMITS), JSONDecoder(format, LIMITS)
    general.__dict__["_width"] = None  # in the place of the cached property: no body is plain
    assert outcome(plain, kind, content) == outcome(general, kind, content)


@given(
    rows=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6),
    many=st.booleans(),
    options=st.dictionaries(
        st.sampled_from(["top", "timeout", "state"]), st.integers(0, 9) | st.text("ab", max_size=3)
    ),
)
def test_ordinary_bodies_are_plain(rows: list[list[float]], many: bool, options: dict[str, Any]) -> None:
    fitting = all(abs(number) < 2**63 for row in rows for number in row)
    body = json.dumps({**options, "sequences": [rows, rows]} if many else {"sequence": rows, **options}).encode()
    try:
        fields, arrays, were_many = read_numbers(body, 3)
    except NotPlain:
        assert not fitting
        return
    assert (fields, were_many, len(arrays)) == (options, many, 1 + many)
    assert all((array == np.array(rows, np.float64)).all() for array in arrays)
