"""Generation: the next token, drawn from the scores of the last step.

The rule, for one row of scores: divide by the temperature, in float64; order from the highest, the lower id first
among equals; keep the `top_k` first; of what they hold of the probability keep the first that together hold `top_p` or
more; draw u as `randomness` says, and take the first token at which the sum of what is kept passes u times the whole.
A temperature of 0 takes the highest score.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from elman.engine.feedback import Feedback
from elman.engine.randomness import uniforms
from elman.repository.network import Array

Reason = Literal["stop", "end", "length"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How tokens are drawn, and when to stop.

    Attributes:
        temperature, top_k, top_p: as above; `top_k` 0 and `top_p` 1 keep all.
        seed: below 2**64.
        max_steps: most tokens drawn.
        end: the token that closes a sequence and is no part of it.
        stop: texts that end it; the first that appears is cut off with what follows.
        vocabulary: the text of each token, where there is one.
        banned: tokens that are never drawn, such as the one that begins a sequence.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_steps: int
    end: int | None = None
    stop: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] | None = None
    banned: tuple[int, ...] = ()


@dataclass(eq=False, slots=True)
class Sampler:
    """Writes one sequence on.

    Attributes:
        rule: how.
        path: which of the samples of its request it is.
        tokens: drawn so far, without the one that ended it.
        text: what they read, where there is a vocabulary, cut at a stop.
        settled: for each token how much of the text no stop can take back any more. It grows last, so that another
            thread that sees a token here finds the rest of it in place.
        reason: why it ended; None as long as it goes on.
    """

    rule: Rule
    path: int = 0
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    settled: list[int] = field(default_factory=list)
    reason: Reason | None = None

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Array | None]:
        """As `Feedback.feed`: each row's next token, `(1,)` int64."""
        samplers = [one for one in feedbacks if isinstance(one, Sampler)]
        return [sampler.take(token) for sampler, token in zip(samplers, draw(samplers, outputs).tolist(), strict=True)]

    def take(self, token: int) -> Array | None:
        """Add a token. The inputs to go on with, or None where that was the last."""
        rule = self.rule
        if token == rule.end:
            self.reason = "end"
            return None
        self.tokens.append(token)
        if rule.vocabulary is not None:
            self._read(rule.vocabulary[token])
        if self.reason is None and len(self.tokens) == rule.max_steps:
            self.reason = "length"
        self.settled.append(self._settle())
        return np.array([token], np.int64) if self.reason is None else None

    def _read(self, more: str) -> None:
        # Only what the new text is part of can be a stop that was not there before.
        seen = max(0, len(self.text) + 1 - max(map(len, self.rule.stop), default=0))
        self.text += more
        found = [at for stop in self.rule.stop if (at := self.text.find(stop, seen)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.reason = "stop"

    def _settle(self) -> int:
        """Characters of the text that no stop can take back any more."""
        if self.reason is not None or not self.rule.stop:
            return len(self.text)
        text, held = self.text, len(self.text)
        for stop in self.rule.stop:
            # The first place from which the text reads as the beginning of a stop.
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while 0 <= at < held and not stop.startswith(text[at:]):
                at = text.find(stop[0], at + 1)
            held = min(held, at) if at >= 0 else held
        return held


def draw(samplers: list[Sampler], scores: Array) -> Array:
    """The next token of each row, int64 `(rows,)`, of scores `(rows, vocabulary)`."""
    rules = [sampler.rule for sampler in samplers]
    temperatures = np.array([rule.temperature for rule in rules])
    z = scores.astype(np.float64)
    for row, rule in zip(z, rules, strict=True):
        row[list(rule.banned)] = -np.inf
    greedy = temperatures == 0.0
    z -= z.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # what lies far below the best at a low temperature is never drawn
        z /= np.where(greedy, 1.0, temperatures)[:, None]
    order = np.argsort(-z, axis=1, kind="stable")  # (rows, vocabulary), best first, lower id first among equals
    z = np.take_along_axis(z, order, axis=1)
    shares = np.exp(z - z[:, :1])
    size = z.shape[1]
    top_k = np.array([rule.top_k or size for rule in rules])
    shares[np.arange(size) >= top_k[:, None]] = 0.0
    sums = np.cumsum(shares, axis=1)
    top_p = np.array([rule.top_p for rule in rules])
    # What stands before a token decides whether it is needed, so the first is always kept.
    needed = sums - shares < top_p[:, None] * sums[:, -1:]
    shares[~needed & (top_p < 1.0)[:, None]] = 0.0
    sums = np.cumsum(shares, axis=1)
    u = uniforms(
        np.array([rule.seed for rule in rules], np.uint64),
        np.array([sampler.path for sampler in samplers], np.uint64),
        np.array([len(sampler.tokens) for sampler in samplers], np.uint64),
    )
    places = (sums <= (u * sums[:, -1])[:, None]).sum(axis=1)
    # Rounding must not take u past the last token that is kept.
    last = size - 1 - np.argmax(shares[:, ::-1] > 0.0, axis=1)
    places = np.where(greedy, 0, np.minimum(places, last))
    tokens: Array = np.take_along_axis(order, places[:, None], axis=1)[:, 0]
    return tokens
