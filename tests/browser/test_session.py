"""Session: stepped, forked, rewound and retried by hand, and the server agrees."""

import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenScreen
from tests.browser.screen import Screen, percent, rows, value
from tests.browser.test_page import violations
from tests.running import RunningServer, environment


def held(server: RunningServer, id: str) -> dict[str, Any]:
    session: dict[str, Any] = server.client.get(f"/v1/sessions/{id}").json()
    return session


def begin(page: Page) -> str:
    """A session at step 0, beside the one that is made on arrival. Returns its id."""
    steps = page.locator(".live .figure-line")
    expect(steps).to_have_text("1 step")
    page.get_by_role("button", name="New session").click()
    expect(steps).to_have_text("0 steps")
    return page.locator(".live .id").inner_text()


def test_a_session_is_stepped_forked_rewound_retried_and_deleted(screen: Screen, server: RunningServer) -> None:
    page = screen.open("session", "names-lstm")
    expect(page.locator(".live .figure-line")).to_have_text("1 step")
    arrival = page.locator(".live .id").inner_text()
    first = begin(page)
    live = page.get_by_role("region", name="Session", exact=True)
    id_line, send = live.locator(".id"), live.get_by_role("button", name="Send")
    assert held(server, first)["step"] == 0

    # Piece by piece is the same as whole.
    for piece, at in (("Mora", 4), ("vč", 6)):
        live.get_by_role("textbox", name="Piece").fill(piece)
        page.keyboard.press("Enter")
        live.get_by_text(f"{at} steps").wait_for()
    assert held(server, first)["step"] == 6
    whole = server.predict("names-lstm", sequence="Moravč").json()["results"][0]["decoded"]
    assert live.locator(".now .answer").inner_text() == f"{whole['label']}, {percent(whole['probability'])}"
    sent = rows(live.get_by_role("region", name="What was sent").locator("tbody"))
    assert [row[:2] for row in sent] == [["1–4", "Mora"], ["5–6", "vč"]]  # noqa: RUF001  (as the page writes a range)
    assert sent[-1][2:] == [f"{whole['label']}, {percent(whole['probability'])}", "false"]
    table = screen.numbers(screen.figure("Outputs over the session"))
    assert len(table) == 6 and value(table[-1][1]) == float(f"{whole['probability']:.4g}")

    # The same request again moves nothing.
    live.get_by_role("button", name="Retry the last").click()
    said = live.locator(".callout")
    said.get_by_text('"replayed": true').wait_for()
    assert "still at step 6, and the same answer to the bit" in said.inner_text()
    assert held(server, first)["step"] == 6

    # A state that is kept is gone back to, after a fork has gone on.
    live.get_by_role("button", name="Keep state").click()
    kept = page.get_by_role("list", name="Kept states").get_by_role("listitem")
    kept.wait_for()
    assert "step 6" in kept.inner_text()
    live.get_by_role("button", name="Fork").click()
    page.wait_for_function("(id) => document.querySelector('.id').textContent !== id", arg=first)
    second = id_line.inner_text()
    assert held(server, second)["step"] == 6
    live.get_by_role("textbox", name="Piece").fill("ík")
    send.click()
    live.get_by_text("8 steps").wait_for()
    assert (held(server, first)["step"], held(server, second)["step"]) == (6, 8)
    screen.keep("session")
    kept.get_by_role("button", name="Put back").click()
    live.get_by_text("6 steps").wait_for()
    assert held(server, second)["step"] == 6
    live.get_by_role("textbox", name="Piece").fill("ík")
    send.click()
    live.get_by_text("8 steps").wait_for()
    whole = server.predict("names-lstm", sequence="Moravčík").json()["results"][0]["decoded"]
    assert live.locator(".now .answer").inner_text() == f"{whole['label']}, {percent(whole['probability'])}"

    # A new session begins from the kept state too.
    kept.get_by_role("button", name="New session from").click()
    page.wait_for_function("(id) => document.querySelector('.id').textContent !== id", arg=second)
    third = id_line.inner_text()
    assert held(server, third)["step"] == 6

    # The list is the server's own; each is deleted.
    listed = server.client.get("/v1/sessions", params={"model": "names-lstm"}).json()["sessions"]
    assert page.get_by_role("list", name="Sessions of this model").get_by_role("listitem").count() == len(listed)
    for id in (third, second, first, arrival):
        page.get_by_role("list", name="Sessions of this model").get_by_role("button", name=id[-10:]).click()
        live.get_by_role("button", name="Delete").click()
        page.locator(".live").wait_for(state="hidden")
        assert server.client.get(f"/v1/sessions/{id}").status_code == 404


def test_a_series_is_sent_in_pieces_of_an_example(screen: Screen, server: RunningServer) -> None:
    page = screen.open("session", "vowels-gru")
    begin(page)
    live = page.get_by_role("region", name="Session", exact=True)
    live.get_by_text("From an example").click()
    live.get_by_label("Steps a piece").fill("4")
    live.get_by_role("button", name="Take").click()
    live.get_by_role("button", name="Take").click()
    example = server.client.get("/v1/models/vowels-gru/examples").json()["examples"][0]["sequence"]
    assert live.get_by_role("textbox", name="Piece").input_value().count("\n") == 3
    live.get_by_role("button", name="Send").click()
    live.get_by_text("4 steps").first.wait_for()
    id = live.locator(".id").inner_text()
    assert held(server, id)["step"] == 4
    # The view itself had taken the first and the next five; the second press goes on from the first.
    taken = server.predict("vowels-gru", sequence=example[10:14]).json()["results"][0]["decoded"]
    sent = rows(live.get_by_role("region", name="What was sent").locator("tbody"))
    assert sent == [["1–4", "4 steps", f"{taken['label']}, {percent(taken['probability'])}", "false"]]  # noqa: RUF001
    # The program that is shown goes on with this very session.
    python = screen.code("session")
    ran = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, env=environment(), timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("8 speaker ") and held(server, id)["step"] == 8
    server.client.delete(f"/v1/sessions/{id}")


def test_what_the_api_refuses_is_said_with_its_code(screen: Screen, server: RunningServer) -> None:
    page = screen.open("session", "names-gru")
    id = begin(page)
    live = page.get_by_role("region", name="Session", exact=True)
    # Somebody else moves the session on: the page's own step is then out of date.
    assert server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": "Abc"}).status_code == 200
    live.get_by_role("textbox", name="Piece").fill("xy")
    live.get_by_role("button", name="Send").click()
    alert = page.get_by_role("alert")
    alert.locator("code").first.wait_for()
    refused = server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": "xy", "at": 0}).json()
    assert refused["code"] in alert.inner_text() and refused["detail"] in alert.inner_text()
    screen.rejected(refused["status"])
    expect(live.locator(".state-line")).to_contain_text("The session is still at step 0")
    server.client.delete(f"/v1/sessions/{id}")


def test_a_new_session_is_shown_though_there_are_many(screen: Screen, server: RunningServer) -> None:
    """The server lists the oldest first, and the page the newest."""
    ids = [server.client.post("/v1/models/names-rnn/sessions").json()["id"] for _ in range(25)]
    page = screen.open("session", "names-rnn")
    begin(page)
    live = page.get_by_role("region", name="Session", exact=True)
    live.get_by_role("textbox", name="Piece").fill("Abc")
    live.get_by_role("button", name="Send", exact=True).click()
    live.get_by_text("3 steps").first.wait_for()
    listed = page.get_by_role("list", name="Sessions of this model")
    assert listed.get_by_role("button", name=ids[-1][-10:]).count() == 1
    ids.append(live.locator(".id").inner_text())
    assert held(server, ids[-1])["step"] == 3
    for id in ids:
        server.client.delete(f"/v1/sessions/{id}")


def shown(page: Page, *texts: str) -> None:
    """All that is on the first screen of a page that was not scrolled."""
    assert page.evaluate("scrollY") == 0
    height = page.viewport_size["height"]  # type: ignore[index]
    for text in texts:
        box = page.locator(f"#session {text}:visible").first.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= height, (text, box)


@pytest.mark.parametrize("model", ["names-lstm", "vowels-gru"])
def test_on_a_phone_answer_memory_and_controls_are_seen_without_scrolling(
    open_screen: OpenScreen, server: RunningServer, model: str
) -> None:
    screen = open_screen(server.url + "/", width=390)
    page = screen.open("session", model)
    expect(page.locator(".figure-line")).to_have_text("1 step")
    expect(page.locator(".memory .plot canvas")).to_be_visible()
    page.locator(".memory").get_by_text("all that is kept of the past").wait_for()
    controls = [f"button:has-text('{name}')" for name in ("Send", "Retry the last", "Fork", "Keep state", "Delete")]
    shown(page, ".figure-line", ".now .answer", ".memory .plot", *controls)
    # In reach of the thumb: in the lower half, and no smaller than a finger.
    for name in controls:
        box = page.locator(f"#session {name}").bounding_box()
        assert box is not None and box["y"] > 360 and box["height"] >= 40
    screen.keep(f"session-{model}-390", whole=False)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".figure-line")).to_have_text("4 steps" if model == "names-lstm" else "6 steps")
    shown(page, ".figure-line", ".now .answer", ".memory .plot", *controls)
    assert violations(screen) == []


def test_a_session_is_there_on_arrival_and_deleted_on_leaving(screen: Screen, server: RunningServer) -> None:
    page = screen.open("session", "names-gru")
    expect(page.locator(".figure-line")).to_have_text("1 step")
    id = page.locator(".live .id").inner_text()
    example = server.client.get("/v1/models/names-gru/examples").json()["examples"][0]["sequence"]
    assert held(server, id)["step"] == 1
    answer = server.predict("names-gru", sequence=example[0]).json()["results"][0]["decoded"]
    words = f"{answer['label']}, {percent(answer['probability'])}"
    expect(page.locator(".now .answer")).to_have_text(words)

    # By another view, another model, and by closing the page.
    def gone(id: str) -> None:
        page.wait_for_function("(id) => fetch(`v1/sessions/${id}`).then((one) => one.status === 404)", arg=id)
        screen.rejected(404)

    page.get_by_role("tab", name="Explore").click()
    gone(id)
    page.get_by_role("tab", name="Session").click()
    expect(page.locator(".figure-line")).to_have_text("1 step")
    id = page.locator(".live .id").inner_text()
    page.get_by_role("combobox", name="Model").select_option("names-rnn")
    page.wait_for_url("**/#session/names-rnn")
    expect(page.locator(".figure-line")).to_have_text("1 step")
    gone(id)
    id = page.locator(".live .id").inner_text()
    page.goto(server.url + "/docs")
    page.goto(screen.url)
    gone(id)


def test_a_session_that_somebody_used_stays(screen: Screen, server: RunningServer) -> None:
    page = screen.open("session", "names-gru")
    expect(page.locator(".figure-line")).to_have_text("1 step")
    id = page.locator(".live .id").inner_text()
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".figure-line")).to_have_text("4 steps")
    page.get_by_role("tab", name="Explore").click()
    page.get_by_text("The held-out answer is").wait_for()
    page.get_by_role("tab", name="Session").click()
    expect(page.locator(".live .id")).to_have_text(id)
    expect(page.locator(".figure-line")).to_have_text("4 steps")
    assert held(server, id)["step"] == 4
    server.client.delete(f"/v1/sessions/{id}")


def test_the_memory_is_the_state_after_each_step(screen: Screen, server: RunningServer) -> None:
    page = screen.open("session", "names-lstm")
    expect(page.locator(".figure-line")).to_have_text("1 step")
    page.get_by_role("textbox", name="Piece").fill("ossi")
    page.keyboard.press("Enter")
    expect(page.locator(".figure-line")).to_have_text("5 steps")
    memory = screen.figure("Memory", page.locator(".now"))
    example = server.client.get("/v1/models/names-lstm/examples").json()["examples"][0]["sequence"]
    text = example[0] + "ossi"
    hidden = server.predict("names-lstm", sequence=text, hidden=True).json()["results"][0]["hidden"]
    for name in ("h", "c"):
        page.get_by_role("combobox", name="State").select_option(name)
        table = screen.numbers(memory)
        assert len(table) == len(hidden[name][0])
        for unit, row in enumerate(table):
            assert [value(cell) for cell in row[1:]] == pytest.approx(
                [step[unit] for step in hidden[name]], rel=5.1e-4, abs=1e-9
            )
    server.client.delete(f"/v1/sessions/{page.locator('.live .id').inner_text()}")
