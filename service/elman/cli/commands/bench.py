"""`elman bench`: the options; the work is in `bench`."""

from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.predict import AsJSON
from elman.cli.exits import refuse
from elman.cli.jobs.targets import model_file


def bench(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.onnx, a version's folder, or a model's.")],
    seconds: Annotated[float, typer.Option(min=0.05, max=600, help="How long each line is measured.")] = 3.0,
    connections: Annotated[str, typer.Option(help="Connections of each line over HTTP.")] = "1,16,64",
    mean_length: Annotated[int, typer.Option(min=1, max=10_000, help="Mean steps of a sequence.")] = 23,
    seed: Annotated[int, typer.Option(min=0, help="Of the lengths and numbers that are drawn.")] = 0,
    as_json: AsJSON = False,
) -> None:
    """Measure a model of one's own on this machine: the kernel's ceiling, the engine, and the server.

    \b
    elman bench models/store/vowels-gru
    elman bench my-model/1/model.onnx --seconds 10 --connections 1,8,32 --json

    \b
    kernel     the network alone, in its best batch of equal lengths: what nothing can pass
    engine     a full queue of sequences of drawn lengths through the engine, in this process
    HTTP       a server of its own on a free port; each connection sends again once it is answered

    Lengths are lognormal: mostly short, now and then long. Load and server share this machine's cores, and whatever
    else runs on it is in the figures too.
    """
    from elman.cli.jobs.bench import run_bench

    try:
        counts = [int(part) for part in connections.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{connections!r} is no list of numbers", param_hint="--connections") from None
    if not counts or min(counts) < 1:
        raise refuse("--connections are to be 1 or more")
    run_bench(model_file(path).resolve(), seconds, counts, mean_length, seed, as_json)
