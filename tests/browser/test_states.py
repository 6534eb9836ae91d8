"""What the page shows is the answer to what it asks, or says that there is none; and it follows what is served."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from elman.repository.spec import ForecastSpec
from tests.browser.conftest import Look, OpenScreen, both_looks
from tests.browser.screen import Screen
from tests.browser.test_page import violations
from tests.conftest import StartServer
from tests.looping import RESIDUALS, forecaster, generator, put_forecaster, put_generator
from tests.repository import graphs
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow
look = both_looks()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
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


def release(page: Page, held: list[Route]) -> None:
    """Let a request go on that is held, as soon as there is one."""
    for _ in range(1500):
        if held:
            return held.pop().continue_()
        page.wait_for_timeout(10)
    raise AssertionError("no request was made")


@pytest.mark.parametrize("address", ["explore/tagger", "forecast/seer", "generate/writer?seed=1", "session/tagger"])
def test_a_model_without_examples_opens_with_something_to_try(page: Page, own: RunningServer, address: str) -> None:
    page.goto(f"{own.url}/#{address}")
    panel = page.get_by_role("tabpanel")
    expect(page.locator("#loading")).to_be_hidden()
    if address.startswith("explore"):
        expect(panel.get_by_text("made up, since the model has no examples")).to_be_visible()
        expect(page.get_by_role("region", name="Answer")).to_contain_text("After all 40 steps")
    elif address.startswith("forecast"):
        expect(panel.get_by_text("after 24 steps")).to_be_visible()
    elif address.startswith("generate"):
        expect(panel.locator(".made").first).not_to_be_empty()
        expect(panel.get_by_text("Keep this seed")).to_be_visible()
    elif address.startswith("session"):
        expect(panel.get_by_role("rowheader", name=re.compile("^1.1$"))).to_be_visible()
        panel.get_by_role("button", name="Send").click()
        expect(panel.get_by_role("rowheader", name=re.compile("^2.6$"))).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()


def test_an_answer_that_is_waited_for_dims_the_one_before_and_a_failure_hides_it(
    page: Page, own: RunningServer
) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
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


# Each view that asks at once: its address, what is asked, what an answer is seen by, and what is changed and how.
VIEWS = {
    "explore": ("explore/names-gru", "predict", "#explore .score .plot svg", "Text", "Rossi"),
    "forecast": ("forecast/seer", "forecast", "#forecast .plot svg", "Horizon", "7"),
    "generate": ("generate/writer?seed=1", "generate", "#generate .token", "Samples", "2"),
}


def change(page: Page, view: str) -> None:
    """Ask for something else."""
    *_, label, words = VIEWS[view]
    page.get_by_role("tabpanel").get_by_label(label).first.fill(words)
    if view != "explore":
        page.get_by_role("button", name=view.capitalize(), exact=True).click()


def check_loading(screen: Screen, view: str, answer: Locator, words: str) -> None:
    """A view says that it waits for its first answer, and for how long. It shows none."""
    page, width = screen.page, screen.page.viewport_size["width"]  # type: ignore[index]
    line = page.locator(f"#{view} .state-line")
    expect(line).to_have_attribute("data-state", "loading")
    expect(line).to_contain_text(re.compile(rf"{words}: \d+ s"))
    expect(answer).to_be_hidden()
    assert violations(screen) == []
    screen.keep(f"loading-{view}-{width}")


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_says_what_it_waits_for_and_what_failed(screen: Screen, view: str) -> None:
    page, width = screen.page, screen.page.viewport_size["width"]  # type: ignore[index]
    address, verb, seen, *_ = VIEWS[view]
    answer, line = page.locator(seen).first, page.locator(f"#{view} .state-line")
    held: list[Route] = []
    page.route(f"**/{verb}", lambda route: held.append(route))
    page.goto(f"{screen.url}#{address}")
    check_loading(screen, view, answer, "Waiting for the answer")
    release(page, held)
    expect(answer).to_be_visible()
    expect(line).to_be_hidden()

    # What is out of date is dim, and can still be read.
    change(page, view)
    expect(line).to_have_attribute("data-state", "stale")
    expect(page.locator(f"#{view} .stale").first).to_be_visible()
    assert violations(screen) == []
    screen.keep(f"stale-{view}-{width}")
    release(page, held)
    expect(line).to_be_hidden()
    expect(page.locator(f"#{view} .stale")).to_have_count(0)
    expect(answer).to_be_visible()

    # A failure hides it, and is told beside the fields.
    page.unroute(f"**/{verb}")
    body = {"code": "overloaded", "title": "Busy", "detail": "too much waits"}
    page.route(f"**/{verb}", lambda route: route.fulfill(status=503, json=body))
    change(page, view)
    expect(page.locator(f"#{view} .side").get_by_role("alert")).to_contain_text("too much waits")
    expect(line).to_have_attribute("data-state", "failed")
    expect(answer).to_be_hidden()
    assert violations(screen) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screen.keep(f"failed-{view}-{width}")
    screen.rejected(503)
    page.unroute(f"**/{verb}")
    change(page, view)
    expect(answer).to_be_visible()
    expect(page.locator("#problem")).to_be_empty()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_goes_on_after_a_restart(lossy: Page, tmp_path: Path, view: str) -> None:
    page = lossy
    put_generator(tmp_path, "writer", generator("lstm"))
    put_forecaster(tmp_path, "seer", forecaster("lstm", 1, 1), ForecastSpec(residuals=RESIDUALS))
    (tmp_path / "names-gru").symlink_to(STORE / "names-gru")
    address, _, seen, *_ = VIEWS[view]
    answer, line = page.locator(seen).first, page.locator(f"#{view} .state-line")
    with running_server(tmp_path) as first:
        page.goto(f"{first.url}/#{address}")
        expect(answer).to_be_visible()
        expect(line).to_be_hidden()
    change(page, view)
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    expect(answer).to_be_hidden()
    with running_server(tmp_path, "--port", str(first.port)):
        expect(answer).to_be_visible()
        expect(page.locator("#problem")).to_be_empty()
        page.close()


def test_the_engine_says_what_it_waits_for_and_what_failed(screen: Screen) -> None:
    page, width = screen.page, screen.page.viewport_size["width"]  # type: ignore[index]
    panel, line, problem = page.get_by_role("tabpanel"), page.locator("#engine .state-line"), page.locator("#problem")
    answer = panel.locator(".tiles")
    held: list[Route] = []
    page.route("**/v1/engine", lambda route: held.append(route))
    page.goto(f"{screen.url}#engine")
    check_loading(screen, "engine", answer, "Waiting for the server's figures")
    # Nothing is waited for where nobody looks.
    page.get_by_role("tab", name="Models").click()
    expect(line).to_have_attribute("data-state", "empty")
    release(page, held)
    page.get_by_role("tab", name="Engine").click()
    expect(line).to_have_attribute("data-state", "loading")
    release(page, held)
    expect(answer).to_be_visible()
    expect(line).to_be_hidden()
    # It asks again by itself, and that answer does not come either.
    expect(line).to_have_attribute("data-state", "stale")
    expect(answer).to_have_class(re.compile("stale"))
    assert violations(screen) == []
    screen.keep(f"stale-engine-{width}")
    release(page, held)
    expect(line).to_be_hidden()
    expect(panel.locator(".stale")).to_have_count(0)

    body = {"code": "overloaded", "title": "Busy", "detail": "too much waits"}
    page.route("**/v1/engine", lambda route: route.fulfill(status=503, json=body))
    for one in held:
        one.continue_()
    expect(problem).to_contain_text("too much waits")
    expect(line).to_contain_text("There is no answer. These are the figures of")
    expect(answer).to_have_class(re.compile("stale"))
    assert violations(screen) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screen.keep(f"failed-engine-{width}")
    # Whoever has read it does not read it each second.
    page.get_by_role("button", name="Close the message").click()
    for _ in range(2):
        with page.expect_response("**/v1/engine"):
            pass
    expect(problem).to_be_empty()
    panel.get_by_role("button", name="Pause").click()
    expect(line).to_contain_text("Paused. These are the figures of")
    page.unroute("**/v1/engine")
    panel.get_by_role("button", name="Go on").click()
    expect(line).to_be_hidden()
    expect(panel.locator(".stale")).to_have_count(0)
    screen.complaints[:] = [text for text in screen.complaints if "status of 503" not in text]


def test_the_engine_goes_on_after_a_restart(lossy: Page, tmp_path: Path, look: Look) -> None:
    page = lossy
    page.set_viewport_size({"width": look[0], "height": 720})
    (tmp_path / "names-gru").symlink_to(STORE / "names-gru")
    line, problem = page.locator("#engine .state-line"), page.locator("#problem")
    runs = page.get_by_role("region", name="Stats by model").get_by_role("row", name="names-gru").get_by_role("cell")
    with running_server(tmp_path) as first:
        page.goto(f"{first.url}/#engine")
        first.predict("names-gru", sequence="Rossi").raise_for_status()
        expect(runs.first).not_to_have_text("0")
    expect(problem).to_contain_text("the server cannot be reached")
    expect(line).to_have_attribute("data-state", "doubtful")
    with running_server(tmp_path, "--port", str(first.port)):
        expect(line).to_be_hidden()
        expect(problem).to_be_empty()
        expect(runs.first).to_have_text("0")
        page.close()


def test_an_answer_that_is_lost_comes_when_the_server_is_there_again(lossy: Page, own: RunningServer) -> None:
    page = lossy
    page.goto(f"{own.url}/#explore/names-gru")
    region = page.get_by_role("region", name="Answer")
    expect(region).to_contain_text("After all")
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_label("Text").fill("Rossi")
    expect(region).to_be_hidden()
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    page.unroute("**/v1/**")
    expect(region).to_contain_text("Italian")
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_model_that_comes_or_goes_is_noticed_and_what_was_typed_stays(
    page: Page, own: RunningServer, tmp_path: Path
) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    page.get_by_label("Text").fill("Rossi")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Italian")
    choice = page.get_by_role("combobox", name="Model")
    assert "tagger" in choice.locator("option").all_inner_texts()
    own.client.post("/v2/repository/models/tagger/unload").raise_for_status()
    expect(choice.locator("option", has_text="tagger")).to_have_count(0)
    own.client.post("/v2/repository/models/tagger/load").raise_for_status()
    expect(choice.locator("option", has_text="tagger")).to_have_count(1)
    assert page.get_by_label("Text").input_value() == "Rossi"
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Italian")
    # The list of all models follows too.
    page.get_by_role("tab", name="Models").click()
    status = page.get_by_role("tabpanel").get_by_role("status")
    expect(status).to_have_text("4 models served")
    own.client.post("/v2/repository/models/tagger/unload").raise_for_status()
    expect(status).to_have_text("3 models served")
    own.client.post("/v2/repository/models/tagger/load").raise_for_status()
    expect(page.get_by_role("link", name="tagger")).to_be_visible()


def test_all_models_are_found_with_what_is_refused_and_why(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#models")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_role("status")).to_have_text("4 models served")
    refused = own.client.get("/v1/models").json()["refused"]
    expect(panel.get_by_role("region", name="Refused")).to_contain_text(refused[0]["reason"])
    panel.get_by_label("Search").fill("LSTM forecasting")
    expect(panel.get_by_role("status")).to_have_text("1 model served with these words")
    panel.get_by_role("link", name="seer").click()
    page.wait_for_url("**/#explore/seer")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("seer")


def test_back_leads_through_what_was_looked_at(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
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
    page: Page, own: RunningServer, open_screen: OpenScreen, model: str, control: str, sequence: str, steps: int
) -> None:
    page.goto(f"{own.url}/#explore/{model}")
    region, box = page.get_by_role("region", name="Answer"), page.get_by_role("textbox", name=control)
    expect(region).to_contain_text("After all")
    box.fill(sequence)
    expect(region).to_contain_text(f"After all {steps} steps")
    page.get_by_role("button", name="Share").click()
    expect(page.get_by_role("button", name="Link with the input")).to_be_visible()
    shared = page.url
    there = open_screen(own.url + "/").page
    there.goto(shared)
    expect(there.get_by_role("textbox", name=control)).to_have_value(sequence)
    expect(there.get_by_role("region", name="Answer")).to_contain_text(f"After all {steps} steps")
    assert there.url == shared
    there.get_by_role("textbox", name=control).fill(sequence.replace("R", "B").replace("-2", "7"))
    there.wait_for_url(lambda url: url != shared and "?input=" in url)
    page.go_back()
    page.wait_for_url(f"**/#explore/{model}")


def test_files_of_a_sequence_are_read_and_others_refused_beside_the_box(
    page: Page, own: RunningServer, tmp_path: Path
) -> None:
    page.goto(f"{own.url}/#explore/tagger")
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
    page: Page, own: RunningServer, address: str, words: str
) -> None:
    page.goto(f"{own.url}/#{address}")
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


def test_of_two_hundred_models_one_types_the_name(page: Page, own: RunningServer) -> None:
    listed = own.client.get("/v1/models").json()
    (card,) = [one for one in listed["models"] if one["name"] == "names-gru"]
    listed["models"] += [{**card, "name": f"copy-{number}"} for number in range(200)]
    page.route("**/v1/models", lambda route: route.fulfill(body=json.dumps(listed), content_type="application/json"))
    page.goto(f"{own.url}/#explore/names-gru")
    choice = page.get_by_role("combobox", name="Model")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    choice.fill("seer")
    choice.press("Enter")
    page.wait_for_url("**/#explore/seer")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all 40 steps")


def test_a_slow_first_answer_and_a_page_without_its_files_say_something(lossy: Page, own: RunningServer) -> None:
    page = lossy
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(own.url)
    expect(page.locator("#loading")).to_contain_text("Asking the server for its models")
    release(page, held)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    expect(page.locator("#loading")).to_be_hidden()
    # Behind a prefix whose slash was forgotten the files are looked for in the wrong place.
    text = own.client.get("/").text
    page.route("**/below", lambda route: route.fulfill(body=text, content_type="text/html"))
    page.route("**/playground/*", lambda route: route.fulfill(status=404))
    page.goto(own.url + "/below")
    expect(page.locator("#loading")).to_contain_text("has no slash at its end, add one")


def test_states_are_looked_at(screen: Screen) -> None:
    page, width = screen.page, screen.page.viewport_size["width"]  # type: ignore[index]
    page.goto(f"{screen.url}#models")
    expect(page.get_by_role("tabpanel").get_by_role("status")).to_have_text("4 models served")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(screen) == []
    screen.keep(f"models-{width}")
    page.goto(f"{screen.url}#explore/names-gru")
    page.get_by_label("Text").fill("")
    expect(page.get_by_role("alert")).to_contain_text("type something")
    assert violations(screen) == []
    screen.keep(f"failed-{width}")
