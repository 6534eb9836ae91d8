"""Generation: the next token, drawn from the scores of the last step.

For one row of scores:

1. Divide by the temperature, in float64. A temperature of 0 takes the highest score, and that is all.
2. Sort in descending order; of equal scores the lower id comes first.
3. Keep the first `top_k`.
4. Of these keep the first whose probabilities sum to `top_p` or more.
5. Draw u from `randomness`. Take the first token at which the cumulative probability exceeds u times their sum.
"""

from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np

from elman.engine.feedback import Fed, Feedback, Fewer
from elman.engine.logprobs import TokenLogprob, as_logits, log_probabilities, most_probable
from elman.engine.randomness import uniforms
from elman.engine.stops import StopStrings
from elman.errors import ElmanError, NotFiniteOutput
from elman.repository.network import Array

Reason = Literal["stop", "end", "length"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How tokens are drawn, and when to stop.

    Attributes:
        temperature, top_k, top_p: as above; `top_k` 0 and `top_p` 1 keep all.
        seed: below 2**64.
        max_steps: most tokens to draw.
        end: the token that ends a sequence; it is not part of the result.
        stop: the stop strings, if there are any. The text is cut before the first one that appears.
        vocabulary: the text of each token, if the model has one.
        banned: tokens that are never drawn, such as the start token.
        logprobs: how many alternatives are noted with the log-probability of each token; None to note nothing.
        probabilities: True if the scores of the model are probabilities; their logarithm is taken first.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_steps: int
    end: int | None = None
    stop: StopStrings | None = None
    vocabulary: tuple[str, ...] | None = None
    banned: tuple[int, ...] = ()
    logprobs: int | None = None
    probabilities: bool = False


@dataclass(eq=False, slots=True)
class Sampler:
    """Generates one sample.

    Attributes:
        rule: how tokens are drawn.
        path: index of the sample in its request.
        tokens: drawn so far, without the end token.
        text: the text of the tokens, if there is a vocabulary, cut at a stop string.
        settled: for each token, the length of the text that no stop string can cut any more. Appended to last: another
            thread that sees an entry here finds its token and text in place.
        logprobs: what was noted of each token, if the rule says so.
        cumulative_logprob: the sum of the log-probabilities, with that of the end token.
        reason: why it ended; None if it is not done.
    """

    rule: Rule
    path: int = 0
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    settled: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    reason: Reason | None = None
    _stop_state: int = 0

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Fed]:
        """Like `Feedback.feed`; the next inputs of each row are one token, `(1,)` int64."""
        samplers = [sampler for sampler in feedbacks if isinstance(sampler, Sampler)]
        tokens = draw(samplers, outputs).tolist()
        note(samplers, outputs, tokens)
        return [
            NotFiniteOutput("the model gives no token a probability") if token < 0 else sampler.take(token)
            for sampler, token in zip(samplers, tokens, strict=True)
        ]

    def take(self, token: int) -> Array | None:
        """Add a token. Returns the next inputs, or None after the last token."""
        rule = self.rule
        if token == rule.end:
            self.reason = "end"
            return None
        self.tokens.append(token)
        if rule.vocabulary is not None:
            self._append_text(rule.vocabulary[token])
        if self.reason is None and len(self.tokens) == rule.max_steps:
            self.reason = "length"
        held_back = 0 if self.reason is not None or rule.stop is None else rule.stop.depths[self._stop_state]
        self.settled.append(len(self.text) - held_back)
        return np.array([token], np.int64) if self.reason is None else None

    def _append_text(self, piece: str) -> None:
        before = len(self.text)
        self.text += piece
        if self.rule.stop is not None:
            self._stop_state, found = self.rule.stop.read(self._stop_state, piece)
            if found is not None:
                self.text = self.text[: before + found]
                self.reason = "stop"


@dataclass(eq=False, slots=True)
class Samples:
    """Samples of one prompt that advance together: the feedback of a block.

    Attributes:
        samplers: those that are not done, in the order of their rows.
    """

    samplers: list[Sampler]

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Fed]:
        """Like `Feedback.feed`."""
        blocks = [block for block in feedbacks if isinstance(block, Samples)]
        samplers = [sampler for block in blocks for sampler in block.samplers]
        fed = iter(samplers[0].feed(list(samplers), outputs.reshape(len(samplers), -1)))
        return [block.take(list(islice(fed, len(block.samplers)))) for block in blocks]

    def take(self, fed: list[Fed]) -> Fed:
        """What the samples give, from what each of them gives. One that fails fails all."""
        for one in fed:
            if isinstance(one, ElmanError):
                return one
        rows = [row for row, one in enumerate(fed) if one is not None]
        self.samplers = [self.samplers[row] for row in rows]
        if not rows:
            return None
        inputs = np.array([sampler.tokens[-1:] for sampler in self.samplers], np.int64).T  # (1, rows)
        inputs = inputs if len(rows) > 1 else inputs[0]
        return inputs if len(rows) == len(fed) else Fewer(inputs, rows)


def note(samplers: list[Sampler], scores: Array, tokens: list[int]) -> None:
    """Note the log-probability of the next token of each row whose rule wants that."""
    counts = [None if token < 0 else one.rule.logprobs for one, token in zip(samplers, tokens, strict=True)]
    wanted = [(row, count) for row, count in enumerate(counts) if count is not None]
    if not wanted:
        return
    rows = log_probabilities(scores[[row for row, _ in wanted]], samplers[0].rule.probabilities)
    for (row, count), logprobs in zip(wanted, rows, strict=True):
        sampler, token = samplers[row], tokens[row]
        sampler.cumulative_logprob += float(logprobs[token])
        if token != sampler.rule.end:
            sampler.logprobs.append(TokenLogprob(float(logprobs[token]), most_probable(logprobs, count)))


def draw(samplers: list[Sampler], scores: Array) -> Array:
    """The next token of each row, int64 `(rows,)`, from scores `(rows, vocabulary)`; -1 if none may be drawn."""
    rules = [sampler.rule for sampler in samplers]
    temperatures = np.array([rule.temperature for rule in rules])
    z = as_logits(scores, rules[0].probabilities)
    for row, rule in zip(z, rules, strict=True):
        row[list(rule.banned)] = -np.inf
    possible = (z > -np.inf).any(axis=1)
    z[~possible] = 0.0
    greedy = temperatures == 0.0
    z -= z.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # an overflow to -inf at a low temperature is a probability of 0
        z /= np.where(greedy, 1.0, temperatures)[:, None]
    order = np.argsort(-z, axis=1, kind="stable")  # (rows, vocabulary)
    z = np.take_along_axis(z, order, axis=1)
    weights = np.exp(z - z[:, :1])
    size = z.shape[1]
    top_k = np.array([rule.top_k or size for rule in rules])
    weights[np.arange(size) >= top_k[:, None]] = 0.0
    cumulative = np.cumsum(weights, axis=1)
    top_p = np.array([rule.top_p for rule in rules])
    # A token is needed if those before it sum to less than top_p, so the first one always is.
    needed = cumulative - weights < top_p[:, None] * cumulative[:, -1:]
    weights[~needed & (top_p < 1.0)[:, None]] = 0.0
    cumulative = np.cumsum(weights, axis=1)
    u = uniforms(
        np.array([rule.seed for rule in rules], np.uint64),
        np.array([sampler.path for sampler in samplers], np.uint64),
        np.array([len(sampler.tokens) for sampler in samplers], np.uint64),
    )
    chosen = (cumulative <= (u * cumulative[:, -1])[:, None]).sum(axis=1)
    # Because of rounding, u could point past the last token that is kept.
    last = size - 1 - np.argmax(weights[:, ::-1] > 0.0, axis=1)
    chosen = np.where(greedy, 0, np.minimum(chosen, last))
    tokens: Array = np.where(possible, np.take_along_axis(order, chosen[:, None], axis=1)[:, 0], -1)
    return tokens
