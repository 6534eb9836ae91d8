"""KServe's SDK over REST."""

import asyncio
import os

import numpy as np
import pytest
from httpx import HTTPStatusError
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

URL, MODEL = os.environ["ELMAN_URL"], "vowels-gru"


def request(array, model=MODEL, binary=False):
    tensor = InferInput("input", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="a")


def asked(call):
    async def ask():
        client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_health():
    assert asked(lambda client: client.is_server_live(URL)) is True
    assert asked(lambda client: client.is_server_ready(URL)) is True
    assert asked(lambda client: client.is_model_ready(URL, MODEL)) is True


@pytest.mark.parametrize("binary", [True, False])
def test_infer(binary):
    array = np.random.default_rng(0).random((2, 5, 12), np.float32)
    answer = asked(lambda client: client.infer(URL, request(array, binary=binary), model_name=MODEL))
    assert answer.id == "a" and answer.model_name == MODEL
    assert answer.outputs[0].as_numpy().shape == (2, 5, 9)


def test_nested_lists_and_the_name_in_the_body():
    rows = np.zeros((1, 2, 12)).tolist()
    body = {"model_name": MODEL, "inputs": [{"name": "input", "shape": [1, 2, 12], "datatype": "FP32", "data": rows}]}
    answer = asked(lambda client: client.infer(URL, body, model_name=MODEL))
    assert answer.outputs[0].shape == [1, 2, 9]


def test_an_error_is_shown_as_text():
    with pytest.raises(HTTPStatusError, match="the model 'none' is not served"):
        asked(lambda client: client.infer(URL, request(np.zeros((1, 2, 12), np.float32), "none"), model_name="none"))
