"""Beam search finds what a plain search finds, and with beams for everything what trying all texts finds."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.engine.beams import BeamRule, BeamSearch, Hypothesis
from elman.engine.logprobs import best_indices, log_probabilities, most_probable
from elman.engine.sampling import Rule, Sampler
from elman.engine.stops import StopStrings
from tests.looping import Scores, log_softmax, search_alone

LETTERS = ("a", "b", "<end>")
END = 2


def scores_of(seed: int, size: int = 3, ties: bool = False) -> Scores:
    """A model whose scores depend on all tokens before. With `ties` they are few different numbers."""

    def scores(tokens: tuple[int, ...]) -> Any:
        rng = np.random.default_rng([seed, *(token + 1 for token in tokens)])
        return rng.integers(0, 2, size).astype(np.float32) if ties else rng.normal(0, 2, size).astype(np.float32)

    return scores


def beam_rule(
    num_beams: int,
    max_steps: int,
    num_return: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    **options: Any,
) -> BeamRule:
    rule = Rule(temperature=1.0, top_k=0, top_p=1.0, seed=0, max_steps=max_steps, **{"end": END, **options})
    return BeamRule(rule, num_beams, num_return, length_penalty, early_stopping)


def searched(scores: Scores, beams: BeamRule) -> list[tuple[float, float, tuple[int, ...], str | None]]:
    """What the search finds: score, sum, tokens and reason of each, and the model's states are the tokens read."""
    search = BeamSearch(beams, [Hypothesis(state=())])
    while search.open:
        search.step(np.array([scores(one.state) for one in search.open]))
        for one in search.open:
            one.state = (*one.state, one.token)
    found = []
    for score, one, sampler in search.samplers():
        read = len(sampler.tokens) - (sampler.reason != "end")
        assert one.state == tuple(sampler.tokens[:read]), "a fork has the state of its beginning"
        found.append((score, sampler.cumulative_logprob, tuple(sampler.tokens), sampler.reason))
    return found


def total_of(scores: Scores, tokens: tuple[int, ...]) -> float:
    return float(sum(log_softmax(scores(tokens[:at]))[token] for at, token in enumerate(tokens)))


def all_texts(max_steps: int) -> list[tuple[int, ...]]:
    """Every text, with its end token where it has one."""
    open_ones = [text for length in range(max_steps) for text in itertools.product((0, 1), repeat=length)]
    return [(*text, END) for text in open_ones] + list(itertools.product((0, 1), repeat=max_steps))


def plain_search(scores: Scores, beams: BeamRule) -> list[tuple[float, float, tuple[int, ...]]]:
    options = {"length_penalty": beams.length_penalty, "early_stopping": beams.early_stopping, "end": END}
    return search_alone(scores, beams.num_beams, beams.num_return, beams.rule.max_steps, banned=(), **options)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("seed", range(5))
def test_with_a_beam_for_everything_it_is_the_exhaustive_search(seed: int, length_penalty: float) -> None:
    scores, max_steps = scores_of(seed), 4
    texts = all_texts(max_steps)
    every = {text: total_of(scores, text) for text in texts}
    wanted = sorted(((total / len(text) ** length_penalty, text) for text, total in every.items()), reverse=True)
    found = searched(scores, beam_rule(len(texts), max_steps, len(texts), length_penalty))
    assert len(found) == len(texts) == 31
    for (score, total, tokens, reason), (best, text) in zip(found, wanted, strict=True):
        assert tokens == text[: len(tokens)] and (reason == "end") == (text[-1] == END)
        assert score == pytest.approx(best, rel=1e-12) and total == pytest.approx(every[text], rel=1e-12)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1000),
    num_beams=st.integers(1, 5),
    max_steps=st.integers(1, 7),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0, -0.5]),
    early_stopping=st.booleans(),
    ties=st.booleans(),
    data=st.data(),
)
def test_it_is_the_plain_search_also_where_it_ends_before(
    seed: int,
    num_beams: int,
    max_steps: int,
    length_penalty: float,
    early_stopping: bool,
    ties: bool,
    data: st.DataObject,
) -> None:
    num_return = data.draw(st.integers(1, num_beams))
    scores = scores_of(seed, ties=ties)
    beams = beam_rule(num_beams, max_steps, num_return, length_penalty, early_stopping)
    found = [
        (score, total, (*tokens, *([END] if reason == "end" else [])))
        for score, total, tokens, reason in searched(scores, beams)
    ]
    assert found == plain_search(scores, beams)


def test_of_equal_sums_the_hypothesis_that_stood_first_and_the_lower_id_come_first() -> None:
    found = searched(lambda tokens: np.zeros(3, np.float32), beam_rule(4, 3, 4, end=None))
    assert [tokens for _, _, tokens, _ in found] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)]


def test_a_stop_string_closes_a_hypothesis_and_is_cut_off() -> None:
    vocabulary, size = tuple("abcdefgh"), 8
    scores = scores_of(3, size)
    stops = ("ab", "c", "d", "e", "f")
    beams = beam_rule(40, 3, 40, end=None, vocabulary=vocabulary, stop=StopStrings(stops))
    found = searched(scores, beams)
    for _, total, tokens, reason in found:
        text = "".join(vocabulary[token] for token in tokens)
        assert (reason == "stop") == any(stop in text for stop in stops)
        assert all(stop not in text[:-1] for stop in stops), "it ends where the string is complete"
        assert total == pytest.approx(total_of(scores, tokens), rel=1e-12)
    assert {reason for *_, reason in found} == {"stop", "length"}
    search = BeamSearch(beam_rule(2, 1, 2, end=None, vocabulary=vocabulary, stop=StopStrings(("a", "b"))))
    search.step(np.array([[9, 8, 1, 0, 0, 0, 0, 0]], np.float32))
    assert [sampler.text for _, _, sampler in search.samplers()] == ["", ""]


def text_of(hypothesis: Hypothesis, vocabulary: tuple[str, ...]) -> str:
    return "".join(vocabulary[node.token] for node in hypothesis.nodes())


@given(seed=st.integers(0, 1000), stop=st.lists(st.text("abcd", min_size=1, max_size=2), min_size=1, max_size=8))
def test_many_stop_strings_close_hypotheses_as_few_do(seed: int, stop: list[str]) -> None:
    """Each step against all its continuations: the closed among the first beams, and the first that stay open."""
    num_beams, vocabulary, generator = 3, ("a", "b", "c", "d", "ab", "ca", "dd"), np.random.default_rng(seed)
    search = BeamSearch(beam_rule(num_beams, 4, 100, vocabulary=vocabulary, stop=StopStrings(tuple(stop)), end=None))
    still_open, closed = [""], []
    while search.open:
        outputs = generator.normal(size=(len(still_open), len(vocabulary)))
        sums = np.array([log_softmax(row) + one.total for row, one in zip(outputs, search.open, strict=True)])
        order = [divmod(index, len(vocabulary)) for index in np.argsort(-sums.ravel(), kind="stable").tolist()]
        ways = [still_open[row] + vocabulary[token] for row, token in order]
        search.step(outputs)
        stopped = [any(one in way for one in stop) for way in ways]
        still_open = [way for way, ended in zip(ways, stopped, strict=True) if not ended][:num_beams]
        closed += [way for way, ended in zip(ways[:num_beams], stopped, strict=False) if ended]
        if search.length < 4:
            assert [text_of(one, vocabulary) for one in search.open] == still_open
    assert sorted(text_of(one, vocabulary) for _, one in search.found) == sorted(closed + still_open)


def test_what_is_banned_is_in_no_text_and_stays_in_the_distribution() -> None:
    found = searched(lambda tokens: np.array([0.0, 3.0, -1.0]), beam_rule(3, 2, 3, banned=(1,)))
    assert all(1 not in tokens for _, _, tokens, _ in found)
    assert found[0][1] <= log_softmax(np.array([0.0, 3.0, -1.0]))[0]


def test_fewer_texts_are_found_than_wanted_where_there_are_no_more() -> None:
    impossible = np.array([0.0, -np.inf, -np.inf])
    assert [tokens for _, _, tokens, _ in searched(lambda tokens: impossible, beam_rule(5, 2, 5))] == [(0, 0)]
    assert searched(lambda tokens: np.full(3, -np.inf), beam_rule(5, 2, 5)) == []


def test_the_search_ends_when_no_open_hypothesis_can_win() -> None:
    """The end is nearly sure at once, and nothing that goes on can still come before it."""
    search = BeamSearch(beam_rule(3, 1000, 1, 0.0))
    search.step(np.array([[0.0, 0.0, 20.0]]))
    assert search.open == [] and search.found[0][1].token == END


def test_the_logprobs_of_a_sample_are_those_of_the_model_before_any_temperature() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 3, (3, 12)).astype(np.float32)
    rules = [
        Rule(temperature=t, top_k=3, top_p=1.0, seed=1, max_steps=9, end=11, logprobs=k)
        for t, k in ((0.5, 4), (2.0, 0))
    ]
    samplers = [Sampler(rule, path) for path, rule in enumerate([*rules, Rule(1.0, 0, 1.0, 1, 9)])]
    samplers[0].feed(list(samplers), outputs)
    for sampler, row in zip(samplers[:2], outputs, strict=False):
        wanted = log_softmax(row)
        (token,), (note,) = sampler.tokens, sampler.logprobs
        assert note.logprob == sampler.cumulative_logprob == pytest.approx(wanted[token], abs=1e-14)
        best = sorted(range(12), key=lambda one: -wanted[one])[: sampler.rule.logprobs]
        assert [one for one, _ in note.top] == best
        assert [value for _, value in note.top] == pytest.approx(wanted[best].tolist(), abs=1e-14)
    assert samplers[2].logprobs == []


def test_a_row_has_the_same_logprobs_alone_and_in_company() -> None:
    outputs = np.random.default_rng(1).normal(0, 4, (9, 37)).astype(np.float32)
    together = log_probabilities(outputs, probabilities=False)
    alone = [log_probabilities(row[None], probabilities=False)[0] for row in outputs]
    assert np.array(alone).tobytes() == together.tobytes() and together.max() <= 0.0


def test_scores_that_are_probabilities_are_taken_as_such() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        wanted = np.log(probabilities.astype(float))
    np.testing.assert_allclose(log_probabilities(probabilities, probabilities=True), wanted, atol=1e-12)
    samplers = [Sampler(Rule(1.0, 0, 1.0, 1, 9, probabilities=True), path) for path in range(4000)]
    samplers[0].feed(list(samplers), np.repeat(probabilities, 4000, axis=0))
    drawn = np.bincount([one.tokens[0] for one in samplers], minlength=4) / 4000
    np.testing.assert_allclose(drawn, probabilities[0], atol=0.03)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 8))
def test_the_best_are_those_of_a_stable_order(values: list[int], count: int) -> None:
    wanted = sorted(range(len(values)), key=lambda index: -values[index])[:count]
    assert best_indices(np.array(values, float), count).tolist() == wanted
    assert [token for token, _ in most_probable(np.array(values, float), count)] == wanted
