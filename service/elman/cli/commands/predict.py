"""`elman predict`: the options; the work is in `working`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.jobs.targets import DEFAULT_URL

Model = Annotated[
    str,
    typer.Argument(
        help="A served model: NAME or NAME@VERSION. Or a path, with a slash, to a model.onnx or to its folder, "
        "which is run right here without a server.",
        show_default=False,
    ),
]
File = Annotated[
    str,
    typer.Argument(help="CSV, TSV, JSON lines, text, NPY, NPZ or Parquet, by its suffix; - is standard input."),
]
Url = Annotated[str, typer.Option(envvar="ELMAN_URL", help="The server.")]
Key = Annotated[str | None, typer.Option("--api-key", envvar="ELMAN_API_KEY", help="Key to show to the server.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that one request may take.")]
AsJSON = Annotated[bool, typer.Option("--json", help="For programs: JSON in place of tables and sentences.")]


class Input(StrEnum):
    """Kinds of input files."""

    jsonl, csv, txt, npy, npz, parquet = "jsonl", "csv", "txt", "npy", "npz", "parquet"


class Output(StrEnum):
    """Kinds of output files."""

    jsonl, csv, npy, npz, parquet = "jsonl", "csv", "npy", "npz", "parquet"


class Return(StrEnum):
    """Which outputs are wanted."""

    final, steps = "final", "steps"


class OnError(StrEnum):
    """What becomes of a sequence that has no answer."""

    stop, skip = "stop", "skip"


InputFormat = Annotated[Input | None, typer.Option(help="What FILE holds, where its suffix does not say.")]
OnErrorOption = Annotated[
    OnError, typer.Option(help="stop at the first, or write what is wrong in its answer's place.")
]


def predict(
    model: Model,
    file: File = "-",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where answers go, by suffix. [default: JSON lines to standard output]"),
    ] = None,
    returns: Annotated[Return, typer.Option("--return", help="final: o_n alone. steps: o_1..o_n.")] = Return.final,
    decode: Annotated[bool, typer.Option(help="Labels, values or tokens beside the bare outputs.")] = True,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Labels that an answer lists.")] = 3,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an output that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin an output anew that exists.")] = False,
    on_error: OnErrorOption = OnError.stop,
    input_format: InputFormat = None,
    output_format: Annotated[Output | None, typer.Option(help="What to write, where no suffix says.")] = None,
    id_column: Annotated[str, typer.Option(help="Of tables: the column that rows of one sequence share.")] = "id",
    column: Annotated[
        str | None,
        typer.Option(help="Of tables: the column of whole sequences, or of the one number a step.", show_default=False),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Most sequences in one request.")] = 256,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 4,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 300.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bar and no summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
) -> None:
    """Predict every sequence of a file, in order and in bounded memory.

    \b
    elman predict names-gru names.txt                 a served model, answers as JSON lines
    elman predict names-gru names.csv -o out.csv      a column name, text or sequence: one a row
    elman predict ./my-model series.csv -o out.parquet     a file of one's own, without a server
    elman predict vowels-gru steps.parquet --return steps -o all.npz
    echo Schmidt | elman predict names-gru -          from a pipe, answered as it comes
    elman predict names-gru big.jsonl -o out.jsonl --resume

    \b
    What FILE holds:
    .jsonl    {"sequence": ..., "id": ...} a line, or the bare sequence
    .txt      a text a line, for models that read text
    .csv      a row a step, rows of one sequence together and with one id; without a column id,
              the file is one sequence; for models that read text, a text a row
    .npy      one sequence (time, features), or many (batch, time, features)
    .npz      a sequence a member, as np.savez(path, *sequences) writes; or lengths and all steps
    .parquet  a list column sequence, or rows as in CSV

    \b
    What an output holds, an answer for each sequence:
    .jsonl    the server's own result, with the id; .csv, .parquet: the best label with its
              probability, or values, and the outputs; .npy: o_n alone; .npz: o_1..o_n and lengths
    With --on-error skip, what has no answer says why in its place.

    Ctrl-C ends it with exit code 130 and a whole output. --resume counts the answers in it and goes on after them;
    the end is byte for byte what it had been without the interruption. A Parquet output keeps its parts beside it
    until it is whole. 0: done; 1: a sequence has no answer; 2: a file or option is wrong; 3: no server answers.
    """
    from elman.cli.jobs.working import Job, Work

    options: dict[str, Any] = {"return": returns.value, "decode": decode, "top": top}
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
        output_format=None if output_format is None else output_format.value,
        steps=returns is Return.steps,
        options=options,
        batch=batch,
        concurrency=concurrency,
        on_error=on_error.value,
        resume=resume,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
    Work(job).do()
