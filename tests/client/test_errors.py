"""Every error of the server has a class in the client, with the same code, status, place and text."""

import asyncio
import pickle
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

import elman.app  # noqa: F401  (defines every error of the server)
from elman.client import (
    AsyncClient,
    BadAnswer,
    Client,
    DeadlineExceeded,
    ElmanError,
    NotConnected,
    Refused,
    RequestError,
    Retries,
    StepConflict,
    TimedOut,
    Unavailable,
    UnknownModel,
)
from elman.client.errors import CLASSES, error_of
from elman.client.wire import parse_retry_after, read_error
from elman.errors import ElmanError as ServerError
from elman.errors import RequestError as ServerRequestError
from tests.running import RunningServer


def codes_of_the_server(base: type[ServerError] = ServerError) -> set[tuple[str, int]]:
    mine = set() if base in (ServerError, ServerRequestError) else {(base.code, base.status)}
    return mine.union(*(codes_of_the_server(kind) for kind in base.__subclasses__()))


@pytest.mark.parametrize(("code", "status"), sorted(codes_of_the_server()))
def test_each_code_of_the_server_has_a_class(code: str, status: int) -> None:
    error = error_of(status, {"code": code, "detail": "so it is", "where": "sequence[1]", "expected": 3}, "")
    assert type(error) is CLASSES[code] is not Refused
    assert (error.code, error.status, error.detail) == (code, status, "so it is")
    assert (error.where, error.expected) == ("sequence[1]", 3)


def test_no_class_is_for_a_code_that_the_server_lacks() -> None:
    generic = {"invalid_request", "conflict", "busy"}
    assert set(CLASSES) - generic == {code for code, _ in codes_of_the_server()}


def test_an_unknown_code_is_raised_as_refused_with_that_code() -> None:
    error = error_of(418, {"code": "teapot", "detail": "short and stout"}, "")
    assert type(error) is Refused
    assert (error.code, error.status) == ("teapot", 418)


def test_errors_of_time_are_timeout_errors() -> None:
    assert issubclass(TimedOut, TimeoutError) and issubclass(DeadlineExceeded, TimeoutError)


def test_an_error_survives_a_pickle() -> None:
    error = StepConflict("the session is at another step", status=409, expected=7, retry_after=1.5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is StepConflict
    assert again.__dict__ == error.__dict__ and str(again) == str(error)


def test_a_response_that_is_not_elmans_is_a_bad_answer() -> None:
    error = read_error(httpx.Response(418, text="<html>teapot</html>"))
    assert isinstance(error, BadAnswer) and "teapot" in error.detail


def test_status_503_of_a_gateway_is_unavailable() -> None:
    error = read_error(httpx.Response(503, text="<html>", headers={"retry-after": "7"}))
    assert isinstance(error, Unavailable) and error.retry_after == 7.0


def test_retry_after_may_be_seconds_or_a_date() -> None:
    assert parse_retry_after("3") == 3.0
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert parse_retry_after("soon") is None and parse_retry_after("inf") is None and parse_retry_after(None) is None


def test_code_status_and_place_of_a_server_error_arrive(elman: Client) -> None:
    with pytest.raises(UnknownModel) as raised:
        elman.model("nobody").card()
    assert raised.value.code == "unknown_model" and raised.value.status == 404
    with pytest.raises(RequestError) as refused:
        elman.model("names-gru").predict(np.array([3, 999]))
    assert refused.value.code == "unknown_token" and refused.value.where == "sequence[1]"


def test_where_names_a_place_in_the_callers_list(elman: Client) -> None:
    sequences = [np.zeros((2, 12), np.float32) for _ in range(700)]
    sequences[650] = np.zeros((2, 5), np.float32)
    with pytest.raises(RequestError) as raised:
        elman.model("vowels-gru").predict(sequences)
    assert raised.value.code == "wrong_features" and raised.value.where == "sequences[650][0]"
    sequences[650] = np.zeros((2, 12), np.float32)
    sequences[650][1, 3] = np.nan
    with pytest.raises(RequestError) as raised:
        elman.model("vowels-gru").predict(sequences)
    assert raised.value.code == "not_finite" and raised.value.where == "sequences[650][1][3]"


def test_an_unreachable_server_raises_not_connected() -> None:
    with Client("http://127.0.0.1:1", retries=Retries(2)) as elman, pytest.raises(NotConnected) as raised:
        elman.models()
    assert isinstance(raised.value, ElmanError) and raised.value.status is None


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://localhost", "http://"])
def test_a_wrong_address_is_refused_when_the_client_is_made(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Client(url)


def called(call: Callable[[Client], object], url: str, **options: Any) -> None:
    with Client(url, retries=Retries(1), **options) as client:
        call(client)


async def awaited(call: Callable[[AsyncClient], Awaitable[object]], url: str, **options: Any) -> None:
    async with AsyncClient(url, retries=Retries(1), **options) as client:
        await call(client)


async def streamed(client: AsyncClient) -> None:
    async with client.model("vowels-gru").stream() as stream:
        await stream.send("text")


def opened(client: Client) -> object:
    return client.model("vowels-gru").stream().__enter__()


NOTHING, ROWS = "http://127.0.0.1:9", np.zeros((3, 12))
NO_JSON = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
NO_RESULT = httpx.MockTransport(lambda request: httpx.Response(200, json={"results": []}))
FAILING: dict[str, Callable[[str], object]] = {
    "no server": lambda url: called(Client.models, NOTHING),
    "no server, awaited": lambda url: asyncio.run(awaited(AsyncClient.models, NOTHING)),
    "no server, stream": lambda url: called(opened, NOTHING),
    "no server, awaited stream": lambda url: asyncio.run(awaited(streamed, NOTHING)),
    "no time": lambda url: called(lambda client: client.model("vowels-gru").predict(ROWS, timeout=1e-6), url),
    "no time, awaited": lambda url: asyncio.run(awaited(AsyncClient.models, url, timeout=1e-6)),
    "no JSON": lambda url: called(Client.models, url, transport=NO_JSON),
    "no result": lambda url: called(lambda client: client.model("m").predict("x"), url, transport=NO_RESULT),
    "no route for streams": lambda url: called(opened, f"{url}/elsewhere"),
    "wrong steps of a stream": lambda url: asyncio.run(awaited(streamed, url)),
    "no such model": lambda url: called(lambda client: client.model("m").predict("x"), url),
    "ragged": lambda url: called(lambda client: client.model("vowels-gru").predict([[1.0], [1.0, 2.0]]), url),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_the_traceback_of_an_error_is_its_own_alone(server: RunningServer, name: str) -> None:
    with pytest.raises(ElmanError) as raised:
        FAILING[name](server.url)
    shown = "".join(traceback.format_exception(raised.value))
    assert "direct cause" not in shown and "During handling" not in shown, shown
