"""`/livez`, `/readyz` and `/metrics`: what operators look at."""

import pytest

from tests.running import RunningServer

LABELS = ("vowels-gru", "1")


def delta(before: dict, after: dict, name: str, *labels: str) -> float:
    return after[name, labels] - before.get((name, labels), 0.0)


@pytest.mark.parametrize(("path", "status"), [("/livez", "live"), ("/readyz", "ready")])
def test_a_working_server_says_so(server: RunningServer, path: str, status: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": status}


def test_the_figures_move_by_exactly_what_was_sent(server: RunningServer) -> None:
    lengths = [1, 30, 7, 300, 12]
    before = server.stats()
    response = server.predict("vowels-gru", sequences=[[[0.5] * 12] * length for length in lengths])
    assert response.status_code == 200
    answered = "elman_request_seconds_count"
    server.wait_for(answered, before.get((answered, LABELS), 0.0) + 1, *LABELS)
    after = server.stats()
    assert delta(before, after, answered, *LABELS) == 1
    assert delta(before, after, "elman_sequences_total", *LABELS) == len(lengths)
    assert delta(before, after, "elman_failed_sequences_total", *LABELS) == 0
    assert delta(before, after, "elman_steps_total", *LABELS) == sum(lengths)
    assert delta(before, after, "elman_run_rows_total", *LABELS) >= delta(before, after, "elman_runs_total", *LABELS)
    assert 1 <= delta(before, after, "elman_runs_total", *LABELS) <= 10
    assert delta(before, after, "elman_run_seconds_total", *LABELS) > 0
    assert delta(before, after, "elman_request_seconds_sum", *LABELS) > 0
    assert (after["elman_pending_sequences", ()], after["elman_queued_sequences", LABELS]) == (0, 0)


def test_other_models_do_not_move(server: RunningServer) -> None:
    other = ("vowels-lstm", "1")
    before = server.stats()
    server.predict("vowels-gru", sequence=[[0.5] * 12])
    after = server.stats()
    for name in ("elman_runs_total", "elman_steps_total", "elman_sequences_total"):
        assert delta(before, after, name, *other) == 0


def test_padding_is_counted_apart_from_useful_steps(server: RunningServer) -> None:
    before = server.stats()
    server.predict("vowels-lstm-bidirectional", sequences=[[[0.5] * 12] * 20, [[0.5] * 12] * 19])
    after = server.stats()
    labels = ("vowels-lstm-bidirectional", "1")
    assert delta(before, after, "elman_steps_total", *labels) == 39
    runs = delta(before, after, "elman_runs_total", *labels)
    assert runs in (1, 2)  # as the calibration found best
    assert delta(before, after, "elman_padded_steps_total", *labels) == 2 - runs
    assert delta(before, after, "elman_run_rows_total", *labels) == 2


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/models/vowels-gru/predict", {"sequence": [[1.0]]}, "wrong_features"),
        ("/v1/models/vowels-gru/predict", {"sequence": []}, "empty_sequence"),
        ("/v1/models/none/predict", {"sequence": [[1.0]]}, "unknown_model"),
        ("/nothing", {}, "unknown_route"),
    ],
)
def test_a_refused_request_is_counted_by_its_code_and_nowhere_else(
    server: RunningServer, path: str, body: dict, code: str
) -> None:
    before = server.stats()
    assert server.client.post(path, json=body).status_code >= 400
    after = server.stats()
    moved = {key for key in after if key[0] == "elman_errors_total" and after[key] != before.get(key, 0.0)}
    assert moved == {("elman_errors_total", (code,))}
    assert delta(before, after, "elman_errors_total", code) == 1
    for name in ("elman_request_seconds_count", "elman_sequences_total", "elman_steps_total"):
        assert after.get((name, LABELS)) == before.get((name, LABELS))


def test_the_number_of_models_is_the_number_served(server: RunningServer) -> None:
    listed = server.client.get("/v1/models").json()
    figures = server.stats()
    assert figures["elman_models", ()] == len(listed["models"])
    assert figures["elman_refused_models", ()] == 0


def test_metrics_are_prometheus_text(server: RunningServer) -> None:
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for line in ("# TYPE elman_steps_total counter", "# TYPE elman_request_seconds histogram"):
        assert line in response.text
    assert "process_resident_memory_bytes" in response.text
