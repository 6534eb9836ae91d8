"""`POST /v1/models/{name}/predict`: what is answered, in both formats."""

import json
import time
import unicodedata

import numpy as np
import pytest

from tests.reference import BIDIRECTIONAL, CELLS, NAMES, Array, expected, float32, same_bits
from tests.running import RunningServer

BINARY = {"content-type": "application/octet-stream"}
BOTH = {**BINARY, "accept": "application/octet-stream"}

FEATURES = [*CELLS, BIDIRECTIONAL]


def sequences(*lengths: int, seed: int = 0) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((length, 12)).astype(np.float32) for length in lengths]


def softmax(row: Array) -> Array:
    exponents = np.exp(row.astype(np.float64) - row.max())
    return exponents / exponents.sum()


def results(response) -> list[dict]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()["results"]


@pytest.mark.parametrize("name", FEATURES)
def test_one_sequence_gives_its_final_output_to_the_bit(server: RunningServer, name: str) -> None:
    (sequence,) = sequences(20)
    response = server.predict(name, sequence=sequence.tolist())
    assert {key: value for key, value in response.json().items() if key != "results"} == {"model": name, "version": 1}
    (result,) = results(response)
    assert set(result) == {"length", "output", "decoded"}
    assert result["length"] == 20
    assert same_bits(float32(result["output"]), expected(name, sequence)[-1])


@pytest.mark.parametrize("name", FEATURES)
def test_steps_gives_every_output_to_the_bit(server: RunningServer, name: str) -> None:
    (sequence,) = sequences(150)
    (result,) = results(server.predict(name, sequence=sequence.tolist(), **{"return": "steps"}))
    assert set(result) == {"length", "outputs", "decoded"}
    assert len(result["decoded"]) == 150
    assert same_bits(float32(result["outputs"]), expected(name, sequence))


@pytest.mark.parametrize("returns", ["final", "steps"])
@pytest.mark.parametrize("name", FEATURES)
def test_sequences_of_any_lengths_are_answered_in_their_order(server: RunningServer, name: str, returns: str) -> None:
    lengths = [1, 300, 7, 64, 65, 2, 129, 1, 40, 255, 3, 90, 12, 64, 5, 200, 31, 8, 1, 17]
    many = sequences(*lengths)
    response = server.predict(name, sequences=[one.tolist() for one in many], **{"return": returns})
    answers = results(response)
    assert [one["length"] for one in answers] == lengths
    for one, sequence in zip(answers, many, strict=True):
        steps = expected(name, sequence)
        if returns == "steps":
            assert same_bits(float32(one["outputs"]), steps)
        else:
            assert same_bits(float32(one["output"]), steps[-1])


@pytest.mark.parametrize("returns", ["final", "steps"])
@pytest.mark.parametrize("name", FEATURES)
def test_binary_and_json_carry_the_same_bits_both_ways(server: RunningServer, name: str, returns: str) -> None:
    (sequence,) = sequences(77)
    url = f"/v1/models/{name}/predict"
    steps = expected(name, sequence)
    wanted = steps if returns == "steps" else steps[-1]

    response = server.client.post(url, params={"return": returns}, content=sequence.tobytes(), headers=BOTH)
    assert response.headers["content-type"] == "application/octet-stream"
    assert (response.headers["elman-model"], response.headers["elman-version"]) == (name, "1")
    shape = tuple(map(int, response.headers["elman-shape"].split(",")))
    assert same_bits(np.frombuffer(response.content, "<f4").reshape(shape), wanted)

    response = server.client.post(
        url, json={"sequence": sequence.tolist(), "return": returns}, headers={"accept": BOTH["accept"]}
    )
    assert same_bits(np.frombuffer(response.content, "<f4").reshape(wanted.shape), wanted)

    response = server.client.post(url, params={"return": returns}, content=sequence.tobytes(), headers=BINARY)
    (result,) = results(response)
    assert same_bits(float32(result["outputs" if returns == "steps" else "output"]), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_text_token_ids_and_binary_ids_give_the_same_bits(server: RunningServer, name: str) -> None:
    vocabulary = vocabulary_of(name)
    text = "O'Sullivan Núñez"
    assert set(text) <= set(vocabulary)
    ids = [vocabulary.index(character) for character in text]
    wanted = expected(name, np.array(ids))
    for given in (text, ids):
        (result,) = results(server.predict(name, sequence=given, **{"return": "steps"}))
        assert result["length"] == len(text)
        assert same_bits(float32(result["outputs"]), wanted)
    response = server.client.post(
        f"/v1/models/{name}/predict?return=steps", content=np.array(ids, "<i4").tobytes(), headers=BOTH
    )
    assert same_bits(np.frombuffer(response.content, "<f4").reshape(wanted.shape), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_text_and_ids_may_stand_in_one_request(server: RunningServer, name: str) -> None:
    ids = [vocabulary_of(name).index(character) for character in "Visser"]
    one, other = results(server.predict(name, sequences=["Visser", ids]))
    assert one == other


@pytest.mark.parametrize("name", NAMES)
def test_a_character_outside_the_vocabulary_becomes_the_unknown_token(server: RunningServer, name: str) -> None:
    vocabulary = vocabulary_of(name)
    assert "漢" not in vocabulary and "\N{GRINNING FACE}" not in vocabulary
    one, other, unknown = results(
        server.predict(name, sequences=["a漢b", "a\N{GRINNING FACE}b", "a\N{REPLACEMENT CHARACTER}b"])
    )
    told = [result.pop("unknown", None) for result in (one, other, unknown)]
    assert one == other == unknown
    assert one["length"] == 3
    assert told == [[{"character": "漢", "count": 1}], [{"character": "\N{GRINNING FACE}", "count": 1}], None]


def vocabulary_of(name: str) -> list[str]:
    from tests.reference import model

    vocabulary = model(name).spec.input.vocabulary
    assert vocabulary is not None
    return list(vocabulary)


def test_a_decomposed_text_is_read_as_the_composed_one(server: RunningServer) -> None:
    answer = server.predict("names-gru", sequences=["José", unicodedata.normalize("NFD", "José")]).json()
    whole, decomposed = answer["results"]
    assert whole == decomposed and whole["length"] == 4 and "unknown" not in whole
    assert server.client.get("/v1/models/names-gru").json()["input"]["normalisation"] == "NFC"


@pytest.mark.parametrize("name", FEATURES)
def test_decoded_is_the_softmax_of_the_output(server: RunningServer, name: str) -> None:
    (sequence,) = sequences(25, seed=3)
    labels = server.client.get(f"/v1/models/{name}").json()["output"]["labels"]
    (result,) = results(server.predict(name, sequence=sequence.tolist(), top=9))
    scores = softmax(expected(name, sequence)[-1])
    ranked = result["decoded"]["top"]
    assert [one["label"] for one in ranked] == [labels[i] for i in np.argsort(-scores)]
    np.testing.assert_allclose([one["probability"] for one in ranked], sorted(scores, reverse=True), rtol=1e-12)
    assert {key: result["decoded"][key] for key in ("label", "probability")} == ranked[0]
    assert sum(one["probability"] for one in ranked) == pytest.approx(1.0)


def test_each_step_is_decoded_as_its_own_output(server: RunningServer) -> None:
    (sequence,) = sequences(9)
    (result,) = results(server.predict("vowels-gru", sequence=sequence.tolist(), **{"return": "steps"}))
    prefixes = [sequence[: i + 1].tolist() for i in range(9)]
    finals = results(server.predict("vowels-gru", sequences=prefixes))
    assert result["decoded"] == [one["decoded"] for one in finals]
    assert result["outputs"] == [one["output"] for one in finals]


@pytest.mark.parametrize(("top", "listed"), [(None, 3), (1, 1), (4, 4), (9, 9), (1000, 9)])
def test_top_says_how_many_labels_are_listed(server: RunningServer, top: int | None, listed: int) -> None:
    options = {} if top is None else {"top": top}
    (result,) = results(server.predict("vowels-lstm", sequence=[[0.5] * 12] * 3, **options))
    assert len(result["decoded"]["top"]) == listed
    (result,) = results(
        server.client.post(
            "/v1/models/vowels-lstm/predict", params=options, content=np.full(36, 0.5, "<f4").tobytes(), headers=BINARY
        )
    )
    assert len(result["decoded"]["top"]) == listed


@pytest.mark.parametrize("returns", ["final", "steps"])
def test_decode_false_leaves_decoding_out(server: RunningServer, returns: str) -> None:
    body = {"sequence": [[0.5] * 12] * 3, "decode": False, "return": returns}
    (result,) = results(server.client.post("/v1/models/vowels-lstm/predict", json=body))
    assert set(result) == {"length", "output" if returns == "final" else "outputs"}


def test_a_named_version_answers_as_the_default_one(server: RunningServer) -> None:
    body = {"sequence": [[0.5] * 12] * 3}
    default = server.client.post("/v1/models/vowels-rnn/predict", json=body)
    named = server.client.post("/v1/models/vowels-rnn/versions/1/predict", json=body)
    assert default.content == named.content
    assert named.status_code == 200


def test_json_sent_as_curl_sends_it_is_read(server: RunningServer) -> None:
    content = json.dumps({"sequence": [[0.5] * 12]}).encode()
    url = "/v1/models/vowels-rnn/predict"
    answers = {
        server.client.post(url, content=content, headers={"content-type": kind}).content
        for kind in ("application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded")
    }
    assert len(answers) == 1
    assert b"results" in answers.pop()


@pytest.mark.slow
def test_a_passed_deadline_is_504_and_stops_the_work(server: RunningServer) -> None:
    content = np.zeros((1_000_000, 12), "<f4").tobytes()
    labels, done, timeout = ("vowels-lstm", "1"), 0.0, 2.0
    while not done:
        before = server.stats()
        started = time.monotonic()
        response = server.client.post(
            f"/v1/models/vowels-lstm/predict?timeout={timeout}", content=content, headers=BINARY
        )
        took = time.monotonic() - started
        assert response.status_code == 504, response.text
        problem = response.json()
        assert (problem["code"], problem["where"]) == ("deadline", "sequence")
        assert took < timeout + 13.0
        server.wait_for("elman_pending_sequences", 0.0)
        after = server.stats()
        done = after["elman_steps_total", labels] - before["elman_steps_total", labels]
        assert done < 1_000_000
        timeout *= 2  # on a busy machine the time may have passed before the first steps were done
    assert after["elman_failed_sequences_total", labels] - before["elman_failed_sequences_total", labels] == 1


def test_a_deadline_in_json_is_kept_too(server: RunningServer) -> None:
    body = {"sequences": [[[0.0] * 12]] * 20, "timeout": 1e-9}
    response = server.client.post("/v1/models/vowels-lstm/predict", json=body)
    assert (response.status_code, response.json()["code"]) == (504, "deadline")
    assert response.json()["where"] == "sequences[0]"


def test_a_deadline_far_away_changes_nothing(server: RunningServer) -> None:
    (sequence,) = sequences(30)
    with_deadline = server.predict("vowels-lstm", sequence=sequence.tolist(), timeout=60)
    assert with_deadline.content == server.predict("vowels-lstm", sequence=sequence.tolist()).content


@pytest.mark.slow
def test_a_short_sequence_is_answered_while_a_long_one_runs(server: RunningServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    labels = ("vowels-lstm", "1")
    url = "/v1/models/vowels-lstm/predict"
    content = np.zeros((400_000, 12), "<f4").tobytes()
    before = server.stats()["elman_steps_total", labels]
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(server.client.post, url, content=content, headers=BINARY)
        server.wait_for("elman_pending_sequences", 1.0)
        while server.stats()["elman_steps_total", labels] == before:
            time.sleep(0.005)
        short = server.predict("vowels-lstm", sequence=[[0.5] * 12] * 10)
        assert short.status_code == 200
        assert not long.done(), "the short sequence waited for the long one"
        assert long.result().status_code == 200
