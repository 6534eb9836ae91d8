"""Two models on one sequence: both are drawn, and the difference is that of the API's answers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenScreen
from tests.browser.screen import Screen, value
from tests.browser.test_page import violations
from tests.conftest import StartServer
from tests.named import sequence, static, tagger, write_models
from tests.repository import graphs
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

# The page writes four significant digits.
ROUNDED: dict[str, float] = {"rel": 5.1e-4, "abs": 1e-9}
NAME = "Moravčíková"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`free` in two versions and beside `other`, which takes the same; and the models of names."""
    root = write_models(tmp_path_factory.mktemp("compared"))
    graphs.save(graphs.tagger("RNN"), root / "free" / "2")
    graphs.save(graphs.tagger("GRU"), root / "other" / "1")
    graphs.save(tagger(), root / "tagger-2" / "1")
    for cell in ("rnn", "lstm", "gru"):
        shutil.copytree(STORE / f"names-{cell}", root / f"names-{cell}")
    with running_server(root) as one:
        yield one


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def screen(request: pytest.FixtureRequest, open_screen: OpenScreen, own: RunningServer) -> Screen:
    width, scheme = request.param
    return open_screen(own.url + "/", width=width, scheme=scheme)


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
