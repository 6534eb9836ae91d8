"""What is served changes whole or not at all, and an application may be started more than once."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport

from elman.api.server import Server
from elman.app import create_app
from elman.repository.model import Model
from elman.settings import Settings
from tests.running import STORE

pytestmark = pytest.mark.slow

NAME = "vowels-gru"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(STORE / NAME, tmp_path / "models" / NAME)
    return tmp_path / "models"


def touch(root: Path) -> None:
    """Change the folder of the model, so that it is loaded again."""
    with (root / NAME / "1" / "note.txt").open("a") as file:
        file.write("new\n")


async def predict(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(f"/v1/models/{NAME}/predict", json={"sequence": [[0.5] * 12] * 3})


def served(root: Path, test: Any) -> None:
    async def run() -> None:
        app = create_app(Settings(models=root, store="memory", poll=0))
        async with app.router.lifespan_context(app), client_of(app) as client:
            await test(app.state.server, client)

    asyncio.run(run())


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=ASGITransport(app), base_url="http://test")


def test_a_reload_that_cannot_be_opened_is_an_error_and_the_version_before_it_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(server: Server, client: httpx.AsyncClient) -> None:
        before = (await predict(client)).json()
        opened = server._serve

        def fail(model: Model) -> Any:
            raise MemoryError

        monkeypatch.setattr(server, "_serve", fail)
        touch(root)
        answer = await client.post(f"/v2/repository/models/{NAME}/load")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_model")
        assert "cannot be opened" in answer.json()["detail"]
        assert (await predict(client)).json() == before
        (refused,) = (await client.get("/v1/models")).json()["refused"]
        assert (refused["name"], refused["version"]) == (NAME, 1)
        # The next load opens it.
        monkeypatch.setattr(server, "_serve", opened)
        touch(root)
        assert (await client.post(f"/v2/repository/models/{NAME}/load")).status_code == 200
        assert (await predict(client)).json() == before
        assert (await client.get("/v1/models")).json()["refused"] == []

    served(root, test)


def test_a_session_of_a_replaced_model_is_found_while_others_are_replaced(root: Path) -> None:
    async def test(server: Server, client: httpx.AsyncClient) -> None:
        made = await client.post(f"/v1/models/{NAME}/sessions")
        id = made.json()["id"]
        record = server.sessions._cached[id]
        errors: list[Exception] = []
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                try:
                    server.served_to(record)
                except Exception as error:
                    errors.append(error)
                    return

        thread = threading.Thread(target=look)
        thread.start()
        for number in range(3):
            (root / NAME / "1" / "model.json").write_text('{"task": "raw"}' + " " * number)
            await server.load(NAME)
            assert (await client.post(f"/v1/sessions/{id}/steps", json={"sequence": [[0.5] * 12]})).status_code == 200
        ended.set()
        thread.join(60)
        assert not errors

    served(root, test)


def test_an_application_serves_again_after_it_was_stopped(root: Path) -> None:
    app = create_app(Settings(models=root, store="memory", poll=0))

    async def once() -> Any:
        async with app.router.lifespan_context(app), client_of(app) as client:
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            made = await client.post(f"/v1/models/{NAME}/sessions")
            steps = await client.post(f"/v1/sessions/{made.json()['id']}/steps", json={"sequence": [[0.5] * 12] * 2})
            assert steps.status_code == 200, steps.text
            large = {"sequences": [[[0.123456789] * 12] * 2000] * 4}  # decoded in another process
            assert (await client.post(f"/v1/models/{NAME}/predict", json=large)).status_code == 200
            touch(root)
            assert (await client.post(f"/v2/repository/models/{NAME}/load")).status_code == 200
            return (await predict(client)).json()

    assert asyncio.run(once()) == asyncio.run(once())
    assert app.state.server.engine.alive is False
