"""Generate: tokens as they come, and in the end what the API gives for the same seed."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.browser.conftest import OpenScreen
from tests.browser.proxy import prefix_proxy
from tests.browser.screen import Screen
from tests.running import RunningServer, environment


@pytest.fixture
def generator(server: RunningServer) -> dict[str, Any]:
    """The card of a model that generates."""
    models = server.client.get("/v1/models").json()["models"]
    found = [one for one in models if one["generation"]]
    if not found:
        pytest.skip("no model generates")
    return dict(found[0])


def test_samples_are_those_of_the_api(screen: Screen, server: RunningServer, generator: dict[str, Any]) -> None:
    page = screen.open("generate", generator["name"])
    panel = page.get_by_role("tabpanel")
    condition = generator["generation"]["conditions"][1]
    panel.get_by_label("Condition").select_option(condition)
    panel.get_by_label("Prompt").fill("Ma")
    panel.get_by_label("Seed").fill("7")
    panel.get_by_role("spinbutton", name="Samples").fill("5")
    temperature = panel.get_by_label("Temperature")
    temperature.focus()
    page.keyboard.press("ArrowRight")
    panel.get_by_label("Prompt").press("Enter")
    page.get_by_text("ended itself").nth(4).wait_for()

    body = {"prompt": "Ma", "condition": condition, "seed": 7, "samples": 5, "temperature": 0.85, "max_steps": 40}
    answer = server.client.post(f"/v1/models/{generator['name']}/generate", json=body).json()
    samples = page.locator(".sample")
    assert samples.locator(".made").all_inner_texts() == [one["text"] for one in answer["results"]]
    assert samples.locator(".given").all_inner_texts() == ["Ma"] * 5
    assert [text.split(",")[0] for text in samples.locator(".ending").all_inner_texts()] == [
        f"{one['steps']} step{'' if one['steps'] == 1 else 's'}" for one in answer["results"]
    ]
    assert page.locator(".seed").inner_text() == "7"
    screen.keep("generate")

    python = page.locator("#generate pre[data-language=python]").inner_text()
    ran = subprocess.run(
        [sys.executable, "-c", python], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
    assert ran.stdout.splitlines() == [one["text"] for one in answer["results"]]
    curl = page.locator("#generate pre[data-language=curl]").inner_text()
    streamed = subprocess.run(["bash", "-ec", curl], capture_output=True, text=True, check=True, timeout=30).stdout
    done = json.loads(streamed.split("event: done\n")[1].split("data: ")[1].split("\n")[0])
    assert done["results"] == answer["results"]


def test_unknown_characters_of_the_prompt_are_told_of(screen: Screen, generator: dict[str, Any]) -> None:
    page = screen.open("generate", generator["name"])
    panel = page.get_by_role("tabpanel")
    panel.get_by_label("Prompt").fill("M漢字")
    panel.get_by_label("Prompt").press("Enter")
    panel.get_by_text("read as unknown: 漢 字").wait_for()


def test_tokens_appear_one_by_one_until_it_is_stopped(
    open_screen: OpenScreen, server: RunningServer, generator: dict[str, Any]
) -> None:
    """A slow way to the server: what has come is on the screen before the rest is there."""
    with prefix_proxy(server.url, "/slow", pause=1.0) as url:
        screen = open_screen(url)
        page = screen.open("generate", generator["name"])
        panel = page.get_by_role("tabpanel")
        panel.get_by_role("spinbutton", name="Samples").fill("1")
        panel.get_by_label("Temperature").fill("2")
        panel.get_by_label("Longest").fill("4000")
        panel.get_by_label("Seed").fill("3")
        page.get_by_role("button", name="Generate", exact=True).click()
        stop = page.get_by_role("button", name="Stop")
        page.locator(".token").nth(2).wait_for(state="attached")
        assert page.get_by_role("list", name="Samples").get_attribute("aria-busy") == "true"
        stop.click()
        page.get_by_text("Stopped after").wait_for()
        assert stop.is_disabled()
        made = page.locator(".made").inner_text()
        page.wait_for_timeout(400)
        assert page.locator(".made").inner_text() == made
        body = {"seed": 3, "temperature": 2, "max_steps": 4000, "condition": generator["generation"]["conditions"][0]}
        answer = server.client.post(f"/v1/models/{generator['name']}/generate", json=body).json()
        assert made and answer["results"][0]["text"].startswith(made)
