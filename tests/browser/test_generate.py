"""Generate: tokens as they come, and in the end what the API gives for the same seed."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenScreen
from tests.browser.proxy import prefix_proxy
from tests.browser.screen import Screen, percent, rows, value
from tests.browser.test_page import violations
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

    python = screen.code("generate")
    ran = subprocess.run(
        [sys.executable, "-c", python], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
    assert ran.stdout.splitlines() == [one["text"] for one in answer["results"]]
    curl = screen.code("generate", "curl")
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


def test_the_best_texts_of_a_beam_search_are_those_of_the_api(
    screen: Screen, server: RunningServer, generator: dict[str, Any]
) -> None:
    page = screen.open("generate", generator["name"])
    panel = page.get_by_role("tabpanel")
    page.get_by_text("Keep this seed").wait_for()
    panel.get_by_label("Prompt").fill("Mc")
    panel.get_by_label("Beams").fill("8")
    # What says how samples are drawn has no meaning here, and the API refuses it.
    assert panel.get_by_label("Temperature").is_hidden() and panel.get_by_label("Seed").is_hidden()
    panel.get_by_label("Length penalty").fill("0.5")
    panel.get_by_label("Log-probabilities").fill("2")
    panel.get_by_label("Beams").press("Enter")
    body = {
        "prompt": "Mc",
        "condition": generator["generation"]["conditions"][0],
        "max_steps": 40,
        "logprobs": 2,
        "num_beams": 8,
        "num_return_sequences": 3,
        "length_penalty": 0.5,
    }
    answer = server.client.post(f"/v1/models/{generator['name']}/generate", json=body).json()
    results = answer["results"]
    samples = page.locator(".sample")
    expect(samples.locator(".made")).to_have_text([one["text"] for one in results])
    for sample, result in zip(samples.all(), results, strict=True):
        ending = sample.locator(".ending").inner_text().replace("\u2212", "-")
        assert f"score {result['score']:.4g}, log-probability {result['cumulative_logprob']:.4g}" in ending
        summary = sample.locator("summary")
        summary.focus()
        page.keyboard.press("Enter")
        told = rows(sample.locator("tbody"))
        assert len(told) == len(result["tokens"])
        for (token, logprob, share, top), one in zip(told, result["logprobs"], strict=True):
            first = one["top"][0]
            assert value(logprob) == pytest.approx(one["logprob"], rel=5.1e-4)
            assert share == percent(math.exp(one["logprob"]))
            assert top.startswith(f"{first['text'].replace(' ', '␣')} {percent(math.exp(first['logprob']))}")
            assert token and not token.startswith("token")
    assert violations(screen) == []
    screen.keep("generate-beams")
    curl = screen.code("generate", "curl")
    done = subprocess.run(["bash", "-ec", curl], capture_output=True, text=True, check=True, timeout=30).stdout
    assert json.loads(done)["results"] == results


def test_how_probable_each_token_was_is_told_where_it_is_asked(
    open_screen: OpenScreen, server: RunningServer, generator: dict[str, Any]
) -> None:
    screen = open_screen(server.url + "/", width=390)
    page = screen.page
    page.goto(f"{screen.url}#generate/{generator['name']}?logprobs=3&seed=11&samples=2")
    page.get_by_text("Seed 11").wait_for()
    condition = generator["generation"]["conditions"][0]
    body = {"condition": condition, "seed": 11, "samples": 2, "temperature": 0.8, "max_steps": 40, "logprobs": 3}
    answer = server.client.post(f"/v1/models/{generator['name']}/generate", json=body).json()
    for sample, result in zip(page.locator(".sample").all(), answer["results"], strict=True):
        assert sample.locator(".made").inner_text() == result["text"]
        shares = sample.locator(".token").evaluate_all("ones => ones.map((one) => one.style.getPropertyValue('--p'))")
        assert shares == [percent(math.exp(one["logprob"])).replace(" ", "") for one in result["logprobs"]]
        sample.locator("summary").click()
        told = rows(sample.locator("tbody"))
        assert "".join(row[0] for row in told).replace("␣", " ") == result["text"]
        assert [row[2] for row in told] == [percent(math.exp(one["logprob"])) for one in result["logprobs"]]
    assert violations(screen) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screen.keep("generate-logprobs-390")


def test_a_link_has_the_prompt_and_the_options_and_back_leads_through_them(
    screen: Screen, generator: dict[str, Any]
) -> None:
    page = screen.open("generate", generator["name"])
    panel = page.get_by_role("tabpanel")
    page.get_by_text("Keep this seed").wait_for()
    # Of what nobody has entered, only the seed that was drawn is in the address.
    page.wait_for_url(f"**/#generate/{generator['name']}?drawn=*")
    drawn, begun = page.url, page.locator(".made").all_inner_texts()
    texts = []
    for prompt, seed in (("Mac", "5"), ("Ros & é", "6")):
        panel.get_by_label("Prompt").fill(prompt)
        panel.get_by_label("Seed").fill(seed)
        panel.get_by_label("Prompt").press("Enter")
        page.get_by_text(f"Seed {seed}", exact=False).wait_for()
        page.locator(".given").get_by_text(prompt).first.wait_for()
        texts.append(page.locator(".made").all_inner_texts())
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Link with the input").wait_for()
    page.reload()
    page.get_by_text("Seed 6").wait_for()
    expect(panel.get_by_label("Prompt")).to_have_value("Ros & é")
    assert page.locator(".made").all_inner_texts() == texts[1]
    page.go_back()
    page.get_by_text("Seed 5").wait_for()
    expect(panel.get_by_label("Prompt")).to_have_value("Mac")
    assert page.locator(".made").all_inner_texts() == texts[0]
    # To another view and back, nothing is lost.
    address = page.url
    page.get_by_role("tab", name="Explore").click()
    page.wait_for_url("**/#explore/*")
    page.get_by_role("tab", name="Generate").click()
    page.wait_for_url(address)
    page.go_back()
    page.go_back()
    page.wait_for_url(address)
    page.go_back()
    page.wait_for_url(drawn)
    expect(panel.get_by_label("Prompt")).to_have_value("")
    expect(page.locator(".made")).to_have_text(begun)
    # Whoever presses the button draws anew.
    expect(panel.get_by_label("Seed")).to_have_value("")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_url(lambda url: "?drawn=" in url and url != drawn)
    page.get_by_text("Keep this seed").wait_for()
    page.go_back()
    page.wait_for_url(drawn)
    expect(page.locator(".made")).to_have_text(begun)
