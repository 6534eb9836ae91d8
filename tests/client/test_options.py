"""Options may be numbers of NumPy; what cannot be sent is refused with its name."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from elman.client import Client, RequestError
from tests.running import RunningServer

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32)
HISTORY = np.arange(30.0)


def test_numbers_of_numpy_are_those_of_python(elman: Client) -> None:
    vowels, sunspots, writer = map(elman.model, ("vowels-gru", "sunspots-gru", "names-gru-generator"))
    for _ in range(2):  # as JSON, and then as bytes
        found = vowels.predict(ROWS, top=np.int64(2), timeout=np.float32(30), decode=np.bool_(True))
        assert len(found.top) == 2
    assert len(vowels.predict([ROWS], top=np.int32(2))[0].top) == 2
    assert vowels.influence(ROWS, target=np.int64(2)).span == vowels.influence(ROWS, target=2).span
    right = sunspots.forecast(HISTORY, 3, samples=4, seed=5, quantiles=[0.25, 0.5])
    shares = np.array([0.25, 0.5], np.float32)
    found = sunspots.forecast(HISTORY, np.int64(3), samples=np.uint8(4), seed=np.uint32(5), quantiles=shares)
    assert found.mean.tolist() == right.mean.tolist()
    assert found.quantiles.keys() == right.quantiles.keys()
    one = sunspots.forecast(HISTORY, 3, samples=4, seed=5, quantiles=(share for share in (0.25, 0.5)))
    assert one.quantiles.keys() == right.quantiles.keys()
    texts = writer.generate("Mc", temperature=0.5, seed=1, max_steps=3, samples=2).texts
    settings: dict[str, Any] = {"temperature": np.float32(0.5), "seed": np.int64(1), "max_steps": np.int8(3)}
    assert writer.generate("Mc", samples=np.int16(2), **settings).texts == texts
    with writer.generate("Mc", stream=True, **settings) as tokens:
        assert "".join(map(str, tokens)) == texts[0]
    with vowels.session(ttl=np.int64(60)) as session:
        assert session.info.ttl == 60 and len(session.step(ROWS, top=np.int64(2)).top) == 2


def test_lists_of_options_may_come_from_generators(elman: Client) -> None:
    model = elman.model("vowels-gru")
    token = model.predict(ROWS, return_state=True).state
    rows = [ROWS[:length] for length in range(1, 8)]
    right = model.predict(rows, state=[token] * 7)
    found = model.predict(iter(rows), state=itertools.repeat(token, 7))
    assert [one.output.tolist() for one in found] == [one.output.tolist() for one in right]
    assert [model.predict(ROWS, heads=[]).label for _ in range(2)] == [model.predict(ROWS).label] * 2


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
def test_a_timeout_may_be_longer_than_the_system_can_wait(server: RunningServer, timeout: float) -> None:
    with Client(server.url, timeout=timeout) as client:
        model = client.model("vowels-gru")
        assert model.predict(ROWS, timeout=timeout).label == model.predict([ROWS, ROWS], timeout=timeout)[0].label
        with model.session() as session:
            assert session.step(ROWS, timeout=timeout).step == 7
        with model.stream() as stream:
            assert stream.send(ROWS, timeout=timeout).step == 7


WRONG: dict[str, tuple[Callable[[Client], Any], type[Exception], str]] = {
    "not a number": (lambda c: c.model("names-gru-generator").generate("M", temperature=np.nan), RequestError, "temp"),
    "infinite": (lambda c: c.model("vowels-gru").session(ttl=np.inf), RequestError, "not finite; at ttl"),
    "an object": (
        lambda c: c.model("names-gru").predict("Mc", top=object()),
        TypeError,
        "top: a value of the type",
    ),
    "floats as ids": (lambda c: c.model("names-gru-generator").generate([3.7]), TypeError, "got float64"),
    "bytes as ids": (lambda c: c.model("names-gru-generator").generate(b"Mc"), TypeError, "pass text as str"),
    "a batch of ids": (lambda c: c.model("names-gru-generator").generate([[3]]), TypeError, r"got int64 \(1, 1\)"),
    "a name as heads": (lambda c: c.model("vowels-gru").predict(ROWS, heads="value"), RequestError, "'value'"),
    "text as statics": (lambda c: c.model("vowels-gru").predict(ROWS, static="abc"), TypeError, "static must be a map"),
    "a number as statics": (lambda c: c.model("vowels-gru").session(static=3), TypeError, "static must be a mapping"),
    "many states for one": (lambda c: c.model("vowels-gru").predict(ROWS, state=["a"]), ValueError, "there is one seq"),
    "no name": (lambda c: c.model(""), ValueError, "'' cannot be the name of a model"),
    "a folder": (lambda c: c.model(".."), ValueError, "'..' cannot be the name of a model"),
    "no id": (lambda c: c.session(""), ValueError, "'' cannot be the id of a session"),
    "none": (lambda c: c.load(None), ValueError, "None cannot be the name of a model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_option_that_cannot_be_sent_is_refused_with_its_name(elman: Client, name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call(elman)
