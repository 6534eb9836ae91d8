"""tritonclient over HTTP, with gevent and with asyncio: every call that it has."""

import asyncio
import json
import os

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

URL = os.environ["ELMAN_URL"].removeprefix("http://")
MODEL, NAMES = "vowels-gru", "names-gru"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def client():
    with triton.InferenceServerClient(URL) as one:
        yield one


def given(array, binary=True, name="input", datatype=None):
    tensor = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def right(client, array):
    """The native route's answer to each row."""
    import urllib.request

    body = json.dumps({"sequences": array.astype(np.float64).tolist(), "return": "steps"}).encode()
    with urllib.request.urlopen(f"http://{URL}/v1/models/{MODEL}/predict", body) as answer:
        results = json.load(answer)["results"]
    return np.array([one["outputs"] for one in results], np.float32)


def rows(dtype=np.float32, shape=(2, 6, 12)):
    return (8 * RNG.random(shape)).astype(dtype)


def test_health_and_descriptions(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("none")
    assert {"statistics", "binary_tensor_data"} <= set(client.get_server_metadata()["extensions"])
    assert client.get_model_metadata(MODEL)["inputs"][0]["shape"] == [-1, -1, 12]
    assert client.get_model_config(MODEL, "1")["max_batch_size"] > 0
    client.infer(MODEL, [given(rows())])
    (stats,) = client.get_inference_statistics(MODEL)["model_stats"]
    assert stats["inference_stats"]["success"]["count"] > 0
    assert len(client.get_inference_statistics()["model_stats"]) > 1


NUMBERS = [
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
]


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_of_numbers(client, dtype, binary):
    array = rows(dtype)
    found = client.infer(MODEL, [given(array, binary)]).as_numpy("output")
    assert found.dtype == np.float32 and np.array_equal(found, right(client, array))


def test_bfloat16(client):
    array = rows(ml_dtypes.bfloat16)
    found = client.infer(MODEL, [given(array, datatype="BF16")]).as_numpy("output")
    assert np.array_equal(found, right(client, array))


@pytest.mark.parametrize("binary", [True, False])
def test_text_and_token_ids(client, binary):
    texts = np.array(["Lindqvist", "Rossi"], object)
    wanted = [triton.InferRequestedOutput("final", binary_data=binary, class_count=1)]
    labels = client.infer(NAMES, [given(texts, binary)], outputs=wanted).as_numpy("final")
    best = labels[1, 0].decode() if binary else labels[1, 0]
    assert labels.shape == (2, 1) and best.endswith(":Italian")
    ids = np.array([[3, 7, 1]], np.int32)
    assert client.infer(NAMES, [given(ids, binary)]).as_numpy("output").shape == (1, 3, 13)


def test_booleans_are_refused_with_text(client):
    with pytest.raises(InferenceServerException, match="cannot be BOOL"):
        client.infer(MODEL, [given(np.ones((1, 2, 12), bool))])


def test_outputs_by_name_in_order_and_ragged_rows(client):
    array, lengths = rows(), np.array([6, 3], np.int32)
    wanted = [
        triton.InferRequestedOutput(name, binary_data=name != "lengths") for name in ("final", "lengths", "state.h")
    ]
    tensors = [given(array), given(lengths, name="lengths")]
    answer = client.infer(MODEL, tensors, outputs=wanted, request_id="seven", priority=2, timeout=60_000_000)
    assert answer.get_response()["id"] == "seven"
    assert [one["name"] for one in answer.get_response()["outputs"]] == ["final", "lengths", "state.h"]
    steps = right(client, array)
    assert np.array_equal(answer.as_numpy("final"), np.stack([steps[0, 5], steps[1, 2]]))
    assert answer.as_numpy("lengths").tolist() == [6, 3]


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
def test_compression(client, sent, received):
    array = rows()
    answer = client.infer(
        MODEL, [given(array)], request_compression_algorithm=sent, response_compression_algorithm=received
    )
    assert np.array_equal(answer.as_numpy("output"), right(client, array))


def test_asynchronous_calls_and_bodies_made_beforehand(client):
    array = rows()
    pending = [client.async_infer(MODEL, [given(array)]) for _ in range(4)]
    assert all(np.array_equal(one.get_result().as_numpy("output"), right(client, array)) for one in pending)
    body, size = triton.InferenceServerClient.generate_request_body([given(array)])
    assert size is not None and len(body) > size


@pytest.mark.parametrize("id", [12345, "a text"])
def test_sequences(client, id):
    array = rows(shape=(1, 6, 12))
    parts = [
        client.infer(
            MODEL, [given(array[:, at : at + 2])], sequence_id=id, sequence_start=at == 0, sequence_end=at == 4
        ).as_numpy("output")
        for at in (0, 2, 4)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1), right(client, array))


def test_the_repository(client):
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in client.get_model_repository_index()
    client.unload_model("vowels-lstm", unload_dependents=True)
    assert not client.is_model_ready("vowels-lstm")
    client.load_model("vowels-lstm")
    assert client.is_model_ready("vowels-lstm")
    with pytest.raises(InferenceServerException, match="as it lies in the repository"):
        client.load_model("vowels-lstm", config="{}")


def test_what_is_not_offered_is_said_in_words(client):
    calls = {
        "tracing": [client.get_trace_settings, lambda: client.update_trace_settings(MODEL, {"trace_level": "OFF"})],
        "log settings": [client.get_log_settings, lambda: client.update_log_settings({"log_info": True})],
        "shared memory": [
            client.get_system_shared_memory_status,
            client.get_cuda_shared_memory_status,
            lambda: client.register_system_shared_memory("r", "/r", 8),
            lambda: client.register_cuda_shared_memory("r", b"aa", 0, 8),
            client.unregister_system_shared_memory,
            lambda: client.unregister_cuda_shared_memory("r"),
        ],
    }
    for what, some in calls.items():
        for call in some:
            with pytest.raises(InferenceServerException, match=f"{what} .*not offered"):
                call()
    shared = triton.InferInput("input", [1, 2, 12], "FP32")
    shared.set_shared_memory("r", 96)
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        client.infer(MODEL, [shared])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_name": "none"}, "'none' is not served"),
        ({"model_version": "9"}, "no version '9'"),
        ({"inputs": [given(np.zeros((1, 2, 11), np.float32))]}, r"the shape is \[1, 2, 11\]"),
        ({"inputs": [given(np.full((1, 2, 12), np.nan, np.float32))]}, "a value is missing"),
        ({"outputs": [triton.InferRequestedOutput("x")]}, "no output 'x'"),
        ({"timeout": 1}, "deadline"),
    ],
)
def test_errors_are_shown_as_text(client, change, text):
    with pytest.raises(InferenceServerException, match=text):
        client.infer(**{"model_name": MODEL, "inputs": [given(rows())], **change})


def test_asyncio(client):
    """Also as `mlserver infer` does: JSON in, binary out."""
    array = rows()

    async def ask():
        async with triton_aio.InferenceServerClient(URL) as one:
            assert await one.is_server_live() and await one.is_server_ready() and await one.is_model_ready(MODEL)
            assert (await one.get_model_metadata(MODEL))["name"] == MODEL
            assert (await one.get_model_config(MODEL))["name"] == MODEL
            assert (await one.get_server_metadata())["name"] == "elman"
            assert await one.get_model_repository_index()
            assert (await one.get_inference_statistics(MODEL))["model_stats"]
            with pytest.raises(InferenceServerException, match="not offered"):
                await one.get_log_settings()
            with pytest.raises(InferenceServerException, match="is not served"):
                await one.infer("none", [given(array)])
            answers = [await one.infer(MODEL, [given(array, binary)]) for binary in (True, False)]
            for sent in ("gzip", "deflate"):
                answers.append(await one.infer(MODEL, [given(array)], request_compression_algorithm=sent))
                answers.append(await one.infer(MODEL, [given(array)], response_compression_algorithm=sent))
            return [answer.as_numpy("output") for answer in answers]

    assert all(np.array_equal(found, right(client, array)) for found in asyncio.run(ask()))
