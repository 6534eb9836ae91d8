"""The model that a command asks: one of a server, by name, or a model file, run in this process."""

import contextlib
import difflib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

from elman.cli.exits import CANNOT_START, FAILED, refuse
from elman.cli.jobs.model_files import model_file, put_in_repository
from elman.proxies import check_address, check_key, proxy_for, reason_of, shown, way_to

# Seconds until a thread gives up the interpreter to another. The engine's thread has short work between long runs.
_SWITCH = 1e-3


def is_path(model: str) -> bool:
    """True if MODEL is the path of a model file, and not a name that a server knows."""
    return "/" in model or model.endswith(".onnx") or model in (".", "..")


def check_address_and_key(url: str, api_key: str | None) -> None:
    """Exit if `url` is not the address of a server, or the key cannot be sent."""
    import httpx

    try:
        check_address(url)
        check_key(api_key or "")
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise refuse(str(error)) from None


@dataclass
class Target:
    """A model to ask.

    Attributes:
        client: an `httpx.AsyncClient` of what serves it.
        path: the path of its routes, such as `/v1/models/names-gru`.
        card: the answer of GET to that path.
        local: True if it runs in this process.
    """

    client: Any
    path: str
    card: dict[str, Any]
    local: bool

    @property
    def version_path(self) -> str:
        """The path of the card's version. A long run stays with it if a newer version is loaded."""
        return f"/v1/models/{quote(self.card['name'], safe='')}/versions/{self.card['version']}"


@contextlib.asynccontextmanager
async def connect(model: str, url: str, api_key: str | None = None, timeout: float = 300.0) -> AsyncIterator[Target]:
    """Connect to MODEL: `name`, `name@version` or a path. Exits if there is no such model."""
    import httpx

    if is_path(model):
        async with _served_here(model_file(Path(model)).resolve()) as target:
            yield target
        return
    name, _, version = model.partition("@")
    path = f"/v1/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    async with httpx.AsyncClient(**client_options(url, api_key, timeout)) as client:
        try:
            response = await client.get(path)
        except httpx.TransportError as error:
            here = f", or for the file write ./{name}" if Path(name).exists() else ", or give the path of a model.onnx"
            raise unanswered(url, error, here) from None
        if response.status_code != 200:
            raise refuse(_no_such_model(response, name), FAILED)
        yield Target(client, path, card_of(response, url), local=False)


def client_options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """The options of an httpx client of a server. Exits if `url` is no address."""
    import httpx

    check_address_and_key(url, api_key)
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": timeout,
        "verify": httpx.create_ssl_context(),
        "proxy": proxy_for(url),
        # Of the environment it would read proxies alone, and use them for this machine too.
        "trust_env": False,
    }


def unanswered(url: str, error: Exception, instead: str = "") -> typer.Exit:
    """Say that no server answers, and what to do. Returns the exception to raise."""
    return refuse(
        f"no server answers at {way_to(url)} ({reason_of(error)}); start one with elman serve, "
        f"name another with --url{instead}",
        CANNOT_START,
    )


@contextlib.contextmanager
def client_of(url: str, api_key: str | None, timeout: float, instead: str = "") -> Iterator[Any]:
    """An `httpx.Client` of a server. Exits if no server answers; `instead` is what else the user may do then."""
    import httpx

    with httpx.Client(**client_options(url, api_key, timeout)) as client:
        try:
            yield client
        except httpx.TransportError as error:
            raise unanswered(url, error, instead) from None


def ask(
    url: str,
    path: str,
    field: str,
    api_key: str | None,
    timeout: float,
    instead: str = "",
    **query: str | int | None,
) -> Any:
    """What a server answers to a GET, from JSON. Exits as the command does.

    Args:
        field: a field that the answer of an Elman server has.
        instead: what else the user may do if no server answers.
    """
    with client_of(url, api_key, timeout, instead) as client:
        response = client.get(path, params={name: value for name, value in query.items() if value is not None})
    if response.status_code != 200:
        raise refuse(problem_of(response), FAILED)
    try:
        answer = response.json()
        _ = answer[field]
        return answer
    except (ValueError, KeyError, TypeError):
        raise refuse(f"the server at {shown(url)} is not an Elman server", CANNOT_START) from None


def _no_such_model(response: Any, name: str) -> str:
    """Why a server has no model of a name, and which may be meant."""
    if Path(name).exists():
        return f"{problem_of(response)}; for the file write ./{name}"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        problem = response.json()
        nearest = difflib.get_close_matches(name, problem["expected"], 1)
        if nearest and nearest[0] != name:
            return f"{problem['detail']}; did you mean {nearest[0]}?"
    return problem_of(response)


def card_of(response: Any, url: str) -> dict[str, Any]:
    """The card in a response. Exits if there is none."""
    try:
        card: dict[str, Any] = response.json()
        _ = card["name"], card["version"], card["input"]["kind"]
        return card
    except (ValueError, KeyError, TypeError):
        raise refuse(f"the server at {shown(url)} is not an Elman server", CANNOT_START) from None


def problem_of(response: Any) -> str:
    """The message of an error response."""
    try:
        problem = response.json()
        expected = f" (expected: {_listed(problem['expected'])})" if problem.get("expected") is not None else ""
        where = f"{problem['where']}: " if problem.get("where") else ""
        return f"{where}{problem['detail']}{expected}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the server answered {response.status_code}"


def _listed(expected: object) -> str:
    return ", ".join(map(str, expected)) if isinstance(expected, list) else str(expected)


@contextlib.asynccontextmanager
async def _served_here(file: Path) -> AsyncIterator[Target]:
    """The application that a server runs, with one model, called without a server."""
    import httpx

    from elman.cli.jobs.local_transport import LocalTransport, settings_for

    with tempfile.TemporaryDirectory(prefix="elman-") as folder:
        name, _ = put_in_repository(file, Path(folder))
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        try:
            transport = LocalTransport(settings_for(Path(folder)))
            # The client opens the transport, and closes it.
            async with httpx.AsyncClient(transport=transport, base_url="http://elman", timeout=None) as client:
                path = f"/v1/models/{name}"
                response = await client.get(path)
                if response.status_code != 200:
                    raise refuse(f"{file} is refused: {await transport.refusal()}", FAILED)
                yield Target(client, path, card_of(response, str(file)), local=True)
        finally:
            sys.setswitchinterval(before)
