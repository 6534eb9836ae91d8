"""Two models on one sequence: both are drawn, and the difference is that of the API's answers."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenScreen, both_looks
from tests.browser.screen import Screen, value
from tests.browser.test_page import violations
from tests.conftest import StartServer
from tests.named import sequence, static, tagger, write_models
from tests.repository import graphs
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow
look = both_looks()

# The page writes four significant digits.
ROUNDED: dict[str, float] = {"rel": 5.1e-4, "abs": 1e-9}
NAME = "Moravčíková"


def louder(outputs: Sequence[str] = ("output", "value", "best", "level")) -> onnx.ModelProto:
    """The tagger with other voices, and some of its outputs."""
    proto = tagger()
    (voices,) = [one for one in proto.graph.initializer if one.name == "voices"]
    voices.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(voices), "voices"))
    kept = [one for one in proto.graph.output if one.name in outputs]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    return proto


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`free` in two versions and beside `other`, which takes the same; and the models of names."""
    root = write_models(tmp_path_factory.mktemp("compared"))
    graphs.save(graphs.tagger("RNN"), root / "free" / "2")
    graphs.save(graphs.tagger("GRU"), root / "other" / "1")
    graphs.save(tagger(), root / "tagger-2" / "1")
    graphs.save(louder(), root / "tagger-3" / "1")
    graphs.save(louder(("output", "level")), root / "tagger-4" / "1")
    for cell in ("rnn", "lstm", "gru"):
        shutil.copytree(STORE / f"names-{cell}", root / f"names-{cell}")
    with running_server(root) as one:
        yield one


def steps(own: RunningServer, path: str, sequence: Any, **body: Any) -> dict[str, Any]:
    body = {"sequence": sequence, "return": "steps", "top": 40, **body}
    answer = own.client.post(f"/v1/models/{path}/predict", json=body)
    assert answer.status_code == 200, answer.text
    one: dict[str, Any] = answer.json()["results"][0]
    return one


def difference(screen: Screen, title: str) -> dict[str, list[float]]:
    """The table of a difference: columns by their heads."""
    figure = screen.figure(title)
    rows = screen.numbers(figure)
    heads = figure.locator("thead th").all_inner_texts()
    return {head: [value(row[i]) for row in rows] for i, head in enumerate(heads) if i}


def answered(page: Page, steps: int) -> None:
    expect(page.get_by_role("region", name="Answer")).to_contain_text(f"After all {steps} steps")


def test_two_models_of_labels_are_drawn_with_their_difference(screen: Screen, own: RunningServer) -> None:
    page = screen.open("explore", "names-gru")
    page.get_by_label("Text").fill(NAME)
    answered(page, len(NAME))
    choice = page.get_by_label("Compare with")
    expect(choice.locator("option")).to_have_text(["RNN, LSTM, GRU", "names-lstm", "names-rnn"])
    choice.select_option("names-lstm")
    side = page.get_by_role("region", name="names-gru and names-lstm side by side")
    expect(side.locator(".column")).to_have_count(2)
    table = difference(screen, "names-gru and names-lstm, and their difference")
    first, second = (steps(own, name, NAME)["decoded"] for name in ("names-gru", "names-lstm"))
    labels = [head.partition(",")[0] for head in table][::3]
    assert len(labels) == 5
    for label in labels:
        gru, lstm = (
            [{p["label"]: p["probability"] for p in one["top"]}[label] for one in of] for of in (first, second)
        )
        assert table[f"{label}, names-gru"] == pytest.approx(gru, **ROUNDED)
        assert table[f"{label}, names-lstm"] == pytest.approx(lstm, **ROUNDED)
        apart = [b - a for a, b in zip(gru, lstm, strict=True)]
        assert table[f"{label}, difference"] == pytest.approx(apart, rel=1e-3, abs=1e-6)
    assert violations(screen) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screen.keep(f"compare-{page.viewport_size['width']}")  # type: ignore[index]

    # The address has both, and what is entered.
    page.wait_for_url("**with=names-lstm")
    page.reload()
    expect(side.locator(".column")).to_have_count(2)
    assert page.get_by_label("Text").input_value() == NAME
    choice.focus()
    page.keyboard.press("Home")
    page.get_by_role("region", name="RNN, LSTM and GRU side by side").wait_for()
    expect(page.get_by_role("heading", name="names-gru and names-lstm, and their difference")).to_be_hidden()


def test_two_versions_are_compared_on_one_input(screen: Screen, own: RunningServer) -> None:
    rows = sequence(6)["input"]
    text = "\n".join(", ".join(map(str, row)) for row in rows)
    page = screen.open("explore", "free")
    page.get_by_role("textbox", name="Numbers").fill(text)
    answered(page, 6)
    choice = page.get_by_label("Compare with")
    expect(choice.locator("option")).to_have_text(["nothing", "version 1", "other"])
    choice.select_option("version 1")
    table = difference(screen, "free and free/1, and their difference")
    second, first = (steps(own, f"free/versions/{version}", rows)["outputs"] for version in (2, 1))
    for i in range(4):
        assert table[f"output {i + 1}, free"] == pytest.approx([row[i] for row in second], **ROUNDED)
        apart = [row[i] - other[i] for row, other in zip(first, second, strict=True)]
        assert table[f"output {i + 1}, difference"] == pytest.approx(apart, rel=1e-3, abs=1e-6)
    screen.keep(f"compare-versions-{page.viewport_size['width']}")  # type: ignore[index]

    # Of the other version, with the same input.
    page.get_by_label("Version").select_option("1")
    page.wait_for_url("**/#explore/free/1?input=*")
    answered(page, 6)
    expect(page.get_by_role("textbox", name="Numbers")).to_have_value(text)
    expect(choice.locator("option")).to_have_text(["nothing", "version 2", "other"])


def test_a_link_to_an_older_version_keeps_its_sequence(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/")
    page = screen.page
    page.goto(f"{own.url}/#explore/free/1?input=1%2C2%2C3%0A4%2C5%2C6")
    answered(page, 2)
    expect(page.get_by_label("Version")).to_have_value("1")
    expect(page.get_by_role("textbox", name="Numbers")).to_have_value("1,2,3\n4,5,6")
    assert page.url.endswith("#explore/free/1?input=1%2C2%2C3%0A4%2C5%2C6")
    right = steps(own, "free/versions/1", [[1, 2, 3], [4, 5, 6]])["outputs"]
    shown = screen.numbers(screen.figure("Outputs, step by step", page.locator("#explore .score")))
    assert [value(cell) for cell in shown[1][1:]] == pytest.approx(right[1], **ROUNDED)


def test_models_with_several_inputs_are_given_the_same_ones(open_screen: OpenScreen, own: RunningServer) -> None:
    screen = open_screen(own.url + "/")
    page = screen.open("explore", "tagger")
    answered(page, 40)
    page.get_by_label("speaker").fill("3")
    page.get_by_label("Compare with").select_option("tagger-2")
    figure = screen.figure("tagger and tagger-2, and their difference")
    expect(figure).to_contain_text("There is no difference.")
    page.wait_for_url("**speaker=3&with=tagger-2")
    right = steps(own, "tagger-2", {**sequence(2), "gain": [1, 1]}, static=static(3, 0.0))
    page.get_by_role("textbox", name="Numbers").fill(str(sequence(2)["input"]))
    answered(page, 2)
    expect(figure.locator(".plot")).to_have_attribute(
        "aria-label",
        "Outputs of tagger and tagger-2 after each of 2 steps, and their difference. There is no difference.",
    )
    table = difference(screen, "tagger and tagger-2, and their difference")
    assert table["output 1, tagger-2"] == pytest.approx([row[0] for row in right["outputs"]], **ROUNDED)


def test_any_output_that_both_models_have_is_compared(screen: Screen, own: RunningServer) -> None:
    page = screen.open("explore", "tagger")
    given, statics = sequence(6), static(3, 0.5)
    page.get_by_role("textbox", name="Numbers").fill(str(given["input"]))
    page.get_by_role("spinbutton", name="speaker").fill(str(statics["speaker"]))
    page.get_by_role("spinbutton", name="age").fill(str(statics["age"][0]))
    answered(page, 6)
    choice = page.get_by_label("Output to compare")
    expect(choice).to_be_hidden()
    page.get_by_label("Compare with").select_option("tagger-3")
    expect(choice.locator("option")).to_have_text(["the primary one", "value", "best", "level"])
    first, second = (
        steps(own, name, {**given, "gain": [1] * 6}, static=statics, heads=["value", "level"])["heads"]
        for name in ("tagger", "tagger-3")
    )
    # One that is not drawn beside the primary output is compared all the same.
    page.get_by_role("checkbox", name="value").uncheck()
    choice.select_option("value")
    title = "Output value of tagger and tagger-3, and their difference"
    table = difference(screen, title)
    assert table["output, tagger"] == pytest.approx([row[0] for row in first["value"]], **ROUNDED)
    assert table["output, tagger-3"] == pytest.approx([row[0] for row in second["value"]], **ROUNDED)
    apart = [b[0] - a[0] for a, b in zip(first["value"], second["value"], strict=True)]
    assert max(map(abs, apart)) > 0.01
    assert table["output, difference"] == pytest.approx(apart, rel=1e-3, abs=1e-6)
    side = page.get_by_role("region", name="tagger and tagger-3 side by side")
    column = side.get_by_role("region", name="tagger-3", exact=True)
    shown = screen.numbers(screen.figure("Outputs", column))
    assert [value(row[1]) for row in shown] == pytest.approx([row[0] for row in second["value"]], **ROUNDED)
    assert violations(screen) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screen.keep(f"compare-heads-{page.viewport_size['width']}")  # type: ignore[index]

    # The address has it, and Back what was compared before.
    page.wait_for_url("**with=tagger-3&output=value")
    page.reload()
    expect(screen.figure(title)).to_contain_text("The largest difference is")
    expect(choice).to_have_value("value")

    # One row for the whole sequence.
    choice.focus()
    page.keyboard.press("End")
    table = difference(screen, "Output level of tagger and tagger-3, and their difference")
    assert [one for name in table if name.endswith(", tagger-3") for one in table[name]] == pytest.approx(
        second["level"], **ROUNDED
    )
    expect(side.get_by_text("for the whole sequence")).to_be_visible()

    # What the other model does not have is said, and the primary outputs are compared.
    choice.select_option("best")
    page.wait_for_url("**output=best")
    page.get_by_label("Compare with").select_option("tagger-4")
    side = page.get_by_role("region", name="tagger and tagger-4 side by side")
    expect(side.get_by_text("Not all of them have an output “best”. Their primary outputs are shown.")).to_be_visible()
    expect(side.get_by_role("heading", name="tagger and tagger-4, and their difference")).to_be_visible()
    choice.select_option("")
    expect(choice.locator("option")).to_have_text(["the primary one", "level"])
    expect(side.get_by_text("Not all of them")).to_be_hidden()


def test_what_is_entered_stays_when_a_new_version_comes(
    open_screen: OpenScreen, start_server: StartServer, tmp_path: Path
) -> None:
    graphs.save(graphs.tagger("GRU"), tmp_path / "free" / "1")
    server = start_server(tmp_path)
    screen = open_screen(server.url + "/")
    page = screen.open("explore", "free")
    page.get_by_role("textbox", name="Numbers").fill("1, 2, 3\n4, 5, 6")
    answered(page, 2)
    graphs.save(graphs.tagger("RNN"), tmp_path / "free" / "2")
    server.client.post("/v2/repository/models/free/load").raise_for_status()
    expect(page.get_by_label("Version")).to_have_value("2")
    right = steps(server, "free", [[1, 2, 3], [4, 5, 6]])["outputs"][-1][0]
    expect(page.get_by_role("region", name="Answer").locator(".answer")).to_contain_text(
        f"{right:.4g}".replace("-", "\u2212")
    )
    expect(page.get_by_role("textbox", name="Numbers")).to_have_value("1, 2, 3\n4, 5, 6")
    assert "?input=" in page.url
