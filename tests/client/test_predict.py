"""Predictions through the client have the server's own bits, sent as JSON or as bytes."""

import asyncio
import json

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from elman.client import AsyncClient, Batching, Client, RequestError, Result
from elman.client.calls.model import cut
from tests.running import RunningServer

Sequences = list[NDArray[np.float32]]


def same(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> bool:
    assert one is not None and other is not None
    return one.dtype == other.dtype == np.float32 and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_a_result_is_what_the_server_said(server: RunningServer, elman: Client, vowels: Sequences) -> None:
    raw = server.predict("vowels-gru", sequence=vowels[0].tolist()).json()["results"][0]
    result = elman.model("vowels-gru").predict(vowels[0])
    assert result.length == raw["length"] == len(vowels[0])
    assert same(result.output, np.array(raw["output"], np.float32)) and result.outputs is None
    assert result.label == raw["decoded"]["label"] == result.top[0].label
    assert result.probability == raw["decoded"]["probability"] == result.top[0].probability
    assert len(result.top) == 3 and result.values is None


def test_every_step(elman: Client, vowels: Sequences) -> None:
    model = elman.model("vowels-gru")
    result = model.predict(vowels[0], returns="steps", top=1)
    assert result.outputs is not None and result.output is None
    assert result.outputs.shape == (len(vowels[0]), 9) and len(result.labels) == len(vowels[0])
    final = model.predict(vowels[0])
    assert same(result.outputs[-1], final.output) and result.label == result.labels[-1] == final.label


def test_text_and_tokens(elman: Client) -> None:
    model = elman.model("names-gru")
    text = model.predict("Lindqvist")
    assert text.label == "Swedish" and text.length == 9
    ids = model.predict(np.array([3, 1, 2]))
    assert ids.length == 3


def test_unknown_characters_are_told_of(elman: Client) -> None:
    model = elman.model("names-gru")
    assert model.predict("Lind").unknown == {}
    first, second = model.predict(["Lin漢d漢字", "Rossi"])
    assert (first.unknown, second.unknown) == ({"漢": 2, "字": 1}, {})
    generation = elman.model("names-lstm-generator").generate("M漢", max_steps=2)
    assert generation.unknown == {"漢": 1}
    with model.session() as session:
        assert session.step("漢").unknown == {"漢": 1}


def test_beams_and_logprobs(elman: Client) -> None:
    model = elman.model("names-lstm-generator")
    searched = model.generate("Mc", num_beams=4, num_return_sequences=3, logprobs=2)
    assert searched.seed is None and len(searched.results) == 3
    scores = [one.score for one in searched.results if one.score is not None]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    (drawn,) = model.generate("Mc", seed=1, max_steps=5, logprobs=2).results
    assert drawn.score is None and drawn.logprobs is not None and drawn.cumulative_logprob is not None
    assert len(drawn.logprobs) == drawn.steps and drawn.logprobs[0].top[0].text is not None
    tokens = [
        one for one in model.generate("Mc", seed=1, max_steps=5, logprobs=2, stream=True) if one.token is not None
    ]
    assert [(one.logprob, one.top) for one in tokens] == [(one.logprob, one.top) for one in drawn.logprobs]


class Recorder(httpx.HTTPTransport):
    """A transport that records the media types of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.kinds.append((request.headers["content-type"], request.headers["accept"]))
        return super().handle_request(request)


def test_arrays_are_sent_as_bytes_once_their_shape_was_accepted(server: RunningServer, vowels: Sequences) -> None:
    octets, text = "application/octet-stream", "application/json"
    recorder = Recorder()
    with Client(server.url, transport=recorder) as elman:
        first = elman.model("vowels-gru").predict(vowels[1])
        second = elman.model("vowels-gru").predict(vowels[1])
        third = elman.model("vowels-gru").predict(vowels[1], decode=False)
        steps = elman.model("vowels-gru").predict(vowels[1], decode=False, returns="steps")
    assert recorder.kinds == [(text, text), (octets, text), (octets, octets), (octets, octets)]
    assert same(first.output, second.output) and same(first.output, third.output)
    assert first.label == second.label and third.label is None
    assert steps.outputs is not None and same(first.output, steps.outputs[-1])
    assert first.length == second.length == third.length == steps.length


def test_a_long_sequence_of_a_list_is_sent_as_bytes(server: RunningServer, vowels: Sequences) -> None:
    recorder = Recorder()
    with Client(server.url, transport=recorder, batching=Batching(numbers=1_000, concurrency=1)) as elman:
        model, long = elman.model("vowels-gru"), np.concatenate(vowels[:5])
        found = model.predict([*vowels[:3], long, vowels[0]])
        broken = long.copy()
        broken[7, 2] = np.inf
        with pytest.raises(RequestError) as raised:
            model.predict([*vowels[:3], broken])
        expected = model.predict(long)
    kinds = [kind.removeprefix("application/") for kind, _ in recorder.kinds[:3]]
    assert kinds == ["json", "octet-stream", "octet-stream"]
    assert same(found[3].output, expected.output) and found[3].label == expected.label
    assert raised.value.where == "sequences[3][7][2]"


def test_a_wrong_shape_is_never_read_as_a_right_one(elman: Client, vowels: Sequences) -> None:
    model = elman.model("vowels-gru")
    for x in (np.zeros((4, 3), np.float32), np.zeros(24, np.float32)):  # as bytes: one step of twelve, and two
        for _ in range(2):
            with pytest.raises(RequestError):
                model.predict(x)
        model.predict(vowels[0])


def test_dtype_and_memory_layout_do_not_change_the_result(elman: Client, vowels: Sequences) -> None:
    model, x = elman.model("vowels-gru"), vowels[2]
    expected = model.predict(x).output
    for same_numbers in (x.astype(np.float64), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x.astype(">f4")):
        assert same(model.predict(same_numbers).output, expected)
    ones = np.ones((2, 12))
    assert same(model.predict(ones.astype(np.int64)).output, model.predict(ones).output)


def test_a_list_comes_back_in_order_however_it_is_cut(server: RunningServer, vowels: Sequences) -> None:
    with Client(server.url) as elman:
        whole = elman.model("vowels-gru").predict(vowels)
    counts: list[tuple[int, int]] = []
    with Client(server.url, batching=Batching(sequences=37, numbers=5_000, concurrency=3)) as elman:
        cut = elman.model("vowels-gru").predict(vowels, progress=lambda done, total: counts.append((done, total)))
    assert len(whole) == len(cut) == len(vowels)
    assert all(same(a.output, b.output) for a, b in zip(whole, cut, strict=True))
    assert counts[-1] == (370, 370) and len(counts) > 5
    assert [one.length for one in cut] == [len(x) for x in vowels]


def test_a_list_may_be_empty_or_of_text(elman: Client) -> None:
    model = elman.model("names-gru")
    assert model.predict([]) == []
    assert [one.label for one in model.predict(["Lindqvist", "Rossi"])] == ["Swedish", "Italian"]
    assert [one.label for one in model.predict(("Lindqvist",), progress=True)] == ["Swedish"]


def test_a_list_is_cut_by_sequences_and_by_numbers() -> None:
    sequences = [np.zeros((n, 2)) for n in (1, 2, 3, 60, 1, 1)]
    assert cut(sequences, Batching(sequences=2, numbers=10)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert cut([], Batching()) == []


@pytest.mark.parametrize(
    "x", [object(), np.zeros((2, 3, 4)), np.array([b"a"]), 7, np.zeros((), np.float32)], ids=lambda x: type(x).__name__
)
def test_a_wrong_type_is_refused_before_it_is_sent(elman: Client, x: object) -> None:
    with pytest.raises(TypeError):
        elman.model("vowels-gru").predict(x)  # type: ignore[call-overload]


def test_the_timeout_is_sent_to_the_server(elman: Client, vowels: Sequences) -> None:
    assert elman.model("vowels-gru").predict(vowels[0], timeout=5.0).label is not None
    with pytest.raises(TimeoutError):
        elman.model("vowels-gru").predict(np.zeros((400_000, 12), np.float32), timeout=0.3)


def test_the_rest_of_the_server(elman: Client) -> None:
    assert elman.live() and elman.ready()
    cards = {card.name: card for card in elman.models()}
    assert cards["vowels-gru"] == elman.model("vowels-gru").card() == elman.model("vowels-gru", 1).card()
    assert cards["vowels-gru"].labels == [f"speaker {i}" for i in range(1, 10)]
    assert elman.refused() == []
    assert ("vowels-gru", "1", "READY") in [(one.name, one.version, one.state) for one in elman.index(ready=True)]
    assert "elman_models" in elman.metrics()
    assert "/v1/models" in elman.openapi()["paths"]
    assert json.dumps(cards["vowels-gru"].raw)


def test_a_model_is_loaded_again_while_it_is_served(elman: Client) -> None:
    elman.load("names-gru")
    assert elman.model("names-gru").predict("Lindqvist").label == "Swedish"


def test_many_threads_share_one_client(elman: Client, vowels: Sequences) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = elman.model("vowels-gru")
    expected = model.predict(vowels[:40])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.predict, vowels[:40]))
    assert all(same(a.output, b.output) for a, b in zip(expected, found, strict=True))


def test_the_asynchronous_client_gives_the_same(server: RunningServer, elman: Client, vowels: Sequences) -> None:
    async def main() -> tuple[Result, list[Result], Result]:
        async with AsyncClient(server.url, batching=Batching(sequences=50, concurrency=3)) as other:
            model = other.model("vowels-gru")
            one = await model.predict(vowels[0])
            many = await model.predict(vowels, progress=True)
            octets = await model.predict(vowels[0], decode=False)
            assert await other.ready() and (await model.card()).name == "vowels-gru"
            with pytest.raises(RequestError):
                await model.predict([*vowels[:60], np.zeros((2, 5), np.float32)])
            return one, many, octets

    one, many, octets = asyncio.run(main())
    expected = elman.model("vowels-gru").predict(vowels)
    assert same(one.output, expected[0].output) and same(octets.output, expected[0].output)
    assert all(same(a.output, b.output) for a, b in zip(many, expected, strict=True))
