"""`elman predict`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.commands.options import (
    DEFAULT_URL,
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


class Output(StrEnum):
    """Formats of output files."""

    jsonl, csv, npy, npz, parquet = "jsonl", "csv", "npy", "npz", "parquet"


class Return(StrEnum):
    """Which outputs are returned."""

    final, steps = "final", "steps"


class Engine(StrEnum):
    """What runs the model, where it is not this process or a server."""

    ray = "ray"


def predict(
    model: Model,
    file: File = "-",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File, device or pipe for the results. [default: standard output]"),
    ] = None,
    returns: Annotated[Return, typer.Option("--return", help="final: only o_n. steps: o_1..o_n.")] = Return.final,
    decode: Annotated[bool, typer.Option(help="Add labels, values or tokens to the outputs.")] = True,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Number of labels in a result.")] = 3,
    head: Annotated[
        list[str] | None,
        typer.Option(help="Return this output too, by its name on the model's card. May be given several times."),
    ] = None,
    static: Static = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an output that was interrupted.")] = False,
    overwrite: Overwrite = False,
    on_error: OnErrorOption = OnError.stop,
    input_format: InputFormat = None,
    output_format: Annotated[Output | None, typer.Option(help="Format of the output, if no suffix says.")] = None,
    id_column: IdColumn = None,
    header: Header = None,
    time_column: TimeColumn = None,
    gaps: Annotated[
        Gap,
        typer.Option(
            help="With --time-column, where rows are missing between two times: an error; missing values, for a model "
            "that takes them; or the rows are taken as if they followed each other."
        ),
    ] = Gap.ignore,
    gather: Annotated[
        bool,
        typer.Option("--gather", help="In tables: the rows of a sequence may stand anywhere. Reads the table whole."),
    ] = False,
    decimal: Decimal = None,
    sheet: Sheet = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="In tables: the column of whole sequences, or of the one number per step.", show_default=False
        ),
    ] = None,
    columns: Columns = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Most sequences in one request.")] = 256,
    concurrency: Concurrency = 4,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="ray: FILE is a Parquet file or a folder of them, which Ray Data works through on all its machines; "
            "--output is a folder."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 300.0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Predict every sequence of a file, in order and in bounded memory.

    \b
    elman predict names-gru names.txt                 a model of a server
    elman predict names-gru names.csv -o out.csv      one text per row, in a column called name
    elman predict ./my-model series.csv -o out.parquet     a model file, without a server
    elman predict vowels-gru steps.parquet --return steps -o all.npz
    elman predict ./my-model /mnt/series -o /mnt/results --engine ray     on many machines
    echo Schmidt | elman predict names-gru -          from a pipe, each line answered at once
    elman predict names-gru big.jsonl -o out.jsonl --resume
    elman predict ./my-model steps.csv --static speaker=3 --head value

    \b
    Formats of FILE:
    .jsonl    {"sequence": ..., "static": ..., "id": ...} on each line, or a bare sequence
    .txt      one text per line, for models that read text
    .csv      one step per row; the rows of a sequence follow each other and share an id;
              without a column id the file is one sequence;
              for models that read text, one text per row
    .npy      one sequence (time, features), or many (batch, time, features)
    .npz      one sequence per member, as np.savez(path, *sequences) writes;
              or all steps in one member, and lengths
    .xlsx     rows as in CSV
    .parquet .arrow .feather     a list column sequence, or rows as in CSV
    A file that ends in .gz, .bz2 or .zst too is unpacked.

    \b
    A model with several inputs:
    .jsonl         "sequence" is an object of the sequence inputs by name, "static" one of the static inputs
    .csv .parquet  an input has the column of its name; with several numbers place_0, place_1, ...;
                   --columns names others; a static input is the same in all rows of a sequence
    --static gives a static input that is the same for every sequence, in every format.

    \b
    Formats of the output, with one result for each sequence:
    .jsonl         the result as the server sends it, with the id
    .csv .parquet  the best label with its probability, or the values; the outputs; and the columns of the input
                   that the model does not use
    .npy           o_n of each sequence
    .npz           o_1..o_n of each sequence, and lengths
    With --on-error skip, a sequence without a result has its error there.
    Without --output, results are for people on a terminal, and .jsonl elsewhere.

    Ctrl-C leaves whole results in the output and exits with 130. The same command with --resume continues there.
    The finished file has the same bytes as without an interruption. A Parquet output keeps its parts in a folder
    beside it until it is complete.
    Exit codes: 0 done; 1 a sequence has no result; 2 a file or an option is wrong; 3 no server answers.
    """
    from elman.cli.jobs.file_job import FileJob, JobOptions
    from elman.cli.jobs.files.items import TableOptions

    options: dict[str, Any] = {"return": returns.value, "decode": decode, "top": top}
    if head:
        options["heads"] = list(dict.fromkeys(head))
    job = JobOptions(
        model=model,
        file=file,
        url=url,
        api_key=api_key,
        timeout=timeout,
        input_format=None if input_format is None else input_format.value,
        table=TableOptions(id_column, column, header, time_column, gather, gaps.value, decimal, sheet),
        output=output,
        output_format=None if output_format is None else output_format.value,
        steps=returns is Return.steps,
        request=options,
        static=static_values(static),
        columns=column_names(columns),
        batch=batch,
        concurrency=concurrency,
        on_error=on_error.value,
        resume=resume,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
    if engine is not None:
        from elman.cli.jobs.ray_job import RayJob

        RayJob(job).run()
    else:
        FileJob(job).run()
