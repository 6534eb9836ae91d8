"""`elman forecast`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.commands.options import (
    DEFAULT_URL,
    AsJSON,
    Columns,
    Concurrency,
    Decimal,
    File,
    Gap,
    Header,
    IdColumn,
    InputFormat,
    Key,
    Model,
    OnError,
    OnErrorOption,
    Overwrite,
    Quiet,
    Sheet,
    Static,
    TimeColumn,
    Timeout,
    Url,
    column_names,
    static_values,
)

# Most series in one request. Fewer are sent where the server allows no more.
_SERIES = 64


def forecast(
    model: Model,
    file: File = "-",
    horizon: Annotated[
        int | None,
        typer.Option(
            "--horizon",
            "-n",
            min=1,
            max=100_000,
            help="Number of steps to forecast. [default: all that the model gives at once, or has errors of; else 24]",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, max=5000, help="Number of sampled paths, for the mean and the quantiles.")
    ] = 0,
    quantiles: Annotated[
        str | None,
        typer.Option(help="With --samples: levels between 0 and 1, separated by commas.", show_default="0.1,0.5,0.9"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same paths.")] = None,
    future: Annotated[
        str | None,
        typer.Option(
            help="A file with the features that are known ahead, such as a calendar: one row per step.", metavar="FILE"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A .jsonl, .csv, .parquet or .arrow file, or a device or pipe. [default: a table]"
        ),
    ] = None,
    overwrite: Overwrite = False,
    on_error: OnErrorOption = OnError.stop,
    input_format: InputFormat = None,
    id_column: IdColumn = None,
    header: Header = None,
    time_column: TimeColumn = None,
    gaps: Annotated[
        Gap,
        typer.Option(
            help="With --time-column, where rows are missing between two times: an error; missing values, for a model "
            "that takes them; or the rows are taken as if they followed each other."
        ),
    ] = Gap.refuse,
    decimal: Decimal = None,
    sheet: Sheet = None,
    column: Annotated[str | None, typer.Option(help="In tables: the column of the series.", show_default=False)] = None,
    static: Static = None,
    columns: Columns = None,
    concurrency: Concurrency = 4,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 300.0,
    quiet: Quiet = False,
    as_json: AsJSON = False,
) -> None:
    """Forecast each series of a file. The model's output is fed back as its next input.

    \b
    elman forecast sunspots-gru history.csv --horizon 11
    elman forecast sunspots-gru history.csv -n 11 --samples 200 --quantiles 0.05,0.5,0.95
    elman forecast electricity-gru load.csv -n 48 --future calendar.csv -o ahead.csv
    elman forecast sunspots-gru stars.xlsx --time-column month --id-column star -o ahead.csv
    elman forecast ./my-model many.jsonl --json > forecasts.jsonl

    FILE is as for elman predict, with one series or many. A line of JSON may hold "future" and "static" beside
    "sequence". With --time-column the answer has the times that follow, and those of --future are compared with them.
    Values are in the units of the data. With --samples, each path adds errors that the model made on data it had
    not seen, and mean and quantiles are taken over the paths. Errors that are known for a few steps allow no longer
    paths: "max_sampled" on the card. A model that cannot forecast says why; the field "forecast" of its card is null.
    """
    from elman.cli.jobs.file_job import JobOptions
    from elman.cli.jobs.files.items import TableOptions
    from elman.cli.jobs.forecast import forecast_file

    if quantiles is not None and not samples:
        raise typer.BadParameter("quantiles are those of sampled paths: add --samples", param_hint="--quantiles")
    options: dict[str, Any] = {"samples": samples}
    if samples:
        options["quantiles"] = _levels("0.1,0.5,0.9" if quantiles is None else quantiles)
    if horizon is not None:
        options["horizon"] = horizon
    if seed is not None:
        options["seed"] = seed
    job = JobOptions(
        model=model,
        file=file,
        url=url,
        api_key=api_key,
        timeout=timeout,
        input_format=None if input_format is None else input_format.value,
        table=TableOptions(id_column, column, header, time_column, True, gaps.value, decimal, sheet),
        output=output,
        request=options,
        static=static_values(static),
        columns=column_names(columns),
        batch=_SERIES,
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
        raise typer.BadParameter(f"{text!r} is not a list of numbers", param_hint="--quantiles") from None
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise typer.BadParameter("levels lie between 0 and 1", param_hint="--quantiles")
    return levels
