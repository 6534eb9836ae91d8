"""Requests with binary tensors that repeat the JSON of one before, which are read and answered in a shorter way."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elman.api.v2.infer import Inference
from elman.api.v2.repeated import Repeated
from elman.app import create_app
from elman.http.endpoint import Request
from elman.settings import Settings
from tests.api.test_v2 import INFER, MODEL, NUMPY, binary, outputs, rows
from tests.reference import expected, same_bits
from tests.running import STORE, RunningServer

BYTES = {"binary_data": True}
REPEATED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "all outputs": ("FP32", 1, {"parameters": {"binary_data_output": True}}),
    "steps and final": ("FP32", 3, {"outputs": [{"name": one, "parameters": BYTES} for one in ("final", "output")]}),
    "final of FP64": ("FP64", 2, {"outputs": [{"name": "final", "parameters": BYTES}]}),
}


@pytest.mark.parametrize("name", REPEATED)
def test_requests_that_repeat_their_json_have_the_answers_of_the_first(server: RunningServer, name: str) -> None:
    datatype, count, wanted = REPEATED[name]
    for seed in range(3):
        data = rows(count, 5, 12, seed=seed)
        request = binary([("input", datatype, [count, 5, 12], data.astype(NUMPY[datatype]).tobytes())], **wanted)
        found = outputs(server.client.post(INFER, **request))
        assert set(found) == {one["name"] for one in wanted.get("outputs", [{"name": "output"}])}
        for row, sequence in enumerate(data):
            right = expected(MODEL, sequence)
            assert all(same_bits(array[row], right if one == "output" else right[-1]) for one, array in found.items())
    data[0, 3, 7] = np.nan
    broken = binary([("input", datatype, [count, 5, 12], data.astype(NUMPY[datatype]).tobytes())], **wanted)
    problem = server.client.post(INFER, **broken).json()
    assert (problem["code"], problem["where"]) == ("not_finite", "inputs[0][0][3][7]")
    short = {**request, "content": request["content"][:-4]}
    assert server.client.post(INFER, **short).json()["where"] == "inputs[0].parameters.binary_data_size"


def test_only_what_is_the_same_for_each_request_is_kept(tmp_path: Path) -> None:
    final = {"outputs": [{"name": "final", "parameters": BYTES}]}
    classes = {"outputs": [{"name": "final", "parameters": {**BYTES, "classification": 2}}]}
    wanted: list[tuple[dict[str, Any], type]] = [
        (final, Repeated),
        ({**final, "model_name": MODEL}, Repeated),
        ({**final, "id": "7"}, Inference),
        ({**final, "parameters": {"timeout": 10**9}}, Inference),
        ({"outputs": [*final["outputs"], {"name": "lengths", "parameters": BYTES}]}, Inference),
        (classes, Inference),
        ({}, Inference),
    ]

    async def kinds() -> list[list[type]]:
        (tmp_path / MODEL).symlink_to(STORE / MODEL)
        app = create_app(Settings(models=tmp_path, store="memory", poll=0))
        async with app.router.lifespan_context(app):
            return [[type(app.endpoints["infer"].endpoint.parse(asked(rest))) for _ in range(2)] for rest, _ in wanted]

    def asked(rest: dict[str, Any]) -> Request:
        request = binary([("input", "FP32", [2, 4, 12], rows(2, 4, 12).tobytes())], **rest)
        headers = {name.lower().encode(): value.encode() for name, value in request["headers"].items()}
        return Request({"name": MODEL}, headers, b"", request["content"], b"", 0.0)

    assert asyncio.run(kinds()) == [[kind, kind] for _, kind in wanted]
