"""The plain request, one sequence for its last output, gives the same bytes as one that asks for more."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

STREAMING = ("vowels-rnn", "vowels-lstm", "names-gru", "sunspots-gru")
WHOLE = ("vowels-lstm-bidirectional",)
OCTETS = "application/octet-stream"

numbers = st.floats(-40, 40, width=32)
letters = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("plain")
    for name in (*STREAMING, *WHOLE):
        (root / name).symlink_to(STORE / name)
    with running_server(root) as one:
        yield one


def sequences(name: str) -> st.SearchStrategy[Any]:
    if name.startswith("names"):
        return letters
    features = 1 if name.startswith("sunspots") else 12
    return st.lists(st.lists(numbers, min_size=features, max_size=features), min_size=1, max_size=30)


def answer(server: RunningServer, name: str, **body: Any) -> bytes:
    found = server.client.post(f"/v1/models/{name}/predict", content=orjson.dumps(body))
    assert found.status_code == 200, found.text
    return found.content


def octets(server: RunningServer, name: str, sequence: Any, **query: Any) -> bytes:
    content = np.array(sequence, np.float32).tobytes()
    headers = {"content-type": OCTETS, "accept": OCTETS}
    found = server.client.post(f"/v1/models/{name}/predict", content=content, headers=headers, params=query)
    assert found.status_code == 200, found.text
    return found.content


@pytest.mark.parametrize("name", [*STREAMING, *WHOLE])
@given(data=st.data())
def test_what_else_a_request_asks_for_changes_no_byte_of_its_output(
    server: RunningServer, name: str, data: st.DataObject
) -> None:
    sequence, other = data.draw(sequences(name)), data.draw(sequences(name))
    plain = answer(server, name, sequence=sequence)
    end = b"}]}"
    assert plain.endswith(end)
    output = plain.removesuffix(end)
    assert answer(server, name, sequence=sequence, timeout=60) == plain
    assert answer(server, name, sequence=sequence, heads=[], state=None) == plain
    assert answer(server, name, sequences=[sequence]) == plain
    assert answer(server, name, sequences=[sequence, other]).startswith(output + b"},")
    steps = orjson.loads(answer(server, name, sequence=sequence, **{"return": "steps"}))["results"][0]
    last = orjson.loads(plain)["results"][0]
    assert steps["outputs"][-1] == last["output"]
    assert "decoded" not in last or steps["decoded"][-1] == last["decoded"]
    if name in STREAMING:
        for more in ({"return_state": True}, {"hidden": True}, {"return_state": True, "hidden": True}):
            assert answer(server, name, sequence=sequence, **more).startswith(output + b",")


@pytest.mark.parametrize("name", ["vowels-lstm", *WHOLE])
@given(data=st.data())
def test_octets_are_those_of_the_numbers_in_json(server: RunningServer, name: str, data: st.DataObject) -> None:
    sequence = data.draw(sequences(name))
    plain = octets(server, name, sequence)
    found = orjson.loads(answer(server, name, sequence=sequence))["results"][0]["output"]
    assert np.array(found, np.float32).tobytes() == plain
    assert octets(server, name, sequence, timeout=60) == plain
    assert octets(server, name, sequence, **{"return": "steps"})[-len(plain) :] == plain
    if name in STREAMING:
        assert octets(server, name, sequence, return_state="true") == plain
