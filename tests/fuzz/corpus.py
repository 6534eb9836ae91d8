"""The first inputs of the fuzzer, made anew each time."""

import gzip
import itertools
import json
from collections.abc import Iterator

import numpy as np

from tests.http.shapes import SHAPES

ROWS = [[0.25 * step] * 12 for step in range(3)]
BYTES = np.array(ROWS, "<f4").tobytes()


def seeds(target: str) -> list[bytes]:
    return list({"codec": _bodies, "grpc": _messages, "http": _heads}[target]())


def _messages() -> Iterator[bytes]:
    """Every message, in a call with a deadline and in one without."""
    from tests.fuzz.messages import messages

    for first, message in itertools.product((b"\0", b"\1"), messages()):
        yield first + message


def _heads() -> Iterator[bytes]:
    """Every shape: whole, or in pieces of one or of seven bytes."""
    for shape, size in zip(SHAPES, itertools.cycle((0, 1, 7)), strict=False):
        yield bytes([size]) + shape.data


def _bodies() -> Iterator[bytes]:
    """To each route, bodies that some route takes."""
    from tests.fuzz.bodies import routes

    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 12]}
    bodies = [
        {"sequence": ROWS, "return": "steps", "top": 2, "timeout": 9.5},
        {"sequences": [ROWS, ROWS[:1]], "decode": False, "heads": [], "return_state": True},
        {"sequence": "Lind", "state": None, "hidden": True},
        {"sequences": ["Lind", [1, 2, 3]], "static": {"a": 1}},
        {"prompt": "Mc", "condition": "Irish", "max_steps": 3, "samples": 2, "top_k": 4, "stop": ["a", "bc"]},
        {"prompt": [5, 6], "num_beams": 3, "num_return_sequences": 2, "max_steps": 2, "early_stopping": True},
        {"prompt": "O", "logprobs": 3, "stream": True, "max_steps": 2, "temperature": 0, "top_p": 0.5},
        {"series": [5, 11, 16.5], "horizon": 3, "samples": 4, "quantiles": [0.1, 0.9], "paths": True, "seed": 1},
        {"series_list": [[[1, 2, 0, 3, 4]] * 3], "future": [[0, 3.5, 4]] * 2, "horizon": 2},
        {"sequence": ROWS, "target": 1, "decode": True, "at": 0},
        {"sequence": [1, 2, 3], "target": "Irish"},
        {"model": "sunspots-gru", "inputs": [{"type": "univariate_time_series", "name": "a", "frequency": "D",
         "series": [1, 2, 3], "start_timestamp": "2024-01-01T00:00:00"}], "options": {"horizon": 2}},
        {"id": "1", "inputs": [{**tensor, "data": ROWS}], "outputs": [{"name": "output"}], "parameters": {"a": 1}},
        {"inputs": [{"name": "input", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}]},
        {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["Lind"]}]},
    ]  # fmt: skip
    texts = [json.dumps(body).encode() for body in bodies]
    binary = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(BYTES)}}]}).encode()
    for index, route in enumerate(routes("0")):
        first = bytes([index])
        if route.line == b"query":
            yield first + b"return=steps&top=2&decode=false&timeout=5\n" + BYTES
            yield first + b"\n" + np.arange(9, dtype="<i4").tobytes()
        elif route.line == b"content-encoding":
            yield from (first + b"gzip\n" + gzip.compress(text, mtime=0) for text in texts[-3:])
        elif route.line:
            yield first + b"%d\n" % len(binary) + binary + BYTES
            yield first + b"0\n" + BYTES
        else:
            yield from (first + text for text in texts)
