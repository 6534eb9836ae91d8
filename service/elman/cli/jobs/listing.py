"""Lists of models, sessions and work, of a server or of a folder."""

import asyncio
import json
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

from elman.cli.exits import FAILED, refuse, warn
from elman.cli.jobs.printing import counted, exactness, print_facts, print_table, printable, shape_of
from elman.cli.jobs.targets import ask, client_of, connect, problem_of
from elman.proxies import shown

# Sessions in one answer of the server.
_PAGE = 1000
_COUNTS = ("queued", "sequences", "steps", "runs", "rows", "run_seconds")


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
        if not repository.refusals and not list(repository):
            warn(f"{folder} has no <name>/<version>/model.onnx")
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
    return counted(given["size"], "feature")


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
        ("output", counted(card["output"]["size"], "number")),
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


def _sessions(url: str, api_key: str | None, timeout: float, model: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = ask(url, "/v1/sessions", "sessions", api_key, timeout, model=model, limit=_PAGE, after=after)
        found += page["sessions"]
        after = page["next"]
        if after is None:
            return found


def list_sessions(url: str, api_key: str | None, timeout: float, model: str | None, as_json: bool) -> None:
    """List the sessions of a key. Exits as `elman sessions` does."""
    found = _sessions(url, api_key, timeout, model)
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


def delete_all_sessions(url: str, api_key: str | None, timeout: float, model: str | None, as_json: bool) -> None:
    """Delete the sessions of a key, or those of one model. On a terminal the user is asked first."""
    ids = [one["id"] for one in _sessions(url, api_key, timeout, model)]
    if ids and sys.stdin.isatty():
        typer.confirm(f"Delete {counted(len(ids), 'session')} at {shown(url)}?", abort=True, err=True)
    _delete(url, api_key, timeout, ids, as_json, may_be_gone=True)


def delete_sessions(url: str, api_key: str | None, timeout: float, ids: list[str], as_json: bool) -> None:
    """Delete sessions of a key. Exits with 1 if there is none of an id; the others are deleted."""
    _delete(url, api_key, timeout, ids, as_json, may_be_gone=False)


def _delete(url: str, api_key: str | None, timeout: float, ids: list[str], as_json: bool, *, may_be_gone: bool) -> None:
    deleted, failed = [], False
    with client_of(url, api_key, timeout) as client:
        for id in ids:
            response = client.delete(f"/v1/sessions/{quote(id, safe='')}")
            if response.status_code == 204:
                deleted.append(id)
            elif not (may_be_gone and response.status_code == 404):
                warn(f"{printable(id)} is not deleted: {problem_of(response)}", "red")
                failed = True
    typer.echo(json.dumps({"deleted": deleted}) if as_json else f"{counted(len(deleted), 'session')} deleted")
    if failed:
        raise typer.Exit(FAILED)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def list_running(url: str, api_key: str | None, timeout: float, as_json: bool) -> None:
    """Print what a server is doing, in all its workers. Exits as `elman ps` does."""
    stats = ask(url, "/v1/engine", "pending_seconds", api_key, timeout, workers="true")
    if as_json:
        typer.echo(json.dumps(stats))
        return
    workers = stats.get("workers") or {"0": stats}
    running = [one for one in workers.values() if one is not None]
    num_queued, seconds, num_streams = (
        sum(one[name] for one in running) for name in ("queued", "pending_seconds", "streams")
    )
    facts = [
        ("process", ", ".join(str(one["process"]) for one in running)),
        ("unfinished", f"{counted(num_queued, 'sequence')}, {seconds:.3g} s of work"),
        ("sessions", str(stats["sessions"])),
        ("streams", str(num_streams)),
    ]
    print_facts(facts)
    if len(workers) > 1:
        typer.echo()
        _print_workers(workers)
    typer.echo()
    header = ("model", "queued", "sequences", "steps", "runs", "rows a run", "seconds")
    rows = [
        (
            f"{model}@{version}",
            *(f"{counts[name]:,}" for name in ("queued", "sequences", "steps", "runs")),
            f"{counts['rows'] / counts['runs']:.1f}" if counts["runs"] else "",
            f"{counts['run_seconds']:.2f}",
        )
        for (model, version), counts in _sums(running).items()
    ]
    print_table(header, rows, right=header[1:])


def _print_workers(workers: dict[str, Any]) -> None:
    header = ("worker", "process", "unfinished", "seconds of work", "streams")
    rows = [
        (
            number,
            *(str(one[name]) for name in ("process", "queued")),
            f"{one['pending_seconds']:.3g}",
            str(one["streams"]),
        )
        if one is not None
        else (number, "gives no answer", "", "", "")
        for number, one in workers.items()
    ]
    print_table(header, rows, right=header[2:])


def _sums(workers: list[dict[str, Any]]) -> dict[tuple[str, int], Counter[str]]:
    """The counters of each model, summed over the workers."""
    sums: dict[tuple[str, int], Counter[str]] = {}
    for one in workers:
        for model in one["models"]:
            counts = {name: model[name] for name in _COUNTS}
            sums.setdefault((model["model"], model["version"]), Counter()).update(counts)
    return sums
