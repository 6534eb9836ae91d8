"""Load on sequences with state: each request continues a sequence from its last answer."""

import random
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.load import Connection, Generator, Plan, request
from benchmarks.workload import CONTENT_TYPES, Format

Way = Literal["sessions", "tokens"]

_TOKEN: dict[Format, re.Pattern[bytes]] = {
    "octet": re.compile(rb"\r\nelman-state: *([\w-]+)", re.IGNORECASE),
    "json": re.compile(rb'"state":"([\w-]+)"'),
}


@dataclass
class WalkPlan(Plan):
    """Sequences that are continued in turn. A sequence has one request at a time, so there must be as many sequences as
    connections, or more.

    Attributes:
        requests: the steps to send: octets, or the JSON text of a sequence. All sequences use them in this order.
        paths: the path for each sequence: the steps of a session, or predict.
        starts: the step that each sequence is at.
        token: the state token of all sequences at the start, if their state is in tokens.
        order: seed of the order of the sequences.
    """

    way: Way = "sessions"
    form: Format = "octet"
    paths: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    token: str = ""
    order: int = 0

    def generator(self) -> Generator:
        return Walk(self)


class WholeConnection(Connection):
    """Keeps the whole answer."""

    kept = b""

    def send(self, index: int, content: bytes, due: float) -> None:
        self.kept = b""
        super().send(index, content, due)

    def data_received(self, data: bytes) -> None:
        self.kept += data
        super().data_received(data)


class Walk(Generator):
    """Runs a plan of sequences with state."""

    plan: WalkPlan
    connection = WholeConnection

    def __init__(self, plan: WalkPlan) -> None:
        super().__init__(plan)
        self.steps = list(plan.starts)
        self.tokens = [plan.token] * len(plan.paths)
        waiting = list(range(len(plan.paths)))
        random.Random(plan.order).shuffle(waiting)
        self._waiting_walkers = deque(waiting)
        self._walkers: dict[Connection, int] = {}

    def content(self, connection: Connection, index: int) -> bytes:
        walker = self._walkers[connection] = self._waiting_walkers.popleft()
        plan, body = self.plan, self.plan.requests[index]
        path, kind = plan.paths[walker], CONTENT_TYPES[plan.form]
        if plan.way == "sessions":
            at = self.steps[walker]
            if plan.form == "octet":
                return request(f"{path}?at={at}", body, kind, kind)
            return request(path, b'{"at":%d,"sequence":%b}' % (at, body), kind, kind)
        token = self.tokens[walker]
        if plan.form == "octet":
            return request(f"{path}?return_state=true", body, kind, kind, [f"Elman-State: {token}"])
        text = b'{"return_state":true,"state":"%b","sequence":%b}' % (token.encode(), body)
        return request(path, text, kind, kind)

    def _answered(self, connection: Connection, status: int) -> None:
        walker = self._walkers[connection]
        if status == 200:
            self.steps[walker] += self.plan.sizes[connection.index]
            if self.plan.way == "tokens":
                assert isinstance(connection, WholeConnection)
                found = _TOKEN[self.plan.form].search(connection.kept)
                assert found is not None, "a token was asked for"
                self.tokens[walker] = found.group(1).decode()
        self._waiting_walkers.append(walker)
        super()._answered(connection, status)
