"""Texts from the generate route: printed whole, or token by token."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import typer

from elman.cli.exits import CANNOT_START, FAILED, refuse
from elman.cli.jobs.targets import connect, problem_of
from elman.proxies import shown


async def generate_text(
    model: str, url: str, api_key: str | None, timeout: float, body: dict[str, Any], as_json: bool
) -> None:
    """Print what a model generates. Exits as the command does. `body` is that of the request."""
    async with connect(model, url, api_key, timeout) as target:
        path = f"{target.path}/generate"
        try:
            if body["stream"]:
                await _stream(target.client, path, body, as_json)
                return
            response = await target.client.post(path, json=body)
        except httpx.TransportError as error:
            raise refuse(f"{shown(url)}: {str(error) or type(error).__name__}", CANNOT_START) from None
        if response.status_code != 200:
            raise refuse(problem_of(response), FAILED)
        if as_json:
            typer.echo(response.text)
            return
        answer = response.json()
        _print_unknown(answer)
        for result in answer["results"]:
            text = result["text"]
            typer.echo(body.get("prompt", "") + text if text is not None else json.dumps(result["tokens"]))


async def _stream(client: httpx.AsyncClient, path: str, body: dict[str, Any], as_json: bool) -> None:
    """Print each token when it comes."""
    async with client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            raise refuse(problem_of(response), FAILED)
        if not as_json:
            typer.echo(body.get("prompt", ""), nl=False)
        done = False
        async for kind, data in _events(response):
            if kind == "error":
                typer.echo()
                raise refuse(json.loads(data).get("detail", data), FAILED)
            done = kind == "done"
            if as_json:
                typer.echo(data)
            elif done:
                typer.echo()
                _print_unknown(json.loads(data))
            else:
                event = json.loads(data)
                typer.echo(event["text"] if event["text"] is not None else f"{event['token']} ", nl=False)
        if not done:
            typer.echo()
            raise refuse("the connection ended before the text was complete", FAILED)


def _print_unknown(answer: dict[str, Any]) -> None:
    """Say on standard error which characters of the prompt are not in the vocabulary."""
    unknown = [f"{one['character']!r} ({one['count']})" for one in answer.get("unknown", ())]
    if unknown:
        typer.echo(f"elman: read as the unknown token: {', '.join(unknown)}", err=True)


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """The server-sent events of a response, as (kind, data)."""
    kind, data = "message", ""
    async for line in response.aiter_lines():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            data = line[5:].strip()
        elif not line and data:
            yield kind, data
            kind, data = "message", ""
