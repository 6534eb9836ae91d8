"""What the page shows is the answer to what it asks, or says that there is none; and it follows what is served."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from elman.repository.spec import ForecastSpec
from tests.browser.conftest import OpenScreen
from tests.browser.screen import Screen
from tests.browser.test_page import violations
from tests.conftest import StartServer
from tests.looping import RESIDUALS, forecaster, generator, put_forecaster, put_generator
from tests.repository import graphs
from tests.running import ROOT, STORE, RunningServer, running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Files as an export writes them, without examples, and one that is refused."""
    root = tmp_path_factory.mktemp("plain")
    graphs.save(graphs.tagger(), root / "tagger" / "1")
    put_generator(root, "writer", generator("lstm"))
    put_forecaster(root, "seer", forecaster("lstm", 1, 1), ForecastSpec(residuals=RESIDUALS))
    shutil.copytree(STORE / "names-gru", root / "names-gru")
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    with running_server(root) as one:
        yield one


@pytest.fixture
def page(open_screen: OpenScreen, plain: RunningServer) -> Page:
    return open_screen(plain.url + "/").page


def release(page: Page, held: list[Route]) -> None:
    """Let a request go on that is held, as soon as there is one."""
    for _ in range(1500):
        if held:
            return held.pop().continue_()
        page.wait_for_timeout(10)
    raise AssertionError("no request was made")


@pytest.mark.parametrize("address", ["explore/tagger", "forecast/seer", "generate/writer", "session/tagger"])
def test_a_model_without_examples_opens_with_something_to_try(page: Page, plain: RunningServer, address: str) -> None:
    page.goto(f"{plain.url}/#{address}")
    panel = page.get_by_role("tabpanel")
    expect(page.locator("#loading")).to_be_hidden()
    if address.startswith("explore"):
        expect(panel.get_by_text("made up, since the model has no examples")).to_be_visible()
        expect(page.get_by_role("region", name="Answer")).to_contain_text("After all 40 steps")
    elif address.startswith("forecast"):
        expect(panel.get_by_text("after 24 steps")).to_be_visible()
    elif address.startswith("session"):
        expect(panel.get_by_role("rowheader", name=re.compile("^1.1$"))).to_be_visible()
        panel.get_by_role("button", name="Send").click()
        expect(panel.get_by_role("rowheader", name=re.compile("^2.6$"))).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()


def test_an_answer_that_is_waited_for_dims_the_one_before_and_a_failure_hides_it(
    page: Page, plain: RunningServer
) -> None:
    page.goto(f"{plain.url}/#explore/names-gru")
    region, line, text = (
        page.get_by_role("region", name="Answer"),
        page.locator(".state-line"),
        page.get_by_label("Text"),
    )
    expect(region).to_contain_text("After all")
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    text.fill("Rossi")
    line = page.locator("#explore .state-line")
    expect(line).to_have_attribute("data-state", "stale")
    expect(region).to_have_class(re.compile("stale"))
    expect(line).to_contain_text(re.compile(r"what you changed: \d+ s"))
    release(page, held)
    expect(region).to_contain_text("Italian")
    expect(line).to_be_hidden()

    # Refused, lost, and again.
    page.unroute("**/predict")
    text.fill("")
    expect(region).to_be_hidden()
    expect(line).to_contain_text("There is no answer to this")
    expect(page.get_by_role("alert")).to_contain_text("type something")
    expect(text).to_have_attribute("aria-invalid", "true")
    beside = page.get_by_role("region", name="Sequence").get_by_role("alert")
    expect(beside).to_contain_text("type something")
    text.fill("Lindqvist")
    expect(region).to_contain_text("Swedish")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(text).to_have_attribute("aria-invalid", "false")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("address", ["explore/names-gru", "forecast/seer"])
def test_an_answer_that_is_out_of_date_can_still_be_read(
    open_screen: OpenScreen, plain: RunningServer, address: str, width: int, scheme: str
) -> None:
    screen = open_screen(plain.url + "/", width=width, scheme=scheme)
    page, view = screen.page, address.split("/")[0]
    page.goto(f"{plain.url}/#{address}")
    results, line = page.locator(f"#{view} .results"), page.locator(f"#{view} .state-line")
    expect(results.locator(".plot svg").first).to_be_visible()
    expect(line).to_be_hidden()
    held: list[Route] = []
    page.route(re.compile("/(predict|forecast)$"), lambda route: held.append(route))
    page.get_by_label("Text" if view == "explore" else "Horizon").fill("7")
    if view == "forecast":
        page.get_by_role("button", name="Forecast", exact=True).click()
    expect(results).to_have_class(re.compile("stale"))
    assert violations(screen) == []
    screen.keep(f"stale-{view}-{width}")
    release(page, held)
    expect(results).not_to_have_class(re.compile("stale"))
    page.unroute_all()


def test_an_answer_that_is_lost_comes_when_the_server_is_there_again(browser: Browser, plain: RunningServer) -> None:
    page = browser.new_page()  # the browser complains of what is lost
    page.goto(f"{plain.url}/#explore/names-gru")
    region = page.get_by_role("region", name="Answer")
    expect(region).to_contain_text("After all")
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_label("Text").fill("Rossi")
    expect(region).to_be_hidden()
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    page.unroute("**/v1/**")
    expect(region).to_contain_text("Italian")
    expect(page.get_by_role("alert")).to_be_empty()
    page.close()


def test_a_model_that_comes_or_goes_is_noticed_and_what_was_typed_stays(
    page: Page, plain: RunningServer, tmp_path: Path
) -> None:
    page.goto(f"{plain.url}/#explore/names-gru")
    page.get_by_label("Text").fill("Rossi")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Italian")
    choice = page.get_by_role("combobox", name="Model")
    assert "tagger" in choice.locator("option").all_inner_texts()
    plain.client.post("/v2/repository/models/tagger/unload").raise_for_status()
    expect(choice.locator("option", has_text="tagger")).to_have_count(0)
    plain.client.post("/v2/repository/models/tagger/load").raise_for_status()
    expect(choice.locator("option", has_text="tagger")).to_have_count(1)
    assert page.get_by_label("Text").input_value() == "Rossi"
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Italian")


def test_all_models_are_found_with_what_is_refused_and_why(page: Page, plain: RunningServer) -> None:
    page.goto(f"{plain.url}/#models")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_role("status")).to_have_text("4 models served")
    refused = plain.client.get("/v1/models").json()["refused"]
    expect(panel.get_by_role("region", name="Refused")).to_contain_text(refused[0]["reason"])
    panel.get_by_label("Search").fill("LSTM forecasting")
    expect(panel.get_by_role("status")).to_have_text("1 model served with these words")
    panel.get_by_role("link", name="seer").click()
    page.wait_for_url("**/#explore/seer")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("seer")


def test_back_leads_through_what_was_looked_at(page: Page, plain: RunningServer) -> None:
    page.goto(f"{plain.url}/#explore/names-gru")
    choice = page.get_by_role("combobox", name="Model")
    choice.select_option("tagger")
    page.wait_for_url("**/#explore/tagger")
    page.get_by_role("tab", name="Session").click()
    page.wait_for_url("**/#session/tagger")
    for address in ("explore/tagger", "explore/names-gru"):
        page.go_back()
        page.wait_for_url(f"**/#{address}")
        expect(page.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true")
        expect(choice).to_have_value(address.split("/")[1])
    page.go_forward()
    expect(choice).to_have_value("tagger")


@pytest.mark.parametrize(
    ("model", "control", "sequence", "steps"),
    [("names-gru", "Text", "Rossi & Ωé?", 11), ("tagger", "Numbers", "0.5, 1, 2\n-2, 1, 0\n3, 0.25, 1", 3)],
)
def test_a_link_that_is_shared_shows_the_same_sequence_and_follows_it(
    page: Page, plain: RunningServer, open_screen: OpenScreen, model: str, control: str, sequence: str, steps: int
) -> None:
    page.goto(f"{plain.url}/#explore/{model}")
    region, box = page.get_by_role("region", name="Answer"), page.get_by_role("textbox", name=control)
    expect(region).to_contain_text("After all")
    box.fill(sequence)
    expect(region).to_contain_text(f"After all {steps} steps")
    page.get_by_role("button", name="Share").click()
    expect(page.get_by_role("button", name="Link with the input")).to_be_visible()
    shared = page.url
    there = open_screen(plain.url + "/").page
    there.goto(shared)
    expect(there.get_by_role("textbox", name=control)).to_have_value(sequence)
    expect(there.get_by_role("region", name="Answer")).to_contain_text(f"After all {steps} steps")
    assert there.url == shared
    there.get_by_role("textbox", name=control).fill(sequence.replace("R", "B").replace("-2", "7"))
    there.wait_for_url(lambda url: url != shared and "?input=" in url)
    page.go_back()
    page.wait_for_url(f"**/#explore/{model}")


def test_files_of_a_sequence_are_read_and_others_refused_beside_the_box(
    page: Page, plain: RunningServer, tmp_path: Path
) -> None:
    page.goto(f"{plain.url}/#explore/tagger")
    region, box = page.get_by_role("region", name="Answer"), page.get_by_role("textbox", name="Numbers")
    expect(region).to_contain_text("After all 40 steps")
    page.locator("#explore").get_by_text("From a file").click()
    choice = page.locator("#explore").get_by_label("File")
    for dtype, steps in (("<f4", 3), ("<f8", 4), ("<i8", 5)):
        numbers = np.arange(-3, 3 * steps - 3, dtype=dtype).reshape(steps, 3)
        np.save(tmp_path / "some.npy", numbers)
        choice.set_input_files(tmp_path / "some.npy")
        expect(region).to_contain_text(f"After all {steps} steps")
        read = [[float(cell) for cell in line.split(",")] for line in box.input_value().splitlines()]
        assert read == numbers.tolist()
    (tmp_path / "some.csv").write_text("a;b;c\n1;2;3\n4;5;6\n")
    choice.set_input_files(tmp_path / "some.csv")
    expect(region).to_contain_text("After all 2 steps")

    beside = page.get_by_role("region", name="Sequence").get_by_role("alert")
    np.save(tmp_path / "batch.npy", np.zeros((2, 5, 3), np.float32))
    np.save(tmp_path / "columns.npy", np.asfortranarray(np.zeros((5, 3), np.float32)))
    np.save(tmp_path / "half.npy", np.zeros((5, 3), np.float16))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "some.npy").read_bytes()[:-8])
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    for name, words in {
        "batch.npy": "its shape is (2,5,3)",
        "columns.npy": "numpy.ascontiguousarray",
        "half.npy": "dtype <f2",
        "cut.npy": "it ends before its numbers do",
        "image.png": "neither text",
    }.items():
        choice.set_input_files(tmp_path / name)
        expect(beside).to_contain_text(words)
        expect(region).to_be_hidden()

    # Dropped, and right again.
    page.locator("#explore .sequence-input").evaluate(
        """(place) => {
          const data = new DataTransfer();
          data.items.add(new File(["[[1, 2, 3]]"], "one.json"));
          place.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(region).to_contain_text("After the only step")
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("explore/ghost", "There is no model “ghost” here"),
        ("explore/broken", "broken is refused"),
        ("generate/tagger", "tagger has no view “generate”"),
    ],
)
def test_an_address_of_no_such_model_says_so_and_becomes_no_other(
    page: Page, plain: RunningServer, address: str, words: str
) -> None:
    page.goto(f"{plain.url}/#{address}")
    expect(page.get_by_role("alert")).to_contain_text(words)
    assert page.url.endswith(f"#{address}")
    expected = "explore" if address.startswith("generate") else "models"
    assert page.get_by_role("tabpanel").get_attribute("id") == expected


def test_where_nothing_is_served_what_is_refused_is_said(
    start_server: StartServer, open_screen: OpenScreen, tmp_path: Path
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    server = start_server(tmp_path)
    page = open_screen(server.url + "/").page
    page.goto(server.url)
    (refused,) = server.client.get("/v1/models").json()["refused"]
    nothing = page.get_by_role("region", name="Nothing to show")
    expect(nothing).to_contain_text("No model is served.")
    expect(nothing).to_contain_text(refused["reason"])
    expect(nothing).to_contain_text(refused["remedy"])
    page.get_by_role("tab", name="Session").click()
    expect(nothing).to_contain_text("each needs its whole sequence at once")


def test_of_two_hundred_models_one_types_the_name(page: Page, plain: RunningServer) -> None:
    listed = plain.client.get("/v1/models").json()
    (card,) = [one for one in listed["models"] if one["name"] == "names-gru"]
    listed["models"] += [{**card, "name": f"copy-{number}"} for number in range(200)]
    page.route("**/v1/models", lambda route: route.fulfill(body=json.dumps(listed), content_type="application/json"))
    page.goto(f"{plain.url}/#explore/names-gru")
    choice = page.get_by_role("combobox", name="Model")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    choice.fill("seer")
    choice.press("Enter")
    page.wait_for_url("**/#explore/seer")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all 40 steps")


def test_a_slow_first_answer_and_a_page_without_its_files_say_something(browser: Browser, plain: RunningServer) -> None:
    page = browser.new_page()  # the browser complains of the files
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(plain.url)
    expect(page.locator("#loading")).to_contain_text("Asking the server for its models")
    release(page, held)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    expect(page.locator("#loading")).to_be_hidden()
    # Behind a prefix whose slash was forgotten the files are looked for in the wrong place.
    text = plain.client.get("/").text
    page.route("**/below", lambda route: route.fulfill(body=text, content_type="text/html"))
    page.route("**/playground/*", lambda route: route.fulfill(status=404))
    page.goto(plain.url + "/below")
    expect(page.locator("#loading")).to_contain_text("has no slash at its end, add one")
    page.close()


def test_states_are_looked_at(screen: Screen, open_screen: OpenScreen, plain: RunningServer) -> None:
    for scheme, width in (("light", 1280), ("dark", 390)):
        one = open_screen(plain.url + "/", scheme=scheme, width=width)
        one.page.goto(f"{plain.url}/#models")
        expect(one.page.get_by_role("tabpanel").get_by_role("status")).to_have_text("4 models served")
        assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        one.keep(f"models-{scheme}-{width}")
        one.page.goto(f"{plain.url}/#explore/names-gru")
        one.page.get_by_label("Text").fill("")
        expect(one.page.get_by_role("alert")).to_contain_text("type something")
        one.keep(f"failed-{scheme}-{width}")


def test_the_picture_of_the_readme(screen: Screen) -> None:
    """Kept as `playground-readme.png`. After a change of the page, copy it to docs/pictures/page.png."""
    screen.page.set_viewport_size({"width": 1280, "height": 1050})
    screen.page.goto(f"{screen.url}#explore/names-gru")
    screen.page.get_by_label("Text").fill("Lindqvist")
    expect(screen.page.get_by_role("region", name="Answer")).to_contain_text("After all 9 steps")
    for title in ("Probability of each label, step by step", "Influence"):
        screen.figure(title, screen.page.locator("#explore .score"))
    made = screen.keep("readme", whole=False).read_bytes()
    shown = (ROOT / "docs" / "pictures" / "page.png").read_bytes()
    assert made[16:24] == shown[16:24], "the two have other sizes"
