"""Session where things are slow, refused, lost or gone, and with models that read windows."""

import re
from collections.abc import Iterator

import pytest
from onnx import helper
from playwright.sync_api import Browser, Page, Route, expect

from tests.api.test_v2_sequences import WINDOW, windowed
from tests.browser.conftest import both_looks
from tests.browser.screen import Screen, rows, value
from tests.browser.test_page import violations
from tests.browser.test_states import release
from tests.repository import graphs
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow
look = both_looks()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("plain")
    (root / "names-gru").symlink_to(STORE / "names-gru")
    graphs.save(windowed(), root / "window" / "1")
    last = helper.make_node("Gather", ["steps", "minus"], ["output"], axis=1)
    graphs.save(graphs.tagger("GRU", after=(last,), tensors=(graphs.constant("minus", -1),)), root / "last" / "1")
    with running_server(root) as one:
        yield one


def test_a_window_says_how_many_steps_are_missing(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#session/window")
    panel = page.get_by_role("tabpanel")
    missing, kept = panel.locator(".missing"), panel.get_by_role("progressbar", name="Steps kept")
    expect(missing).to_have_text(f"An answer takes {WINDOW} steps: {WINDOW - 1} steps are still missing.")
    expect(kept).to_have_js_property("value", 1)
    expect(panel.locator(".now .answer")).to_have_text("no output yet")
    piece = panel.get_by_role("textbox", name="Piece")
    for count, left in ((WINDOW - 2, "1 step is"), (1, None)):
        piece.fill("\n".join(["0.5, 1, -2"] * count))
        panel.get_by_role("button", name="Send").click()
        if left:
            expect(missing).to_have_text(f"An answer takes {WINDOW} steps: {left} still missing.")
            expect(kept).to_have_js_property("value", WINDOW - 1)
    expect(missing).to_be_hidden()
    expect(panel.get_by_text(f"{WINDOW - 1} of {WINDOW - 1} are there")).to_be_visible()
    expect(panel.locator(".now .answer")).not_to_have_text("no output yet")
    id = panel.locator(".live .id").inner_text()
    own.client.delete(f"/v1/sessions/{id}").raise_for_status()


def test_what_is_waited_for_is_said_and_the_answer_before_is_dimmed(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    held: list[Route] = []
    page.route("**/v1/models/*/sessions", lambda route: held.append(route))
    page.route("**/steps", lambda route: held.append(route))
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("A session is being made.")).to_be_visible()
    release(page, held)
    line = panel.locator(".state-line")
    expect(line).to_have_attribute("data-state", "loading")
    expect(panel.locator(".now")).to_be_hidden()
    release(page, held)
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    expect(line).to_be_hidden()
    panel.get_by_role("button", name="Send").click()
    expect(line).to_have_attribute("data-state", "stale")
    expect(line).to_contain_text("Waiting for the answer to what was sent: 1 s", timeout=60_000)
    expect(panel.locator(".now")).to_have_attribute("aria-busy", "true")
    expect(panel.locator(".now")).to_have_class(re.compile("stale"))
    # What is out of date is dim, and can still be read.
    assert violations(screen) == []
    release(page, held)
    expect(panel.locator(".figure-line")).to_have_text("4 steps")
    expect(line).to_be_hidden()


def test_what_is_refused_leaves_the_session_where_it_is(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel")
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    panel.get_by_role("textbox", name="Piece").fill("")
    panel.get_by_role("button", name="Send").click()
    expect(panel.locator("form").get_by_role("alert")).to_contain_text("type something")
    page.goto(f"{own.url}/#session/window")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("window")
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    piece = panel.get_by_role("textbox", name="Piece")
    piece.fill("1, 2, x")
    panel.get_by_role("button", name="Send").click()
    beside = panel.locator("form").get_by_role("alert")
    expect(beside).to_contain_text('"x" is not a number')
    expect(piece).to_have_attribute("aria-invalid", "true")
    expect(panel.locator(".state-line")).to_contain_text("The session is still at step 1.")
    piece.fill("1, 2, 3")
    panel.get_by_role("button", name="Send").click()
    expect(panel.locator(".figure-line")).to_have_text("2 steps")
    expect(page.locator("#problem")).to_be_empty()
    expect(panel.locator(".state-line")).to_be_hidden()
    expect(piece).to_have_attribute("aria-invalid", "false")
    own.client.delete(f"/v1/sessions/{panel.locator('.live .id').inner_text()}").raise_for_status()


@pytest.mark.parametrize("arrived", [True, False], ids=["answer lost", "request lost"])
def test_a_step_whose_answer_is_lost_is_done_once(lossy: Page, own: RunningServer, arrived: bool) -> None:
    page = lossy
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel")
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    id = panel.locator(".live .id").inner_text()

    def lose(route: Route) -> None:
        if arrived and route.request.url.endswith("/steps"):
            route.fetch()
        route.abort()

    page.route("**/v1/**", lose)
    if arrived:
        page.unroute("**/v1/**")
        page.route("**/steps", lose)
        page.route("**/v1/models", lambda route: route.abort())
    panel.get_by_role("textbox", name="Piece").fill("abc")
    panel.get_by_role("button", name="Send").click()
    line = panel.locator(".state-line")
    expect(line).to_have_attribute("data-state", "doubtful")
    expect(line).to_contain_text("The step may have been done or not.")
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    page.unroute_all()
    # The server is there again: the view goes on by itself.
    expect(panel.locator(".figure-line")).to_have_text("4 steps", timeout=60_000)
    expect(panel.locator(".callout")).to_contain_text(f'"replayed": {str(arrived).lower()}, at step 4')
    expect(line).to_be_hidden()
    expect(page.locator("#problem")).to_be_empty()
    assert own.client.get(f"/v1/sessions/{id}").json()["step"] == 4
    own.client.delete(f"/v1/sessions/{id}").raise_for_status()


def test_a_session_that_is_gone_is_said_to_be(lossy: Page, own: RunningServer) -> None:
    page = lossy
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel")
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    own.client.delete(f"/v1/sessions/{panel.locator('.live .id').inner_text()}").raise_for_status()
    panel.get_by_role("button", name="Send").click()
    expect(panel.get_by_text("The session is gone")).to_be_visible()
    expect(panel.locator(".live")).to_be_hidden()
    expect(page.locator("#problem")).to_be_empty()
    panel.get_by_role("button", name="New session").click()
    expect(panel.locator(".figure-line")).to_have_text("0 steps")
    own.client.delete(f"/v1/sessions/{panel.locator('.live .id').inner_text()}").raise_for_status()


def test_a_session_that_cannot_be_made_is_tried_again(lossy: Page, own: RunningServer) -> None:
    page = lossy
    page.route("**/v1/models/*/sessions", lambda route: route.fulfill(status=503, json={"detail": "the store is full"}))
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("No session could be made")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("the store is full")
    page.unroute_all()
    panel.get_by_role("button", name="New session").click()
    expect(panel.locator(".figure-line")).to_have_text("0 steps")
    expect(page.locator("#problem")).to_be_empty()
    own.client.delete(f"/v1/sessions/{panel.locator('.live .id').inner_text()}").raise_for_status()


def test_after_a_restart_a_session_goes_on(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store")
    (root / "names-gru").symlink_to(STORE / "names-gru")
    page = browser.new_page()
    with running_server(root, store_dir=store) as first:
        url, port = first.url, first.port
        page.goto(f"{url}/#session/names-gru")
        panel = page.get_by_role("tabpanel")
        expect(panel.locator(".figure-line")).to_have_text("1 step")
        id = panel.locator(".live .id").inner_text()
        panel.get_by_role("button", name="Send").click()
        expect(panel.locator(".figure-line")).to_have_text("4 steps")
    panel.get_by_role("textbox", name="Piece").fill("abc")
    panel.get_by_role("button", name="Send").click()
    expect(panel.locator(".state-line")).to_have_attribute("data-state", "doubtful")
    with running_server(root, "--port", str(port), store_dir=store) as second:
        expect(panel.locator(".figure-line")).to_have_text("7 steps", timeout=60_000)
        assert second.client.get(f"/v1/sessions/{id}").json()["step"] == 7
        expect(page.locator("#problem")).to_be_empty()
        page.close()


def test_what_is_asked_for_while_an_answer_is_waited_for_is_done_after_it(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel")
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    held: list[Route] = []
    page.route("**/steps", lambda route: held.append(route))
    piece, send = panel.get_by_role("textbox", name="Piece"), panel.get_by_role("button", name="Send")
    piece.fill("abc")
    send.click()
    expect(panel.locator(".state-line")).to_have_attribute("data-state", "stale")
    piece.fill("de")
    send.click()
    panel.get_by_role("button", name="Keep state").click()
    release(page, held)
    release(page, held)
    expect(panel.locator(".figure-line")).to_have_text("6 steps")
    expect(page.get_by_role("list", name="Kept states").get_by_role("listitem")).to_contain_text("step 6")
    sent = panel.get_by_role("region", name="What was sent").locator("tbody td:nth-child(2)").all_inner_texts()
    assert sent[1:] == ["abc", "de"]
    own.client.delete(f"/v1/sessions/{panel.locator('.live .id').inner_text()}").raise_for_status()


def test_a_model_of_one_output_a_sequence_answers_after_each_piece(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    page.goto(f"{own.url}/#session/last")
    panel = page.get_by_role("tabpanel")
    expect(panel.locator(".figure-line")).to_have_text("1 step")
    panel.get_by_role("textbox", name="Piece").fill("0.5, 1, -2\n2, 0, 1")
    panel.get_by_role("button", name="Send").click()
    expect(panel.locator(".figure-line")).to_have_text("3 steps")
    panel.get_by_role("button", name="Retry the last").click()
    expect(panel.locator(".callout")).to_contain_text("and the same answer to the bit")
    sent = rows(panel.get_by_role("region", name="What was sent").locator("tbody"))
    assert [row[1] for row in sent] == ["1 step", "2 steps"]
    table = screen.numbers(screen.figure("Outputs over the session"))
    assert len(table) == 2 and [value(one) for one in sent[-1][2].split(", ")] == [value(one) for one in table[-1][1:]]
    own.client.delete(f"/v1/sessions/{panel.locator('.live .id').inner_text()}").raise_for_status()
