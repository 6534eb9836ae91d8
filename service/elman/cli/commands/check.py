"""`elman check`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AsJSON
from elman.cli.exits import FAILED


def check(
    path: Annotated[Path, typer.Argument(help="A model.onnx, or the folder of a model or version.")],
    as_json: AsJSON = False,
) -> None:
    """Say how a model file would be served, or why it would be refused. Nothing is served.

    \b
    elman check my-models/tagger
    elman check tagger/1/model.onnx --json

    Prints every input and output with its role, an example of a request, the spec of the model, how its sequences may
    be batched, and what was proved of it. For a file that is refused it prints the reason and what to change. Exit
    codes: 0 it can be served; 1 it is refused.
    """
    from elman.cli.jobs.model_files import load_file
    from elman.cli.jobs.model_report import describe, print_model, print_refusal, refusal_report
    from elman.cli.jobs.request_example import request_example
    from elman.errors import ModelRefused

    try:
        file, model = load_file(path)
    except ModelRefused as refused:
        if as_json:
            typer.echo(json.dumps(refusal_report(refused)))
        else:
            print_refusal(path, refused)
        raise typer.Exit(FAILED) from None
    if as_json:
        typer.echo(json.dumps(describe(model) | {"request": request_example(model)}))
    else:
        print_model(file, model)
