"""The dialog for the key: where a server wants one it is asked for once, and every view goes on with what it did."""

import json
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import OpenScreen
from tests.browser.screen import Screen
from tests.browser.test_page import focused, violations
from tests.running import STORE, RunningServer, running_server

# It starts a server of its own.
pytestmark = pytest.mark.slow

KEY, OTHER, INFERS = "s3cret-key-of-the-test", "an0ther-key-of-the-test", "key-that-may-only-infer"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("locked")
    for name in ("names-gru", "sunspots-gru", "names-lstm-generator"):
        shutil.copytree(STORE / name, root / name)
    with running_server(root, api_keys=f"{KEY},{OTHER}") as one:
        yield one


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desktop", "phone"])
def screen(request: pytest.FixtureRequest, open_screen: OpenScreen, locked: RunningServer) -> Iterator[Screen]:
    width, scheme = request.param
    one = open_screen(locked.url + "/", width=width, scheme=scheme)
    yield one
    forgive(one)


def forgive(screen: Screen) -> None:
    """Leave the page, and forget what the browser said of the keys that were refused."""
    screen.page.goto("about:blank")
    screen.complaints[:] = [text for text in screen.complaints if not re.search("status of 40[13]", text)]


def asked(screen: Screen, address: str) -> Locator:
    """The dialog, after a page of somebody without a key was opened."""
    screen.page.goto(f"{screen.url}#{address}")
    dialog = screen.page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("The server asks for a key")
    return dialog


def test_it_is_a_dialog_that_holds_the_focus_and_is_left_by_escape(screen: Screen) -> None:
    page = screen.page
    dialog = asked(screen, "explore/names-gru")
    assert focused(page) == "API key"
    assert violations(screen) == []
    screen.keep(f"key-{page.viewport_size['width']}", whole=False)  # type: ignore[index]
    for key in ("Tab", "Shift+Tab"):
        stops = []
        for _ in range(7):
            page.keyboard.press(key)
            assert dialog.evaluate("dialog => dialog.contains(document.activeElement)")
            stops.append(focused(page))
        assert {"API key", "Use this key", "Cancel"} == set(stops)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    # Nothing asks again by itself, and the message leads back to the dialog.
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("unauthorized")
    alert.get_by_role("button", name="Enter a key").press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    assert focused(page) == "Enter a key"
    page.get_by_role("button", name="Key", exact=True).press("Enter")
    expect(dialog).to_be_visible()


def test_a_key_that_is_being_typed_is_not_taken_away(screen: Screen) -> None:
    page = screen.page
    dialog = asked(screen, "engine")
    dialog.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#engine .tiles")).to_contain_text("idle")
    page.get_by_role("button", name="Key", exact=True).click()
    dialog.get_by_label("API key").fill(OTHER[:5])
    # Meanwhile the server takes the key no more.
    page.route("**/v1/**", lambda route: route.fulfill(status=401, json={"code": "unauthorized", "detail": "unknown"}))
    expect(dialog.get_by_role("heading")).to_have_text("The server wants another key")
    expect(dialog.get_by_label("API key")).to_have_value(OTHER[:5])


def test_a_wrong_key_is_told_beside_the_field_and_a_right_one_goes_on(screen: Screen, locked: RunningServer) -> None:
    page = screen.page
    dialog = asked(screen, "explore/names-gru")
    field, fault = dialog.get_by_label("API key"), dialog.get_by_role("alert")
    for candidate, words in (
        ("", "Type or paste a key"),
        ("two words", "no spaces"),
        ("schlüssel", "accents"),
        ("not-a-key-of-this-server", "does not know this key"),
    ):
        field.fill(candidate)
        page.keyboard.press("Enter")
        expect(fault).to_contain_text(words)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile(words))
        assert focused(page) == "API key"
    assert page.evaluate("sessionStorage.length") == 0
    assert violations(screen) == []
    screen.keep(f"key-wrong-{page.viewport_size['width']}", whole=False)  # type: ignore[index]
    field.fill(KEY)
    expect(fault).to_be_empty()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    expect(page.get_by_role("alert")).to_be_empty()
    # It is kept for the tab, and in no address and no text.
    assert KEY not in page.url and KEY not in page.content()
    assert not any(KEY in url for url in screen.requests)
    page.reload()
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    expect(dialog).to_be_hidden()


def revoke(page: Page, pressed: Locator | None = None) -> None:
    """Have the server know the page's key no more, and press a button before the page notices by itself."""
    give = "sessionStorage.setItem('elman-key', 'a-key-that-was-revoked')"
    if pressed is None:
        page.evaluate(give)
    else:
        pressed.evaluate(f"button => {{ {give}; button.click(); }}")


def answer(dialog: Locator, key: str = OTHER) -> None:
    expect(dialog.get_by_role("heading")).to_have_text("The server wants another key")
    dialog.get_by_label("API key").fill(key)
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()


def test_every_view_goes_on_with_what_it_was_doing(screen: Screen, locked: RunningServer) -> None:
    page = screen.page
    dialog = asked(screen, "tour")
    dialog.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("This step moved it by")).to_be_visible()
    revoke(page, panel.get_by_role("button", name="Next"))
    answer(dialog)
    expect(panel.get_by_text("all are the same to the last bit")).to_be_visible()

    page.goto(f"{screen.url}#explore/names-gru")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
    revoke(page)
    page.get_by_label("Text").evaluate(
        "(box, text) => { box.value = text; box.dispatchEvent(new Event('input')); }", "Rossi"
    )
    answer(dialog)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Italian")

    page.goto(f"{screen.url}#session/names-gru")
    expect(page.locator(".figure-line")).to_have_text("1 step")
    panel.get_by_role("textbox", name="Piece").fill("abc")
    revoke(page, panel.get_by_role("button", name="Send"))
    answer(dialog)
    expect(page.locator(".figure-line")).to_have_text("4 steps")

    page.goto(f"{screen.url}#generate/names-lstm-generator")
    panel.get_by_role("spinbutton", name="Seed").fill("4")
    revoke(page, panel.get_by_role("button", name="Generate", exact=True))
    answer(dialog)
    expect(panel.get_by_text("Keep this seed")).to_be_visible()

    page.goto(f"{screen.url}#engine")
    expect(panel.locator(".plot svg").first).to_be_visible()
    revoke(page)
    answer(dialog)
    page.goto(f"{screen.url}#models")
    revoke(page)
    answer(dialog)
    expect(panel.get_by_role("status")).to_have_text("3 models served")
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_key_is_forgotten_and_asked_for_again(screen: Screen) -> None:
    page = screen.page
    dialog = asked(screen, "models")
    dialog.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("tabpanel").get_by_role("status")).to_have_text("3 models served")
    page.get_by_role("button", name="Key", exact=True).click()
    expect(dialog.get_by_role("heading")).to_have_text("API key")
    dialog.get_by_role("button", name="Forget the key").click()
    expect(dialog.get_by_role("heading")).to_have_text("The server asks for a key")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_without_the_role_is_told_what_it_lacks(open_screen: OpenScreen, tmp_path: Path) -> None:
    shutil.copytree(STORE / "names-gru", tmp_path / "models" / "names-gru")
    file: dict[str, Any] = {"keys": [{"name": "one", "hashes": [hashed(INFERS)], "roles": ["infer"]}]}
    file["keys"].append({"name": "two", "hashes": [hashed(KEY)], "roles": ["infer", "sessions"]})
    (tmp_path / "keys.json").write_text(json.dumps(file))
    with running_server(tmp_path / "models", api_keys_file=tmp_path / "keys.json") as server:
        screen = open_screen(server.url + "/")
        page = screen.page
        dialog = asked(screen, "explore/names-gru")
        dialog.get_by_label("API key").fill(INFERS)
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Answer")).to_contain_text("After all")
        page.get_by_role("tab", name="Session").click()
        expect(dialog.get_by_role("alert")).to_contain_text("this needs a key with the role sessions; yours has infer")
        answer(dialog, KEY)
        expect(page.locator(".figure-line")).to_have_text("1 step")
        forgive(screen)


def hashed(key: str) -> str:
    return f"sha256:{sha256(key.encode()).hexdigest()}"
