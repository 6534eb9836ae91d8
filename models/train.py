"""Train the shipped models, and write what was measured.

    python -m models.train vowels --cell gru --seed 0                     under a minute
    python -m models.train vowels --cell lstm --bidirectional --seed 0
    python -m models.train names --cell gru --seed 0                      a few minutes
    python -m models.train --all                                          all of them, several seeds each
    python -m models.train --examples                                     only the examples.json of every model

Nothing is chosen by the held-out data: only the exported file reads it, in ONNX Runtime. The number of epochs is
chosen on a part of the training data that is kept back, or by cross-validation over all of it, as the recipe says.
The model is then trained on all of it for that number of epochs. The shipped model is always the one with
SHIPPED_SEED.
"""

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.cards import draw_confusion, draw_curves, read_results, write_cards, write_results
from models.examples import held_out, write_examples
from models.fitting import Curves, fit
from models.measuring import Measured, accuracy_of, export_model, measure
from models.recurrent import CELLS, Cell, Recurrent
from models.tasks import Recipe, Task, names, vowels, watch

# -- config ------------------------------------------------------------------------------------------

HERE = Path(__file__).parent
TASKS = {"vowels": vowels.load, "names": names.load, "watch": watch.load}
SEEDS = {"vowels": (0, 1, 2, 3, 4), "names": (0, 1, 2), "watch": (0, 1, 2)}
EXAMPLE_STEPS = 125  # Of a longer sequence, an example is the beginning.
SHIPPED_SEED = 0  # For every model, whichever seed measures best.

# The accuracy that the shipped file of each vowels model must exceed, rounded to a tenth of a percent.
TARGETS = {"vowels-rnn": 0.978, "vowels-lstm": 0.978, "vowels-gru": 0.978, "vowels-lstm-bidirectional": 0.984}

# For the watch models: what a quickly trained network of 64 units reached on people that it had not seen.
TAGGING_TARGETS = {"step_accuracy": 0.84, "accuracy": 0.88}

VOWELS = Recipe(
    shape={"hidden_size": 96, "dropout": 0.2},
    max_epochs=120,
    patience=40,
    batch_size=30,
    mixup=1.0,
)
NAMES = Recipe(
    shape={"hidden_size": 128, "embedding_size": 32, "dropout": 0.2},
    max_epochs=25,
    patience=4,
    batch_size=128,
    learning_rate=5e-3,
    last_step_weight=0.7,
    average_decay=0.99,
)
# Chosen by leaving out one person of the training data at a time, with the LSTM, which trains fastest. The lengths and
# rotations of the training pieces were chosen with a GRU of one layer.
WATCH = Recipe(
    shape={"hidden_size": 64, "num_layers": 2, "dropout": 0.2},
    num_epochs=150,
    folds="leave-one-person-out",
    batch_size=16,
    learning_rate=5e-3,
    last_step_weight=0.1,
    average_decay=0.99,
)
RECIPES = {
    # A plain network learns to remember only if its starting weights remember. Everything here was chosen by fivefold
    # cross-validation over the training data.
    "vowels-rnn": replace(
        VOWELS,
        shape={"hidden_size": 128, "dropout": 0.2},
        memory=1.0,
        learning_rate=2e-3,
        last_step_weight=0.8,
        num_epochs=120,
        mixup=0.4,
        average_decay=0.99,
    ),
    "vowels-lstm": VOWELS,
    "vowels-gru": VOWELS,
    # At the last step, a backward layer has read one step only. A second layer has the whole sequence.
    "vowels-lstm-bidirectional": replace(
        VOWELS, shape={**VOWELS.shape, "hidden_size": 48, "bidirectional": True, "num_layers": 2}
    ),
    "names-rnn": NAMES,
    "names-lstm": NAMES,
    "names-gru": NAMES,
    # Two layers of plain cells were compared with nothing. One layer of 96 or 64 was worse than the gated cells.
    "watch-rnn": replace(WATCH, memory=0.9, learning_rate=1e-3, folds=f"the LSTM's {WATCH.folds}"),
    "watch-lstm": WATCH,
    "watch-gru": replace(WATCH, folds=f"the LSTM's {WATCH.folds}"),
}


# -- results -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The number of epochs, chosen on the validation part of the training data."""

    num_epochs: int
    curves: Curves


def choose_epochs(task: Task, cell: Cell, recipe: Recipe) -> Choice:
    """The number of epochs with the least loss on the part kept back, or the one that the recipe fixes."""
    if recipe.num_epochs is not None:
        recipe = replace(recipe, max_epochs=recipe.num_epochs, patience=recipe.num_epochs)
    kept_back = task.train.take(task.validation)
    rest = task.train.take(np.setdiff1d(np.arange(len(task.train)), task.validation))
    _, curves = fit(task, cell, recipe, SHIPPED_SEED, rest, recipe.max_epochs, kept_back)
    return Choice(recipe.num_epochs or curves.best_epoch, curves)


def train(
    name: str, seed: int, other_seeds: tuple[int, ...] = (), home: Path = HERE, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Train, export, measure and draw one model, and return what its card says.

    Args:
        name: one of RECIPES.
        other_seeds: are trained and measured too, but not kept.
        home: the folder of `store` and `pictures`.
        recipe: to use in place of the model's own.
    """
    task, cell, recipe = TASKS[name.split("-")[0]](), cell_of(name), recipe or RECIPES[name]
    started = time.perf_counter()
    choice = choose_epochs(task, cell, recipe)
    model, _ = fit(task, cell, recipe, seed, task.train, choice.num_epochs)
    seconds = time.perf_counter() - started
    path = home / "store" / name / "1" / "model.onnx"
    export_model(model, task, path)
    write_examples(path, held_out(task, EXAMPLE_STEPS))
    measured = {str(seed): measure(path, task)}
    measured |= {str(other): measure_seed(task, cell, recipe, other, choice.num_epochs) for other in other_seeds}
    shipped, tagging = measured[str(seed)], task.kind == "tagging"
    confusion = shipped.confusion
    shown = shipped.steps if tagging else confusion
    by_label = shown.diagonal() / shown.sum(axis=1)  # (labels,)
    draw(home / "pictures", name, choice, shown, task)
    return {
        **card_of(task, model, name, seed),
        **({"target": TARGETS[name]} if name in TARGETS else {}),
        "accuracy": accuracy_of(confusion),
        "num_errors": int(confusion.sum() - np.trace(confusion)),
        "accuracy_by_seed": {one: found.accuracy for one, found in measured.items()},
        "accuracy_by_label": dict(zip(task.labels, by_label.tolist(), strict=True)),
        **(tagging_results(measured, task) if tagging else {}),
        "confusion_picture": shows_confusion(task),
        "num_epochs": choice.num_epochs,
        **({"cross_validated": recipe.folds} if recipe.num_epochs is not None else {}),
        "training_seconds": seconds,
        "size": path.stat().st_size,
    }


def tagging_results(measured: dict[str, Measured], task: Task) -> dict[str, Any]:
    """The accuracies of every seed, over all steps and over sequences."""
    return {
        "targets": TAGGING_TARGETS,
        "num_steps": sum(len(one) for one in task.test.sequences),
        "step_accuracy_by_seed": {seed: found.step_accuracy for seed, found in measured.items()},
        "majority_accuracy_by_seed": {seed: found.majority_accuracy for seed, found in measured.items()},
    }


def measure_seed(task: Task, cell: Cell, recipe: Recipe, seed: int, num_epochs: int) -> Measured:
    """The measures of one more seed on the held-out data, from an exported file of its own."""
    model, _ = fit(task, cell, recipe, seed, task.train, num_epochs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_model(model, task, path)
        return measure(path, task)


def shows_confusion(task: Task) -> bool:
    return task.vocabulary is not None or task.kind == "tagging"


def draw(folder: Path, name: str, choice: Choice, confusion: NDArray[np.int64], task: Task) -> None:
    curves = choice.curves
    validated = "every step" if task.kind == "tagging" else "last step"
    picture = folder / f"{name}.png"
    draw_curves(picture, name, curves.train_loss, curves.validation_loss, choice.num_epochs, validated)
    if shows_confusion(task):
        draw_confusion(folder / f"{name}-confusion.png", name, confusion, task.labels)


def card_of(task: Task, model: Recurrent, name: str, seed: int) -> dict[str, Any]:
    """The part of the card that is not measured."""
    shape = model.shape
    direction = "bidirectional" if shape.bidirectional else "forward"
    activation = " of rectified units" if shape.nonlinearity == "relu" else ""
    layers = "1 layer" if shape.num_layers == 1 else f"{shape.num_layers} layers"
    arguments = f"{task.name} --cell {shape.cell}" + (" --bidirectional" if shape.bidirectional else "")
    return {
        "about": task.about,
        "network": (
            f"{shape.cell.upper()}{activation}, {direction}, {layers} of {shape.hidden_size}, initial state "
            f"{shape.initial_state}, decoder at every step"
        ),
        "data": task.data,
        "licence": task.licence,
        "split": task.split,
        "num_train": len(task.train),
        "num_validation": len(task.validation),
        "num_test": len(task.test),
        "seed": seed,
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "command": f"python -m models.train {arguments} --seed {seed}",
    }


def cell_of(name: str) -> Cell:
    return next(cell for cell in CELLS if cell in name.split("-"))


def publish(results: dict[str, Any]) -> None:
    """Add the new results to those of the other models, and write all cards again."""
    known = read_results(HERE / "results.json") | results
    others = [name for name in known if name not in RECIPES]
    ordered = {name: known[name] for name in (*RECIPES, *others) if name in known}
    write_results(HERE / "results.json", ordered)
    write_cards(HERE / "README.md", ordered)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.train", description="Train the shipped models.")
    parser.add_argument("task", nargs="?", choices=list(TASKS), help="the data set")
    parser.add_argument("--cell", choices=list(CELLS), default="gru")
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED)
    parser.add_argument("--all", action="store_true", help="every model, several seeds each")
    parser.add_argument("--examples", action="store_true", help="only write the examples of every model again")
    given = parser.parse_args(arguments)
    if given.examples:
        for one in RECIPES:
            write_examples(
                HERE / "store" / one / "1" / "model.onnx", held_out(TASKS[one.split("-")[0]](), EXAMPLE_STEPS)
            )
        return
    if given.all == (given.task is not None):
        parser.error("name a task, or say --all")
    name = f"{given.task}-{given.cell}" + ("-bidirectional" if given.bidirectional else "")
    if not given.all and name not in RECIPES:
        parser.error(f"there is no recipe for {name}; there are {', '.join(RECIPES)}")
    for one in RECIPES if given.all else [name]:
        seeds = SEEDS[one.split("-")[0]] if given.all else (given.seed,)
        result = train(one, seeds[0], seeds[1:])
        publish({one: result})
        print(f"{one}: {100 * result['accuracy']:.2f} % on held-out data, {result['training_seconds']:.0f} s")


if __name__ == "__main__":
    main()
