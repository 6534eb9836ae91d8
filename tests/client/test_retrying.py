"""A call may be sent again if it certainly was not done, or if doing it twice is the same."""

from typing import Any

import httpx
import pytest

from elman.client import (
    BadAnswer,
    DeadlineExceeded,
    Disconnected,
    ElmanError,
    NotConnected,
    Quota,
    Refused,
    Retries,
    ServerFailed,
    StepConflict,
    StepReused,
    TimedOut,
    Unavailable,
)
from elman.client.calls import (
    Call,
    ForecastOptions,
    GenerateOptions,
    InfluenceOptions,
    ModelCalls,
    PredictOptions,
    SessionCalls,
    StepOptions,
    server,
)
from elman.client.config import Batching
from elman.client.deadline import Deadline
from elman.client.results import SessionInfo
from elman.client.retrying import may_be_repeated, pause_before

MODEL, SESSION = ModelCalls("m"), SessionCalls(SessionInfo("s", "m", 1, 7, 0.0, 60.0))
READS: list[Call[Any]] = [
    server.models(),
    server.load("m"),
    MODEL.card(),
    MODEL.predict_one("a", None, PredictOptions()),
    *[make() for make in MODEL.predict_many(["a"], None, PredictOptions(), Batching())],
    MODEL.generate("a", GenerateOptions()),
    MODEL.forecast([1.0], ForecastOptions()),
    MODEL.influence("a", InfluenceOptions()),
    SESSION.step("a", StepOptions()),
    SESSION.restore("token"),
    SESSION.delete(),
]
MAKES: list[Call[Any]] = [MODEL.create_session(), SESSION.fork(), MODEL.generate_stream("a", GenerateOptions())]
UNKNOWN = [Disconnected("cut"), TimedOut("silent"), Unavailable("no word when")]
NOT_DONE = [NotConnected("away"), Unavailable("later", retry_after=1.0), Quota("full", retry_after=1.0)]
ANSWERS: list[ElmanError] = [
    BadAnswer("what"),
    ServerFailed("broken"),
    DeadlineExceeded("over"),
    StepReused("other"),
    Refused("new"),
    StepConflict("moved", expected=9),
    Quota("full"),
]


def named(call: Call[Any]) -> str:
    return f"{call.method} {call.path}"


@pytest.mark.parametrize("call", READS, ids=named)
def test_a_repeatable_call_is_sent_again_when_its_response_is_lost(call: Call[Any]) -> None:
    assert all(may_be_repeated(call, error) for error in UNKNOWN + NOT_DONE)
    assert not any(may_be_repeated(call, error) for error in ANSWERS)


@pytest.mark.parametrize("call", MAKES, ids=named)
def test_a_call_that_creates_is_sent_again_only_if_it_was_not_done(call: Call[Any]) -> None:
    assert all(may_be_repeated(call, error) for error in NOT_DONE)
    assert not any(may_be_repeated(call, error) for error in UNKNOWN + ANSWERS)


def test_a_step_in_conflict_with_its_own_earlier_attempt_is_sent_again() -> None:
    assert may_be_repeated(SESSION.step("a", StepOptions()), StepConflict("another is under way", expected=7))


def test_the_pause_before_an_attempt_doubles_up_to_the_longest_and_ends_before_the_deadline() -> None:
    retries, call, away = Retries(attempts=3000, first=1.0, longest=9.0), server.models(), NotConnected("away")
    for num_attempts, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 9.0), (2999, 9.0)):
        pause = pause_before(call, away, num_attempts, retries, Deadline(60.0))
        assert pause is not None and longest / 2 <= pause <= longest
    assert pause_before(call, away, 3000, retries, Deadline(60.0)) is None
    assert pause_before(call, away, 5, retries, Deadline(4.0)) is None
    assert pause_before(call, ServerFailed("broken"), 1, retries, Deadline(60.0)) is None
    later = pause_before(call, Unavailable("later", retry_after=20.0), 1, retries, Deadline(60.0))
    assert later is not None and 20.5 <= later <= 21.0


def test_deleting_a_session_twice_is_no_error() -> None:
    gone = httpx.Response(404, json={"code": "unknown_session", "detail": "no such session"})
    SESSION.delete().read(gone)
    with pytest.raises(Refused):
        SESSION.delete().read(httpx.Response(404, json={"code": "unknown_route", "detail": "no such route"}))


def test_a_response_of_another_form_is_a_bad_answer() -> None:
    for body in ({}, [], {"results": [{}]}, {"results": None}, "text", None):
        with pytest.raises(BadAnswer):
            MODEL.predict_one("a", None, PredictOptions()).read(httpx.Response(200, json=body))
    with pytest.raises(BadAnswer):
        MODEL.card().read(httpx.Response(200, text="<html>"))


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first": -1.0}, {"first": 9.0, "longest": 1.0}])
def test_retries_are_checked_when_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="attempts"):
        Retries(**wrong)
