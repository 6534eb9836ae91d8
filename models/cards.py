"""Pictures and cards of the shipped models, made from their results alone."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTRODUCTION = """# The shipped models

Each folder of `store/` is a model that `elman serve` takes as it is. This page is written by
`python -m models.train` from `results.json`; every number in it was measured by a run of that command:
accuracies with ONNX Runtime on the exported file, times on a machine that did other work too.

Accuracy is that of the answer at the last step, o_n, on sequences held out from training. Hyperparameters were
compared by cross-validation on the training data. Every shipped model has seed 0. This rule was fixed before any
model was measured, and kept also where another seed measured better.

The held-out data was not wholly unseen. Where an earlier recipe had been measured on it, its accuracy was known when
the next recipe was chosen.

| model | recipes measured on the held-out data before the shipped one |
|---|---|
{history}

In 8 bits is what the shipped file measures when its recurrent layers are rounded as by
`elman.export(..., quantise=True)`: `python -m models.eight_bits` measures that on the same held-out data. The files of
`store/` are float32. [8-bit weights](int8.md) has what they gain in speed.

| model | accuracy shipped | in 8 bits | over seeds: mean (least to most) | parameters | file | in 8 bits |
|---|---|---|---|---|---|---|
"""

LOOPS = """
Generators and forecasters are fed their own output. They were trained by `python -m models.generation` and
`python -m models.forecasting`. Their hyperparameters and epochs were chosen on a part of the training data that was
kept back, and their seed is 0 by the same rule. Times are processor time on one core.

| model | held out, shipped | in 8 bits | over seeds: mean (least to most) | parameters | file | in 8 bits |
|---|---|---|---|---|---|---|
"""


NUM_COLOURS = 48
"""In a picture."""

HISTORY = {
    "vowels-rnn": "3: tanh, 96.22 %; rectified units starting from the identity, 97.57 %; the same, 80 epochs at "
    "most, 97.30 %. The last was shipped until its state was found to grow without bound, to 3e34 after 5,000 "
    "steps. The tanh recipe shipped now was chosen without the held-out data, and measured on it once, with 5 seeds; "
    "their mean is below the 98.00 % of the rectified units",
    "vowels-lstm": "none on record",
    "vowels-gru": "1",
    "vowels-lstm-bidirectional": "none on record",
    "names-rnn": "1",
    "names-lstm": "1",
    "names-gru": "1",
    "watch-rnn": "none",
    "watch-lstm": "none",
    "watch-gru": "1: one layer of 64, learning rate 3e-3, 110 epochs: 88.10 % (to 97.62 % over three seeds), and of "
    "steps 81.05 % (to 85.53 %). The next was chosen by leaving people of the training data out, with the LSTM",
}


def draw_curves(
    path: Path,
    title: str,
    train_loss: list[float],
    validation_loss: list[float],
    best_epoch: int,
    validated: str = "last step",
) -> None:
    """The losses by epoch, with the chosen number of epochs, as a small PNG."""
    figure, axes = _figure(4.8, 3.0)
    axes.plot(range(1, len(train_loss) + 1), train_loss, label="training (smoothed, augmented)")
    axes.plot(range(1, len(validation_loss) + 1), validation_loss, label=f"validation ({validated})")
    axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle="--", label=f"kept: {best_epoch} epochs")
    axes.set(title=title, xlabel="epoch", ylabel="cross entropy")
    axes.legend(fontsize=7)
    _save(figure, path)


def draw_losses(path: Path, title: str, losses: Mapping[str, list[float]], best_epoch: int, unit: str) -> None:
    """Losses by epoch, each under its name, with the chosen number of epochs, as a small PNG."""
    figure, axes = _figure(4.8, 3.0)
    for name, values in losses.items():
        axes.plot(range(1, len(values) + 1), values, label=name)
    axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle="--", label=f"kept: {best_epoch} epochs")
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.legend(fontsize=7)
    _save(figure, path)


def draw_paths(
    path: Path,
    title: str,
    unit: str,
    past: NDArray[Any],
    truth: NDArray[Any],
    point: NDArray[Any],
    middle: tuple[NDArray[Any], NDArray[Any]],
) -> None:
    """The series before and after, the forecast, and its 80 % intervals, as a small PNG."""
    figure, axes = _figure(4.8, 3.0)
    after = np.arange(len(truth))
    axes.plot(np.arange(-len(past), len(truth)), np.concatenate([past, truth]), color="black", linewidth=0.9)
    axes.fill_between(after, *middle, alpha=0.25, label="80 % intervals")
    axes.plot(after, point, label="forecast, fed back")
    axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.set(title=title, xlabel="steps", ylabel=unit)
    axes.legend(fontsize=7)
    _save(figure, path)


def draw_confusion(path: Path, title: str, confusion: NDArray[np.int64], labels: tuple[str, ...]) -> None:
    """How often each label (row) was answered with each label (column), as a share of the row."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)  # (labels, labels)
    figure, axes = _figure(5.2, 4.8)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.03):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set(xlabel="answered", ylabel="is")
    axes.set_title(f"{title}, % of row", fontsize=9)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Imported here because it takes a second, and only training draws.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    """Save as a PNG of NUM_COLOURS colours, which is enough for line drawings."""
    from matplotlib import pyplot
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80, format="png")
    pyplot.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(NUM_COLOURS).save(path, format="PNG", optimize=True)


def write_cards(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the page of all models from their results."""
    answering = {name: result for name, result in results.items() if "loop" not in result}
    looping = {name: result for name, result in results.items() if "loop" in result}
    rows = "".join(_row(name, result) for name, result in answering.items())
    loops = LOOPS + "".join(_loop_row(name, result) for name, result in looping.items()) if looping else ""
    cards = "\n".join((_loop_card if "loop" in result else _card)(name, result) for name, result in results.items())
    history = "\n".join(f"| `{name}` | {HISTORY[name]} |" for name in answering)
    path.write_text(f"{INTRODUCTION.format(history=history)}{rows}{loops}\n{cards}", "utf-8")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _spread(accuracies: list[float]) -> str:
    mean, least, most = np.mean(accuracies), min(accuracies), max(accuracies)
    return f"{_percent(float(mean))} ({_percent(least)} to {_percent(most)}), {len(accuracies)} seeds"


def _row(name: str, result: Mapping[str, Any]) -> str:
    rounded = result.get("eight_bits")
    return _cells(
        name,
        _percent(result["accuracy"]),
        _percent(rounded["accuracy"]) if rounded else "",
        _spread(list(result["accuracy_by_seed"].values())),
        result,
    )


def _cells(name: str, shipped: str, rounded: str, over_seeds: str, result: Mapping[str, Any]) -> str:
    sizes = [one and f"{one['size'] / 1024:.0f} KiB" for one in (result, result.get("eight_bits"))]
    parameters = f"{result['num_parameters']:,}"
    cells = [f"[`{name}`](#{name})", shipped, rounded, over_seeds, parameters, *(one or "" for one in sizes)]
    return f"| {' | '.join(cells)} |\n"


def _card(name: str, result: Mapping[str, Any]) -> str:
    chosen = f"chosen on {result['num_validation']} sequences kept back from the training data"
    if result.get("cross_validated"):
        chosen = f"chosen by {result['cross_validated']} cross-validation over the training data"
    lines = [
        f"## {name}",
        "",
        result["about"],
        "",
        f"- **Network**: {result['network']}.",
        f"- **Data**: {result['data']}.",
        f"- **Licence**: {result['licence']}.",
        f"- **Split**: {result['split']}.",
        *(_tagging_lines if "step_accuracy_by_seed" in result else _accuracy_lines)(name, result),
        f"- **Training**: {result['num_epochs']} epochs, {chosen}, then all {result['num_train']}; "
        f"{result['training_seconds']:.0f} s in all on one core ({result['machine']}).",
        f"- **File**: {result['num_parameters']:,} parameters, {result['size']:,} bytes.",
        f"- **Again**: `{result['command']}`",
        "",
        f"![Loss by epoch](pictures/{name}.png)",
    ]
    if result.get("confusion_picture"):
        lines += [f"![Confusion](pictures/{name}-confusion.png)", "", *_by_label(result["accuracy_by_label"])]
    return "\n".join([*lines, ""])


def _accuracy_lines(name: str, result: Mapping[str, Any]) -> list[str]:
    return [
        f"- **Accuracy** on the {result['num_test']} held out, by the file in `store/{name}` (seed "
        f"{result['seed']}): **{_percent(result['accuracy'])}**, {result['num_errors']} wrong. Over seeds: "
        f"{_spread(list(result['accuracy_by_seed'].values()))}. The seed was fixed before any was measured.",
        *([_target(result)] if "target" in result else []),
    ]


TAGGED = {
    "step_accuracy": "steps right, of all steps from the first",
    "accuracy": "sequences right by the label of their last step",
    "majority_accuracy": "sequences right by the label that most of their steps were answered with",
}
"""The measures of a model that answers every step, and their meanings."""


TRIED = {
    "watch-rnn": "the targets of steps and of last steps are not beaten, nor by the mean over seeds. Recurrent weights "
    "that start at 0.9 times the identity, with a learning rate of 1e-3, are all that was tried",
    "watch-lstm": "the target of steps is not beaten by this file, and is by the mean over seeds. The seed is not "
    "chosen by what it measures, and no other recipe was tried after that was known",
}
"""What was done about a target that is not beaten."""


def _tagging_lines(name: str, result: Mapping[str, Any]) -> list[str]:
    """Accuracies of a model that answers every step, with their targets."""
    targets = result["targets"]
    return [
        f"- **Accuracy** on the {result['num_test']} sequences ({result['num_steps']:,} steps) held out, by the file "
        f"in `store/{name}` (seed {result['seed']}, fixed before any was measured):",
        *(
            f"    - {meaning}: **{_percent(result[f'{measure}_by_seed'][str(result['seed'])])}**"
            f"{f' (to beat: {100 * targets[measure]:.0f} %)' if measure in targets else ''}; over seeds "
            f"{_spread(list(result[f'{measure}_by_seed'].values()))}"
            for measure, meaning in TAGGED.items()
        ),
        *([f"- **To beat**: {TRIED[name]}."] if name in TRIED else []),
        *(_across_lines(result["across"]) if "across" in result else []),
    ]


def _across_lines(across: Mapping[str, Any]) -> list[str]:
    """The measures of each person when the recipe is trained on all others; see `models.across`."""
    people = across["people"]
    return [
        f"- **Each of the {len(people)} people left out in turn**, the same recipe trained on the other "
        f"{len(people) - 1}; mean over the people, over seeds (`{across['command']}`):",
        *(f"    - {meaning}: {_spread(across[f'{measure}_by_seed'])}" for measure, meaning in TAGGED.items()),
        "    - steps right, person by person, mean over seeds: "
        + ", ".join(f"{person}: {100 * share:.0f} %" for person, share in people.items()),
    ]


def _loop_row(name: str, result: Mapping[str, Any]) -> str:
    rounded = result.get("eight_bits", {}).get("shipped", "")
    return _cells(name, result["loop"]["shipped"], rounded, result["loop"]["over_seeds"], result)


def _loop_card(name: str, result: Mapping[str, Any]) -> str:
    """The card of a model that is fed its own output. Its measures are lines of text already."""
    lines = [
        f"## {name}",
        "",
        result["about"],
        "",
        f"- **Network**: {result['network']}.",
        f"- **Data**: {result['data']}.",
        f"- **Licence**: {result['licence']}.",
        f"- **Split**: {result['split']}.",
        *(f"- **{title}**: {text}." for title, text in result["loop"]["lines"].items()),
        f"- **Training**: {result['num_epochs']} epochs, {result['loop']['chosen']}; "
        f"{result['training_seconds']:.0f} s in all on one core ({result['machine']}).",
        f"- **File**: {result['num_parameters']:,} parameters, {result['size']:,} bytes.",
        f"- **Again**: `{result['command']}`",
        "",
        *(f"![{title}](pictures/{file})" for title, file in result["loop"]["pictures"].items()),
    ]
    return "\n".join([*lines, *result["loop"].get("table", ()), ""])


def _target(result: Mapping[str, Any]) -> str:
    """What the shipped file, and no average, makes of its target."""
    return f"- **Target** for that file: more than {100 * result['target']:.1f} %: {verdict(result)}."


def verdict(result: Mapping[str, Any]) -> str:
    """Targets are given to a tenth of a percent, and are beaten where the accuracy so rounded is greater."""
    found, wanted = (round(1000 * result[key]) for key in ("accuracy", "target"))
    if found == wanted:
        return "equalled to the tenth of a percent that it is given to, not beaten"
    return "beaten" if found > wanted else "not beaten"


def _by_label(accuracy: Mapping[str, float]) -> list[str]:
    rows = [f"| {label} | {_percent(share)} |" for label, share in accuracy.items()]
    return ["| label | accuracy |", "|---|---|", *rows]


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write_results(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
