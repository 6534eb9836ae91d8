"""Sessions over HTTP: a step happens once, and the whole is the sum of its pieces, to the bit."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import StartServer
from tests.reference import expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server

MODEL = "vowels-gru"
Array = np.ndarray[Any, Any]


def sequence(length: int = 9, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12), np.float32)


def create(server: RunningServer, model: str = MODEL, **body: object) -> dict[str, Any]:
    made = server.client.post(f"/v1/models/{model}/sessions", json=body)
    assert made.status_code == 201, made.text
    return dict(made.json())


def step(server: RunningServer, id: str, data: Array | list[Any], **body: object) -> httpx.Response:
    listed = data.tolist() if isinstance(data, np.ndarray) else data
    return server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": listed, **body})


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return dict(response.json())


@pytest.mark.parametrize("model", ["vowels-rnn", "vowels-lstm", "vowels-gru"])
def test_a_sequence_in_pieces_is_the_whole_to_the_bit(server: RunningServer, model: str) -> None:
    data = sequence(20)
    id = create(server, model)["id"]
    rows, at = [], 0
    for size in (1, 4, 2, 7, 6):
        answer = step(server, id, data[at : at + size], at=at, **{"return": "steps"}).raise_for_status().json()
        at += size
        assert (answer["id"], answer["step"], answer["length"], answer["replayed"]) == (id, at, size, False)
        assert len(answer["decoded"]) == size
        rows += answer["outputs"]
    assert same_bits(float32(rows), expected(model, data))
    assert server.client.get(f"/v1/sessions/{id}").json()["step"] == 20
    assert server.client.delete(f"/v1/sessions/{id}").status_code == 204
    check_problem(server.client.get(f"/v1/sessions/{id}"), 404, "unknown_session")
    check_problem(step(server, id, data), 404, "unknown_session")


def test_a_step_sent_again_is_answered_again_and_moves_nothing(server: RunningServer) -> None:
    data = sequence()
    id = create(server)["id"]
    step(server, id, data[:4], at=0).raise_for_status()
    first = step(server, id, data[4:], at=4, **{"return": "steps"}).raise_for_status().json()
    again = step(server, id, data[4:], at=4, **{"return": "steps"}).raise_for_status().json()
    assert again == {**first, "replayed": True}
    last = step(server, id, data[4:], at=4).raise_for_status().json()
    assert (last["output"], last["step"], last["replayed"]) == (first["outputs"][-1], 9, True)
    reused = check_problem(step(server, id, data[3:], at=4), 422, "step_reused")
    assert (reused["where"], reused["expected"]) == ("at", 9)
    assert check_problem(step(server, id, data, at=11), 409, "step_conflict")["expected"] == 9
    assert check_problem(step(server, id, data, at=0), 409, "step_conflict")["expected"] == 9
    assert check_problem(step(server, id, data, at=-1), 422, "invalid_field")["where"] == "at"
    assert server.client.get(f"/v1/sessions/{id}").json()["step"] == 9


def test_octets_go_both_ways(server: RunningServer) -> None:
    data = sequence(6)
    id = create(server)["id"]
    octets = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
    route = f"/v1/sessions/{id}/steps"
    rows = []
    for at in (0, 3, 3):
        query = {"at": at, "return": "steps"}
        answer = server.client.post(route, params=query, content=data[at : at + 3].tobytes(), headers=octets)
        assert answer.status_code == 200, answer.text
        rows.append(np.frombuffer(answer.content, "<f4").reshape(3, -1))
        assert answer.headers["elman-shape"] == "3,9"
    assert (answer.headers["elman-step"], answer.headers["elman-replayed"]) == ("6", "true")
    assert same_bits(np.concatenate(rows[:2]), expected(MODEL, data))
    assert same_bits(rows[1], rows[2])
    bad = server.client.post(route, params={"at": "now"}, content=data.tobytes(), headers=octets)
    assert check_problem(bad, 422, "invalid_field")["where"] == "at"


def test_a_connection_takes_the_steps_of_sessions_in_turn_between_other_requests(server: RunningServer) -> None:
    data = [sequence(6, seed) for seed in range(3)]
    ids = [create(server)["id"] for _ in data]
    headers = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def ask(path: str, body: bytes) -> Array:
        # Head and body go out at once, so that the server sees a head that repeats the last one but for the target.
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        assert "steps" not in path or answer.headers["elman-step"] == str(at + 1)
        return np.frombuffer(content, "<f4")

    rows: list[list[Array]] = [[] for _ in data]
    for at in range(6):
        for id, values, seen in zip(ids, data, rows, strict=True):
            seen.append(ask(f"/v1/sessions/{id}/steps?at={at}", values[at].tobytes()))
        assert same_bits(ask(f"/v1/models/{MODEL}/predict", data[0][: at + 1].tobytes()), rows[0][at])
    for values, seen in zip(data, rows, strict=True):
        assert same_bits(np.stack(seen), expected(MODEL, values))
    connection.request("POST", f"/v1/sessions/{'0' * 44}/steps?at=0", data[0].tobytes(), headers)
    assert connection.getresponse().status == 404
    connection.close()


def test_forks_go_their_own_ways(server: RunningServer) -> None:
    data, other = sequence(8), sequence(8, seed=1)
    id = create(server, ttl=100.0)["id"]
    step(server, id, data[:5]).raise_for_status()
    fork = server.client.post(f"/v1/sessions/{id}/fork").json()
    assert (fork["step"], fork["model"], fork["ttl"]) == (5, MODEL, 100.0) and fork["id"] != id
    mine = step(server, id, data[5:]).json()["output"]
    theirs = step(server, fork["id"], other[5:]).json()["output"]
    assert same_bits(float32(mine), expected(MODEL, data)[-1])
    assert same_bits(float32(theirs), expected(MODEL, np.concatenate([data[:5], other[5:]]))[-1])


def test_a_state_is_taken_out_and_put_back(server: RunningServer) -> None:
    data = sequence(10)
    id = create(server)["id"]
    step(server, id, data[:4]).raise_for_status()
    kept = server.client.get(f"/v1/sessions/{id}/state").json()
    assert kept["step"] == 4
    straight = step(server, id, data[4:], at=4).json()
    back = server.client.put(f"/v1/sessions/{id}/state", json={"state": kept["state"]})
    assert (back.status_code, back.json()["step"]) == (200, 4)
    again = step(server, id, data[4:], at=4).json()
    assert (again["output"], again["replayed"]) == (straight["output"], False)
    begun = create(server, state=kept["state"])
    assert begun["step"] == 4
    assert step(server, begun["id"], data[4:], at=4).json()["output"] == straight["output"]
    body = {"sequence": data[4:].tolist(), "state": kept["state"], "return_state": True}
    result = server.client.post(f"/v1/models/{MODEL}/predict", json=body).json()["results"][0]
    assert (result["output"], result["step"]) == (straight["output"], 10)


@pytest.mark.parametrize("model", ["vowels-rnn", "vowels-lstm", "vowels-gru"])
def test_cut_anywhere_and_joined_by_a_token_it_is_the_whole(server: RunningServer, model: str) -> None:
    data = sequence(12)
    whole = expected(model, data)
    heads = [data[:cut].tolist() for cut in range(1, 12)]
    tails = [data[cut:].tolist() for cut in range(1, 12)]
    first = server.predict(model, sequences=heads, return_state=True, decode=False).raise_for_status().json()
    tokens = [result["state"] for result in first["results"]]
    for token, tail, cut in zip(tokens, tails, range(1, 12), strict=True):
        id = create(server, model, state=token)["id"]
        answer = step(server, id, tail, at=cut, **{"return": "steps"}).raise_for_status().json()
        assert same_bits(float32(answer["outputs"]), whole[cut:])
    joined = server.predict(model, sequences=tails, state=tokens, **{"return": "steps"}).raise_for_status().json()
    for result, cut in zip(joined["results"], range(1, 12), strict=True):
        assert same_bits(float32(result["outputs"]), whole[cut:])
    one = server.predict(model, sequences=[data[5:].tolist()] * 3, state=tokens[4]).raise_for_status().json()
    assert all(same_bits(float32(result["output"]), whole[-1]) for result in one["results"])


def test_octets_carry_state_in_a_header(server: RunningServer) -> None:
    data = sequence(8)
    octets = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
    route = f"/v1/models/{MODEL}/predict"
    head = server.client.post(route, params={"return_state": "true"}, content=data[:3].tobytes(), headers=octets)
    token = head.headers["elman-state"]
    assert head.headers["elman-step"] == "3"
    tail = server.client.post(route, content=data[3:].tobytes(), headers={**octets, "elman-state": token})
    assert same_bits(np.frombuffer(tail.content, "<f4"), expected(MODEL, data)[-1])


def test_hidden_is_the_state_after_every_step(server: RunningServer) -> None:
    data = sequence(7)
    wanted = {"hidden": True, "return": "steps"}
    rows = server.predict("vowels-lstm", sequence=data.tolist(), **wanted).json()["results"][0]
    assert set(rows["hidden"]) == {"h", "c"}
    assert np.shape(rows["hidden"]["h"]) == (7, 96)
    prefix = server.predict("vowels-lstm", sequence=data[:4].tolist(), hidden=True).json()["results"][0]
    assert rows["hidden"]["c"][:4] == prefix["hidden"]["c"]
    assert same_bits(float32(rows["outputs"]), expected("vowels-lstm", data))


def test_tokens_of_others_are_refused(server: RunningServer) -> None:
    data = sequence(3).tolist()
    token = server.predict(MODEL, sequence=data, return_state=True).json()["results"][0]["state"]
    for broken in ("", "x", token[:-4], token[:60] + ("A" if token[60] != "A" else "B") + token[61:], "é" * 50):
        problem = check_problem(server.predict(MODEL, sequence=data, state=broken), 422, "bad_state_token")
        assert problem["where"] == "state"
    check_problem(server.predict("vowels-lstm", sequence=data, state=token), 422, "bad_state_token")
    mixed = server.predict(MODEL, sequences=[data, data], state=[token, "x"])
    assert check_problem(mixed, 422, "bad_state_token")["where"] == "state[1]"
    short = server.predict(MODEL, sequences=[data, data], state=[token])
    assert check_problem(short, 422, "invalid_field")["where"] == "state"


def test_a_bidirectional_model_says_why_it_has_no_sessions(server: RunningServer) -> None:
    name = "vowels-lstm-bidirectional"
    refused = check_problem(server.client.post(f"/v1/models/{name}/sessions"), 409, "not_streamable")
    assert "reverse" in refused["detail"] or "bidirectional" in refused["detail"]
    for wanted in ({"return_state": True}, {"hidden": True}, {"state": "x"}):
        check_problem(server.predict(name, sequence=sequence().tolist(), **wanted), 409, "not_streamable")


def test_bad_bodies_leave_a_session_where_it_was(server: RunningServer) -> None:
    id = create(server)["id"]
    step(server, id, sequence(2)).raise_for_status()
    raw = server.client.post(f"/v1/sessions/{id}/steps", content=b'{"sequence": [[NaN')
    check_problem(raw, 400, "invalid_json")
    check_problem(step(server, id, [[1.0] * 11]), 422, "wrong_features")
    check_problem(step(server, id, []), 422, "empty_sequence")
    check_problem(step(server, id, [[1e39] * 12]), 422, "not_finite")
    check_problem(server.client.post(f"/v1/sessions/{id}/steps", json={}), 422, "invalid_field")
    check_problem(step(server, id, sequence(1), ta=2), 422, "invalid_field")
    assert server.client.get(f"/v1/sessions/{id}").json()["step"] == 2


def test_a_body_without_a_type_is_json_on_every_route(server: RunningServer) -> None:
    """curl -d says that it sends a form."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    route = f"/v1/models/{MODEL}/sessions"
    made = server.client.post(route, content=b'{"ttl": 50}', headers=form)
    assert (made.status_code, made.json()["ttl"]) == (201, 50.0), made.text
    check_problem(server.client.post(route, content=b"ttl=50", headers=form), 400, "invalid_json")


@pytest.mark.parametrize(
    ("content", "made", "restored"),
    [
        (b'{"ttl": ', "400 invalid_json", "400 invalid_json"),
        (b"[" * 100_000, "422 invalid_field", "400 invalid_json"),
        (b'{"ttl": ' + b"9" * 6000 + b"}", "422 invalid_field", "400 invalid_json"),
        (b'{"ttl": NaN}', "422 not_finite", "422 invalid_field"),
        (b'{"ttl": 1e999}', "422 invalid_field", "422 invalid_field"),
        (b'{"ttl": "\xff"}', "422 invalid_field", "400 invalid_json"),
        (b'{"state": "\\ud800"}', "400 invalid_json", "422 bad_state_token"),
        (b'{"static": {"\\ud800": 1}}', "400 invalid_json", "422 invalid_field"),
        (b'{"state": 5}', "422 invalid_field", "422 invalid_field"),
        (b'{"state": "' + b"x" * 1000 + b'"}', "422 bad_state_token", "422 bad_state_token"),
        (b"[]", "422 invalid_field", "422 invalid_field"),
    ],
)
def test_hostile_bodies_are_told_what_is_wrong(server: RunningServer, content: bytes, made: str, restored: str) -> None:
    """Both where a session is made and where it is restored."""
    session = f"/v1/sessions/{create(server)['id']}"
    routes = (("POST", f"/v1/models/{MODEL}/sessions", made), ("PUT", f"{session}/state", restored))
    for method, route, expected_answer in routes:
        answer = server.client.request(method, route, content=content, headers={"content-type": "application/json"})
        status, code = expected_answer.split()
        check_problem(answer, int(status), code)
    assert server.client.get(session).status_code == 200


def test_a_new_session_is_described_in_json_alone(server: RunningServer) -> None:
    octets = {"content-type": "application/octet-stream"}
    answer = server.client.post(f"/v1/models/{MODEL}/sessions", content=b"{}", headers=octets)
    check_problem(answer, 415, "unsupported_media_type")


def test_lists_are_paged(server: RunningServer) -> None:
    made = [create(server, "vowels-rnn")["id"] for _ in range(5)]
    found: list[str] = []
    after: str | None = None
    while True:
        query = {"model": "vowels-rnn", "limit": 2} | ({"after": after} if after else {})
        page = server.client.get("/v1/sessions", params=query).json()
        assert len(page["sessions"]) <= 2
        found += [one["id"] for one in page["sessions"]]
        after = page["next"]
        if after is None:
            break
    assert found == sorted(found) and set(made) <= set(found)
    assert all(len(id) >= 32 for id in made) and len({id[-32:] for id in made}) == 5


def test_racing_steps_one_wins_and_the_others_are_told(server: RunningServer) -> None:
    data = sequence(400)
    id = create(server)["id"]
    answers: list[httpx.Response] = []

    def race() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answers.append(client.post(f"/v1/sessions/{id}/steps", json={"sequence": data.tolist()}))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    won = [answer for answer in answers if answer.status_code == 200]
    for answer in answers:
        if answer.status_code != 200:
            check_problem(answer, 409, "step_conflict")
    assert won
    assert server.client.get(f"/v1/sessions/{id}").json()["step"] == 400 * len(won)
    whole = expected(MODEL, np.concatenate([data] * len(won)))
    outputs = {json.dumps(answer.json()["output"]) for answer in won}
    wanted = {tuple(whole[400 * i - 1].tolist()) for i in range(1, len(won) + 1)}
    assert {tuple(float32(json.loads(one)).tolist()) for one in outputs} == wanted


def test_racing_steps_with_the_same_at_and_content_are_one(server: RunningServer) -> None:
    data = sequence(300)
    id = create(server)["id"]
    answers: list[httpx.Response] = []

    def race() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answers.append(client.post(f"/v1/sessions/{id}/steps", json={"sequence": data.tolist(), "at": 0}))

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert sorted(answer.json()["replayed"] for answer in answers) == [False] + [True] * 5
    assert len({json.dumps(answer.json()["output"]) for answer in answers}) == 1
    assert server.client.get(f"/v1/sessions/{id}").json()["step"] == 300


@pytest.mark.slow
def test_a_session_expires_when_it_is_idle(server: RunningServer) -> None:
    id = create(server, ttl=2.5)["id"]
    for at in range(4):
        time.sleep(0.8)
        step(server, id, sequence(1), at=at).raise_for_status()
    time.sleep(2.7)
    check_problem(step(server, id, sequence(1), at=3), 404, "unknown_session")
    check_problem(server.client.get(f"/v1/sessions/{id}/state"), 404, "unknown_session")
    check_problem(server.client.post(f"/v1/models/{MODEL}/sessions", json={"ttl": -1}), 422, "invalid_field")
    check_problem(server.client.post(f"/v1/models/{MODEL}/sessions", json={"tll": 1}), 422, "invalid_field")


@pytest.mark.parametrize(("method", "path", "field"), [("POST", "fork", "ttl"), ("PUT", "state", "state")])
def test_a_field_that_does_not_exist_lists_those_that_do(
    server: RunningServer, method: str, path: str, field: str
) -> None:
    id = create(server)["id"]
    response = server.client.request(method, f"/v1/sessions/{id}/{path}", json={field + "s": 1})
    problem = check_problem(response, 422, "invalid_field")
    assert (problem["where"], problem["expected"]) == (field + "s", [field])
    assert f"did you mean {field!r}?" in problem["detail"]


@pytest.fixture(scope="module")
def keyed(small_store: Path) -> Iterator[RunningServer]:
    settings = {"api_keys": "alice-key,bob-key", "max_sessions": 3, "token_ttl": 3.0, "state_keys": "new,old"}
    with running_server(small_store, **settings) as one:
        yield one


def as_caller(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}-key"}


@pytest.mark.slow
def test_keys_keep_callers_apart(keyed: RunningServer) -> None:
    client, alice, bob = keyed.client, as_caller("alice"), as_caller("bob")
    for headers in ({}, {"authorization": "Bearer nobody"}, {"authorization": "Basic alice-key"}):
        check_problem(client.get("/v1/models", headers=headers), 401, "unauthorized")
        refused = client.post(f"/v1/models/{MODEL}/predict", json={}, headers=headers)
        check_problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get("/livez").status_code == client.get("/metrics").status_code == 200
    id = client.post(f"/v1/models/{MODEL}/sessions", headers=alice).json()["id"]
    token = client.get(f"/v1/sessions/{id}/state", headers=alice).json()["state"]
    body = {"sequence": sequence(2).tolist()}
    unknown = client.get(f"/v1/sessions/{'0' * 44}", headers=bob)
    for method, path, sent in (
        ("GET", f"/v1/sessions/{id}", None),
        ("DELETE", f"/v1/sessions/{id}", None),
        ("POST", f"/v1/sessions/{id}/fork", {}),
        ("GET", f"/v1/sessions/{id}/state", None),
        ("PUT", f"/v1/sessions/{id}/state", {"state": token}),
        ("POST", f"/v1/sessions/{id}/steps", body),
    ):
        refused = client.request(method, path, json=sent, headers=bob)
        check_problem(refused, 404, "unknown_session")
        assert refused.json() == unknown.json(), "what is another's must look like what is not there"
    assert client.get("/v1/sessions", headers=bob).json()["sessions"] == []
    assert [one["id"] for one in client.get("/v1/sessions", headers=alice).json()["sessions"]] == [id]
    stolen = client.post(f"/v1/models/{MODEL}/predict", json={**body, "state": token}, headers=bob)
    check_problem(stolen, 422, "bad_state_token")
    assert client.post(f"/v1/sessions/{id}/steps", json=body, headers=alice).json()["step"] == 2


def test_quotas_and_lifetimes_are_kept(keyed: RunningServer) -> None:
    client, bob = keyed.client, as_caller("bob")
    ids = [client.post(f"/v1/models/{MODEL}/sessions", headers=bob).json()["id"] for _ in range(3)]
    refused = client.post(f"/v1/models/{MODEL}/sessions", headers=bob)
    check_problem(refused, 429, "quota")
    assert int(refused.headers["retry-after"]) > 0
    check_problem(client.post(f"/v1/sessions/{ids[0]}/fork", headers=bob), 429, "quota")
    assert client.get(f"/v1/sessions/{ids[0]}", headers=bob).status_code == 200, "a live session must never make room"
    token = client.get(f"/v1/sessions/{ids[0]}/state", headers=bob).json()["state"]
    client.delete(f"/v1/sessions/{ids[0]}", headers=bob)
    assert client.post(f"/v1/models/{MODEL}/sessions", json={"state": token}, headers=bob).status_code == 201
    time.sleep(3.1)
    late = client.put(f"/v1/sessions/{ids[1]}/state", json={"state": token}, headers=bob)
    assert "expired" in check_problem(late, 422, "bad_state_token")["detail"]


@pytest.mark.slow
def test_a_spec_that_changed_ends_the_sessions_of_the_old_one(start_server: StartServer, tmp_path: Path) -> None:
    """What is said beside a file belongs to the model: a state of the one is none of the other."""
    folder = tmp_path / "models" / MODEL / "1"
    shutil.copytree(STORE / MODEL / "1", folder)
    first = start_server(tmp_path / "models", store_dir=tmp_path / "store")
    id = create(first)["id"]
    assert first.terminate() == 0
    (folder / "model.json").write_text('{"task": "tagging"}')
    second = start_server(tmp_path / "models", store_dir=tmp_path / "store")
    # At first the server looks whether the folder has the model of the session by now.
    check_problem(step(second, id, sequence(1)), 503, "model_loading")
    until = time.monotonic() + 60
    while (answer := step(second, id, sequence(1))).status_code == 503:
        assert time.monotonic() < until
        time.sleep(0.1)
    check_problem(answer, 409, "model_changed")


@pytest.mark.slow
def test_sessions_and_tokens_outlive_the_server(start_server: StartServer, tmp_path: Any) -> None:
    data = sequence(9)
    first = start_server(store_dir=tmp_path / "store")
    id = create(first)["id"]
    step(first, id, data[:5], at=0).raise_for_status()
    token = first.client.get(f"/v1/sessions/{id}/state").json()["state"]
    assert first.terminate() == 0
    loads = {path: path.stat().st_ino for path in (tmp_path / "store" / "loads").iterdir()}
    second = start_server(store_dir=tmp_path / "store")
    # Nothing was proved again: what is written anew is another file.
    assert len(loads) == 3 and loads == {path: path.stat().st_ino for path in loads}
    assert step(second, id, data[:5], at=0).json()["replayed"] is True
    whole = expected(MODEL, data)
    assert same_bits(float32(step(second, id, data[5:], at=5).json()["output"]), whole[-1])
    result = second.predict(MODEL, sequence=data[5:].tolist(), state=token).json()["results"][0]
    assert same_bits(float32(result["output"]), whole[-1])
