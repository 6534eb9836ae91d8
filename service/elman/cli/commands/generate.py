"""`elman generate`."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from elman.cli.commands.predict import AsJSON, Key, Model, Timeout, Url
from elman.cli.exits import CANNOT_START, FAILED, refuse
from elman.cli.jobs.targets import DEFAULT_URL


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to write on from.")] = "",
    condition: Annotated[
        str | None, typer.Option("--condition", "-c", help="One of the card's conditions, such as a language.")
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 100,
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0.0, help="0 takes the likeliest.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many of the likeliest; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest that sum to this.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, max=1000, help="How many texts.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends it; may be given several times.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show each token as soon as it is there.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 300.0,
    as_json: AsJSON = False,
) -> None:
    """Write on from a prompt, a text a line, each with its prompt.

    \b
    elman generate names-lstm-generator Mc --stream
    elman generate names-lstm-generator --condition Italian --samples 10 --temperature 0.7
    elman generate ./my-model "Once" --max-steps 300 --seed 1 --json

    The seed that was drawn is in the answer of --json, and gives the same again. With --json and --stream each event
    is a line, the whole answer the last.
    """
    from elman.cli.jobs.working import Interrupted, run

    if stream and samples > 1 and not as_json:
        raise refuse("several samples at once are no text to follow: leave out --stream, or add --json")
    body: dict[str, Any] = {
        "prompt": prompt,
        "max_steps": max_steps,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "samples": samples,
        "stop": stop or [],
        "stream": stream,
    }
    body.update({key: value for key, value in (("condition", condition), ("seed", seed)) if value is not None})
    if not prompt:
        del body["prompt"]
    try:
        run(_generate(model, url, api_key, timeout, body, as_json))
    except Interrupted as interrupted:
        raise typer.Exit(interrupted.code) from None


async def _generate(
    model: str, url: str, api_key: str | None, timeout: float, body: dict[str, Any], as_json: bool
) -> None:
    import httpx

    from elman.cli.jobs.targets import connect, problem_of

    async with connect(model, url, api_key, timeout) as target:
        path = f"{target.path}/generate"
        try:
            if body["stream"]:
                await _stream(target.client, path, body, as_json)
                return
            answer = await target.client.post(path, json=body)
        except httpx.TransportError as error:
            raise refuse(f"{url}: {str(error) or type(error).__name__}", CANNOT_START) from None
        if answer.status_code != 200:
            raise refuse(problem_of(answer), FAILED)
        if as_json:
            typer.echo(answer.text)
            return
        for result in answer.json()["results"]:
            text = result["text"]
            typer.echo(body.get("prompt", "") + text if text is not None else json.dumps(result["tokens"]))


async def _stream(client: Any, path: str, body: dict[str, Any], as_json: bool) -> None:
    """Show what comes, as it comes."""
    from elman.cli.jobs.targets import problem_of

    async with client.stream("POST", path, json=body) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise refuse(problem_of(answer), FAILED)
        if not as_json:
            typer.echo(body.get("prompt", ""), nl=False)
        done = False
        async for kind, data in _events(answer):
            if kind == "error":
                typer.echo()
                raise refuse(json.loads(data).get("detail", data), FAILED)
            done = kind == "done"
            if as_json:
                typer.echo(data)
            elif done:
                typer.echo()
            else:
                event = json.loads(data)
                typer.echo(event["text"] if event["text"] is not None else f"{event['token']} ", nl=False)
        if not done:
            typer.echo()
            raise refuse("the server ended before the text did", FAILED)


async def _events(answer: Any) -> AsyncIterator[tuple[str, str]]:
    """(kind, data) of server-sent events."""
    kind, data = "message", ""
    async for line in answer.aiter_lines():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            data = line[5:].strip()
        elif not line and data:
            yield kind, data
            kind, data = "message", ""
