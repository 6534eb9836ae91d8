"""Sequences by tritonclient over HTTP, with gevent and with asyncio."""

import asyncio
import os

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

URL = os.environ["ELMAN_URL"].removeprefix("http://")
MODEL = "vowels-gru"
DATA = np.random.default_rng(1).random((1, 9, 12), np.float32)


def given(array):
    tensor = triton.InferInput("input", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


@pytest.fixture(scope="module")
def client():
    with triton.InferenceServerClient(URL) as one:
        yield one


@pytest.mark.parametrize("id", [12, "twelve", 2**64 - 1])
@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_sequence_goes_on_from_request_to_request(client, id, exactly_once):
    whole = client.infer(MODEL, given(DATA)).as_numpy("output")
    for begin, end in ((0, 1), (1, 5), (5, 9)):
        wanted = {"sequence_start": begin == 0, "sequence_end": end == 9}
        wanted["parameters"] = {"at": begin} if exactly_once else None
        for _ in range(1 + exactly_once):
            answer = client.infer(MODEL, given(DATA[:, begin:end]), sequence_id=id, **wanted)
            assert np.array_equal(answer.as_numpy("output"), whole[:, begin:end])
    with pytest.raises(InferenceServerException, match=f"sequence {id} to model '{MODEL}' must specify the START flag"):
        client.infer(MODEL, given(DATA), sequence_id=id)


@pytest.mark.parametrize("none", [0, ""])
def test_zero_and_no_text_are_no_sequence(client, none):
    whole = client.infer(MODEL, given(DATA)).as_numpy("output")
    answer = client.infer(MODEL, given(DATA), sequence_id=none, sequence_start=True)
    assert np.array_equal(answer.as_numpy("output"), whole)


def test_sequences_with_asyncio():
    async def use():
        async with triton_aio.InferenceServerClient(URL) as client:
            whole = (await client.infer(MODEL, given(DATA))).as_numpy("output")

            async def one(id):
                found = []
                for step in range(9):
                    flags = {"sequence_start": step == 0, "sequence_end": step == 8}
                    answer = await client.infer(MODEL, given(DATA[:, step : step + 1]), sequence_id=id, **flags)
                    found.append(answer.as_numpy("output"))
                assert np.array_equal(np.concatenate(found, axis=1), whole)

            await asyncio.gather(*(one(id) for id in (1, 2, "one", "two")))

    asyncio.run(use())
