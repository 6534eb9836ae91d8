"""Generation, forecasts and influence through the client are those of the routes, as arrays and tokens."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from elman.client import (
    AsyncClient,
    Client,
    Disconnected,
    Generation,
    RequestError,
    Token,
    Tokens,
    Unable,
)
from elman.repository.spec import DecoderSpec, ForecastSpec, InputSpec, ModelSpec
from tests.client.proxy import Fault, fault_proxy
from tests.looping import RESIDUALS, forecaster, generator, put_forecaster, put_generator
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("looping")
    put_generator(root, "writer", generator("lstm"))
    put_generator(root, "endless", generator("gru"), endless=True)
    put_forecaster(root, "seer", forecaster("lstm", 1, 1), ForecastSpec(residuals=RESIDUALS, minimum=0.0))
    pairs = ((0.5, -0.5), (-0.5, 0.5))
    spec = ForecastSpec(target=(2, 0), known=(3, 1), known_for="same", residuals=pairs)
    put_forecaster(root, "seers", forecaster("gru", 4, 2), spec)
    scaled = ModelSpec(task="forecasting", input=InputSpec(scale="series"), decoder=DecoderSpec(kind="values"))
    forecaster("gru", 1, 1).put(root, "scaled", scaled)
    (root / "vowels-gru").symlink_to(STORE / "vowels-gru")
    with running_server(root) as one:
        yield one


@pytest.fixture
def elman(looping: RunningServer) -> Iterator[Client]:
    with Client(looping.url) as client:
        yield client


def posted(server: RunningServer, model: str, verb: str, **body: object) -> dict[str, Any]:
    answer = server.client.post(f"/v1/models/{model}/{verb}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0, "max_steps": 5},
    {"top_k": 5, "top_p": 0.9, "samples": 3},
    {"condition": "loud", "stop": ["e", "a "]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_generate_gives_what_the_route_gives(looping: RunningServer, elman: Client, options: dict[str, Any]) -> None:
    raw = posted(looping, "writer", "generate", prompt="el", seed=3, **options)
    whole = elman.model("writer").generate("el", seed=3, **options)
    assert whole == Generation.from_json(raw) and whole.seed == 3
    assert whole.text == whole.texts[0] == raw["results"][0]["text"]
    assert [one.reason for one in whole.results] == [one["reason"] for one in raw["results"]]
    with elman.model("writer").generate("el", seed=3, stream=True, **options) as tokens:
        come = list(tokens)
        assert tokens.generation == whole
    for sample, text in enumerate(whole.texts):
        assert "".join(str(token) for token in come if token.sample == sample) == text


def test_a_series_far_from_zero_keeps_its_digits(looping: RunningServer, elman: Client) -> None:
    series = 1e8 + np.sin(np.arange(20.0))
    raw = posted(looping, "scaled", "forecast", series=series.tolist(), horizon=3)
    assert elman.model("scaled").forecast(series, 3).point.tolist() == raw["point"]
    assert elman.model("scaled").forecast([series], 3)[0].point.tolist() == raw["point"]


def test_a_stop_may_be_one_text_and_a_prompt_token_ids(elman: Client) -> None:
    model = elman.model("writer")
    assert model.generate("el", seed=3, stop="e") == model.generate("el", seed=3, stop=["e"])
    ids = model.generate(np.array([7, 14]), seed=3)
    assert ids.results[0].steps > 0
    assert model.generate(seed=1).results


def test_generate_continues_a_session_and_a_state(elman: Client) -> None:
    model = elman.model("writer")
    with model.session() as session:
        session.step(np.array([0]))  # the start
        session.step("elm")
        by_session = model.generate("", session=session, seed=5, return_state=True)
        assert model.generate("", session=session.id, seed=5) is not None
        by_state = model.generate("", state=session.state(), seed=5)
        assert session.refresh().step == 4, "writing on moves no session"
    assert by_session.texts == by_state.texts == model.generate("elm", seed=5).texts
    assert by_session.results[0].state


def test_tokens_come_one_by_one_and_close_stops_the_server(looping: RunningServer, elman: Client) -> None:
    tokens = elman.model("endless").generate("a", stream=True, max_steps=100_000, seed=1)
    assert isinstance(tokens, Tokens)
    first = [next(tokens) for _ in range(20)]
    assert all(isinstance(token, Token) for token in first) and tokens.generation is None
    tokens.close()
    assert list(tokens) == []
    looping.wait_for("elman_pending_sequences", 0.0)


def test_a_refused_generation_raises_from_its_tokens(elman: Client) -> None:
    with pytest.raises(RequestError) as raised:
        list(elman.model("writer").generate("el", stream=True, temperature=-1.0))
    assert raised.value.where == "temperature"
    with pytest.raises(Unable) as unable:
        list(elman.model("vowels-gru").generate("el", stream=True))
    assert unable.value.code == "cannot_generate"
    with pytest.raises(Unable) as unforeseen:
        elman.model("writer").forecast([1.0])
    assert unforeseen.value.code == "cannot_forecast"


def test_a_stream_of_tokens_ends_at_its_timeout(elman: Client) -> None:
    with pytest.raises(TimeoutError):
        list(elman.model("endless").generate("a", stream=True, max_steps=1_000_000, timeout=0.3))


def test_a_stream_of_tokens_is_never_started_twice(looping: RunningServer) -> None:
    with fault_proxy(looping.port, lambda _: Fault.CUT_BEFORE) as proxy, Client(proxy.url) as far:
        with pytest.raises(Disconnected):
            list(far.model("writer").generate("el", stream=True))
        assert len(proxy.done) == 1


def test_forecast_gives_what_the_route_gives(looping: RunningServer, elman: Client) -> None:
    series = 10 + np.random.default_rng(0).standard_normal(40)
    asked = {"horizon": 12, "samples": 30, "quantiles": [0.05, 0.5, 0.95], "seed": 4}
    raw = posted(looping, "seer", "forecast", series=series.astype(np.float32).tolist(), paths=True, **asked)
    found = elman.model("seer").forecast(series, paths=True, **asked)  # type: ignore[arg-type]
    assert (found.horizon, found.seed, found.point.shape) == (12, 4, (12,))
    assert found.mean is not None and found.paths is not None and found.paths.shape == (30, 12)
    assert found.point.tolist() == raw["point"] and found.mean.tolist() == raw["mean"]
    assert {f"{share:g}": rows.tolist() for share, rows in found.quantiles.items()} == raw["quantiles"]
    assert list(found.quantiles) == [0.05, 0.5, 0.95]
    plain = elman.model("seer").forecast(series)
    assert plain.horizon == 24 and plain.mean is None and plain.paths is None and plain.quantiles == {}


def test_a_list_of_series_is_forecast_in_one_request(looping: RunningServer, elman: Client) -> None:
    data = [np.random.default_rng(length).uniform(5, 15, (length, 4)) for length in (12, 30)]
    ahead = [np.full((3, 2), 4.0), np.full((3, 2), 9.0)]
    asked: dict[str, Any] = {"horizon": 4, "samples": 3, "seed": 1}
    found = elman.model("seers").forecast(data, future=ahead, **asked)
    bodies = [[one.astype(np.float32).tolist() for one in part] for part in (data, ahead)]
    raw = posted(looping, "seers", "forecast", series_list=bodies[0], future=bodies[1], **asked)
    for one, right in zip(found, raw["results"], strict=True):
        assert (one.model, one.horizon, one.seed) == ("seers", 4, 1)
        assert one.point.tolist() == right["point"] and one.quantiles[0.9].tolist() == right["quantiles"]["0.9"]
    with pytest.raises(ValueError, match="1 futures for 2 series"):
        elman.model("seers").forecast(data, 4, future=ahead[:1])
    with pytest.raises(RequestError) as caught:
        elman.model("seers").forecast([data[0], data[1][:, :3]], 4, future=ahead)
    assert caught.value.where == "series_list[1][0]"
    assert elman.model("seer").forecast([np.arange(9.0)], 2)[0].point.shape == (2,)


def test_forecast_uses_features_that_are_known_ahead(looping: RunningServer, elman: Client) -> None:
    chance = np.random.default_rng(1)
    series, future = chance.standard_normal((30, 4)), chance.standard_normal((8, 2))
    found = elman.model("seers").forecast(series, 8, future=future, samples=10, seed=2)
    assert found.point.shape == (8, 2) and found.quantiles[0.9].shape == (8, 2)
    with elman.model("seers").session() as session:
        session.step(series[:20].astype(np.float32))
        again = elman.model("seers").forecast(series[20:], 8, future=future, session=session, samples=10, seed=2)
    assert again.point.tolist() == found.point.tolist()


def test_influence_gives_what_the_route_gives(looping: RunningServer, elman: Client) -> None:
    x = np.random.default_rng(2).standard_normal((15, 12)).astype(np.float32)
    raw = posted(looping, "vowels-gru", "influence", sequence=x.tolist(), target="speaker 4")
    found = elman.model("vowels-gru").influence(x, target="speaker 4")
    assert found.influence.tolist() == raw["influence"] and found.influence.shape == (15,)
    assert (found.span, found.length, found.target) == (raw["span"], 15, 3)
    assert found.output.tolist() == np.array(raw["output"], np.float32).tolist()
    assert found.decoded["label"].startswith("speaker")


def test_the_influence_in_each_sequence_of_a_list_is_that_in_it_alone(elman: Client) -> None:
    model = elman.model("vowels-gru")
    data = [np.random.default_rng(length).standard_normal((length, 12)).astype(np.float32) for length in (4, 15, 9)]
    state = model.predict(data[0], return_state=True).state
    done: list[tuple[int, int]] = []
    for states in (None, state, [state, None, state]):
        given = states if isinstance(states, list) else [states] * 3
        alone = [model.influence(x, target=2, state=one) for x, one in zip(data, given, strict=True)]
        found = model.influence(data, target=2, state=states, progress=lambda *counts: done.append(counts))
        assert [one.influence.tolist() for one in found] == [one.influence.tolist() for one in alone]
        assert [one.output.tolist() for one in found] == [one.output.tolist() for one in alone]
    assert sorted(done) == sorted([(1, 3), (2, 3), (3, 3)] * 3)
    assert model.influence([]) == []
    with pytest.raises(RequestError) as wrong:
        model.influence([data[0], data[1][:, :3]])
    assert wrong.value.where == "sequences[1][0]"
    with pytest.raises(RequestError) as infinite:
        model.influence([data[0], np.full((2, 12), np.inf)])
    assert infinite.value.where == "sequences[1][0][0]"
    with pytest.raises(ValueError, match="1 states for 3 sequences"):
        model.influence(data, state=[state])
    with pytest.raises(ValueError, match="2 objects of static inputs for 3 sequences"):
        model.influence(data, static=[{}, {}])


def test_the_asynchronous_client_generates_and_forecasts_the_same(looping: RunningServer, elman: Client) -> None:
    series, x = np.arange(20.0), np.ones((5, 12), np.float32)
    whole = elman.model("writer").generate("el", seed=3)
    point = elman.model("seer").forecast(series).point
    influence = elman.model("vowels-gru").influence(x).influence

    async def main() -> None:
        async with AsyncClient(looping.url) as other:
            model = other.model("writer")
            assert await model.generate("el", seed=3) == whole
            tokens = model.generate("el", seed=3, stream=True)
            assert "".join([token.text async for token in tokens]) == whole.text
            assert tokens.generation == whole
            async with other.model("endless").generate("a", stream=True, max_steps=100_000) as endless:
                assert isinstance(await anext(endless), Token)
            with pytest.raises(TimeoutError):
                async for _ in other.model("endless").generate("a", stream=True, max_steps=1_000_000, timeout=0.3):
                    pass
            assert (await other.model("seer").forecast(series)).point.tolist() == point.tolist()
            assert (await other.model("vowels-gru").influence(x)).influence.tolist() == influence.tolist()
            found = await other.model("vowels-gru").influence([x[:3], x])
            assert [one.length for one in found] == [3, 5] and found[1].influence.tolist() == influence.tolist()
            forecasts = await other.model("seer").forecast(part for part in (series[:9], series))
            assert forecasts[1].point.tolist() == point.tolist()
            with pytest.raises(Unable):
                await other.model("vowels-gru").generate("a")

    asyncio.run(main())
    looping.wait_for("elman_pending_sequences", 0.0)
