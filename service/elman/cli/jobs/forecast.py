"""Forecasts of the series in a file, printed as tables or written as JSON lines, CSV, Parquet or Arrow."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import orjson
from rich.console import Console
from rich.markup import escape

from elman.cli.jobs.file_job import FileJob, JobOptions, model_io_of
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.formats import open_source
from elman.cli.jobs.files.items import Identity, InputItem, ModelIO, Outcome, Sink, Source, WrappedSource
from elman.cli.jobs.files.json import JSONSink
from elman.cli.jobs.files.streams import open_stream
from elman.cli.jobs.forecast_files import ArrowForecastSink, CSVForecastSink, ForecastTable, header, rows_of
from elman.cli.jobs.predictor import Predictor
from elman.cli.jobs.printing import print_table
from elman.cli.jobs.targets import Target


def forecast_file(options: JobOptions, future: str | None) -> None:
    """Forecast every series of a file. Exits as the command does.

    Args:
        future: path of the file with the features that are known ahead.
    """

    def widen(target: Target, source: Source) -> Source:
        if future is None:
            return source
        return _WithFuture(source, _future_source(options, target, future), options.request.get("horizon"))

    def opener(target: Target, model_io: ModelIO, source: Source) -> Sink:
        return _open_sink(options, target, job, source)

    # With --json and no output the forecasts go to standard output, so the summary must not.
    summarised = replace(options, as_json=options.as_json and options.output is not None)
    job = FileJob(summarised, lambda target: Forecaster(target, options.request).run, opener, widen)
    job.run()


class Forecaster(Predictor):
    """Asks a target for forecasts, of several series in a request. `options` are fields of the forecast request."""

    route = "forecast"

    async def run(self, start: int, items: list[InputItem]) -> list[Outcome]:
        """The outcomes of the items, in order. `start` is the number of the first item. Raises Unreachable."""
        outcomes = [Outcome(start + i, item, error=item.error) for i, item in enumerate(items)]
        alike: dict[Any, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.error is None:
                # Of the series of a request all have a future, or none. A seed draws the same paths for each series,
                # whatever stands beside it, since it is then a request of its own.
                key = outcome.index if self.options["samples"] else tuple(outcome.item.extra)
                alike.setdefault(key, []).append(outcome)
        for together in alike.values():
            await self._fill(together)
        return outcomes

    def _body(self, outcomes: list[Outcome]) -> bytes:
        series = b",".join([outcome.item.content for outcome in outcomes])
        extra = {name: [one.item.extra[name] for one in outcomes] for name in outcomes[0].item.extra}
        return b'{"series_list":[' + series + b"]," + orjson.dumps({**self.options, **extra})[1:]

    def _results(self, content: bytes) -> list[dict[str, Any]]:
        whole = orjson.loads(content)
        return [{"horizon": whole["horizon"], "seed": whole["seed"], **one} for one in whole["results"]]

    def _take(self, outcome: Outcome, result: dict[str, Any]) -> None:
        if (clock := outcome.item.clock) is not None:
            result["times"] = [clock.after(step).cell for step in range(1, result["horizon"] + 1)]
        outcome.content = orjson.dumps(result)


class _WithFuture(WrappedSource):
    """Series, each with its future from a second file: the one with its id, from the time after its last row.

    A future without ids is that of a single series, or with times that of every series.

    Args:
        horizon: so many steps are forecast, None if the model says how many.
    """

    def __init__(self, source: Source, future: Source, horizon: int | None) -> None:
        super().__init__(source)
        self._future = future
        self._horizon = horizon

    def close(self) -> None:
        super().close()
        self._future.close()

    def __iter__(self) -> Iterator[InputItem]:
        ahead: dict[Identity | None, InputItem] = {}
        for known in self._future:
            if known.id in ahead:
                raise UnusableFile(f"--future has several futures for {_of_id(known.id)}: each needs an id of its own")
            ahead[known.id] = known
        named = None not in ahead
        for number, item in enumerate(self.source):
            if number and not named and not ahead[None].times:
                raise UnusableFile("the file has several series, so those of --future need their ids")
            found = ahead.get(item.id if named else None)
            if found is None:
                item.error = item.error or f"the file of --future has nothing for {_of_id(item.id)}"
            elif found.error is not None:
                item.error = item.error or f"its future, {found.place}: {found.error}"
            elif item.error is None:
                try:
                    item.extra["future"] = self._following(item, found)
                except ValueError as error:
                    item.error = f"its future, {found.place}: {error}"
            yield item

    def _following(self, item: InputItem, future: InputItem) -> Any:
        """The rows of a future that follow a series. Raises ValueError if their times do not go on where it ends."""
        rows = orjson.loads(future.content)
        if not future.times:
            return rows
        num_rows = len(future.times)
        clock = item.clock
        if clock is None:
            raise ValueError("it has times, but those of the series have no even step to go on with")
        start = next((i for i, time in enumerate(future.times) if time.value > clock.last.value), num_rows)
        end = None if self._horizon is None else start + self._horizon
        for step, time in enumerate(future.times[start:end], 1):
            due = clock.after(step)
            if not math.isclose(time.value, due.value, rel_tol=1e-9):
                raise ValueError(f"it has a row for {time.cell}, where the series goes on with {due.cell}")
        if start == num_rows:
            raise ValueError(f"all its rows are at or before {clock.last.cell}, where the series ends")
        if isinstance(rows, dict):  # of a model with several sequence inputs
            return {name: one[start:end] for name, one in rows.items()}
        return rows[start:end]


def _of_id(id: Identity | None) -> str:
    return "a series without an id" if id is None else f"the id {str(id)[:40]!r}"


def _future_source(options: JobOptions, target: Target, path: str) -> Source:
    card = target.card
    forecast, whole = card.get("forecast") or {}, model_io_of(card, options)
    known = forecast.get("known") or []
    further = () if forecast.get("drive") == "direct" else whole.further
    if not known and not further:
        raise UnusableFile(f"{card['name']} uses no features that are known ahead: leave out --future")
    names = card["input"].get("names")
    model_io = ModelIO(
        kind="features",
        size=len(known),
        names=tuple(names[i] for i in known) if names else None,
        data=whole.data,
        further=further,
    )
    # A future has the columns of its features alone, or an id and a time beside them.
    return open_source(path, model_io, None, replace(options.table, column=None, gaps=None))


def target_names(card: dict[str, Any]) -> list[str]:
    """The names of the values that a model forecasts, or their numbers; a single value without a name is ''."""
    names, target = card["input"].get("names"), (card.get("forecast") or {}).get("target")
    if names and target:
        return [names[i] for i in target]
    size = card["output"]["size"]
    return [""] if size == 1 else [str(i) for i in range(size)]


def _open_sink(options: JobOptions, target: Target, job: FileJob, source: Source) -> Sink:
    time = options.table.time_column
    if options.output is None:
        return JSONSink(open_stream(None)) if options.as_json else TableSink(target_names(target.card), time)
    if options.format not in ("jsonl", "csv", "parquet", "arrow"):
        raise UnusableFile(f"forecasts are written as .jsonl, .csv, .parquet or .arrow, not as {options.format}")
    kept = {name: kind for name, kind in source.kept.items() if name != time}
    table = ForecastTable(header(target_names(target.card), options.request), time, kept)
    job.start_output(target)
    if options.format in ("parquet", "arrow"):
        if options.replaced is None:
            raise UnusableFile(f"{options.output}: {options.format} cannot be written to a pipe; name a file")
        return ArrowForecastSink(options.output, table, options.format)
    stream: BinaryIO = options.output.open("wb") if options.replaced else open_stream(options.output)
    return JSONSink(stream) if options.format == "jsonl" else CSVForecastSink(stream, table)


class TableSink:
    """Prints a table for each series, for people."""

    def __init__(self, names: list[str], time: str | None = None) -> None:
        self.done = 0
        self._names = names
        self._time = time
        self._console = Console(highlight=False)

    def write(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            title = str(outcome.item.id if outcome.item.id is not None else outcome.item.place)
            if outcome.error is not None:
                self._console.print(f"{escape(title)}: [red]{escape(outcome.error)}[/]", soft_wrap=True)
                continue
            forecast = orjson.loads(outcome.content)
            for index, name in enumerate(self._names):
                self._console.print(escape(f"{title}, {name}" if name else title), soft_wrap=True)
                self._print_table(forecast, index)
        self.done += len(outcomes)

    def _print_table(self, forecast: dict[str, Any], index: int) -> None:
        """Print the forecast of one value: a row for each step, a column for the point and each statistic."""
        levels = [float(level) for level in forecast.get("quantiles", {})]
        times, rows = forecast.get("times"), rows_of(forecast)
        names = [(times and self._time) or "step", *header([""], {"samples": len(levels), "quantiles": levels})]
        cells = [
            [str(step), *map(_shown, row[index :: len(self._names)])]
            for step, row in zip(times or range(1, len(rows) + 1), rows, strict=True)
        ]
        print_table(names, cells, right=names)

    def close(self, complete: bool) -> None:
        pass


def _shown(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
