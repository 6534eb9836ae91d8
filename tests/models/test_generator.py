"""The generators write surnames, as well as their cards say."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from elman.repository.spec import METADATA_KEY, parse_spec
from models.cards import read_results
from models.generation import (
    HERE,
    RECIPES,
    bits_per_character,
    collate,
    fit,
    measure,
    shuffled,
    write,
)
from models.tasks import generator, names
from models.tasks.generator import END, START, UNKNOWN, Names

pytestmark = pytest.mark.torch

RESULTS = read_results(HERE / "results.json")


@pytest.fixture(scope="module")
def corpus() -> Names:
    return generator.load()


def model_file(name: str) -> Path:
    return HERE / "store" / name / "1" / "model.onnx"


def test_the_split_is_that_of_the_classifiers(corpus: Names) -> None:
    task = names.load()
    assert (len(corpus.train), len(corpus.test)) == (len(task.train), len(task.test)) == (7627, 1906)
    learned, held_out = ({one.text.casefold() for one in part} for part in (corpus.train, corpus.test))
    assert not learned & held_out


def test_every_language_has_a_token_of_its_own(corpus: Names) -> None:
    assert len(set(corpus.vocabulary)) == len(corpus.vocabulary)
    assert corpus.conditions["Swedish"] == "<Swedish>"
    assert {UNKNOWN, START, END, *corpus.conditions.values()} <= set(corpus.vocabulary)
    assert all(len(token) == 1 for token in corpus.vocabulary[3 + len(corpus.conditions) :])


def test_what_is_read_and_what_is_to_be_written_are_a_step_apart(corpus: Names) -> None:
    read, written = corpus.encode("Aho", "Finnish"), corpus.targets("Aho")
    assert [corpus.vocabulary[token] for token in read] == ["<Finnish>", "A", "h", "o"]
    assert [corpus.vocabulary[token] for token in written] == ["A", "h", "o", END]
    assert corpus.spell(written) == "Aho"
    assert corpus.vocabulary[corpus.encode("Aho", None)[0]] == START
    assert corpus.vocabulary[corpus.encode("漢", None)[1]] == UNKNOWN


def test_training_withholds_the_language_at_times(corpus: Names) -> None:
    recipe = RECIPES["names-gru-generator"]
    firsts = np.concatenate([
        batch.x[:, 0].numpy() for batch in shuffled(corpus, corpus.train, recipe, np.random.default_rng(0))
    ])  # fmt: skip
    share = float((firsts == corpus.vocabulary.index(START)).mean())
    assert share == pytest.approx(recipe.any_share, abs=0.02)


def test_padding_is_no_target(corpus: Names) -> None:
    batch = collate(corpus, corpus.train[:20], [None] * 20)
    lengths = [len(one.text) + 1 for one in corpus.train[:20]]
    assert (batch.targets >= 0).sum(dim=1).tolist() == lengths


def test_a_seed_repeats_its_training_to_the_bit(corpus: Names) -> None:
    recipe = RECIPES["names-gru-generator"]
    first, again = (fit(corpus, "gru", recipe, 1, corpus.train[:200], 1)[0] for _ in range(2))
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_generator_is_as_good_as_its_results_say(corpus: Names, name: str) -> None:
    measured = RESULTS[name]["measured"]
    assert bits_per_character(model_file(name), corpus, corpus.test) == pytest.approx(
        measured["bits_per_character"], abs=1e-4
    )
    # One bit a character is saved by far over a guess by how often each character comes.
    assert measured["bits_per_character"] < measured["bits_per_character_any_language"] < 4.0
    assert RESULTS[name]["size"] == model_file(name).stat().st_size < 250_000


def test_what_is_written_is_like_what_the_results_say(corpus: Names) -> None:
    name = "names-gru-generator"
    measured, found = RESULTS[name]["measured"], measure(model_file(name), corpus)
    for key in ("new_share", "language_share"):
        assert found[key] == pytest.approx(measured[key], abs=0.01)
    assert measured["language_share"] > 0.5
    assert measured["new_share"] > 0.5


def test_names_are_written_to_their_end(corpus: Names) -> None:
    written = write(model_file("names-gru-generator"), corpus, None, 100, np.random.default_rng(0))
    assert all(1 <= len(name) < 40 for name in written)
    assert not any("<" in name for name in written)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_generator_describes_itself(corpus: Names, name: str) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(model_file(name)).metadata_props}
    spec = parse_spec(properties[METADATA_KEY], name)
    assert spec.task == "generation"
    assert spec.input.vocabulary == corpus.vocabulary
    assert spec.decoder is not None and spec.decoder.kind == "tokens"
    assert spec.generation is not None
    assert (spec.generation.start, spec.generation.end) == (START, END)
    assert spec.generation.conditions == corpus.conditions


@pytest.mark.parametrize("name", RECIPES)
def test_its_examples_begin_held_out_names(corpus: Names, name: str) -> None:
    examples = json.loads(model_file(name).with_name("examples.json").read_text("utf-8"))
    held_out = {(one.text, one.language) for one in corpus.test}
    assert len(examples) == len(corpus.conditions)
    for one in examples:
        assert (one["expected"], one["condition"]) in held_out
        assert one["expected"].startswith(one["sequence"])
