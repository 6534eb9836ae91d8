"""Models that were made for Triton: `config.pbtxt` beside the versions, control inputs and implicit state."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from elman.repository.model_config import as_json, model_config
from tests import triton
from tests.cli.command import elman
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.slow

MEANINGLESS = "instance_group [ { kind: KIND_CPU } ] dynamic_batching { preferred_batch_size: [ 4 ] } odd_name: 1"
CONFIGS = {
    "sums": triton.config(triton.ACCUMULATOR, controls=triton.ALL_CONTROLS, more=MEANINGLESS),
    "sums-int": triton.config(triton.ACCUMULATOR, controls=triton.ALL_CONTROLS | {"START": "int32", "END": "bool"}),
    "cell": triton.config(triton.CELL, controls={"START": "fp32", "END": "fp32"}),
    "chunks": triton.config(triton.CHUNKS, controls={"START": "int32"}),
}
LISTED = 'output [ { name: "S_OUT" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]'
CONFIGS["sums-int"] += LISTED
LABELS = {"cell": b"up\ndown\nleft\nright\n", "sums-int": b"even\nodd"}
GRAPHS = {
    "sums": triton.accumulator(),
    "sums-int": triton.accumulator("int32", end="bool"),
    "cell": triton.cell(),
    "chunks": triton.chunks(),
}
FIRST = {"cell": {"H": triton.FIRST_H}}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models above, with three versions of `sums` and of `some`, and one whose configuration cannot be read."""
    root = tmp_path_factory.mktemp("triton")
    for name, proto in GRAPHS.items():
        files = {"labels": LABELS[name]} if name in LABELS else {}
        files |= {"first": triton.FIRST_H.tobytes()} if name in FIRST else {}
        triton.save(root, name, proto, CONFIGS[name], **files)
    for version in (2, 3):
        triton.save(root, "sums", GRAPHS["sums"], None, version)
    for version in (1, 2, 3):
        policy = "version_policy: { specific { versions: [ 1, 3, 7 ] } }"
        triton.save(root, "some", GRAPHS["chunks"], CONFIGS["chunks"] + policy, version)
    triton.save(root, "broken", GRAPHS["chunks"], CONFIGS["chunks"] + "max_batch_size: 4")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    with running_server(repository, "--grpc-port", "0", poll=0) as server:
        yield server


def rows(name: str, *lengths: int) -> list[Any]:
    width = 2 if name.startswith("sums") else triton.FEATURES
    rng = np.random.default_rng(len(lengths))
    return [rng.standard_normal((length, width)).astype(np.float32) for length in lengths]


def lists(data: Any) -> Any:
    return data.astype(float).tolist()


def steps_of(result: Any) -> Any:
    return np.array(result["outputs"], np.float32)


def card(server: RunningServer, name: str) -> Any:
    return server.client.get(f"/v1/models/{name}").json()


@pytest.mark.parametrize("name", GRAPHS)
def test_whole_sequences_of_any_lengths_have_the_bits_of_a_loop_over_the_file(server: RunningServer, name: str) -> None:
    data = rows(name, 1, 5, 2, 30, 7)
    body = {"sequences": [lists(one) for one in data], "return": "steps", "decode": False}
    together = server.predict(name, **body)
    assert together.status_code == 200, together.text
    loop = triton.Loop(GRAPHS[name], FIRST.get(name))
    for one, result in zip(data, together.json()["results"], strict=True):
        whole = 1 if name != "chunks" else len(one)
        assert steps_of(result).tobytes() == loop.run(one, steps=whole).tobytes()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_session_is_told_its_start_once_and_no_end(server: RunningServer, name: str) -> None:
    (data,) = rows(name, 12)
    session = server.client.post(f"/v1/models/{name}/sessions").json()["id"]
    found = []
    for begin, end in ((0, 1), (1, 2), (2, 7), (7, 12)):
        body = {"sequence": lists(data[begin:end]), "return": "steps", "decode": False}
        answer = server.client.post(f"/v1/sessions/{session}/steps", json=body)
        assert answer.status_code == 200, answer.text
        found.append(steps_of(answer.json()))
    expected = triton.Loop(GRAPHS[name], FIRST.get(name)).run(data, ends=False)
    assert np.concatenate(found).tobytes() == expected.tobytes()


def test_a_request_that_asks_for_the_state_does_not_end_the_sequence_and_the_next_does_not_begin_it(
    server: RunningServer,
) -> None:
    (data,) = rows("cell", 9)
    body: dict[str, Any] = {"return": "steps", "decode": False}
    first = server.predict("cell", sequence=lists(data[:4]), return_state=True, **body).json()["results"][0]
    second = server.predict("cell", sequence=lists(data[4:]), state=first["state"], **body).json()["results"][0]
    found = np.concatenate([steps_of(first), steps_of(second)])
    assert found.tobytes() == triton.Loop(GRAPHS["cell"], FIRST["cell"]).run(data).tobytes()


def test_a_card_says_where_each_role_comes_from_and_what_has_no_meaning_here(server: RunningServer) -> None:
    found = card(server, "sums")
    ports = {one["name"]: (one["role"], one["found"], one["dtype"]) for one in found["inputs"]}
    assert ports == {
        "INPUT": ("sequence", "config.pbtxt", "float32"),
        "S": ("state", "config.pbtxt", "float32"),
        "START": ("control", "config.pbtxt: start", "bool"),
        "READY": ("control", "config.pbtxt: ready", "float32"),
        "END": ("control", "config.pbtxt: end", "int32"),
        "CORRID": ("control", "config.pbtxt: corrid", "uint64"),
    }
    assert [(one["name"], one["role"]) for one in found["outputs"]] == [("OUTPUT", "steps"), ("S_OUT", "state")]
    assert found["batching"]["exact"] and found["streaming"] and found["hidden_size"] == 2 and found["layers"] == 1
    assert found["notes"] == ["config.pbtxt: instance_group, dynamic_batching, odd_name: no meaning here"]
    assert card(server, "chunks")["notes"] == []


def test_labels_are_those_of_the_file_that_an_output_names(server: RunningServer) -> None:
    (data,) = rows("cell", 3)
    result = server.predict("cell", sequence=lists(data), decode=True).json()["results"][0]
    assert {one["label"] for one in result["decoded"]["top"]} <= {"up", "down", "left", "right"}
    assert card(server, "cell")["output"]["labels"] == ["up", "down", "left", "right"]
    assert any("logits" in note for note in card(server, "cell")["notes"])


def test_the_version_policy_says_what_is_served_and_without_one_it_is_the_latest(server: RunningServer) -> None:
    served = {name: card(server, name)["versions"] for name in ("sums", "some")}
    assert served == {"sums": [3], "some": [1, 3]}
    refused = {
        (one["name"], one["version"]): one["reason"] for one in server.client.get("/v1/models").json()["refused"]
    }
    assert "No such file" in refused["some", 7]
    assert refused["broken", 1] == (
        'config.pbtxt: line 16: Message type "ModelConfig" should not have multiple "max_batch_size" fields.'
    )
    assert refused.keys() == {("some", 7), ("broken", 1)}


def test_a_warning_comes_with_each_load_and_a_configuration_that_breaks_leaves_the_model_as_it_was(
    server: RunningServer, repository: Path
) -> None:
    def warnings() -> int:
        return server.log.read_text().count("model sums, version 3: config.pbtxt: instance_group")

    def load() -> int:
        return server.client.post("/v2/repository/models/sums/load").status_code

    path, text = repository / "sums" / "config.pbtxt", CONFIGS["sums"]
    assert warnings() == 1
    path.write_text(text.replace("dims: [ 2 ]", "dims: [ 5 ]", 1))
    assert load() == 422
    before = card(server, "sums")
    assert before["versions"] == [3]
    path.write_text(text.replace("odd_name: 1", ""))
    assert (load(), warnings()) == (200, 2)
    after = card(server, "sums")
    assert after["notes"] == ["config.pbtxt: instance_group, dynamic_batching: no meaning here"]
    assert after["digest"] != before["digest"]


def test_classes_of_an_output_have_its_own_labels(server: RunningServer) -> None:
    outputs = [{"name": name, "parameters": {"classification": 1}} for name in ("OUTPUT", "S_OUT")]
    tensor = {"name": "INPUT", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 3.0]}
    answer = server.client.post("/v2/models/sums-int/infer", json={"inputs": [tensor], "outputs": outputs})
    assert {one["name"]: one["data"] for one in answer.json()["outputs"]} == {
        "OUTPUT": ["3.000000:1"],
        "S_OUT": ["3.000000:1:odd"],
    }


def infer(server: RunningServer, name: str, data: Any, **parameters: object) -> Any:
    tensor = {"name": "INPUT", "shape": data.shape, "datatype": "FP32", "data": data.ravel().astype(float).tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": "OUTPUT"}], "parameters": parameters}
    return server.client.post(f"/v2/models/{name}/infer", json=body)


def test_a_sequence_of_the_protocol_tells_its_graph_its_id_its_start_and_its_end(server: RunningServer) -> None:
    (data,) = rows("sums", 4)
    found = []
    for step, row in enumerate(data):
        flags = {"sequence_id": 42, "sequence_start": step == 0, "sequence_end": step == len(data) - 1}
        answer = infer(server, "sums", row[None], **flags)
        assert answer.status_code == 200, answer.text
        found.append(np.array(answer.json()["outputs"][0]["data"], np.float32))
    assert np.array(found).tobytes() == triton.Loop(GRAPHS["sums"]).run(data, corrid=42).tobytes()
    text = infer(server, "sums", data[:1], sequence_id="forty-two", sequence_start=True)
    assert text.status_code == 422 and "its graph is told the id, as a number of type uint64" in text.json()["error"]


def test_a_sequence_rests_as_long_as_its_configuration_says(server: RunningServer) -> None:
    assert server.client.post("/v1/models/cell/sessions").json()["ttl"] == 90.5
    assert server.client.post("/v1/models/cell/sessions", json={"ttl": 7}).json()["ttl"] == 7
    assert server.client.post("/v1/models/chunks/sessions").json()["ttl"] == 3600


def test_the_protocol_shows_a_model_as_its_configuration_has_it(server: RunningServer) -> None:
    """One step of each row is a tensor without an axis of time; with one, a request has as many steps as it likes."""
    shown = server.client.get("/v2/models/sums/config").json()
    assert (shown["name"], shown["max_batch_size"], shown["backend"]) == ("sums", 8, "onnxruntime")
    assert [one["dims"] for one in shown["input"]] == [[2]]
    kinds = [one["control"][0]["kind"] for one in shown["sequence_batching"]["control_input"]]
    assert kinds == [f"CONTROL_SEQUENCE_{name}" for name in triton.ALL_CONTROLS]
    metadata = server.client.get("/v2/models/sums").json()
    assert (metadata["platform"], metadata["versions"]) == ("onnxruntime_onnx", ["3"])
    assert [one["shape"] for one in (*metadata["inputs"], *metadata["outputs"])] == [[-1, 2], [-1, 2]]
    chunks = server.client.get("/v2/models/chunks").json()
    assert [one["shape"] for one in (*chunks["inputs"], *chunks["outputs"])] == [[-1, -1, 3], [-1, -1, 4]]
    (data,) = rows("sums", 3)
    whole = infer(server, "sums", data[None]).json()["outputs"][0]
    assert whole["shape"] == [1, 3, 2]
    expected = triton.Loop(GRAPHS["sums"]).run(data)
    assert np.array(whole["data"], np.float32).tobytes() == expected.tobytes()


def test_grpc_has_the_same_configuration(server: RunningServer) -> None:
    (port,) = re.findall(r"gRPC running on .*, port (\d+)", server.log.read_text())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelConfig")
        answer = ask(b"\x0a\x04sums", timeout=20)  # field 1, the name
    # Field 1 of the answer is the configuration: its length, in one or two bytes, and the message.
    assert answer[0] == 10
    shown = as_json(model_config(answer[3 if answer[1] > 127 else 2 :]))
    assert shown == server.client.get("/v2/models/sums/config").json()


def test_check_says_where_each_role_comes_from(repository: Path) -> None:
    done = elman("check", str(repository / "cell"), cwd=repository)
    assert done.returncode == 0, done.stderr
    assert re.search(r"input +START +control +1 +float32 +config.pbtxt: start", done.stdout)
    assert re.search(r"input +H +state +4 +float32 +config.pbtxt", done.stdout)
    assert "note  config.pbtxt: the numbers of 'OUTPUT' are taken for logits" in done.stdout
    refused = elman("check", str(repository / "broken"), cwd=repository)
    assert refused.returncode == 1 and "config.pbtxt: line " in refused.stdout


# What Triton's sequence batcher does, with the same flags


def part(server: RunningServer, data: Any, id: int, flags: str = "", name: str = "sums") -> Any:
    """The output of one request of a sequence; `flags` has `s` for its start and `e` for its end."""
    answer = infer(server, name, data, sequence_id=id, sequence_start="s" in flags, sequence_end="e" in flags)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(data.shape[0], -1)


def test_a_sequence_of_one_request_starts_and_ends_with_it(server: RunningServer) -> None:
    (data,) = rows("sums", 1)
    for _ in range(2):
        found = part(server, data, 7, "se")
        assert found.tobytes() == triton.Loop(GRAPHS["sums"]).run(data, corrid=7).tobytes()


def test_a_start_begins_anew_also_if_the_sequence_had_no_end(server: RunningServer) -> None:
    (data,) = rows("cell", 3)
    loop = triton.Loop(GRAPHS["cell"], FIRST["cell"])
    for _ in range(2):
        found = [part(server, data[at : at + 1], 8, "s" * (at == 0), "cell") for at in range(3)]
        assert np.concatenate(found).tobytes() == loop.run(data, ends=False).tobytes()


def test_after_its_end_a_sequence_wants_a_start(server: RunningServer) -> None:
    (data,) = rows("sums", 1)
    for flags in ("", "e"):
        part(server, data, 9, "se")
        refused = infer(server, "sums", data, sequence_id=9, sequence_end="e" in flags)
        assert refused.status_code == 400
        assert "must specify the START flag on the first request of the sequence" in refused.json()["error"]


def test_rows_of_a_request_are_sequences_that_move_on_together(server: RunningServer) -> None:
    data = np.stack(rows("sums", 3, 3, 3, 3))  # (rows, steps, features)
    found = [part(server, data[:, at], 10, "s" * (at == 0) + "e" * (at == 2)) for at in range(3)]
    loop = triton.Loop(GRAPHS["sums"])
    for row, steps in zip(data, np.stack(found, 1), strict=True):
        assert steps.tobytes() == loop.run(row, corrid=10).tobytes()


def test_a_request_that_is_late_moves_nothing(server: RunningServer) -> None:
    data = rows("sums", 1)[0]
    first = part(server, data, 11, "s")
    assert infer(server, "sums", data, sequence_id=11, timeout=1).status_code == 504
    assert part(server, data, 11).tobytes() == (first + data).tobytes()


def test_a_start_among_the_requests_of_its_sequence_begins_anew_wherever_it_comes(server: RunningServer) -> None:
    (data,) = rows("cell", 1)
    part(server, data, 12, "s", "cell")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda flags: part(server, data, 12, flags, "cell"), ["", "s", "", "s"]))
    steps = triton.Loop(GRAPHS["cell"], FIRST["cell"]).run(np.repeat(data, 5, axis=0), ends=False)
    begun, others = found[1::2], found[::2]
    assert all(one.tobytes() == steps[:1].tobytes() for one in begun)
    assert all(one.tobytes() in [step.tobytes() for step in steps[1:, None]] for one in others)


def test_more_sequences_than_a_run_has_rows_go_on_side_by_side(server: RunningServer) -> None:
    data = rows("sums", *[1, 2, 5, 8] * 5)

    def send(id: int, steps: Any) -> Any:
        flags = ["s" * (at == 0) + "e" * (at == len(steps) - 1) for at in range(len(steps))]
        return np.concatenate([part(server, steps[at : at + 1], id, flags[at]) for at in range(len(steps))])

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(send, range(100, 120), data))
    for id, steps, own in zip(range(100, 120), data, found, strict=True):
        assert own.tobytes() == triton.Loop(GRAPHS["sums"]).run(steps, corrid=id).tobytes()
