"""A user's script with every public method: `python script.py URL`. It runs, and passes mypy --strict."""

import asyncio
import sys

import numpy as np

from elman import AsyncClient, Client
from elman.client import (
    AsyncModel,
    AsyncSession,
    Batching,
    Card,
    ElmanError,
    Example,
    Forecast,
    Generated,
    Generation,
    IndexEntry,
    Influence,
    Model,
    Ranked,
    Refusal,
    RequestError,
    Result,
    Retries,
    Session,
    SessionInfo,
    StepResult,
    Timeout,
    Token,
    UnknownModel,
)

VOWELS = np.zeros((7, 12), np.float32)
YEARS = np.arange(20.0)


def predict(client: Client) -> str | None:
    model: Model = client.model("vowels-gru", 1)
    card: Card = model.card()
    examples: list[Example] = model.examples()
    one: Result = model.predict(VOWELS, returns="steps", decode=True, top=2, return_state=True, hidden=True, timeout=30)
    many: list[Result] = model.predict([VOWELS[:3], VOWELS], state=one.state, progress=lambda done, total: None)
    names: list[Result] = client.model("names-gru").predict(["Lindqvist", "Rossi"])
    influence: Influence = model.influence(VOWELS, target=card.labels[0] if card.labels else None)
    several: list[Influence] = model.influence([VOWELS, VOWELS[:3]], progress=lambda done, total: None)
    best: list[Ranked] = names[0].top
    assert Card.from_json(card.raw) == card and model.name == card.name and examples[0].title
    assert one.outputs is not None and one.outputs.shape == (7, 9) and len(influence.influence) == 7
    assert many[0].output is not None and many[0].output.dtype == np.float32 and len(several) == 2
    assert one.values is None and len(one.labels) == 7 and names[0].probability == best[0].probability
    assert names[0].probabilities[best[0].label] == best[0].probability
    return names[0].label


def step(client: Client) -> SessionInfo:
    model = client.model("vowels-gru")
    with model.session(ttl=60.0) as session, session.fork() as fork:
        first: StepResult = session.step(VOWELS[:2], returns="steps", timeout=Timeout(total=5.0))
        token: str = session.state()
        fork.step(VOWELS)
        restored: SessionInfo = session.restore(token)
        with model.stream(session, returns="final") as stream:
            last: StepResult = stream.send(VOWELS[2:])
            assert stream.step_count == 7 and stream.session.id == session.id
            stream.close()
        assert (first.step, restored.step, last.step, fork.step_count) == (2, 2, 7, 7)
        again: Session = client.session(session.id)
        refreshed = again.refresh()
        assert (again.model, again.version, again.info) == ("vowels-gru", 1, refreshed)
    session.delete()
    return refreshed


def generate(client: Client) -> None:
    model = client.model("names-lstm-generator")
    whole: Generation = model.generate("Mc", max_steps=5, temperature=0.8, top_k=5, top_p=0.9, seed=7, stop=["x"])
    sample: Generated = whole.results[0]
    with model.generate("Mc", max_steps=5, seed=7, stream=True) as stream:
        tokens: list[Token] = list(stream)
        stream.close()
    written: Generation | None = stream.generation
    forecast: Forecast = client.model("sunspots-rnn").forecast(YEARS, 3, samples=4, quantiles=[0.5], seed=1)
    forecasts: list[Forecast] = client.model("sunspots-rnn").forecast([YEARS, YEARS[3:]], 3)
    assert whole.texts == [whole.text] and sample.reason and tokens and written is not None and len(forecasts) == 2
    assert forecast.point.shape == forecast.quantiles[0.5].shape == (3,)
    try:
        assert len(forecast.to_frame()) == 3
    except ModuleNotFoundError as error:
        assert "pandas" in str(error)


def administer(client: Client) -> None:
    assert client.live() and client.ready() and client.metrics() and client.engine() and client.openapi()
    cards: list[Card] = client.models()
    refused: list[Refusal] = client.refused()
    index: list[IndexEntry] = client.index(ready=True)
    client.unload("names-gru")
    client.load("names-gru", timeout=30.0)
    listed: list[SessionInfo] = client.sessions("vowels-gru", limit=5)
    assert len(cards) == len(index) and not refused and client.url.startswith("http")
    try:
        client.model("nobody").card()
    except UnknownModel as error:
        assert isinstance(error, ElmanError) and error.status == 404 and listed is not None
    try:
        client.model("vowels-gru").predict(np.zeros((4, 3)))
    except RequestError as error:
        assert error.where is not None


async def awaited(url: str) -> str | None:
    async with AsyncClient(url, timeout=30.0) as client:
        model: AsyncModel = client.model("vowels-gru")
        writer = client.model("names-lstm-generator")
        pending = asyncio.create_task(writer.generate("Mc", max_steps=3, seed=7))
        card: Card = await model.card()
        examples: list[Example] = await model.examples()
        one: Result = await model.predict(VOWELS)
        many: list[Result] = await model.predict([VOWELS, VOWELS[:2]])
        influence: Influence = await model.influence(VOWELS)
        several: list[Influence] = await model.influence([VOWELS, VOWELS[:2]])
        forecast: Forecast = await client.model("sunspots-rnn").forecast(YEARS, 3)
        forecasts: list[Forecast] = await client.model("sunspots-rnn").forecast([YEARS, YEARS[3:]], 3)
        async with writer.generate("Mc", max_steps=3, seed=7, stream=True) as stream:
            tokens: list[Token] = [token async for token in stream]
            await stream.close()
        whole: Generation = await pending
        assert whole.text is not None and "".join(str(token) for token in tokens) == whole.text
        assert stream.generation == whole and card.name == model.name and examples
        assert len(many) == len(several) == len(forecasts) == 2
        assert influence.length == 7 and forecast.horizon == 3
        return one.label if one.label == await stepped(client) else None


async def stepped(client: AsyncClient) -> str | None:
    model = client.model("vowels-gru")
    async with model.session(ttl=60.0) as session, session.fork() as fork:
        result: StepResult = await session.step(VOWELS)
        token: str = await session.state()
        await fork.step(VOWELS)
        restored: SessionInfo = await fork.restore(token)
        again: AsyncSession = await client.session(session.id)
        assert (await again.refresh()).step == restored.step == fork.step_count == 7
        assert (again.model, again.version, again.info.id) == ("vowels-gru", 1, session.id)
    kept = await model.session(keep=True)
    await kept.delete()
    async with model.stream(top=1) as stream:
        last: StepResult = await stream.send(VOWELS)
        assert stream.step_count == last.step == 7 and stream.session.model == model.name
        await stream.close()
    return result.label


async def administered(url: str) -> None:
    client = AsyncClient(url, timeout=30.0)
    assert await client.live() and await client.ready() and await client.metrics()
    assert await client.engine() and await client.openapi()
    cards: list[Card] = await client.models()
    refused: list[Refusal] = await client.refused()
    index: list[IndexEntry] = await client.index(ready=True)
    await client.unload("names-gru")
    await client.load("names-gru", timeout=30.0)
    listed: list[SessionInfo] = await client.sessions("vowels-gru", limit=5)
    assert len(cards) == len(index) and not refused and client.url.startswith("http") and listed is not None
    await client.close()


def main(url: str) -> None:
    client = Client(url, timeout=30.0, retries=Retries(attempts=2), batching=Batching(sequences=10))
    label = predict(client)
    assert step(client).step == 7
    generate(client)
    administer(client)
    client.close()
    assert asyncio.run(awaited(url)) is not None
    asyncio.run(administered(url))
    print(label)


if __name__ == "__main__":
    main(sys.argv[1])
