"""Forecasts of models that read other sequences, and series with missing values: what is entered is what is sent."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from playwright.sync_api import Locator, expect

from elman.repository.spec import DecoderSpec, ForecastSpec, InputSpec, ModelSpec
from tests.api.test_further_forecasts import SPECS, ahead, given, lists, network
from tests.browser.conftest import OpenScreen, both_looks
from tests.browser.screen import Screen, rows, value
from tests.browser.test_page import violations
from tests.looping import RESIDUALS, forecast, forecaster
from tests.repository import graphs
from tests.running import RunningServer, environment, running_server

pytestmark = pytest.mark.slow
look = both_looks()

# The page writes four significant digits.
ROUNDED: dict[str, float] = {"rel": 5.1e-4, "abs": 1e-9}
WINDOW = 6
OUTPUTS = {"all": graphs.FEATURES, "unsaid": graphs.FEATURES}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("inputs")
    for name, spec in SPECS.items():
        put(root, name, network(OUTPUTS.get(name, 1)), spec)
    examples = [
        {"title": "Made", "sequence": lists(given(12)), "future": lists(ahead(5)), "truth": [50.0, None, 51.0, 49.0]},
        {"title": "Another", "sequence": lists(given(9, 3)), "future": lists(ahead(5, 4)), "truth": [50.0] * 5},
    ]
    put(root, "shown", network(1), SPECS["same"], examples)
    graphs.save(windows(), root / "windows" / "1")
    for name, missing in (("filled", "forward_fill"), ("plain", None)):
        decoder = DecoderSpec(kind="values", mean=(10.0,), std=(2.0,))
        spec = ModelSpec(
            task="forecasting",
            input=InputSpec(missing=missing),
            decoder=decoder,
            forecast=ForecastSpec(residuals=RESIDUALS),
        )
        put(root, name, forecaster("gru", 1, 1).proto(), spec)
    with running_server(root) as one:
        yield one


def windows() -> onnx.ModelProto:
    """(batch, WINDOW, features) and `gain` per step to 2 numbers, by a layer over the flattened outputs of an LSTM."""
    dense = np.random.default_rng(3).standard_normal((WINDOW * graphs.HIDDEN, 2))
    return graphs.tagger(
        time=WINDOW,
        before=(helper.make_node("Mul", ["input", "gain"], ["given"]),),
        after=(
            helper.make_node("Reshape", ["steps", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "dense"], ["output"]),
        ),
        tensors=(
            graphs.constant("flat", [-1, WINDOW * graphs.HIDDEN]),
            graphs.constant("dense", dense, np.float32),
        ),
        extra=(graphs.value("gain", ["batch", WINDOW, 1]),),
    )


def put(root: Path, name: str, proto: onnx.ModelProto, spec: ModelSpec, examples: Any = None) -> None:
    folder = root / name / "1"
    graphs.save(proto, folder)
    (folder / "model.json").write_text(json.dumps(spec.dump()))
    if examples is not None:
        (folder / "examples.json").write_text(json.dumps(examples))


def csv(values: Any) -> str:
    return "\n".join(", ".join(map(str, row)) if isinstance(row, list) else str(row) for row in values)


def shown(screen: Screen, column: str = "forecast") -> list[float]:
    """A column of the forecast's table."""
    figure = screen.figure("Forecast")
    table = screen.numbers(figure)
    heads = figure.locator("thead th").all_inner_texts()
    return [value(row[heads.index(column)]) for row in table]


def gaps(figure: Locator) -> int:
    """How often a line of a picture begins anew."""
    paths = figure.locator("path[fill=none]").evaluate_all("paths => paths.map((path) => path.getAttribute('d'))")
    return sum(path.count("M") - 1 for path in paths)


def run(python: str) -> str:
    """What a program prints that the page shows."""
    command = [sys.executable, "-c", python]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment()).stdout


def test_the_rows_of_every_input_are_sent_by_name(screen: Screen, own: RunningServer) -> None:
    page = screen.open("forecast", "same")
    panel = page.get_by_role("tabpanel")
    page.get_by_text("after 24 steps").wait_for()
    page.get_by_text("The numbers themselves").focus()
    page.keyboard.press("Enter")
    past, future = lists(given(9)), lists(ahead(4))
    boxes = {
        "History": past["input"],
        "calendar": past["calendar"],
        "day": past["day"],
        "Known ahead": future["input"],
        "calendar, known ahead": future["calendar"],
        "day, known ahead": future["day"],
    }
    for name, values in boxes.items():
        panel.get_by_role("textbox", name=re.compile(f"^{name}( |$)")).fill(csv(values))
    panel.get_by_role("spinbutton", name="Horizon").fill("4")
    panel.get_by_role("spinbutton", name="Samples").fill("20")
    with page.expect_request("**/forecast") as asked:
        panel.get_by_role("spinbutton", name="Samples").press("Enter")
    sent = json.loads(asked.value.post_data or "")
    assert (sent["series"], sent["future"]) == (past, future)
    page.get_by_text("after 4 steps").wait_for()
    answer = forecast(
        own, "same", series=past, future=future, horizon=4, samples=20, seed=1, quantiles=sent["quantiles"]
    )
    assert shown(screen) == pytest.approx(answer["point"], **ROUNDED)
    assert shown(screen, "quantile 0.95") == pytest.approx(answer["quantiles"]["0.95"], **ROUNDED)
    assert violations(screen) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screen.keep(f"forecast-further-{page.viewport_size['width']}")  # type: ignore[index]

    ran = run(screen.code("forecast"))
    assert np.fromstring(ran.split("]")[0].strip("["), sep=" ") == pytest.approx(answer["point"], rel=1e-5)

    # All of it is in the address.
    page.reload()
    page.get_by_text("after 4 steps").wait_for()
    assert shown(screen) == pytest.approx(answer["point"], **ROUNDED)


@pytest.mark.parametrize("model", ["next", "window", "window-next", "all", "direct"])
def test_something_is_made_up_for_every_input(open_screen: OpenScreen, own: RunningServer, model: str) -> None:
    screen = open_screen(own.url + "/")
    with screen.page.expect_request("**/forecast") as asked:
        page = screen.open("forecast", model)
    page.get_by_text(re.compile("after (24 steps|1 step)")).wait_for()
    sent = json.loads(asked.value.post_data or "")
    assert sent["series"]["day"] == [1] * 40 and sent["series"]["calendar"] == [[1, 1]] * 40
    if model == "direct":
        assert "future" not in sent and page.get_by_label("day, known ahead").is_hidden()
    else:
        assert sent["future"]["calendar"] == [[1, 1]] * 24
        assert ("input" in sent["future"]) == (model != "all")


def test_an_example_brings_the_values_of_every_input(screen: Screen, own: RunningServer) -> None:
    page = screen.open("forecast", "shown")
    page.get_by_text("after 4 steps").wait_for()
    answer = forecast(own, "shown", series=lists(given(12)), future=lists(ahead(5)), horizon=4)
    assert shown(screen) == pytest.approx(answer["point"], **ROUNDED)
    misses = [abs(answer["point"][i] - truth) for i, truth in ((0, 50.0), (2, 51.0), (3, 49.0))]
    assert f"by {sum(misses) / 3:.4g}" in page.locator("#forecast .lead").inner_text()
    page.get_by_label("Held-out history").select_option("1")
    page.get_by_text("after 5 steps").wait_for()
    answer = forecast(own, "shown", series=lists(given(9, 3)), future=lists(ahead(5, 4)), horizon=5)
    assert shown(screen) == pytest.approx(answer["point"], **ROUNDED)
    page.wait_for_url("**/#forecast/shown?example=1")
    page.go_back()
    page.get_by_text("after 4 steps").wait_for()
    # Explore reads the same examples.
    page.get_by_role("tab", name="Explore").click()
    page.get_by_role("region", name="Answer").get_by_text("After all 12 steps").wait_for()
    expect(page.get_by_role("tabpanel").get_by_label("day")).to_have_value(csv(lists(given(12))["day"]))


def test_a_model_of_windows_opens_with_one_of_its_length(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/")
    with screen.page.expect_request("**/predict") as asked:
        page = screen.open("explore", "windows")
    sent = json.loads(asked.value.post_data or "")["sequence"]
    assert len(sent["input"]) == len(sent["gain"]) == WINDOW
    page.get_by_text(f"exactly {WINDOW} steps").wait_for()
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text(f"After all {WINDOW} steps")
    # It has one row for the whole sequence: there is nothing to go through step by step.
    output = own.predict("windows", sequence=sent).json()["results"][0]["output"]
    assert value(answer.locator(".answer .number").inner_text()) == pytest.approx(output[0], **ROUNDED)
    (row,) = rows(page.get_by_role("region", name="Numbers of Output output").locator("tbody"))
    assert [value(cell) for cell in row[1:]] == pytest.approx(output, **ROUNDED)
    assert page.get_by_role("button", name="Play").is_hidden()
    assert page.get_by_role("heading", name="Influence").is_hidden()
    python = screen.code("explore")
    assert np.fromstring(run(python).strip("[] \n"), sep=" ") == pytest.approx(output, rel=1e-5)
    page.get_by_role("radio", name="Draw").check()
    expect(page.locator("#explore .state-line")).to_be_hidden()
    expect(answer).to_contain_text(f"After all {WINDOW} steps")
    assert page.get_by_role("alert").inner_text() == ""
    assert violations(screen) == []
    screen.keep("window")


SERIES = '8\n9\nnull\n11\n12\n""\n14'
# How a table writes a value that is missing.
MISSES = "\u2013"
MISSING = [8, 9, None, 11, 12, None, 14]


def test_missing_values_are_read_and_shown_as_gaps(screen: Screen, own: RunningServer) -> None:
    page = screen.open("forecast", "filled")
    page.get_by_text("after 24 steps").wait_for()
    page.get_by_text("The numbers themselves").click()
    page.get_by_role("textbox", name="History").fill(SERIES)
    with page.expect_request("**/forecast") as asked:
        page.get_by_role("button", name="Forecast", exact=True).click()
    assert json.loads(asked.value.post_data or "")["series"] == [[one] for one in MISSING]
    figure = screen.figure("Forecast")
    figure.get_by_text("2 values of this history missing").wait_for()
    answer = forecast(own, "filled", series=MISSING, horizon=24)
    assert shown(screen) == pytest.approx(answer["point"], **ROUNDED)
    assert gaps(figure) == 2
    screen.keep(f"forecast-missing-{page.viewport_size['width']}")  # type: ignore[index]
    ran = run(screen.code("forecast"))
    assert np.fromstring(ran.split("]")[0].strip("["), sep=" ") == pytest.approx(answer["point"], rel=1e-5)

    page.get_by_role("tab", name="Explore").click()
    page.get_by_role("textbox", name="Numbers").fill(SERIES)
    page.get_by_role("region", name="Answer").get_by_text("After all 7 steps").wait_for()
    inputs = screen.figure("Input", page.locator("#explore .score"))
    assert [row[1] for row in screen.numbers(inputs)] == ["8", "9", MISSES, "11", "12", MISSES, "14"]
    assert gaps(inputs) == 2
    inputs.get_by_text("2 values missing").wait_for()
    answer = own.predict("filled", sequence=MISSING, **{"return": "steps"}).json()["results"][0]
    table = screen.numbers(screen.figure("The next value, foreseen at each step", page.locator("#explore .score")))
    assert [value(row[1]) for row in table] == pytest.approx([row[0] for row in answer["decoded"]], **ROUNDED)
    assert [row[2] for row in table] == ["9", MISSES, "11", "12", MISSES, "14", MISSES]
    printed = run(screen.code("explore"))
    assert float(printed.split("]")[0].strip("[")) == pytest.approx(answer["decoded"][-1][0], rel=1e-5)
    assert violations(screen) == []
    screen.keep(f"explore-missing-{page.viewport_size['width']}")  # type: ignore[index]


def test_missing_values_are_refused_where_the_model_takes_none(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/")
    page = screen.open("forecast", "plain")
    page.get_by_text("after 24 steps").wait_for()
    page.get_by_text("The numbers themselves").click()
    page.get_by_role("textbox", name="History").fill(SERIES)
    page.get_by_role("button", name="Forecast", exact=True).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("missing_value")
    expect(alert).to_contain_text("line 3, column 1")
    assert page.locator("#forecast .results").is_hidden()
