"""What the blocking and the asynchronous client have in common: all but the sending."""

import ssl
from typing import Any, TypeVar

import httpx

from elman import __version__
from elman.client.calls import Call, Draft, ModelCalls, SessionCalls
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import Deadline
from elman.client.errors import TimedOut
from elman.client.results import SessionInfo
from elman.client.wire import Shapes

T = TypeVar("T")


def _tls(url: str, verify: ssl.SSLContext | None) -> ssl.SSLContext:
    """What to trust servers by. Where no TLS is spoken nothing is trusted, which takes no time to load."""
    if verify is not None:
        return verify
    return httpx.create_ssl_context() if url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class ClientBase:
    """The settings of a client, and requests made of calls."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout: Timeout | float,
        retries: Retries,
        batching: Batching,
        verify: ssl.SSLContext | None,
    ) -> None:
        base = httpx.URL(url)
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError(f"{url!r} is not the address of a server, such as http://localhost:8000")
        self.url = str(base).rstrip("/")
        self.tls = _tls(self.url, verify)
        self.timeout = Timeout().within(timeout)
        self.retries = retries
        self.batching = batching
        self._shapes: dict[str, Shapes] = {}
        self.headers = {"user-agent": f"elman/{__version__}"}
        if api_key is not None:
            self.headers["authorization"] = f"Bearer {api_key}"

    def calls_of(self, model: str, version: int | None) -> ModelCalls:
        """The calls for a model, which share what is known of the shapes that it takes."""
        return ModelCalls(model, version, self._shapes.setdefault(f"{model}/{version}", Shapes()))

    def deadline(self, call: Call[Any]) -> Deadline:
        """The deadline of a call that begins now."""
        return Deadline(self.timeout.within(call.timeout).total)

    def written(self, draft: Draft[T], deadline: Deadline) -> Call[T]:
        """A call whose turn has come. Raises TimedOut where that is too late."""
        if not deadline.remaining:
            raise TimedOut(f"the list took longer than {deadline.total:g} s in all")
        return draft()

    def times(self, call: Call[Any], deadline: Deadline) -> httpx.Timeout:
        """What one attempt may take of what is left."""
        timeout, left = self.timeout.within(call.timeout), max(deadline.remaining, 1e-3)
        return httpx.Timeout(
            connect=min(timeout.connect, left),
            read=timeout.silence(left),
            write=min(timeout.write, left),
            pool=left,
        )

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call[Any], deadline: Deadline) -> httpx.Request:
        """A call as httpx sends it."""
        return http.build_request(
            call.method,
            self.url + call.path,
            params=call.query or None,
            content=call.content,
            headers=call.headers,
            timeout=self.times(call, deadline),
        )

    def stream_options(self, deadline: Deadline) -> dict[str, Any]:
        """What websockets opens a connection with."""
        return {
            "additional_headers": self.headers,
            "user_agent_header": None,
            "open_timeout": max(1e-3, min(self.timeout.connect, deadline.remaining)),
            "close_timeout": 1.0,
            "max_size": None,
            "compression": None,
            "ssl": self.tls if self.url.startswith("https") else None,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class SessionBase:
    """What is known of a session without asking."""

    _calls: SessionCalls

    @property
    def id(self) -> str:
        """Its id, with which `Client.session` finds it again."""
        return self._calls.info.id

    @property
    def model(self) -> str:
        """The name of its model."""
        return self._calls.info.model

    @property
    def version(self) -> int:
        """The version of its model."""
        return self._calls.info.version

    @property
    def step_count(self) -> int:
        """Steps done, as far as is known here; of a model of frames, samples received."""
        return self._calls.step_count

    @property
    def info(self) -> SessionInfo:
        """The session as the server described it last, by `refresh` or when it was opened."""
        return self._calls.info

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, model={self.model!r}, step_count={self.step_count})"
