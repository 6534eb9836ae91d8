"""Forecasts of the series in a file: one request for each, printed as tables or written as CSV or JSON lines."""

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any, BinaryIO

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from elman.cli.jobs.file_job import FileJob, JobOptions
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.formats import open_source
from elman.cli.jobs.files.items import Identity, InputItem, ModelIO, Outcome, Sink, Source, WrappedSource, beside
from elman.cli.jobs.files.json import JSONSink
from elman.cli.jobs.retries import post
from elman.cli.jobs.targets import Target, problem_of


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

    # With --json the forecasts go to standard output, so the summary must not.
    summarised = replace(options, as_json=options.as_json and options.output is not None)
    job = FileJob(summarised, lambda target: Forecaster(target, options.request).run, opener, widen)
    job.run()


class Forecaster:
    """Asks a target for forecasts. `options` are fields of the forecast request."""

    def __init__(self, target: Target, options: dict[str, Any]) -> None:
        self.target = target
        self.options = options

    async def run(self, start: int, items: list[InputItem]) -> list[Outcome]:
        """The outcomes of the items, in order. `start` is the number of the first item. Raises Unreachable."""
        return [await self._one(start + index, item) for index, item in enumerate(items)]

    async def _one(self, index: int, item: InputItem) -> Outcome:
        outcome = Outcome(index, item, error=item.error)
        if outcome.error is not None:
            return outcome
        options = orjson.dumps({**self.options, **item.extra})
        body = b'{"series":' + item.content + b"," + options[1:]
        response = await post(self.target, f"{self.target.version_path}/forecast", body)
        if response.status_code == 200:
            forecast = response.json()
            if item.clock is not None:
                forecast["times"] = [item.clock.after(step).cell for step in range(1, len(forecast["point"]) + 1)]
            outcome.content = orjson.dumps({key: forecast[key] for key in forecast if key not in ("model", "version")})
        else:
            outcome.error = problem_of(response)
        return outcome


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

    def _following(self, item: InputItem, future: InputItem) -> list[Any]:
        """The rows of a future that follow a series. Raises ValueError if their times do not go on where it ends."""
        rows: list[Any] = orjson.loads(future.content)
        if not future.times:
            return rows
        clock = item.clock
        if clock is None:
            raise ValueError("it has times, but those of the series have no even step to go on with")
        start = next((i for i, time in enumerate(future.times) if time.value > clock.last.value), len(rows))
        end = None if self._horizon is None else start + self._horizon
        for step, time in enumerate(future.times[start:end], 1):
            due = clock.after(step)
            if not math.isclose(time.value, due.value, rel_tol=1e-9):
                raise ValueError(f"it has a row for {time.cell}, where the series goes on with {due.cell}")
        if start == len(rows):
            raise ValueError(f"all its rows are at or before {clock.last.cell}, where the series ends")
        return rows[start:end]


def _of_id(id: Identity | None) -> str:
    return "a series without an id" if id is None else f"the id {str(id)[:40]!r}"


def _future_source(options: JobOptions, target: Target, path: str) -> Source:
    card = target.card
    known = (card.get("forecast") or {}).get("known") or []
    if not known:
        raise UnusableFile(f"{card['name']} uses no features that are known ahead: leave out --future")
    names = card["input"].get("names")
    model_io = ModelIO(
        kind="features",
        size=len(known),
        names=tuple(names[i] for i in known) if names else None,
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
    stdout: BinaryIO = open(1, "wb", closefd=False)
    time = options.table.time_column
    if options.output is None:
        return JSONSink(stdout) if options.as_json else TableSink(target_names(target.card), time)
    if options.format not in ("jsonl", "csv"):
        raise UnusableFile(f"forecasts are written as .jsonl or .csv, not as {options.format}")
    job.start_output(target)
    stream = options.output.open("wb")
    if options.format == "jsonl":
        return JSONSink(stream)
    kept = [name for name in source.kept if name != time]
    return CSVForecastSink(stream, header(target_names(target.card), options.request), time, kept)


def header(names: list[str], options: dict[str, Any]) -> list[str]:
    """The columns of a forecast: point, mean and quantiles, each for every value."""
    figures = ["point"]
    if options["samples"]:
        figures += ["mean", *(f"q{level:g}" for level in options["quantiles"])]
    return [f"{figure}_{name}" if name and len(names) > 1 else figure for figure in figures for name in names]


def rows_of(forecast: dict[str, Any]) -> list[list[float]]:
    """One row for each step, in the order of `header`."""
    figures = [forecast["point"]]
    if "mean" in forecast:
        figures += [forecast["mean"], *forecast["quantiles"].values()]
    return [
        [value for cell in step for value in (cell if isinstance(cell, list) else [cell])]
        for step in zip(*figures, strict=True)
    ]


class CSVForecastSink:
    """Writes one row for each step of each forecast.

    Args:
        figures: the columns of the forecast itself.
        time: the column of the times, if there is one.
        kept: the columns of the series that each row has too, where they are the same in all rows of a series.
    """

    def __init__(self, stream: BinaryIO, figures: list[str], time: str | None, kept: list[str]) -> None:
        self.done = 0
        self._stream = stream
        self._time, self._kept = time, kept
        own = ["id", "step", *figures, "error"]
        self._header = ["id", *beside(dict.fromkeys([*([time] if time else []), *kept]), own), *own[1:]]
        self._write([self._header])

    def write(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.error is not None:
                self._write([[outcome.id, *[""] * (len(self._header) - 2), outcome.error]])
            else:
                self._write(self._rows(outcome))
        self.done += len(outcomes)

    def _rows(self, outcome: Outcome) -> list[list[Any]]:
        forecast = orjson.loads(outcome.content)
        rows = rows_of(forecast)
        same = outcome.item.same_cells()
        more = [same[name] for name in self._kept]
        times = forecast.get("times") or [""] * len(rows)
        first = [[time] if self._time else [] for time in times]
        return [[outcome.id, *first[i], *more, i + 1, *row, ""] for i, row in enumerate(rows)]

    def _write(self, rows: list[list[Any]]) -> None:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode())
        self._stream.flush()

    def close(self, complete: bool) -> None:
        self._stream.close()


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
                self._console.print(self._table(forecast, index))
        self.done += len(outcomes)

    def _table(self, forecast: dict[str, Any], index: int) -> Table:
        """The forecast of one value: a row for each step, a column for the point and each statistic."""
        levels = [float(level) for level in forecast.get("quantiles", {})]
        figures = header([""], {"samples": len(levels), "quantiles": levels})
        table = Table(box=None)
        times = forecast.get("times")
        for name in ((times and self._time) or "step", *figures):
            table.add_column(name, justify="right")
        rows = rows_of(forecast)
        for step, row in zip(times or range(1, len(rows) + 1), rows, strict=True):
            table.add_row(str(step), *map(_shown, row[index :: len(self._names)]))
        return table

    def close(self, complete: bool) -> None:
        pass


def _shown(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
