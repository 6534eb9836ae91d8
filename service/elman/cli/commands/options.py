"""Arguments and options that several commands share."""

import csv
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DEFAULT_URL = "http://127.0.0.1:8000"


def complete_names(context: typer.Context, incomplete: str) -> list[str]:
    """The models of the server that begin so, and the paths, for the completion of shells."""
    from elman.cli.jobs.completing import names, paths

    params = context.params
    return [*names(params.get("url") or DEFAULT_URL, params.get("api_key"), incomplete), *paths(incomplete)]


def given(value: str) -> str:
    """A value, unless it is empty, as that of a variable that is not set. Raises typer.BadParameter."""
    if not value:
        raise typer.BadParameter("it is empty")
    return value


def named(value: str) -> str:
    """A model that has a name, with a version or without. Raises typer.BadParameter."""
    given(value.partition("@")[0])
    return value


Model = Annotated[
    str,
    typer.Argument(
        callback=named,
        autocompletion=complete_names,
        help="A model of a server: NAME or NAME@VERSION. Or a path with a slash, to a model.onnx or its folder: "
        "it is then run here, without a server.",
        show_default=False,
    ),
]
File = Annotated[
    str,
    typer.Argument(
        callback=given,
        help="CSV, TSV, Excel, Parquet, Arrow, JSON lines, text, NPY or NPZ, by its suffix. - is standard input.",
    ),
]
Url = Annotated[str, typer.Option(envvar="ELMAN_URL", help="Address of the server.")]
Key = Annotated[str | None, typer.Option("--api-key", envvar="ELMAN_API_KEY", help="Key to send to the server.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that one request may take.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output file that exists.")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Requests in flight at once.")]
IdColumn = Annotated[
    str | None,
    typer.Option(
        help='In tables: rows with the same value in this column are one sequence. "" if all rows are one. [default: '
        "the column id, if there is one]",
        show_default=False,
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="In CSV: whether the first row names the columns. Needed where it holds numbers only.",
        show_default=False,
    ),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(help="In tables: sort the rows of a sequence by this column of numbers or dates.", show_default=False),
]
Decimal = Annotated[
    Literal[".", ","] | None,
    typer.Option(help="In CSV: the sign before the decimals. Needed where 1,234 may be either.", show_default=False),
]
Sheet = Annotated[str | None, typer.Option(help="In Excel: the sheet, if there are several.", show_default=False)]


class Gap(StrEnum):
    """What is done where rows are missing between two times."""

    refuse, missing, ignore = "refuse", "missing", "ignore"


Host = Annotated[str, typer.Option(envvar="ELMAN_HOST", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(envvar="ELMAN_PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
]

AllowAnyone = Annotated[
    bool | None,
    typer.Option(
        "--allow-anyone",
        help="Listen on an address that other machines reach although no API keys are set.",
        show_default=False,
    ),
]


class Input(StrEnum):
    """Formats of input files."""

    jsonl, csv, txt, npy, npz = "jsonl", "csv", "txt", "npy", "npz"
    parquet, arrow, excel = "parquet", "arrow", "excel"


class OnError(StrEnum):
    """What to do with a sequence that gets no result."""

    stop, skip = "stop", "skip"


InputFormat = Annotated[Input | None, typer.Option(help="Format of FILE, if its suffix does not say.")]
OnErrorOption = Annotated[
    OnError, typer.Option(help="stop: end at the first error. skip: write the error in place of the result.")
]

Static = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A static input, the same for every sequence, in JSON: speaker=3, place=[0.1,2], or place=@FILE.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="In tables: the columns of an input that are not called as it is. May be given several times.",
    ),
]


def static_values(options: list[str] | None) -> dict[str, Any]:
    """The static inputs that `--static` gives, by name. Raises typer.BadParameter."""
    values = {}
    for name, text in _named(options, "--static", "speaker=3"):
        try:
            content = Path(text[1:]).read_text("utf-8-sig") if text.startswith("@") else text
            # An integer that no dtype holds is sent as a float, and the server says that it does not fit.
            values[name] = json.loads(content, parse_int=lambda digits: (int if len(digits) < 20 else float)(digits))
        except OSError as error:
            raise typer.BadParameter(f"{text[1:]} cannot be read: {error.strerror}", param_hint="--static") from None
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is not JSON. A value is written as speaker=3; the column of a table as --columns "
                f"{name}={text}",
                param_hint="--static",
            ) from None
    return values


def column_names(options: list[str] | None) -> dict[str, tuple[str, ...]]:
    """The columns that `--columns` names, by input. A name with a comma stands in quotes. Raises typer.BadParameter."""
    return {
        name: tuple(next(csv.reader([text], skipinitialspace=True)))
        for name, text in _named(options, "--columns", "speaker=who")
    }


def _named(options: list[str] | None, option: str, example: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in options or ():
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise typer.BadParameter(f"{text!r} is not of the form {example}", param_hint=option)
        if name in (given for given, _ in pairs):
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        pairs.append((name, value))
    return pairs
