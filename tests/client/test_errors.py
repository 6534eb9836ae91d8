"""Every error of the server has a class in the client, with the same code, status, place and text."""

import pickle

import httpx
import numpy as np
import pytest

import elman.app  # noqa: F401  (defines every error of the server)
from elman.client import (
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
