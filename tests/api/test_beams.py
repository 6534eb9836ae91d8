"""Beam search and log-probabilities over HTTP are those of a plain loop in ONNX Runtime, whatever runs beside it."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.test_generate import wait_until_idle
from tests.looping import VOCABULARY, Network, generator, log_softmax, put_generator, scores_after, search_alone
from tests.running import RunningServer, running_server
from tests.waiting import assert_undisturbed

# They start servers of their own.
pytestmark = pytest.mark.slow

END = VOCABULARY.index("<end>")
PROMPT = [0, *(VOCABULARY.index(character) for character in "elm")]


@pytest.fixture(scope="module")
def network() -> Network:
    return generator("lstm")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("beams")
    put_generator(root, "lstm", network)
    put_generator(root, "endless", network, endless=True)
    with running_server(root) as one:
        yield one


def generate(server: RunningServer, model: str = "lstm", **body: object) -> dict[str, Any]:
    answer = server.client.post(f"/v1/models/{model}/generate", json={"prompt": "elm", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def with_end(result: dict[str, Any]) -> tuple[int, ...]:
    return (*result["tokens"], *([END] if result["reason"] == "end" else []))


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 5, "num_return_sequences": 5},
        {"num_beams": 8, "num_return_sequences": 3, "length_penalty": 0.0},
        {"num_beams": 8, "num_return_sequences": 8, "length_penalty": 1.7},
        {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
        {"num_beams": 40, "num_return_sequences": 40, "length_penalty": -0.5},
    ],
)
def test_the_texts_are_those_of_the_plain_search(
    writer: RunningServer, network: Network, options: dict[str, Any]
) -> None:
    answer = generate(writer, max_steps=12, **options)
    rest = {"length_penalty": 1.0, "early_stopping": False, **options}
    num_beams, num_return = rest.pop("num_beams"), rest.pop("num_return_sequences", 1)
    wanted = search_alone(scores_after(network, PROMPT), num_beams, num_return, 12, **rest)
    assert [with_end(result) for result in answer["results"]] == [tokens for _, _, tokens in wanted]
    for result, (score, total, _) in zip(answer["results"], wanted, strict=True):
        assert result["text"] == "".join(VOCABULARY[token] for token in result["tokens"])
        assert result["score"] == pytest.approx(score, rel=1e-9)
        assert result["cumulative_logprob"] == pytest.approx(total, rel=1e-9)
    assert answer["seed"] is None


def test_a_search_has_the_same_bits_among_other_requests(writer: RunningServer) -> None:
    body = {"num_beams": 6, "num_return_sequences": 6, "max_steps": 15, "logprobs": 2}
    alone = generate(writer, **body)
    together: list[Any] = []

    def beside(seed: int) -> None:
        with httpx.Client(base_url=writer.url, timeout=60) as client:
            drawn = {"prompt": "ab"[: seed % 3], "seed": seed, "samples": 1 + seed % 4, "max_steps": 60}
            client.post("/v1/models/lstm/generate", json=drawn).raise_for_status()
            together.append(client.post("/v1/models/lstm/generate", json={"prompt": "elm", **body}).json())

    threads = [threading.Thread(target=beside, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(together) == 8 and all(answer == alone for answer in together)


def test_a_stop_string_ends_a_text_and_is_cut_off(writer: RunningServer) -> None:
    body = {"num_beams": 6, "num_return_sequences": 6, "max_steps": 10}
    free = generate(writer, "endless", **body)["results"][0]["text"]
    stopped = generate(writer, "endless", **body, stop=[free[2:4]])["results"]
    assert {result["reason"] for result in stopped} >= {"stop"}
    for result in stopped:
        assert free[2:4] not in result["text"]
        written = "".join(VOCABULARY[token] for token in result["tokens"])
        assert (free[2:4] in written) == (result["reason"] == "stop")


@pytest.mark.parametrize("max_steps", [1, 6])
def test_a_state_token_is_that_after_the_text(writer: RunningServer, network: Network, max_steps: int) -> None:
    body = {"num_beams": 4, "num_return_sequences": 4, "max_steps": max_steps, "return_state": True}
    results = generate(writer, **body)["results"]
    assert len({result["state"] for result in results}) == len(results)
    for result in results:
        state = {"state": result["state"], "temperature": 0, "max_steps": 1, "logprobs": 3, "prompt": None}
        (after,) = generate(writer, **state)["results"][0]["logprobs"] or [None]
        wanted = log_softmax(scores_after(network, PROMPT)(tuple(result["tokens"])))
        if after is None:  # it went on with the end token, which is not part of a text
            assert wanted.argmax() == END
        else:
            top = [one["logprob"] for one in after["top"]]
            assert top == pytest.approx(sorted(wanted, reverse=True)[:3], abs=1e-12)
        made = writer.client.post("/v1/models/lstm/sessions", json={"state": result["state"]}).json()
        assert made["step"] == len(PROMPT) + result["steps"]


@pytest.mark.parametrize("options", [{"seed": 3, "samples": 4, "temperature": 0.7, "top_k": 6}, {"num_beams": 4}])
def test_logprobs_are_of_the_models_distribution_after_the_tokens_before(
    writer: RunningServer, network: Network, options: dict[str, Any]
) -> None:
    scores = scores_after(network, PROMPT)
    for result in generate(writer, max_steps=8, logprobs=5, **options)["results"]:
        assert len(result["logprobs"]) == result["steps"]
        total = 0.0
        for step, (token, noted) in enumerate(zip(result["tokens"], result["logprobs"], strict=True)):
            wanted = log_softmax(scores(tuple(result["tokens"][:step])))
            assert noted["logprob"] == pytest.approx(wanted[token], abs=1e-12)
            assert [one["logprob"] for one in noted["top"]] == pytest.approx(
                sorted(wanted, reverse=True)[:5], abs=1e-12
            )
            for one in noted["top"]:
                assert one["logprob"] == pytest.approx(wanted[one["token"]], abs=1e-12)
                assert one["text"] == VOCABULARY[one["token"]]
            total += noted["logprob"]
        if result["reason"] == "end":
            total += log_softmax(scores(tuple(result["tokens"])))[END]
        assert result["cumulative_logprob"] == pytest.approx(total, abs=1e-11)
        assert ("score" in result) == ("num_beams" in options)


def test_without_alternatives_only_the_tokens_own_logprob_is_told(writer: RunningServer) -> None:
    body = {"seed": 1, "max_steps": 6}
    result, plain = (generate(writer, **body, **more)["results"][0] for more in ({"logprobs": 0}, {}))
    assert all(one["top"] == [] and one["logprob"] <= 0 for one in result["logprobs"])
    assert result["tokens"] == plain["tokens"]
    assert not {"logprobs", "cumulative_logprob", "score"} & set(plain)


def test_a_stream_has_the_logprobs_of_the_whole_answer(writer: RunningServer) -> None:
    body = {"prompt": "elm", "seed": 5, "samples": 3, "max_steps": 12, "logprobs": 2, "stop": ["th"], "stream": True}
    with writer.client.stream("POST", "/v1/models/lstm/generate", json=body) as answer:
        *events, done = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    for index, result in enumerate(done["results"]):
        tokens = [one for one in events if one["sample"] == index and one["token"] is not None]
        assert [{"logprob": one["logprob"], "top": one["top"]} for one in tokens] == result["logprobs"]
    assert all("logprob" not in one for one in events if one["token"] is None)


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"num_beams": 4, "temperature": 0.5}, 422, "temperature"),
        ({"num_beams": 4, "top_k": 3}, 422, "top_k"),
        ({"num_beams": 4, "top_p": 0.5}, 422, "top_p"),
        ({"num_beams": 4, "seed": 1}, 422, "seed"),
        ({"num_beams": 4, "samples": 2}, 422, "samples"),
        ({"num_beams": 4, "stream": True}, 422, "stream"),
        ({"num_beams": 4, "num_return_sequences": 5}, 422, "num_return_sequences"),
        ({"length_penalty": 0.5}, 422, "num_beams"),
        ({"early_stopping": True}, 422, "num_beams"),
        ({"num_return_sequences": 2}, 422, "num_beams"),
        ({"num_beams": 65}, 422, "num_beams"),
        ({"logprobs": 21}, 422, "logprobs"),
        ({"num_beams": 64, "max_steps": 20_000}, 413, "num_beams"),
        ({"logprobs": 20, "samples": 1000, "max_steps": 1000}, 413, "logprobs"),
    ],
)
def test_what_has_no_meaning_or_is_too_much_is_refused(
    writer: RunningServer, body: dict[str, Any], status: int, where: str
) -> None:
    answer = writer.client.post("/v1/models/lstm/generate", json={"prompt": "a", **body})
    assert (answer.status_code, answer.json()["where"]) == (status, where), answer.text


def test_the_whole_search_counts_as_pending_while_it_runs_and_ends_at_its_deadline(writer: RunningServer) -> None:
    timeout = 1.5
    body = {"prompt": "a", "num_beams": 16, "max_steps": 50_000, "timeout": timeout}
    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{writer.url}/v1/models/endless/generate", json=body, timeout=60))
    )
    thread.start()
    most = 0.0
    while thread.is_alive():
        most = max(most, float(writer.client.get("/v1/engine").json()["pending_seconds"]))
    assert most > timeout, "800,000 steps take longer than the deadline"
    assert (answers[0].status_code, answers[0].json()["code"]) == (504, "deadline")
    wait_until_idle(writer)


def test_a_search_ends_when_its_client_is_gone(writer: RunningServer) -> None:
    body = {"prompt": "a", "num_beams": 4, "max_steps": 100_000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{writer.url}/v1/models/endless/generate", json=body, timeout=0.5)
    wait_until_idle(writer)


def test_others_are_answered_while_a_large_answer_is_encoded(writer: RunningServer) -> None:
    """No other request waits for a large part of the time that it all takes."""
    body = {"prompt": "elm", "num_beams": 64, "num_return_sequences": 64, "max_steps": 300, "logprobs": 20}

    def longest_share() -> float:
        answers: list[httpx.Response] = []
        url = f"{writer.url}/v1/models/endless/generate"
        thread = threading.Thread(target=lambda: answers.append(httpx.post(url, json=body, timeout=120)))
        began = time.monotonic()
        thread.start()
        longest = 0.0
        while thread.is_alive():
            asked = time.monotonic()
            assert writer.client.get("/livez").status_code == 200
            longest = max(longest, time.monotonic() - asked)
            time.sleep(0.002)
        assert answers[0].status_code == 200 and len(answers[0].content) > 20_000_000
        return longest / (time.monotonic() - began)

    assert_undisturbed(longest_share, lambda share: share < 0.1)
