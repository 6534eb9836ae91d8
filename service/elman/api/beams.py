"""Beam search for the generate endpoint: each step runs all open hypotheses from their own states."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from elman.api.autoregressive import last_output
from elman.api.server import ServedModel
from elman.codec.requests import GenerateRequest
from elman.engine.beams import BeamRule, BeamSearch, Hypothesis
from elman.engine.sampling import Rule, Sampler
from elman.engine.sequence import Sequence
from elman.engine.work import Steps, aside_if, run
from elman.errors import NotFiniteOutput
from elman.repository.network import Array
from elman.sessions.snapshot import Snapshot

# Ordering more scores takes milliseconds and is done in a thread.
_THREAD_SCORES = 200_000
# So does reading the text of more tokens.
_THREAD_TOKENS = 1_000


@dataclass(slots=True)
class Finished:
    """One generated sequence.

    Attributes:
        sampler: its tokens and its text.
        snapshot: the state after all of its tokens but the unread ones.
        unread: tokens that the model has not read yet.
        score: of a beam search.
    """

    sampler: Sampler
    snapshot: Snapshot
    unread: list[int]
    score: float | None = None


def search(
    served: ServedModel,
    options: GenerateRequest[Any],
    rule: Rule,
    snapshot: Snapshot,
    output: Array,
    deadline: float,
) -> Steps[list[Finished]]:
    """The texts of a beam search, best first. There are fewer than wanted if the model allows no more.

    Args:
        snapshot: the state after the prompt.
        output: the last output of the prompt, `(vocabulary,)`.

    Raises NotFiniteOutput, and what the engine raises.
    """
    beams = BeamRule(
        rule, options.num_beams, options.num_return_sequences, options.length_penalty, options.early_stopping
    )
    searched = BeamSearch(beams, [Hypothesis(state=snapshot)])
    outputs = output[None]
    while searched.open:
        yield from aside_if(outputs.size > _THREAD_SCORES, searched.step, outputs)
        outputs = yield from _read(served, searched, deadline)
    if not searched.found:
        raise NotFiniteOutput("the model gives no token a probability", where="prompt")
    return (yield from aside_if(searched.length * len(searched.found) > _THREAD_TOKENS, _finished, searched))


def _finished(searched: BeamSearch) -> list[Finished]:
    return [
        # The last token of an open hypothesis was never an input, nor was one that completes a stop string.
        Finished(sampler, one.state, [] if sampler.reason == "end" else sampler.tokens[-1:], score)
        for score, one, sampler in searched.samplers()
    ]


def _read(served: ServedModel, searched: BeamSearch, deadline: float) -> Steps[Array]:
    """Read the last token of each open hypothesis. Returns their outputs, `(open, vocabulary)`."""
    going, beams = searched.open, searched.beams
    # All of the search counts as pending from its first step on: it is refused before it begins, or not at all.
    rest = beams.rule.max_steps - searched.length - 1
    more = ceil(rest * beams.num_beams / max(1, len(going)))
    dtype = served.format.numpy_dtype
    sequences = [
        Sequence(
            np.array([one.token], dtype),
            state=one.state.state,
            statics=one.state.statics,
            keep_state=True,
            deadline=deadline,
            more=more,
            served=searched.length - 1,
        )
        for one in going
    ]
    yield from run(served.queue, sequences, "prompt")
    for one, sequence in zip(going, sequences, strict=True):
        assert sequence.final_state is not None, "keep_state is set"
        output = last_output(np.array(sequence.outputs[-1][-1]), "prompt")
        one.state = replace(one.state, state=sequence.final_state, output=output)
    return np.array([one.state.output for one in going])
