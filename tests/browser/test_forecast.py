"""Forecast: the fan on the screen is the API's."""

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.screen import Screen, value
from tests.browser.test_page import violations
from tests.running import RunningServer, environment

ROUNDED: dict[str, float] = {"rel": 5.1e-4, "abs": 1e-9}


def forecasters(server: RunningServer) -> list[dict[str, Any]]:
    models = server.client.get("/v1/models").json()["models"]
    return [one for one in models if one["forecast"] and one["examples"]]


@pytest.fixture(params=["alone", "with known inputs"])
def forecaster(request: pytest.FixtureRequest, server: RunningServer) -> dict[str, Any]:
    """The card of a forecaster: of a series alone, and of one with inputs that are known ahead."""
    known = request.param != "alone"
    found = [one for one in forecasters(server) if bool(one["forecast"]["known"]) == known]
    if not found:
        pytest.skip(f"no model forecasts {request.param}")
    return found[0]


def first(rows: list[Any]) -> list[float]:
    """The first output of each step."""
    return [row[0] if isinstance(row, list) else row for row in rows]


def test_the_fan_holds_the_numbers_of_the_api(
    screen: Screen, server: RunningServer, forecaster: dict[str, Any]
) -> None:
    name = forecaster["name"]
    example = server.client.get(f"/v1/models/{name}/examples").json()["examples"][0]
    page = screen.open("forecast", name)
    panel = page.get_by_role("tabpanel")
    figure = screen.figure("Forecast")
    horizon = min(12, len(example["truth"]))
    panel.get_by_label("Horizon").fill(str(horizon))
    panel.get_by_role("spinbutton", name="Samples").fill("50")
    panel.get_by_label("Seed").fill("5")
    panel.get_by_label("Quantiles").fill("0.1, 0.5, 0.9")
    with page.expect_response(lambda response: response.url.endswith("/forecast")):
        page.get_by_role("button", name="Forecast", exact=True).click()
    page.get_by_text(f"after {horizon} steps").wait_for()

    body = {"series": example["sequence"], "horizon": horizon, "samples": 50, "seed": 5, "quantiles": [0.1, 0.5, 0.9]}
    if example.get("future"):
        body["future"] = example["future"][:horizon]
    answer = server.client.post(f"/v1/models/{name}/forecast", json=body).json()
    table = screen.numbers(figure)
    heads = figure.locator("thead th").all_inner_texts()
    shown = {head: [value(row[i]) for row in table] for i, head in enumerate(heads) if i}
    expected = {
        "forecast": first(answer["point"]),
        "mean": first(answer["mean"]),
        **{f"quantile {q}": first(rows) for q, rows in answer["quantiles"].items()},
        "truth": first(example["truth"])[:horizon],
    }
    assert list(shown) == list(expected)
    for head, numbers in expected.items():
        assert shown[head] == pytest.approx(numbers, **ROUNDED), head
    misses = float(np.abs(np.subtract(expected["forecast"], expected["truth"])).mean())
    detail = page.locator("#forecast .lead").inner_text()
    assert f"{misses:.4g}" in detail.replace("\u202f", "") and "Seed 5." in detail
    screen.keep(f"forecast-{name}")

    python = screen.code("forecast")
    ran = subprocess.run(
        [sys.executable, "-c", python], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
    printed = np.fromstring(ran.stdout.split("]")[0].replace("[", ""), sep=" ")
    assert printed[0] == pytest.approx(np.ravel(answer["point"])[0], rel=1e-6)


def test_a_changed_history_has_no_truth_and_wrong_numbers_are_said(screen: Screen, server: RunningServer) -> None:
    found = [one for one in forecasters(server) if not one["forecast"]["known"] and one["input"]["size"] == 1]
    if not found:
        pytest.skip("no model forecasts one series alone")
    page = screen.open("forecast", found[0]["name"])
    panel = page.get_by_role("tabpanel")
    figure = screen.figure("Forecast")
    page.get_by_text("The numbers themselves").click()
    page.get_by_role("textbox", name="History").fill("10\n30\n60\n90\n60\n30\n10\n30")
    with page.expect_response(lambda response: response.url.endswith("/forecast")):
        page.get_by_role("button", name="Forecast", exact=True).click()
    page.wait_for_function("() => !document.querySelector('#forecast .lead').textContent.includes('truth')")
    screen.numbers(figure)
    assert "truth" not in figure.locator("thead").inner_text()

    panel.get_by_label("Quantiles").fill("0.5, 1.5")
    page.get_by_role("button", name="Forecast", exact=True).click()
    page.get_by_role("alert").get_by_text("invalid_quantile").wait_for()
    panel.get_by_label("Quantiles").fill("0.5")
    panel.get_by_label("Horizon").fill("0")
    page.get_by_role("button", name="Forecast", exact=True).click()
    page.wait_for_timeout(200)


def test_long_arrays_of_the_code_are_folded_and_copied_whole(screen: Screen) -> None:
    page = screen.open("forecast", "sunspots-gru")
    block = page.locator("#forecast pre[data-language=python]")
    folded = block.locator(".folded")
    expect(folded).to_have_text(re.compile(r"^… \d+ more …$"))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the Python code").click()
    page.get_by_role("button", name="Copy the Python code").get_by_text("Copied").wait_for()
    whole = page.evaluate("navigator.clipboard.readText()")
    assert len(block.inner_text()) < 900 < len(whole)
    folded.focus()
    page.keyboard.press("Enter")
    expect(folded).to_have_count(0)
    assert block.inner_text() == whole
    expect(block).to_be_focused()
    assert violations(screen) == []
