"""What `elman predict` and `elman forecast` do with a file: read it, ask a model, write the results."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import typer

from elman.cli.exits import CANNOT_START, FAILED, refuse, system_fault, warn
from elman.cli.jobs.checkpoint import checkpoint_of, open_checkpoint, remove_checkpoint
from elman.cli.jobs.files.errors import UnusableFile, UnwritableOutput, writing
from elman.cli.jobs.files.formats import STDIN, FileFormat, format_of, name_of, open_sink, open_source
from elman.cli.jobs.files.inputs import NamedInput
from elman.cli.jobs.files.items import PLAIN_TABLE, ModelIO, Sink, Source, TableOptions, parts_of
from elman.cli.jobs.files.streams import descriptor_of, is_stream, read_by_another
from elman.cli.jobs.pipeline import ItemFailed, OnError, Pipeline, RunItems
from elman.cli.jobs.predictor import Predictor
from elman.cli.jobs.progress import Counts, ProgressBar, summary_line
from elman.cli.jobs.retries import Unreachable
from elman.cli.jobs.signals import Interrupted, run_interruptible, unblocked
from elman.cli.jobs.targets import Target, connect
from elman.proxies import shown


@dataclass
class JobOptions:
    """What a command was asked to do with a file. The fields are the options of `elman predict`.

    Attributes:
        table: how the file is read, if it is a table.
        request: fields of the request, beside the sequences.
        static: static inputs that are the same for every sequence, by name.
        columns: in tables, the columns that hold an input, by its name.
    """

    model: str
    file: str
    url: str
    api_key: str | None = None
    timeout: float = 300.0
    input_format: FileFormat | None = None
    table: TableOptions = PLAIN_TABLE
    output: Path | None = None
    output_format: FileFormat | None = None
    steps: bool = False
    request: dict[str, Any] = field(default_factory=dict)
    static: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    batch: int = 256
    concurrency: int = 4
    on_error: OnError = "stop"
    resume: bool = False
    overwrite: bool = False
    as_json: bool = False
    quiet: bool = False

    @property
    def format(self) -> FileFormat:
        """The format of the output. Raises UnusableFile."""
        if self.output_format is not None:
            return self.output_format
        if self.output is None or (self.replaced is None and not self.output.suffix):
            return "jsonl"
        try:
            return format_of(str(self.output), "--output-format")
        except UnusableFile as error:
            raise UnusableFile(f"{self.output}: {error}") from None

    @property
    def replaced(self) -> Path | None:
        """The output, if it is a file that can be replaced or resumed. None for a stream, such as standard output."""
        return None if self.output is None or is_stream(self.output) else self.output

    @property
    def on_terminal(self) -> bool:
        """True if the results are written to a terminal."""
        return self.output is None and sys.stdout.isatty()

    @property
    def for_people(self) -> bool:
        """True if they are for people to read there."""
        return self.on_terminal and self.output_format is None and not self.as_json


def model_io_of(card: dict[str, Any], options: JobOptions) -> ModelIO:
    """The inputs and outputs of a model, from its card. Raises UnusableFile if an option names what it has not."""
    given, output = card["input"], card["output"]
    decode = options.request.get("decode", True)
    inputs = [one for one in card["inputs"] if one["role"] in ("sequence", "static")]
    heads = {one["name"]: one for one in card["outputs"][1:] if one["role"] in ("steps", "final")}
    wanted = options.request.get("heads", ())
    statics = [one["name"] for one in inputs if one["role"] == "static"]
    _check_names("static input", options.static, statics)
    _check_names("input", options.columns, [one["name"] for one in inputs])
    _check_names("head", wanted, list(heads))
    further, read = (
        tuple(
            NamedInput(one["name"], tuple(one["shape"]), one["dtype"], options.columns.get(one["name"], ()))
            for one in inputs[1:]
            if one["role"] == role and one["name"] not in options.static
        )
        for role in ("sequence", "static")
    )
    decoded: Literal["label", "token", "values"] | None = None
    if decode and output.get("labels"):
        decoded = "label"
    elif decode and card["task"] == "generation":
        decoded = "token"
    elif decode and card["task"] in ("forecasting", "regression"):
        decoded = "values"
    return ModelIO(
        kind=given["kind"],
        size=given.get("size"),
        names=tuple(given["names"]) if given.get("names") else None,
        text=bool(given.get("text")),
        outputs=output["size"],
        decoded=decoded,
        data=inputs[0]["name"],
        columns=options.columns.get(inputs[0]["name"], ()),
        further=further,
        statics=read,
        given=options.static,
        missing=given.get("missing") is not None,
        heads={name: (math.prod(n or 1 for n in heads[name]["shape"]), heads[name]["dtype"]) for name in wanted},
    )


def _check_names(kind: str, names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise UnusableFile(f"the model has no {kind} {name!r}; it has {', '.join(known) or 'none'}")


class FileJob:
    """One file worked through. Messages and exit codes are the same for every command.

    Args:
        runner: gives what asks the target; by default its predict route.
        opener: opens the output; by default as `open_sink`.
        widen: adds to the source, such as the future of each series.
    """

    def __init__(
        self,
        options: JobOptions,
        runner: Callable[[Target], RunItems] | None = None,
        opener: Callable[[Target, ModelIO, Source], Sink] | None = None,
        widen: Callable[[Target, Source], Source] = lambda target, source: source,
    ) -> None:
        self.options = options
        self._runner = runner or (lambda target: Predictor(target, options.request).run)
        self._opener = opener or self._open_sink
        self._widen = widen
        self._sink: Sink | None = None
        self._new_output = False
        self.counts = Counts()

    def run(self) -> None:
        """Do the job. Exits as the command does."""
        options = self.options
        if options.resume and options.replaced is None:
            raise refuse("--resume continues a file: name it with --output")
        if options.resume and options.overwrite:
            raise refuse("--resume and --overwrite exclude each other")
        if self.is_complete():
            typer.echo(f"elman: {options.output} is complete: there is nothing to resume", err=True)
            return
        try:
            run_interruptible(self.work())
            if options.replaced is not None:
                remove_checkpoint(options.replaced)
        except UnusableFile as error:
            raise refuse(f"{error}{self.hint()}") from None
        except ItemFailed as failed:
            advice = f"{self.hint()}; --on-error skip continues after errors"
            raise refuse(f"{name_of(options.file)}, {failed}{advice}", FAILED) from None
        except Unreachable as error:
            raise refuse(f"{shown(options.url)}: {error}{self.hint()}", CANNOT_START) from None
        except Interrupted as interrupted:
            warn(f"interrupted{self.hint()}")
            raise typer.Exit(interrupted.code) from None
        except BrokenPipeError:
            # The reader, such as head, has enough. Python must not fail on what is still buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(FAILED) from None
        except UnwritableOutput as error:
            place = options.output or "standard output"
            raise refuse(f"{place} cannot be written: {error}{self.hint()}", FAILED) from None
        except OSError as error:
            raise refuse(f"{system_fault(error, name_of(options.file))}{self.hint()}", FAILED) from None
        finally:
            self.remove_empty_output()
        if self.counts.written and self.counts.failed == self.counts.written:
            raise typer.Exit(FAILED)

    def is_complete(self) -> bool:
        """True if the output to resume is complete. Parquet and NPZ files only exist once they are."""
        output = self.options.output
        if output is None or not self.options.resume or output.suffix not in (".parquet", ".npz"):
            return False
        return output.exists() and not checkpoint_of(output).exists()

    async def work(self) -> None:
        options = self.options
        async with connect(options.model, options.url, options.api_key, options.timeout) as target:
            model_io = model_io_of(target.card, options)
            table = replace(options.table, keep=options.format in ("csv", "parquet", "arrow"))
            if options.file == STDIN and sys.stdin.isatty() and not options.quiet:
                typer.echo("elman: reading from the terminal; Ctrl-D ends the input", err=True)
            source = await unblocked(lambda: open_source(options.file, model_io, options.input_format, table))
            try:
                source = await unblocked(lambda: self._widen(target, source))
                async with read_by_another(options.output):
                    self._sink = sink = self._opener(target, model_io, source)
            except BaseException:
                source.close()
                raise
            with ProgressBar(source, options.quiet or options.on_terminal) as bar:
                pipeline = Pipeline(
                    self._runner(target),
                    source,
                    sink,
                    options.concurrency,
                    options.batch,
                    options.on_error,
                    bar.update,
                )
                try:
                    await pipeline.run()
                except UnusableFile as error:
                    raise UnusableFile(f"{name_of(options.file)}: {error}") from None
                finally:
                    self.counts = pipeline.counts
            self.print_summary(target.card)

    def _open_sink(self, target: Target, model_io: ModelIO, source: Source) -> Sink:
        options, resumed = self.options, self.start_output(target)
        return open_sink(
            options.output, model_io, options.steps, options.format, resumed, source.kept, options.for_people
        )

    def start_output(self, target: Target) -> bool:
        """Write the checkpoint of the output, if there is a file. True if it is resumed. Raises UnusableFile."""
        options = self.options
        if options.replaced is None:
            return False
        with writing():
            resumed = open_checkpoint(options.replaced, self.made_with(target.card), options.resume, options.overwrite)
        self._new_output = not resumed
        return resumed

    def made_with(self, card: dict[str, Any]) -> dict[str, str]:
        """What decides the bytes of the output: for each aspect a phrase that an error can quote."""
        options = self.options
        named = {key: value for key, value in (("static", options.static), ("columns", options.columns)) if value}
        return {
            "model": f"{card['name']} version {card['version']}",
            "digest": f"a model file of the digest {card['digest']}",
            "format": f"the format {options.format}",
            "return": f"--return {'steps' if options.steps else 'final'}",
            "options": f"the options {json.dumps(options.request | named, sort_keys=True)}",
        }

    def print_summary(self, card: dict[str, Any]) -> None:
        """Print the summary. It goes to standard error if the results went to standard output."""
        options, counts = self.options, self.counts
        if counts.unknown and not options.quiet:
            note = "characters outside the vocabulary were read as the unknown token"
            typer.echo(f"elman: in {counts.unknown:,} of the sequences {note}", err=True)
        if options.as_json:
            summary = {
                "model": card["name"],
                "version": card["version"],
                "sequences": counts.written,
                "before": counts.before,
                "failed": counts.failed,
                "seconds": round(counts.seconds, 3),
                "output": None if options.output is None else str(options.output),
            }
            typer.echo(json.dumps(summary), err=options.output is None or descriptor_of(options.output) == 1)
        elif not options.quiet and (options.output is not None or counts.failed):
            typer.echo(summary_line(counts, str(options.output or "standard output")), err=True)

    def remove_empty_output(self) -> None:
        """Remove an output that this run created, if nothing was written to it."""
        output = self.options.replaced
        if output is None or not self._new_output or (self._sink is not None and self._sink.done):
            return
        if checkpoint_of(output).exists():
            remove_checkpoint(output)
            output.unlink(missing_ok=True)
            shutil.rmtree(parts_of(output), ignore_errors=True)

    def hint(self) -> str:
        """How to resume, if something was written."""
        output = self.options.replaced
        if output is None or self._sink is None or not self._sink.done:
            return ""
        return f"; {output} holds {self._sink.done:,} results: the same command with --resume continues there"
