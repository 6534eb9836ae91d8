"""What somebody does, and what goes wrong, while something else is still on its way."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_races import Held, answered
from tests.running import RunningServer

pytestmark = pytest.mark.slow


def test_what_is_chosen_for_a_model_while_the_next_one_comes_does_not_end_that(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    held = Held(page, "**/examples")
    page.get_by_role("combobox", name="Model").select_option("names-rnn")
    held.wait(1)
    page.get_by_label("Compare with").select_option("names-lstm")
    held.end()
    answered(page, "After all")
    page.wait_for_url("**/#explore/names-rnn")


def test_a_forecast_that_is_asked_for_before_its_model_is_there_does_not_end_that(
    page: Page, own: RunningServer
) -> None:
    held = Held(page, "**/examples")
    page.goto(f"{own.url}/#forecast/sunspots-gru")
    held.wait(1)
    page.get_by_role("button", name="Forecast", exact=True).click()
    held.end()
    expect(page.locator("#forecast .answer")).to_contain_text("after")


def with_models(page: Page, own: RunningServer, change: Any) -> None:
    """Let the page see the list of models that `change` makes of the server's."""
    listed = own.client.get("/v1/models").json()
    body = json.dumps({**listed, "models": change(listed["models"])})
    page.route("**/v1/models", lambda route: route.fulfill(body=body, content_type="application/json"))


def test_nothing_can_be_stopped_where_nothing_is_made(page: Page, own: RunningServer) -> None:
    def without_start(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for one in models:
            if one["name"] == "names-lstm-generator":
                one["generation"] |= {"start": None, "conditions": []}
        return models

    with_models(page, own, without_start)
    held = Held(page, "**/generate")
    page.goto(f"{own.url}/#generate/names-gru-generator")
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_enabled()
    held.wait(1)
    page.get_by_role("combobox", name="Model").select_option("names-lstm-generator")
    expect(page.get_by_text("type a prompt")).to_be_visible()
    expect(stop).to_be_disabled()
    held.end()


def test_of_two_lists_of_models_the_one_that_was_asked_for_last_counts(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    held = Held(page, "**/v1/models")
    held.wait(1)
    # An address of a model that is not known asks too. What it is told is what was known before.
    page.evaluate("location.hash = '#explore/ghost'")
    held.wait(2)
    held.go(1)
    expect(page.get_by_role("alert")).to_contain_text("There is no model “ghost” here")
    listed = own.client.get("/v1/models").json()
    body = {**listed, "models": [one for one in listed["models"] if one["name"] == "names-gru"]}
    held.gone.add(0)
    held.routes[0].fulfill(json=body)
    # It looks again, and the next list is not there yet.
    held.wait(3)
    expect(page.get_by_role("tabpanel").get_by_role("status")).to_have_text(f"{len(listed['models'])} models served")
    held.end()


def test_a_list_of_models_that_comes_when_another_view_is_open_is_shown_there(page: Page, own: RunningServer) -> None:
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    listed = own.client.get("/v1/models").json()
    body = {**listed, "models": [one for one in listed["models"] if one["name"] != "names-rnn"]}
    held = Held(page, "**/v1/models")
    held.wait(1)
    page.evaluate("location.hash = '#explore/ghost'")
    held.wait(2)
    page.get_by_role("tab", name="Models").click()
    status = page.get_by_role("tabpanel").get_by_role("status")
    expect(status).to_have_text(f"{len(listed['models'])} models served")
    page.route("**/v1/models", lambda route: route.fulfill(json=body))
    # What the address asked for comes, and then what the page looks for by itself.
    for route in reversed(held.routes):
        route.fulfill(json=body)
    expect(status).to_have_text(f"{len(body['models'])} models served")


def test_a_stage_that_is_turned_to_before_it_can_be_shown_leaves_no_other_address(
    page: Page, own: RunningServer
) -> None:
    page.goto(f"{own.url}/#models")
    expect(page.get_by_role("tabpanel").get_by_role("status")).to_contain_text("served")
    held = Held(page, "**/examples")
    page.evaluate("location.hash = '#tour?stage=3'")
    held.wait(1)
    page.get_by_role("tabpanel").get_by_role("button", name="Next").click()
    assert page.url.endswith("#tour?stage=3")
    held.end()
    page.wait_for_url("**/#tour?stage=4")
    page.go_back()
    page.wait_for_url("**/#models")


def test_a_proxy_without_a_server_behind_it_is_waited_for(lossy: Page, own: RunningServer) -> None:
    page = lossy

    def refuse(status: int) -> None:
        answer = {"status": status, "body": "<html>Bad Gateway</html>", "content_type": "text/html"}
        page.route("**/v1/**", lambda route: route.fulfill(**answer))

    refuse(502)
    page.goto(f"{own.url}/#explore/names-gru?input=Rossi")
    expect(page.get_by_role("alert")).to_contain_text("what stands before it answers 502")
    page.unroute("**/v1/**")
    answered(page, "Italian")
    refuse(504)
    page.get_by_label("Text").fill("Lindqvist")
    expect(page.get_by_role("alert")).to_contain_text("what stands before it answers 504")
    expect(page.locator("#explore .state-line")).to_have_attribute("data-state", "failed")
    # To read it and close it is not to give up.
    page.get_by_role("button", name="Close the message").click()
    expect(page.locator("#problem")).to_be_empty()
    page.unroute("**/v1/**")
    answered(page, "Swedish")


def test_a_server_that_stops_is_waited_for(lossy: Page, own: RunningServer) -> None:
    page = lossy
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    body = {"code": "draining", "title": "Draining", "detail": "the server is stopping"}
    page.route("**/predict", lambda route: route.fulfill(status=503, json=body))
    page.get_by_label("Text").fill("Rossi")
    expect(page.get_by_role("alert")).to_contain_text("the server is stopping")
    page.unroute("**/predict")
    answered(page, "Italian")


@pytest.mark.parametrize("verb", ("names-lstm/predict", "names-gru/influence"))
def test_an_answer_stands_without_what_goes_with_it_and_that_comes_later(
    lossy: Page, own: RunningServer, verb: str
) -> None:
    page = lossy
    page.goto(f"{own.url}/#explore/names-gru")
    answered(page, "After all")
    figure = page.locator(".score figure", has=page.get_by_role("heading", name="Influence"))
    part = figure if verb.endswith("influence") else page.get_by_role("region", name="LSTM and GRU side by side")
    expect(part).to_be_visible()
    page.route(f"**/{verb}", lambda route: route.abort())
    page.get_by_label("Text").fill("Rossi")
    expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
    answered(page, "Italian")
    expect(part).to_be_hidden()
    page.unroute(f"**/{verb}")
    expect(part).to_be_visible()
    answered(page, "Italian")
    expect(page.locator("#problem")).to_be_empty()
