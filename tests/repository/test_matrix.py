"""Every ordinary export is served unaided, as torch answers, and to the same bits whichever way it is run."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Service, outputs, queue_of, run, run_in
from matrix import CASES, Array, Case, Reference

from elman.api.server import policy_of
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Return, Sequence
from elman.errors import ModelRefused
from elman.repository.load_cache import LoadCache
from elman.repository.loading import Loader
from elman.repository.model import Model
from elman.settings import Settings

pytestmark = pytest.mark.torch

SERVED = [case for case in CASES if case.refused is None]
STREAMING = [case for case in SERVED if case.streams]
EXACT = [case for case in STREAMING if case.exact]
ROUNDING = [case for case in STREAMING if not case.exact]
WHOLE = [case for case in SERVED if not case.streams]
REFUSED = [case for case in CASES if case.refused is not None]
LENGTHS = (1, 2, 7, 13, 31)
RAGGED = (1, 40, 7, 2, 7, 19, 3, 1, 28, 11)


@dataclass
class Zoo:
    """The models of the matrix as files, each made and loaded once, when first asked for."""

    root: Path
    loads: Path
    loader: Loader
    references: dict[str, Reference] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    queues: dict[str, ModelQueue] = field(default_factory=dict)

    def path(self, case: Case) -> Path:
        return self.root / folder_name(case.id) / "1" / "model.onnx"

    def reference(self, case: Case) -> Reference:
        if case.id not in self.references:
            self.references[case.id] = case.make(self.path(case).parent)
        return self.references[case.id]

    def model(self, case: Case) -> Model:
        self.reference(case)
        if case.id not in self.models:
            self.models[case.id] = self.loader.load(self.path(case), folder_name(case.id), 1)
        return self.models[case.id]

    def queue(self, case: Case) -> ModelQueue:
        if case.id not in self.queues:
            self.queues[case.id] = queue_of(self.model(case))
        return self.queues[case.id]

    def alone(self, case: Case, data: list[Array], returns: Return) -> list[Array]:
        """The outputs of each sequence, with no other in the queue."""
        return [outputs(run_in(self.queue(case), [Sequence(row, returns)])[0]) for row in data]


def folder_name(id: str) -> str:
    """A case's id as the name of a model."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", id)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    loads = tmp_path_factory.mktemp("loads")
    with Loader(cache=LoadCache(loads, 2**30)) as loader:
        yield Zoo(tmp_path_factory.mktemp("zoo"), loads, loader)


@pytest.fixture(scope="session")
def served_zoo(zoo: Zoo, serve: Callable[..., Service]) -> Service:
    """One server over every model of the matrix. What the tests before found of a model is not proved again."""
    for case in CASES:
        zoo.reference(case)
    return serve(zoo.root, load_cache_dir=zoo.loads)


def cases(chosen: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.id)


def same(found: list[Array], expected: list[Array]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes(), f"differs by {np.abs(one - other).max()} at length {len(one)}"


def near(found: Array, expected: Array, case: Case) -> None:
    expected = expected.reshape(found.shape)
    scale = max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(found.astype(np.float64) - expected).max()) / scale
    assert worst <= case.tolerance, f"{worst:.3g} from torch"


def test_the_matrix_is_wide() -> None:
    assert len(CASES) >= 60
    assert len({case.id for case in CASES}) == len(CASES)


@cases(SERVED)
def test_the_last_answer_is_torchs(zoo: Zoo, case: Case) -> None:
    reference = zoo.reference(case)
    data = case.sequences(*LENGTHS)
    for row, found in zip(data, zoo.alone(case, data, "final"), strict=True):
        assert len(found) == 1
        near(found[0], reference.final(row), case)


@cases(SERVED)
def test_every_step_is_torchs(zoo: Zoo, case: Case) -> None:
    """Where the answer depends on the whole sequence, no step of it has one of its own, and there is nothing to ask."""
    reference = zoo.reference(case)
    if reference.steps is None:
        assert not zoo.model(case).proof.chunked
        return
    data = case.sequences(*LENGTHS)
    for row, found in zip(data, zoo.alone(case, data, "steps"), strict=True):
        near(found, reference.steps(row), case)


@cases(SERVED)
@pytest.mark.parametrize("returns", ["final", "steps"])
def test_a_ragged_batch_changes_no_bit(zoo: Zoo, case: Case, returns: Return) -> None:
    if returns == "steps" and zoo.reference(case).steps is None:
        assert not zoo.model(case).proof.chunked
        return
    data = case.sequences(*RAGGED)
    expected = zoo.alone(case, data, returns)
    together = run_in(zoo.queue(case), [Sequence(row, returns) for row in data])
    same([outputs(sequence) for sequence in together], expected)


@cases(EXACT)
@pytest.mark.parametrize("returns", ["final", "steps"])
def test_chunks_of_any_size_change_no_bit(zoo: Zoo, case: Case, returns: Return) -> None:
    model = zoo.model(case)
    data = case.sequences(*RAGGED)
    expected = zoo.alone(case, data, returns)
    policy = policy_of(model, Settings())
    for chunk in (1, 3, 8):
        cut = replace(policy, max_chunk=min(chunk, policy.max_chunk))
        same([outputs(sequence) for sequence in run(model, [Sequence(row, returns) for row in data], cut)], expected)


@cases(EXACT)
def test_a_session_changes_no_bit(zoo: Zoo, case: Case) -> None:
    """Cut anywhere and carried on from the final state, among strangers, the answers are those of the whole."""
    data = case.sequences(*RAGGED, seed=1)
    expected = zoo.alone(case, data, "steps")
    found: list[list[Array]] = [[] for _ in data]
    states: list[bytes | None] = [None] * len(data)
    rng = np.random.default_rng(2)
    cursors = [0] * len(data)
    while live := [i for i, row in enumerate(data) if cursors[i] < len(row)]:
        pieces = [data[i][cursors[i] : cursors[i] + int(rng.integers(1, 9))] for i in live]
        asked = [Sequence(p, "steps", states[i], keep_state=True) for i, p in zip(live, pieces, strict=True)]
        ran = run_in(zoo.queue(case), asked)
        for i, piece, sequence in zip(live, pieces, ran, strict=True):
            found[i].append(outputs(sequence))
            states[i] = sequence.final_state
            cursors[i] += len(piece)
    same([np.concatenate(blocks) for blocks in found], expected)


@cases(EXACT)
def test_it_is_proved_to_stream_exactly(zoo: Zoo, case: Case) -> None:
    proof = zoo.model(case).proof
    assert (proof.streaming, proof.chunked, proof.exact, proof.batched) == (True, True, True, "ragged"), proof
    assert zoo.model(case).network.states


@cases(ROUNDING)
def test_what_rounds_by_the_chunk_is_found_out(zoo: Zoo, case: Case) -> None:
    proof = zoo.model(case).proof
    assert (proof.streaming, proof.chunked, proof.exact) == (True, False, False), proof
    assert 0 < proof.tolerance < 1e-5
    assert proof.reason


@cases(WHOLE)
def test_what_looks_ahead_is_known_not_to_stream_and_says_why(zoo: Zoo, case: Case) -> None:
    proof = zoo.model(case).proof
    assert not proof.streaming
    assert not proof.chunked
    assert proof.reason


@cases(REFUSED)
def test_what_cannot_be_served_is_refused(zoo: Zoo, case: Case) -> None:
    with pytest.raises(ModelRefused) as caught:
        zoo.model(case)
    assert case.refused is not None
    assert case.refused in str(caught.value)
    assert caught.value.remedy


@cases(SERVED)
def test_over_http_it_answers_as_torch_and_as_in_process(zoo: Zoo, served_zoo: Service, case: Case) -> None:
    reference = zoo.reference(case)
    data = case.sequences(5, 1, 23, 12, seed=3)
    name = folder_name(case.id)
    answers = served_zoo.predict(name, data, "final")
    for row, found in zip(data, answers, strict=True):
        near(found, reference.final(row), case)
    same([one.reshape(1, -1) for one in answers], [one.astype(np.float32) for one in zoo.alone(case, data, "final")])
    if reference.steps is None:
        return
    steps = served_zoo.predict(name, data, "steps")
    same(
        [one.reshape(len(one), -1) for one in steps],
        [one.astype(np.float32) for one in zoo.alone(case, data, "steps")],
    )
