"""What goes over an open stream: events of a generation, frames of a session. Nothing here sends."""

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from elman.client.calls import Call, ModelCalls, Returns, SessionCalls, Wait
from elman.client.deadline import Deadline
from elman.client.errors import (
    CLASSES,
    BadAnswer,
    Disconnected,
    ElmanError,
    NotConnected,
    Refused,
    Unavailable,
    error_of,
)
from elman.client.results import Generation, SessionInfo, StepResult, Token
from elman.client.retrying import translated
from elman.client.wire import One, encode, plain, seconds_of


class Events:
    """Server-sent events of a generation, line by line."""

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self._event = "message"
        self._data: list[str] = []

    def read(self, line: str) -> Token | None:
        """The token that a line completes, if any. Raises ElmanError for an event that is an error."""
        if line:
            name, _, value = line.partition(":")
            if name == "event":
                self._event = value.strip()
            elif name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        event, data = self._event, "\n".join(self._data)
        self._event, self._data = "message", []
        return self._complete(event, data) if data else None

    def _complete(self, event: str, data: str) -> Token | None:
        try:
            body = json.loads(data)
            if event == "error":
                raise error_of(int(body.get("status", 500)), body, data)
            if event == "done":
                self.generation = Generation.of(body)
                return None
            return Token(body["sample"], body["token"], body["text"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadAnswer(f"an event of the generation is not as expected: {error!r}") from error

    def end(self) -> None:
        """Raise Disconnected where the events ended before the generation did."""
        if self.generation is None:
            raise Disconnected("the stream ended before the generation was done")


@dataclass(frozen=True)
class StreamOptions:
    """What every frame of a stream is answered with."""

    returns: Returns
    decode: bool
    top: int
    ttl: float | None


class Frames:
    """The frames of one session over a WebSocket.

    Each goes as JSON with the step that it starts at, so that it may be sent again over the next connection; a frame
    of bytes has no room for that.
    """

    def __init__(self, model: ModelCalls, session: SessionCalls | str | None, options: StreamOptions) -> None:
        self.model = model
        self.session = session if isinstance(session, SessionCalls) else None
        self.options = options
        self._id = session if isinstance(session, str) else None

    def url(self, base: str) -> str:
        """Where to connect: to the session, once there is one."""
        scheme, host, path, _, _ = urlsplit(base)
        query: dict[str, Any] = {}
        id = self._id if self.session is None else self.session.info.id
        if id is not None:
            query["session"] = id
        elif self.options.ttl is not None:
            query["ttl"] = self.options.ttl
        path = f"{path.rstrip('/')}{self.model.path}/stream"
        return urlunsplit(("wss" if scheme == "https" else "ws", host, path, urlencode(query, quote_via=quote), ""))

    def opened(self, message: str | bytes) -> None:
        """Take on the session that the server's first message names. Our own step is kept: a replay goes on from it."""
        raw = _read(message)
        if "code" in raw:
            raise error_of(int(raw.get("status", 500)), raw, str(message))
        if self.session is None:
            info = SessionInfo(raw["session"], raw["model"], raw["version"], raw["step"], 0.0, 0.0)
            self.session = SessionCalls(info)

    def call(self, timeout: Wait) -> Call[None]:
        """One frame as a call, for the policy of retries."""
        at = None if self.session is None else self.session.step_count
        return Call("WS", f"{self.model.path}/stream", lambda answer: None, at=at, timeout=timeout)

    def text(self, x: One) -> str:
        """A frame as JSON, with the step that it starts at."""
        options = {"return": self.options.returns, "decode": self.options.decode, "top": self.options.top}
        return encode({"sequence": plain(x, "sequence"), "at": self.known.step_count, **options}).decode()

    def answered(self, message: str | bytes) -> StepResult:
        """The answer to a frame. Raises Refused where it is a problem."""
        raw = _read(message)
        if "code" in raw:
            raise error_of(int(raw.get("status", 500)), raw, str(message))
        return self.known.took(raw)

    @property
    def known(self) -> SessionCalls:
        """The session, which the server's first message names."""
        assert self.session is not None, "the stream is open"
        return self.session


@contextlib.contextmanager
def stream_translated(deadline: Deadline, target: str) -> Iterator[None]:
    """Raise what a WebSocket raises as errors of ours."""
    exceptions: Any = websockets("exceptions")
    try:
        with translated(deadline, target):
            yield
    except ElmanError:  # some are OSErrors too
        raise
    except exceptions.ConnectionClosed as error:
        raise _closed(error.rcvd) from error
    except exceptions.InvalidStatus as error:
        response = error.response
        raise _refused(response.status_code, response.body, response.headers) from error
    except (OSError, EOFError, exceptions.WebSocketException) as error:
        raise NotConnected(f"{target} was not reached ({error or type(error).__name__})") from error


def _closed(frame: Any) -> ElmanError:
    """The error that a close frame stands for, or its absence."""
    if frame is None:
        return Disconnected("the stream was cut")
    detail = f"the server closed the stream: {frame.reason or frame.code}"
    if frame.code == 1001:
        return Unavailable(detail, code="draining", status=503)
    if frame.code == 1013:
        return Unavailable(detail, code="overloaded", status=503)
    code = frame.reason.partition(":")[0]
    if code in CLASSES:
        return CLASSES[code](detail, code=code)
    # A slow consumer may come again and go on; what is against the rules otherwise stays so.
    return Refused(detail, code="policy") if frame.code == 1008 and code != "slow consumer" else Disconnected(detail)


def _refused(status: int, body: bytes | None, headers: Mapping[str, str]) -> ElmanError:
    """The error of a handshake that was answered with `status`."""
    text = (body or b"").decode("utf-8", "replace")
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    return error_of(status, problem, text, seconds_of(headers.get("retry-after")))


def websockets(room: str) -> Any:
    """A module of the package `websockets`, which streams alone need."""
    try:
        return importlib.import_module(f"websockets.{room}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("streams need the package websockets: pip install 'elman[stream]'") from error


def _read(message: str | bytes) -> dict[str, Any]:
    try:
        raw = json.loads(message)
    except ValueError as error:
        raise BadAnswer(f"a message of the stream is not JSON: {message[:200]!r}") from error
    if not isinstance(raw, dict):
        raise BadAnswer(f"a message of the stream is no object: {message[:200]!r}")
    return raw
