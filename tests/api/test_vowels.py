"""The Japanese Vowels test set over HTTP: the accuracy that is stated, and the same bits however it is sent."""

import json

import numpy as np
import pytest

from models.tasks.vowels import load
from tests.reference import Array, expected, float32, same_bits
from tests.running import ROOT, STORE, RunningServer

pytestmark = pytest.mark.slow

NAMES = sorted(folder.name for folder in STORE.glob("vowels-*"))


@pytest.fixture(scope="module")
def held_out() -> tuple[list[Array], list[int]]:
    split = load().test
    assert len(split) == 370
    return list(split.sequences), split.labels.tolist()


def test_all_four_networks_are_shipped() -> None:
    assert NAMES == ["vowels-gru", "vowels-lstm", "vowels-lstm-bidirectional", "vowels-rnn"]


@pytest.mark.parametrize("name", NAMES)
def test_all_in_one_request_and_one_by_one_give_the_same_bits_and_the_accuracy_stated(
    server: RunningServer, held_out: tuple[list[Array], list[int]], name: str
) -> None:
    sequences, labels = held_out
    together = server.predict(name, sequences=[one.tolist() for one in sequences]).json()["results"]
    singly = [server.predict(name, sequence=one.tolist()).json()["results"][0] for one in sequences]
    assert together == singly
    for result, sequence in zip(together, sequences, strict=True):
        assert result["length"] == len(sequence)
        assert same_bits(float32(result["output"]), expected(name, sequence)[-1])

    right = sum(
        result["decoded"]["label"] == f"speaker {label + 1}" for result, label in zip(together, labels, strict=True)
    )
    stated = json.loads((ROOT / "models" / "results.json").read_text())[name]
    assert stated["num_test"] == 370
    assert right / 370 == pytest.approx(stated["accuracy"])
    assert f"{100 * right / 370:.2f} %" in readme_section(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_set_as_steps_ends_each_sequence_with_its_final_output(
    server: RunningServer, held_out: tuple[list[Array], list[int]], name: str
) -> None:
    sequences, _ = held_out
    body = {"sequences": [one.tolist() for one in sequences], "decode": False}
    url = f"/v1/models/{name}/predict"
    finals = server.client.post(url, json=body).json()["results"]
    steps = server.client.post(url, json={**body, "return": "steps"}).json()["results"]
    assert [one["outputs"][-1] for one in steps] == [one["output"] for one in finals]
    assert np.concatenate([one["outputs"] for one in steps]).shape == (sum(map(len, sequences)), 9)


def readme_section(name: str) -> str:
    """What models/README.md says of one model."""
    text = (ROOT / "models" / "README.md").read_text()
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
