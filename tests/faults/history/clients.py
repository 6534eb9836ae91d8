"""Clients that step sessions at any server, and keep what they were answered."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.faults.history.checker import NOWHERE, Attempt, History, Operation, Outcome
from tests.reference import float32

_TIMEOUT = 5.0
_RETRY_SECONDS = 0.03
# Between two requests of a client, on average.
_PAUSE_SECONDS = 0.01
_SESSION_LENGTH = 120
# Of 100 turns: reads of where a session stands, and steps that are sent once more although they were answered.
_READS, _REPEATS = 20, 30
_UNCERTAIN = {"outcome_unknown", "deadline"}
_CONFLICTS = {"step_conflict", "step_reused"}


class Unexpected(Exception):
    """An answer that no fault explains."""


@dataclass
class Work:
    """The sessions that all clients step, each of them at any time.

    Attributes:
        servers: the URL of each server, which changes where one is started anew.
        open: sessions that go on, and the step at which each is believed to stand.
        histories: of each session that has not been checked yet.
        ending: set when no more is to be begun; given_up, when nothing is to be sent again either.
        in_use: the clients that ask for each session now.
    """

    model: str
    servers: Callable[[], Sequence[str]]
    num_sessions: int
    open: dict[str, int] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    in_use: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ending: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)
    num_done: int = 0

    def take_ended(self) -> list[History]:
        """Histories to which nothing will be added. Each is returned once."""
        with self.lock:
            ended = [id for id in self.histories if id not in self.open and not self.in_use.get(id)]
            return [self.histories.pop(id) for id in ended]


class Client(threading.Thread):
    """Steps sessions until the work ends. Raises nothing: what went wrong is among the work's failures."""

    def __init__(self, work: Work, seed: int) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self._work = work
        self._random = random.Random(seed)
        self._data = np.random.default_rng(seed)
        self._http = httpx.Client(timeout=_TIMEOUT)

    def run(self) -> None:
        try:
            with self._http:
                while not self._work.ending.is_set():
                    self._turn()
                    time.sleep(self._random.uniform(0, 2 * _PAUSE_SECONDS))
        except BaseException as error:
            self._work.failures.append(error)

    def _turn(self) -> None:
        work = self._work
        with work.lock:
            id = self._random.choice([*work.open, *[""] * (work.num_sessions - len(work.open))])
            if id:
                work.in_use[id] = work.in_use.get(id, 0) + 1
        if not id:
            self._begin()
            return
        try:
            if self._random.randrange(100) < _READS:
                self._read(work.histories[id])
            else:
                self._step(work.histories[id])
        finally:
            with work.lock:
                work.in_use[id] -= 1
                if work.open.get(id, 0) >= _SESSION_LENGTH:
                    del work.open[id]

    def _begin(self) -> None:
        answer = self._ask("POST", f"/v1/models/{self._work.model}/sessions", {})
        if answer is not None and answer.status_code == 201:
            id = str(answer.json()["id"])
            with self._work.lock:
                self._work.histories[id] = History(id)
                self._work.open[id] = 0

    def _read(self, history: History) -> None:
        began = time.monotonic()
        answer = self._ask("GET", f"/v1/sessions/{history.id}")
        ended = time.monotonic()
        if answer is not None and answer.status_code in (200, 404):
            stands = answer.json()["step"] if answer.status_code == 200 else NOWHERE
            history.reads.append(Attempt(began, ended, Outcome.REFUSED, stands))

    def _step(self, history: History) -> None:
        """Have some steps done, however often they must be sent, or learn that the session stands elsewhere."""
        length = int(self._data.integers(1, 6))
        data = self._data.standard_normal((length, 12), np.float32)
        operation = Operation(self._work.open.get(history.id, 0), data)
        history.operations.append(operation)
        while (attempt := self._attempt(history.id, operation)).stands is None and not self._work.given_up.is_set():
            time.sleep(_RETRY_SECONDS)
        if attempt.outcome is Outcome.DONE and self._random.randrange(100) < _REPEATS:
            attempt = self._attempt(history.id, operation)
        with self._work.lock, suppress(KeyError):
            self._work.num_done += attempt.outcome is Outcome.DONE
            if attempt.stands == NOWHERE:
                del self._work.open[history.id]
            elif attempt.stands is not None:
                self._work.open[history.id] = attempt.stands

    def _attempt(self, id: str, operation: Operation) -> Attempt:
        body = {"sequence": operation.data.tolist(), "at": operation.at, "return": "steps", "decode": False}
        began = time.monotonic()
        answer = self._ask("POST", f"/v1/sessions/{id}/steps", body)
        attempt = _understood(answer, began, time.monotonic())
        operation.attempts.append(attempt)
        return attempt

    def _ask(self, method: str, path: str, body: object = None) -> httpx.Response | None:
        """The answer of a random server; None if there is none."""
        url = self._random.choice(self._work.servers())
        try:
            return self._http.request(method, url + path, json=body)
        except httpx.ConnectError:
            return httpx.Response(503, json={"code": "not_sent"})
        except httpx.TransportError:
            return None


def _understood(answer: httpx.Response | None, began: float, ended: float) -> Attempt:
    if answer is None:
        return Attempt(began, ended, Outcome.UNKNOWN)
    body = answer.json()
    if answer.status_code == 200:
        outputs = float32(body["outputs"])
        return Attempt(began, ended, Outcome.DONE, body["step"], body["replayed"], outputs)
    code = body["code"]
    if code in _UNCERTAIN:
        return Attempt(began, ended, Outcome.UNKNOWN)
    if answer.status_code == 503:
        return Attempt(began, ended, Outcome.REFUSED)
    if code in _CONFLICTS:
        return Attempt(began, ended, Outcome.REFUSED, body["expected"])
    if code == "unknown_session":
        return Attempt(began, ended, Outcome.REFUSED, NOWHERE)
    raise Unexpected(f"{answer.status_code}: {answer.text}")
