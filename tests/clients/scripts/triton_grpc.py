"""tritonclient over gRPC, blocking and with asyncio: every call that it has."""

import asyncio
import json
import os
import queue
import urllib.request

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

URL, HTTP = os.environ["ELMAN_GRPC"], os.environ["ELMAN_URL"]
MODEL, NAMES = "vowels-gru", "names-gru"
RNG = np.random.default_rng(0)
NUMBERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
NUMBERS += ["float16", "float32", "float64"]


@pytest.fixture(scope="module")
def client():
    with triton.InferenceServerClient(URL) as one:
        yield one


def given(array, name="input"):
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def right(array):
    """The native route's answer to each row."""
    body = json.dumps({"sequences": array.astype(np.float64).tolist(), "return": "steps"}).encode()
    with urllib.request.urlopen(f"{HTTP}/v1/models/{MODEL}/predict", body) as answer:
        results = json.load(answer)["results"]
    return np.array([one["outputs"] for one in results], np.float32)


def rows(dtype=np.float32, shape=(2, 6, 12)):
    return (8 * RNG.random(shape)).astype(dtype)


def text_of(call, *arguments, **options):
    """What a user is shown of an error, and its status."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    return caught.value.message(), caught.value.status()


def test_health_and_descriptions(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("none") and not client.is_model_ready(MODEL, "9")
    assert {"statistics", "sequence"} <= set(client.get_server_metadata().extensions)
    assert client.get_model_metadata(MODEL, as_json=True)["inputs"][0]["shape"] == ["-1", "-1", "12"]
    config = client.get_model_config(MODEL, "1").config
    assert config.max_batch_size > 0 and config.input[0].data_type == triton.model_config_pb2.TYPE_FP32
    client.infer(MODEL, [given(rows())])
    (stats,) = client.get_inference_statistics(MODEL).model_stats
    assert stats.inference_stats.success.count > 0
    assert len(client.get_inference_statistics().model_stats) > 1


def test_the_repository_is_listed_and_models_come_and_go(client):
    def index():
        return {one.name: one.state for one in client.get_model_repository_index().models}

    assert index()["vowels-lstm"] == "READY"
    client.unload_model("vowels-lstm", unload_dependents=True)
    assert "vowels-lstm" not in index()
    client.load_model("vowels-lstm")
    assert index()["vowels-lstm"] == "READY"
    text, status = text_of(client.load_model, "vowels-lstm", config="{}")
    assert "as it lies in the repository" in text and status == "StatusCode.INVALID_ARGUMENT"


def test_what_is_not_offered_says_so(client):
    for call, arguments in (
        (client.get_trace_settings, ()),
        (client.update_trace_settings, ()),
        (client.get_log_settings, ()),
        (client.update_log_settings, ({},)),
        (client.get_system_shared_memory_status, ()),
        (client.register_system_shared_memory, ("a", "b", 1)),
        (client.unregister_system_shared_memory, ()),
        (client.get_cuda_shared_memory_status, ()),
        (client.unregister_cuda_shared_memory, ()),
    ):
        text, status = text_of(call, *arguments)
        assert text.endswith("not offered by this server") and status == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_datatype_of_numbers(client, dtype):
    array = rows(dtype)
    found = client.infer(MODEL, [given(array)]).as_numpy("output")
    assert found.dtype == np.float32 and np.array_equal(found, right(array))


def test_bfloat16_and_texts(client):
    array = rows(ml_dtypes.bfloat16)
    found = client.infer(MODEL, [given(array)]).as_numpy("output")
    assert np.array_equal(found, right(array.astype(np.float32)))
    texts = np.array(["Lindqvist", "Rossi"], object)
    outputs = [triton.InferRequestedOutput("final", class_count=1)]
    found = client.infer(NAMES, [given(texts)], outputs=outputs).as_numpy("final")
    assert [one.decode().rsplit(":", 1)[1] for one in found[:, 0]] == ["Swedish", "Italian"]


def test_booleans_are_refused_by_name(client):
    text, status = text_of(client.infer, MODEL, [given(rows(bool))])
    assert "cannot be BOOL" in text and status == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_outputs_in_order_and_compression(client, compression):
    array = rows()
    outputs = [triton.InferRequestedOutput(name) for name in ("final", "output", "lengths")]
    lengths = given(np.array([6, 4], np.int32), "lengths")
    answer = client.infer(
        MODEL, [given(array), lengths], outputs=outputs, request_id="7", compression_algorithm=compression
    )
    assert answer.get_response().id == "7"
    assert [one.name for one in answer.get_response().outputs] == ["final", "output", "lengths"]
    assert np.array_equal(answer.as_numpy("final")[0], right(array)[0, -1])
    assert answer.as_numpy("lengths").tolist() == [6, 4] and not answer.as_numpy("output")[1, 4:].any()


def test_options_of_a_request(client):
    array = rows()
    answer = client.infer(
        MODEL, [given(array)], "1", priority=1, timeout=60_000_000, client_timeout=60, headers={"x-request-id": "mine"}
    )
    assert np.array_equal(answer.as_numpy("output"), right(array))
    long = rows(shape=(1, 20_000, 12))
    text, status = text_of(client.infer, MODEL, [given(long)], timeout=1)
    assert "deadline" in text and status == "StatusCode.DEADLINE_EXCEEDED"


def test_errors_are_text(client):
    text, status = text_of(client.infer, "none", [given(rows())])
    assert "'none' is not served" in text and status == "StatusCode.NOT_FOUND"
    text, status = text_of(client.infer, MODEL, [given(rows(shape=(1, 2, 3)))])
    assert "[1, 2, 3]" in text and status == "StatusCode.INVALID_ARGUMENT"
    assert "'input' is missing" in text_of(client.infer, MODEL, [given(rows(), "other")])[0]
    assert (
        "no output 'x'" in text_of(client.infer, MODEL, [given(rows())], outputs=[triton.InferRequestedOutput("x")])[0]
    )


def test_calls_that_do_not_wait(client):
    answers = queue.Queue()
    arrays = [rows() for _ in range(20)]
    for index, array in enumerate(arrays):
        client.async_infer(
            MODEL, [given(array)], lambda result, error: answers.put((result, error)), request_id=str(index)
        )
    for _ in arrays:
        result, error = answers.get(timeout=60)
        assert error is None
        assert np.array_equal(result.as_numpy("output"), right(arrays[int(result.get_response().id)]))


@pytest.mark.parametrize("ids", [(3, 4), ("three", "four"), (2**62, "2")])
def test_sequences_by_a_stream_and_one_by_one(client, ids):
    array = rows(shape=(1, 8, 12))
    whole = right(array)
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for step in range(8):
        for id in ids:
            client.async_stream_infer(
                MODEL,
                [given(array[:, step : step + 1])],
                request_id=f"{id}",
                sequence_id=id,
                sequence_start=step == 0,
                sequence_end=step == 7,
            )
    client.async_stream_infer(MODEL, [given(array)], sequence_id=ids[0])
    found = {str(id): [] for id in ids}
    for _ in range(16):
        result, error = answers.get(timeout=60)
        assert error is None
        found[result.get_response().id].append(result.as_numpy("output"))
    for parts in found.values():
        assert np.array_equal(np.concatenate(parts, axis=1), whole)
    _, error = answers.get(timeout=60)
    assert f"sequence {ids[0]} to model 'vowels-gru' must specify the START flag" in error.message()
    client.stop_stream()

    for begin, end in ((0, 3), (3, 8)):
        flags = {"sequence_start": begin == 0, "sequence_end": end == 8}
        for _ in range(2):  # with `at` a request may be repeated
            answer = client.infer(
                MODEL, [given(array[:, begin:end])], sequence_id=ids[0], parameters={"at": begin}, **flags
            )
            assert np.array_equal(answer.as_numpy("output"), whole[:, begin:end])


def test_everything_with_asyncio():
    array = rows(shape=(1, 6, 12))
    whole = right(array)

    async def use():
        async with triton_aio.InferenceServerClient(URL) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready(MODEL) and not await client.is_model_ready("none")
            assert (await client.get_server_metadata()).name == "elman"
            assert (await client.get_model_metadata(MODEL)).inputs[0].name == "input"
            assert (await client.get_model_config(MODEL)).config.name == MODEL
            assert (await client.get_inference_statistics(MODEL)).model_stats[0].name == MODEL
            assert len((await client.get_model_repository_index()).models) > 1
            await client.unload_model("vowels-lstm")
            await client.load_model("vowels-lstm")
            answer = await client.infer(MODEL, [given(array)], compression_algorithm="gzip")
            assert np.array_equal(answer.as_numpy("output"), whole)
            with pytest.raises(InferenceServerException, match="START flag"):
                await client.infer(MODEL, [given(array)], sequence_id="async")
            with pytest.raises(InferenceServerException, match="not offered by this server"):
                await client.get_trace_settings()

            async def requests():
                for step in range(6):
                    yield {
                        "model_name": MODEL,
                        "inputs": [given(array[:, step : step + 1])],
                        "sequence_id": "async",
                        "sequence_start": step == 0,
                        "sequence_end": step == 5,
                    }
                yield {"model_name": "none", "inputs": [given(array)]}

            found = []
            async for result, error in client.stream_infer(requests()):
                if len(found) == 6:
                    assert "'none' is not served" in error.message()
                    break
                assert error is None
                found.append(result.as_numpy("output"))
            assert np.array_equal(np.concatenate(found, axis=1), whole)

    asyncio.run(use())
