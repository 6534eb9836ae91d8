"""The tour of a word that is typed: what is said of it agrees with the server's answers."""

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import both_looks
from tests.browser.screen import Screen, percent, value
from tests.browser.test_page import focused, violations
from tests.browser.test_races import Held
from tests.browser.test_tour import arrive, faded, result
from tests.running import STORE, RunningServer, running_server

# It starts a server of its own.
pytestmark = pytest.mark.slow
look = both_looks()

READERS = ("names-rnn", "names-lstm", "names-gru")
WORD = "Moravčíková"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("words")
    for name in (*READERS, "sunspots-gru"):
        (root / name).symlink_to(STORE / name)
    with running_server(root) as one:
        yield one


def read(page: Page, url: str, entered: str = "") -> Locator:
    """The tour of a word."""
    page.goto(f"{url}/#tour?reads=word{entered}")
    panel = page.get_by_role("tabpanel", name="Tour")
    expect(panel.get_by_label("The network reads")).to_have_value("word")
    return panel


def test_each_stage_says_of_a_word_what_the_server_answers(screen: Screen, own: RunningServer) -> None:
    page, width = screen.page, screen.page.viewport_size["width"]  # type: ignore[index]
    panel = read(page, own.url)
    panel.get_by_role("textbox", name="Word").fill(WORD)
    panel.get_by_role("slider", name="Chosen step").fill("5")
    whole = result(own, "names-gru", WORD)
    best = whole["decoded"][-1]["label"]
    sure = [next(one["probability"] for one in step["top"] if one["label"] == best) for step in whole["decoded"]]
    added = np.diff([0, *sure])

    def stage(number: int) -> None:
        expect(panel.get_by_text(f"Stage {number} of 5")).to_be_visible()
        expect(panel.locator(".state-line")).to_be_hidden()
        assert violations(screen) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        screen.keep(f"tour-word-{number}-{width}")

    after = whole["decoded"][4]
    way, points = "lowered" if added[4] < 0 else "raised", f"{abs(100 * added[4]):.1f}".removesuffix(".0")
    expect(panel.get_by_role("status").filter(has_text="After step 5")).to_have_text(
        f"After step 5, “v”, the answer is {after['label']}, {percent(after['probability'])}. This step {way} the "
        f"probability of {best}, the answer in the end, by {points} percentage points."
    )
    bars = screen.numbers(screen.figure("What each character added"))
    assert [value(row[1]) for row in bars] == pytest.approx(added.tolist(), rel=6e-4, abs=1e-6)
    # The characters are the steps of every picture, and can be clicked.
    assert "".join(panel.locator(".plot").first.locator("text").all_text_contents()).find(WORD) >= 0
    panel.locator(".strip span").nth(1).click()
    expect(panel.get_by_text("After step 2, “o”,")).to_be_visible()
    panel.locator(".strip span").nth(4).click()
    stage(1)

    panel.get_by_role("button", name="Next").click()
    expect(panel.locator(".callout")).to_have_text(
        "Cut after step 5: 512 bytes were handed over. Of the 6 answers after them, all are the same to the last bit "
        "as when the word is read whole."
    )
    memory = screen.numbers(screen.figure("The memory after each step"))
    assert [value(row[-1]) for row in memory] == pytest.approx(whole["hidden"]["h"][-1], rel=6e-4, abs=1e-9)
    stage(2)

    other = WORD[:4] + "a" + WORD[5:]
    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_text(f"“{WORD}” and “{other}”. {faded(own, 'names-gru', WORD, other, 5)}")).to_be_visible()
    stage(3)

    panel.get_by_role("button", name="Next").click()
    for model in READERS:
        expect(panel.get_by_role("region", name=model)).to_contain_text(faded(own, model, WORD, other, 5))
    stage(4)

    panel.get_by_role("button", name="Next").click()
    expect(panel.get_by_text("Stage 5 of 5")).to_be_visible()
    panel.get_by_role("link", name="Explore").click()
    expect(page.get_by_role("region", name="Answer")).to_contain_text(f"After all {len(WORD)} steps")
    expect(page.get_by_label("Text")).to_have_value(WORD)


def test_an_a_that_is_chosen_becomes_another_character(screen: Screen, own: RunningServer) -> None:
    panel = read(screen.page, own.url, "&stage=3&word=Rossa&step=5")
    expect(panel.get_by_text("“Rossa” and “Rosso”.")).to_be_visible()
    panel.get_by_role("textbox", name="Word").fill("Ro")
    expect(panel.get_by_text("“Ro” and “Ra”.")).to_be_visible()
    expect(panel.get_by_role("slider", name="Chosen step")).to_have_attribute("aria-valuetext", "step 2 of 2")


def test_what_is_wrong_with_a_word_is_told_beside_it(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = read(page, own.url)
    word = panel.get_by_role("textbox", name="Word")
    word.fill("")
    given = panel.get_by_role("region", name="Your word")
    expect(given.get_by_role("alert")).to_contain_text("type something")
    expect(word).to_have_attribute("aria-invalid", "true")
    expect(panel.locator(".stage-results")).to_be_hidden()
    expect(panel.locator(".state-line")).to_have_attribute("data-state", "failed")
    assert violations(screen) == []
    word.fill("Rossi Ω")
    expect(given.get_by_text("Not in the vocabulary: Ω.")).to_be_visible()
    expect(given.locator(".strip .unknown")).to_have_text("Ω")
    expect(word).to_have_attribute("aria-invalid", "false")
    expect(page.locator("#problem")).to_be_empty()
    expect(panel.get_by_text("After step 1, “R”,")).to_be_visible()
    word.fill("x" * 60)
    expect(word).to_have_value("x" * 40)
    expect(panel.get_by_text("1 of 40", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_word_and_what_is_read_have_an_address(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    panel.get_by_label("The network reads").select_option("word")
    page.wait_for_url("**/#tour?reads=word")
    word = panel.get_by_role("textbox", name="Word")
    began = word.input_value()
    word.fill(WORD)
    page.wait_for_url("**reads=word*&word=Morav*")
    panel.get_by_role("button", name="Next").click()
    expect(panel.locator(".callout")).to_contain_text("as when the word is read whole")
    page.wait_for_url("**reads=word&stage=2*&word=Morav*")
    page.reload()
    expect(panel.locator(".callout")).to_contain_text("as when the word is read whole")
    expect(word).to_have_value(WORD)
    expect(panel.get_by_label("Start from")).to_have_value("")
    panel.get_by_label("Start from").select_option(began)
    expect(word).to_have_value(began)
    page.go_back()
    expect(panel.get_by_text("Stage 1 of 5")).to_be_visible()
    expect(word).to_have_value(WORD)
    page.go_back()
    expect(panel.get_by_role("slider", name="Your line")).to_be_visible()
    expect(panel.get_by_text("This step moved it by")).to_be_visible()
    assert page.url.endswith("#tour")


def test_by_keyboard_alone_a_word_is_typed_and_the_tour_gone_through(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    press = page.keyboard.press
    reads = panel.get_by_label("The network reads")
    reads.focus()
    press("End")
    expect(panel.get_by_text("percentage points")).to_be_visible()
    expect(reads).to_be_focused()
    for name in ("Start from", "Word"):
        press("Tab")
        assert focused(page) == name
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press("ControlOrMeta+a")
    page.keyboard.type("Rossi")
    expect(panel.get_by_text("the probability of Italian")).to_be_visible()
    press("Tab")
    assert focused(page) == "Chosen step"
    press("End")
    expect(panel.get_by_text("After step 5, “i”,")).to_be_visible()
    for number in (2, 3, 4, 5):
        while focused(page) != "Next":
            press("Tab")
        press("Enter")
        expect(panel.get_by_text(f"Stage {number} of 5")).to_be_visible()


def test_what_is_done_before_the_examples_have_come_does_no_harm(screen: Screen, own: RunningServer) -> None:
    page = screen.page
    panel = arrive(page, own.url)
    held = Held(page, "**/names-gru/examples")
    panel.get_by_label("The network reads").select_option("word")
    held.wait(1)
    expect(panel.get_by_role("textbox", name="Word")).to_be_disabled()
    panel.get_by_role("slider", name="Chosen step").press("ArrowRight")
    page.get_by_role("tab", name="Models").click()
    held.end()
    page.get_by_role("tab", name="Tour").click()
    expect(panel.get_by_text("percentage points")).to_be_visible()
    page.wait_for_url("**/#tour?reads=word")
