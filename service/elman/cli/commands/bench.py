"""`elman bench`."""

from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AsJSON


def bench(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.onnx, or the folder of a model or version.")],
    seconds: Annotated[float, typer.Option(min=0.05, max=600, help="Duration of each measurement.")] = 3.0,
    connections: Annotated[
        str, typer.Option(help="Numbers of connections for HTTP, one measurement each.")
    ] = "1,16,64",
    mean_length: Annotated[int, typer.Option(min=1, max=10_000, help="Mean length of a sequence, in steps.")] = 23,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random lengths and numbers.")] = 0,
    as_json: AsJSON = False,
) -> None:
    """Measure a model file on this machine: the kernel, the engine and the server.

    \b
    elman bench my-models/tagger
    elman bench my-model/1/model.onnx --seconds 10 --connections 1,8,32 --json

    \b
    kernel     the network alone, in its best batch of equal lengths: the upper limit
    engine     a full queue of sequences through the engine, in this process
    HTTP       a server on a free port; each connection sends again once it is answered

    Lengths are lognormal: mostly short, sometimes long. The load and the server share the cores of this machine, so
    other programs that run on it change the figures.
    """
    from elman.cli.jobs.benchmark import run_benchmark
    from elman.cli.jobs.model_files import model_file

    run_benchmark(model_file(path).resolve(), seconds, _counts(connections), mean_length, seed, as_json)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1,16,64", param_hint="--connections")
    return counts
