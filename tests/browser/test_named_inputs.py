"""A model with several inputs and outputs on the page: what is typed is what is sent, and every output is shown."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenScreen, both_looks
from tests.browser.screen import Screen, rows, value
from tests.browser.test_page import violations
from tests.named import sequence, static, write_models
from tests.running import RunningServer, environment, running_server

look = both_looks()
# The page writes four significant digits.
ROUNDED: dict[str, float] = {"rel": 5.1e-4, "abs": 1e-9}
DATA = sequence(5)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = write_models(tmp_path_factory.mktemp("named"))
    examples = [{"title": "Five steps", "sequence": DATA["input"]}, {"title": "With its gain", "sequence": DATA}]
    (root / "tagger" / "1" / "examples.json").write_text(json.dumps(examples))
    with running_server(root) as one:
        yield one


@pytest.fixture
def tagger(screen: Screen) -> Screen:
    screen.open("explore", "tagger").get_by_text("5 of 5", exact=True).wait_for()
    return screen


def result(own: RunningServer, **body: Any) -> dict[str, Any]:
    answer = own.predict("tagger", **{"return": "steps"}, **body)
    assert answer.status_code == 200, answer.text
    one: dict[str, Any] = answer.json()["results"][0]
    return one


def fill(screen: Screen, given: dict[str, Any]) -> None:
    panel = screen.page.get_by_role("tabpanel")
    panel.get_by_role("spinbutton", name="speaker").fill(str(given["speaker"]))
    panel.get_by_role("spinbutton", name="age").fill(str(given["age"][0]))


def test_the_card_lists_every_input_and_output_with_its_role(tagger: Screen, own: RunningServer) -> None:
    card = own.client.get("/v1/models/tagger").json()
    ports = tagger.page.get_by_role("region", name="Inputs and outputs")
    listed = [(row[0], row[1], row[2], row[4], row[5]) for row in rows(ports.locator("tbody"))]
    assert listed == [
        (one["name"], side, one["role"], one["dtype"], one["found"])
        for side in ("input", "output")
        for one in card[f"{side}s"]
    ]
    wide = tagger.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wide, "nothing is wider than the screen"


def test_what_is_typed_is_sent_and_every_output_is_shown(tagger: Screen, own: RunningServer) -> None:
    page = tagger.page
    box = page.get_by_role("tabpanel").get_by_label("gain")
    assert box.input_value().split() == ["1"] * 5
    box.fill("\n".join(map(str, DATA["gain"])))
    given = static(3, 0.7)
    fill(tagger, given)
    for name in ("value", "level", "best"):
        assert page.get_by_label(name, exact=True).is_checked(), "every output is shown, unless somebody wants fewer"
    expected = result(own, sequence=DATA, static=given, heads=["value", "best", "level"])
    page.get_by_text('"speaker": 3').first.wait_for()
    page.get_by_text('"age": 0.7').first.wait_for()
    page.wait_for_load_state("networkidle")
    inputs = tagger.numbers(tagger.figure("Input"))
    for row, features, gain in zip(inputs, DATA["input"], DATA["gain"], strict=True):
        assert [value(cell) for cell in row[1:]] == pytest.approx([*features, gain], **ROUNDED)
    outputs = tagger.numbers(tagger.figure("Outputs, step by step"))
    for row, right in zip(outputs, expected["outputs"], strict=True):
        assert [value(cell) for cell in row[1:5]] == pytest.approx(right, **ROUNDED)
    for name in ("value", "best"):
        shown = [value(row[1]) for row in tagger.numbers(tagger.figure(f"Output {name}"))]
        assert shown == pytest.approx([row[0] for row in expected["heads"][name]], **ROUNDED)
    (level,) = rows(page.get_by_role("region", name="Numbers of Output level").locator("tbody"))
    assert [value(cell) for cell in level[1:5]] == pytest.approx(expected["heads"]["level"], **ROUNDED)
    answer = own.client.post("/v1/models/tagger/influence", json={"sequence": DATA, "static": given}).json()
    reach = [value(row[1]) for row in tagger.numbers(tagger.figure("Influence"))]
    assert reach == pytest.approx(answer["influence"], **ROUNDED)
    assert violations(tagger) == []
    tagger.keep(f"named-{page.viewport_size['width']}")  # type: ignore[index]


def test_the_commands_shown_do_what_the_page_did(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/")
    page = screen.open("explore", "tagger")
    for name in ("best", "level"):
        page.get_by_label(name, exact=True).uncheck()
    fill(screen, static(4, 0.5))
    panel = page.get_by_role("tabpanel")
    panel.get_by_text('"age":0.5').first.wait_for()
    sent = {"sequence": {**DATA, "gain": [1.0] * 5}, "static": static(4, 0.5), "heads": ["value"]}
    right = result(own, **sent)
    curl, _ = panel.locator("pre[data-language=curl]").inner_text().split("\n\n")
    done = subprocess.run(["bash", "-ec", curl], capture_output=True, check=True, timeout=30)
    (shown,) = json.loads(done.stdout)["results"]
    assert (shown["outputs"], shown["heads"]) == (right["outputs"], right["heads"])
    python = panel.locator("pre[data-language=python]").inner_text() + "\n    print(result.heads['value'][-1])"
    command = [sys.executable, "-c", python]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment())
    assert float(ran.stdout.splitlines()[-1].strip("[]")) == pytest.approx(right["heads"]["value"][-1][0], rel=1e-6)


def test_what_cannot_be_sent_is_told_at_its_place(tagger: Screen) -> None:
    page = tagger.page
    page.get_by_role("tabpanel").get_by_label("speaker").fill("")
    page.get_by_role("alert").get_by_text("static.speaker").wait_for()
    page.get_by_role("tabpanel").get_by_label("speaker").fill("1")
    page.get_by_role("alert").get_by_text("static.speaker").wait_for(state="detached")
    page.get_by_role("tabpanel").get_by_label("gain").fill("1\n2")
    page.get_by_role("alert").get_by_text("sequence.gain").wait_for()
    tagger.rejected(422)


def test_a_session_is_made_with_its_static_inputs(tagger: Screen, own: RunningServer) -> None:
    page = tagger.open("session", "tagger")
    given = static(2, 0.25)
    fill(tagger, given)
    live = page.get_by_role("region", name="Session", exact=True)
    expect(live.get_by_text("Fixed when it was made: speaker 0, age 0.")).to_be_visible()
    page.get_by_role("button", name="New session").click()
    expect(live.get_by_text("Fixed when it was made: speaker 2, age 0.25.")).to_be_visible()
    live.get_by_role("textbox", name="Piece").fill(json.dumps(DATA["input"][:2]))
    live.get_by_label("gain").fill(json.dumps(DATA["gain"][:2]))
    live.get_by_role("button", name="Send").click()
    live.get_by_text("2 steps").first.wait_for()
    part = {name: values[:2] for name, values in DATA.items()}
    right = result(own, sequence=part, static=given)["outputs"]
    shown = tagger.numbers(tagger.figure("Outputs over the session"))
    for row, one in zip(shown, right, strict=True):
        assert [value(cell) for cell in row[1:5]] == pytest.approx(one, **ROUNDED)
    answer = own.predict("tagger", sequence=part, static=given, heads=["value", "best", "level"]).json()["results"][0]
    last = {"output": right[-1], **answer["heads"]}
    assert {name.inner_text() for name in live.locator(".outputs dt").all()} == set(last)
    for name, one in last.items():
        shown_row = live.locator(".outputs div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()
        assert [value(cell) for cell in shown_row.split(", ")] == pytest.approx(one, **ROUNDED)
    heads = [value(row[1]) for row in tagger.numbers(tagger.figure("Output value"))]
    assert heads[-1] == pytest.approx(last["value"][0], **ROUNDED)
    assert violations(tagger) == []
    tagger.keep(f"named-session-{page.viewport_size['width']}")  # type: ignore[index]


def test_a_piece_of_an_example_is_sent_with_its_further_inputs(tagger: Screen, own: RunningServer) -> None:
    page = tagger.open("session", "tagger")
    live = page.get_by_role("region", name="Session", exact=True)
    expect(live.locator(".figure-line")).to_have_text("1 step")
    live.get_by_text("From an example").click()
    live.get_by_label("Example").select_option("With its gain")
    for steps in (slice(0, 1), slice(1, 5)):
        with page.expect_request("**/steps") as sent:
            live.get_by_role("button", name="Send").click()
        assert sent.value.post_data_json["sequence"] == {name: values[steps] for name, values in DATA.items()}
        expect(live.locator(".figure-line")).to_have_text(f"{1 + steps.stop} steps")
    own.client.delete(f"/v1/sessions/{live.locator('.id').inner_text()}").raise_for_status()


def test_a_text_is_generated_with_static_inputs(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/")
    page = screen.open("generate", "letters")
    page.get_by_role("spinbutton", name="style").fill("2")
    page.get_by_label("Prompt").fill("ab")
    page.get_by_role("spinbutton", name="Seed").fill("7")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("Keep this seed").wait_for()
    body = {"prompt": "ab", "static": {"style": 2}, "seed": 7, "samples": 6, "max_steps": 40, "temperature": 0.8}
    answer = own.client.post("/v1/models/letters/generate", json=body).json()
    shown = page.get_by_role("list", name="Samples").get_by_role("listitem").locator(".made").all_inner_texts()
    assert shown == [one["text"] for one in answer["results"]]
