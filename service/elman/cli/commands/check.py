"""`elman check`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AsJSON
from elman.cli.exits import FAILED


def check(
    path: Annotated[Path, typer.Argument(help="A file .onnx, the folder of a model or version, or a folder of many.")],
    as_json: AsJSON = False,
) -> None:
    """Say how a model file would be served, or why it would be refused. Nothing is served.

    \b
    elman check my-models/tagger
    elman check tagger/1/model.onnx --json
    elman check downloads

    Prints every input and output with its role, an example of a request, the spec of the model, how its sequences may
    be batched, and what was proved of it. For a file that is refused it prints the reason and what to change. For a
    folder of many files it prints a line for each, and how many are refused for each reason. Exit codes: 0 it can be
    served; 1 it is refused, or one of many is.
    """
    from elman.cli.jobs.model_files import files_below, load_each, load_file
    from elman.cli.jobs.model_report import describe, print_checked, print_model, print_refusal, refusal_report
    from elman.cli.jobs.request_example import request_example
    from elman.errors import ModelRefused

    if files := files_below(path):
        checked = dict(load_each(files))
        refusals = {file: one for file, one in checked.items() if isinstance(one, ModelRefused)}
        if as_json:
            models = [
                {"file": str(f), **describe(one)} for f, one in checked.items() if not isinstance(one, ModelRefused)
            ]
            refused = [{"file": str(file), **refusal_report(one)} for file, one in refusals.items()]
            typer.echo(json.dumps({"served": models, "refused": refused}))
        else:
            print_checked(path, checked)
        raise typer.Exit(FAILED if refusals else 0)
    try:
        file, model = load_file(path)
    except ModelRefused as refusal:
        if as_json:
            typer.echo(json.dumps(refusal_report(refusal)))
        else:
            print_refusal(path, refusal)
        raise typer.Exit(FAILED) from None
    if as_json:
        typer.echo(json.dumps(describe(model) | {"request": request_example(model)}))
    else:
        print_model(file, model)
