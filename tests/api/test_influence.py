"""Influence is what brute force finds: each sequence without one step, run whole."""

from typing import Any

import numpy as np
import pytest

from tests.reference import expected, model
from tests.running import RunningServer

Array = np.ndarray[Any, Any]


def probabilities(scores: Array) -> Array:
    exponents = np.exp(scores.astype(np.float64) - scores.max())
    shares: Array = exponents / exponents.sum()
    return shares


def by_brute_force(name: str, data: Array, target: int | None = None) -> Array:
    whole = probabilities(expected(name, data)[-1])
    moved = []
    for step in range(len(data)):
        without = probabilities(expected(name, np.delete(data, step, axis=0))[-1])
        moved.append(np.linalg.norm(without - whole) if target is None else abs(without[target] - whole[target]))
    return np.array(moved)


def close(found: list[float], wanted: Array) -> None:
    """Equal but for the last digits of float64, in which distances are summed."""
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-15)


def influence(server: RunningServer, name: str, **body: object) -> dict[str, Any]:
    answer = server.client.post(f"/v1/models/{name}/influence", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("name", ["vowels-rnn", "vowels-lstm", "vowels-gru"])
def test_it_is_what_brute_force_finds(server: RunningServer, name: str) -> None:
    data = np.random.default_rng(2).standard_normal((17, 12), np.float32)
    answer = influence(server, name, sequence=data.tolist())
    wanted = by_brute_force(name, data)
    close(answer["influence"], wanted)
    tail = np.cumsum(wanted[::-1])
    assert answer["span"] == next(i + 1 for i, held in enumerate(tail) if held >= 0.9 * wanted.sum())
    assert (answer["length"], answer["target"]) == (17, None)
    labelled = influence(server, name, sequence=data.tolist(), target="speaker 4")
    assert labelled["target"] == 3
    close(labelled["influence"], by_brute_force(name, data, 3))
    assert influence(server, name, sequence=data.tolist(), target=3)["influence"] == labelled["influence"]


def test_text_has_influence_too(server: RunningServer) -> None:
    name = "Lindqvist"
    table = {token: i for i, token in enumerate(model("names-gru").spec.input.vocabulary or ())}
    data = np.array([table[character] for character in name])
    answer = influence(server, "names-gru", sequence=name, top=1)
    close(answer["influence"], by_brute_force("names-gru", data))
    assert answer["decoded"]["label"] == "Swedish"


def test_it_starts_where_a_token_stands(server: RunningServer) -> None:
    data = np.random.default_rng(4).standard_normal((12, 12), np.float32)
    head = server.predict("vowels-gru", sequence=data[:5].tolist(), return_state=True).json()["results"][0]
    answer = influence(server, "vowels-gru", sequence=data[5:].tolist(), state=head["state"])
    close(answer["influence"], by_brute_force("vowels-gru", data)[5:])


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("vowels-gru", {"sequence": [[0.0] * 12]}, 422, "invalid_field"),
        ("vowels-gru", {"sequence": [[0.0] * 12] * 3, "target": "nobody"}, 422, "invalid_field"),
        ("vowels-gru", {"sequence": [[0.0] * 12] * 3, "target": 9}, 422, "invalid_field"),
        ("vowels-gru", {"sequence": [[0.0] * 12] * 5001}, 413, "too_long"),
        ("vowels-lstm-bidirectional", {"sequence": [[0.0] * 12] * 3}, 409, "not_streamable"),
        ("nobody", {"sequence": [[0.0] * 12] * 3}, 404, "unknown_model"),
    ],
)
def test_what_has_no_influence_says_why(
    server: RunningServer, name: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = server.client.post(f"/v1/models/{name}/influence", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
