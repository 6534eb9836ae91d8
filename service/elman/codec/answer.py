"""Outputs to answers: labels with probabilities, values in the data's units, tokens."""

import math
from typing import Any

import numpy as np
import orjson

from elman.codec.arrays import all_finite
from elman.codec.request import PredictRequest
from elman.engine.sequence import Return, Sequence
from elman.errors import NotFiniteOutput
from elman.repository.model import Model
from elman.repository.network import Array
from elman.repository.spec import DecoderSpec

# What orjson writes as it is, with the fewest digits that read back as the same number.
_JSON_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
# Scores up to which a row is ranked in plain Python.
_FEW = 128


def outputs_of(sequence: Sequence) -> Array:
    """The output rows that a finished sequence was asked for: `(length, output_size)`, or one row."""
    blocks = sequence.outputs
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def encode_answer(
    model: Model, request: PredictRequest, sequences: list[Sequence], extras: list[dict[str, Any]] | None = None
) -> bytes:
    """The JSON answer to a predict request, each result with its `extras`.

    Raises NotFiniteOutput, which JSON cannot carry.
    """
    results = [
        {"length": one.length, **rows_of(model, outputs_of(one), one.returns, request.decode, request.top, place)}
        for one, place in zip(sequences, request.places, strict=True)
    ]
    for result, extra in zip(results, extras or (), strict=False):
        result.update(extra)
    return encode_json({"model": model.name, "version": model.version, "results": results})


def encode_json(answer: object) -> bytes:
    """An answer with arrays in it, as JSON."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_binary(outputs: Array, returns: Return) -> tuple[bytes, tuple[int, ...]]:
    """Output rows as little-endian float32, row-major, and their shape; one row where the last one is all."""
    outputs = np.ascontiguousarray(outputs, "<f4")
    shape = outputs.shape if returns == "steps" else outputs.shape[1:]
    return outputs.tobytes(), shape


def rows_of(model: Model, outputs: Array, returns: Return, decode: bool, top: int, place: str) -> dict[str, Any]:
    """`output` or `outputs`, and `decoded`, of the output rows of one sequence. Raises NotFiniteOutput."""
    _check_finite(outputs, place)
    if outputs.dtype not in _JSON_DTYPES:
        outputs = outputs.astype(np.float32)
    steps = returns == "steps"
    result: dict[str, Any] = {"outputs": outputs} if steps else {"output": outputs[0]}
    if decode:
        decoded = decode_outputs(outputs, model, top)
        if decoded is not None:
            result["decoded"] = decoded if steps else decoded[0]
    return result


def _check_finite(outputs: Array, place: str) -> None:
    if all_finite(outputs):
        return
    step = int(np.argwhere(~np.isfinite(outputs))[0][0])
    raise NotFiniteOutput(
        f"the model's output for {place} is not finite (row {step}), which JSON cannot carry; "
        "application/octet-stream can",
        where=place,
    )


def decode_outputs(outputs: Array, model: Model, top: int) -> list[Any] | None:
    """Decode each row of `(rows, output_size)` as the model's spec says; None where it says nothing."""
    decoder = model.spec.decoder or DecoderSpec()
    if decoder.kind == "labels":
        return _labels(outputs, decoder, decoder.labels or (), top)
    if decoder.kind == "tokens":
        names = model.spec.input.vocabulary
        return _labels(outputs, decoder, names or tuple(map(str, range(outputs.shape[1]))), top, word="token")
    if decoder.kind == "values":
        return list(_values(outputs, decoder))
    return None


def meaning_of(outputs: Array, model: Model) -> Array:
    """What output rows say, float64 of their shape: probabilities of labels or tokens, values in the data's units."""
    decoder = model.spec.decoder or DecoderSpec()
    rows = outputs.astype(np.float64)
    if decoder.kind == "values":
        return _values(rows, decoder)
    if decoder.kind == "none" or decoder.scores == "probabilities":
        return rows
    if decoder.scores == "log_probabilities":
        return np.exp(np.minimum(rows, 0.0))
    exponents = np.exp(rows - rows.max(axis=1, keepdims=True))
    shares: Array = exponents / exponents.sum(axis=1, keepdims=True)
    return shares


def _values(outputs: Array, decoder: DecoderSpec) -> Array:
    if decoder.mean is None or decoder.std is None:
        return outputs
    values: Array = outputs.astype(np.float64) * np.array(decoder.std) + np.array(decoder.mean)
    return values


def _labels(
    outputs: Array, decoder: DecoderSpec, names: tuple[str, ...], top: int, word: str = "label"
) -> list[dict[str, Any]]:
    few = outputs.shape[1] <= _FEW
    return [_ranked(*(_rank_few if few else _rank_many)(row, decoder, top), names, word) for row in outputs]


def _ranked(order: list[int], shares: list[float], names: tuple[str, ...], word: str) -> dict[str, Any]:
    best = [{word: names[i], "probability": share} for i, share in zip(order, shares, strict=True)]
    return {**best[0], "top": best}


def _rank_few(row: Array, decoder: DecoderSpec, top: int) -> tuple[list[int], list[float]]:
    """The `top` largest scores of a row, best first, and their probabilities: in plain floats, quicker for few."""
    scores: list[float] = row.tolist()
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top]
    if decoder.scores == "probabilities":
        return order, [scores[i] for i in order]
    if decoder.scores == "log_probabilities":
        return order, [math.exp(min(scores[i], 0.0)) for i in order]
    highest = scores[order[0]]
    total = math.fsum(math.exp(score - highest) for score in scores)
    return order, [math.exp(scores[i] - highest) / total for i in order]


def _rank_many(row: Array, decoder: DecoderSpec, top: int) -> tuple[list[int], list[float]]:
    """As `_rank_few`, for a vocabulary."""
    scores = row.astype(np.float64)
    top = min(top, len(scores))
    best = np.argpartition(-scores, top - 1)[:top]
    order = best[np.lexsort((best, -scores[best]))]
    if decoder.scores == "probabilities":
        return order.tolist(), scores[order].tolist()
    if decoder.scores == "log_probabilities":
        return order.tolist(), np.exp(scores[order]).tolist()
    exponents = np.exp(scores - scores[order[0]])
    return order.tolist(), (exponents[order] / exponents.sum()).tolist()
