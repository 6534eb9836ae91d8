"""`elman train` and `elman export`: front doors of the package models, the only place that knows torch."""

from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.predict import AsJSON
from elman.cli.exits import CANNOT_START, refuse
from elman.cli.starting import ROOT, become, need_torch


def train(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK] [OPTIONS]", help="As python -m models.train takes them.")
    ] = None,
) -> None:
    """Train a shipped model again, from a checkout of the repository.

    \b
    elman train vowels --cell gru --seed 0
    elman train names --cell lstm
    elman train --all
    elman train -- --help                everything that it takes

    It writes the model and what was measured of it into models/store and models/results.json. This needs
    elman[train], and the data, which are in the repository and not in the installed package.
    """
    need_torch()
    if not (ROOT / "models" / "data").is_dir():
        raise refuse("the data are in the repository, not in the installed package: run it there", CANNOT_START)
    become("models.train", [*(arguments or []), *context.args])


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:ATTR",
            help="Where a torch module is: an importable name or a file.py, and the name in it of an nn.Module, "
            "or of what gives one when called.",
        ),
    ],
    path: Annotated[
        Path,
        typer.Argument(help="What to write: a file .onnx, or a model's folder, in which it becomes 1/model.onnx."),
    ],
    example_shape: Annotated[
        str,
        typer.Option(metavar="SIZES", help="Of an example input: batch,time,features; batch,time for tokens."),
    ],
    tokens: Annotated[
        int | None, typer.Option(min=2, help="The input is token ids below this, and not numbers.", show_default=False)
    ] = None,
    state_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="SIZES", help="Of a state that forward takes and gives back: layers,batch,hidden."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A state_dict to load first, as torch.save writes it.")] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, tagging, regression, forecasting, generation or raw.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="One for each score: a,b,c; or @FILE, one a line.")] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="A token for each id: @FILE, one a line; or a text of characters.")
    ] = None,
    unknown: Annotated[str | None, typer.Option(help="The token that stands for all others.")] = None,
    feature_names: Annotated[str | None, typer.Option(help="Of the input: a,b,c; or @FILE.")] = None,
    mean: Annotated[str | None, typer.Option(help="Outputs become values by output * std + mean.")] = None,
    std: Annotated[str | None, typer.Option(help="As --mean.")] = None,
    spec: Annotated[Path | None, typer.Option(help="A model.json with whatever else the file is to say.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest difference from torch that is taken.")] = None,
    quantise: Annotated[bool, typer.Option("--quantise", help="8-bit weights: smaller, and not exact.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Export a torch module to one ONNX file that the server takes as it is.

    \b
    elman export net.py:model my-models/tagger --example-shape 1,10,12 --labels up,down
    elman export package.net:build tagger.onnx --example-shape 1,10,12 --weights best.pt
    elman export net.py:model my-models/names --example-shape 1,8 --tokens 60 --vocabulary @letters.txt

    The file is written once ONNX Runtime gave the module's own answers, at other batch sizes and lengths than the
    example's. Then: elman check PATH, and elman serve my-models. The module's code is run.
    """
    need_torch()
    given = {
        "--tokens": tokens,
        "--weights": weights,
        "--task": task,
        "--labels": labels,
        "--vocabulary": vocabulary,
        "--unknown": unknown,
        "--feature-names": feature_names,
        "--mean": mean,
        "--std": std,
        "--spec": spec,
        "--tolerance": tolerance,
    }
    # With an equals sign, for what begins with a dash is an option otherwise.
    arguments = [f"{option}={value}" for option, value in given.items() if value is not None]
    arguments += [f"--state-shape={shape}" for shape in state_shape or []]
    flags = {"--quantise": quantise, "--overwrite": overwrite, "--json": as_json}
    arguments += [flag for flag, on in flags.items() if on]
    become("elman.exporter.script", [f"--example-shape={example_shape}", *arguments, "--", source, str(path)])
