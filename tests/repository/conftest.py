"""Real parts for the tests of the repository: exported models on disk, and a server process over a folder of them."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from matrix import CASES, Array, Case, Reference

from elman.api.server import policy_of
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Return, Sequence
from elman.repository.loading import Loader
from elman.repository.model import Model
from elman.settings import Settings

ROOT = Path(__file__).parents[2]


@dataclass
class Zoo:
    """The models of the matrix as files, each made and loaded once, when first asked for."""

    root: Path
    loader: Loader
    references: dict[str, Reference] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)

    def path(self, case: Case) -> Path:
        return self.root / folder_name(case.id) / "1" / "model.onnx"

    def reference(self, case: Case) -> Reference:
        if case.id not in self.references:
            self.references[case.id] = case.make(self.path(case).parent)
        return self.references[case.id]

    def model(self, case: Case) -> Model:
        self.reference(case)
        if case.id not in self.models:
            self.models[case.id] = self.loader.load(self.path(case), case.id, 1)
        return self.models[case.id]


def folder_name(id: str) -> str:
    """A case's id as the name of a model."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", id)


def run(model: Model, sequences: list[Sequence], policy: Policy | None = None) -> list[Sequence]:
    """Run sequences together in one queue, as the engine would."""
    queue = ModelQueue(model, policy or policy_of(model, Settings()))
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


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with Loader() as loader:
        yield Zoo(tmp_path_factory.mktemp("zoo"), loader)


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
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Service]]:
    """Starts a server process over a model repository; stops them all at the end."""
    processes: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def start(root: Path, ready_within: float = 180.0) -> Service:
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "elman", "serve", str(root), "--port", "0"],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        processes.append(process)
        url = _announced(process, log, ready_within)
        client = httpx.Client(base_url=url, timeout=60.0)
        clients.append(client)
        return Service(url, client)

    yield start
    for client in clients:
        client.close()
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=30)


def _announced(process: subprocess.Popen[bytes], log: Path, within: float) -> str:
    """The address that the server says it listens on, once it has loaded its models."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        found = re.search(r"running on (http://[\d.:]+)", log.read_text())
        if found:
            return found.group(1)
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the server was not ready in {within} seconds: {log.read_text()}")


@pytest.fixture(scope="session")
def served_zoo(zoo: Zoo, serve: Callable[[Path], Service]) -> Service:
    """One server over every model of the matrix."""
    for case in CASES:
        zoo.reference(case)
    return serve(zoo.root)
