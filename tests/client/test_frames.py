"""Data frames go by the names of their columns; a missing value is no data."""

from collections.abc import Iterator

import numpy as np
import pandas
import pytest

from elman.client import Client, RequestError
from elman.repository.spec import DecoderSpec, ForecastSpec, InputSpec, ModelSpec
from tests.looping import MEAN, STD, forecaster
from tests.running import running_server

# pandas is installed for all tests, not for the quick ones.
pytestmark = pytest.mark.torch

NAMES = ("demand", "temperature", "workday")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("frames")
    for name, names in (("named", NAMES), ("bare", None)):
        spec = ModelSpec(
            task="forecasting",
            input=InputSpec(names=names),
            decoder=DecoderSpec(kind="values", mean=(MEAN,), std=(STD,)),
            forecast=ForecastSpec(target=(0,), known=(2, 1), known_for="same"),
        )
        forecaster("gru", 3, 1).put(root, name, spec)
    filled = ModelSpec(
        task="forecasting",
        input=InputSpec(names=NAMES, missing="forward_fill"),
        decoder=DecoderSpec(kind="values", mean=(MEAN,), std=(STD,)),
        forecast=ForecastSpec(target=(0,), known=(2, 1), known_for="same"),
    )
    forecaster("gru", 3, 1).put(root, "filled", filled)
    with running_server(root) as server, Client(server.url) as client:
        yield client


def rows(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(5, 15, (length, 3))


def test_columns_are_matched_by_name(client: Client) -> None:
    series, ahead = rows(20), rows(5, 1)
    right = client.model("named").forecast(series, 6, future=ahead[:, [2, 1]]).point
    frame = pandas.DataFrame(series, columns=NAMES)[["workday", "demand", "temperature"]].assign(note="x")
    future = pandas.DataFrame(ahead, columns=NAMES)
    found = client.model("named").forecast(frame, 6, future=future).point
    np.testing.assert_array_equal(found, right)
    several = client.model("named").forecast([frame, frame[5:]], 6, future=[future, future])
    np.testing.assert_allclose(several[0].point, right, rtol=1e-6)
    assert not np.array_equal(several[1].point, right)


def test_columns_that_do_not_match_are_named(client: Client) -> None:
    frame = pandas.DataFrame(rows(20), columns=["demand", "temprature", "workday"])
    with pytest.raises(ValueError, match=r"series has no column 'temperature', but 'temprature'; it has"):
        client.model("named").forecast(frame, 2, future=[[1.0, 1.0]])
    with pytest.raises(ValueError, match="the model does not name its features"):
        client.model("bare").forecast(frame, 2, future=[[1.0, 1.0]])
    with pytest.raises(ValueError, match="future has no column 'workday'"):
        good = pandas.DataFrame(rows(20), columns=NAMES)
        client.model("named").forecast(good, 2, future=good[["temperature"]])


def test_a_masked_value_is_missing(client: Client) -> None:
    series = np.ma.masked_array(rows(20), mask=np.zeros((20, 3), bool))
    series[4, 1] = np.ma.masked
    for call in (
        lambda: client.model("bare").forecast(series, 2, future=[[1.0, 1.0]]),
        lambda: client.model("bare").predict(series),
    ):
        with pytest.raises(RequestError, match="a value is missing") as caught:
            call()
        assert caught.value.where in ("series[4][1]", "sequence[4][1]")


def test_a_missing_value_is_nan_none_or_masked(client: Client) -> None:
    whole, model = rows(20).astype(np.float32), client.model("filled")
    whole[6, 0] = whole[5, 0]
    gap = np.zeros((20, 3), bool)
    gap[6, 0] = True
    with_nan = np.where(gap, np.nan, whole)
    lists = [
        [None if missing else value for value, missing in zip(*row, strict=True)]
        for row in zip(whole.tolist(), gap, strict=True)
    ]
    right = model.forecast(whole, 1).point
    frame = pandas.DataFrame(with_nan, columns=NAMES)
    for series in (with_nan, np.ma.masked_array(whole, gap), lists, frame):
        np.testing.assert_array_equal(model.forecast(series, 1).point, right)
    output = model.predict(whole).output
    for _ in range(2):  # as JSON, then as bytes
        np.testing.assert_array_equal(model.predict(with_nan).output, output)


def test_a_quantile_is_listed_once(client: Client) -> None:
    with pytest.raises(RequestError, match=r"0.5 is listed twice") as caught:
        client.model("bare").forecast(rows(20), 2, quantiles=[0.1, 0.5, 0.5], samples=2, future=[[1.0, 1.0]])
    assert caught.value.where == "quantiles[2]"
