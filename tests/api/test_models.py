"""`/v1/models`: the cards say what the files hold."""

import hashlib

import numpy as np
import onnx
import pytest

from tests.reference import BIDIRECTIONAL, CELLS, NAMES
from tests.running import STORE, RunningServer

SHIPPED = [*CELLS, BIDIRECTIONAL, *NAMES]

CARD = {
    "name", "version", "versions", "task", "cell", "layers", "hidden_size", "direction", "streaming", "input",
    "output", "inputs", "outputs", "window", "state", "batching", "generation", "forecast", "examples", "digest",
    "suspended", "notes",
}  # fmt: skip


def card(server: RunningServer, name: str) -> dict:
    response = server.client.get(f"/v1/models/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_has_every_field(server: RunningServer, name: str) -> None:
    one = card(server, name)
    assert set(one) == CARD
    assert (one["name"], one["version"], one["versions"]) == (name, 1, [1])
    assert one["task"] == "classification"
    assert set(one["state"]) == {"bytes", "tensors", "initial"}
    assert set(one["batching"]) == {"exact", "tolerance", "reason"}
    assert (one["batching"]["exact"], one["batching"]["tolerance"]) == (True, 0.0)
    assert (one["batching"]["reason"] is None) == (name != BIDIRECTIONAL)
    assert one["output"]["size"] == len(one["output"]["labels"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_carries_the_digest_of_the_file(server: RunningServer, name: str) -> None:
    content = (STORE / name / "1" / "model.onnx").read_bytes()
    assert card(server, name)["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_cell_layers_and_sizes_as_the_graph_has_them(server: RunningServer, name: str) -> None:
    graph = onnx.load(STORE / name / "1" / "model.onnx").graph
    nodes = [node for node in graph.node if node.op_type in ("RNN", "LSTM", "GRU")]
    (hidden,) = {item.i for node in nodes for item in node.attribute if item.name == "hidden_size"}
    one = card(server, name)
    assert one["cell"] == nodes[0].op_type.lower() == name.split("-")[1]
    assert (one["layers"], one["hidden_size"]) == (len(nodes), hidden)
    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    assert one["output"]["size"] == width


@pytest.mark.parametrize("name", CELLS)
def test_a_card_shows_the_running_state(server: RunningServer, name: str) -> None:
    one = card(server, name)
    tensors = one["state"]["tensors"]
    assert (one["streaming"], one["direction"], one["state"]["initial"]) == (True, "forward", "zeros")
    assert len(tensors) == (2 if one["cell"] == "lstm" else 1)
    for tensor in tensors:
        assert set(tensor) == {"name", "shape", "dtype"}
        assert (tensor["shape"], tensor["dtype"]) == ([one["layers"], one["hidden_size"]], "float32")
    assert one["state"]["bytes"] == sum(4 * int(np.prod(tensor["shape"])) for tensor in tensors)


def test_a_bidirectional_network_has_no_running_state(server: RunningServer) -> None:
    one = card(server, BIDIRECTIONAL)
    assert (one["streaming"], one["direction"]) == (False, "bidirectional")
    assert (one["state"]["bytes"], one["state"]["tensors"]) == (0, [])


@pytest.mark.parametrize("name", [*CELLS, BIDIRECTIONAL])
def test_a_card_of_features_names_them(server: RunningServer, name: str) -> None:
    given = card(server, name)["input"]
    assert (given["kind"], given["size"], given["text"]) == ("features", 12, False)
    assert given["names"] == [f"cepstrum {i}" for i in range(1, 13)]
    assert card(server, name)["output"]["labels"] == [f"speaker {i}" for i in range(1, 10)]


@pytest.mark.parametrize("name", NAMES)
def test_a_card_of_tokens_says_how_many_there_are(server: RunningServer, name: str) -> None:
    graph = onnx.load(STORE / name / "1" / "model.onnx").graph
    gather = next(node for node in graph.node if node.op_type == "Gather")
    (table,) = [tensor for tensor in graph.initializer if tensor.name == gather.input[0]]
    given = card(server, name)["input"]
    assert (given["kind"], given["text"], given["vocabulary_size"]) == ("tokens", True, table.dims[0])


def test_the_list_holds_every_card_and_refuses_nothing(server: RunningServer) -> None:
    listed = server.client.get("/v1/models").json()
    assert listed["refused"] == []
    assert [one["name"] for one in listed["models"]] == sorted(folder.name for folder in STORE.iterdir())
    assert listed["models"] == [card(server, one["name"]) for one in listed["models"]]


def test_a_version_has_the_card_of_that_version(server: RunningServer) -> None:
    response = server.client.get("/v1/models/vowels-gru/versions/1")
    assert response.status_code == 200
    assert response.json() == card(server, "vowels-gru")


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/models/none/versions/1", "/v1/models/vowels-gru/versions/2"])
def test_an_unknown_model_or_version_is_404(server: RunningServer, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "unknown_model"


@pytest.mark.parametrize("version", ["0", "-1", "one", "1.0", "9" * 30, "9" * 5000])
@pytest.mark.parametrize("verb", ["", "/predict"])
def test_what_is_no_version_is_refused_as_a_mistake_of_the_caller(
    server: RunningServer, version: str, verb: str
) -> None:
    url = f"/v1/models/vowels-gru/versions/{version}{verb}"
    response = server.client.post(url, json={"sequence": [[0.0] * 12]}) if verb else server.client.get(url)
    assert response.status_code in (404, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"
