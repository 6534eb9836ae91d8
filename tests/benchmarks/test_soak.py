"""A soak finds what it is there to find."""

import asyncio
from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.soak import MOST_MEMORY, faults
from benchmarks.soak.truth import VALUES, Case
from benchmarks.soak.visits import Books, Lost, Target, Visit, Wrong, predict_octets

GIVEN_BACK = {"memory": 1e8, "resident": 2e8, "descriptors": 21, "threads": 16, "elman_active_requests": 1.0}
GOOD: dict[str, Any] = {
    "steady": {"wrong": [], "right": {"predict": 6000}, "lost": {"predict": 6}},
    "killed": {"wrong": []},
    "liveness": {"steady": {"lost": 0, "bad": 0}},
    "before": GIVEN_BACK,
    "after": {**GIVEN_BACK, "memory": 1e8 + MOST_MEMORY, "resident": 3e8, "threads": 24},
    "opened": {"pipe": 1},
    "supervisors": [[16, 22], [16]],
    "log": [],
}


def test_a_good_soak_has_no_faults() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda one: one["steady"]["wrong"].append("a wrong answer"), "wrong: a wrong answer"),
        (lambda one: one["killed"]["wrong"].append("a step is gone"), "wrong: a step is gone"),
        (
            lambda one: one["steady"]["lost"].update(sessions=1),
            "lost by the steady server: {'predict': 6, 'sessions': 1}",
        ),
        (lambda one: one["liveness"]["steady"].update(lost=1), "liveness: /livez has no answer 1 times"),
        (lambda one: one["liveness"]["steady"].update(bad=2), "not 200 2 times"),
        (lambda one: one["after"].update(memory=1e8 + MOST_MEMORY + 2**20), "memory: 33 MiB more"),
        (lambda one: one["after"].update(descriptors=22), "descriptors: 22, and 21 after the warm-up: {'pipe': 1}"),
        (lambda one: one["after"].update(threads=25), "threads: 25, and 16"),
        (lambda one: one["after"].update(elman_active_requests=2.0), "elman_active_requests: 2, and 1"),
        (lambda one: one["supervisors"].append([16, 23]), "descriptors of a supervisor: [16, 23]"),
        (lambda one: one["log"].append("steady-0.log: Traceback"), "log: steady-0.log: Traceback"),
    ],
)
def test_each_fault_is_found(spoil: Callable[[dict[str, Any]], object], found: str) -> None:
    results = deepcopy(GOOD)
    spoil(results)
    (fault,) = faults(results)
    assert found in fault


CASE = Case(np.ones((2, 12), np.float32), np.ones((2, 9), np.float32))


def visit_one(body: bytes | None, *, killed: bool = False, seconds_ago: float = -3600.0) -> Books:
    """Visit a server that answers once with a body, or closes the connection. Raises Lost and Wrong.

    seconds_ago: how long before the request the one before it was sent. With less than zero, no request is late.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async def visit() -> Books:
        books = Books()
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False) as client:
                truth: Any = SimpleNamespace(values={name: [CASE] for name in VALUES})
                one = Visit(Target(port, killed), client, truth, np.random.default_rng(0), books, "predict")
                one.written -= seconds_ago
                await predict_octets(one)
        return books

    return asyncio.run(visit())


def test_a_right_answer_is_counted() -> None:
    assert visit_one(CASE.outputs.tobytes()).right == {"predict": 1}


def test_an_answer_with_one_wrong_bit_is_found() -> None:
    wrong = bytearray(CASE.outputs.tobytes())
    wrong[17] ^= 1
    with pytest.raises(Wrong):
        visit_one(bytes(wrong))


def test_no_answer_is_wrong_unless_the_server_is_killed_or_the_request_was_late() -> None:
    with pytest.raises(Wrong, match="no answer"):
        visit_one(None)
    with pytest.raises(Lost):
        visit_one(None, killed=True)
    with pytest.raises(Lost):
        visit_one(None, seconds_ago=5.0)
