"""`elman models` and `elman check`: what would be served, without serving it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from elman.cli.exits import FAILED, refuse
from elman.cli.jobs.targets import model_file


def check(
    path: Annotated[Path, typer.Argument(help="A model.onnx, a version's folder, or a model's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Say how a model file would be served, without serving it.

    \b
    elman check my-models/tagger
    elman check tagger/1/model.onnx --json

    Prints the spec that was found, how sequences of it may be batched and what was proved of it; or why it is
    refused, and what would mend it. Exits with 0 where the model can be served, with 1 where it is refused.
    """
    from elman.cli.report import describe, print_model, print_refusal, refusal_report
    from elman.errors import ModelRefused
    from elman.repository.loading import load_isolated
    from elman.settings import Settings

    file = model_file(path).resolve()
    version = int(file.parent.name) if file.parent.name.isdigit() else 1
    settings = Settings()
    try:
        model = load_isolated(
            file, file.parent.parent.name or "model", version, settings.load_timeout, settings.load_memory or None
        )
    except ModelRefused as refused:
        if as_json:
            typer.echo(json.dumps(refusal_report(refused)))
        else:
            print_refusal(file, refused)
        raise typer.Exit(FAILED) from None
    if as_json:
        typer.echo(json.dumps(describe(model)))
    else:
        print_model(file, model)


def models(
    root: Annotated[Path | None, typer.Argument(help="The model repository. [default: models/store]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """List the models of a repository: what each is, and what is refused and why.

    \b
    elman models models/store

    Exits with 1 where a file is refused.
    """
    from elman.cli.report import describe, print_models, refusal_report
    from elman.repository.repository import Repository
    from elman.settings import Settings

    settings = Settings() if root is None else Settings(models=root)
    repository = Repository(settings.models, settings.load_timeout, settings.load_memory or None)
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
        print_models(list(repository), repository.refusals)
    if repository.refusals:
        raise typer.Exit(FAILED)
