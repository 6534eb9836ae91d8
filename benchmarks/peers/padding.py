"""What every batching peer shares: the quickest ways here to read a body, run a padded batch and write an answer."""

import os
import socket
from itertools import chain
from struct import pack

import msgspec
import numpy as np
import onnxruntime as ort
import orjson


class Body(msgspec.Struct):
    sequence: list[list[float]]


_DECODER = msgspec.json.Decoder(Body)


def open_model() -> ort.InferenceSession:
    """The model that BENCH_MODEL names, on one thread, as a server on one core wants it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])


def decode(body: bytes, features: int) -> tuple[bool, np.ndarray]:
    """(whether it was JSON, the sequence `(length, features)`)."""
    if body.startswith(b'{"'):
        return True, from_rows(_DECODER.decode(body).sequence, features)
    return False, np.frombuffer(body, "<f4").reshape(-1, features)


def from_rows(rows: list[list[float]], features: int) -> np.ndarray:
    flat = list(chain.from_iterable(rows))
    return np.frombuffer(pack(f"{len(flat)}f", *flat), np.float32).reshape(len(rows), features)


def run_padded(session: ort.InferenceSession, sequences: list[np.ndarray]) -> np.ndarray:
    """o_n of each sequence, `(batch, outputs)`: padded with zeros, the output taken at each one's own last step."""
    lengths = [len(sequence) for sequence in sequences]
    data = np.zeros((len(lengths), max(lengths), sequences[0].shape[1]), np.float32)
    for row, sequence in enumerate(sequences):
        data[row, : lengths[row]] = sequence
    (output,) = session.run(None, {"input": data})
    return output[np.arange(len(lengths)), np.array(lengths) - 1]


def encode(is_json: bool, row: np.ndarray) -> bytes:
    return orjson.dumps({"output": row}, option=orjson.OPT_SERIALIZE_NUMPY) if is_json else row.tobytes()


def features() -> int:
    return int(os.environ["BENCH_FEATURES"])


def tuning(name: str) -> float:
    """A setting that the tuning chose: `batch` sequences, `wait` in milliseconds."""
    return float(os.environ[f"BENCH_{name.upper()}"])


def free_port() -> int:
    """For what a server listens on besides."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
