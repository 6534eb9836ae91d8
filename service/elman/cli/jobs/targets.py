"""Which model a command is for: one of a server's, by name, or a file of one's own, in this process."""

import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from elman.cli.exits import CANNOT_START, FAILED, refuse

DEFAULT_URL = "http://127.0.0.1:8000"
# What a request to a model in this process may take: no server's patience is at stake.
_NO_LIMIT = 1e9
# How long a thread may hold the interpreter while another wants it: the engine's has short work between long runs.
_SWITCH = 1e-3


def model_file(path: Path) -> Path:
    """The model.onnx that a path means: itself, in a version's folder, or in the highest version's folder."""
    if path.is_file():
        return path
    versions = [child for child in path.glob("*/model.onnx") if child.parent.name.isdigit()]
    candidates = [path / "model.onnx", *sorted(versions, key=lambda file: -int(file.parent.name))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise refuse(f"there is no model.onnx at {path}")


def is_path(model: str) -> bool:
    """Whether MODEL means a file of one's own and not a name that a server knows."""
    return "/" in model or model.endswith(".onnx") or model in (".", "..")


@dataclass
class Target:
    """A model to ask: a client of whatever serves it, and its routes and card.

    Attributes:
        client: an `httpx.AsyncClient`.
        path: of the model's routes.
        card: as GET of that path.
        local: whether it runs in this process.
    """

    client: Any
    path: str
    card: dict[str, Any]
    local: bool

    @property
    def version_path(self) -> str:
        """The path of the version that the card is of, so that a long run meets no other."""
        return f"/v1/models/{quote(self.card['name'], safe='')}/versions/{self.card['version']}"


@contextlib.asynccontextmanager
async def connect(model: str, url: str, api_key: str | None = None, timeout: float = 300.0) -> AsyncIterator[Target]:
    """The target that MODEL means: `name`, `name@version`, or a path. Exits where there is none."""
    import httpx

    if is_path(model):
        async with _served_here(model_file(Path(model)).resolve()) as target:
            yield target
        return
    name, _, version = model.partition("@")
    path = f"/v1/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout)
    except (httpx.InvalidURL, ValueError) as error:
        raise refuse(f"{url!r} is no address: {error}") from None
    async with client:
        try:
            answer = await client.get(path)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise refuse(
                f"no server answers at {url} ({str(error) or type(error).__name__}); start one with elman serve, "
                "name it with --url, or give the path of a model.onnx",
                CANNOT_START,
            ) from None
        if answer.status_code != 200:
            hint = "; a path needs a slash, as in ./" + name if Path(name).exists() else ""
            raise refuse(problem_of(answer) + hint, FAILED)
        yield Target(client, path, card_of(answer, url), local=False)


def card_of(answer: Any, url: str) -> dict[str, Any]:
    """The card in an answer. Exits where it is none."""
    try:
        card: dict[str, Any] = answer.json()
        _ = card["name"], card["version"], card["input"]["kind"]
        return card
    except (ValueError, KeyError, TypeError):
        raise refuse(f"what answers at {url} is no Elman server", CANNOT_START) from None


def problem_of(answer: Any) -> str:
    """What an answer that is no success says of itself."""
    try:
        problem = answer.json()
        expected = f" (expected: {_listed(problem['expected'])})" if problem.get("expected") is not None else ""
        where = f"{problem['where']}: " if problem.get("where") else ""
        return f"{where}{problem['detail']}{expected}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the server answered {answer.status_code}"


def _listed(expected: object) -> str:
    return ", ".join(map(str, expected)) if isinstance(expected, list) else str(expected)


@contextlib.asynccontextmanager
async def _served_here(file: Path) -> AsyncIterator[Target]:
    """The very application that a server runs, with one model, without a server."""
    import httpx

    from elman.cli.jobs.inprocess import InProcess, settings_for

    with tempfile.TemporaryDirectory(prefix="elman-") as folder:
        name, _ = put_in_repository(file, Path(folder))
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        try:
            transport = InProcess(settings_for(Path(folder)))
            async with (
                transport,
                httpx.AsyncClient(transport=transport, base_url="http://elman", timeout=None) as client,
            ):
                path = f"/v1/models/{name}"
                answer = await client.get(path)
                if answer.status_code != 200:
                    raise refuse(f"{file} is refused: {await transport.refusal()}", FAILED)
                yield Target(client, path, card_of(answer, str(file)), local=True)
        finally:
            sys.setswitchinterval(before)


def put_in_repository(file: Path, root: Path) -> tuple[str, str]:
    """Link a model file into a repository of its own; its name and version there."""
    name, version = names_of(file)
    (root / name).mkdir(parents=True)
    if file.name == "model.onnx":
        # With its folder, where a model.json and the data beside it are found.
        (root / name / version).symlink_to(file.parent, target_is_directory=True)
    else:
        (root / name / version).mkdir()
        (root / name / version / "model.onnx").symlink_to(file)
    return name, version


def names_of(file: Path) -> tuple[str, str]:
    """Name and version of a model file by the folders that it is in, as in a repository, or by its own name."""
    folder = file.parent
    if file.name != "model.onnx":
        return _model_name(file.stem), "1"
    if re.fullmatch(r"[1-9][0-9]{0,8}", folder.name):
        return _model_name(folder.parent.name), folder.name
    return _model_name(folder.name), "1"


def _model_name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) else "model"
