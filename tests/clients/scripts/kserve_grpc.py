"""KServe's SDK over gRPC."""

import asyncio
import os

import grpc
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as stubs

URL = os.environ["ELMAN_GRPC"]
MODEL = "vowels-gru"
DATA = np.random.default_rng(2).random((1, 5, 12), np.float32)


def request(data):
    tensor = InferInput("input", [1, 5, 12], "FP32")
    if isinstance(data, list):
        tensor.data = data
    else:
        tensor.set_data_from_numpy(data, binary_data=True)
    return InferRequest(model_name=MODEL, infer_inputs=[tensor], request_id="kserve")


def test_health_inference_and_errors():
    async def use():
        async with InferenceGRPCClient(URL) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready(MODEL)
            # Lists come as typed contents, arrays as raw ones.
            answers = [await client.infer(request(data)) for data in (DATA.ravel().tolist(), DATA)]
            first, second = (one.outputs[0].as_numpy() for one in answers)
            assert answers[0].id == "kserve" and first.shape == (1, 5, 9) and np.array_equal(first, second)
            wrong = request(DATA)
            wrong.model_name = "none"
            with pytest.raises(grpc.RpcError) as caught:
                await client.infer(wrong)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND and "'none' is not served" in caught.value.details()

    asyncio.run(use())


def test_its_stubs_list_describe_load_and_unload():
    with grpc.insecure_channel(URL) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        assert stub.ServerMetadata(messages.ServerMetadataRequest()).name == "elman"
        described = stub.ModelMetadata(messages.ModelMetadataRequest(name=MODEL))
        assert list(described.inputs[0].shape) == [-1, -1, 12]
        unloaded = stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="vowels-lstm"))
        assert (unloaded.model_name, unloaded.isUnloaded) == ("vowels-lstm", True)
        loaded = stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="vowels-lstm"))
        assert (loaded.model_name, loaded.isLoaded) == ("vowels-lstm", True)
