"""What `elman predict --engine ray` does: parts of Parquet files, each worked through by one of Ray Data's actors.

A part is some row groups of a file, or a file whose sequences have several rows. The results of each are a file of the
output folder, named by the rows of the input that it holds, and written whole. So the files stand in the order of the
input, and those that are there are done.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from elman.cli.exits import CANNOT_START, FAILED, refuse
from elman.cli.extras import need
from elman.cli.jobs.checkpoint import checkpoint_of
from elman.cli.jobs.file_job import FileJob, JobOptions, model_io_of
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.formats import open_sink, open_source
from elman.cli.jobs.files.items import ModelIO, Source, TableOptions, WrappedSource
from elman.cli.jobs.pipeline import ItemFailed, Pipeline
from elman.cli.jobs.predictor import Predictor
from elman.cli.jobs.progress import Counts
from elman.cli.jobs.targets import connect, is_path

# A part ends with the row group that brings it to so many rows or bytes.
_PART_ROWS = 65_536
_PART_BYTES = 64 << 20


@dataclass(frozen=True)
class Part:
    """Some rows of the input, whose results are one file.

    Attributes:
        file: the path of the file that they are in.
        row_groups: those that hold them, the first one and the one after the last.
        start, end: the numbers of the rows in the input as a whole, the first one and the one after the last.
        first: the number of the first sequence, which is its id where the file has none.
    """

    file: str
    row_groups: tuple[int, int]
    start: int
    end: int
    first: int

    @property
    def name(self) -> str:
        """The name of the file of results. Sorted by name, the files are in order."""
        return f"rows-{self.start:012d}-{max(self.start, self.end - 1):012d}.parquet"


class RayJob(FileJob):
    """A folder of results for a Parquet file, or a folder of them, that is too large for one machine."""

    def __init__(self, options: JobOptions) -> None:
        super().__init__(replace(options, output_format=options.output_format or "parquet"))

    def run(self) -> None:
        need("ray")
        options = self.options
        if not is_path(options.model):
            raise refuse("--engine ray runs a model file: give its path, such as ./my-model")
        if options.output is None or options.output.suffix or options.format != "parquet":
            raise refuse("--engine ray writes a folder of Parquet files: name it with --output, without a suffix")
        if options.output.resolve() == Path(options.file).resolve():
            raise refuse("--output is the folder of the input: name another one")
        super().run()

    def is_complete(self) -> bool:
        """True if the output to resume is complete."""
        output = self.options.output
        return bool(output and self.options.resume and output.is_dir() and not checkpoint_of(output).exists())

    async def work(self) -> None:
        options = self.options
        assert options.output is not None
        table = replace(options.table, keep=True)
        async with connect(options.model, options.url) as target:
            card, model_io = target.card, model_io_of(target.card, options)
            self.parts = list(parts_of_input(Path(options.file), model_io, table))
            if not self.parts:
                raise UnusableFile(f"{options.file} has no rows")
            if not self.start_output(target):
                for old in options.output.glob("rows-*.parquet"):
                    old.unlink()
        options.output.mkdir(parents=True, exist_ok=True)
        missing = [part for part in self.parts if not (options.output / part.name).exists()]
        self.counts = Counts(started=time.perf_counter())
        if missing:
            await self._work_through(missing, model_io, table)
        self.print_summary(card)

    def made_with(self, card: dict[str, Any]) -> dict[str, str]:
        digest = hashlib.sha256(repr([(Path(part.file).name, part.name) for part in self.parts]).encode())
        told = f"an input of {self.parts[-1].end:,} rows in {len(self.parts):,} parts ({digest.hexdigest()[:8]})"
        return {**super().made_with(card), "input": told}

    async def _work_through(self, parts: list[Part], model_io: ModelIO, table: TableOptions) -> None:
        """Let Ray's actors work through parts. Raises UnusableFile, and Exit if a part fails."""
        with _ray() as ray:
            # The paths must hold in the folder of an actor.
            model, output = Path(self.options.model).resolve(), Path(str(self.options.output)).resolve()
            options = replace(self.options, model=str(model), output=output)
            ray.data.DataContext.get_current().execution_options.preserve_order = True
            rows = iter(
                ray.data.from_items([{"part": index} for index in range(len(parts))], override_num_blocks=len(parts))
                .map_batches(
                    PartWorker,
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=len(parts)),
                    fn_constructor_args=(options, parts, model_io, table),
                )
                .iter_rows()
            )
            # In a thread, so that a signal is heard meanwhile.
            while (row := await asyncio.to_thread(next, rows, None)) is not None:
                self.counts.written += int(row["written"])
                self.counts.failed += int(row["failed"])
                self.counts.unknown += int(row["unknown"])
                if row["error"]:
                    raise refuse(f"{row['error']}{self.hint()}", FAILED)

    def remove_empty_output(self) -> None:
        """A folder without a part stays with its checkpoint: it is resumed as any other."""

    def hint(self) -> str:
        output = self.options.output
        if output is None or not checkpoint_of(output).exists():
            return ""
        return f"; {output} has the parts that are done: the same command with --resume does the others"


class PartWorker:
    """An actor of Ray Data. It holds the model and its engine, and works through one part after another."""

    def __init__(self, options: JobOptions, parts: list[Part], model_io: ModelIO, table: TableOptions) -> None:
        self._options = options
        self._parts = parts
        self._model_io = model_io
        self._table = table
        self._loop = asyncio.Runner()
        # The engine runs until the process ends, which Ray sees to.
        self._open = contextlib.AsyncExitStack()
        self._target = self._loop.run(self._open.enter_async_context(connect(options.model, options.url)))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (index,) = batch["part"].tolist()
        error = ""
        try:
            counts = self._loop.run(self._run(self._parts[index]))
        except (UnusableFile, ItemFailed, OSError) as failed:
            counts, error = Counts(), f"{self._parts[index].file}: {failed}"
        values = {**asdict(counts), "error": error}
        return {name: [values[name]] for name in ("written", "failed", "unknown", "error")}

    async def _run(self, part: Part) -> Counts:
        options, predictor = self._options, Predictor(self._target, self._options.request)
        assert options.output is not None
        source = open_source(part.file, self._model_io, "parquet", replace(self._table, row_groups=part.row_groups))
        path = options.output / part.name
        sink = open_sink(path, self._model_io, options.steps, "parquet", False, source.kept)
        pipeline = Pipeline(
            lambda number, items: predictor.run(part.first + number, items),
            source,
            sink,
            options.concurrency,
            options.batch,
            options.on_error,
            lambda counts: None,
        )
        await pipeline.run()
        return pipeline.counts


def parts_of_input(path: Path, model_io: ModelIO, table: TableOptions) -> Iterator[Part]:
    """The parts of a Parquet file, or of the files of a folder in the order of their names. Raises UnusableFile."""
    import pyarrow.parquet as pq

    files = sorted(path.glob("[!_.]*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UnusableFile(f"{path} has no Parquet files: --engine ray reads a .parquet file, or a folder of them")
    start = 0
    for number, file in enumerate(files):
        source = open_source(str(file), model_io, "parquet", table)
        source.close()
        metadata = pq.read_metadata(file)
        if _is_whole(source):
            for first, end, rows in _row_groups(metadata):
                yield Part(str(file.resolve()), (first, end), start, start + rows, start)
                start += rows
        else:
            # Its sequences have several rows each. Where nothing tells them apart, the file is one.
            yield Part(str(file.resolve()), (0, metadata.num_row_groups), start, start + metadata.num_rows, number)
            start += metadata.num_rows


def _is_whole(source: Source) -> bool:
    """Whether each row of a file is a sequence, so that the file can be cut between any two."""
    table: Any = source.source if isinstance(source, WrappedSource) else source
    return bool(table.whole)


def _row_groups(metadata: Any) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups: the first one, the one after the last, and their number of rows."""
    first = rows = size = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if rows >= _PART_ROWS or size >= _PART_BYTES or index == metadata.num_row_groups - 1:
            yield first, index + 1, rows
            first, rows, size = index + 1, 0, 0


@contextlib.contextmanager
def _ray() -> Iterator[Any]:
    """Ray: the cluster that RAY_ADDRESS names, or one that is started on this machine."""
    import ray
    import ray.data

    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except Exception as error:  # it raises all kinds
            raise refuse(f"Ray cannot be started or reached: {error}", CANNOT_START) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a failure is told once, here
    try:
        yield ray
    except ray.exceptions.RayError as error:
        raise refuse(f"Ray failed: {str(error).strip()[-2000:]}", FAILED) from None
    finally:
        if mine:
            ray.shutdown()
