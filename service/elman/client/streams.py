"""The messages of open streams: events of a generation, and steps of a session. Nothing here sends."""

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from elman.client.advice import explained
from elman.client.calls import Call, ModelCalls, SessionCalls, StepOptions
from elman.client.config import Timeout
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
from elman.client.inputs import Read
from elman.client.results import Generation, SessionInfo, StepResult, Token
from elman.client.retrying import translated
from elman.client.wire import StaticLike, encode_json, parse_retry_after, to_json_statics, to_json_value
from elman.proxies import reason_of


class GenerationEvents:
    """Reads the server-sent events of a generation line by line."""

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self._event = "message"
        self._data: list[str] = []

    def read(self, line: str) -> Token | None:
        """The token that a line completes, if any. Raises Refused for an event that is an error."""
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
                self.generation = Generation.from_json(body)
                return None
            return Token.from_json(body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadAnswer(f"an event of the generation is not what Elman sends: {error!r}") from None

    def end(self) -> None:
        """Raise Disconnected if the events ended before the generation was complete."""
        if self.generation is None:
            raise Disconnected("the stream ended before the generation was complete")


class StreamProtocol:
    """The messages of one session over a WebSocket.

    Each request is JSON with the step that it starts at, so that it can be sent again over the next connection. Binary
    messages have no field for that step.
    """

    def __init__(
        self,
        model: ModelCalls,
        session: SessionCalls | str | None,
        options: StepOptions,
        ttl: float | None,
        static: StaticLike | None = None,
    ) -> None:
        self.model = model
        self.session = session if isinstance(session, SessionCalls) else None
        self.options = options
        self._ttl = ttl
        self._static = static
        self._id = session if isinstance(session, str) else None

    def url(self, base: str) -> str:
        """Where to connect: to the session if it is known already, else to a new one."""
        scheme, host, path, _, _ = urlsplit(base)
        query: dict[str, Any] = {}
        id = self._id if self.session is None else self.session.info.id
        if id is not None:
            query["session"] = id
        else:
            new = {"ttl": self._ttl, "static": None if self._static is None else _compact(self._static)}
            query = {name: value for name, value in new.items() if value is not None}
        path = f"{path.rstrip('/')}{self.model.path}/stream"
        return urlunsplit(("wss" if scheme == "https" else "ws", host, path, urlencode(query, quote_via=quote), ""))

    def read_opening(self, message: str | bytes) -> None:
        """Read the server's first message, which names the session. Raises Refused if it is an error.

        After a reconnection the step that is known here is kept, so that a repeated request continues from it.
        """
        raw = _read(message)
        if self.session is None:
            info = SessionInfo(raw["session"], raw["model"], raw["version"], raw["step"], 0.0, 0.0)
            self.session = SessionCalls(info)

    def call(self, timeout: Timeout | float | None) -> Call[None]:
        """One message as a call, which decides whether it may be repeated."""
        at = None if self.session is None else self.session.step_count
        return Call("WS", f"{self.model.path}/stream", lambda response: None, at=at, timeout=timeout)

    def request(self, x: Read) -> str:
        """The message for the next steps."""
        body = {"sequence": to_json_value(x, "sequence"), "at": self.known.step_count, **self.options.body()}
        return encode_json(body).decode()

    def read_result(self, message: str | bytes, x: Read) -> StepResult:
        """The result of the steps x that a message holds. Raises Refused if it is an error."""
        try:
            return self.known.stepped(_read(message))
        except ElmanError as error:
            raise explained(error, (x,), False) from None

    def __repr__(self) -> str:
        known = (
            "" if self.session is None else f", session={self.session.info.id!r}, step_count={self.session.step_count}"
        )
        return f"model={self.model.name!r}{known}"

    @property
    def known(self) -> SessionCalls:
        """The session, once the stream has been opened."""
        if self.session is None:
            raise RuntimeError("the stream is not open; use it as a context manager")
        return self.session


def _compact(static: StaticLike) -> str:
    return encode_json(to_json_statics(static)).decode()


@contextlib.contextmanager
def websocket_translated(deadline: Deadline, target: str) -> Iterator[None]:
    """Raise the errors of the package websockets as those of this client."""
    exceptions: Any = websockets("exceptions")
    try:
        with translated(deadline, target):
            yield
    except ElmanError:  # some of them are OSErrors too
        raise
    except exceptions.ConnectionClosed as error:
        raise _closed(error.rcvd) from None
    except exceptions.InvalidStatus as error:
        response = error.response
        raise _refused(target, response.status_code, response.body, response.headers) from None
    except (OSError, EOFError, exceptions.WebSocketException) as error:
        raise NotConnected(f"{target} could not be reached ({reason_of(error)})") from None


def _closed(frame: Any) -> ElmanError:
    """The error for a close frame. `frame` is None if the connection broke without one."""
    if frame is None:
        return Disconnected("the connection of the stream broke")
    detail = f"the server closed the stream: {frame.reason or frame.code}"
    if frame.code == 1001:
        return Unavailable(detail, code="draining", status=503)
    if frame.code == 1013:
        return Unavailable(detail, code="overloaded", status=503)
    code = frame.reason.partition(":")[0]
    if code in CLASSES:
        return CLASSES[code](detail, code=code)
    # A client that read too slowly may connect again and continue. Any other breach of policy would happen again.
    return Refused(detail, code="policy") if frame.code == 1008 and code != "slow consumer" else Disconnected(detail)


def _refused(target: str, status: int, body: bytes | None, headers: Mapping[str, str]) -> ElmanError:
    """The error for a handshake that the server refused with `status`."""
    text = (body or b"").decode("utf-8", "replace")
    if not text and status in (403, 404):  # no route for streams
        detail = f"{target} opens no stream: it answers with status {status}; check the address, or the proxy before it"
        return BadAnswer(detail, status=status)
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    return error_of(status, problem, text, parse_retry_after(headers.get("retry-after")))


def websockets(module: str) -> Any:
    """A module of the package websockets, which only streams need."""
    try:
        return importlib.import_module(f"websockets.{module}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("streams need the package websockets: pip install 'elman[stream]'") from None


def _read(message: str | bytes) -> dict[str, Any]:
    """The JSON object of a message. Raises Refused if it describes an error, BadAnswer if it is not a JSON object."""
    try:
        raw = json.loads(message)
    except ValueError:
        raise BadAnswer(f"a message of the stream is not JSON: {message[:200]!r}") from None
    if not isinstance(raw, dict):
        raise BadAnswer(f"a message of the stream is not a JSON object: {message[:200]!r}")
    if "code" in raw:
        raise error_of(int(raw.get("status", 500)), raw, str(message))
    return raw
