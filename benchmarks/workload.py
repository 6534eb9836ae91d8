"""The requests for all contenders: sequences of random lengths, their bodies, and the expected answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import orjson

from benchmarks.load import request
from benchmarks.models import Shape

Array = np.ndarray[Any, Any]
Format = Literal["json", "octet"]

CONTENT_TYPES: dict[Format, str] = {"json": "application/json", "octet": "application/octet-stream"}

MEAN_LENGTH = 23
MAX_LENGTH = 200
_SIGMA = 0.8


def lognormal(rng: np.random.Generator, count: int) -> Array:
    """Mostly short lengths with a few long ones, as for sentences and events."""
    drawn = rng.lognormal(np.log(MEAN_LENGTH) - _SIGMA**2 / 2, _SIGMA, count)
    return np.clip(np.rint(drawn), 1, MAX_LENGTH).astype(int)


def uniform(rng: np.random.Generator, count: int) -> Array:
    return rng.integers(1, 2 * MEAN_LENGTH, count)


def fixed(rng: np.random.Generator, count: int) -> Array:
    return np.full(count, MEAN_LENGTH)


def bimodal(rng: np.random.Generator, count: int) -> Array:
    """Nine short sequences for each long one."""
    return np.where(rng.random(count) < 0.9, 8, 158)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "lognormal": lognormal,
    "uniform": uniform,
    "fixed": fixed,
    "bimodal": bimodal,
}


@dataclass(frozen=True)
class Workload:
    """Sequences `(length, features)` for one model."""

    shape: Shape
    sequences: list[Array]

    @property
    def lengths(self) -> list[int]:
        return [len(sequence) for sequence in self.sequences]

    @property
    def mean_length(self) -> float:
        return float(np.mean(self.lengths))

    def bodies(self, form: Format) -> list[bytes]:
        if form == "octet":
            return [sequence.tobytes() for sequence in self.sequences]
        return [orjson.dumps({"sequence": sequence}, option=orjson.OPT_SERIALIZE_NUMPY) for sequence in self.sequences]

    def requests(self, form: Format) -> list[bytes]:
        """A predict request for each sequence. Its answer has the same form."""
        path, kind = f"/v1/models/{self.shape.name}/predict", CONTENT_TYPES[form]
        return [request(path, body, kind, kind) for body in self.bodies(form)]


def draw(shape: Shape, distribution: str, count: int, seed: int = 0) -> Workload:
    """`count` sequences whose lengths follow a distribution; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return with_lengths(shape, DISTRIBUTIONS[distribution](rng, count).tolist(), seed)


def with_lengths(shape: Shape, lengths: list[int], seed: int = 0) -> Workload:
    """Sequences of given lengths."""
    rng = np.random.default_rng(seed + 1)
    return Workload(shape, [rng.standard_normal((n, shape.features), np.float32) for n in lengths])


def reference(model: Path, sequences: list[Array]) -> list[Array]:
    """The expected answers: o_n of ONNX Runtime for the file, run on each sequence alone."""
    session = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    return [session.run(None, {"input": sequence[None]})[0][0, -1] for sequence in sequences]
