"""Every call of the client as a value: what to send, what the answer means, and whether it may be sent twice.

Nothing here sends. The blocking and the asynchronous client share it and differ in how they send only.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Literal, TypedDict, TypeVar, cast
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike

from elman.client.config import Batching, Timeout
from elman.client.errors import BadAnswer, ElmanError
from elman.client.results import (
    Card,
    Example,
    Forecast,
    Generation,
    IndexEntry,
    Influence,
    Refusal,
    Result,
    SessionInfo,
    StepResult,
)
from elman.client.wire import (
    BINARY,
    EVENTS,
    JSON,
    One,
    Prompt,
    Shapes,
    encode,
    error_in,
    is_binary,
    numbers,
    plain,
    query_of,
    read_array,
    read_json,
)

T = TypeVar("T")
Returns = Literal["final", "steps"]
Wait = Timeout | float | None

# A state token longer than this does not go into a header.
_MAX_HEADER = 4096


class PredictOptions(TypedDict, total=False):
    """What a prediction may be asked for, beside its state."""

    returns: Returns
    decode: bool
    top: int
    return_state: bool
    hidden: bool
    timeout: Wait


class GenerateOptions(TypedDict, total=False):
    """How to write on."""

    condition: str | None
    max_steps: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    samples: int
    stop: str | Sequence[str] | None
    session: object
    state: str | None
    return_state: bool
    timeout: Wait


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what its answer means.

    Attributes:
        decode: the answer's value.
        repeatable: whether doing it twice is the same as doing it once.
        at: of steps of a session: the step that they start at.
        accepts: statuses beside 2xx whose answer is decoded.
        timeout: in the place of the client's own.
        offset: where the call's sequences begin in the caller's list, for the places that errors name.
    """

    method: str
    path: str
    decode: Callable[[httpx.Response], T]
    query: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    at: int | None = None
    accepts: Collection[int] = ()
    timeout: Wait = None
    offset: int | None = None

    def answer(self, response: httpx.Response) -> T:
        """The value of a read answer. Raises Refused where it is a problem, BadAnswer where it cannot be read."""
        if not (response.is_success or response.status_code in self.accepts):
            raise self.placed(error_in(response))
        try:
            return self.decode(response)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadAnswer(
                f"the answer of {self.method} {self.path} is not as expected: {type(error).__name__}: {error}",
                status=response.status_code,
            ) from error

    def placed(self, error: ElmanError) -> ElmanError:
        """An error whose `where` is that of the caller's own list."""
        if self.offset is not None and error.where is not None:
            found = re.match(r"(sequences|state)\[(\d+)\]|sequence\b", error.where)
            if found:
                index = self.offset + int(found[2] or 0)
                error.where = f"{found[1] or 'sequences'}[{index}]{error.where[found.end() :]}"
        return error


Draft = Callable[[], Call[T]]
"""A call that is written when its turn comes: of a long list only those on their way are held as bytes."""


def _told(timeout: Wait) -> dict[str, float]:
    """The `timeout` field of a request: the server gives up what its caller waits for no more."""
    if timeout is None:
        return {}
    return {"timeout": timeout.total if isinstance(timeout, Timeout) else float(timeout)}


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the server's names, those that were given."""
    told = _told(options.get("timeout"))
    given = {name: value for name, value in options.items() if value is not None and name not in ("returns", "timeout")}
    return {**({"return": options["returns"]} if "returns" in options else {}), **given, **told}


def _json_call(
    method: str, path: str, decode: Callable[[httpx.Response], T], body: Mapping[str, Any], **more: Any
) -> Call[T]:
    headers = {"content-type": JSON, "accept": JSON}
    return Call(method, path, decode, content=encode(body), headers=headers, **more)


def _id_of(session: object) -> str:
    return session if isinstance(session, str) else str(session.id)  # type: ignore[attr-defined]


class ServerCalls:
    """Calls for a server as a whole."""

    def models(self) -> Call[list[Card]]:
        """The card of every model that is served, at its default version."""
        return Call("GET", "/v1/models", lambda answer: [Card.of(card) for card in read_json(answer)["models"]])

    def refused(self) -> Call[list[Refusal]]:
        """The files in the repository that are not served, and why."""
        return Call("GET", "/v1/models", lambda answer: [Refusal.of(one) for one in read_json(answer)["refused"]])

    def sessions(
        self, model: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> Call[list[SessionInfo]]:
        """The caller's sessions in the order of their ids, one page of them.

        Args:
            model: only of this model.
            limit: most of them.
            after: the id of the last one of the page before.
        """
        given = {"model": model, "limit": limit, "after": after}
        query = query_of({name: value for name, value in given.items() if value is not None})
        return Call(
            "GET",
            "/v1/sessions",
            lambda answer: [SessionInfo.of(one) for one in read_json(answer)["sessions"]],
            query=query,
        )

    def find(self, id: str) -> "Call[SessionCalls]":
        """The session of an id, to go on with. Raises UnknownSession."""
        path = f"/v1/sessions/{quote(id, safe='')}"
        return Call("GET", path, lambda answer: SessionCalls(SessionInfo.of(read_json(answer))))

    def load(self, model: str, *, timeout: Wait = None) -> Call[None]:
        """Load a model from the repository, or load it again. Raises RequestError `invalid_model` where it is refused.

        Where that fails, what was served stays.
        """
        path = f"/v2/repository/models/{quote(model, safe='')}/load"
        return Call("POST", path, lambda answer: None, timeout=timeout)

    def unload(self, model: str) -> Call[None]:
        """Serve a model no more. Requests that are queued for it are answered."""
        path = f"/v2/repository/models/{quote(model, safe='')}/unload"
        return Call("POST", path, lambda answer: None)

    def index(self, *, ready: bool = False) -> Call[list[IndexEntry]]:
        """Every model version in the repository, served or refused; with `ready` only what is served."""
        return _json_call(
            "POST",
            "/v2/repository/index",
            lambda answer: [IndexEntry.of(one) for one in read_json(answer)],
            {"ready": ready},
        )

    def live(self) -> Call[bool]:
        """Whether the server works; if it does not, it should be restarted."""
        return Call("GET", "/livez", lambda answer: answer.is_success, accepts=(503,))

    def ready(self) -> Call[bool]:
        """Whether to send requests there: the models are loaded and the server is not stopping."""
        return Call("GET", "/readyz", lambda answer: answer.is_success, accepts=(503,))

    def metrics(self) -> Call[str]:
        """The metrics in Prometheus' text format."""
        return Call("GET", "/metrics", lambda answer: answer.text)

    def engine(self) -> Call[dict[str, Any]]:
        """Live figures of the engine: what is queued, and what was run of each model."""
        return Call("GET", "/v1/engine", read_json)

    def openapi(self) -> Call[dict[str, Any]]:
        """The OpenAPI document of every route."""
        return Call("GET", "/openapi.json", read_json)


class ModelCalls:
    """Calls for one model."""

    def __init__(self, name: str, version: int | None = None, shapes: Shapes | None = None) -> None:
        self.name = name
        pinned = "" if version is None else f"/versions/{version}"
        self.path = f"/v1/models/{quote(name, safe='')}{pinned}"
        self._shapes = shapes or Shapes()

    def card(self) -> Call[Card]:
        """What there is to know of the model. Raises UnknownModel.

        >>> card = elman.model("vowels-gru").card()
        >>> card.cell, card.input["size"], card.labels[0]
        ('gru', 12, 'speaker 1')
        """
        return Call("GET", self.path, lambda answer: Card.of(read_json(answer)))

    def examples(self) -> Call[list[Example]]:
        """Real held-out data to try the model with, where it brings any."""
        return Call(
            "GET",
            f"{self.path}/examples",
            lambda answer: [Example.of(one) for one in read_json(answer)["examples"]],
        )

    def predict_one(self, x: One, state: str | None, options: PredictOptions) -> Call[Result]:
        named, timeout = _named(options), options.get("timeout")
        content, path = self._shapes.octets(x), f"{self.path}/predict"
        hidden, decode = options.get("hidden", False), options.get("decode", True)
        if content is None or hidden or len(state or "") > _MAX_HEADER:
            body = {"sequence": plain(x, "sequence"), **named} | ({} if state is None else {"state": state})
            return _json_call("POST", path, self._first(x), body, timeout=timeout)
        binary = not decode and not options.get("return_state") and _countable(x, options.get("returns", "final"))
        headers = {"content-type": BINARY, "accept": BINARY if binary else JSON}
        if state is not None:
            headers["elman-state"] = state
        return Call(
            "POST",
            path,
            lambda answer: _result(answer, len(x)),
            query=query_of(named),
            content=content,
            headers=headers,
            timeout=timeout,
        )

    def _first(self, x: One) -> Callable[[httpx.Response], Result]:
        def first(answer: httpx.Response) -> Result:
            result = _first(answer)
            self._shapes.taken(x)
            return result

        return first

    def predict_many(
        self, sequences: Sequence[One], state: str | Sequence[str] | None, options: PredictOptions, batching: Batching
    ) -> "list[Draft[list[Result]]]":
        named, timeout = _named(options), options.get("timeout")
        if state is not None and not isinstance(state, str) and len(state) != len(sequences):
            raise ValueError(f"there are {len(state)} states for {len(sequences)} sequences")

        def draft(begin: int, end: int) -> Call[list[Result]]:
            first, told = sequences[begin], state if state is None or isinstance(state, str) else list(state[begin:end])
            if end - begin == 1 and self._shapes.known(first):
                one = self.predict_one(first, told if told is None or isinstance(told, str) else told[0], options)
                alone: Call[list[Result]] = replace(
                    cast(Any, one), decode=lambda answer: [one.decode(answer)], offset=begin
                )
                return alone
            body = {"sequences": [plain(sequences[i], f"sequences[{i}]") for i in range(begin, end)], **named}
            if told is not None:
                body["state"] = told

            def all_of_them(answer: httpx.Response) -> list[Result]:
                results = _all(answer)
                self._shapes.taken(first)
                return results

            return _json_call("POST", f"{self.path}/predict", all_of_them, body, timeout=timeout, offset=begin)

        return [partial(draft, begin, end) for begin, end in groups(sequences, batching)]

    def create(
        self, *, state: str | None = None, ttl: float | None = None, timeout: Wait = None
    ) -> "Call[SessionCalls]":
        body = {name: value for name, value in (("state", state), ("ttl", ttl)) if value is not None}
        return _json_call("POST", f"{self.path}/sessions", _opened, body, repeatable=False, timeout=timeout)

    def generate_whole(self, prompt: Prompt | None, options: GenerateOptions) -> Call[Generation]:
        return _json_call(
            "POST",
            f"{self.path}/generate",
            lambda answer: Generation.of(read_json(answer)),
            _generate_body(prompt, options),
            timeout=options.get("timeout"),
        )

    def generate_stream(self, prompt: Prompt | None, options: GenerateOptions) -> Call[None]:
        return Call(
            "POST",
            f"{self.path}/generate",
            lambda answer: None,
            content=encode({**_generate_body(prompt, options), "stream": True}),
            headers={"content-type": JSON, "accept": EVENTS},
            repeatable=False,
            timeout=options.get("timeout"),
        )

    def forecast(
        self,
        series: ArrayLike,
        horizon: int = 24,
        *,
        samples: int = 0,
        quantiles: Sequence[float] | None = None,
        seed: int | None = None,
        future: ArrayLike | None = None,
        paths: bool = False,
        session: object = None,
        state: str | None = None,
        timeout: Wait = None,
    ) -> Call[Forecast]:
        """What comes after a series, in its own units. Raises Unable `cannot_forecast`.

        Args:
            series: `(time,)` or `(time, features)`, in the data's own units.
            horizon: steps to look ahead.
            samples: paths to sample for `mean` and `quantiles`; 0 for the point forecast only.
            quantiles: shares between 0 and 1; 0.1, 0.5 and 0.9 where not given.
            seed: reproduces the paths.
            future: `(horizon, known)`: the features of the steps to come that are known beforehand.
            paths: whether to return every path.
            session, state: the series goes on from this session (or its id), or from this state token.
            timeout: seconds in all, or a Timeout; the server gives up then too.
        """
        given = {
            "samples": samples or None,
            "quantiles": None if quantiles is None else list(quantiles),
            "seed": seed,
            "future": None if future is None else plain(np.asarray(future, np.float64), "future"),
            "paths": paths or None,
            "session": None if session is None else _id_of(session),
            "state": state,
        }
        body = {
            "series": plain(np.asarray(series, np.float64), "series"),
            "horizon": horizon,
            **{name: value for name, value in given.items() if value is not None},
            **_told(timeout),
        }
        return _json_call(
            "POST", f"{self.path}/forecast", lambda answer: Forecast.of(read_json(answer)), body, timeout=timeout
        )

    def influence(
        self, x: One, *, target: str | int | None = None, state: str | None = None, timeout: Wait = None
    ) -> Call[Influence]:
        """How far each step of a sequence reaches into its last output.

        Args:
            x: one sequence, as predict takes it.
            target: the label, or the index of the output, to look at; the whole output where not given.
            state: a state token that the sequence goes on from.
            timeout: seconds in all, or a Timeout.
        """
        body = {"sequence": plain(x, "sequence"), **_told(timeout)}
        given = {"target": target, "state": state}
        body |= {name: value for name, value in given.items() if value is not None}
        return _json_call(
            "POST", f"{self.path}/influence", lambda answer: Influence.of(read_json(answer)), body, timeout=timeout
        )


class SessionCalls:
    """Calls for one session, and the step that it is known to be at."""

    def __init__(self, info: SessionInfo) -> None:
        self.info = info
        self.step_count = info.step
        self.path = f"/v1/sessions/{quote(info.id, safe='')}"
        self._shapes = Shapes()

    def step(
        self,
        x: One,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        timeout: Wait = None,
    ) -> Call[StepResult]:
        """Go on with these steps, once, whatever becomes of the connection.

        After a NoAnswer, call it again with the same steps: if they were done, their answer comes once more.

        Args:
            x: the next steps, as predict takes a sequence.
            returns: `final` for the output after the last of them, `steps` for the output after each.
            decode: whether to decode outputs into labels or values. Without it, answers travel as bytes too.
            top: how many labels to list.
            timeout: seconds in all, or a Timeout.

        Raises:
            StepConflict: the session was moved on by somebody else; `refresh` takes on its step.
            StepReused: other steps than these were done from here.
            UnknownSession: it was deleted, or its time was over.
        """
        at = self.step_count
        options = {"at": at, "return": returns, "decode": decode, "top": top, **_told(timeout)}
        content, path = self._shapes.octets(x), f"{self.path}/steps"
        if content is None:
            body = {"sequence": plain(x, "sequence"), **options}
            return _json_call("POST", path, lambda answer: self.stepped(answer, x), body, at=at, timeout=timeout)
        headers = {"content-type": BINARY, "accept": JSON if decode or not _countable(x, returns) else BINARY}
        return Call(
            "POST",
            path,
            lambda answer: self.stepped(answer, x),
            query=query_of(options),
            content=content,
            headers=headers,
            at=at,
            timeout=timeout,
        )

    def stepped(self, answer: httpx.Response, x: One) -> StepResult:
        """Take on the step that the answer to `x` says."""
        if not is_binary(answer):
            made = self.took(read_json(answer))
            self._shapes.taken(x)
            return made
        step, replayed = int(answer.headers["elman-step"]), answer.headers["elman-replayed"] == "true"
        made = StepResult(**_binary_fields(answer, len(x)), step=step, id=self.info.id, replayed=replayed)
        self.step_count = step
        return made

    def took(self, raw: Mapping[str, Any]) -> StepResult:
        """Take on the step that an answer in JSON says."""
        made: StepResult = StepResult.of(raw, id=raw["id"], replayed=raw["replayed"])
        self.step_count = raw["step"]
        return made

    def refresh(self) -> Call[SessionInfo]:
        """The session as the server holds it now; its step is taken on here."""
        return Call("GET", self.path, lambda answer: self.moved(SessionInfo.of(read_json(answer))))

    def state(self) -> Call[str]:
        """The state as a token, with which any replica that has the model and the secret can go on."""
        return Call("GET", f"{self.path}/state", lambda answer: str(read_json(answer)["state"]))

    def restore(self, token: str) -> Call[SessionInfo]:
        """Put the session into the state of a token: back to an earlier one of its own, or on from another's."""
        return _json_call(
            "PUT",
            f"{self.path}/state",
            lambda answer: self.moved(SessionInfo.of(read_json(answer))),
            {"state": token},
        )

    def forked(self, *, ttl: float | None = None) -> "Call[SessionCalls]":
        body = {} if ttl is None else {"ttl": ttl}
        return _json_call("POST", f"{self.path}/fork", _opened, body, repeatable=False)

    def delete(self) -> Call[None]:
        """End the session. One that is gone already is no error."""
        return Call("DELETE", self.path, _gone, accepts=(404,))

    def moved(self, info: SessionInfo) -> SessionInfo:
        """Take on a session as the server holds it."""
        self.info, self.step_count = info, info.step
        return info


def groups(sequences: Sequence[One], batching: Batching) -> list[tuple[int, int]]:
    """Where to cut a list into requests: `(begin, end)` of each."""
    cuts, begin, held = [], 0, 0
    for i, x in enumerate(sequences):
        size = numbers(x)
        if i > begin and (i - begin >= batching.sequences or held + size > batching.numbers):
            cuts.append((begin, i))
            begin, held = i, 0
        held += size
    return [*cuts, (begin, len(sequences))] if len(sequences) else []


def _generate_body(prompt: Prompt | None, options: GenerateOptions) -> dict[str, Any]:
    body = _named(cast(Mapping[str, Any], options))
    if "session" in body:
        body["session"] = _id_of(body["session"])
    if "stop" in body:
        body["stop"] = [body["stop"]] if isinstance(body["stop"], str) else list(body["stop"])
    if prompt is not None:
        body["prompt"] = prompt if isinstance(prompt, str) else [int(token) for token in prompt]
    return body


def _opened(answer: httpx.Response) -> SessionCalls:
    return SessionCalls(SessionInfo.of(read_json(answer)))


def _gone(answer: httpx.Response) -> None:
    if answer.status_code == 404 and read_json(answer)["code"] != "unknown_session":
        raise error_in(answer)


def _first(answer: httpx.Response) -> Result:
    made: Result = Result.of(read_json(answer)["results"][0])
    return made


def _all(answer: httpx.Response) -> list[Result]:
    return [Result.of(one) for one in read_json(answer)["results"]]


def _result(answer: httpx.Response, sent: int) -> Result:
    if not is_binary(answer):
        return _first(answer)
    step = answer.headers.get("elman-step")
    return Result(**_binary_fields(answer, sent), step=None if step is None else int(step))


def _countable(x: One, returns: Returns) -> bool:
    """Whether the number of steps can be told from a binary answer: of a signal only the server counts the windows."""
    return returns == "steps" or (isinstance(x, np.ndarray) and x.ndim == 2)


def _binary_fields(answer: httpx.Response, sent: int) -> dict[str, Any]:
    """The fields of a Result from a binary answer to a request of `sent` steps."""
    array = read_array(answer)
    steps = array.ndim == 2
    return {
        "length": len(array) if steps else sent,
        "outputs" if steps else "output": array,
        "state": answer.headers.get("elman-state"),
    }
