"""Engine: figures as they are, while somebody looks."""

from tests.browser.screen import Screen, rows
from tests.running import RunningServer


def test_the_figures_are_those_of_the_engine(screen: Screen, server: RunningServer) -> None:
    page = screen.open("explore", "names-gru")
    page.get_by_text("The held-out answer is").wait_for()
    page.get_by_role("tab", name="Engine").click()
    figure = screen.figure("Steps a second")
    page.get_by_role("button", name="Send a burst").click()
    page.locator("#said", has_text="1024 sequences to names-gru").wait_for(state="attached")
    # The page asks once a second. Wait until it has seen the end of the burst.
    while server.client.get("/v1/engine").json()["queued"]:
        page.wait_for_timeout(20)
    with page.expect_response("**/v1/engine"):
        pass
    with page.expect_response("**/v1/engine"):
        pass
    page.get_by_role("button", name="Pause").click()
    truth = {one["model"]: one for one in server.client.get("/v1/engine").json()["models"]}
    table = rows(page.get_by_role("region", name="Stats by model").locator("tbody"))
    assert {row[0] for row in table} == set(truth)
    for name, runs, occupancy, steps, padding, sequences, queued in table:
        one = truth[name]
        padded = one["steps"] + one["padded_steps"]
        assert [runs, steps, sequences, queued] == [
            f"{one[figure]:,}".replace(",", "\u202f") for figure in ("runs", "steps", "sequences", "queued")
        ]
        assert occupancy == (f"{one['rows'] / one['runs']:.1f}" if one["runs"] else "–")  # noqa: RUF001
        assert padding == (f"{100 * one['padded_steps'] / padded:.1f} %" if one["steps"] else "–")  # noqa: RUF001
    readings = screen.numbers(figure)
    most = max(float(row[1].replace("\u202f", "")) for row in readings)
    assert most > 500, readings
    rows_a_run = screen.numbers(screen.figure("Batch occupancy"))
    assert max(float(row[1]) for row in rows_a_run) > 8
    screen.keep("engine")


def test_it_asks_once_a_second_and_not_while_paused_or_out_of_sight(screen: Screen) -> None:
    page = screen.open("engine")
    screen.figure("Queue")

    def asked(milliseconds: int) -> int:
        before = len(screen.requests)
        page.wait_for_timeout(milliseconds)
        return sum(url.endswith("/v1/engine") for url in screen.requests[before:])

    def wait_until_it_asks() -> None:
        with page.expect_request("**/v1/engine"):
            pass

    wait_until_it_asks()
    assert asked(1700) <= 3
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(150)
    assert asked(1100) == 0
    page.get_by_role("button", name="Go on").click()
    wait_until_it_asks()
    page.evaluate(
        """() => {
        Object.defineProperty(document, "hidden", {configurable: true, get: () => true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    )
    page.wait_for_timeout(150)
    assert asked(1100) == 0
    page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")
    wait_until_it_asks()
    page.get_by_role("tab", name="Explore").click()
    page.wait_for_timeout(150)
    assert asked(1100) == 0
