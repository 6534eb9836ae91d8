"""Calls for one session, and the step that it is known to be at."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from elman.client.calls.call import Call, json_call
from elman.client.calls.options import StepOptions
from elman.client.inputs import Read
from elman.client.results import SessionInfo, StepResult
from elman.client.wire import (
    BINARY,
    JSON,
    AcceptedShapes,
    binary_fields,
    is_binary,
    read_error,
    read_json,
    steps_are_known,
    to_json_value,
    to_query,
)


class SessionCalls:
    """Calls for one session. The response to each of them updates `info` and `step_count`."""

    def __init__(self, info: SessionInfo) -> None:
        self.info = info
        self.step_count = info.step
        self.path = f"/v1/sessions/{quote(info.id, safe='')}"
        self._shapes = AcceptedShapes()

    def step(self, x: Read, options: StepOptions) -> Call[StepResult]:
        at, path, timeout = self.step_count, f"{self.path}/steps", options.timeout
        fields = {"at": at, **options.body()}

        def parse(response: httpx.Response) -> StepResult:
            return self._stepped(response, x)

        content = None if options.heads else self._shapes.to_bytes(x)
        if content is None:
            body = {"sequence": to_json_value(x, "sequence"), **fields}
            return json_call("POST", path, parse, body, at=at, timeout=timeout, sequences=(x,))
        accept = JSON if options.decode or not steps_are_known(x, options.returns) else BINARY
        headers = {"content-type": BINARY, "accept": accept}
        query = to_query(fields)
        return Call("POST", path, parse, query=query, content=content, headers=headers, at=at, timeout=timeout)

    def _stepped(self, response: httpx.Response, x: Read) -> StepResult:
        if not is_binary(response):
            result = self.stepped(read_json(response))
            self._shapes.add(x)
            return result
        step, replayed = int(response.headers["elman-step"]), response.headers["elman-replayed"] == "true"
        result = StepResult(**binary_fields(response, len(x)), step=step, id=self.info.id, replayed=replayed)
        self.step_count = step
        return result

    def stepped(self, raw: Mapping[str, Any]) -> StepResult:
        """The result that a JSON response holds. `step_count` becomes the step that it names."""
        result = StepResult.from_json(raw)
        self.step_count = raw["step"]
        return result

    def refresh(self) -> Call[SessionInfo]:
        return Call("GET", self.path, self._updated)

    def state(self) -> Call[str]:
        return Call("GET", f"{self.path}/state", lambda response: str(read_json(response)["state"]))

    def restore(self, token: str) -> Call[SessionInfo]:
        return json_call("PUT", f"{self.path}/state", self._updated, {"state": token})

    def fork(self, ttl: float | None = None) -> Call["SessionCalls"]:
        return json_call("POST", f"{self.path}/fork", read_session, {"ttl": ttl}, repeatable=False)

    def delete(self) -> Call[None]:
        return Call("DELETE", self.path, _deleted, accepts=(404,))

    def _updated(self, response: httpx.Response) -> SessionInfo:
        self.info = SessionInfo.from_json(read_json(response))
        self.step_count = self.info.step
        return self.info


def read_session(response: httpx.Response) -> SessionCalls:
    """The calls for the session that a response describes."""
    return SessionCalls(SessionInfo.from_json(read_json(response)))


def _deleted(response: httpx.Response) -> None:
    if response.status_code == 404 and read_json(response)["code"] != "unknown_session":
        raise read_error(response)
