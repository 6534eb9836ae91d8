"""Train the generators of surnames, and write what was measured.

    python -m models.generation --cell gru --seed 0          a few minutes
    python -m models.generation --all                        all three cells, several seeds each

Each output scores the next character. A name begins with the token of its language. In a share of the training names
the start token stands there instead, so that the model can also be asked for any language (as in the training of
classifier-free guidance, J. Ho and T. Salimans, 2022).

The number of epochs is chosen on a part of the training names that is kept back. The model is then trained on all of
them for that number. Only the exported file reads the held-out names.
"""

import argparse
import copy
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm  # type: ignore[import-untyped]

from elman.exporter import export
from elman.exporter.verifying import open_session
from elman.repository.spec import DecoderSpec, GenerationSpec, ModelSpec
from models.cards import draw_losses
from models.examples import write_examples
from models.fitting import Curves, seed_everything, update
from models.measuring import answers
from models.recurrent import CELLS, Cell, Recurrent, Shape
from models.tasks import generator, names
from models.tasks.generator import END, START, UNKNOWN, Name, Names
from models.train import HERE, SHIPPED_SEED, publish

# -- config ------------------------------------------------------------------------------------------

SEEDS = (0, 1)
NUM_WRITTEN = 200
"""Names of each language that a trained model writes to be measured."""
MOST_CHARACTERS = 40
IGNORED = -100
"""The target of padding, which cross_entropy ignores."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one model."""

    hidden_size: int
    embedding_size: int = 24
    dropout: float = 0.2
    max_epochs: int = 24
    patience: int = 4
    batch_size: int = 128
    learning_rate: float = 8e-3
    """At the first epoch. It falls linearly to zero over `max_epochs`."""
    weight_decay: float = 1e-2
    average_decay: float = 0.99
    cell_state_weight: float = 0.0
    """Weight in the loss of the mean square of an LSTM's last c. A large c is less precise in float32."""
    any_share: float = 0.15
    """Share of the names whose language is replaced by the start token."""
    unknown_share: float = 0.01
    """Share of the characters that are replaced by the unknown one."""


# About as many weights each as a file of a quarter of a megabyte holds; the plain cell needs no more than 128.
RECIPES = {
    "names-rnn-generator": Recipe(hidden_size=128, learning_rate=4e-3),
    "names-lstm-generator": Recipe(hidden_size=88, weight_decay=5e-2, cell_state_weight=3e-3),
    "names-gru-generator": Recipe(hidden_size=104, weight_decay=5e-2),
}


# -- data --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (batch, time) int64
    targets: Tensor  # (batch, time) int64, IGNORED past the end


def collate(names: Names, chosen: Sequence[Name], languages: Sequence[str | None]) -> Batch:
    x = [names.encode(name.text, language) for name, language in zip(chosen, languages, strict=True)]
    targets = [names.targets(name.text) for name in chosen]
    return Batch(
        pad_sequence([torch.from_numpy(one) for one in x], batch_first=True),
        pad_sequence([torch.from_numpy(one) for one in targets], batch_first=True, padding_value=IGNORED),
    )


def shuffled(names: Names, chosen: Sequence[Name], recipe: Recipe, random: np.random.Generator) -> Iterator[Batch]:
    """One epoch in a new order, with some languages and some characters replaced as the recipe says."""
    order = random.permutation(len(chosen))
    for start in range(0, len(order), recipe.batch_size):
        picked = [chosen[i] for i in order[start : start + recipe.batch_size]]
        withheld = random.random(len(picked)) < recipe.any_share
        batch = collate(names, picked, [None if w else one.language for w, one in zip(withheld, picked, strict=True)])
        unread = torch.from_numpy(random.random(tuple(batch.x.shape)) < recipe.unknown_share)
        unread[:, 0] = False
        yield Batch(batch.x.masked_fill(unread, names.vocabulary.index(UNKNOWN)), batch.targets)


# -- loop --------------------------------------------------------------------------------------------


def build(names: Names, cell: Cell, recipe: Recipe) -> Recurrent:
    size = len(names.vocabulary)
    return Recurrent(
        Shape(
            cell=cell,
            num_outputs=size,
            vocabulary_size=size,
            embedding_size=recipe.embedding_size,
            hidden_size=recipe.hidden_size,
            dropout=recipe.dropout,
        )
    )


def batch_loss(model: Recurrent, batch: Batch, cell_state_weight: float = 0.0) -> Tensor:
    """Cross entropy of the next token, in nats, the mean over all characters and ends of the batch."""
    outputs, *state = model(batch.x)  # (batch, time, vocabulary)
    loss = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    return loss + cell_state_weight * state[-1].square().mean() if cell_state_weight else loss


@torch.no_grad()
def validate(model: Recurrent, names: Names, chosen: Sequence[Name]) -> float:
    model.eval()
    return batch_loss(model, collate(names, chosen, [one.language for one in chosen])).item()


def fit(
    names: Names,
    cell: Cell,
    recipe: Recipe,
    seed: int,
    train: Sequence[Name],
    num_epochs: int,
    validation: Sequence[Name] | None = None,
) -> tuple[Recurrent, Curves]:
    """Train for `num_epochs`; with validation names, stop once their loss has not improved for `patience` epochs."""
    random = seed_everything(seed)
    model = build(names, cell, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    averaged = copy.deepcopy(model)
    curves = Curves([], [], [])
    progress = tqdm(range(num_epochs), desc=f"generator {cell} seed {seed}", unit="epoch", leave=False)
    for epoch in progress:
        model.train()
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - epoch / recipe.max_epochs)
        losses = []
        for batch in shuffled(names, train, recipe, random):
            loss = batch_loss(model, batch, recipe.cell_state_weight)
            losses.append(update(model, averaged, optimizer, loss, recipe.average_decay))
        curves.train_loss.append(float(np.mean(losses)))
        if validation is None:
            continue
        curves.validation_loss.append(validate(averaged, names, validation))
        progress.set_postfix(loss=f"{losses[-1]:.3f}", validation=f"{curves.validation_loss[-1]:.3f}")
        if epoch + 1 - curves.best_epoch >= recipe.patience:
            break
    return averaged.eval(), curves


# -- checkpoint --------------------------------------------------------------------------------------


def export_generator(model: Recurrent, names: Names, path: Path) -> None:
    export(
        model,
        path,
        example=(torch.zeros(1, 8, dtype=torch.int64), *model.initial_state()),
        task="generation",
        vocabulary=names.vocabulary,
        unknown=UNKNOWN,
        spec=ModelSpec(
            decoder=DecoderSpec(kind="tokens", scores="logits"),
            generation=GenerationSpec(start=START, end=END, conditions=names.conditions),
        ),
    )


@dataclass
class Writer:
    """An exported generator and the states of a batch of names."""

    session: InferenceSession
    state: dict[str, NDArray[np.float32]]

    def read(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of the next token after each of (batch, time) tokens: (batch, time, vocabulary)."""
        data, *states = self.session.get_inputs()
        output, *after = self.session.run(None, {**self.state, data.name: tokens})
        self.state = {one.name: new for one, new in zip(states, after, strict=True)}
        return np.asarray(output)


def open_writer(path: Path, batch: int) -> Writer:
    session = open_session(str(path))
    _, *states = session.get_inputs()
    return Writer(session, {one.name: np.zeros((one.shape[0], batch, one.shape[2]), np.float32) for one in states})


def log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def bits_per_character(path: Path, names: Names, chosen: Sequence[Name], conditioned: bool = True) -> float:
    """The mean of -log2 p over every character and end of the names, given the characters before it."""
    batch = collate(names, chosen, [one.language if conditioned else None for one in chosen])
    targets = batch.targets.numpy()  # (batch, time)
    scores = log_softmax(open_writer(path, len(chosen)).read(batch.x.numpy()))  # (batch, time, vocabulary)
    inside = targets != IGNORED
    picked = np.take_along_axis(scores, np.where(inside, targets, 0)[:, :, None], axis=2)[:, :, 0]  # (batch, time)
    return float(-picked[inside].mean() / np.log(2))


def write(path: Path, names: Names, language: str | None, count: int, random: np.random.Generator) -> list[str]:
    """Names drawn from the exported model at temperature 1, each up to its end."""
    end = names.vocabulary.index(END)
    writer = open_writer(path, count)
    tokens = np.repeat(names.encode("", language)[None], count, axis=0)  # (batch, 1)
    written = []
    for _ in range(MOST_CHARACTERS):
        chances = np.exp(log_softmax(writer.read(tokens)[:, -1]))  # (batch, vocabulary)
        above = np.cumsum(chances, axis=1) > random.random((count, 1))
        tokens = above.argmax(axis=1)[:, None]  # (batch, 1)
        written.append(tokens)
        if (np.concatenate(written, axis=1) == end).any(axis=1).all():
            break
    return [names.spell(one) for one in np.concatenate(written, axis=1)]


# -- results -----------------------------------------------------------------------------------------


def measure(path: Path, corpus: Names) -> dict[str, Any]:
    """Bits a character on the held-out names, and the shares of written names that are new or of the right language."""
    random = np.random.default_rng(0)
    written = [Name(text, one) for one in corpus.conditions for text in write(path, corpus, one, NUM_WRITTEN, random)]
    learned = {name.text.casefold() for name in corpus.train}
    held_out = {name.text.casefold() for name in corpus.test}
    new = [name for name in written if name.text.casefold() not in learned]
    return {
        "bits_per_character": bits_per_character(path, corpus, corpus.test),
        "bits_per_character_any_language": bits_per_character(path, corpus, corpus.test, conditioned=False),
        "num_written": len(written),
        "new_share": len(new) / len(written),
        "held_out_share": sum(name.text.casefold() in held_out for name in written) / len(written),
        "language_share": language_share(written),
        "new_language_share": language_share(new),
    }


def language_share(written: Sequence[Name]) -> float:
    """The share of the names that the classifier names-gru assigns to the language that was asked for."""
    task = names.load()
    readable = [one for one in written if one.text]
    sequences = tuple(names.encode(one.text, task.vocabulary or ()) for one in readable)
    labels = np.array([task.labels.index(one.language) for one in readable])
    found = answers(HERE / "store" / "names-gru" / "1" / "model.onnx", type(task.test)(sequences, labels))
    return float((found == labels).sum() / len(written))


def train(name: str, seed: int, other_seeds: tuple[int, ...] = (), home: Path = HERE) -> dict[str, Any]:
    """Train, export, measure and draw one generator, and return what its card says."""
    corpus, cell, recipe = generator.load(), cell_of(name), RECIPES[name]
    started = time.process_time()
    kept_back = [corpus.train[i] for i in corpus.validation]
    rest = [corpus.train[i] for i in np.setdiff1d(np.arange(len(corpus.train)), corpus.validation)]
    _, curves = fit(corpus, cell, recipe, SHIPPED_SEED, rest, recipe.max_epochs, kept_back)
    model, _ = fit(corpus, cell, recipe, seed, corpus.train, curves.best_epoch)
    seconds = time.process_time() - started  # Processor time, which other work does not change much.
    path = home / "store" / name / "1" / "model.onnx"
    export_generator(model, corpus, path)
    write_examples(path, examples(corpus))
    measured = measure(path, corpus)
    by_seed = {str(seed): measured["bits_per_character"]}
    by_seed |= {str(one): measure_seed(corpus, cell, recipe, one, curves.best_epoch) for one in other_seeds}
    draw_losses(
        home / "pictures" / f"{name}.png",
        name,
        {"training (any language at times)": curves.train_loss, "validation": curves.validation_loss},
        curves.best_epoch,
        "nats a character",
    )
    return {
        "about": "Writes surnames, letter by letter, of the language that is asked for, or of any.",
        "network": (
            f"{cell.upper()}, forward, 1 layer of {recipe.hidden_size}, embedding of {recipe.embedding_size}, "
            f"initial state zeros, scores of the next of {len(corpus.vocabulary)} tokens at every step"
        ),
        "data": corpus.data,
        "licence": corpus.licence,
        "split": corpus.split,
        "num_train": len(corpus.train),
        "num_validation": len(kept_back),
        "num_test": len(corpus.test),
        "seed": seed,
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "command": f"python -m models.generation --cell {cell} --seed {seed}",
        "measured": {**measured, "bits_per_character_by_seed": by_seed},
        "loop": {
            **words(measured, list(by_seed.values()), len(corpus.test)),
            "chosen": (
                f"chosen on {len(kept_back)} names kept back from the training data, then all {len(corpus.train)}"
            ),
            "pictures": {"Loss by epoch": f"{name}.png"},
            "table": table(path, corpus),
        },
        "num_epochs": curves.best_epoch,
        "training_seconds": seconds,
        "size": path.stat().st_size,
    }


def measure_seed(corpus: Names, cell: Cell, recipe: Recipe, seed: int, num_epochs: int) -> float:
    """Bits a character on the held-out names of one more seed, from an exported file of its own."""
    model, _ = fit(corpus, cell, recipe, seed, corpus.train, num_epochs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_generator(model, corpus, path)
        return bits_per_character(path, corpus, corpus.test)


def bits_in_words(bits: float) -> str:
    return f"{bits:.3f} bits a character"


def words(measured: dict[str, Any], by_seed: list[float], num_test: int) -> dict[str, Any]:
    """The measures in the words of the card."""
    bits = measured["bits_per_character"]
    spread = f"{np.mean(by_seed):.3f} ({min(by_seed):.3f} to {max(by_seed):.3f}), {len(by_seed)} seeds"
    written = measured["num_written"]
    return {
        "shipped": bits_in_words(bits),
        "over_seeds": spread,
        "lines": {
            f"Bits a character on the {num_test} names held out, each end counted as one": (
                f"**{bits:.3f}** given the language, {measured['bits_per_character_any_language']:.3f} without it. "
                f"Over seeds, given the language: {spread}"
            ),
            f"Of {written} names written at temperature 1, {NUM_WRITTEN} of each language": (
                f"{100 * measured['new_share']:.1f} % are not in the training data, whatever the case; "
                f"{100 * measured['held_out_share']:.1f} % are among those held out"
            ),
            "Language": (
                f"`names-gru` assigns the language that was asked for to {100 * measured['language_share']:.1f} % of "
                f"them, and to {100 * measured['new_language_share']:.1f} % of the new ones; a random language "
                f"would be right in {100 / len(names.SOURCES):.1f} %. Its own accuracy is on its card"
            ),
        },
    }


def table(path: Path, corpus: Names) -> list[str]:
    """The first names of each language that the file writes with seed 1, none left out."""
    random = np.random.default_rng(1)
    rows = [f"| {one} | {', '.join(write(path, corpus, one, 6, random))} |" for one in corpus.conditions]
    return ["", "| asked for | written, not picked |", "|---|---|", *rows]


def examples(corpus: Names) -> list[dict[str, Any]]:
    """The first half of a held-out name of each language, to be continued."""
    random = np.random.default_rng(0)
    chosen = []
    for language in corpus.conditions:
        own = [name.text for name in corpus.test if name.language == language and len(name.text) >= 6]
        text = own[int(random.integers(len(own)))]
        start = text[: len(text) // 2]
        chosen.append({"title": f"{language}: {start}…", "sequence": start, "expected": text, "condition": language})
    return chosen


def cell_of(name: str) -> Cell:
    return next(cell for cell in CELLS if cell in name.split("-"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.generation", description="Train the generators.")
    parser.add_argument("--cell", choices=list(CELLS))
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED)
    parser.add_argument("--all", action="store_true", help="every cell, or that one, with several seeds")
    given = parser.parse_args(arguments)
    if not given.all and given.cell is None:
        parser.error("name a cell, or say --all")
    for name in RECIPES if given.cell is None else [f"names-{given.cell}-generator"]:
        seeds = SEEDS if given.all else (given.seed,)
        result = train(name, seeds[0], seeds[1:])
        publish({name: result})
        print(f"{name}: {result['loop']['shipped']} on held-out names, {result['training_seconds']:.0f} s")


if __name__ == "__main__":
    main()
