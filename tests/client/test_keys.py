"""A server that asks for API keys: each key sees its own sessions only."""

import asyncio
from pathlib import Path

import pytest

from elman.client import AsyncClient, Client, NotAllowed, UnknownSession
from tests.running import running_server


@pytest.mark.slow
def test_a_key_opens_the_server_and_holds_its_own_sessions(small_store: Path) -> None:
    with running_server(small_store, api_keys="first-key-of-this-test,second-key-of-this-test") as server:
        with Client(server.url) as nobody:
            assert nobody.live()
            with pytest.raises(NotAllowed) as raised:
                nobody.models()
            assert (raised.value.code, raised.value.status) == ("unauthorized", 401)
            with pytest.raises(NotAllowed) as closed, nobody.model("names-gru").stream():
                pass
            assert closed.value.code == "unauthorized"
        with (
            Client(server.url, api_key="first-key-of-this-test") as first,
            Client(server.url, api_key="second-key-of-this-test") as second,
            first.model("names-gru").session() as session,
            first.model("names-gru").stream() as stream,
        ):
            assert session.step("Lindqvist").label == stream.send("Lindqvist").label == "Swedish"
            with pytest.raises(UnknownSession):
                second.session(session.id)
            assert len(first.sessions()) == 2 and second.sessions() == []

        async def main() -> str | None:
            async with (
                AsyncClient(server.url, api_key="first-key-of-this-test") as elman,
                elman.model("names-gru").stream() as stream,
            ):
                return (await stream.send("Lindqvist")).label

        assert asyncio.run(main()) == "Swedish"
