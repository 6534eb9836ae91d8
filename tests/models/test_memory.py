"""The memory study measures what it says, and its page says what was measured."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.memory import (
    BUDGET,
    HERE,
    STUDIED,
    Run,
    by_distance,
    chance,
    digest,
    gradient_by_distance,
    held_out,
    influence,
    last_answer,
    open_answer,
    planned,
    read,
    rounded,
    run_adding,
    sensitivity,
    span,
    train,
    write,
)
from models.memory_page import page, standing
from models.recurrent import CELLS, Cell, Recurrent, Shape
from models.tasks import Sequence, adding
from models.train import TASKS

pytestmark = pytest.mark.torch

RESULTS: dict[str, Any] = json.loads((HERE / "memory.json").read_text("utf-8"))
PAGE = (HERE / "memory.md").read_text("utf-8")


def found(cell: Cell, length: int) -> list[float]:
    """The held-out errors of a cell at a length, one a seed."""
    runs = [run for run in RESULTS["adding"].values() if run["learning_rate"] == BUDGET.learning_rate]
    return [run["mse"] for run in runs if (run["cell"], run["length"]) == (cell, length)]


# -- the adding problem ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 7, 100])
def test_two_steps_are_marked_one_in_each_half_and_their_sum_is_the_answer(length: int) -> None:
    sequences, answers = adding.draw(500, length, np.random.default_rng(0))
    numbers, marks = sequences[..., 0], sequences[..., 1]
    assert sequences.shape == (500, length, 2) and answers.shape == (500,)
    assert sequences.dtype == answers.dtype == np.float32
    assert set(np.unique(marks)) <= {0, 1}
    assert (marks[:, : length // 2].sum(axis=1) == 1).all() and (marks[:, length // 2 :].sum(axis=1) == 1).all()
    assert np.array_equal(answers, (numbers * marks).sum(axis=1))
    assert 0 <= numbers.min() and numbers.max() < 1


def test_every_step_is_marked_some_time() -> None:
    sequences, _ = adding.draw(2000, 20, np.random.default_rng(0))
    counts = sequences[..., 1].sum(axis=0)
    assert counts.sum() == 4000
    assert counts.min() > 150 and counts.max() < 250


def test_always_answering_one_has_a_squared_error_of_a_sixth() -> None:
    _, answers = adding.draw(200_000, 10, np.random.default_rng(0))
    assert np.square(answers - 1).mean() == pytest.approx(adding.CHANCE, abs=2e-3)


def test_a_sequence_too_short_for_two_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, and it is 1"):
        adding.draw(1, 1, np.random.default_rng(0))


def test_the_held_out_sequences_are_always_the_same() -> None:
    first, again = held_out(50, 10), held_out(50, 10)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_a_short_training_solves_a_short_length_and_ends_early() -> None:
    _, result = train(Run("gru", 10, 0, BUDGET.learning_rate), replace(BUDGET, max_steps=2000, num_held_out=500))
    assert result["mse"] < 1e-3
    assert result["steps"] == 100 * len(result["curve"]) < 2000
    assert max(result["curve"][-2:]) < BUDGET.enough


def test_a_seed_repeats_its_training() -> None:
    budget = replace(BUDGET, max_steps=20, interval=10, num_held_out=50)
    first, again, other = (train(Run("rnn", 10, seed, 5e-3), budget)[1] for seed in (1, 1, 2))
    assert (first["mse"], first["curve"]) == (again["mse"], again["curve"])
    assert first["mse"] != other["mse"]


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_is_that_of_finite_differences(cell: Cell) -> None:
    torch.manual_seed(0)
    model = Recurrent(Shape(cell=cell, num_outputs=1, num_features=2, hidden_size=8)).double()
    x = torch.rand(3, 5, 2, dtype=torch.float64)
    slopes = torch.zeros_like(x)
    for step, feature in np.ndindex(5, 2):
        nudge = torch.zeros_like(x)
        nudge[:, step, feature] = 1e-6
        slopes[:, step, feature] = (last_answer(model, x + nudge) - last_answer(model, x - nudge)) / 2e-6
    expected = slopes.detach().norm(dim=2).mean(dim=0).flip(0)
    assert gradient_by_distance(model, x) == pytest.approx(expected.tolist(), rel=1e-3)


# -- influence ---------------------------------------------------------------------------------------


def column(values: list[float]) -> Sequence:
    return np.array(values, np.float32)[:, None]  # (time, 1)


def test_a_sum_moves_by_what_is_left_out() -> None:
    moved = influence(lambda x: x.sum(axis=1).astype(np.float64), column([1, -2, 4]))
    assert moved.tolist() == [1, 2, 4]


def test_of_a_network_that_knows_its_last_step_alone_only_the_last_step_counts() -> None:
    moved = influence(lambda x: x[:, -1].astype(np.float64), column([5, 1, 7]))
    assert moved.tolist() == [0, 0, 6]


def test_distances_are_euclidean_over_the_outputs() -> None:
    moved = influence(lambda x: x.sum(axis=1).astype(np.float64), np.array([[3, 4], [0, 2]], np.float32))
    assert moved.tolist() == [5, 2]


def test_a_sequence_of_one_step_has_no_influence_to_measure() -> None:
    with pytest.raises(ValueError, match="one step"):
        influence(lambda x: x[:, -1].astype(np.float64), column([1]))


def test_sensitivity_is_the_gradient_in_deviations() -> None:
    weights = np.array([[0, 1], [2, 0], [3, 4]], np.float32)  # (time, features)
    found = sensitivity(
        lambda x: np.einsum("btf,tf->b", x, weights)[:, None].astype(np.float64),
        np.ones((3, 2), np.float32),
        np.array([1, 10], np.float32),
    )
    assert found == pytest.approx([10, 2, np.hypot(3, 40)], rel=1e-4)


def test_the_span_holds_nine_tenths_of_the_influence() -> None:
    assert span(np.array([0.0, 0, 0, 2])) == 1
    assert span(np.ones(20)) == 18
    assert span(np.array([8.0, 1, 1])) == 3


def test_distances_are_counted_from_the_end_over_the_rows_that_reach() -> None:
    assert by_distance([np.array([3.0, 1]), np.array([9.0, 5, 3])]) == [2, 4, 9]


@pytest.mark.parametrize("name", ["vowels-rnn", "vowels-lstm", "vowels-gru"])
def test_the_influence_on_record_is_that_of_each_shortened_sequence_run_alone(name: str) -> None:
    sequences = TASKS["vowels"]().test.sequences
    answer = open_answer(HERE / "store" / name / "1" / "model.onnx")
    sequence = sequences[0]
    shortened = [np.delete(sequence, k, axis=0) for k in range(len(sequence))]
    # In pairs, as alone an RNN's sums are in another order.
    whole, *without = [answer(np.stack([one, one]))[0] for one in (sequence, *shortened)]
    expected = [np.linalg.norm(one - whole) for one in without]
    assert influence(answer, sequence) == pytest.approx(expected, abs=1e-6)
    moved = by_distance([influence(answer, one) for one in sequences])
    assert moved == pytest.approx(RESULTS["influence"][name]["moved"], rel=1e-2)


# -- results and the page ----------------------------------------------------------------------------


def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    write(path, RESULTS)
    again = read(path, BUDGET)
    assert again == RESULTS
    path.unlink()
    done = {run.key: {} for run in planned(BUDGET, quick=False)}
    run_adding({"adding": done}, path, BUDGET, quick=False)
    assert not path.exists()


def test_results_of_another_budget_are_not_mixed_in(tmp_path: Path) -> None:
    write(tmp_path / "memory.json", RESULTS)
    with pytest.raises(SystemExit, match="another budget"):
        read(tmp_path / "memory.json", replace(BUDGET, hidden_size=1))


def test_the_study_is_complete() -> None:
    assert {run.key for run in planned(BUDGET, quick=False)} == set(RESULTS["adding"])
    for name, one in RESULTS["influence"].items():
        assert one["digest"] == digest(HERE / "store" / name / "1" / "model.onnx"), "run: python -m models.memory"
    shipped = [f"{task}-{cell}" for task in STUDIED for cell in CELLS]
    assert [name for name in shipped if (HERE / "store" / name).exists()] == list(RESULTS["influence"])


def test_the_page_is_that_of_the_results() -> None:
    assert page(RESULTS) == PAGE, "run: python -m models.memory"


def test_every_picture_of_the_page_is_there() -> None:
    pictures = re.findall(r"\]\((pictures/[^)]+)\)", PAGE)
    assert len(pictures) >= 5
    assert all((HERE / picture).stat().st_size > 5000 for picture in pictures)


def test_the_table_of_the_page_holds_the_errors_measured() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if "solved |" in line]
    assert [row[0] for row in rows] == ["10", "25", "50", "100", "200", "400"]
    for length, always_one, *cells in rows:
        assert float(always_one) == pytest.approx(chance(int(length), BUDGET.num_held_out), abs=5e-5)
        for cell, text in zip(CELLS, cells, strict=True):
            errors = found(cell, int(length))
            numbers, verdict = text.split(";")
            shown = [float(number) for number in numbers.split(" to ")]
            assert [shown[0], shown[-1]] == pytest.approx([min(errors), max(errors)], abs=5e-5)
            assert verdict.strip() == f"{sum(one < 1e-3 for one in errors)} of {len(errors)} solved"


def test_at_a_hundred_steps_the_plain_cell_stays_at_chance_and_the_gated_ones_solve_it() -> None:
    of_nothing_learned = chance(100, BUDGET.num_held_out)
    assert min(found("rnn", 100)) > 0.95 * of_nothing_learned
    assert max(found("lstm", 100) + found("gru", 100)) < 1e-3
    assert all(len(found(cell, 100)) >= 2 for cell in CELLS)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([1e-4, 9e-4], "solved"),
        ([1e-4, 0.17], "solved by some seeds"),
        ([0.16, 0.17], "at chance"),
        ([0.1, 0.17], "learned in part"),
    ],
)
def test_the_words_of_the_page_follow_the_errors(errors: list[float], words: str) -> None:
    assert standing([{"mse": one} for one in errors], 1 / 6) == words


def test_numbers_are_kept_to_four_digits() -> None:
    assert (rounded(0.123456), rounded(1.23456e-9)) == (0.1235, 1.235e-9)
