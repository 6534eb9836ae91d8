"""The exercises are split by person, turned and mirrored as movements are, and replayed as they were done."""

import itertools
import time
from dataclasses import replace

import httpx
import numpy as np
import onnx
import pytest

from elman.repository.spec import embedded_spec
from models import replay
from models.across import leave_out
from models.cards import read_results
from models.measuring import measure, step_answers
from models.tasks import Task, watch
from models.tasks.watch import EXERCISES, HELD_OUT, MIRROR, RATE, VALIDATION, Recording
from models.train import HERE, RECIPES
from tests.running import RunningServer

pytestmark = pytest.mark.torch

WATCH = [name for name in RECIPES if name.startswith("watch-")]


@pytest.fixture(scope="module")
def recordings() -> tuple[Recording, ...]:
    return watch.recordings()


@pytest.fixture(scope="module")
def task() -> Task:
    return watch.load()


def test_ten_people_did_seven_exercises_with_each_arm(recordings: tuple[Recording, ...]) -> None:
    done = {(one.person, one.exercise, one.arm) for one in recordings}
    assert done == {(p, e, a) for p in range(1, 11) for e in range(7) for a in ("left", "right")}
    assert len(recordings) == len(done)
    assert sum(len(one.samples) for one in recordings) == 60_978
    assert {one.samples.dtype for one in recordings} == {np.dtype(np.float32)}


def test_nobody_is_both_learned_from_and_measured_on(recordings: tuple[Recording, ...], task: Task) -> None:
    held_out = [one for one in recordings if one.person in HELD_OUT]
    learned = [one for one in recordings if one.person not in HELD_OUT]
    for chosen, split in ((learned, task.train), (held_out, task.test)):
        assert len(chosen) == len(split)
        assert all(np.array_equal(one.samples, kept) for one, kept in zip(chosen, split.sequences, strict=True))
    kept_back = {learned[i].person for i in task.validation}
    assert kept_back == set(VALIDATION)
    assert len(task.validation) == 14 * len(VALIDATION)


def test_samples_are_in_g_and_at_rest_gravity_is_one(recordings: tuple[Recording, ...]) -> None:
    slowest = min(recordings, key=lambda one: float(np.abs(one.samples[:, 3:]).mean()))
    assert np.linalg.norm(slowest.samples[:, :3].mean(axis=0)) == pytest.approx(1, abs=0.1)


def test_the_left_arm_moves_as_the_mirror_image_of_the_right(recordings: tuple[Recording, ...]) -> None:
    """Means and how the axes go together, over all people, are nearer mirrored than not."""
    for exercise in range(7):
        sides = [
            np.concatenate([one.samples for one in recordings if (one.exercise, one.arm) == (exercise, arm)])
            for arm in ("left", "right")
        ]
        left, right, mirrored = (one.T @ one / len(one) for one in (*sides, sides[1] * MIRROR))
        assert np.abs(left - mirrored).sum() < np.abs(left - right).sum()


def test_a_turned_sensor_measures_the_same_lengths(task: Task) -> None:
    original = task.train.sequences[0].astype(np.float64)
    turned = watch.rotated(original, np.array([0.3, -0.2, 0.9]))
    for vector in (slice(0, 3), slice(3, 6)):
        assert np.allclose(np.linalg.norm(turned[:, vector], axis=1), np.linalg.norm(original[:, vector], axis=1))
    assert not np.allclose(turned, original, atol=0.1)
    quarter = watch.rotated(np.array([[1.0, 0, 0, 0, 0, 2.0]]), np.array([0, 0, np.pi / 2]))
    assert np.allclose(quarter, [[0, 1, 0, 0, 0, 2]])


def test_a_series_between_its_steps_is_on_the_straight_line() -> None:
    series = np.array([[0.0], [2.0], [6.0]])
    assert watch.resampled(series, np.array([0, 0.5, 1, 1.25, 2])).tolist() == [[0], [1], [2], [3], [6]]


def test_four_samples_become_their_mean_and_a_rest_is_dropped() -> None:
    samples = np.arange(10.0)[:, None]
    assert watch.averaged(samples).tolist() == [[1.5], [5.5]]


def test_a_training_piece_is_never_longer_than_asked_nor_than_the_series(task: Task) -> None:
    generator = np.random.default_rng(0)
    shortest = min(task.train.sequences, key=len)
    for sequence in (shortest, shortest[:80]):
        pieces = [task.augment(sequence, generator) for _ in range(100)]
        assert {piece.dtype for piece in pieces} == {np.dtype(np.float32)}
        assert watch.SHORTEST <= max(map(len, pieces)) <= watch.LONGEST
        assert all(np.isfinite(piece).all() for piece in pieces)


@pytest.mark.parametrize("name", WATCH)
def test_a_shipped_model_is_as_good_at_every_step_as_its_results_say(task: Task, name: str) -> None:
    result = read_results(HERE / "results.json")[name]
    measured = measure(HERE / "store" / name / "1" / "model.onnx", task)
    assert measured.steps.sum() == result["num_steps"]
    assert measured.step_accuracy == pytest.approx(result["step_accuracy_by_seed"]["0"], abs=1e-3)
    assert measured.majority_accuracy == pytest.approx(result["majority_accuracy_by_seed"]["0"], abs=0.01)
    by_label = measured.steps.diagonal() / measured.steps.sum(axis=1)
    assert by_label == pytest.approx(list(result["accuracy_by_label"].values()), abs=0.01)


@pytest.mark.parametrize("name", WATCH)
def test_a_shipped_model_is_small_and_names_what_it_takes(name: str) -> None:
    path = HERE / "store" / name / "1" / "model.onnx"
    assert path.stat().st_size <= 250_000
    spec = embedded_spec({entry.key: entry.value for entry in onnx.load(path).metadata_props})
    assert spec is not None
    assert (spec.task, spec.input.names) == ("tagging", watch.FEATURES)


def test_a_person_left_out_is_measured_on_all_that_they_did() -> None:
    quick = replace(RECIPES["watch-rnn"], shape={"hidden_size": 4}, num_epochs=1)
    measured = leave_out("watch-rnn", 4, 0, quick)
    assert measured.confusion.sum(axis=1).tolist() == [2] * 7
    assert measured.steps.sum() == sum(len(one.samples) for one in watch.recordings() if one.person == 4)


def test_a_replay_takes_as_long_as_the_recording_over_its_speed(recordings: tuple[Recording, ...]) -> None:
    short = replace(recordings[0], samples=recordings[0].samples[:25])
    started = time.perf_counter()
    taken = list(replay.arrivals(short, speed=10))
    assert time.perf_counter() - started >= 25 / RATE / 10
    assert np.array_equal(np.float32([row for rows in taken for row in rows]), short.samples)


def test_a_late_replay_sends_what_has_come_in_one_post(recordings: tuple[Recording, ...]) -> None:
    short = replace(recordings[0], samples=recordings[0].samples[:20])
    posts = []
    for rows in replay.arrivals(short, speed=100):
        posts.append(len(rows))
        time.sleep(0.01)  # Eight steps' worth.
    assert sum(posts) == 20
    assert max(posts) >= 5
    assert [len(rows) for rows in replay.arrivals(short, speed=0)] == [1] * 20


class LosesAnswers(httpx.HTTPTransport):
    """Delivers every request of steps, and loses the answer to every fifth."""

    def __init__(self) -> None:
        super().__init__()
        self.count = itertools.count(1)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.url.path.endswith("/steps") and next(self.count) % 5 == 0:
            response.read()
            response.close()
            raise httpx.ReadTimeout("lost on the way back", request=request)
        return response


@pytest.mark.parametrize("model", WATCH)
def test_lost_answers_do_not_change_what_a_replay_finds(
    server: RunningServer, task: Task, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    (recording,) = replay.chosen(HELD_OUT[1], "right", EXERCISES[5])
    recording = replace(recording, samples=recording.samples[:60])
    (expected,) = step_answers(
        HERE / "store" / model / "1" / "model.onnx",
        replace(task.test, sequences=(recording.samples,), labels=np.array([recording.exercise])),
    )
    tally = replay.Tally()
    with httpx.Client(base_url=server.url, transport=LosesAnswers(), timeout=30) as client:
        replay.replay(client, model, recording, 0, tally, replay.Console())
        assert client.get("/v1/sessions", params={"model": model}).json()["sessions"] == []
    assert tally.steps[True] == int((expected == recording.exercise).sum())
    assert tally.steps.total() == len(tally.seconds) == 60
    assert tally.replayed >= 10
    changes = 1 + int((np.diff(expected) != 0).sum())
    assert sum(line.rstrip().endswith("█") for line in capsys.readouterr().out.splitlines()) == changes


def test_a_replay_to_no_server_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["watch-gru", "--arm", "left", "--exercise", "pendulum", "--url", "http://127.0.0.1:9"]
    with pytest.raises(SystemExit) as stopped:
        replay.main(arguments)
    assert stopped.value.code == 1
    assert "http://127.0.0.1:9" in capsys.readouterr().err
