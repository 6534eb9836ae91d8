"""Distributions: draws follow them, and points are their means."""

import numpy as np
import pytest
from scipy import stats

from elman.engine.forecasting import ForecastPlan, path_blocks
from elman.engine.heads import Head
from elman.repository.network import Array
from elman.repository.spec import ErrorsSpec, ForecastSpec, HeadSpec

SOFTPLUS = float(np.log1p(np.exp(0.3)))
NORMAL = HeadSpec(kind="normal", transform="softplus")
STUDENT = HeadSpec(kind="student_t", transform="softplus")
COUNTS = HeadSpec(kind="negative_binomial", transform="exp")
QUANTILES = HeadSpec(kind="quantiles", levels=(0.1, 0.5, 0.9))

CASES = {
    "normal": (NORMAL, [1.5, 0.3], stats.norm(1.5, SOFTPLUS), 1.5),
    "student_t": (STUDENT, [0.3, -2.0, 0.3], stats.t(2 + SOFTPLUS, -2.0, SOFTPLUS), -2.0),
    "as it is": (HeadSpec(kind="normal"), [1.5, 0.25], stats.norm(1.5, 0.25), 1.5),
    "negative_binomial": (
        COUNTS,
        [np.log(4.0), np.log(0.5)],
        stats.nbinom(2.0, 2.0 / (2.0 + 4.0)),
        4.0,
    ),
}


def plan(head: HeadSpec, values: int = 1, seed: int = 5, **more: Array) -> ForecastPlan:
    fields = {"mean": np.zeros(values), "std": np.ones(values), **more}
    return ForecastPlan(
        horizon=3,
        future=np.zeros((2, values), np.float32),
        target=tuple(range(values)),
        input_mean=np.zeros(values),
        input_std=np.ones(values),
        residuals=np.zeros((0, values)),
        minimum=None,
        seed=seed,
        head=Head(head),
        **fields,
    )


def next_values(plan: ForecastPlan, raw: list[float], paths: int, max_rows: int = 10_000) -> Array:
    """The first values of the point forecast and of some paths, from the same outputs."""
    values = np.zeros((1 + paths, plan.horizon, len(plan.mean)))
    for block in path_blocks(plan, 0, values, max_rows):
        block.take(np.tile(np.float32(raw), (len(block.numbers), 1)))
    return values[:, 0]


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_distribution(case: str) -> None:
    head, raw, wanted, point = CASES[case]
    values = next_values(plan(head), raw, 4000)[:, 0]
    assert values[0] == pytest.approx(point, rel=1e-6)
    assert wanted.mean() == pytest.approx(point, rel=1e-6)
    if case == "negative_binomial":
        assert np.array_equal(values[1:], np.round(values[1:]))
        counts = np.bincount(values[1:].astype(int), minlength=40)[:12]
        np.testing.assert_allclose(counts / 4000, wanted.pmf(np.arange(12)), atol=0.025)
    else:
        assert stats.kstest(values[1:], wanted.cdf).pvalue > 0.001


@pytest.mark.parametrize("mean", [0.0, 1e-20, 1e-10, 1e-3, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("alpha", [5.0, 0.7, 1e-4, 1e-8, 1e-16, 1e-40])
def test_counts_of_any_mean_and_dispersion_are_drawn(mean: float, alpha: float) -> None:
    """With a small dispersion they follow a Poisson distribution; a small mean gives zeros."""
    u = np.array([0.1, 0.5, 0.9, 0.999])
    parameters = np.tile(np.array([mean, alpha]), (4, 1, 1))
    drawn = Head(HeadSpec(kind="negative_binomial")).draw(parameters, u[:, None])[:, 0]
    exact = stats.nbinom(1 / alpha, 1 / (1 + alpha * mean)) if alpha * mean > 1e-7 else stats.poisson(mean)
    assert drawn.tolist() == exact.ppf(u).tolist()


def test_quantiles_are_drawn_between_their_levels() -> None:
    # A network may give quantiles that cross: they are put in order.
    values = next_values(plan(QUANTILES), [4.0, 1.0, 2.0], 2000)[:, 0]
    assert values[0] == 2.0
    np.testing.assert_allclose(np.quantile(values[1:], [0.1, 0.5, 0.9]), [1.0, 2.0, 4.0], atol=0.15)
    assert (values.min(), values.max()) == (1.0, 4.0)


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.9), (0.05, 0.1, 0.2, 0.8)])
def test_the_line_through_quantiles_is_that_of_numpy(levels: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    quantiles, u = np.sort(rng.normal(size=(200, 2, len(levels)))), rng.random((200, 2))
    u[0], u[1] = levels[0], levels[-1]
    drawn = Head(HeadSpec(kind="quantiles", levels=levels)).draw(quantiles, u)
    assert all(drawn[at] == np.interp(u[at], levels, quantiles[at]) for at in np.ndindex(u.shape))


def test_each_value_has_a_number_of_its_own_and_the_units_of_the_data() -> None:
    two = plan(NORMAL, 2, mean=np.array([10.0, 0.0]), std=np.array([2.0, 1.0]))
    values = next_values(two, [1.0, 0.3, -1.0, 0.3], 2000)[1:]
    np.testing.assert_allclose(values.mean(axis=0), [12.0, -1.0], atol=0.1)
    np.testing.assert_allclose(values.std(axis=0), [2 * SOFTPLUS, SOFTPLUS], rtol=0.08)
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.08
    alone = next_values(two, [1.0, 0.3, -1.0, 0.3], 8, max_rows=1)[1:]
    np.testing.assert_array_equal(alone[7], values[7])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "quantiles"},
        {"kind": "normal", "levels": [0.5]},
        {"kind": "quantiles", "levels": [0.5, 0.1]},
        {"kind": "quantiles", "levels": [0.0, 0.5]},
    ],
)
def test_a_head_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"levels|greater than 0"):
        HeadSpec.model_validate(wrong)


def test_a_path_has_one_source_of_chance() -> None:
    errors = ErrorsSpec(rows=(((0.0,),), ((0.0,),)))
    for two in ({"head": NORMAL}, {"errors": errors}):
        with pytest.raises(ValueError, match="not from two"):
            ForecastSpec(**two, residuals=((0.0, 0.0),))
    with pytest.raises(ValueError, match="not from two"):
        ForecastSpec(head=NORMAL, errors=errors)
