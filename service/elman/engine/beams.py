"""Beam search: the most probable continuations, found by carrying several along at each step.

A hypothesis is a continuation so far. Its sum is that of the log-probabilities of its tokens, its score is
`sum / length ** length_penalty`, and the end token counts in both, as in Hugging Face's `generate`. One step:

1. Each open hypothesis is continued by each token. The continuations are ordered by their sums, highest first. Of equal
   sums, the continuation of the hypothesis that stood first comes first, and then the lower token id.
2. In this order, one that ends itself is closed, by the end token or a stop string, if it is among the first
   `num_beams`. The first `num_beams` of the others stay open. After `max_steps` they are closed too.
3. The closed ones are ordered by their scores; of equal scores, the one that was closed first comes first.

The search ends when no open hypothesis can come among the first `num_return` any more: sums only fall, so the best
score that an open one can reach is known. With `early_stopping` it ends as soon as `num_beams` are closed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elman.engine.logprobs import TokenLogprob, best_indices, log_probabilities, most_probable
from elman.engine.sampling import Rule, Sampler
from elman.repository.network import Array


@dataclass(frozen=True, slots=True)
class BeamRule:
    """How beams are searched. See above.

    Attributes:
        rule: for `max_steps`, `end`, `stop`, `vocabulary`, `banned`, `logprobs` and `probabilities`. Nothing is drawn.
        num_beams: most open hypotheses.
        num_return: how many closed ones are kept.
        length_penalty: the exponent of the length; above 0 it favours long ones.
        early_stopping: True to end when `num_beams` are closed.
    """

    rule: Rule
    num_beams: int
    num_return: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False

    def score(self, total: float, length: int) -> float:
        """The score of a sum of log-probabilities at a length of at least 1."""
        return float(total / float(length) ** self.length_penalty)

    def best_score(self, total: float, length: int) -> float:
        """The highest score that a hypothesis can still reach."""
        # The sum is at most 0, so one of the two ends of the lengths is the best.
        return max(self.score(total, length + 1), self.score(total, self.rule.max_steps))


@dataclass(eq=False, slots=True)
class Hypothesis:
    """A continuation. It shares its beginning with others: each holds its last token only.

    Attributes:
        parent: the hypothesis before its last token; None if it has no token.
        token: the last token.
        total: the sum of the log-probabilities.
        length: number of tokens, with the end token.
        stop_state: how far a stop string has begun at the end of the text.
        noted: the last token's log-probability and the alternatives, if they are wanted.
        closed: True if the last token is the end token, or completes a stop string.
        state: where the model stands, once it has read the parent's tokens, or all of them. Whoever runs the model sets
            it; a fork has its parent's.
    """

    parent: "Hypothesis | None" = None
    token: int = -1
    total: float = 0.0
    length: int = 0
    stop_state: int = 0
    noted: TokenLogprob | None = None
    closed: bool = False
    state: Any = None

    def nodes(self) -> list["Hypothesis"]:
        """The hypotheses that it went through, one for each token."""
        found, at = [], self
        while at.parent is not None:
            found.append(at)
            at = at.parent
        return found[::-1]


@dataclass(eq=False, slots=True)
class BeamSearch:
    """One search.

    Attributes:
        open: the hypotheses to continue, best first; empty once the search is done.
        found: the best closed hypotheses with their scores, best first.
        length: number of steps done.
    """

    beams: BeamRule
    open: list[Hypothesis] = field(default_factory=lambda: [Hypothesis()])
    found: list[tuple[float, Hypothesis]] = field(default_factory=list)
    length: int = 0
    _num_closed: int = 0
    # Which tokens end a hypothesis, by state of the stop strings. Kept, as it takes a loop over the vocabulary.
    _closing: dict[int, Array] = field(default_factory=dict)

    def step(self, outputs: Array) -> None:
        """Continue each open hypothesis. `outputs` are the scores of its next token, `(open, vocabulary)`."""
        rule = self.beams.rule
        with np.errstate(invalid="ignore", divide="ignore"):  # a row without any probability gives NaN
            logprobs = log_probabilities(outputs, rule.probabilities)
        sums = logprobs + np.array([one.total for one in self.open])[:, None]
        sums[:, list(rule.banned)] = -np.inf
        kept = self._continuations(sums, logprobs)
        for one in self.open:
            one.state = None  # the forks have it
        self.length += 1
        last = self.length == rule.max_steps
        self.open = [] if last else [one for one in kept if not one.closed]
        self._close(kept if last else [one for one in kept if one.closed])
        if self._is_done():
            self.open = []

    def samplers(self) -> Iterator[tuple[float, Hypothesis, Sampler]]:
        """What was found, each with its score and a sampler that took its tokens."""
        for score, one in self.found:
            sampler = Sampler(self.beams.rule)
            nodes = one.nodes()
            for node in nodes:
                sampler.take(node.token)
            sampler.cumulative_logprob = one.total
            sampler.logprobs = [node.noted for node in nodes[: len(sampler.tokens)] if node.noted is not None]
            yield score, one, sampler

    def _continuations(self, sums: Array, logprobs: Array) -> list[Hypothesis]:
        """The continuations that stay open and those that end themselves, in their order."""
        num_beams, size, count = self.beams.num_beams, sums.shape[1], self.beams.rule.logprobs
        tops = None if count is None else [most_probable(row, count) for row in logprobs]

        def fork(index: int) -> Hypothesis:
            row, token = divmod(index, size)
            one = self._fork(self.open[row], token, float(logprobs[row, token]))
            if tops is not None:
                one.noted = TokenLogprob(float(logprobs[row, token]), tops[row])
            return one

        # Each hypothesis has one end token. Where stop strings are rare too, twice as many are enough.
        best = best_indices(sums.ravel(), 2 * num_beams).tolist()
        kept: list[Hypothesis] = []
        num_open = 0
        for rank, index in enumerate(best):
            one = fork(index)
            num_open += not one.closed
            if not one.closed or rank < num_beams:
                kept.append(one)
            if num_open == num_beams:
                return kept
        if len(best) < 2 * num_beams:
            return kept
        # Many tokens complete a stop string: choose among those that do not.
        states = [one.stop_state for one in self.open]
        known = self._closing
        self._closing = {state: known[state] if state in known else self._closed_by(state, size) for state in states}
        closing = np.array([self._closing[state] for state in states])
        stay_open = best_indices(np.where(closing, -np.inf, sums).ravel(), num_beams).tolist()
        first = best[:num_beams]
        return [*map(fork, first), *map(fork, (index for index in stay_open if index not in first))]

    def _closed_by(self, stop_state: int, size: int) -> Array:
        """Which of the tokens end a hypothesis in this state, bool `(size,)`."""
        return np.array([self._read(stop_state, token)[1] for token in range(size)])

    def _read(self, stop_state: int, token: int) -> tuple[int, bool]:
        """The state of the stop strings after a token, and whether the token ends a hypothesis."""
        rule = self.beams.rule
        if token == rule.end or rule.stop is None or rule.vocabulary is None:
            return stop_state, token == rule.end
        stop_state, found = rule.stop.read(stop_state, rule.vocabulary[token])
        return stop_state, found is not None

    def _fork(self, parent: Hypothesis, token: int, logprob: float) -> Hypothesis:
        stop_state, closed = self._read(parent.stop_state, token)
        return Hypothesis(
            parent, token, parent.total + logprob, parent.length + 1, stop_state, closed=closed, state=parent.state
        )

    def _close(self, closed: list[Hypothesis]) -> None:
        self._num_closed += len(closed)
        self.found += [(self.beams.score(one.total, one.length), one) for one in closed]
        self.found.sort(key=lambda pair: -pair[0])  # stable: of equals the first one stays first
        del self.found[self.beams.num_return :]

    def _is_done(self) -> bool:
        beams = self.beams
        if beams.early_stopping and self._num_closed >= beams.num_beams:
            return True
        if len(self.found) < beams.num_return:
            return False
        best = max([beams.best_score(one.total, one.length) for one in self.open], default=-np.inf)
        return self.found[-1][0] >= best
