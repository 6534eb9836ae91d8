"""Results as HTML, which notebooks show: a few lines, a small table, and a plot of what has a value at each step.

Whatever the length of a result, what is shown of it is bounded. All text is escaped.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from elman.client.results import Forecast, Generation, Influence, Result

_MAX_ROWS, _MAX_COLUMNS, _MAX_TEXT = 12, 8, 1000
# Of a plot, in pixels: its size, what is left of it and below it for numbers, and the pairs of points of a line.
_WIDTH, _HEIGHT, _LEFT, _BELOW, _MAX_PAIRS = 480, 140, 64, 18, 120
# Seen on white and on black.
_COLOURS = ("#3b7dd8", "#d1662a", "#2f9e62", "#8a63c9", "#c43d5c", "#7d8600", "#008b99", "#9a6a3a")


def of_result(result: "Result") -> str:
    """The most likely labels, or the numbers, after the last step; and a plot if there are numbers for every step."""
    step = "" if result.step is None else f", at step {result.step}"
    head = f"{_count(result.length, 'step')}{step}"
    last = result.values if result.values is not None else result.outputs
    if last is None:
        last = result.output
    parts = [_line(head)]
    if result.top:
        rows = [(one.label, f"{100 * one.probability:.3g} %", _bar(one.probability)) for one in result.top]
        parts.append(_table(("label", "probability", ""), rows))
    elif last is not None and last.size:
        parts.append(_line(_listed([f"{one:.6g}" for one in last.reshape(-1, last.shape[-1])[-1]], "last output: ")))
    if result.outputs is not None and last is not None and len(last) > 1:
        parts.append(_plot({f"output {number}": column for number, column in enumerate(_columns(last))}))
        if result.label is not None:
            parts.append(_line(_listed([str(one) for one in result.labels[:_MAX_TEXT]], "after each step: ")))
    if result.heads:
        parts.append(_line(_listed([f"{name} {np.shape(rows)}" for name, rows in result.heads.items()], "heads: ")))
    return _whole([*parts, *_unknown(result.unknown)])


def of_forecast(forecast: "Forecast", columns: Mapping[str, NDArray[Any]]) -> str:
    """The coming steps as a plot, with the band between two quantiles, and the first of them as a table.

    columns: each figure of each output by its name, as `Forecast.to_frame` has them.
    """
    steps = _count(forecast.horizon, "step")
    shown = {name: column for name, column in columns.items() if not name.startswith("q")}
    shares = sorted(forecast.quantiles)
    edges = [forecast.quantiles[share] for share in (shares[0], shares[-1])] if len(shares) > 1 else []
    # Of several outputs, the bands would hide each other.
    band = (edges[0], edges[1]) if edges and edges[0].ndim == 1 else None
    rows = [
        (str(step + 1), *(f"{column[step]:.6g}" for column in list(columns.values())[:_MAX_COLUMNS]))
        for step in range(min(forecast.horizon, _MAX_ROWS))
    ]
    return _whole(
        [
            _line(f"{forecast.model} version {forecast.version}: {steps} ahead"),
            _plot(shown, band),
            _table(("step", *list(columns)[:_MAX_COLUMNS]), rows, left_out=forecast.horizon - len(rows)),
        ]
    )


def of_generation(generation: "Generation") -> str:
    """Each text, how long it is, and why it ended."""
    seed = "" if generation.seed is None else f", seed {generation.seed}"
    shown = generation.results[:_MAX_ROWS]
    rows = [
        (
            one.text if one.text is not None else _listed([str(token) for token in one.tokens]),
            f"{_count(one.steps, 'token')}, {one.reason}",
        )
        for one in shown
    ]
    left_out = len(generation.results) - len(shown)
    head = f"{generation.model} version {generation.version}{seed}"
    return _whole([_line(head), _table(("text", "end"), rows, left_out), *_unknown(generation.unknown)])


def of_influence(influence: "Influence") -> str:
    """The influence of each step as a plot."""
    reach = f"the last {influence.span} of {_count(influence.length, 'step')} hold 90 % of the influence"
    return _whole(
        [_line(f"{influence.model} version {influence.version}: {reach}"), _plot({"influence": influence.influence})]
    )


def _whole(parts: Iterable[str]) -> str:
    return f'<div style="font-size:0.9em">{"".join(parts)}</div>'


def _line(text: str) -> str:
    return f"<div>{_escaped(text)}</div>"


def _escaped(text: str) -> str:
    """A text of bounded length in HTML. What UTF-8 cannot hold is replaced."""
    cut = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return html.escape(cut.encode("utf-8", "replace").decode())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _listed(words: Sequence[str], before: str = "") -> str:
    more = f" and {len(words) - _MAX_ROWS:,} more" if len(words) > _MAX_ROWS else ""
    return f"{before}{', '.join(words[:_MAX_ROWS])}{more}"


def _unknown(characters: Mapping[str, int]) -> list[str]:
    if not characters:
        return []
    return [_line(_listed([f"{one!r} ({number})" for one, number in characters.items()], "unknown characters: "))]


class _Markup(str):
    """HTML, which is not escaped again."""

    __slots__ = ()


def _bar(share: float) -> _Markup:
    width = round(100 * min(max(share, 0.0), 1.0))
    return _Markup(f'<div style="width:{width}px;height:0.7em;background:{_COLOURS[0]}"></div>')


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left_out: int = 0) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in header)
    style = ' style="text-align:left;white-space:pre-wrap"'
    body = "".join(
        f"<tr>{''.join(f'<td{style}>{one if isinstance(one, _Markup) else _escaped(one)}</td>' for one in row)}</tr>"
        for row in rows
    )
    more = _line(f"and {left_out:,} more") if left_out else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _columns(values: NDArray[Any]) -> Iterable[NDArray[Any]]:
    """The values of each output, `(steps,)` each."""
    return iter(values.reshape(len(values), -1).T)


def _plot(lines: Mapping[str, NDArray[Any]], band: tuple[NDArray[Any], NDArray[Any]] | None = None) -> str:
    """Lines over the steps, from 1 on, and the area of a band behind them. Values that are not finite are left out."""
    shown = dict(list(lines.items())[:_MAX_COLUMNS])
    all_values = np.concatenate([*shown.values(), *(band or ())]).astype(np.float64)
    finite = all_values[np.isfinite(all_values)]
    length = max(map(len, shown.values()))
    if not finite.size or length < 2:
        return ""
    low, high = float(finite.min()), float(finite.max())
    parts = []
    if band is not None:
        lower, upper = (_points(edge, length, low, high) for edge in band)
        points = " ".join([*lower, *reversed(upper)])
        parts.append(f'<polygon points="{points}" fill="{_COLOURS[0]}" fill-opacity="0.2"/>')
    for colour, (name, values) in zip(_COLOURS, shown.items(), strict=False):
        points = " ".join(_points(values, length, low, high))
        title = f"<title>{_escaped(name)}</title>"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5">{title}</polyline>')
    bottom = _HEIGHT - _BELOW
    numbers = (
        (_LEFT - 6, 10, "end", f"{high:.4g}"), (_LEFT - 6, bottom, "end", f"{low:.4g}"),
        (_LEFT, _HEIGHT - 4, "start", "step 1"), (_WIDTH, _HEIGHT - 4, "end", f"{length:,}"),
    )  # fmt: skip
    parts += [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="11" fill="currentColor">{text}</text>'
        for x, y, anchor, text in numbers
    ]
    said = f"{', '.join(shown)}: {low:.4g} to {high:.4g} over {_count(length, 'step')}"
    return (
        f'<svg role="img" aria-label="{_escaped(said)}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>' + _legend(list(shown), len(lines) - len(shown))
    )


def _legend(names: list[str], left_out: int) -> str:
    """The names of several lines, each in its colour."""
    if len(names) < 2:
        return ""
    shown = [
        f'<span style="color:{colour}">{_escaped(name)}</span>' for colour, name in zip(_COLOURS, names, strict=False)
    ]
    more = [f"{left_out:,} more not drawn"] if left_out else []
    return f"<div>{', '.join([*shown, *more])}</div>"


def _points(values: NDArray[Any], length: int, low: float, high: float) -> list[str]:
    """Points of a line. Of many values the lowest and the highest of each part are kept, so that no peak is lost."""
    steps = np.flatnonzero(np.isfinite(values))
    if len(steps) > 2 * _MAX_PAIRS:
        parts = np.array_split(steps, _MAX_PAIRS)
        steps = np.unique([part[pick(values[part])] for part in parts for pick in (np.argmin, np.argmax)])
    # Half of each first, so that no difference of two large numbers is infinite.
    span = high / 2 - low / 2
    x = _LEFT + (_WIDTH - _LEFT) * steps / max(length - 1, 1)
    heights = (values[steps].astype(np.float64) / 2 - low / 2) / span if span else np.full(len(steps), 0.5)
    y = 4 + (_HEIGHT - _BELOW - 4) * (1 - heights)
    return [f"{across:.1f},{down:.1f}" for across, down in zip(x, y, strict=True)]
