"""Series carried on: one request a series, and forecasts as tables, CSV or JSON lines."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any, BinaryIO

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from elman.cli.jobs.files.json import JSONSink
from elman.cli.jobs.files.opening import open_source
from elman.cli.jobs.files.record import Answer, Record, Shape, Sink, Source, Unusable
from elman.cli.jobs.sending import post
from elman.cli.jobs.targets import Target, problem_of
from elman.cli.jobs.working import Job, Work


def forecast_file(job: Job, future: str | None) -> None:
    """Do what `elman forecast` was asked for. Exits as the command does."""

    def widen(target: Target, source: Source) -> Source:
        return source if future is None else _WithFuture(source, _future_source(job, target, future))

    def opener(target: Target, shape: Shape) -> Sink:
        return _open_sink(job, target, work)

    # With --json the forecasts themselves are what goes to standard output.
    told = replace(job, as_json=job.as_json and job.output is not None)
    work = Work(told, lambda target: Forecaster(target, job.options).answer, opener, widen)
    work.do()


class Forecaster:
    """Asks a target for forecasts. `options` are those of the forecast route."""

    def __init__(self, target: Target, options: dict[str, Any]) -> None:
        self.target = target
        self.options = options

    async def answer(self, start: int, records: list[Record]) -> list[Answer]:
        """The answers in order; `start` is the number of the first. Raises Unreachable."""
        return [await self._one(start + index, record) for index, record in enumerate(records)]

    async def _one(self, index: int, record: Record) -> Answer:
        answer = Answer(index, record, error=record.error)
        if answer.error is not None:
            return answer
        options = orjson.dumps({**self.options, **record.extra})
        body = b'{"series":' + record.content + b"," + options[1:]
        response = await post(self.target, f"{self.target.version_path}/forecast", body)
        if response.status_code == 200:
            forecast = response.json()
            answer.content = orjson.dumps({key: forecast[key] for key in forecast if key not in ("model", "version")})
        else:
            answer.error = problem_of(response)
        return answer


class _WithFuture:
    """Series, each with what is known ahead of it from another file, in the same order."""

    def __init__(self, source: Source, future: Source) -> None:
        self._source = source
        self._future = future
        self.total = source.total

    @property
    def position(self) -> int:
        return self._source.position

    def close(self) -> None:
        self._source.close()
        self._future.close()

    def __iter__(self) -> Iterator[Record]:
        ahead = iter(self._future)
        for record in self._source:
            known = next(ahead, None)
            if known is None:
                record.error = record.error or "there is no future for it"
            elif known.error is not None:
                record.error = record.error or f"its future, {known.place}: {known.error}"
            else:
                record.extra["future"] = orjson.loads(known.content)
            yield record


def _future_source(job: Job, target: Target, path: str) -> Source:
    card = target.card
    known = (card.get("forecast") or {}).get("known") or []
    if not known:
        raise Unusable(f"{card['name']} needs nothing that is known ahead: leave out --future")
    names = card["input"].get("names")
    shape = Shape(
        kind="features",
        size=len(known),
        names=tuple(names[i] for i in known) if names else None,
    )
    return open_source(path, shape, None, job.id_column)


def target_names(card: dict[str, Any]) -> list[str]:
    """What a model forecasts, by the names of its input where it has them."""
    names, target = card["input"].get("names"), (card.get("forecast") or {}).get("target")
    if names and target:
        return [names[i] for i in target]
    size = card["output"]["size"]
    return [""] if size == 1 else [str(i) for i in range(size)]


def _open_sink(job: Job, target: Target, work: Work) -> Sink:
    stdout: BinaryIO = open(1, "wb", closefd=False)
    if job.output is None:
        return JSONSink(stdout) if job.as_json else TableSink(target_names(target.card))
    if job.format not in ("jsonl", "csv"):
        raise Unusable(f"forecasts are written as .jsonl or .csv, and not as {job.format}")
    work.begin(target)
    stream = job.output.open("wb")
    if job.format == "jsonl":
        return JSONSink(stream)
    return CSVForecasts(stream, target_names(target.card), job.options)


def header(names: list[str], options: dict[str, Any]) -> list[str]:
    """The columns of forecasts: each figure, and of each of them every value."""
    figures = ["point"]
    if options["samples"]:
        figures += ["mean", *(f"q{level:g}" for level in options["quantiles"])]
    return [f"{figure}_{name}" if name and len(names) > 1 else figure for figure in figures for name in names]


def rows_of(forecast: dict[str, Any]) -> list[list[float]]:
    """A row a step, the figures in the order of `header`."""
    figures = [forecast["point"]]
    if "mean" in forecast:
        figures += [forecast["mean"], *forecast["quantiles"].values()]
    return [
        [value for cell in step for value in (cell if isinstance(cell, list) else [cell])]
        for step in zip(*figures, strict=True)
    ]


class CSVForecasts:
    """A row a step ahead, with the id of its series, or its number from 0."""

    def __init__(self, stream: BinaryIO, names: list[str], options: dict[str, Any]) -> None:
        self.done = 0
        self._stream = stream
        self._columns = header(names, options)
        self._write([["id", "step", *self._columns, "error"]])

    def write(self, answers: list[Answer]) -> None:
        for answer in answers:
            identity = answer.index if answer.record.id is None else answer.record.id
            if answer.error is not None:
                self._write([[identity, "", *[""] * len(self._columns), answer.error]])
            else:
                rows = rows_of(orjson.loads(answer.content))
                self._write([[identity, step, *row, ""] for step, row in enumerate(rows, 1)])
        self.done += len(answers)

    def _write(self, rows: list[list[Any]]) -> None:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode())
        self._stream.flush()

    def close(self, complete: bool) -> None:
        self._stream.close()


class TableSink:
    """A table a series, for people."""

    def __init__(self, names: list[str]) -> None:
        self.done = 0
        self._names = names
        self._console = Console(highlight=False)

    def write(self, answers: list[Answer]) -> None:
        for answer in answers:
            title = str(answer.record.id if answer.record.id is not None else answer.record.place)
            if answer.error is not None:
                self._console.print(f"{escape(title)}: [red]{escape(answer.error)}[/]", soft_wrap=True)
                continue
            forecast = orjson.loads(answer.content)
            for index, name in enumerate(self._names):
                self._console.print(escape(f"{title}, {name}" if name else title), soft_wrap=True)
                self._console.print(self._table(forecast, index))
        self.done += len(answers)

    def _table(self, forecast: dict[str, Any], index: int) -> Table:
        """Of one of the values: a row a step, a column a figure."""
        levels = [float(level) for level in forecast.get("quantiles", {})]
        figures = header([""], {"samples": len(levels), "quantiles": levels})
        table = Table(box=None)
        for name in ("step", *figures):
            table.add_column(name, justify="right")
        for step, row in enumerate(rows_of(forecast), 1):
            table.add_row(str(step), *map(_shown, row[index :: len(self._names)]))
        return table

    def close(self, complete: bool) -> None:
        pass


def _shown(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
