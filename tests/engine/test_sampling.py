"""Tokens are drawn by the rule, and a stop cuts the text where it first appears: the sampler alone, without a model."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.engine.randomness import uniforms
from elman.engine.sampling import Rule, Sampler, draw
from elman.engine.stops import StopStrings
from elman.errors import NotFiniteOutput
from tests.looping import Mix

LETTERS = tuple("abcdefgh")
SCORES = np.array([[0.0, 3.0, 1.0, 3.0, -np.inf, 2.0, 1.0, 0.5]], np.float32)


def rule(**options: Any) -> Rule:
    return Rule(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0, "max_steps": 100} | options)


def drawn(count: int = 2000, scores: np.ndarray[Any, Any] = SCORES, **options: Any) -> list[int]:
    """The first token of so many samples of one request."""
    samplers = [Sampler(rule(**options), path) for path in range(count)]
    return [int(token) for token in draw(samplers, np.repeat(scores, count, axis=0))]


def written(text: str, **options: Any) -> Sampler:
    """A sampler that was given the letters of a text, as far as it took them."""
    sampler = Sampler(rule(vocabulary=LETTERS, **options))
    for letter in text:
        if sampler.take(LETTERS.index(letter)) is None:
            break
    return sampler


@given(seed=st.integers(0, 2**64 - 1), path=st.integers(0, 2**31), step=st.integers(0, 2**31))
def test_a_number_is_that_of_splitmix64_at_its_place(seed: int, path: int, step: int) -> None:
    found = uniforms(*(np.array([value], np.uint64) for value in (seed, path, step)))
    assert found[0] == Mix(seed).uniform(path, step)
    assert 0.0 <= found[0] < 1.0


def test_splitmix64_is_the_published_one() -> None:
    # The first outputs of the reference implementation for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    seeds, paths = np.full(3, 1234567, np.uint64), np.zeros(3, np.uint64)
    assert uniforms(seeds, paths, np.arange(3, dtype=np.uint64)).tolist() == [
        (one >> 11) * 2.0**-53 for one in published
    ]


def test_a_temperature_of_nothing_takes_the_best_and_the_lower_id_of_equals() -> None:
    assert set(drawn(50, temperature=0.0)) == {1}
    assert set(drawn(50, temperature=0.0, banned=(1,))) == {3}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    weights = np.exp(SCORES[0].astype(float) / 1.5)
    shares = np.bincount(drawn(20_000, temperature=1.5), minlength=8) / 20_000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {0, 1, 2, 3, 5, 6, 7}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 5}),
        ({"top_k": 4}, {1, 2, 3, 5}),
        ({"top_p": 1e-9}, {1}),
        ({"top_p": 0.5}, {1, 3}),
        ({"top_k": 2, "top_p": 0.4}, {1}),
        ({"banned": (1, 3)}, {0, 2, 5, 6, 7}),
    ],
)
def test_only_what_is_kept_is_drawn(options: dict[str, Any], kept: set[int]) -> None:
    assert set(drawn(**options)) == kept


def test_what_a_row_draws_does_not_hang_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    samplers = [Sampler(rule(seed=i, temperature=0.5 + i / 4, top_k=i % 4, top_p=1 - i / 20), i) for i in range(12)]
    scores = rng.standard_normal((12, 8)).astype(np.float32)
    alone = [int(draw([one], row[None])[0]) for one, row in zip(samplers, scores, strict=True)]
    assert draw(samplers, scores).tolist() == alone


def test_the_end_is_no_part_of_what_was_written() -> None:
    sampler = written("abh", end=LETTERS.index("h"))
    assert (sampler.text, sampler.tokens, sampler.reason) == ("ab", [0, 1], "end")


def test_it_ends_after_the_most_steps() -> None:
    sampler = written("abcdef", max_steps=3)
    assert (sampler.text, sampler.reason) == ("abc", "length")


@pytest.mark.parametrize(
    ("stop", "text", "cut"),
    [
        (("cd",), "abcdef", "ab"),
        (("a",), "abc", ""),
        (("fg", "de"), "abcdefg", "abc"),
        (("bcx", "bcd"), "abcde", "a"),
        (("abab",), "aabab", "a"),
    ],
)
def test_a_stop_cuts_the_text_where_it_first_appears(stop: tuple[str, ...], text: str, cut: str) -> None:
    sampler = written(text, stop=StopStrings(stop))
    assert (sampler.text, sampler.reason) == (cut, "stop")


@given(text=st.text("abc", max_size=30), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_what_is_settled_is_never_taken_back(text: str, stop: list[str]) -> None:
    sampler, settled = Sampler(rule(vocabulary=LETTERS, stop=StopStrings(tuple(stop)))), ""
    for at, letter in enumerate(text):
        more = sampler.take(LETTERS.index(letter))
        assert len(sampler.settled) == at + 1
        assert sampler.text.startswith(settled)
        settled = sampler.text[: sampler.settled[-1]]
        if more is None:
            break
    places = [text.find(one) for one in stop if one in text]
    read = text[: len(sampler.tokens)]
    ends = [read.find(one) for one in stop if one in read]
    assert bool(places) == (sampler.reason == "stop")
    assert sampler.text == (read[: min(ends)] if ends else text)
    if places:
        assert settled == sampler.text


class Counted(list[int]):
    """A list that counts how often it is read."""

    num_read = 0

    def __getitem__(self, index: Any) -> Any:
        self.num_read += 1
        return super().__getitem__(index)


def test_a_stop_string_that_nearly_appears_at_each_letter_costs_no_more_than_another() -> None:
    """Each letter steps back at most as often as letters before it stepped forward."""
    stops = StopStrings(tuple("a" * 255 + letter for letter in "bcdefgh"))
    stops._shorter = steps_back = Counted(stops._shorter)
    text = ("a" * 254 + "h") * 40
    sampler = written(text, stop=stops, max_steps=2 * len(text))
    assert sampler.text == text
    assert steps_back.num_read <= len(text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("probabilities", "none"), [(False, -np.inf), (True, 0.0)])
def test_where_no_token_has_a_probability_none_is_drawn(temperature: float, probabilities: bool, none: float) -> None:
    """Token 0 is never drawn. The row beside it goes on."""
    shared = rule(temperature=temperature, banned=(0,), logprobs=1, probabilities=probabilities)
    samplers = [Sampler(shared, path) for path in range(2)]
    scores = np.array([[1.0, none, none], [1.0, none, 1.0]], np.float32)
    failed, going = samplers[0].feed(list(samplers), scores)
    assert isinstance(failed, NotFiniteOutput) and samplers[0].tokens == [] and samplers[0].logprobs == []
    assert isinstance(going, np.ndarray) and samplers[1].tokens == [2] and len(samplers[1].logprobs) == 1
