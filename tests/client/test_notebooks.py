"""What notebooks show of results is well-formed and of bounded size, and no text of a server is taken for HTML."""

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from elman.client import Client, Forecast, Generation, Influence, Result, StepResult

HOSTILE = "</td><script>alert('x')</script>\" onload=x & \ud800"
VOWELS = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32)


def shown(result: Any) -> ElementTree.Element:
    """What a notebook shows, read as XML: it has no element that is not closed, and no bare sign."""
    text = result._repr_html_()
    assert len(text.encode()) < 30_000
    root = ElementTree.fromstring(text)
    assert not [one.tag for one in root.iter() if one.tag in ("script", "style", "link", "img")]
    return root


def words(result: Any) -> str:
    return " ".join(shown(result).itertext())


ANSWERS: dict[str, tuple[Callable[[Client], Any], tuple[str, ...]]] = {
    "a prediction": (lambda client: client.model("names-gru").predict("Lindqvist"), ("9 steps", "Swedish", "98")),
    "every step": (lambda client: client.model("vowels-gru").predict(VOWELS, returns="steps"), ("7 steps", "speaker")),
    "an influence": (lambda client: client.model("vowels-gru").influence(VOWELS), ("7 steps", "90 %")),
    "a forecast": (
        lambda client: client.model("sunspots-gru").forecast(np.arange(30.0), 11, samples=9, seed=1),
        ("11 steps ahead", "q0.9"),
    ),
    "a generation": (
        lambda client: client.model("names-lstm-generator").generate("Mc", samples=20, seed=7),
        ("seed 7", "and 8 more"),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_shown_with_their_words(elman: Client, name: str) -> None:
    ask, wanted = ANSWERS[name]
    answer = ask(elman)
    said = words(answer)
    assert all(one in said for one in wanted), said
    plots = [one for one in shown(answer).iter("svg")]
    assert len(plots) == (name in ("every step", "an influence", "a forecast"))
    assert all(one.get("role") == "img" and one.get("aria-label") for one in plots)


def test_the_answer_of_a_session_names_its_step(elman: Client) -> None:
    with elman.model("vowels-gru").session() as session:
        session.step(VOWELS)
        answer = session.step(VOWELS[:2])
    assert "2 steps, at step 9" in words(answer)
    assert "speaker" in words(answer)


def hostile() -> list[Any]:
    top = [{"label": HOSTILE, "probability": 0.5}]
    item = {"label": HOSTILE, "probability": 0.5, "top": top}
    result = {
        "length": 2, "outputs": [[1.0], [2.0]], "decoded": [item, item], "heads": {HOSTILE: [1.0]},
        "unknown": [{"character": HOSTILE, "count": 1}],
    }  # fmt: skip
    sample = {"text": HOSTILE, "tokens": [1], "steps": 1, "reason": HOSTILE}
    about: dict[str, Any] = {"model": HOSTILE, "version": 1}
    return [
        Result.from_json(result),
        StepResult.from_json({**result, "id": HOSTILE, "step": 2}),
        Generation.from_json({**about, "seed": 1, "results": [sample]}),
        Forecast.from_json({**about, "horizon": 1, "point": [1.0]}),
        Influence.from_json({**about, "length": 1, "influence": [1.0], "span": 1, "output": [1.0]}),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_label_is_text_and_never_html(number: int) -> None:
    answer = hostile()[number]
    assert HOSTILE.replace("\ud800", "?") in words(answer) and "<script" not in answer._repr_html_()


def test_what_is_shown_of_a_large_result_is_bounded_and_keeps_its_peaks() -> None:
    outputs = np.zeros((100_000, 64), np.float32)
    outputs[77_777, 0], outputs[5] = 1.0, np.nan
    plotted = shown(Result(length=100_000, outputs=outputs))
    lines = [one.get("points", "").split() for one in plotted.iter("polyline")]
    assert len(lines) == 8 and max(map(len, lines)) <= 240
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights.count(min(heights)) == 1 and heights.count(max(heights)) == len(heights) - 1
    assert "output 7, 56 more not drawn" in "".join(plotted.itertext())
    long = "x" * 100_000
    sample = {"text": long, "tokens": [1] * 1000, "steps": 1000, "reason": "length"}
    assert len(words(Generation.from_json({"model": "m", "version": 1, "seed": 1, "results": [sample] * 500}))) < 15_000
    several = np.zeros((1000, 30))
    assert "22 more not drawn" in words(Forecast("m", 1, 1000, several))
    assert "and 988 more" in words(Forecast("m", 1, 1000, several, quantiles={0.1: several, 0.9: several}))
    labelled = [{"label": f"l{step}", "probability": 0.5, "top": []} for step in range(50_000)]
    shown(Result(length=50_000, outputs=outputs[:50_000, :1], decoded=labelled))


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0, 0.0],
        [np.nan, np.nan],
        [np.inf, 1.0, 2.0],
        [1.7e308, -1.7e308],
        [5.0],
    ],
    ids=str,
)
def test_a_plot_of_any_values_has_finite_points(values: list[float]) -> None:
    forecast = Forecast("m", 1, len(values), np.array(values))
    points = [one.get("points", "") for one in shown(forecast).iter("polyline")]
    assert len(points) == (np.isfinite(values).any() and len(values) > 1)
    assert all(re.fullmatch(r"(\d+\.\d,\d+\.\d ?)+", one) for one in points), points
