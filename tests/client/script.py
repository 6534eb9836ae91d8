"""A user's script with the main methods of both clients: `python script.py URL`. It runs, and passes mypy --strict."""

import asyncio
import sys

import numpy as np

from elman import AsyncClient, Client
from elman.client import (
    Batching,
    Card,
    ElmanError,
    Forecast,
    Generation,
    Influence,
    RequestError,
    Result,
    Retries,
    SessionInfo,
    StepResult,
    Timeout,
    Token,
    UnknownModel,
)

VOWELS = np.zeros((7, 12), np.float32)


def predict(client: Client) -> str | None:
    model = client.model("vowels-gru", 1)
    card: Card = model.card()
    one: Result = model.predict(VOWELS, returns="steps", decode=True, top=2, return_state=True, hidden=True, timeout=30)
    many: list[Result] = model.predict([VOWELS[:3], VOWELS], state=one.state, progress=lambda done, total: None)
    names: list[Result] = client.model("names-gru").predict(["Lindqvist", "Rossi"])
    influence: Influence = model.influence(VOWELS, target=card.labels[0] if card.labels else None)
    assert one.outputs is not None and one.outputs.shape == (7, 9) and len(influence.influence) == 7
    assert many[0].output is not None and many[0].output.dtype == np.float32
    return names[0].label


def step(client: Client) -> SessionInfo:
    model = client.model("vowels-gru")
    with model.session(ttl=60.0) as session, session.fork() as fork:
        first: StepResult = session.step(VOWELS[:2], returns="steps", timeout=Timeout(total=5.0))
        token: str = session.state()
        fork.step(VOWELS)
        session.restore(token)
        with model.stream(session, returns="final") as stream:
            last: StepResult = stream.send(VOWELS[2:])
        assert (first.step, last.step, fork.step_count) == (2, 7, 7)
        again = client.session(session.id)
        return again.refresh()


def generate(client: Client) -> None:
    model = client.model("names-lstm-generator")
    whole: Generation = model.generate("Mc", max_steps=5, temperature=0.8, top_k=5, top_p=0.9, seed=7, stop=["x"])
    tokens: list[Token] = list(model.generate("Mc", max_steps=5, seed=7, stream=True))
    forecast: Forecast = client.model("sunspots-rnn").forecast(np.arange(20.0), 3, samples=4, quantiles=[0.5], seed=1)
    assert whole.texts and tokens and forecast.point.shape == forecast.quantiles[0.5].shape == (3,)


def administer(client: Client) -> None:
    assert client.live() and client.ready() and client.metrics() and client.engine() and client.openapi()
    assert client.models() and not client.refused() and client.index(ready=True)
    client.load("names-gru", timeout=30.0)
    listed: list[SessionInfo] = client.sessions("vowels-gru", limit=5)
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
        model = client.model("vowels-gru")
        pending = asyncio.create_task(client.model("names-lstm-generator").generate("Mc", max_steps=3, seed=7))
        one: Result = await model.predict(VOWELS)
        many: list[Result] = await model.predict([VOWELS, VOWELS[:2]])
        async with model.session(ttl=60.0) as session, session.fork() as fork:
            stepped: StepResult = await session.step(VOWELS)
            await fork.step(VOWELS)
        kept = await model.session(keep=True)
        await kept.delete()
        async with model.stream(top=1) as stream:
            await stream.send(VOWELS)
        writer = client.model("names-lstm-generator")
        tokens: list[Token] = [token async for token in writer.generate("Mc", max_steps=3, seed=7, stream=True)]
        whole: Generation = await pending
        assert whole.text is not None and "".join(str(token) for token in tokens) == whole.text
        assert len(many) == 2 and await client.ready()
        assert stepped.label == one.label
        return one.label


def main(url: str) -> None:
    with Client(url, timeout=30.0, retries=Retries(attempts=2), batching=Batching(sequences=10)) as client:
        label = predict(client)
        assert step(client).step == 7
        generate(client)
        administer(client)
    assert asyncio.run(awaited(url)) is not None
    print(label)


if __name__ == "__main__":
    main(sys.argv[1])
