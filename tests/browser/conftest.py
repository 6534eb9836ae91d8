"""A headless Chromium, one for this folder, and pages of it that must behave."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser import chromium
from tests.browser.screen import Screen
from tests.running import RunningServer

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Milliseconds until what does not come is missed: a busy machine takes its time.
LONGEST = 60_000
# A width and a scheme: how a page is looked at.
Look = tuple[int, str]
DESKTOP: Look = (1280, "light")
PHONE: Look = (390, "dark")
OpenScreen = Callable[..., Screen]
Contexts = dict[tuple[str, int, bool], BrowserContext]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser of this folder's tests, closed behind them: its driver's event loop runs until then."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium")
    undisturbed = tmp_path_factory.mktemp("chromium") / "chromium"
    undisturbed.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, chromium.__file__, path])} "$@"\n')
    undisturbed.chmod(0o755)
    expect.set_options(timeout=LONGEST)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=undisturbed, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def contexts(browser: Browser) -> Iterator[Contexts]:
    """Contexts by scheme, width and motion: pages that share one share the cached charting library."""
    made: Contexts = {}
    yield made
    for context in made.values():
        context.close()


@pytest.fixture
def open_screen(browser: Browser, contexts: Contexts) -> Iterator[OpenScreen]:
    """Opens pages. When the test ends, none may have complained, or asked for anything elsewhere."""
    screens: list[Screen] = []

    def open_one(url: str, scheme: str = "light", width: int = 1280, still: bool = True) -> Screen:
        wanted = (scheme, width, still)
        if wanted not in contexts:
            contexts[wanted] = browser.new_context(
                color_scheme=scheme,
                viewport={"width": width, "height": 720},
                reduced_motion="reduce" if still else "no-preference",
            )
            contexts[wanted].set_default_timeout(LONGEST)
        screen = Screen(contexts[wanted].new_page(), url)
        screens.append(screen)
        return screen

    yield open_one
    for screen in screens:
        screen.page.close()
    for screen in screens:
        assert screen.complaints == []
        assert screen.elsewhere() == []


@pytest.fixture
def look() -> Look:
    """How pages are looked at. A module with `look = both_looks()` runs its tests of `screen` and `page` in both."""
    return DESKTOP


def both_looks() -> Any:
    """The fixture `look` of a module whose tests run wide and light, and on a phone in the dark."""

    @pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
    def look(request: pytest.FixtureRequest) -> Look:
        found: Look = request.param
        return found

    return look


@pytest.fixture
def own(server: RunningServer) -> RunningServer:
    """The server whose page is looked at: the shared one, unless a module has one of its own."""
    return server


@pytest.fixture
def screen(open_screen: OpenScreen, own: RunningServer, look: Look) -> Screen:
    width, scheme = look
    return open_screen(own.url + "/", width=width, scheme=scheme)


@pytest.fixture
def page(screen: Screen) -> Page:
    return screen.page


@pytest.fixture
def lossy(browser: Browser) -> Iterator[Page]:
    """A page whose browser may complain of what is lost."""
    page = browser.new_page()
    yield page
    page.close()
