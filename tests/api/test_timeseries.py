"""KServe's time series routes: its types are kept, and the numbers are those of the forecast route."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from elman.repository.spec import ForecastSpec
from tests.looping import RESIDUALS, forecaster, put_forecaster
from tests.running import STORE, RunningServer, running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

PAIRS = ((0.5, -0.5), (-0.5, 0.5), (0.0, 0.0))
# The types of `kserve.protocol.rest.timeseries.types`, as its clients read an answer.
Values = list[float] | list[list[float]]
Status = Literal["completed", "error", "pending", "partial"]


class Forecast(BaseModel):
    type: Literal["univariate_time_series", "multivariate_time_series"]
    name: str
    mean_forecast: Values
    frequency: Literal["day", "D", "month", "M", "quarter", "year", "hour"]
    start_timestamp: str
    quantiles: dict[str, Values] | None = None


class Error(BaseModel):
    message: str
    type: str


class Output(BaseModel):
    type: str
    id: str
    status: Status
    content: list[Forecast]
    error: Error | None


class Answer(BaseModel):
    id: str
    created_at: int
    status: Status
    error: Error | None
    model: str
    outputs: list[Output]


@pytest.fixture(scope="module")
def seers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("seers")
    put_forecaster(root, "gru", forecaster("gru", 1, 1), ForecastSpec(residuals=RESIDUALS, minimum=0.0))
    many = ForecastSpec(target=(2, 0), known=(3, 1), known_for="same", residuals=PAIRS)
    put_forecaster(root, "many", forecaster("lstm", 4, 2), many)
    (root / "names-gru").symlink_to(STORE / "names-gru")
    with running_server(root) as one:
        yield one


def one(series: Any, **more: Any) -> dict[str, Any]:
    kind = "multivariate_time_series" if isinstance(series[0], list) else "univariate_time_series"
    return {"type": kind, "name": "x", "series": series, "frequency": "D", **more}


def ask(server: RunningServer, model: str, inputs: list[dict[str, Any]], **options: Any) -> Any:
    body = {"model": model, "inputs": inputs, "options": {"horizon": 4, **options}}
    return server.client.post("/v1/timeseries/forecast", json=body)


def forecasts(answer: Any) -> list[Forecast]:
    assert answer.status_code == 200, answer.text
    found = Answer.model_validate(answer.json())
    assert found.status == "completed" and len({found.id, *(one.id for one in found.outputs)}) == 1 + len(found.outputs)
    return [forecast for output in found.outputs for forecast in output.content]


def native(server: RunningServer, model: str, **body: Any) -> list[dict[str, Any]]:
    return list(server.client.post(f"/v1/models/{model}/forecast", json=body).raise_for_status().json()["results"])


def test_the_models_are_those_that_forecast(seers: RunningServer) -> None:
    assert seers.client.get("/v1/timeseries/models").json() == ["gru", "many"]


def test_series_of_one_value_get_the_numbers_of_the_forecast_route(seers: RunningServer) -> None:
    given = [[1.0, 2.0, 4.0], [3.0, 2.5]]
    plain = forecasts(ask(seers, "gru", [one(given[0], name="a"), one(given[1], name="b")]))
    points = [result["point"] for result in native(seers, "gru", series_list=given, horizon=4)]
    assert [(each.name, each.mean_forecast) for each in plain] == list(zip("ab", points, strict=True))
    assert {(each.type, each.quantiles, each.start_timestamp) for each in plain} == {
        ("univariate_time_series", None, "")
    }
    sampled = forecasts(ask(seers, "gru", [one(each) for each in given], quantiles=[0.1, 0.95], seed=3))
    options = {"horizon": 4, "quantiles": [0.1, 0.95], "seed": 3, "samples": 1000}
    for found, result in zip(sampled, native(seers, "gru", series_list=given, **options), strict=True):
        assert (found.mean_forecast, found.quantiles) == (result["mean"], result["quantiles"])


def test_rows_and_what_is_known_ahead(seers: RunningServer) -> None:
    rows, future = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    (found,) = forecasts(ask(seers, "many", [one(rows, future=future)]))
    (result,) = native(seers, "many", series_list=[rows], future=[future], horizon=4)
    assert (found.type, found.mean_forecast) == ("multivariate_time_series", result["point"])


@pytest.mark.parametrize(
    "start, frequency, wanted",
    [
        ("2024-02-27T00:00:00Z", "D", "2024-03-01T00:00:00Z"),
        ("2024-01-31T06:30:00", "month", "2024-04-30T06:30:00"),
        ("2023-11-30T00:00:00+02:00", "quarter", "2024-08-30T00:00:00+02:00"),
        ("2024-02-29T00:00:00Z", "year", "2027-02-28T00:00:00Z"),
        ("2024-12-31T22:00:00Z", "hour", "2025-01-01T01:00:00Z"),
    ],
)
def test_a_forecast_starts_where_its_series_ends(seers: RunningServer, start: str, frequency: str, wanted: str) -> None:
    (found,) = forecasts(ask(seers, "gru", [one([1.0, 2.0, 3.0], start_timestamp=start, frequency=frequency)]))
    assert (found.start_timestamp, found.frequency) == (wanted, frequency)


@pytest.mark.parametrize(
    "model, inputs, options, status, where, words",
    [
        ("gru", [one([1.0]), {**one([1.0]), "type": "multivariate_time_series"}], {}, 422, "inputs[1].series", "rows"),
        ("gru", [one([1.0], start_timestamp="monday")], {}, 422, "inputs[0].start_timestamp", "not a time"),
        ("gru", [one([1.0], start_timestamp="9999-12-31")], {}, 422, "inputs[0].start_timestamp", "9999"),
        ("gru", [one([1.0], frequency="fortnight")], {}, 422, "inputs[0].frequency", "fortnight"),
        ("gru", [one([1.0], covariates=[1])], {}, 422, "inputs[0]", "covariates"),
        ("gru", [one([1.0])], {"temperature": 1}, 422, "options", "temperature"),
        ("gru", [one([1.0])], {"horizon": 0}, 422, "options.horizon", ""),
        ("gru", [one([1.0])], {"quantiles": [0.5, 0.5]}, 422, "options.quantiles[1]", "twice"),
        ("gru", [one([1.0])], {"quantiles": [0.5], "samples": 0}, 422, "options.samples", "samples"),
        ("gru", [one([1.0]), one([1.0], future=[[1.0]])], {}, 422, "inputs[1].future", "ahead"),
        ("gru", [one([1.0]), one([1.0, 1e39])], {}, 422, "inputs[1].series[1][0]", ""),
        ("names-gru", [one([1.0])], {}, 409, None, "cannot forecast"),
        ("nobody", [one([1.0])], {}, 404, None, "nobody"),
    ],
)
def test_what_has_no_meaning_here_is_refused_by_name(
    seers: RunningServer,
    model: str,
    inputs: list[dict[str, Any]],
    options: dict[str, Any],
    status: int,
    where: str | None,
    words: str,
) -> None:
    answer = ask(seers, model, inputs, **options)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert (problem.get("where") or "").removeprefix("$.").startswith(where or ""), problem
    assert words in problem["detail"] + str(problem.get("expected", "")), problem


def test_its_types_are_in_the_document(seers: RunningServer) -> None:
    document = seers.client.get("/openapi.json").json()
    assert not document["paths"]["/v1/timeseries/forecast"]["post"]["parameters"]
    body = document["components"]["schemas"]["TimeSeriesRequest"]
    assert set(body["properties"]) == {"model", "inputs", "options", "metadata"}
