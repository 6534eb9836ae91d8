"""The tour: a line that is drawn and a word that is typed; what is said of them agrees with the server's answers."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import OpenScreen, both_looks
from tests.browser.screen import Screen, value
from tests.browser.test_page import focused, violations
from tests.browser.test_races import Held
from tests.browser.test_states import release
from tests.conftest import StartServer
from tests.running import STORE, RunningServer, running_server

# It starts servers of its own.
pytestmark = pytest.mark.slow
look = both_looks()

STEPS = 48
CELLS = ("sunspots-rnn", "sunspots-lstm", "sunspots-gru")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("tour")
    for name in (*CELLS, "names-gru", "vowels-gru"):
        (root / name).symlink_to(STORE / name)
    with running_server(root) as one:
        yield one


def arrive(page: Page, url: str) -> Locator:
    page.goto(f"{url}/#tour")
    panel = page.get_by_role("tabpanel", name="Tour")
    expect(panel.get_by_text("This step moved it by")).to_be_visible()
    return panel


def chosen(panel: Locator) -> int:
    words: str = panel.get_by_role("slider", name="Your line").get_attribute("aria-valuetext") or ""
    return int(words.split()[1].rstrip(":"))


def drawn(panel: Locator, page: Page) -> list[list[float]]:
    """The line, as its steps tell it."""
    slate = panel.get_by_role("slider", name="Your line")
    rows = page.evaluate(
        """(slate) => {
          const press = (key) => slate.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          const at = slate.getAttribute("aria-valuetext").match(/step (\\d+) of (\\d+)/).slice(1).map(Number);
          press("Home");
          const rows = [];
          for (let i = 0; i < at[1]; i++, press("ArrowRight")) rows.push([Number(slate.getAttribute("aria-valuenow"))]);
          press("Home");
          for (let i = 1; i < at[0]; i++) press("ArrowRight");
          return rows;
        }""",
        slate.element_handle(),
    )
    found: list[list[float]] = rows
    return found


def result(own: RunningServer, model: str, sequence: Any) -> dict[str, Any]:
    answer = own.predict(model, sequence=sequence, hidden=True, top=13, **{"return": "steps"})
    assert answer.status_code == 200, answer.text
    one: dict[str, Any] = answer.json()["results"][0]
    return one


def fading(own: RunningServer, model: str, line: list[list[float]], step: int, low: float, high: float) -> str:
    """What the tour says of a line with a step moved, from the server's own answers."""
    moved = [list(row) for row in line]
    by = (-0.4 if line[step - 1][0] > low + 0.6 * (high - low) else 0.4) * (high - low)
    moved[step - 1][0] = float(f"{line[step - 1][0] + by:.4g}")
    return faded(own, model, line, moved, step)


def faded(own: RunningServer, model: str, given: Any, altered: Any, step: int) -> str:
    """What the tour says of two sequences that differ at a step, from the server's own answers."""
    plain, other = result(own, model, given)["hidden"], result(own, model, altered)["hidden"]
    squares = sum(np.sum((np.array(plain[name]) - np.array(other[name])) ** 2, axis=1) for name in plain)
    later = np.sqrt(squares)[step - 1 :]
    top = int(np.argmax(later))
    half = next((t for t in range(top + 1, len(later)) if later[t] <= later[top] / 2), None)
    gone = (
        "More than half of it stays to the end"
        if half is None
        else f"Half of it is gone {half - top} step{'s' if half - top > 1 else ''} later"
    )
    left = f"{100 * later[-1] / later[top]:.1f} %"
    return f"The difference is greatest after step {step + top}. {gone}; after the last step {left} is left."


def limits(panel: Locator) -> tuple[float, float]:
    slate = panel.get_by_role("slider", name="Your line")
    return float(slate.get_attribute("aria-valuemin") or ""), float(slate.get_attribute("aria-valuemax") or "")


def test_each_stage_says_what_the_server_answers(screen: Screen, own: RunningServer) -> None:
    page, width = screen.page, screen.page.viewport_size["width"]  # type: ignore[index]
    panel = arrive(page, own.url)
    line, step = drawn(panel, page), chosen(panel)
    assert len(line) == STEPS and len(own.client.get("/v1/models").json()["models"]) == 5
    example = own.client.get("/v1/models/sunspots-gru/examples").json()["examples"][0]["sequence"]
    assert line == example[-STEPS:]
    stages = panel.get_by_role("navigation", name="Stages of the tour").get_by_role("button")
    expect(stages).to_have_count(5)

    def stage(number: int, title: str) -> None:
        expect(panel.get_by_text(f"Stage {number} of 5")).to_be_visible()
        expect(panel.get_by_role("heading", name=title, exact=True)).to_be_visible()
        expect(stages.nth(number - 1)).to_have_attribute("aria-current", "step")
        expect(panel.locator(".state-line")).to_be_hidden()
        assert violations(screen) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        screen.keep(f"tour-{number}-{width}")

    whole = result(own, "sunspots-gru", line)
    foretold = [row[0] for row in whole["decoded"]]
    told = panel.get_by_text("This step moved it by")
    numbers = [value(one) for one in re.findall(r"[−\d.]+\d", told.inner_text())]  # noqa: RUF001
    assert numbers == pytest.approx([step, foretold[step - 1], foretold[step - 1] - foretold[step - 2]], rel=6e-4)
    bars = [value(row[1]) for row in screen.numbers(screen.figure("What each step added"))]
    assert bars == pytest.approx(np.diff([0, *foretold]).tolist(), rel=6e-4, abs=1e-9)
    stage(1, "One step at a time")

    panel.get_by_role("button", name="Next").click()
    expect(panel.locator(".callout")).to_have_text(
        f"Cut after step {step}: 48 bytes were handed over. Of the {STEPS - step} answers after them, all are the same "
        "to the last bit as when the line is read whole."
    )
    memory = screen.numbers(screen.figure("The memory after each step"))
    assert [value(row[-1]) for row in memory] == pytest.approx(whole["hidden"]["h"][-1], rel=6e-4, abs=1e-9)
    stage(2, "What the memory holds")

    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_text(fading(own, "sunspots-gru", line, step, *limits(panel)))).to_be_visible()
    stage(3, "What fades")

    panel.get_by_role("button", name="Next").click()
    for model in CELLS:
        column = panel.get_by_role("region", name=model)
        expect(column).to_contain_text(fading(own, model, line, step, *limits(panel)))
        outputs = screen.numbers(screen.figure("The answer after each step", column))
        right = [row[0] for row in result(own, model, line)["decoded"]]
        assert [value(row[1]) for row in outputs] == pytest.approx(right, rel=6e-4, abs=1e-9)
    stage(4, "RNN, LSTM and GRU")

    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_role("button", name="Next")).to_be_hidden()
    stage(5, "Go on")
    panel.get_by_role("link", name="Explore").click()
    expect(page.get_by_role("region", name="Answer")).to_contain_text(f"After all {STEPS} steps")
    assert [[float(row)] for row in page.get_by_role("textbox", name="Numbers").input_value().splitlines()] == line


def test_what_is_claimed_of_the_cut_is_looked_at(screen: Screen, own: RunningServer) -> None:
    """Were the rest of the answers others, the tour would say so."""
    page = screen.page
    panel = arrive(page, own.url)

    def spoil(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        if "state" in (route.request.post_data_json or {}):
            body["results"][0]["outputs"][3][0] += 1e-6
        route.fulfill(response=answer, body=json.dumps(body))

    page.route("**/predict", spoil)
    panel.get_by_role("button", name="Next").click()
    expect(panel.locator(".callout")).to_contain_text(f"Of the {STEPS - chosen(panel)} answers after them, 31 are the")


def test_a_line_is_drawn_with_the_mouse_and_read_anew(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    slate = panel.get_by_role("slider", name="Your line")
    slate.scroll_into_view_if_needed()
    before = drawn(panel, page)
    box = slate.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.9 * box["height"], steps=3)
    page.mouse.up()
    line = drawn(panel, page)
    low, high = limits(panel)
    assert line[:11] == before[:11] and line[38:] == before[38:]
    middle = [row[0] for row in line[12:36]]
    assert middle == sorted(middle, reverse=True) and middle[0] > low + 0.8 * (high - low) > middle[-1]
    expect(panel.get_by_role("combobox", name="Start from")).to_have_value("own")
    check_answer(panel, own, line)


def check_answer(panel: Locator, own: RunningServer, line: list[list[float]]) -> None:
    step = chosen(panel)
    foretold = result(own, "sunspots-gru", line)["decoded"][step - 1][0]
    expect(panel.get_by_text(re.compile(rf"^After step {step} the answer is "))).to_contain_text(
        f"the answer is {shown(foretold)}."
    )


def shown(number: float) -> str:
    """A number as the page writes it."""
    return f"{float(f'{number:.4g}'):g}".replace("-", "−")  # noqa: RUF001


def test_a_line_is_drawn_with_a_finger_and_the_page_stays(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/", width=390)
    page = screen.page
    panel = arrive(page, own.url)
    slate = panel.get_by_role("slider", name="Your line")
    slate.scroll_into_view_if_needed()
    box = slate.bounding_box()
    assert box is not None
    scrolled = page.evaluate("scrollY")
    link = page.context.new_cdp_session(page)
    link.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    places = [(0.2, 0.2), (0.25, 0.5), (0.3, 0.8)]
    for kind, place in zip(("touchStart", "touchMove", "touchMove"), places, strict=True):
        at = {"x": box["x"] + place[0] * box["width"], "y": box["y"] + place[1] * box["height"]}
        link.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
    link.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    line = drawn(panel, page)
    low, high = limits(panel)
    for share, height in places:
        at = line[int(share * STEPS)][0]
        assert at == pytest.approx(high - height * (high - low), abs=0.12 * (high - low))
    assert page.evaluate("scrollY") == scrolled
    check_answer(panel, own, line)
    link.send("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_by_keyboard_alone_a_line_is_drawn_and_the_tour_gone_through(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    press = page.keyboard.press

    def to(name: str) -> None:
        for _ in range(25):
            if focused(page).startswith(name):
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
            press("Tab")
        raise AssertionError(f"{name} was not reached")

    page.get_by_role("tab", name="Tour").focus()
    to("Your line")
    slate = page.locator("[role=slider]:focus")
    first = drawn(panel, page)
    press("Home")
    for key in ("ArrowRight", "ArrowRight", "PageUp", "ArrowUp", "ArrowDown", "ArrowUp"):
        press(key)
    line = drawn(panel, page)
    low, high = limits(panel)
    assert chosen(panel) == 3
    assert line[2][0] == pytest.approx(min(high, first[2][0] + 0.25 * (high - low)), abs=0.01 * (high - low))
    assert [*line[:2], *line[3:]] == [*first[:2], *first[3:]]
    expect(slate).to_have_attribute("aria-valuetext", re.compile(r"^step 3 of 48: [\d.]+ sunspots$"))
    expect(slate).to_have_accessible_description(re.compile("left and right choose a step"))
    check_answer(panel, own, line)
    press("End")
    assert chosen(panel) == STEPS
    for number in (2, 3, 4, 5):
        to("Next")
        press("Enter")
        expect(panel.get_by_text(f"Stage {number} of 5")).to_be_visible()
        assert focused(page) == panel.locator("h2").first.inner_text()
    to("Back")
    press("Enter")
    expect(panel.get_by_text("Stage 4 of 5")).to_be_visible()


def test_a_stage_and_its_line_have_an_address(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    panel.get_by_role("combobox", name="Start from").select_option("pulse")
    panel.get_by_role("slider", name="Chosen step").fill("20")
    panel.get_by_role("button", name="Next").click()
    expect(panel.locator(".callout")).to_contain_text("Cut after step 20")
    page.wait_for_url("**/#tour?stage=2&step=20&from=pulse")
    line = drawn(panel, page)
    page.goto("about:blank")
    page.go_back()
    expect(panel.get_by_text("Stage 2 of 5")).to_be_visible()
    expect(panel.locator(".callout")).to_contain_text("Cut after step 20")
    assert drawn(panel, page) == line
    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_text("Stage 3 of 5")).to_be_visible()
    page.go_back()
    expect(panel.get_by_text("Stage 2 of 5")).to_be_visible()
    # What is drawn is in it too, as numbers.
    panel.get_by_role("slider", name="Your line").press("ArrowUp")
    page.wait_for_url(re.compile("line="))
    address, line = page.url, drawn(panel, page)
    panel.get_by_role("button", name="Share").click()
    expect(panel.get_by_role("button", name="Link with the input")).to_be_visible()
    assert page.url == address
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("tab", name="Tour").click()
    page.wait_for_url(address)
    page.reload()
    expect(panel.locator(".callout")).to_contain_text("Cut after step 20")
    assert drawn(panel, page) == line


def test_an_answer_that_comes_after_back_does_not_undo_it(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    panel.get_by_role("button", name="Next").click()
    expect(panel.locator(".callout")).to_contain_text("Cut after step")
    page.wait_for_url("**/#tour?stage=2")
    answers = Held(page, "**/predict")
    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_text("Stage 3 of 5")).to_be_visible()
    page.wait_for_url("**/#tour?stage=3")
    answers.wait(1)
    page.go_back()
    page.wait_for_url("**/#tour?stage=2")
    expect(panel.get_by_text("Stage 2 of 5")).to_be_visible()
    # The answer to the third stage comes first, then those to the second.
    answers.end()
    expect(panel.locator(".callout")).to_contain_text("Cut after step")
    assert page.url.endswith("#tour?stage=2")


def test_with_other_models_it_says_what_it_takes_and_what_is_missing(
    start_server: StartServer, open_screen: OpenScreen, tmp_path: Path
) -> None:
    shutil.copytree(STORE / "vowels-lstm-bidirectional", tmp_path / "vowels-lstm-bidirectional")
    server = start_server(tmp_path)
    screen = open_screen(server.url + "/")
    page = screen.page
    page.goto(f"{server.url}/#tour")
    needs = page.get_by_role("region", name="What the tour needs")
    expect(needs).to_contain_text("sunspots-rnn and sunspots-lstm")
    assert violations(screen) == []

    def serve(name: str) -> None:
        shutil.copytree(STORE / name, tmp_path / name)
        server.client.post(f"/v2/repository/models/{name}/load").raise_for_status()

    # A word is read where no model reads numbers, and the visitor keeps it when one comes.
    panel = page.get_by_role("tabpanel", name="Tour")
    serve("names-gru")
    expect(panel.get_by_text("percentage points")).to_be_visible()
    expect(needs).to_be_hidden()
    reads = panel.get_by_label("The network reads")
    expect(reads).to_be_hidden()
    assert page.url.endswith("#tour")
    # Of several numbers a step the first is drawn, as long as there is none of one.
    serve("vowels-gru")
    expect(reads).to_be_visible()
    expect(panel.get_by_role("textbox", name="Word")).to_be_visible()
    reads.select_option("line")
    expect(panel.get_by_text("vowels-gru reads 12: you draw the first")).to_be_visible(timeout=60_000)
    expect(panel.get_by_text("percentage points")).to_be_visible()
    panel.get_by_role("navigation").get_by_role("button", name="4").click()
    expect(panel.locator(".callout")).to_contain_text("serve vowels-rnn and vowels-lstm too")
    serve("sunspots-lstm")
    expect(panel.locator(".callout")).to_contain_text("serve sunspots-rnn and sunspots-gru too", timeout=60_000)
    expect(panel.get_by_text("you draw the first")).to_be_hidden()
    expect(panel.get_by_role("region", name="sunspots-lstm")).to_contain_text("is greatest after step")
    serve("sunspots-gru")
    expect(panel.get_by_role("region", name="sunspots-gru")).to_contain_text("is greatest", timeout=60_000)
    expect(panel.locator(".callout")).to_contain_text("serve sunspots-rnn too")


def test_what_is_waited_for_is_said_and_the_pictures_before_are_dimmed(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    page.goto(f"{own.url}/#tour")
    panel = page.get_by_role("tabpanel", name="Tour")
    line, results = panel.locator(".state-line"), panel.locator(".stage-results")
    expect(line).to_have_attribute("data-state", "loading")
    expect(results).to_be_hidden()
    assert violations(screen) == []
    release(page, held)
    expect(panel.get_by_text("This step moved it by")).to_be_visible()
    next_button = panel.get_by_role("button", name="Next")
    place = next_button.bounding_box()
    panel.get_by_role("combobox", name="Start from").select_option("waves")
    expect(line).to_have_attribute("data-state", "stale")
    expect(results).to_have_attribute("aria-busy", "true")
    expect(line).to_contain_text(re.compile(r"what you changed: \d+ s"), timeout=60_000)
    expect(results).to_have_class(re.compile("stale"))
    assert violations(screen) == []
    assert next_button.bounding_box() == place, "what is waited for moves nothing"
    release(page, held)
    expect(line).to_be_hidden()
    assert next_button.bounding_box() == place


def test_a_failure_is_told_beside_the_line_and_another_line_is_read(lossy: Page, own: RunningServer) -> None:
    page = lossy
    panel = arrive(page, own.url)
    body = {"code": "overloaded", "title": "Busy", "detail": "too much waits"}
    page.route("**/predict", lambda route: route.fulfill(status=503, json=body))
    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_role("alert")).to_contain_text("too much waits")
    expect(panel.locator(".state-line")).to_have_attribute("data-state", "failed")
    expect(panel.locator(".stage-results")).to_be_hidden()
    page.unroute_all()
    panel.get_by_role("combobox", name="Start from").select_option("ramp")
    expect(panel.locator(".callout")).to_contain_text("all are the same to the last bit")
    expect(page.locator("#problem")).to_be_empty()


def test_after_a_restart_it_goes_on_where_it_was(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "sunspots-gru").symlink_to(STORE / "sunspots-gru")
    page = browser.new_page()
    with running_server(tmp_path) as first:
        panel = arrive(page, first.url)
    panel.get_by_role("combobox", name="Start from").select_option("stair")
    panel.get_by_role("button", name="Next").click()
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    line = drawn(panel, page)
    with running_server(tmp_path, "--port", str(first.port)):
        expect(panel.locator(".callout")).to_contain_text("all are the same to the last bit", timeout=60_000)
        expect(page.locator("#problem")).to_be_empty()
        assert drawn(panel, page) == line
        page.close()
