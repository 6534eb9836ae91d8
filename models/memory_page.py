"""The page and the pictures of the memory study, made from models/memory.json alone."""

import io
import textwrap
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any

from models.recurrent import CELLS, Cell
from models.tasks import adding

Results = Mapping[str, Any]
Run = Mapping[str, Any]

SOLVED = 1e-3
"""Squared error on held-out sequences under which the adding problem counts as solved."""
UNLEARNED = 0.95
"""From this share of the error of always answering 1, nothing counts as learned."""
HARDLY_LEARNED = 0.8
REPRODUCED_AT = 100
FEWEST = 20
"""Fewest sequences for which the mean at a distance is shown."""
LONGEST = 240
"""Of a longer sequence, influence is measured on so many last steps. The time grows as their square."""
ALIKE = 0.05
"""Spans that differ by less than this share of the sequence are called alike."""
RECENT = 5
"""Steps that the tables count as the recent past."""

NUM_COLOURS = 64
"""In a picture."""
COLOURS: dict[Cell, str] = {"rnn": "#d95f02", "lstm": "#1b9e77", "gru": "#7570b3"}
MARKERS: dict[Cell, str] = {"rnn": "o", "lstm": "s", "gru": "^"}
TITLES = {
    "vowels": "Japanese Vowels: which of nine men is speaking",
    "names": "Surnames: which of thirteen languages a name comes from",
    "watch": "Exercises: which of seven a wrist is doing",
}
NAMED = {"vowels": "Japanese Vowels", "names": "Surnames", "watch": "Exercises"}

# -- what was measured -------------------------------------------------------------------------------


def runs_of(results: Results, cell: Cell, length: int | None = None, rate: float | None = None) -> list[Run]:
    """The runs of a cell, by seed, at the study's own learning rate unless another is given."""
    rate = results["budget"]["learning_rate"] if rate is None else rate
    found = [run for run in results["adding"].values() if (run["cell"], run["learning_rate"]) == (cell, rate)]
    return sorted((run for run in found if length in (None, run["length"])), key=lambda run: int(run["seed"]))


def lengths_of(results: Results) -> list[int]:
    return sorted({run["length"] for run in results["adding"].values()})


def errors(runs: Iterable[Run]) -> list[float]:
    return [run["mse"] for run in runs]


def num_solved(runs: Iterable[Run]) -> int:
    return sum(run["mse"] < SOLVED for run in runs)


def standing(runs: list[Run], chance: float) -> str:
    """The results of the seeds of a cell at one length, in words."""
    if num_solved(runs) == len(runs):
        return "solved"
    if num_solved(runs):
        return "solved by some seeds"
    if min(errors(runs)) > UNLEARNED * chance:
        return "at chance"
    return "hardly below chance" if min(errors(runs)) > HARDLY_LEARNED * chance else "learned in part"


def shares(values: list[float], num_at: list[int]) -> list[float]:
    """Means by distance as shares of their sum, over the distances that enough sequences have."""
    kept = [value for value, count in zip(values, num_at, strict=True) if count >= FEWEST] or values
    return [value / sum(kept) for value in kept]


def influences(results: Results, task: str) -> dict[Cell, Any]:
    found = {one["cell"]: one for one in results["influence"].values() if one["task"] == task}
    return {cell: found[cell] for cell in CELLS if cell in found}


def tasks_of(results: Results) -> list[str]:
    return list(dict.fromkeys(one["task"] for one in results["influence"].values()))


# -- pictures ----------------------------------------------------------------------------------------


def draw_all(folder: Path, results: Results) -> None:
    """Every picture of the page, as small PNGs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_errors(folder / "memory-adding.png", results)
    draw_curves(folder / "memory-curves.png", results)
    draw_gradients(folder / "memory-gradient.png", results)
    for task in tasks_of(results):
        draw_influence(folder / f"memory-influence-{task}.png", results, task)


def draw_errors(path: Path, results: Results) -> None:
    """Squared error against length: a point a seed, a line through the medians."""
    figure, axes = _figure(6.4, 4.2)
    lengths = lengths_of(results)
    for cell in CELLS:
        by_length = {length: errors(runs_of(results, cell, length)) for length in lengths}
        middles = [median(values) if values else float("nan") for values in by_length.values()]
        look = {"color": COLOURS[cell], "marker": MARKERS[cell]}
        axes.plot(lengths, middles, label=f"{cell.upper()} (line: median of the seeds)", **look)
        points = [(length, value) for length, values in by_length.items() for value in values]
        axes.plot(*zip(*points, strict=True), linestyle="none", alpha=0.45, **look)
    axes.axhline(adding.CHANCE, color="grey", linestyle="--", label="always answering 1: 1/6")
    axes.axhline(SOLVED, color="grey", linestyle=":", label=f"counted as solved: under {SOLVED:g}")
    axes.set(xscale="log", yscale="log", xlabel="T, length of the sequence (steps)")
    axes.set(ylabel="mean squared error, held-out sequences", title="The adding problem by length")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="center right")
    _save(figure, path)


def draw_curves(path: Path, results: Results) -> None:
    """The training curves of every seed, a panel a length."""
    lengths = lengths_of(results)
    columns = 2 if len(lengths) < 5 else 3
    figure, grid = _figure(9.0, 2.9 * -(-len(lengths) // columns), -(-len(lengths) // columns), columns)
    for axes, length in zip(grid.flat, lengths, strict=False):
        for cell in CELLS:
            for i, run in enumerate(runs_of(results, cell, length)):
                steps = [results["budget"]["interval"] * (point + 1) for point in range(len(run["curve"]))]
                label = cell.upper() if i == 0 else None
                axes.plot(steps, run["curve"], color=COLOURS[cell], linewidth=1.1, alpha=0.85, label=label)
                axes.plot(steps[-1], run["curve"][-1], color=COLOURS[cell], marker=MARKERS[cell], markersize=5)
        axes.axhline(adding.CHANCE, color="grey", linestyle="--", linewidth=0.9)
        axes.axhline(SOLVED, color="grey", linestyle=":", linewidth=0.9)
        axes.set(yscale="log", title=f"T = {length}", ylim=(1e-4, 1), xlim=(0, results["budget"]["max_steps"] * 1.03))
        axes.set(xlabel="training step (batches)", ylabel="mean squared error")
    for axes in list(grid.flat)[len(lengths) :]:
        axes.set_axis_off()
    grid.flat[0].legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.92))
    _save(figure, path)


def draw_gradients(path: Path, results: Results) -> None:
    """How the gradient of o_n falls with distance, before and after training, at one length."""
    length = _studied_length(results)
    figure, grid = _figure(9.0, 3.6, 1, 2, sharey=True)
    for axes, when in zip(grid.flat, ("before", "after"), strict=True):
        for cell in CELLS:
            curve = mean_gradient(runs_of(results, cell, length), when)
            shown = [value if value > 0 else float("nan") for value in curve]
            axes.plot(range(len(curve)), shown, color=COLOURS[cell], label=cell.upper())
        axes.set(yscale="log", xlabel="distance n-k (steps)", title=f"{when} training, T = {length}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    grid.flat[0].set_ylabel("|d o_n / d x_k|, mean over seeds\n(answer per unit of input)")
    grid.flat[0].legend(fontsize=8)
    _save(figure, path)


def draw_influence(path: Path, results: Results, task: str) -> None:
    """The share of each distance in what moves o_n: by leaving steps out and, for features, by the gradient."""
    found = influences(results, task)
    kinds = {"moved": "step k left out", "gradient": "gradient with respect to x_k"}
    kinds = {kind: words for kind, words in kinds.items() if all(one[kind] for one in found.values())}
    figure, grid = _figure(4.7 * len(kinds) + 0.4, 3.6, 1, len(kinds), squeeze=False)
    for axes, (kind, words) in zip(grid.flat, kinds.items(), strict=True):
        for cell, one in found.items():
            percent = [100 * share for share in shares(one[kind], one["num_at"])]
            look = {"color": COLOURS[cell], "marker": MARKERS[cell], "markersize": 4 if len(percent) < 40 else 0}
            axes.plot(range(len(percent)), percent, label=cell.upper(), **look)
        axes.set(xlabel="distance n-k (steps)", ylabel="share of the influence (%)", title=words)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    grid.flat[0].legend(fontsize=8)
    figure.suptitle(TITLES[task], fontsize=10)
    _save(figure, path)


def mean_gradient(runs: list[Run], when: str) -> list[float]:
    """The mean over the seeds at each distance; `when` is before or after training."""
    return [fmean(values) for values in zip(*(run[f"gradient_{when}"] for run in runs), strict=True)]


def _studied_length(results: Results) -> int:
    lengths = lengths_of(results)
    return REPRODUCED_AT if REPRODUCED_AT in lengths else lengths[-1]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    # Imported here because it takes a second, and only drawing needs it.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def _save(figure: Any, path: Path) -> None:
    """Save as a PNG of NUM_COLOURS colours, which is enough for line drawings."""
    from matplotlib import pyplot
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format="png")
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(NUM_COLOURS).save(path, format="PNG", optimize=True)


# -- the page ----------------------------------------------------------------------------------------


def write_page(path: Path, results: Results) -> None:
    path.write_text(page(results), "utf-8")


def page(results: Results) -> str:
    """The whole page in Markdown."""
    parts = [_introduction(results), _adding(results), *_gradient(results), *_influence(results), _again(results)]
    return "\n".join(parts)


def _introduction(results: Results) -> str:
    findings = [*_adding_findings(results), *_gradient_findings(results), *_influence_findings(results)]
    about = """A recurrent network knows its past only through a state of fixed size. How much of the past is in it,
        and from how far back, depends on the cell. This page measures it for the plain cell (RNN, Elman 1990), the
        LSTM (Hochreiter and Schmidhuber 1997) and the GRU (Cho et al. 2014): first on a problem that only
        memory solves, then on the shipped models and real data. It is written by `python -m models.memory` from
        `memory.json`; every number and every picture comes from a run of that command."""
    lines = ["# How far back they remember", "", wrapped(about), "", "## What it shows", ""]
    return "\n".join([*lines, *(wrapped(f"- {one}", indent="  ") for one in findings), ""])


def _adding(results: Results) -> str:
    about = """Each step of a sequence holds a random number from 0 to 1 and a mark, which is 1 at two steps, one in
        each half, and 0 elsewhere. The answer, asked for at the last step, is the sum of the two marked numbers
        (Hochreiter and Schmidhuber 1997, in the form of Le, Jaitly and Hinton 2015: one length, one mark a half).
        Always answering 1 has an expected squared error of 1/6, the variance of the sum."""
    curves = f"""The curves below are the error on the fresh training batches, each point the mean of
        {results["budget"]["interval"]}; one line a seed, a mark where it ended. Dashed: always answering 1. Dotted:
        counted as solved."""
    steps = "Batches until training ended early, or all of them where it did not; least to most over the seeds:"
    lines = ["## The adding problem", "", wrapped(about), "", wrapped(_method(results["budget"])), ""]
    lines += [*_error_table(results), "", "![Squared error by length](pictures/memory-adding.png)", ""]
    lines += [steps, "", *_steps_table(results), ""]
    lines += [wrapped(curves), "", "![Training curves](pictures/memory-curves.png)", "", *_rates_table(results)]
    return "\n".join(lines)


def _method(budget: Mapping[str, Any]) -> str:
    return f"""The networks differ only in their cell: one layer of {budget["hidden_size"]}, torch's own starting
        weights (tanh for the RNN), no curriculum, Adam at {budget["learning_rate"]:g}, gradients clipped at norm
        {budget["clip_norm"]:g}, fresh batches of {budget["batch_size"]}, {budget["max_steps"]:,} of them at most. Over
        the last {100 * budget["decay_share"]:.0f} % of those the learning rate falls to zero. Training ends early
        once two means of {budget["interval"]} batches in a row are below {budget["enough"]:g}. The error is the mean
        squared one on {budget["num_held_out"]:,} fresh sequences that no training drew, the same for every cell and
        seed of a length; on so few the error of always answering 1 is not quite 1/6, and stands in the table.
        *Solved* means an error under {SOLVED:g}. Given is least to most over the seeds."""


def _error_table(results: Results) -> list[str]:
    rows = [
        "| T | always answering 1 | RNN | LSTM | GRU |",
        "|---|---|---|---|---|",
    ]
    for length in lengths_of(results):
        cells = [_error_cell(runs_of(results, cell, length)) for cell in CELLS]
        rows.append(f"| {length} | {results['chance'][str(length)]:.4f} | {' | '.join(cells)} |")
    return rows


def _error_cell(runs: list[Run]) -> str:
    if not runs:
        return "not run"
    return f"{_range(errors(runs), _error)}; {num_solved(runs)} of {len(runs)} solved"


def _steps_table(results: Results) -> list[str]:
    rows = ["| T | RNN | LSTM | GRU |", "|---|---|---|---|"]
    for length in lengths_of(results):
        steps = [[run["steps"] for run in runs_of(results, cell, length)] for cell in CELLS]
        rows.append(f"| {length} | {' | '.join(_range(one, '{:,}'.format) if one else 'not run' for one in steps)} |")
    return rows


def _rates_table(results: Results) -> list[str]:
    """The plain cell at other learning rates, if any was tried."""
    own = results["budget"]["learning_rate"]
    tried = [run for run in results["adding"].values() if run["learning_rate"] != own]
    if not tried:
        return []
    rows = [
        f"| {run['length']} | {run['learning_rate']:g} | {run['seed']} | {_error(run['mse'])} | {run['steps']:,} |"
        for run in sorted(tried, key=lambda run: (run["length"], -run["learning_rate"]))
    ]
    return [
        "The RNN was also trained at other learning rates, because one rate might be the cause of its failure:",
        "",
        "| T | learning rate | seed | squared error | batches |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _adding_findings(results: Results) -> list[str]:
    findings = []
    lengths = lengths_of(results)
    for cell in CELLS:
        by_standing: dict[str, list[str]] = {}
        for length in lengths:
            if runs := runs_of(results, cell, length):
                by_standing.setdefault(standing(runs, results["chance"][str(length)]), []).append(str(length))
        said = [f"{words} at T = {', '.join(which)}" for words, which in by_standing.items()]
        findings.append(f"**The adding problem, {cell.upper()}**: {'; '.join(said)}.")
    if REPRODUCED_AT in lengths:
        findings.append(_reproduction(results))
    return findings


def _reproduction(results: Results) -> str:
    """Whether the known result at T = 100 came out."""
    runs = {cell: runs_of(results, cell, REPRODUCED_AT) for cell in CELLS}
    chance = results["chance"][str(REPRODUCED_AT)]
    came_out = standing(runs["rnn"], chance) == "at chance" and all(
        standing(runs[cell], chance) == "solved" for cell in CELLS if cell != "rnn"
    )
    middles = {cell: median(run["steps"] for run in runs[cell]) for cell in CELLS}
    return (
        f"**To reproduce at T = {REPRODUCED_AT}**: a plain RNN at chance, LSTM and GRU under {SOLVED:g}. "
        f"{'It came out so' if came_out else 'It did not come out so'}: the error is "
        f"{_each({cell: _range(errors(runs[cell]), _error) for cell in CELLS})}, where always answering 1 has "
        f"{chance:.4f} on the same sequences. The LSTM took {middles['lstm']:,.0f} batches (median over the seeds), "
        f"the GRU {middles['gru']:,.0f}."
    )


def _gradient(results: Results) -> list[str]:
    length = _studied_length(results)
    about = f"""A network learns to remember by the gradient of the answer with respect to steps long before.
        Below is |d o_n / d x_k| on {results["budget"]["num_probed"]} held-out sequences of the adding problem at
        T = {length}, the mean over them and over the seeds, by distance n-k; from torch, by backpropagation in
        double precision."""
    rows = ["| cell | when | distance 0 | " + " | ".join(str(d) for d in _distances(length)) + " |"]
    rows.append("|---|---|---|" + "---|" * len(_distances(length)))
    for cell in CELLS:
        for when in ("before", "after"):
            curve = mean_gradient(runs_of(results, cell, length), when)
            values = " | ".join(f"{curve[distance]:.1e}" for distance in (0, *_distances(length)))
            rows.append(f"| {cell.upper()} | {when} training | {values} |")
    picture = "![Gradient by distance](pictures/memory-gradient.png)"
    return ["## The gradient by distance", "", wrapped(about), "", *rows, "", picture, ""]


def _distances(length: int) -> list[int]:
    return [length // 10, length // 4, length // 2, length - 1]


def _gradient_findings(results: Results) -> list[str]:
    length = _studied_length(results)
    kept: dict[str, dict[Cell, float]] = {}
    for when in ("before", "after"):
        curves = {cell: mean_gradient(runs_of(results, cell, length), when) for cell in CELLS}
        kept[when] = {cell: curve[-1] / curve[0] for cell, curve in curves.items()}
    before, after = (_each({cell: _ratio(one) for cell, one in kept[when].items()}) for when in kept)
    learned = {cell: kept["before"][cell] < 1e-3 and kept["after"][cell] > 0.1 for cell in CELLS}
    return [
        f"**The gradient at T = {length}**: {length - 1} steps back it is, as a multiple of that at the last step, "
        f"{before} before training, and {after} after it. {_what_was_learned(learned)}".strip()
    ]


def _what_was_learned(learned: Mapping[Cell, bool]) -> str:
    """Which cells have no memory before training and learn one."""
    able = [cell.upper() for cell in CELLS if learned[cell]]
    unable = [cell.upper() for cell in CELLS if not learned[cell]]
    if not able or not unable:
        return ""
    return f"No cell has this memory before training; {' and '.join(able)} learn it, {' and '.join(unable)} does not."


def _ratio(share: float) -> str:
    return f"{share:.0e}" if share < 0.01 else f"{share:.2f}"


def _influence(results: Results) -> list[str]:
    tasks = tasks_of(results)
    if not tasks:
        return []
    about = f"""The shipped files, asked in ONNX Runtime on their held-out sequences (longer ones by their last
        {LONGEST} steps, from the initial state). Step k is left out of the sequence, the shorter sequence is run
        whole, and the influence of step k is how far o_n moves: the Euclidean distance between the label
        probabilities with and without it. Its mean at each distance n-k is given as a share of the sum over all
        distances that at least {FEWEST} sequences have. *Span*: how many last steps hold 90 % of a sequence's
        influence, the mean over the sequences; beside it, what it would be if every step counted alike. The second
        curve, for models of features, is the norm of d o_n / d x_k in the same probabilities, features in units of
        their standard deviation, by central differences on the file. It shows a small change of a step, not its
        absence. The models of a task differ in more than their cell (units, and for `vowels-rnn` starting weights made
        to remember): [README.md](README.md) has each one's."""
    rows = [
        f"| model | sequences | mean length | last step | last {RECENT} steps | span | span if all alike |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results["influence"].items():
        share = shares(one["moved"], one["num_at"])
        rows.append(
            f"| `{name}` | {one['num_sequences']:,} | {one['mean_length']:.1f} | {100 * share[0]:.1f} % "
            f"| {100 * sum(share[:RECENT]):.1f} % | {one['span']:.1f} | {one['even_span']:.1f} |"
        )
    pictures = [f"![Influence by distance, {NAMED[task]}](pictures/memory-influence-{task}.png)\n" for task in tasks]
    return ["## Influence by distance on real data", "", wrapped(about), "", *rows, "", *pictures]


def _influence_findings(results: Results) -> list[str]:
    findings = []
    for task in tasks_of(results):
        found = influences(results, task)
        spans = {cell: f"{one['span']:.1f}" for cell, one in found.items()}
        halves = {cell: str(_half(one)) for cell, one in found.items()}
        ranked = sorted(found, key=lambda cell: float(found[cell]["span"]))
        first = found[ranked[0]]
        findings.append(
            f"**{NAMED[task]}**, {first['mean_length']:.1f} steps long on average: 90 % of the influence is in the "
            f"last {_each(spans)} steps; with the same influence of every step, in {first['even_span']:.1f}. "
            f"Half of it is in the last {_each(halves)}. {_ranking(found, ranked)}"
        )
    return findings


def _ranking(found: Mapping[Cell, Any], ranked: list[Cell]) -> str:
    """Which cell has the shortest memory, if the spans differ enough."""
    shortest, longest = found[ranked[0]], found[ranked[-1]]
    if longest["span"] - shortest["span"] < ALIKE * shortest["even_span"]:
        return "The three hardly differ."
    return (
        f"The {ranked[0].upper()} has the shortest memory by the first measure, the {ranked[-1].upper()} the longest."
    )


def _half(one: Mapping[str, Any]) -> int:
    """How many last distances hold half of the influence."""
    held = accumulate(shares(one["moved"], one["num_at"]))
    return next(i + 1 for i, share in enumerate(held) if share >= 0.5)


def _again(results: Results) -> str:
    trained = sum(run["processor_seconds"] for run in results["adding"].values()) / 60
    asked = sum(one["processor_seconds"] for one in results["influence"].values())
    time = f"""{len(results["adding"])} trainings took {trained:.0f} minutes of one core, the influence of
        {len(results["influence"])} models {asked:.0f} s ({results["machine"]}): processor time, on a machine that did
        other work too. A finished run is kept in `memory.json` and not done again. The second command does a small part
        in a minute, in `models/runs/memory`."""
    commands = ["    python -m models.memory", "    python -m models.memory --quick"]
    return "\n".join(["## Again", "", *commands, "", wrapped(time), ""])


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph broken anew into lines of 110 characters; all but the first are indented."""
    plain = " ".join(text.split())
    return textwrap.fill(plain, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _each(said: Mapping[Cell, str]) -> str:
    """A text for each cell: `1 (RNN), 2 (LSTM) and 3 (GRU)`."""
    *most, last = [f"{words} ({cell.upper()})" for cell, words in said.items()]
    return f"{', '.join(most)} and {last}" if most else last


def _error(value: float) -> str:
    return f"{value:.4f}" if value >= 0.01 else f"{value:.5f}"


def _range(values: list[Any], shown: Any) -> str:
    least, most = shown(min(values)), shown(max(values))
    return least if least == most else f"{least} to {most}"
