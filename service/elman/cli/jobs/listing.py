"""Lists of models, sessions and work, of a server or of a folder."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from elman.cli.exits import FAILED, refuse
from elman.cli.jobs.printing import exactness, print_facts, print_table, shape_of
from elman.cli.jobs.targets import ask, connect

# Sessions in one answer of the server.
_PAGE = 1000


def list_folder(folder: str, as_json: bool) -> None:
    """List the models of a folder. Exits as `elman models` does."""
    from elman.cli.jobs.given_settings import settings_from
    from elman.cli.jobs.model_report import describe, print_models, refusal_report
    from elman.repository.repository import Repository

    settings = settings_from({})
    repository = Repository(Path(folder), settings.load_timeout, settings.load_memory or None)
    try:
        repository.load()
    except FileNotFoundError as error:
        raise refuse(str(error)) from None
    if as_json:
        refused = [
            {"name": one.name, "version": one.version, **refusal_report(one.reason)} for one in repository.refusals
        ]
        typer.echo(json.dumps({"models": [describe(model) for model in repository], "refused": refused}))
    else:
        print_models(repository, repository.refusals)
    if repository.refusals:
        raise typer.Exit(FAILED)


def list_served(url: str, api_key: str | None, timeout: float, as_json: bool) -> None:
    """List the models of a server. Exits as `elman models` does."""
    from elman.cli.jobs.model_report import MODEL_COLUMNS, print_refused

    answer = ask(url, "/v1/models", "refused", api_key, timeout, ", or give a folder, as in elman models my-models")
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        print_table(MODEL_COLUMNS, map(_row, answer["models"]), right=("out",))
        for one in answer["refused"]:
            print_refused(one["name"], one["version"], ". ".join(filter(None, (one["reason"], one.get("remedy")))))
    if answer["refused"]:
        raise typer.Exit(FAILED)


def _row(card: dict[str, Any]) -> tuple[str, ...]:
    return (
        card["name"] if card["versions"] == [1] else f"{card['name']}@{','.join(map(str, card['versions']))}",
        card["task"],
        f"{card['cell']} {card['layers']}x{card['hidden_size']}",
        _input(card["input"]),
        str(card["output"]["size"]),
        "yes" if card["streaming"] else "no",
        exactness(card["batching"]["exact"], card["batching"].get("tolerance")),
    )


def _input(given: dict[str, Any]) -> str:
    if given["kind"] == "frames":
        return f"signal, frames of {given['size']} every {given['stride']}"
    if given["kind"] == "tokens":
        return "tokens" if given.get("vocabulary_size") is None else f"{given['vocabulary_size']} tokens"
    return f"{given['size']} features"


def show_model(model: str, url: str, api_key: str | None, timeout: float, as_json: bool) -> None:
    """Print the card of a model of a server or of a file. Exits as `elman show` does."""
    card = asyncio.run(_card(model, url, api_key, timeout))
    if as_json:
        typer.echo(json.dumps(card))
        return
    print_facts([("model", f"{card['name']} version {card['version']}"), *_facts(card)])
    typer.echo()
    ports = [
        (side, one["name"], one["role"], shape_of(one["shape"]), one["dtype"])
        for side in ("input", "output")
        for one in card[f"{side}s"]
    ]
    print_table(("", "name", "role", "shape", "type"), ports)


async def _card(model: str, url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    async with connect(model, url, api_key, timeout) as target:
        return target.card


def _facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """What a card says, in words; nothing for what the model has not."""
    labels, forecast, generation = card["output"].get("labels") or [], card.get("forecast"), card.get("generation")
    return [
        ("task", card["task"]),
        ("network", f"{card['layers']} x {card['cell']}, hidden size {card['hidden_size']}, {card['direction']}"),
        ("input", _input(card["input"]) + (", as text too" if card["input"].get("text") else "")),
        ("names", ", ".join(card["input"].get("names") or ())),
        ("window", f"{card['window']} steps" if card.get("window") else ""),
        ("output", f"{card['output']['size']} numbers"),
        ("labels", ", ".join(map(str, labels))),
        ("sessions", f"yes, {card['state']['bytes']} bytes each" if card["streaming"] else "no"),
        ("exact", exactness(card["batching"]["exact"], card["batching"].get("tolerance"))),
        ("because", card["batching"].get("reason") or ""),
        ("generates", ", ".join(["yes", *generation["conditions"]]) if generation else ""),
        ("forecasts", f"yes, {forecast['drive']}" if forecast else ""),
        ("suspended", card.get("suspended") or ""),
        ("notes", "; ".join(card.get("notes") or ())),
        ("versions", ", ".join(map(str, card["versions"]))),
        ("digest", card["digest"]),
    ]


def list_sessions(url: str, api_key: str | None, timeout: float, model: str | None, as_json: bool) -> None:
    """List the sessions of a key. Exits as `elman sessions` does."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = ask(url, "/v1/sessions", "sessions", api_key, timeout, model=model, limit=_PAGE, after=after)
        found += page["sessions"]
        after = page["next"]
        if after is None:
            break
    if as_json:
        typer.echo(json.dumps({"sessions": found}))
        return
    rows = [
        (
            one["id"],
            f"{one['model']}@{one['version']}",
            str(one["step"]),
            _time(one["created_at"]),
            _time(one["expires_at"]),
        )
        for one in found
    ]
    print_table(("session", "model", "step", "created", "expires"), rows, right=("step",))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def list_running(url: str, api_key: str | None, timeout: float, as_json: bool) -> None:
    """Print what a server is doing. Exits as `elman ps` does."""
    stats = ask(url, "/v1/engine", "pending_seconds", api_key, timeout)
    if as_json:
        typer.echo(json.dumps(stats))
        return
    print_facts(
        [
            ("process", str(stats["process"])),
            ("unfinished", f"{stats['queued']} sequences, {stats['pending_seconds']:.3g} s of work"),
            ("sessions", str(stats["sessions"])),
            ("streams", str(stats["streams"])),
        ]
    )
    typer.echo()
    header = ("model", "queued", "sequences", "steps", "runs", "rows a run", "seconds")
    rows = [
        (
            f"{one['model']}@{one['version']}",
            *(f"{one[name]:,}" for name in ("queued", "sequences", "steps", "runs")),
            f"{one['rows'] / one['runs']:.1f}" if one["runs"] else "",
            f"{one['run_seconds']:.2f}",
        )
        for one in stats["models"]
    ]
    print_table(header, rows, right=header[1:])
