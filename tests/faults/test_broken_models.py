"""A file that cannot be served is refused with its reason, and every other model serves."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.reference import expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

GOOD = "vowels-gru"


def put(root: Path, name: str, content: bytes, spec: str | None = None, version: str = "1") -> None:
    folder = root / name / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    if spec is not None:
        (folder / "model.json").write_text(spec)


def not_recurrent() -> bytes:
    """y = mean of x over time: no state, and an output without a time axis."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "sum", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    whole = (STORE / GOOD / "1" / "model.onnx").read_bytes()
    put(root, GOOD, whole)
    put(root, "truncated", whole[: len(whole) // 2])
    put(root, "a-few-bytes", whole[:20])
    put(root, "no-bytes", b"")
    put(root, "text", b"This is no model.\n" * 100)
    put(root, "no-graph", onnx.ModelProto().SerializeToString())
    put(root, "not-recurrent", not_recurrent())
    put(root, "bad-spec", whole, spec='{"task": "guessing"}')
    put(root, "spec-no-json", whole, spec="{")
    put(root, "labels-short", whole, spec='{"decoder": {"kind": "labels", "labels": ["one", "two"]}}')
    put(root, "spec-other-names", whole, spec='{"input": {"name": "nothing"}}')
    put(root, "name with blanks", whole)
    put(root, "ünïcode", whole)
    put(root, "version-zero", whole, version="0")
    put(root, "version-latest", whole, version="latest")
    (root / "empty").mkdir()
    (root / "empty-version" / "1").mkdir(parents=True)
    (root / "folder-for-file" / "1" / "model.onnx").mkdir(parents=True)
    put(root, "pipe-for-file", b"")
    (root / "pipe-for-file" / "1" / "model.onnx").unlink()
    os.mkfifo(root / "pipe-for-file" / "1" / "model.onnx")
    put(root, "device-for-file", b"")
    (root / "device-for-file" / "1" / "model.onnx").unlink()
    (root / "device-for-file" / "1" / "model.onnx").symlink_to("/dev/zero")
    (root / ".hidden").mkdir()
    (root / "a file.txt").write_text("not a model either")
    put(root, "half-good", whole)
    put(root, "half-good", whole[:1000], version="2")
    return root


BROKEN = {
    "truncated", "a-few-bytes", "no-bytes", "text", "no-graph", "not-recurrent", "bad-spec", "spec-no-json",
    "labels-short", "spec-other-names", "name with blanks", "ünïcode", "version-zero", "version-latest", "empty",
    "empty-version", "folder-for-file", "pipe-for-file", "device-for-file",
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(repository: Path) -> Iterator[RunningServer]:
    with running_server(repository) as one:
        yield one


def refused(server: RunningServer) -> dict[str, dict]:
    return {one["name"]: one for one in server.client.get("/v1/models").json()["refused"]}


@pytest.mark.parametrize("name", ["pipe-for-file", "device-for-file"])
def test_what_has_no_end_is_not_read(broken: RunningServer, name: str) -> None:
    assert "not a regular file" in refused(broken)[name]["reason"]


def test_a_repository_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(STORE / GOOD, root / GOOD)
    with running_server(root, poll=0) as server:
        root.rename(tmp_path / "elsewhere")
        answer = server.client.post(f"/v2/repository/models/{GOOD}/load", json={})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_model")
        assert "repository cannot be read" in answer.json()["detail"]
        assert server.predict(GOOD, sequence=[[0.5] * 12]).status_code == 200


def test_what_is_broken_is_listed_as_refused_and_the_rest_serves(broken: RunningServer) -> None:
    assert set(refused(broken)) == BROKEN | {"half-good"}
    listed = broken.client.get("/v1/models").json()["models"]
    assert [(one["name"], one["versions"]) for one in listed] == [("half-good", [1]), (GOOD, [1])]
    assert broken.stats()["elman_refused_models", ()] == len(BROKEN) + 1


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_refusal_says_why_without_a_path(broken: RunningServer, repository: Path, name: str) -> None:
    refusal = refused(broken)[name]
    assert len(refusal["reason"]) > 10
    text = json.dumps(refusal)
    assert str(repository) not in text
    assert "Traceback" not in text
    assert "the file is broken" not in text, "the reason is an exception of Python's"


@pytest.mark.parametrize("name", sorted(BROKEN - {"name with blanks", "ünïcode"}))
def test_a_refused_model_is_404_and_says_where_to_look(broken: RunningServer, name: str) -> None:
    response = broken.predict(name, sequence=[[0.0] * 12])
    assert (response.status_code, response.json()["code"]) == (404, "unknown_model")
    assert "refused" in response.json()["detail"]


@pytest.mark.parametrize("name", [GOOD, "half-good"])
def test_its_neighbours_answer_exactly(broken: RunningServer, name: str) -> None:
    sequence = np.random.default_rng(0).standard_normal((30, 12)).astype(np.float32)
    (result,) = broken.predict(name, sequence=sequence.tolist()).json()["results"]
    assert same_bits(float32(result["output"]), expected(GOOD, sequence)[-1])


@pytest.mark.slow
def test_an_empty_repository_serves_nothing_and_is_ready(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server(tmp_path)
    assert server.client.get("/v1/models").json() == {"models": [], "refused": []}
    assert server.predict(GOOD, sequence=[[0.0] * 12]).status_code == 404


@pytest.mark.slow
def test_the_highest_version_is_served_by_default_and_each_by_name(
    tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    for version, source in {"1": "vowels-gru", "2": "vowels-lstm", "10": "vowels-rnn"}.items():
        (tmp_path / "m" / version).mkdir(parents=True)
        shutil.copy(STORE / source / "1" / "model.onnx", tmp_path / "m" / version)
    server = start_server(tmp_path)
    card = server.client.get("/v1/models/m").json()
    assert (card["version"], card["versions"], card["cell"]) == (10, [1, 2, 10], "rnn")
    assert server.client.get("/v1/models/m/versions/2").json()["cell"] == "lstm"
    body = {"sequence": [[0.5] * 12] * 4}
    answers = [server.client.post(f"/v1/models/m/versions/{v}/predict", json=body).json() for v in (1, 2, 10)]
    assert [one["version"] for one in answers] == [1, 2, 10]
    assert server.predict("m", **body).json() == answers[2]
    sequence = np.full((4, 12), 0.5, np.float32)
    for answer, name in zip(answers, ("vowels-gru", "vowels-lstm", "vowels-rnn"), strict=True):
        assert same_bits(float32(answer["results"][0]["output"]), expected(name, sequence)[-1])
