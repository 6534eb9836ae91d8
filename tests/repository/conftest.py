"""Real parts for the tests of the repository: sequences run as the engine runs them, and a server over a folder."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from elman.api.server import policy_of
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Return, Sequence
from elman.repository.model import Model
from elman.settings import Settings
from tests.reference import Array
from tests.running import running_server


def queue_of(model: Model) -> ModelQueue:
    """A queue of its own for a model. Opening one takes ten times as long as running a short sequence in it."""
    return ModelQueue(model, policy_of(model, Settings()))


def run(model: Model, sequences: list[Sequence], policy: Policy | None = None) -> list[Sequence]:
    """Run sequences together in one queue, as the engine would."""
    return run_in(ModelQueue(model, policy) if policy else queue_of(model), sequences)


def run_in(queue: ModelQueue, sequences: list[Sequence]) -> list[Sequence]:
    """Run sequences together in a queue that has no others."""
    for sequence in sequences:
        queue.scheduler.add(sequence)
    while len(queue.scheduler):
        queue.iterate(0.0)
    for sequence in sequences:
        assert sequence.error is None, sequence.error
    return sequences


def outputs(sequence: Sequence) -> Array:
    """All output rows of a sequence that ran: `(steps, output_size)`."""
    return np.concatenate(sequence.outputs)


def run_alone(model: Model, row: Array, returns: Return) -> Array:
    return outputs(run(model, [Sequence(row, returns)])[0])


@dataclass(frozen=True)
class Service:
    """A running server."""

    url: str
    client: httpx.Client

    def card(self, name: str) -> dict[str, object]:
        answer = self.client.get(f"/v1/models/{name}")
        assert answer.status_code == 200, answer.text
        card: dict[str, object] = answer.json()
        return card

    def predict(self, name: str, sequences: list[Array], returns: str) -> list[Array]:
        """The outputs for each sequence: `(length, output_size)`, or `(output_size,)` for `final`."""
        body = {"sequences": [s.tolist() for s in sequences], "return": returns, "decode": False}
        answer = self.client.post(f"/v1/models/{name}/predict", json=body)
        assert answer.status_code == 200, answer.text
        key = "outputs" if returns == "steps" else "output"
        return [np.array(result[key], np.float32) for result in answer.json()["results"]]


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Service]]:
    """Starts a server process over a model repository; stops them all at the end."""
    with contextlib.ExitStack() as stack:

        def start(root: Path, **settings: object) -> Service:
            server = stack.enter_context(running_server(root, **settings))  # type: ignore[arg-type]
            return Service(server.url, server.client)

        yield start
