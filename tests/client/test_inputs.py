"""Arrays of other libraries, data frames, lists and generators are what the array of NumPy is, or are refused."""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import ml_dtypes
import numpy as np
import pandas
import pyarrow
import pytest
import torch

from elman.client import Client, RequestError
from tests.running import RunningServer

# torch and pandas are installed for all tests, not for the quick ones.
pytestmark = pytest.mark.torch

ROWS = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32)
NAMES = [f"cepstrum {number}" for number in range(1, 13)]
REVERSED = pandas.DataFrame(ROWS, columns=NAMES)[NAMES[::-1]].assign(note="x")


class Own:
    """Has the method that NumPy asks for."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return ROWS


class Lent:
    """Lends its memory by DLPack alone."""

    def __dlpack__(self, **options: Any) -> Any:
        return torch.from_numpy(ROWS.copy()).__dlpack__()

    def __dlpack_device__(self) -> Any:
        return torch.from_numpy(ROWS).__dlpack_device__()


NAMED = np.zeros(7, [(name, "<f4") for name in ["note", *NAMES]])
for number, name in enumerate(NAMES):
    NAMED[name] = ROWS[:, number]

ONE: dict[str, Any] = {
    "a structured array": NAMED,
    "a list column of Arrow": pyarrow.array(ROWS.tolist()),
    "a list column in chunks": pyarrow.chunked_array([ROWS[:3].tolist(), ROWS[3:].tolist()]),
    "a series of arrays": pandas.Series(list(ROWS)),
    "a view of memory": memoryview(ROWS),
    "a negated view of a tensor": torch.complex(torch.zeros(7, 12), torch.from_numpy(-ROWS)).conj().imag,
    "decimals": [[Decimal(float(one)) for one in row] for row in ROWS],
    "a tensor": torch.from_numpy(ROWS),
    "a tensor with gradients": torch.from_numpy(ROWS).requires_grad_(),
    "an object with __array__": Own(),
    "an object with __dlpack__": Lent(),
    "a nested list": ROWS.tolist(),
    "a nested tuple": tuple(map(tuple, ROWS.tolist())),
    "a data frame with other columns": REVERSED,
    "a table of Arrow": pyarrow.Table.from_pandas(REVERSED),
    "columns that are nullable": REVERSED[NAMES].astype("Float32"),
    "columns first in memory": np.asfortranarray(ROWS),
    "doubles": ROWS.astype(np.float64),
    "a list in place of an array": deque(ROWS.tolist()),
}


@pytest.fixture(scope="module")
def right(server: RunningServer) -> np.ndarray:
    with Client(server.url) as client:
        return client.model("vowels-gru").predict(ROWS).output


@pytest.mark.parametrize("name", ONE)
def test_one_sequence_of_any_kind_is_that_of_its_numbers(elman: Client, right: np.ndarray, name: str) -> None:
    model = elman.model("vowels-gru")
    for _ in range(2):  # as JSON, and then as bytes
        assert model.predict(ONE[name], decode=False).output.tolist() == right.tolist()
        (found,) = model.predict([ONE[name]], decode=False)
        assert found.output.tolist() == right.tolist()
    with model.session() as session:
        assert session.step(ONE[name]).output.tolist() == right.tolist()
    with model.stream() as stream:
        assert stream.send(ONE[name]).output.tolist() == right.tolist()


def objects(*elements: Any) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


MANY: dict[str, Callable[[], Any]] = {
    "a generator": lambda: (ROWS[:length] for length in (3, 7)),
    "an iterator": lambda: iter([ROWS[:3], torch.from_numpy(ROWS)]),
    "data frames from a generator": lambda: (REVERSED[:length] for length in (3, 7)),
    "nested lists from a generator": lambda: (ROWS[:length].tolist() for length in (3, 7)),
    "a list of nested lists": lambda: [ROWS[:3].tolist(), ROWS.tolist()],
    "a list of several kinds": lambda: [REVERSED[:3], ROWS.tolist()],
    "generators of rows": lambda: ((row for row in ROWS[:length].tolist()) for length in (3, 7)),
    "a list of generators": lambda: [(row for row in ROWS[:length].tolist()) for length in (3, 7)],
    "views of memory": lambda: [memoryview(ROWS[:3]), memoryview(ROWS)],
    "a batch as a list": lambda: [ROWS[:3], ROWS],
    "an array of arrays": lambda: objects(ROWS[:3], ROWS),
    "a series of arrays": lambda: pandas.Series([ROWS[:3], ROWS]),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_tensor_of_few_bits_is_that_of_32_bits(elman: Client, dtype: torch.dtype) -> None:
    small = torch.from_numpy(ROWS).to(dtype)
    model = elman.model("vowels-gru")
    assert model.predict(small).output.tolist() == model.predict(small.float()).output.tolist()


@pytest.mark.parametrize("name", MANY)
def test_many_sequences_of_any_kind(elman: Client, right: np.ndarray, name: str) -> None:
    first, second = elman.model("vowels-gru").predict(MANY[name]())
    assert (first.length, second.length) == (3, 7)
    np.testing.assert_allclose(second.output, right, atol=1e-6)


@pytest.mark.parametrize(
    "given",
    [
        np.array(["Rossi", "Lindqvist"]),
        objects("Rossi", "Lindqvist"),
        pandas.Series(["Rossi", "Lindqvist"]),
        pandas.Series(["Rossi", "Lindqvist"], dtype="category"),
        pandas.Index(["Rossi", "Lindqvist"]),
        pyarrow.array(["Rossi", "Lindqvist"]),
        pyarrow.chunked_array([["Rossi"], ["Lindqvist"]]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_an_array_of_texts_is_a_list_of_them(elman: Client, given: Any) -> None:
    assert [one.label for one in elman.model("names-gru").predict(given)] == ["Italian", "Swedish"]


def test_a_type_of_few_bits_that_numpy_lacks_is_that_of_32_bits(elman: Client) -> None:
    small = ROWS.astype(ml_dtypes.bfloat16)  # as an array of jax gives it
    model = elman.model("vowels-gru")
    assert model.predict(small).output.tolist() == model.predict(small.astype(np.float32)).output.tolist()


def test_a_list_of_numbers_with_gradients_is_one_series(elman: Client) -> None:
    series = torch.arange(30.0)
    model = elman.model("sunspots-gru")
    assert model.forecast(list(series.requires_grad_()), 2).point.tolist() == model.forecast(series, 2).point.tolist()


def test_a_generator_is_what_the_list_of_it_is_in_every_method(elman: Client) -> None:
    model = elman.model("vowels-gru")
    right = model.influence([REVERSED[:3], REVERSED])
    found = model.influence(frame for frame in (REVERSED[:3], REVERSED))
    assert [one.influence.tolist() for one in found] == [one.influence.tolist() for one in right]
    with model.session() as session:
        rows = session.step(row for row in ROWS.tolist())
    assert (rows.step, rows.label) == (7, model.predict(ROWS).label)
    sunspots, years = elman.model("sunspots-gru"), pandas.DataFrame({"sunspots": np.arange(30.0)})
    points = [sunspots.forecast(years[:length], 2).point.tolist() for length in (20, 30)]
    forecasts = sunspots.forecast((years[:length] for length in (20, 30)), 2)
    np.testing.assert_allclose([one.point for one in forecasts], points, rtol=1e-5)
    with pytest.raises(ValueError, match="1 futures for 2 series"):
        sunspots.forecast((years[:length] for length in (20, 30)), 2, future=(one for one in [np.ones((1, 3))]))


def test_a_flat_list_of_token_ids_is_one_sequence_and_a_list_of_those_many(elman: Client) -> None:
    model = elman.model("names-gru")
    right = model.predict(np.array([3, 4, 5])).label
    assert model.predict([3, 4, 5]).label == right == model.predict(torch.tensor([3, 4, 5])).label
    assert model.predict(pandas.Series([3, 4, 5])).label == right
    assert [one.label for one in model.predict([[3, 4, 5], [6]])] == [right, model.predict(np.array([6])).label]
    assert [one.label for one in model.predict(text for text in ("Rossi", "Lindqvist"))] == ["Italian", "Swedish"]
    # Once integers were accepted, floats were sent as bytes, and their bits were taken for integers.
    with pytest.raises(RequestError, match="expected integer"):
        model.predict(np.array([3.0, 4.0, 5.0]))


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (np.stack([ROWS, ROWS]), TypeError, r"pass a batch to predict as list\(x\)"),
    (torch.zeros(2, 7, 12), TypeError, r"pass a batch to predict as list\(x\)"),
    (pandas.Series(["a", "b"]), RequestError, r"given as text; at sequences\[0\]"),
    ("a", RequestError, "given as text; at sequence;"),
    (pandas.Series(["a", None]), TypeError, r"x\[1\] is a single value"),
    (["a", None], TypeError, r"x\[1\] holds no numbers: NoneType is neither"),
    ([["1.5"] * 12], TypeError, r"x\[0\] holds no numbers, but values of the type <U3; .* as astype\(float\)"),
    (np.full((3, 12), "2020-01-01", "M8[D]"), TypeError, "datetime64.*; make features of times"),
    (np.ones((3, 12), "m8[s]"), TypeError, "timedelta64.*; make numbers of spans"),
    (ROWS.astype(complex), TypeError, "complex128; pass the real and the imaginary parts"),
    (np.array([b"a"]), TypeError, r"S1; text is str"),
    (
        REVERSED.assign(**{"cepstrum 3": pandas.Timestamp(0)}),
        TypeError,
        r"x\['cepstrum 3'\] .*; make features of times",
    ),
    (
        REVERSED.assign(**{"cepstrum 3": pandas.Categorical(["a"] * 7)}),
        TypeError,
        r"x\['cepstrum 3'\] holds no numbers",
    ),
    (list(ROWS), RequestError, r"given as float32 \(12,\); .* np.stack\(x\); at sequences\[0\]\[0\]"),
    (list(torch.from_numpy(ROWS).requires_grad_()), RequestError, r"given as float32 \(12,\); .* np.stack\(x\)"),
    (ROWS[0], RequestError, r"given as float32 \(12,\); pass \(time, features\); at sequence\[0\]"),
    (ROWS.T, RequestError, r"given as float32 \(12, 7\), and read as \(time, features\)"),
    ([ROWS, ROWS.T], RequestError, r"given as float32 \(12, 7\), .*; at sequences\[1\]\[0\]"),
    (dict.fromkeys(NAMES, ROWS[:, 0]), RequestError, "given as a mapping, which is for models with several"),
    ([[1.0] * 12, [1.0] * 11], RequestError, r"the first has 12, this has 11; at x\[1\]"),
    ([ROWS, [[1.0] * 12, [1.0] * 11]], RequestError, r"the first has 12, this has 11; at x\[1\]\[1\]"),
    (pyarrow.array([None, [1.0] * 12]), RequestError, r"this has 12; at x\[1\]"),
    (torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 12)]), TypeError, "a packed sequence .*unpack_sequence"),
    (REVERSED.rename(columns={"cepstrum 3": "third"}), ValueError, "x has no column 'cepstrum 3'"),
    ([ROWS, REVERSED[NAMES[:5]]], ValueError, r"x\[1\] has no column 'cepstrum 6'"),
    ([ROWS, [[1.0, 2.0], [3.0]]], RequestError, "same number of features"),
    (7, TypeError, "x must be a sequence or a list of them; got int"),
    (np.array(7.0), TypeError, "x is a single value and no sequence"),
    (None, TypeError, "x must be a sequence or a list of them; got NoneType; pass an array"),
    (torch.tensor(7.0), TypeError, "x must be a sequence or a list of them; got Tensor"),
    (torch.zeros(7, 12, device="meta"), TypeError, "x holds no numbers: .*meta"),
    (torch.zeros(7, 12).to_sparse(), TypeError, "x holds no numbers: .*to_dense"),
    (b"Lindqvist", TypeError, "pass text as str"),
    ([b"Lindqvist"], TypeError, "pass text as str"),
    ({1, 2}, TypeError, "a set has no order"),
    (np.array([ROWS[0], ROWS[0, :3]], object), RequestError, "same number of features"),
    (REVERSED.assign(**{"cepstrum 3": "x"}), TypeError, r"x\['cepstrum 3'\] holds no numbers"),
    ([ROWS, object()], TypeError, r"x\[1\] holds no numbers: object is neither an array nor a list"),
    (np.ma.masked_array(ROWS, mask=ROWS > 1), RequestError, "a value is missing"),
    ([[None] * 12], RequestError, "a value is missing"),
]


@pytest.mark.parametrize(("x", "kind", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_sequence_is_refused_with_its_place(
    elman: Client, x: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        elman.model("vowels-gru").predict(x)


def test_quantiles_need_samples(elman: Client) -> None:
    with pytest.raises(RequestError, match="quantiles are those of sampled paths") as raised:
        elman.model("sunspots-gru").forecast(np.arange(30.0), 2, quantiles=[0.3])
    assert raised.value.where == "samples"
    found = elman.model("sunspots-gru").forecast([torch.arange(30.0), torch.arange(20.0)], 2)
    assert [one.horizon for one in found] == [2, 2]


def test_a_forecast_is_a_data_frame_and_a_result_has_its_probabilities(elman: Client) -> None:
    forecast = elman.model("sunspots-gru").forecast(np.arange(30.0), 3, samples=5, quantiles=[0.1, 0.9], seed=1)
    frame = forecast.to_frame()
    assert frame.columns.tolist() == ["point", "mean", "q0.1", "q0.9"] and frame.index.tolist() == [1, 2, 3]
    assert (
        frame["q0.9"].tolist() == forecast.quantiles[0.9].tolist()
        and frame["point"].tolist() == forecast.point.tolist()
    )
    ahead = [[0.0, 4.0, 1.0]]
    several = elman.model("electricity-gru").forecast(np.full((9, 5), 4.0), 2, future=ahead * 2).to_frame()
    assert several.columns.tolist() == ["point_0", "point_1"]
    result = elman.model("names-gru").predict("Lindqvist", top=2)
    assert next(iter(result.probabilities.items())) == (result.label, result.probability)
    assert len(result.probabilities) == 2


def test_the_errors_of_series_and_of_texts_say_what_was_given(elman: Client) -> None:
    model = elman.model("sunspots-gru")
    for series, words in (
        (np.ones((2, 40)), r"given as float64 \(2, 40\), and read as \(time, features\); several are a list of arrays"),
        (["a"], "series holds no numbers"),
        (pandas.date_range("2020", periods=4), "make features of times"),
        ([np.ones(9), np.ones((2, 40))], r"given as float64 \(2, 40\), .*; at series_list\[1\]"),
    ):
        with pytest.raises((RequestError, TypeError), match=words):
            model.forecast(series, 2)
    names = elman.model("names-gru")
    with pytest.raises(RequestError, match=r"given as int64 \(2, 2\)"), names.session() as session:
        session.step(np.array([[3, 4], [5, 6]]))
    with pytest.raises(RequestError, match=r"given as int64 \(2, 2\)"), names.stream() as stream:
        stream.send(np.array([[3, 4], [5, 6]]))
    writer = elman.model("names-lstm-generator")
    with pytest.raises(TypeError, match="prompt is a list of texts, and one text is continued"):
        writer.generate(["Mc", "O"])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="stop must be a text or a list of texts; got 3"):
        writer.generate("Mc", stop=3)  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="half of a pair, which no text can hold") as raised:
        names.predict(["Rossi", "\ud800"])
    assert raised.value.where == "sequences"
    assert names.predict("Štefánik\U0001f600").length == 9


def test_of_many_columns_a_few_are_told_and_the_nearest(elman: Client) -> None:
    frame = pandas.DataFrame(np.zeros((2, 500)), columns=[f"cepstral {number}" for number in range(500)])
    with pytest.raises(ValueError, match=r"no column 'cepstrum 1', but 'cepstral 1'; .* and 480 more, the") as raised:
        elman.model("vowels-gru").predict(frame)
    assert len(str(raised.value)) < 1000
