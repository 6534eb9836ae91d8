"""The page as a whole: keyboard, screen readers, schemes, widths, prefixes, policy and caching."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import OpenScreen
from tests.browser.proxy import prefix_proxy
from tests.browser.screen import Screen
from tests.conftest import StartServer
from tests.running import ROOT, STORE, RunningServer

VIEWS = ("tour", "explore", "session", "generate", "forecast", "engine")
NARROW = 360


def filled(screen: Screen, view: str) -> None:
    """A view with something in it."""
    page = screen.page
    panel = page.get_by_role("tabpanel")
    if view == "tour":
        panel.get_by_text("This step moved it by").wait_for()
    elif view == "session":
        panel.get_by_text("1 step", exact=True).wait_for()
        panel.get_by_role("textbox", name="Piece").fill("Lindqvist")
        panel.get_by_role("button", name="Send").click()
        panel.get_by_text("10 steps").wait_for()
        panel.get_by_role("button", name="Keep state").click()
        panel.get_by_role("button", name="Put back").wait_for()
    elif view == "generate" and panel.get_by_role("spinbutton", name="Seed").count():
        panel.get_by_role("spinbutton", name="Seed").fill("4")
        panel.get_by_role("button", name="Generate", exact=True).click()
        panel.get_by_text("Keep this seed").wait_for()
    elif view == "explore":
        page.locator(".columns .plot").nth(8).wait_for()
    elif view == "forecast" and panel.get_by_role("spinbutton", name="Horizon").count():
        panel.locator(".plot").first.scroll_into_view_if_needed()
        panel.locator(".plot svg").first.wait_for()
    elif view == "engine":
        panel.locator(".plot svg").first.wait_for()


def violations(screen: Screen, rules: list[str] | None = None) -> list[str]:
    """What axe finds, of any weight, in words; all of its rules, or those named."""
    options = {"runOnly": {"type": "rule", "values": rules}} if rules else None
    found = Axe().run(screen.page, options=options).response["violations"]
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible_in_both_schemes(open_screen: OpenScreen, server: RunningServer, scheme: str) -> None:
    screen = open_screen(server.url + "/", scheme=scheme)
    screen.open("explore", "names-gru")
    for view in VIEWS:
        screen.page.get_by_role("tab", name=view.capitalize()).click()
        filled(screen, view)
        screen.keep(f"{view}-{scheme}", whole=scheme == "light")
        # The schemes differ in their colours alone.
        assert violations(screen, ["color-contrast"] if scheme == "dark" else None) == [], view
    background = screen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, background[4:-1].split(","))) > 600 if scheme == "light" else 150


def test_no_view_scrolls_sideways_on_a_phone(open_screen: OpenScreen, server: RunningServer) -> None:
    screen = open_screen(server.url + "/", width=NARROW)
    page = screen.open("explore", "names-gru")
    for view in VIEWS:
        page.get_by_role("tab", name=view.capitalize()).click()
        filled(screen, view)
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW, view
        wide = page.evaluate(
            """() => [...document.querySelectorAll("main *")].filter((one) => {
                const box = one.getBoundingClientRect();
                return box.width && box.right > innerWidth + 1 && !one.closest("pre, .scroll, .numbers, svg, .unseen");
            }).map((one) => one.outerHTML.slice(0, 120))"""
        )
        assert wide == [], view
        screen.keep(f"{view}-phone", whole=view == "explore")


def focused(page: Any) -> str:
    """The focused element's role or tag, and its name."""
    name: str = page.evaluate(
        """() => {
            const one = document.activeElement;
            const label = one.labels?.[0]?.firstChild?.textContent;
            return (one.getAttribute("aria-label") ?? label ?? one.textContent).trim().slice(0, 40);
        }"""
    )
    return name


def test_everything_is_reached_and_done_by_keyboard_alone(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "names-gru")
    page.get_by_text("The held-out answer is").wait_for()
    press = page.keyboard.press

    # The first stop skips the head.
    press("Tab")
    assert focused(page) == "Skip to the view"
    assert page.locator(".skip").bounding_box()["y"] >= 0  # type: ignore[index]
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"

    # One tab stop for the tabs; arrows, Home and End go through them, round at both ends.
    tabs = page.get_by_role("tab")
    assert [tab.get_attribute("tabindex") or "0" for tab in tabs.all()].count("0") == 1
    page.get_by_role("tab", name="Explore").focus()
    for key, expected in (
        ("ArrowLeft", "models"),
        ("ArrowLeft", "tour"),
        ("ArrowLeft", "engine"),
        ("ArrowRight", "tour"),
        ("End", "engine"),
        ("Home", "tour"),
        ("ArrowRight", "models"),
        ("ArrowRight", "explore"),
        ("ArrowRight", "session"),
    ):
        press(key)
        tab = page.locator("[role=tab]:focus")
        assert tab.get_attribute("aria-controls") == expected and tab.get_attribute("aria-selected") == "true"
        assert page.locator(f"#{expected}").is_visible()
        assert page.locator("[role=tabpanel]:visible").count() == 1

    # A session from its first step to an answer, without a pointer. What has the focus is seen to have it.
    page.get_by_role("tabpanel").get_by_text("1 step", exact=True).wait_for()
    stops = []
    for _ in range(12):
        press("Tab")
        stops.append(focused(page))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", stops
        if stops[-1] == "Piece":
            break
    page.keyboard.insert_text("Rossi")
    press("Enter")
    page.get_by_role("tabpanel").get_by_text("6 steps").wait_for()
    page.get_by_role("button", name="Delete").focus()
    press("Enter")
    page.locator(".live").wait_for(state="hidden")
    assert focused(page) == "New session"

    # Steps, modes and tables of Explore.
    page.get_by_role("tab", name="Session").focus()
    press("ArrowLeft")
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    press("Home")
    assert slider.get_attribute("aria-valuetext") == "step 1 of 8, S"
    page.get_by_role("radio", name="Type").focus()
    press("ArrowRight")
    page.get_by_label("Held-out example").wait_for()
    summary = page.locator(".score summary").nth(1)
    summary.focus()
    press("Enter")
    page.locator(".score .numbers table").first.wait_for()


def test_no_panel_has_the_focus_on_arrival(open_screen: OpenScreen, server: RunningServer) -> None:
    """The name of a view is that of its panel, to which a browser would go."""
    page = open_screen(server.url + "/").page
    for view in VIEWS:
        page.goto("about:blank")
        page.goto(f"{server.url}/#{view}")
        page.get_by_role("tab", name=view.capitalize(), selected=True).wait_for()
        page.locator(f"#{view}[tabindex='0']").wait_for()
        assert page.evaluate("document.activeElement === document.body"), view


def test_it_works_under_a_path_prefix(open_screen: OpenScreen, server: RunningServer) -> None:
    with prefix_proxy(server.url, "/elman") as url:
        screen = open_screen(url)
        page = screen.open("explore", "names-gru")
        for view in VIEWS:
            page.get_by_role("tab", name=view.capitalize()).click()
            filled(screen, view)
        assert f"{url}v1/models" in page.locator("#engine pre[data-language=curl]").inner_text().replace(
            "v1/engine", "v1/models"
        )
        assert all(one.startswith(url) for one in screen.requests), screen.requests
        assert page.get_by_role("link", name="API").evaluate("link => link.href") == f"{url}docs"


def test_nothing_moves_for_those_who_want_no_motion(open_screen: OpenScreen, server: RunningServer) -> None:
    for still, expected in ((True, "none"), (False, "arrive")):
        page = open_screen(server.url + "/", still=still).open("engine")
        animation = """() => {
            const token = document.body.appendChild(document.createElement("span"));
            token.className = "token";
            return getComputedStyle(token).animationName;
        }"""
        assert page.evaluate(animation) == expected


def test_a_link_leads_to_the_view_and_the_model(screen: Screen) -> None:
    page = screen.open("session", "vowels-rnn")
    assert page.get_by_role("combobox", name="Model").input_value() == "vowels-rnn"
    page.get_by_role("combobox", name="Model").select_option("names-rnn")
    page.wait_for_url("**/#session/names-rnn")
    page.get_by_role("tab", name="Explore").click()
    assert page.get_by_role("combobox", name="Model").input_value() == "names-rnn"
    assert page.title() == "Explore · Elman"
    # Only what a view can show is offered in it.
    page.get_by_role("tab", name="Session").click()
    offered = page.get_by_role("combobox", name="Model").locator("option").all_inner_texts()
    assert "names-rnn" in offered and "vowels-lstm-bidirectional" not in offered


def test_with_a_key_everything_is_as_without_and_versions_are_chosen(
    start_server: StartServer, open_screen: OpenScreen, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        shutil.copytree(STORE / "names-gru" / "1", tmp_path / "names-gru" / version)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    server = start_server(tmp_path, api_keys="s3cret-key-of-the-test")
    screen = open_screen(server.url + "/")
    page = screen.page
    page.goto(screen.url)
    page.get_by_role("dialog").get_by_label("API key").fill("s3cret-key-of-the-test")
    screen.rejected(401)
    page.keyboard.press("Enter")
    page.get_by_text("The held-out answer is").wait_for()
    assert page.get_by_role("alert").inner_text() == ""
    curl = page.locator("#explore pre[data-language=curl]").inner_text()
    assert "$ELMAN_API_KEY" in curl and "s3cret" not in page.content()

    # The highest version is the default; another is named in the address and in the commands.
    assert "/v1/models/names-gru/predict" in curl and page.url.endswith("#explore/names-gru")
    page.get_by_label("Version").select_option("1")
    page.wait_for_url("**/#explore/names-gru/1")
    page.locator("#explore pre[data-language=curl]", has_text="/v1/models/names-gru/versions/1/predict").wait_for()
    page.locator("#explore pre[data-language=python]", has_text="version=1").wait_for()

    # What is not served is said, with its reason; a view that no model is for says so.
    page.get_by_role("tab", name="Engine").click()
    listed = server.client.get("/v1/models", headers={"authorization": "Bearer s3cret-key-of-the-test"}).json()
    shown = page.get_by_role("region", name="Refused").inner_text()
    assert listed["refused"][0]["name"] in shown and listed["refused"][0]["reason"] in shown
    page.get_by_role("tab", name="Forecast").click()
    page.get_by_text("No model here forecasts").wait_for()


def test_the_policy_allows_this_origin_only(server: RunningServer) -> None:
    page = server.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert server.client.head("/").status_code == 200
    policy = dict(one.strip().split(" ", 1) for one in page.headers["content-security-policy"].split(";"))
    # Scripts, styles and pictures have no rule of their own that would allow more.
    assert policy["default-src"] == "'self'" and not {"script-src", "style-src", "img-src"} & set(policy)
    assert policy["object-src"] == policy["base-uri"] == "'none'"
    assert all("http" not in sources and "*" not in sources for sources in policy.values())


def test_files_are_compressed_and_kept_and_asked_for_again(server: RunningServer) -> None:
    for path in ("/", "/playground/main.js"):
        whole = server.client.get(path, headers={"accept-encoding": "identity"})
        small = server.client.get(path, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in whole.headers and small.headers["content-encoding"] == "gzip"
        assert whole.content == small.content
        assert int(small.headers["content-length"]) < len(whole.content) / 2
        assert whole.headers["cache-control"] == "no-cache" and whole.headers["vary"] == "Accept-Encoding"
        for answer in (whole, small):
            tag, encoding = answer.headers["etag"], answer.headers.get("content-encoding", "identity")
            again = server.client.get(path, headers={"if-none-match": tag, "accept-encoding": encoding})
            assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
        assert whole.headers["etag"] != small.headers["etag"]


@pytest.mark.parametrize(
    "path", ["nothing.js", "__init__.py", "../app.py", "%2e%2e/app.py", "vendor/../../../pyproject.toml", ""]
)
def test_only_the_pages_own_files_are_served(server: RunningServer, path: str) -> None:
    answer = httpx.get(f"{server.url}/playground/{path}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "unknown_route"


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
