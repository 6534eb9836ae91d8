"""`elman forecast`: the options; the work is in `forecasts`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.commands.predict import (
    AsJSON,
    File,
    InputFormat,
    Key,
    Model,
    OnError,
    OnErrorOption,
    Timeout,
    Url,
)
from elman.cli.jobs.targets import DEFAULT_URL


def forecast(
    model: Model,
    file: File = "-",
    horizon: Annotated[int, typer.Option("--horizon", "-n", min=1, help="Steps to look ahead.")] = 24,
    samples: Annotated[int, typer.Option(min=0, max=1000, help="Paths to sample, for mean and quantiles.")] = 0,
    quantiles: Annotated[str, typer.Option(help="Which, between 0 and 1, separated by commas.")] = "0.1,0.5,0.9",
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same paths.")] = None,
    future: Annotated[
        str | None,
        typer.Option(help="A file like FILE of what is known ahead, such as a calendar: a row a step.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .jsonl or .csv to write. [default: a table to standard output]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin an output anew that exists.")] = False,
    on_error: OnErrorOption = OnError.stop,
    input_format: InputFormat = None,
    id_column: Annotated[str, typer.Option(help="Of tables: the column that rows of one series share.")] = "id",
    column: Annotated[str | None, typer.Option(help="Of tables: the column of the series.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 4,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 300.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bar and no summary.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Carry on the series of a file by the model's own output, in the data's own units.

    \b
    elman forecast sunspots-gru history.csv --horizon 132
    elman forecast sunspots-gru history.csv -n 132 --samples 200 --quantiles 0.05,0.5,0.95
    elman forecast electricity-gru load.csv -n 48 --future calendar.csv -o ahead.csv
    elman forecast ./my-model many.jsonl --json > forecasts.jsonl

    FILE is as for elman predict: one series, or many. A line of JSON may hold "future" beside "sequence". With
    --samples, mean and quantiles are of that many paths, each step of which adds an error that the model made on data
    it had not seen. What cannot forecast says why: its card has "forecast": null.
    """
    from elman.cli.jobs.forecasts import forecast_file
    from elman.cli.jobs.working import Job

    options: dict[str, Any] = {"horizon": horizon, "samples": samples, "quantiles": _levels(quantiles)}
    if seed is not None:
        options["seed"] = seed
    job = Job(
        model=model,
        file=file,
        url=url,
        api_key=api_key,
        timeout=timeout,
        input_format=None if input_format is None else input_format.value,
        id_column=id_column,
        column=column,
        output=output,
        options=options,
        batch=1,
        concurrency=concurrency,
        on_error=on_error.value,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
    forecast_file(job, future)


def _levels(text: str) -> list[float]:
    try:
        levels = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers", param_hint="--quantiles") from None
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise typer.BadParameter("they lie between 0 and 1", param_hint="--quantiles")
    return levels
