"""`elman models`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AsJSON
from elman.cli.exits import FAILED, refuse


def models(
    root: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", envvar="ELMAN_MODELS", help="The model repository.", show_default=False),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List the models of a repository, and the files that are refused, with the reason.

    \b
    elman models my-models

    Exit codes: 0 every model can be served; 1 a file is refused.
    """
    from elman.cli.jobs.model_report import describe, print_models, refusal_report
    from elman.repository.repository import Repository
    from elman.settings import Settings

    if root is None:
        raise refuse("give the folder of the models, such as elman models my-models")
    settings = Settings()
    repository = Repository(root, settings.load_timeout, settings.load_memory or None)
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
