"""Generation over HTTP is the plain loop in ONNX Runtime, token for token, whatever runs beside it."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import numpy_helper

from elman.repository.spec import DecoderSpec, GenerationSpec, InputSpec, ModelSpec
from tests.looping import VOCABULARY, Network, generate_alone, generator, put_generator
from tests.running import STORE, RunningServer, running_server
from tests.waiting import wait_until

CELLS = ("rnn", "lstm", "gru")


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {cell: generator(cell) for cell in CELLS}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, Network]) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("writers")
    for cell, network in networks.items():
        put_generator(root, cell, network)
    put_generator(root, "endless", networks["gru"], endless=True)
    put_silent(root, "silent")
    (root / "vowels-gru").symlink_to(STORE / "vowels-gru")
    (root / "names-gru").symlink_to(STORE / "names-gru")
    with running_server(root) as one:
        yield one


def put_silent(root: Path, name: str) -> None:
    """A model of probabilities: after `a` comes `b`, and after `b` nothing has a probability."""
    network, a, b = Network("rnn", len(VOCABULARY), hidden=4), VOCABULARY.index("a"), VOCABULARY.index("b")
    for tensor in network.graph.initializer:
        array = np.zeros_like(numpy_helper.to_array(tensor))
        if tensor.name == "embedding":
            array[:], array[a] = -1.0, 1.0
        elif tensor.name == "W":
            array[:] = 1.0
        elif tensor.name == "decoder":
            array[:, b] = 0.25
        if tensor.name in ("embedding", "W", "R", "B", "decoder", "bias"):
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    spec = ModelSpec(
        task="generation",
        input=InputSpec(vocabulary=VOCABULARY),
        generation=GenerationSpec(start="<start>"),
        decoder=DecoderSpec(kind="tokens", scores="probabilities"),
    )
    network.put(root, name, spec)


def generate(server: RunningServer, model: str, **body: object) -> dict[str, Any]:
    answer = server.client.post(f"/v1/models/{model}/generate", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ids(text: str) -> list[int]:
    return [0, *(VOCABULARY.index(character) for character in text)]


@pytest.mark.parametrize("prompt", ["a", "b"])
def test_where_no_token_has_a_probability_generation_fails(writers: RunningServer, prompt: str) -> None:
    assert generate(writers, "silent", prompt="a", max_steps=1)["results"][0]["text"] == "b"
    answer = writers.client.post("/v1/models/silent/generate", json={"prompt": prompt, "max_steps": 2})
    problem = answer.json()
    assert (problem["code"], problem["where"]) == ("not_finite_output", "prompt"), answer.text
    assert "no token a probability" in problem["detail"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.6, "top_k": 5},
        {"temperature": 1.4, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 9, "top_p": 0.5},
        {"top_k": 1},
    ],
)
def test_the_tokens_are_those_of_the_plain_loop(
    writers: RunningServer, networks: dict[str, Network], cell: str, options: dict[str, Any]
) -> None:
    body = {"prompt": "elm", "seed": 11, "samples": 6, "max_steps": 40, **options}
    answer = generate(writers, cell, **body)
    assert answer["seed"] == 11 and len(answer["results"]) == 6
    for path, result in enumerate(answer["results"]):
        wanted = generate_alone(networks[cell], ids("elm"), 11, path, 40, **options)
        assert result["tokens"] == wanted
        assert result["text"] == "".join(VOCABULARY[token] for token in wanted)
        assert result["steps"] == len(wanted)
        assert result["reason"] == ("length" if len(wanted) == 40 else "end")
    single = generate(writers, cell, **{**body, "samples": 1})
    assert single["results"] == answer["results"][:1], "a sample must not depend on its company"


@pytest.mark.parametrize("cell", CELLS)
def test_many_samples_advance_together_and_have_the_tokens_of_each_alone(
    writers: RunningServer, networks: dict[str, Network], cell: str
) -> None:
    body = {"prompt": "elm", "seed": 11, "samples": 150, "max_steps": 40}
    key = (cell, "1")
    before = writers.stats()
    answer = generate(writers, cell, **body)
    after = writers.stats()
    counted = {name: after[name, key] - before[name, key] for name in ("elman_sequences_total", "elman_runs_total")}
    assert len({result["steps"] for result in answer["results"]}) > 10, "they end at different steps"
    for path, result in enumerate(answer["results"]):
        assert result["tokens"] == generate_alone(networks[cell], ids("elm"), 11, path, 40)
    num_blocks = counted["elman_sequences_total"] - 1  # without the prompt
    assert num_blocks <= 150 / 12
    assert counted["elman_runs_total"] <= 1 + num_blocks * 39
    assert events(writers, cell, **body)[-1] == ("done", answer)
    states = generate(writers, cell, **body, return_state=True)["results"]
    assert [result | {"state": None} for result in states] == [one | {"state": None} for one in answer["results"]]


@pytest.mark.slow
def test_a_seed_gives_the_same_tokens_among_any_others(writers: RunningServer) -> None:
    bodies = [{"prompt": "ab"[: i % 3], "seed": i, "samples": 1 + i % 4, "max_steps": 30} for i in range(24)]
    alone = [generate(writers, "lstm", **body)["results"] for body in bodies]
    together: dict[int, Any] = {}

    def run(index: int) -> None:
        with httpx.Client(base_url=writers.url, timeout=60) as client:
            together[index] = client.post("/v1/models/lstm/generate", json=bodies[index]).json()["results"]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[index] for index in range(len(bodies))] == alone
    unseeded = [generate(writers, "lstm", prompt="a", max_steps=30) for _ in range(2)]
    assert unseeded[0]["seed"] != unseeded[1]["seed"]
    again = generate(writers, "lstm", prompt="a", max_steps=30, seed=unseeded[0]["seed"])
    assert again == unseeded[0]


def events(server: RunningServer, model: str, **body: object) -> list[tuple[str, dict[str, Any]]]:
    found = []
    with server.client.stream("POST", f"/v1/models/{model}/generate", json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = "message"
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
                kind = "message"
    return found


@pytest.mark.parametrize("stop", [[], ["e", "th"], ["zzzzz"]])
def test_a_stream_gives_the_same_as_the_whole(writers: RunningServer, stop: list[str]) -> None:
    body = {"prompt": "a", "seed": 5, "samples": 3, "max_steps": 25, "stop": stop}
    whole = generate(writers, "gru", **body)
    found = events(writers, "gru", **body)
    assert found[-1] == ("done", whole)
    for index, result in enumerate(whole["results"]):
        mine = [data for kind, data in found[:-1] if kind == "message" and data["sample"] == index]
        assert [data["token"] for data in mine if data["token"] is not None] == result["tokens"]
        assert "".join(data["text"] for data in mine) == result["text"]
        if not stop:
            assert [data["text"] for data in mine] == [VOCABULARY[token] for token in result["tokens"]]


def test_a_stop_is_cut_off_where_it_first_appears(writers: RunningServer) -> None:
    body = {"prompt": "a", "seed": 5, "samples": 8, "max_steps": 60}
    free = [result["text"] for result in generate(writers, "gru", **body)["results"]]
    longest = max(free, key=len)
    stops = [longest[3:5], longest[7:8]]
    cut = generate(writers, "gru", **body, stop=stops)["results"]
    for text, result in zip(free, cut, strict=True):
        places = [text.find(stop) for stop in stops if stop in text]
        assert result["text"] == (text[: min(places)] if places else text)
        assert (result["reason"] == "stop") == bool(places)


def test_it_goes_on_from_a_session_and_from_a_token(writers: RunningServer) -> None:
    straight = generate(writers, "lstm", prompt="elman", seed=3, max_steps=20)["results"]
    session = writers.client.post("/v1/models/lstm/sessions").json()["id"]
    route = f"/v1/sessions/{session}/steps"
    writers.client.post(route, json={"sequence": ids("elma")}).raise_for_status()
    writers.client.post(route, json={"sequence": "n"}).raise_for_status()
    assert generate(writers, "lstm", session=session, seed=3, max_steps=20)["results"] == straight
    assert writers.client.get(f"/v1/sessions/{session}").json()["step"] == 6, "a session is not moved"
    token = writers.client.get(f"/v1/sessions/{session}/state").json()["state"]
    assert generate(writers, "lstm", state=token, seed=3, max_steps=20)["results"] == straight
    greedy = {"temperature": 0.0, "seed": 0}
    first = generate(writers, "lstm", prompt="el", max_steps=5, return_state=True, **greedy)["results"][0]
    rest = generate(writers, "lstm", state=first["state"], max_steps=7, **greedy)["results"][0]
    whole = generate(writers, "lstm", prompt="el", max_steps=12, **greedy)["results"][0]
    assert first["tokens"] + rest["tokens"] == whole["tokens"]


def test_a_token_of_what_was_written_says_how_far_it_has_come(writers: RunningServer) -> None:
    id = writers.client.post("/v1/models/lstm/sessions").json()["id"]
    writers.client.post(f"/v1/sessions/{id}/steps", json={"sequence": ids("elm")}).raise_for_status()
    for source in ({"session": id}, {"state": writers.client.get(f"/v1/sessions/{id}/state").json()["state"]}):
        body = {**source, "prompt": "a", "max_steps": 5, "seed": 4, "samples": 3, "return_state": True}
        for result in generate(writers, "lstm", **body)["results"]:
            made = writers.client.post("/v1/models/lstm/sessions", json={"state": result["state"]}).json()
            assert made["step"] == 4 + 1 + result["steps"]


@pytest.mark.slow
def test_a_low_temperature_takes_the_likeliest(writers: RunningServer) -> None:
    greedy = generate(writers, "gru", prompt="elm", temperature=0.0, seed=1)["results"]
    for temperature in (1e-310, 1e-30, 1e-6):
        assert generate(writers, "gru", prompt="elm", temperature=temperature, seed=1)["results"] == greedy


@pytest.mark.slow
def test_a_stopping_server_says_so_in_its_streams(tmp_path: Path, networks: dict[str, Network]) -> None:
    put_generator(tmp_path / "models", "endless", networks["gru"], endless=True)
    body = {"prompt": "a", "seed": 1, "max_steps": 900_000, "stream": True}
    with (
        running_server(tmp_path / "models", drain_timeout=1.0) as server,
        server.client.stream("POST", "/v1/models/endless/generate", json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        *_, last = [line for line in lines if line]
        assert server.process.wait(20) == 0
    assert json.loads(last.removeprefix("data: "))["code"] == "draining"


def test_a_condition_stands_in_the_place_of_the_start(writers: RunningServer, networks: dict[str, Network]) -> None:
    result = generate(writers, "gru", prompt="b", condition="loud", seed=1, max_steps=15)["results"][0]
    assert result["tokens"] == generate_alone(networks["gru"], [2, *ids("b")[1:]], 1, 0, 15)
    bare = generate(writers, "gru", seed=1, max_steps=15)["results"][0]
    assert bare["tokens"] == generate_alone(networks["gru"], [0], 1, 0, 15)


@pytest.mark.parametrize(
    ("body", "status", "code", "where"),
    [
        ({"prompt": "Ä"}, 422, "unknown_token", "prompt[0]"),
        ({"prompt": [999]}, 422, "unknown_token", "prompt[0]"),
        ({"prompt": "a", "condition": "quiet"}, 422, "invalid_field", "condition"),
        ({"prompt": "a", "temperature": -1}, 422, "invalid_field", "temperature"),
        ({"prompt": "a", "top_p": 0}, 422, "invalid_field", "top_p"),
        ({"prompt": "a", "top_k": -1}, 422, "invalid_field", "top_k"),
        ({"prompt": "a", "max_steps": 0}, 422, "invalid_field", "max_steps"),
        ({"prompt": "a", "samples": 0}, 422, "invalid_field", "samples"),
        ({"prompt": "a", "seed": -1}, 422, "invalid_field", "seed"),
        ({"prompt": "a", "stop": [""]}, 422, "invalid_field", "stop[0]"),
        ({"prompt": "a", "sotp": ["x"]}, 422, "invalid_field", "sotp"),
        ({"prompt": "a", "state": "x"}, 422, "bad_state_token", "state"),
        ({"prompt": "a", "samples": 1000, "max_steps": 900_000}, 413, "too_long", "samples"),
        ({"prompt": "a", "max_steps": 10**400}, 422, "invalid_field", "max_steps"),
        ({"prompt": "a", "seed": 10**400}, 422, "invalid_field", "seed"),
        ({"prompt": [10**400]}, 422, "unknown_token", "prompt[0]"),
        ({"prompt": "a", "session": "0" * 44}, 404, "unknown_session", None),
        ({"session": "0" * 44, "state": "x"}, 422, "invalid_field", "state"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_says_where(
    writers: RunningServer, body: dict[str, Any], status: int, code: str, where: str | None, stream: bool
) -> None:
    answer = writers.client.post("/v1/models/gru/generate", json={**body, "stream": stream})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("where")) == (status, code, where)


@pytest.mark.parametrize(("model", "why"), [("vowels-gru", "numbers"), ("names-gru", "tokens")])
def test_a_model_that_cannot_generate_says_why(writers: RunningServer, model: str, why: str) -> None:
    answer = writers.client.post(f"/v1/models/{model}/generate", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["code"]) == (409, "cannot_generate")
    assert why in answer.json()["detail"]
    assert writers.client.get(f"/v1/models/{model}").json()["generation"] is None


def test_a_card_says_how_it_generates(writers: RunningServer) -> None:
    card = writers.client.get("/v1/models/gru").json()
    assert card["generation"] == {"start": "<start>", "end": "<end>", "conditions": ["loud"]}
    assert card["task"] == "generation"


@pytest.mark.parametrize("stream", [False, True])
def test_the_work_stops_when_the_client_is_gone(writers: RunningServer, stream: bool) -> None:
    body = {"prompt": "a", "seed": 1, "max_steps": 200_000, "samples": 4, "stream": stream}
    timeout = 60.0 if stream else 1.0  # the whole answer takes longer
    try:
        with writers.client.stream("POST", "/v1/models/endless/generate", json=body, timeout=timeout) as answer:
            lines = answer.iter_lines()  # kept: the response is closed with it
            for _, line in zip(range(50), lines, strict=False):
                assert not line or line.startswith("data: ")
            assert writers.client.get("/v1/engine").json()["queued"] == 4
    except httpx.ReadTimeout:
        assert not stream
    wait_until_idle(writers)


def wait_until_idle(server: RunningServer) -> None:
    wait_until(lambda: not server.client.get("/v1/engine").json()["queued"], "it writes on for nobody", limit=5.0)


def test_a_deadline_ends_a_stream_with_an_error(writers: RunningServer) -> None:
    body = {"prompt": "a", "seed": 2, "max_steps": 400_000, "samples": 2, "timeout": 0.4}
    found = events(writers, "endless", **body)
    assert (found[-1][0], found[-1][1]["code"]) == ("error", "deadline")
    assert len(found) > 10 and found[0][0] == "message"
    whole = writers.client.post("/v1/models/endless/generate", json=body)
    assert (whole.status_code, whole.json()["code"]) == (504, "deadline")
    wait_until_idle(writers)
