"""The data sets are split as their cards say."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from models.tasks import Split, Task, names, stratified, vowels


@pytest.fixture(scope="module")
def surnames() -> Task:
    return names.load()


@pytest.fixture(scope="module")
def speakers() -> Task:
    return vowels.load()


def spelled(task: Task, split: Split) -> list[str]:
    assert task.vocabulary is not None
    return ["".join(task.vocabulary[token] for token in one) for one in split.sequences]


def test_vowels_has_the_published_sizes(speakers: Task) -> None:
    assert (len(speakers.train), len(speakers.test), len(speakers.labels)) == (270, 370, 9)
    assert np.bincount(speakers.train.labels).tolist() == [30] * 9
    lengths = [len(one) for one in speakers.train.sequences + speakers.test.sequences]
    assert (min(lengths), max(lengths)) == (7, 29)
    assert {one.shape[1] for one in speakers.train.sequences} == {12}
    assert {one.dtype for one in speakers.train.sequences} == {np.dtype(np.float32)}


def test_the_validation_part_holds_every_label_and_is_always_the_same(speakers: Task) -> None:
    assert np.bincount(speakers.train.labels[speakers.validation]).tolist() == [6] * 9
    assert np.array_equal(speakers.validation, vowels.load().validation)


def test_an_augmented_utterance_keeps_at_least_three_steps(speakers: Task) -> None:
    generator = np.random.default_rng(0)
    shortest = min(speakers.train.sequences, key=len)
    assert min(len(speakers.augment(shortest, generator)) for _ in range(200)) >= 3


def test_the_ts_format_is_read_dimension_by_dimension() -> None:
    split = vowels.parse("#about\n@data\n1,2,3:4,5,6:2\n7,8:9,10:1\n")
    assert [one.tolist() for one in split.sequences] == [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10]]]
    assert split.labels.tolist() == [1, 0]


def test_no_test_name_is_in_the_training_data_in_any_case(surnames: Task) -> None:
    learned, held_out = (
        {name.casefold() for name in spelled(surnames, split)} for split in (surnames.train, surnames.test)
    )
    assert not learned & held_out
    assert len(learned) == len(surnames.train)


def test_no_name_belongs_to_two_languages(surnames: Task) -> None:
    everyone = spelled(surnames, surnames.train) + spelled(surnames, surnames.test)
    assert len({name.casefold() for name in everyone}) == len(everyone)


def test_every_language_has_names_to_learn_and_to_be_measured_on(surnames: Task) -> None:
    assert len(surnames.labels) >= 10
    for split in (surnames.train, surnames.test):
        assert np.bincount(split.labels, minlength=len(surnames.labels)).min() >= 50


def test_the_vocabulary_is_single_latin_characters(surnames: Task) -> None:
    assert surnames.vocabulary is not None
    assert surnames.vocabulary[0] == surnames.unknown == names.UNKNOWN
    for character in surnames.vocabulary[1:]:
        assert names.is_latin(character) and len(unicodedata.normalize("NFC", character)) == 1


def test_small_letters_are_in_the_vocabulary(surnames: Task) -> None:
    assert surnames.vocabulary is not None
    assert {character.lower() for character in surnames.vocabulary} <= set(surnames.vocabulary)


def test_a_strange_character_becomes_the_unknown_token(surnames: Task) -> None:
    assert surnames.vocabulary is not None
    tokens = names.encode("M漢", surnames.vocabulary)
    assert tokens.tolist() == [surnames.vocabulary.index("M"), 0]


def test_training_meets_the_unknown_token_and_small_letters(surnames: Task) -> None:
    generator = np.random.default_rng(0)
    seen = [surnames.augment(surnames.train.sequences[0], generator) for _ in range(300)]
    assert any((tokens == 0).any() for tokens in seen)
    lowered = names.encode(spelled(surnames, surnames.train)[0].lower(), surnames.vocabulary or ())
    assert any(np.array_equal(tokens, lowered) for tokens in seen)


def test_string_lists_are_read_from_source_without_running_it() -> None:
    source = "raise SystemExit\nclass P:\n    last_names = ('Aho', 'Salo')\n    first_names = ('Aino',)\n"
    assert names.literals(source, "last_names") == {"Aho", "Salo"}


def test_a_stratified_choice_takes_its_share_of_each_label() -> None:
    labels = np.repeat([0, 1], [10, 30])
    chosen = stratified(labels, fraction=0.2, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [2, 6]


def test_the_shipped_data_is_small() -> None:
    data = Path(names.DATA).parent
    assert sum(file.stat().st_size for file in data.iterdir()) < 1_500_000
