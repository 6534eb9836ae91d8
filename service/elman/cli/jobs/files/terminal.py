"""Results for people, on a terminal: a line for each sequence, or for each of its steps."""

from typing import Any, TextIO

import orjson
from rich.cells import cell_len, set_cell_size

from elman.cli.jobs.files.items import ModelIO, Outcome
from elman.cli.jobs.printing import printable

# Most characters of the name of a sequence.
_MAX_NAME = 40
# Most numbers of an output that has no meaning for people.
_MAX_NUMBERS = 6


class TerminalSink:
    """Writes what a sequence is and what the model says of it, such as `Lindqvist  Swedish 98 %`.

    A sequence is named by its id, its text or its place in the file.
    """

    def __init__(self, stream: TextIO, model_io: ModelIO, steps: bool) -> None:
        self.done = 0
        self._stream = stream
        self._model_io = model_io
        self._steps = steps
        self._width = 0

    def write(self, outcomes: list[Outcome]) -> None:
        names = [_name(outcome) for outcome in outcomes]
        self._width = max([self._width, *map(cell_len, names)])
        for name, outcome in zip(names, outcomes, strict=True):
            self._stream.writelines(self._lines(set_cell_size(name, self._width), outcome))
        self._stream.flush()
        self.done += len(outcomes)

    def _lines(self, name: str, outcome: Outcome) -> list[str]:
        if outcome.error is not None:
            return [f"{name}  error: {printable(outcome.error)}\n"]
        result = orjson.loads(outcome.content)
        heads = result.get("heads") or {}
        if not self._steps:
            return [f"{name}  {self._answer(result.get('decoded'), result['output'], heads)}\n"]
        rows = result["outputs"]
        decoded = result.get("decoded") or [None] * len(rows)
        digits = len(str(len(rows)))
        return [
            f"{name}  step {step:>{digits}}  {self._answer(one, row, {})}\n"
            for step, (one, row) in enumerate(zip(decoded, rows, strict=True), 1)
        ]

    def _answer(self, decoded: Any, output: list[float], heads: dict[str, Any]) -> str:
        kind = self._model_io.decoded
        if decoded is None or kind is None:
            answer = _numbers(output)
        elif kind == "values":
            answer = _numbers(decoded)
        else:
            answer = f"{printable(str(decoded[kind]))} {100 * decoded['probability']:.0f} %"
        return ", ".join([answer, *(f"{printable(name)} {_numbers(value)}" for name, value in heads.items())])

    def close(self, complete: bool) -> None:
        self._stream.flush()


def _name(outcome: Outcome) -> str:
    item = outcome.item
    name = item.place if item.id is None else str(item.id)
    if item.id is None and item.content.startswith(b'"'):
        name = orjson.loads(item.content)
    name = printable(name)
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _numbers(values: Any) -> str:
    listed = values if isinstance(values, list) else [values]
    shown = " ".join(f"{value:.4g}" for value in listed[:_MAX_NUMBERS])
    return shown if len(listed) <= _MAX_NUMBERS else f"{shown} ... ({len(listed)} numbers)"
