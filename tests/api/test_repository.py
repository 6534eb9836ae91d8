"""Models that come, change and go while the server answers."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.running import STORE, RunningServer

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one model, `names`, and one more that stays as it is."""
    shutil.copytree(STORE / "names-gru", tmp_path / "names")
    shutil.copytree(STORE / "vowels-gru", tmp_path / "vowels")
    return tmp_path


@pytest.fixture
def serving(repository: Path, start_server: StartServer) -> RunningServer:
    return start_server(repository, poll=0)


def put(source: str, folder: Path) -> None:
    """Put a shipped model's file in a version's folder, whole at once."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STORE / source / "1" / "model.onnx", folder / ".new")
    (folder / ".new").rename(folder / "model.onnx")


def load(server: RunningServer, name: str = "names", verb: str = "load") -> httpx.Response:
    return server.client.post(f"/v2/repository/models/{name}/{verb}")


def answer(server: RunningServer, name: str = "names", version: str = "") -> httpx.Response:
    return server.client.post(f"/v1/models/{name}{version}/predict", json={"sequence": "Lindqvist"})


@pytest.fixture
def hammered(serving: RunningServer) -> Iterator[Callable[[], int]]:
    """Four clients that ask without a pause; calling it ends them and says how many answers came, all of them good."""
    codes: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=serving.url, timeout=30) as client:
            while not ended.is_set():
                codes.append(client.post("/v1/models/names/predict", json={"sequence": "Lindqvist"}).status_code)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()

    def finish() -> int:
        ended.set()
        for client in clients:
            client.join(60)
        assert set(codes) == {200}
        return len(codes)

    yield finish
    ended.set()


def test_a_new_version_becomes_the_default_and_the_old_one_stays(serving: RunningServer, repository: Path) -> None:
    before = answer(serving).json()["results"][0]["output"]
    put("names-lstm", repository / "names" / "2")
    assert load(serving).status_code == 200
    assert answer(serving).json()["version"] == 2
    assert answer(serving).json()["results"][0]["output"] != before
    assert answer(serving, version="/versions/1").json()["results"][0]["output"] == before
    assert serving.client.get("/v1/models/names").json()["versions"] == [1, 2]


def test_a_reload_that_fails_says_why_and_keeps_what_was_served(serving: RunningServer, repository: Path) -> None:
    before = answer(serving).json()
    (repository / "names" / "1" / "model.onnx").write_bytes(b"not a model")
    refused = load(serving)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_model")
    assert "not an ONNX file" in refused.json()["detail"]
    assert answer(serving).json() == before
    listed = serving.client.get("/v1/models").json()["refused"]
    assert [(one["name"], one["version"]) for one in listed] == [("names", 1)]


@pytest.mark.slow
def test_no_request_fails_while_a_model_is_loaded_again_and_again(
    serving: RunningServer, repository: Path, hammered: Callable[[], int]
) -> None:
    for turn in range(6):
        put(("names-lstm", "names-gru", "names-rnn")[turn % 3], repository / "names" / str(1 + turn % 2))
        assert load(serving).status_code == 200
    assert hammered() > 50


@pytest.mark.slow
def test_an_unloaded_model_is_unknown_until_it_is_loaded(serving: RunningServer) -> None:
    assert load(serving, verb="unload").status_code == 200
    assert answer(serving).json()["code"] == "unknown_model"
    assert answer(serving, "vowels").status_code != 404
    assert load(serving, verb="unload").status_code == 404
    assert load(serving).status_code == 200
    assert answer(serving).status_code == 200


@pytest.mark.slow
def test_the_index_lists_what_is_served_and_what_is_refused(serving: RunningServer, repository: Path) -> None:
    (repository / "broken" / "3").mkdir(parents=True)
    (repository / "broken" / "3" / "model.onnx").write_bytes(b"nothing")
    assert load(serving, "broken").status_code == 422
    assert load(serving, "absent").status_code == 404
    entries = serving.client.post("/v2/repository/index").json()
    assert {(one["name"], one["version"], one["state"]) for one in entries} == {
        ("names", "1", "READY"),
        ("vowels", "1", "READY"),
        ("broken", "3", "UNAVAILABLE"),
    }
    ready = serving.client.post("/v2/repository/index", json={"ready": True}).json()
    assert {one["name"] for one in ready} == {"names", "vowels"}


@pytest.mark.slow
def test_the_folder_is_looked_at_without_being_told(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, poll=0.2)
    put("vowels-rnn", repository / "late" / "1")
    shutil.rmtree(repository / "names")
    until = time.monotonic() + 20
    while {one["name"] for one in server.client.get("/v1/models").json()["models"]} != {"late", "vowels"}:
        assert time.monotonic() < until
        time.sleep(0.05)
