"""Answers that come late or in another order: the view, the address and what is shown agree all the same."""

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import both_looks
from tests.running import STORE, RunningServer, running_server

# It starts servers of its own.
pytestmark = pytest.mark.slow
look = both_looks()

VERSIONS = ("1", "2", "3")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("races")
    for version in VERSIONS:
        shutil.copytree(STORE / "names-gru" / "1", root / "names-gru" / version)
    for name in ("names-lstm", "names-gru-generator", "sunspots-gru"):
        (root / name).symlink_to(STORE / name)
    with running_server(root) as one:
        yield one


class Held:
    """Requests of a page that wait until they are let go, in any order."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.page = page
        self.routes: list[Route] = []
        self.gone: set[int] = set()
        self.holds = True
        page.route(pattern, self._hold)

    def _hold(self, route: Route) -> None:
        if self.holds:
            self.routes.append(route)
        else:
            route.continue_()

    def wait(self, count: int) -> None:
        """Wait until so many requests were made."""
        for _ in range(6000):
            if len(self.routes) >= count:
                return
            self.page.wait_for_timeout(10)
        raise AssertionError(f"{len(self.routes)} requests were made, not {count}")

    def go(self, number: int) -> None:
        """Let one of them go, and give its answer the time to come: nothing may show it where it is out of date."""
        self.wait(number + 1)
        self.gone.add(number)
        self.routes[number].continue_()
        self.page.wait_for_timeout(100)

    def end(self) -> None:
        """Hold none any more."""
        self.holds = False
        for number in sorted(set(range(len(self.routes))) - self.gone):
            self.go(number)


def answered(page: Page, words: str) -> None:
    expect(page.get_by_role("region", name="Answer")).to_contain_text(words)
    expect(page.locator("#explore .state-line")).to_be_hidden()


def test_of_two_sequences_the_one_that_was_typed_last_is_shown(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    held = Held(page, "**/predict")
    for count, text in enumerate(("Rossi", "Lindqvist"), 1):
        page.get_by_label("Text").fill(text)
        held.wait(count)
    held.go(1)
    held.go(0)
    held.end()
    answered(page, "Swedish")
    page.wait_for_url("**?input=Lindqvist")


def test_an_answer_to_what_was_there_before_the_last_key_is_not_shown(page: Page, own: RunningServer) -> None:
    """The next request is made a moment after the last key. Until then there is no answer either."""
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    held = Held(page, "**/predict")
    text = page.get_by_label("Text")
    text.fill("Rossi")
    held.wait(1)
    # In one turn: the key, and the answer is let go.
    text.press_sequentially("n")
    held.go(0)
    expect(page.locator("#explore .state-line")).to_have_attribute("data-state", "stale")
    assert "input" not in page.url
    held.go(1)
    held.end()
    page.wait_for_url("**?input=Rossin")
    answered(page, "After all 6 steps")


def test_an_answer_of_the_model_before_is_not_shown_as_that_of_the_next(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    held, examples = Held(page, "**/predict"), Held(page, "**/examples")
    page.get_by_label("Text").fill("Rossi")
    page.get_by_role("combobox", name="Model").select_option("sunspots-gru")
    examples.wait(1)
    # What is typed is for the fields of the model before. It is sent to neither.
    page.get_by_label("Text").fill("Ito")
    page.wait_for_timeout(400)
    assert [route for route in held.routes if "sunspots" in route.request.url] == []
    examples.go(0)
    held.wait(1)
    for number in reversed(range(len(held.routes))):
        held.go(number)
    held.end()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("sunspots-gru")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("sunspots")
    assert page.url.endswith("#explore/sunspots-gru")


def test_the_influence_is_that_on_what_was_chosen_last(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    note = page.locator(".score figure", has=page.get_by_role("heading", name="Influence")).locator(".note")
    expect(note).to_contain_text("the last output")
    # The models beside it ask for theirs too.
    expect(page.get_by_role("region", name="LSTM and GRU side by side")).to_be_visible()
    held = Held(page, "**/influence")
    target = page.get_by_label("on", exact=True)
    labels = [one for one in target.locator("option").evaluate_all("ones => ones.map((one) => one.value)") if one]
    for count, label in enumerate(labels[:2], 1):
        target.select_option(label)
        held.wait(count)
    held.go(1)
    expect(note).to_contain_text(f"“{labels[1]}”")
    held.go(0)
    expect(note).to_contain_text(f"“{labels[1]}”")
    held.end()


def test_of_two_versions_the_one_that_was_chosen_last_is_opened(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    held = Held(page, "**/versions/*")
    choice = page.get_by_label("Version")
    for count, version in enumerate(("1", "2"), 1):
        choice.select_option(version)
        held.wait(count)
    held.go(1)
    page.wait_for_url("**/#explore/names-gru/2")
    held.go(0)
    expect(page.get_by_label("Version")).to_have_value("2")
    assert page.url.endswith("#explore/names-gru/2")
    # Nor does one come back that was left for another view.
    page.get_by_label("Version").select_option("1")
    held.wait(3)
    page.get_by_role("tab", name="Models").click()
    held.go(2)
    held.end()
    expect(page.get_by_role("tab", name="Models")).to_have_attribute("aria-selected", "true")
    assert page.url.endswith("#models")


def test_the_focus_stays_at_the_control_that_somebody_uses(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    page.get_by_label("Version").focus()
    for version in ("2", "1"):
        page.keyboard.press("ArrowDown")
        page.wait_for_url(f"**/#explore/names-gru/{version}")
        expect(page.get_by_label("Version")).to_have_value(version)
        expect(page.get_by_label("Version")).to_be_focused()


def test_back_and_forward_end_where_they_lead_whatever_comes_when(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru/1")
    answered(page, "After all")
    page.get_by_label("Text").fill("Rossi")
    page.wait_for_url("**?input=Rossi")
    page.get_by_role("combobox", name="Model").select_option("names-lstm")
    page.wait_for_url("**/#explore/names-lstm")
    answered(page, "After all")
    cards, answers = Held(page, "**/versions/1"), Held(page, "**/predict")
    page.get_by_label("Text").fill("Ito")
    answers.wait(1)
    page.go_back()
    page.wait_for_url("**/#explore/names-gru/1?input=Rossi")
    cards.wait(1)
    # The answer to what was left comes before the card of what is gone back to.
    answers.go(0)
    assert page.url.endswith("#explore/names-gru/1?input=Rossi")
    page.go_forward()
    page.wait_for_url("**/#explore/names-lstm*")
    cards.go(0)
    for one in (cards, answers):
        one.end()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("names-lstm")
    answered(page, "After all")
    assert "/#explore/names-lstm" in page.url


LATE = """
window.addEventListener("hashchange", (event) => { if (window.late) event.stopImmediatePropagation(); });
"""


@pytest.mark.parametrize("waits", ("the view that is left", "the view that is gone back to"))
def test_nothing_is_written_over_where_back_leads_before_the_page_is_told(
    page: Page, own: RunningServer, waits: str
) -> None:
    """The browser changes the address first. It tells the page of that in a task of its own."""
    page.add_init_script(LATE)
    page.goto(f"{own.url}/#tour?reads=word")
    panel = page.get_by_role("tabpanel", name="Tour")
    expect(panel.get_by_text("percentage points")).to_be_visible()
    for stage in (2, 3):
        panel.get_by_role("button", name="Next").click()
        page.wait_for_url(f"**/#tour?reads=word&stage={stage}")
        expect(panel.locator(".state-line")).to_be_hidden()
    held = Held(page, "**/predict")
    if waits == "the view that is left":
        panel.get_by_role("textbox", name="Word").fill("Rossi")
        back = "#tour?reads=word&stage=2"
    else:
        page.go_back()
        back = "#tour?reads=word"
    held.wait(1)
    page.evaluate("window.late = true")
    page.go_back()
    page.wait_for_url(f"**/{back}")
    held.end()
    assert page.url.endswith(back)
    page.evaluate("window.late = false; window.dispatchEvent(new Event('hashchange'))")
    expect(panel.get_by_text(f"Stage {2 if 'stage' in back else 1} of 5")).to_be_visible()
    expect(panel.locator(".state-line")).to_be_hidden()
    assert page.url.endswith(back)


def test_what_another_view_was_waiting_for_is_not_said_here(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("tab", name="Explore").click()
    held = Held(page, "**/predict")
    page.get_by_label("Text").fill("Rossi")
    held.wait(1)
    held.holds = False
    page.get_by_role("tab", name="Session").click()
    piece = page.get_by_role("textbox", name="Piece")
    expect(page.locator("#session .figure-line")).to_have_text("1 step")
    piece.fill("")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("type something")
    held.go(0)
    expect(page.get_by_role("alert")).to_contain_text("type something")
    assert page.url.endswith("#session/names-gru")
    own.client.delete(f"/v1/sessions/{page.locator('#session .live .id').inner_text()}").raise_for_status()
    # It is asked for again there.
    page.get_by_role("tab", name="Explore").click()
    answered(page, "Italian")
    page.wait_for_url("**/#explore/names-gru?input=Rossi")


def test_a_session_that_comes_after_its_model_was_left_is_not_that_of_the_next(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#models")
    held = Held(page, "**/v1/models/*/sessions")
    page.goto(f"{own.url}/#session/names-gru")
    held.wait(1)
    page.get_by_role("combobox", name="Model").select_option("names-lstm")
    held.go(1)
    line = page.locator("#session .figure-line")
    expect(line).to_have_text("1 step")
    shown = page.locator("#session .live .id").inner_text()
    with page.expect_request(lambda one: one.method == "DELETE") as deleted:
        held.go(0)
    assert shown not in deleted.value.url
    held.end()
    page.get_by_role("button", name="Send").click()
    expect(line).to_have_text("4 steps")
    assert own.client.get(f"/v1/sessions/{shown}").json()["model"] == "names-lstm"
    assert page.locator("#session .live .id").inner_text() == shown
    own.client.delete(f"/v1/sessions/{shown}").raise_for_status()


def test_a_step_goes_to_the_session_that_it_was_sent_to(page: Page, own: RunningServer) -> None:
    for left in own.client.get("/v1/sessions?model=names-gru").json()["sessions"]:
        own.client.delete(f"/v1/sessions/{left['id']}").raise_for_status()
    page.goto(f"{own.url}/#session/names-gru")
    panel = page.get_by_role("tabpanel", name="Session")
    line, id = panel.locator(".figure-line"), panel.locator(".live .id")
    expect(line).to_have_text("1 step")
    panel.get_by_role("button", name="Fork").click()
    rows = panel.get_by_role("list", name="Sessions of this model").get_by_role("button")
    expect(rows).to_have_count(2)
    fork = id.inner_text()
    states = Held(page, "**/state")
    panel.get_by_role("textbox", name="Piece").fill("abc")
    panel.get_by_role("button", name="Send").click()
    states.wait(1)
    panel.locator("button.row:not([aria-current=true])").click()
    states.go(0)
    states.end()
    expect(id).not_to_have_text(fork)
    expect(line).to_have_text("1 step")
    other = id.inner_text()
    assert [own.client.get(f"/v1/sessions/{one}").json()["step"] for one in (fork, other)] == [4, 1]
    # Twice is once where there is nothing left.
    panel.get_by_role("button", name="Delete").dblclick()
    expect(panel.locator(".live")).to_be_hidden()
    expect(rows).to_have_count(1)
    expect(page.locator("#problem")).to_be_empty()
    own.client.delete(f"/v1/sessions/{fork}").raise_for_status()


def test_the_tour_speaks_of_the_step_that_is_chosen(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#tour?stage=2")
    panel = page.get_by_role("tabpanel", name="Tour")
    callout = panel.locator(".callout")
    expect(callout).to_contain_text("Cut after step 16:")
    held = Held(page, "**/predict")
    step = panel.get_by_role("slider", name="Chosen step")
    step.fill("20")
    held.wait(1)
    step.fill("30")
    for number in range(2):
        held.go(number)
    held.end()
    expect(callout).to_contain_text("Cut after step 30:")
    page.wait_for_url("**/#tour?stage=2&step=30")


def test_a_view_that_is_chosen_before_the_models_are_known_is_opened(page: Page, own: RunningServer) -> None:
    held = Held(page, "**/v1/models")
    page.goto(own.url)
    held.wait(1)
    page.get_by_role("tab", name="Session").click()
    held.wait(2)
    held.go(1)
    held.go(0)
    held.end()
    expect(page.locator("#session .figure-line")).to_have_text("1 step")
    expect(page.get_by_role("tab", name="Session")).to_have_attribute("aria-selected", "true")
    assert page.url.endswith("#session/names-gru")


def test_the_models_are_asked_for_while_the_page_is_still_read(page: Page, own: RunningServer) -> None:
    files = Held(page, "**/playground/main.js")
    with page.expect_response("**/v1/models"):
        page.goto(own.url, wait_until="commit")
    assert files.gone == set()
    files.end()
    answered(page, "After all")


def test_a_page_that_is_opened_before_the_server_is_there_begins_by_itself(lossy: Page, own: RunningServer) -> None:
    page = lossy
    page.route("**/v1/models", lambda route: route.abort())
    page.goto(f"{own.url}/#explore/names-gru?input=Rossi")
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    page.unroute("**/v1/models")
    answered(page, "Italian")
    expect(page.locator("#problem")).to_be_empty()
    assert page.url.endswith("#explore/names-gru?input=Rossi")


def test_examples_that_are_lost_are_not_said_to_be_none(lossy: Page, own: RunningServer) -> None:
    page = lossy
    page.route("**/v1/**", lambda route: route.abort() if "models/" in route.request.url else route.continue_())
    page.goto(f"{own.url}/#forecast/sunspots-gru?horizon=3")
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    page.unroute_all()
    expect(page.locator("#forecast .answer")).to_contain_text("after 3 steps")
    expect(page.get_by_label("Held-out history")).to_be_visible()


def test_tokens_that_stop_coming_are_no_whole_answer(lossy: Page, own: RunningServer) -> None:
    page = lossy
    cut = 'data: {"sample": 0, "token": 3, "text": "a", "step": 1}\n\n'
    page.route("**/generate", lambda route: route.fulfill(body=cut, content_type="text/event-stream"))
    page.goto(f"{own.url}/#generate/names-gru-generator")
    expect(page.get_by_role("alert")).to_contain_text("ended before all tokens had come")
    expect(page.locator("#generate .state-line")).to_have_attribute("data-state", "failed")
    expect(page.get_by_role("list", name="Samples")).to_be_hidden()
    # It is tried again when the server answers.
    page.unroute_all()
    expect(page.get_by_text("Keep this seed")).to_be_visible()
    expect(page.locator("#problem")).to_be_empty()


def test_what_a_view_was_left_before_is_there_when_it_is_gone_back_to(page: Page, own: RunningServer) -> None:
    """The answer, what stands beside it, and samples."""
    page.goto(f"{own.url}/#explore/names-gru")
    side = page.get_by_role("region", name="LSTM and GRU side by side")
    expect(side.locator(".column .plot svg").first).to_be_visible()
    held = Held(page, "**/names-lstm/predict")
    page.get_by_label("Text").fill("Rossi")
    answered(page, "Italian")
    held.wait(1)
    page.get_by_role("tab", name="Models").click()
    held.end()
    page.get_by_role("tab", name="Explore").click()
    expect(side.locator(".answer")).to_have_text([re.compile("Italian")] * 2)

    held = Held(page, "**/generate")
    page.get_by_role("tab", name="Generate").click()
    held.wait(1)
    page.get_by_role("tab", name="Models").click()
    held.end()
    page.get_by_role("tab", name="Generate").click()
    expect(page.get_by_text("Keep this seed")).to_be_visible()


def test_back_leaves_an_address_that_the_page_writes_otherwise(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#models")
    expect(page.get_by_role("status").filter(has_text="served")).to_be_visible()
    for address in ("forecast/sunspots-gru?example=900", "explore/100%", "constructor"):
        page.goto(f"{own.url}/#{address}")
        if address.startswith("forecast"):
            page.wait_for_url("**/#forecast/sunspots-gru")
            expect(page.locator("#forecast .answer")).to_contain_text("after")
        elif address.startswith("explore"):
            expect(page.get_by_role("alert")).to_contain_text("There is no model “100%” here")
        else:
            page.wait_for_url("**/#explore/*")
        page.go_back()
        page.wait_for_url("**/#models")
        expect(page.get_by_role("tab", name="Models")).to_have_attribute("aria-selected", "true")


def test_to_skip_the_head_leads_into_the_view_and_no_other(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#engine")
    page.get_by_role("tab", name="Engine", selected=True).wait_for()
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#engine")
    expect(page.get_by_role("tab", name="Engine")).to_have_attribute("aria-selected", "true")
