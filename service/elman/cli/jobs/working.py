"""A file of sequences worked through: what `elman predict` and `elman forecast` do with their options."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import typer

from elman.cli.exits import CANNOT_START, FAILED, INTERRUPTED, TERMINATED, refuse
from elman.cli.jobs.files.opening import STDIN, Format, format_of, name_of, open_sink, open_source
from elman.cli.jobs.files.record import Shape, Sink, Source, Unusable, parts_of
from elman.cli.jobs.pumping import Ask, Counts, OnError, Pump, Stopped, begin, end, note_of, shape_of
from elman.cli.jobs.reporting import Watch, told
from elman.cli.jobs.sending import Predictor, Unreachable
from elman.cli.jobs.targets import Target, connect

T = TypeVar("T")


class Interrupted(Exception):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = TERMINATED if number == signal.SIGTERM else INTERRUPTED


@dataclass
class Job:
    """What a command was asked to do with a file. The fields are the options of `elman predict`."""

    model: str
    file: str
    url: str
    api_key: str | None = None
    timeout: float = 300.0
    input_format: Format | None = None
    id_column: str = "id"
    column: str | None = None
    output: Path | None = None
    output_format: Format | None = None
    steps: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 256
    concurrency: int = 4
    on_error: OnError = "stop"
    resume: bool = False
    overwrite: bool = False
    as_json: bool = False
    quiet: bool = False

    @property
    def format(self) -> Format:
        """Of the output. Raises Unusable."""
        if self.output_format is not None:
            return self.output_format
        return "jsonl" if self.output is None else format_of(str(self.output))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or until a signal. Raises Interrupted."""

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        caught: list[int] = []

        def catch(number: int) -> None:
            caught.append(number)
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, catch, number)
        try:
            return await task
        except asyncio.CancelledError:
            if caught:
                raise Interrupted(caught[0]) from None
            raise

    return asyncio.run(guarded())


class Work:
    """One job: its messages and exits are the same whatever is asked of the model."""

    def __init__(
        self,
        job: Job,
        asker: Callable[[Target], Ask] | None = None,
        opener: Callable[[Target, Shape], Sink] | None = None,
        widen: Callable[[Target, Source], Source] = lambda target, source: source,
    ) -> None:
        self.job = job
        self._asker = asker or (lambda target: Predictor(target, job.options).answer)
        self._opener = opener or self._open_sink
        self._widen = widen
        self._sink: Sink | None = None
        self._begun = False
        self._counts = Counts()

    def do(self) -> None:
        """Do it. Exits as the command does."""
        job = self.job
        if job.resume and job.output is None:
            raise refuse("--resume goes on with a file: name it with --output")
        if job.resume and job.overwrite:
            raise refuse("--resume and --overwrite exclude each other")
        if self._is_whole():
            typer.echo(f"elman: {job.output} is whole: there is nothing to go on with", err=True)
            return
        try:
            run(self._work())
            if job.output is not None:
                end(job.output)
        except Unusable as error:
            raise refuse(f"{error}{self._hint()}") from None
        except Stopped as stopped:
            advice = f"{self._hint()}; --on-error skip passes over what is wrong"
            raise refuse(f"{name_of(job.file)}, {stopped}{advice}", FAILED) from None
        except Unreachable as error:
            raise refuse(f"{job.url}: {error}{self._hint()}", CANNOT_START) from None
        except Interrupted as interrupted:
            typer.secho(f"elman: interrupted{self._hint()}", fg="yellow", err=True)
            raise typer.Exit(interrupted.code) from None
        except BrokenPipeError:
            # Whoever read has enough. What is still buffered goes nowhere, without a complaint at the very end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(FAILED) from None
        except OSError as error:
            raise refuse(f"{job.output or job.file}: {error.strerror or error}{self._hint()}", FAILED) from None
        finally:
            self._clear()
        if self._counts.written and self._counts.failed == self._counts.written:
            raise typer.Exit(FAILED)

    def _is_whole(self) -> bool:
        """Whether what is to be gone on with is of a kind that is only there once it is whole."""
        output = self.job.output
        if output is None or not self.job.resume or output.suffix not in (".parquet", ".npz"):
            return False
        return output.exists() and not note_of(output).exists()

    async def _work(self) -> None:
        job = self.job
        async with connect(job.model, job.url, job.api_key, job.timeout) as target:
            shape = shape_of(target.card, decode=job.options.get("decode", True))
            source = open_source(job.file, shape, job.input_format, job.id_column, job.column)
            try:
                source = self._widen(target, source)
                self._sink = sink = self._opener(target, shape)
            except BaseException:
                source.close()
                raise
            if job.file == STDIN and sys.stdin.isatty() and not job.quiet:
                typer.secho("elman: reading from the terminal; Ctrl-D ends it", err=True)
            with Watch(source, job.quiet) as watch:
                pump = Pump(self._asker(target), source, sink, job.concurrency, job.batch, job.on_error, watch)
                try:
                    await pump.run()
                except Unusable as error:
                    raise Unusable(f"{name_of(job.file)}: {error}") from None
                finally:
                    self._counts = pump.counts
            self._tell(target)

    def _open_sink(self, target: Target, shape: Shape) -> Sink:
        return open_sink(self.job.output, shape, self.job.steps, self.job.format, self.begin(target))

    def begin(self, target: Target) -> bool:
        """Whether the output is gone on with. Raises Unusable."""
        job = self.job
        if job.output is None:
            return False
        card = target.card
        made_with = {
            "model": f"{card['name']} version {card['version']}",
            "digest": f"a model file of the digest {card['digest']}",
            "format": f"the format {job.format}",
            "return": f"--return {'steps' if job.steps else 'final'}",
            "options": f"the options {json.dumps(job.options, sort_keys=True)}",
        }
        resumed = begin(job.output, made_with, job.resume, job.overwrite)
        self._begun = not resumed
        return resumed

    def _tell(self, target: Target) -> None:
        """The end, for people or for programs; where answers went to standard output, beside them."""
        job, counts = self.job, self._counts
        if job.as_json:
            summary = {
                "model": target.card["name"],
                "version": target.card["version"],
                "sequences": counts.written,
                "before": counts.before,
                "failed": counts.failed,
                "seconds": round(counts.seconds, 3),
                "output": None if job.output is None else str(job.output),
            }
            typer.echo(json.dumps(summary), err=job.output is None)
        elif not job.quiet and (job.output is not None or counts.failed):
            typer.echo(told(counts, str(job.output or "standard output")), err=True)

    def _clear(self) -> None:
        """Leave no output behind that was begun for nothing."""
        output = self.job.output
        if output is None or not self._begun or (self._sink is not None and self._sink.done):
            return
        if note_of(output).exists():
            end(output)
            output.unlink(missing_ok=True)
            shutil.rmtree(parts_of(output), ignore_errors=True)

    def _hint(self) -> str:
        """How to go on, where that is possible."""
        if self.job.output is None or self._sink is None or not self._sink.done:
            return ""
        return f"; {self.job.output} holds {self._sink.done:,} answers: the same command with --resume goes on there"
