"""Explore: what the page shows of a sequence is what the API answers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import OpenScreen
from tests.browser.screen import Screen, percent, rows, value
from tests.browser.test_page import violations
from tests.running import RunningServer, environment

NAME = "Moravčíková"
# The page writes four significant digits.
ROUNDED: dict[str, float] = {"rel": 5.1e-4, "abs": 1e-9}


def answered(server: RunningServer, model: str, sequence: object) -> dict[str, Any]:
    body = {"sequence": sequence, "return": "steps", "top": 40, "hidden": True}
    result: dict[str, Any] = server.predict(model, **body).json()["results"][0]
    return result


def influence(server: RunningServer, model: str, **body: object) -> dict[str, Any]:
    answer: dict[str, Any] = server.client.post(f"/v1/models/{model}/influence", json=body).json()
    return answer


def typed(screen: Screen, name: str = NAME, model: str = "names-gru") -> Screen:
    """Type a name, and wait until the page has answered it."""
    page = screen.open("explore", model)
    page.get_by_label("Text").fill(name)
    page.get_by_text(f"{len(name)} of {len(name)}", exact=True).wait_for()
    page.locator("#said", has_text=f"after {len(name)} steps").wait_for(state="attached")
    return screen


@pytest.fixture(scope="module")
def name(browser: Browser, server: RunningServer) -> Iterator[Screen]:
    """One page with the name, which the tests that only read it share."""
    page = browser.new_page(reduced_motion="reduce", viewport={"width": 1280, "height": 720})
    screen = typed(Screen(page, server.url + "/"))
    yield screen
    page.close()
    assert screen.complaints == [] and screen.elsewhere() == []


def test_every_step_shows_the_probabilities_of_the_api(name: Screen, server: RunningServer) -> None:
    page = name.page
    result = answered(server, "names-gru", NAME)
    slider = page.get_by_label("Step", exact=True)
    answer = page.get_by_role("region", name="Answer")
    slider.focus()
    page.keyboard.press("Home")
    for step, decoded in enumerate(result["decoded"], start=1):
        assert page.get_by_text(f"{step} of {len(NAME)}", exact=True).is_visible()
        assert answer.locator(".answer").inner_text() == f"{decoded['label']} {percent(decoded['probability'])}"
        bars = answer.locator(".bar")
        shown = [tuple(text.split("\n")) for text in bars.all_inner_texts()]
        assert shown == [(one["label"], percent(one["probability"])) for one in decoded["top"][:5]]
        page.keyboard.press("ArrowRight")


def test_what_is_under_the_pointer_is_told(name: Screen, server: RunningServer) -> None:
    figure = name.figure("Influence", name.page.locator(".score"))
    highest = max(influence(server, "names-gru", sequence=NAME)["influence"])
    tip = figure.locator(".tip")
    assert tip.is_hidden()
    told = set()
    for step in range(1, 41):
        figure.locator(".plot").hover(position={"x": 50 + 15 * step, "y": 60})
        told.add(tip.inner_text() if tip.is_visible() else "")
    values = {int(text.rpartition(" ")[2]): value(text.partition(",")[0]) for text in told - {""}}
    assert sorted(values) == list(range(1, len(NAME) + 1))
    assert max(values.values()) == pytest.approx(highest, **ROUNDED)
    name.page.mouse.move(0, 0)
    assert tip.is_hidden()


def test_a_pixel_of_the_heat_map_is_a_value_of_the_state(name: Screen, server: RunningServer) -> None:
    states = answered(server, "names-gru", NAME)["hidden"]["h"]
    canvas = name.figure("Hidden state", name.page.locator(".score")).locator("canvas")
    pixels = canvas.evaluate(
        """canvas => {
            const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [image.width, image.height, [...image.data]];
        }"""
    )
    width, height, data = pixels
    assert (width, height) == (len(states), len(states[0]))
    # Red tells the two colours apart, and opacity is how far the value is from zero. The first unit is at the bottom.
    colours: dict[bool, set[int]] = {}
    for x, column in enumerate(states):
        for y, h in enumerate(column):
            red, _, _, opacity = data[4 * ((height - 1 - y) * width + x) :][:4]
            assert opacity == pytest.approx(255 * abs(h), abs=1)
            if opacity > 250:
                colours.setdefault(h > 0, set()).add(red)
    assert colours.keys() == {True, False} and not colours[True] & colours[False]


def test_the_tables_hold_the_numbers_of_the_api(name: Screen, server: RunningServer) -> None:
    page = name.page
    score = page.locator(".score")
    result = answered(server, "names-gru", NAME)
    table = name.numbers(name.figure("Probability of each label, step by step", score))
    heads = page.locator(".score thead").first.locator("th").all_inner_texts()
    assert [row[0] for row in table] == [f"{i} {letter}" for i, letter in enumerate(NAME, start=1)]
    for row, decoded in zip(table, result["decoded"], strict=True):
        shown = dict(zip(heads[1:], map(value, row[1:]), strict=True))
        assert shown == pytest.approx({one["label"]: one["probability"] for one in decoded["top"]}, **ROUNDED)

    table = name.numbers(name.figure("Hidden state", score))
    columns = list(zip(*([value(cell) for cell in row[1:]] for row in table), strict=True))
    assert len(table) == 128
    for column, h in zip(columns, result["hidden"]["h"], strict=True):
        assert list(column) == pytest.approx(h, **ROUNDED)

    reach = influence(server, "names-gru", sequence=NAME)
    figure = name.figure("Influence", score)
    assert [value(row[1]) for row in name.numbers(figure)] == pytest.approx(reach["influence"], **ROUNDED)
    assert f"in the last {reach['span']} of {len(NAME)} steps" in figure.inner_text()

    page.get_by_label("on", exact=True).select_option("Slovak")
    slovak = influence(server, "names-gru", sequence=NAME, target="Slovak")
    figure.get_by_text("How far “Slovak” moves").wait_for()
    assert [value(row[1]) for row in name.numbers(figure)] == pytest.approx(slovak["influence"], **ROUNDED)
    page.get_by_label("on", exact=True).select_option("")
    figure.get_by_text("How far the last output moves").wait_for()


def test_three_cells_stand_side_by_side_on_the_same_sequence(name: Screen, server: RunningServer) -> None:
    page = name.page
    compared = page.get_by_role("region", name="RNN, LSTM and GRU side by side")
    compared.get_by_text(f"of {len(NAME)} steps hold 90 %").nth(2).wait_for()
    assert compared.locator(".column h3").all_inner_texts() == ["RNN", "LSTM", "GRU"]
    spans = []
    for cell in ("rnn", "lstm", "gru"):
        model = f"names-{cell}"
        column = compared.get_by_role("region", name=model, exact=True)
        result, reach = answered(server, model, NAME), influence(server, model, sequence=NAME)
        last = result["decoded"][-1]
        assert column.locator(".answer").inner_text() == f"{last['label']} {percent(last['probability'])}"
        shares = name.numbers(name.figure("Influence", column))
        assert [row[1] for row in shares] == [percent(one / sum(reach["influence"])) for one in reach["influence"]]
        assert f"{reach['span']} of {len(NAME)} steps hold 90 %" in column.inner_text()
        outputs = name.numbers(name.figure("Outputs", column))
        assert value(outputs[-1][1]) == pytest.approx(last["probability"], **ROUNDED)
        state = name.numbers(name.figure("Hidden state", column))
        assert [value(row[-1]) for row in state] == pytest.approx(result["hidden"]["h"][-1], **ROUNDED)
        spans.append(f"{cell.upper()} {reach['span']}")
    assert ", ".join(spans) in compared.inner_text()


def test_play_goes_through_every_step_and_stops_at_the_last(screen: Screen) -> None:
    page = typed(screen, NAME[:4]).page
    at = page.locator(".stepper output")
    at.evaluate("""output => {
        window.seen = [];
        new MutationObserver(() => window.seen.push(output.textContent)).observe(output, {childList: true});
    }""")
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Play").wait_for()
    assert page.evaluate("window.seen") == [f"{step} of 4" for step in range(1, 5)]
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").click()
    stopped = at.inner_text()
    page.wait_for_timeout(700)
    assert at.inner_text() == stopped


def test_a_single_step_has_an_answer_and_no_influence(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "names-gru")
    page.get_by_label("Text").fill("M")
    page.get_by_text("1 of 1", exact=True).wait_for()
    last = answered(server, "names-gru", "M")["decoded"][-1]
    answer = page.get_by_role("region", name="Answer").locator(".answer")
    assert answer.inner_text() == f"{last['label']} {percent(last['probability'])}"
    assert page.locator(".score").get_by_role("heading", name="Influence").count() == 0
    page.locator(".column", has_text="RNN").first.wait_for()
    assert page.get_by_role("alert").inner_text() == ""


def test_the_card_is_the_models_own(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "vowels-lstm")
    card = server.client.get("/v1/models/vowels-lstm").json()
    facts = page.locator("dl.facts")
    facts.wait_for()
    text = facts.inner_text()
    assert card["task"] in text
    assert f"LSTM, {card['layers']} layer of {card['hidden_size']}" in text
    assert f"{card['state']['bytes']} bytes (h, c)" in text
    assert f"one of {len(card['output']['labels'])} labels" in text
    assert card["digest"].removeprefix("sha256:")[:12] in text


def test_a_held_out_example_is_run_and_judged(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "vowels-gru")
    examples = server.client.get("/v1/models/vowels-gru/examples").json()["examples"]
    choice = page.get_by_label("Held-out example")
    choice.select_option("3")
    example = examples[3]
    n = len(example["sequence"])
    page.get_by_text(f"{n} of {n}", exact=True).wait_for()
    last = answered(server, "vowels-gru", example["sequence"])["decoded"][-1]
    page.get_by_text(f"The held-out answer is {example['expected']}").wait_for()
    answer = page.get_by_role("region", name="Answer").locator(".answer")
    assert answer.inner_text() == f"{last['label']} {percent(last['probability'])}"
    table = screen.numbers(screen.figure("Input", page.locator(".score")))
    assert [[value(cell) for cell in row[1:]] for row in table] == [
        pytest.approx(step, **ROUNDED) for step in example["sequence"]
    ]
    assert page.get_by_label("state", exact=True).is_hidden()


def test_pasted_csv_is_a_sequence_and_what_is_wrong_with_it_is_said(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "vowels-gru")
    page.get_by_text("The held-out answer is").wait_for()
    page.get_by_role("radio", name="Paste").check()
    numbers = page.get_by_role("textbox", name="Numbers")
    head = ",".join(f"c{i}" for i in range(12))
    lines = [[round(0.1 * (i - j), 2) for j in range(12)] for i in range(3)]
    numbers.fill("\n".join([head, *(";".join(map(str, line)) for line in lines)]))
    page.get_by_text("3 of 3", exact=True).wait_for()
    last = answered(server, "vowels-gru", lines)["decoded"][-1]
    assert page.locator("#explore .side .answer").inner_text() == f"{last['label']} {percent(last['probability'])}"

    # What the page itself cannot read.
    numbers.fill("1, 2, three")
    alert = page.get_by_role("alert")
    alert.get_by_text("not_a_number").wait_for()
    assert "line 1, column 3" in alert.inner_text()

    # What the API refuses: its code, its detail and where.
    numbers.fill("1, 2\n3, 4")
    alert.get_by_text("wrong_features").wait_for()
    refused = server.predict("vowels-gru", sequence=[[1, 2], [3, 4]]).json()
    assert refused["detail"] in alert.inner_text() and refused["where"] in alert.inner_text()
    screen.keep("error")
    screen.rejected(422)
    page.get_by_role("button", name="Close the message").click()
    assert alert.inner_text() == ""


def test_a_model_that_reads_both_ways_is_shown_without_running_state(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "vowels-lstm-bidirectional")
    figure = screen.figure("Probability of each label, step by step", page.locator(".score"))
    assert "Probability of each label" in (figure.locator(".plot").get_attribute("aria-label") or "")
    assert page.locator(".score").get_by_role("heading", name="Hidden state").count() == 0


def test_the_commands_shown_do_what_the_page_did(name: Screen, server: RunningServer) -> None:
    page = name.page
    last = answered(server, "names-gru", NAME)["decoded"][-1]
    curl = name.code("explore", "curl")
    done = subprocess.run(
        ["bash", "-ec", curl.split("\n\n")[0]], capture_output=True, text=True, check=True, timeout=30
    )
    shown = json.loads(done.stdout)["results"][0]["decoded"][-1]
    assert (shown["label"], shown["probability"]) == (last["label"], last["probability"])
    assert json.loads(
        subprocess.run(["bash", "-ec", curl.split("\n\n")[1]], capture_output=True, check=True, timeout=30).stdout
    )["influence"]

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the Python code").click()
    page.get_by_role("button", name="Copy the Python code").get_by_text("Copied").wait_for()
    python = page.evaluate("navigator.clipboard.readText()")
    assert python == name.code("explore")
    ran = subprocess.run(
        [sys.executable, "-c", python], capture_output=True, text=True, check=True, timeout=60, env=environment()
    )
    assert last["label"] in ran.stdout
    span = influence(server, "names-gru", sequence=NAME)["span"]
    assert re.search(rf"^{span} \[", ran.stdout, re.M)


def drawable(server: RunningServer) -> str:
    """A model of one or a few numbers a step."""
    models = server.client.get("/v1/models").json()["models"]
    found = [one["name"] for one in models if one["input"]["kind"] == "features" and one["input"]["size"] <= 6]
    if not found:
        pytest.skip("no model takes a few numbers a step")
    return str(found[0])


def test_a_series_is_drawn_by_pointer(open_screen: OpenScreen, server: RunningServer) -> None:
    screen = open_screen(server.url + "/")
    model = drawable(server)
    page = screen.open("explore", model)
    page.get_by_role("radio", name="Draw").check()
    page.get_by_text("40 of 40", exact=True).wait_for()
    figure = screen.figure("Input", page.locator(".score"))
    before = screen.numbers(figure)[0][1]
    pad = page.locator("canvas.pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] * 0.9)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.1, steps=12)
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] * 0.9, steps=12)
    with page.expect_request(re.compile("/predict$")) as asked:
        page.mouse.up()
    drawn = [row[0] for row in json.loads(asked.value.post_data or "")["sequence"]]
    low, high = (float(page.get_by_role("spinbutton", name=end, exact=True).input_value()) for end in ("Bottom", "Top"))
    top = max(range(40), key=lambda i: drawn[i])
    assert 17 <= top <= 22 and drawn[top] == pytest.approx(low + 0.9 * (high - low), rel=0.05)
    assert drawn[0] == pytest.approx(low + 0.1 * (high - low), abs=0.03 * (high - low))
    # What was drawn is what is shown to have gone in, and without a pointer a shape does the same.
    expect(figure.locator("tbody td").first).not_to_have_text(before)
    assert [value(row[1]) for row in screen.numbers(figure)] == pytest.approx(drawn, **ROUNDED)
    page.get_by_label("Shape", exact=True).select_option("step")
    page.wait_for_function("""() => {
        const [first, ...rest] = document.querySelector(".score tbody").rows;
        return first.cells[1].textContent === rest[18].cells[1].textContent;
    }""")
    assert len({row[1] for row in rows(page.locator(".score tbody").first)}) == 2
    screen.keep("draw")


def test_each_feature_has_an_axis_of_its_own(open_screen: OpenScreen, server: RunningServer) -> None:
    for width in (1280, 390):
        screen = open_screen(server.url + "/", width=width)
        page = screen.open("explore", "watch-gru")
        figure = screen.figure("Input", page.locator(".score"))
        names = server.client.get("/v1/models/watch-gru").json()["input"]["names"]
        panels = figure.locator(".panel")
        expect(panels).to_have_count(len(names))
        # They are below each other, on one axis of steps, and each fills its own height.
        heights = panels.evaluate_all("ones => ones.map((one) => one.getBoundingClientRect().height)")
        assert min(heights) > 30
        tops = panels.evaluate_all("ones => ones.map((one) => one.getBoundingClientRect().top)")
        assert tops == sorted(tops)
        lines = panels.locator("path[fill=none]").evaluate_all(
            "ones => ones.map((one) => one.getBBox()).map(({x, width, height}) => [x, width, height])"
        )
        assert len({(round(x), round(width)) for x, width, _ in lines}) == 1
        assert all(height > 20 for _, _, height in lines)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        screen.keep(f"features-{width}")


def test_states_side_by_side_are_on_one_scale_of_colours(name: Screen, server: RunningServer) -> None:
    compared = name.page.get_by_role("region", name="RNN, LSTM and GRU side by side")
    compared.get_by_text(f"of {len(NAME)} steps hold 90 %").nth(2).wait_for()
    found = []
    for cell in ("rnn", "lstm", "gru"):
        states = answered(server, f"names-{cell}", NAME)["hidden"]["h"]
        column = compared.get_by_role("region", name=f"names-{cell}", exact=True)
        opacities = (
            name.figure("Hidden state", column)
            .locator("canvas")
            .evaluate(
                """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
                .filter((_, i) => i % 4 === 3)"""
            )
        )
        highest = max(abs(one) for row in states for one in row)
        found.append((highest, max(opacities)))
    for highest, opacity in found:
        assert opacity == pytest.approx(255 * highest, abs=1)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_unknown_characters_are_marked(open_screen: OpenScreen, server: RunningServer, width: int, scheme: str) -> None:
    screen = open_screen(server.url + "/", scheme=scheme, width=width)
    page = typed(screen, "Ro漢si字").page
    marks = page.locator("#explore mark")
    expect(marks).to_have_text(["漢", "字"])
    assert page.get_by_label("Text").get_attribute("aria-describedby") == marks.first.locator("xpath=..").get_attribute(
        "id"
    )
    assert page.locator(".strip .unknown").all_inner_texts() == ["漢", "字"]
    assert violations(screen) == []
    screen.keep(f"unknown-{width}")
    page.get_by_label("Text").fill("Rossi")
    expect(marks).to_have_count(0)
    expect(page.locator(".strip .unknown")).to_have_count(0)
