"""Outputs to answers: labels with probabilities, values in the data's units, tokens."""

import math
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson

from elman.codec.finite import FLOAT32, all_finite
from elman.codec.json import MANY_SEQUENCES, place_of
from elman.codec.requests import PredictRequest, Return
from elman.codec.text import Unknown, listed_unknown
from elman.engine.heads import Head
from elman.engine.sequence import Sequence
from elman.errors import NotFiniteOutput
from elman.repository.feeding import driving_of
from elman.repository.model import Model
from elman.repository.network import Array, Network
from elman.repository.spec import DecoderSpec

# A row of at most this many scores is ranked in plain Python.
_FEW = 128


class OutputOptions(Protocol):
    """The options of a request that concern its output rows."""

    @property
    def returns(self) -> Return: ...

    @property
    def decode(self) -> bool: ...

    @property
    def top(self) -> int: ...


class OutputFormat:
    """All that the codec needs to encode the outputs of one model. Can be pickled, for the codec pool.

    Attributes:
        name, version: of the model.
        decoder: how outputs become labels, tokens or values.
        names: the text of each label or token, if there is one.
        head: what the outputs say of each value, if they are not the values.
        heads: the role of each output beside the primary one, by name: `steps` or `final`.
        target: the features whose scale in their series the outputs have, if they have one.
    """

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.version = model.version
        self.decoder = model.spec.decoder or DecoderSpec()
        self.names = self.decoder.labels or ()
        if self.decoder.kind == "tokens":
            self.names = model.spec.input.vocabulary or tuple(map(str, range(model.network.output_size)))
        head = None if model.spec.forecast is None else model.spec.forecast.head
        self.head = None if head is None else Head(head)
        self.heads = {one.name: one.role for one in model.network.heads}
        scaled = model.spec.task == "forecasting" and model.spec.input.scale is not None
        self.target = list(driving_of(model).target) if scaled else []

    def scale(self, size: int, memory: Array | None = None) -> tuple[Array, Array]:
        """Mean and std of `size` values, float64: `output * std + mean` is in the data's units.

        memory: of the series, as in `elman.codec.rows`.
        """
        mean, std = self.decoder.mean or (0.0,), self.decoder.std or (1.0,)
        if self.target and memory is not None:
            mean, std = memory[:2, self.target]
        # One number for all outputs, one for each, or one for each value of several steps.
        return np.resize(np.array(mean, np.float64), size), np.resize(np.array(std, np.float64), size)


class OutputRows(NamedTuple):
    """What a finished sequence gave.

    Attributes:
        length: the steps that it ran.
        outputs: the requested rows of the primary output, `(rows, output_size)`.
        heads: the requested rows of other outputs by name, `(rows, size)`; one row of an output per sequence;
            None if none was requested.
        unknown: characters of a text that were read as the unknown token.
        memory: what is kept of the rows, as in `elman.codec.rows`; None if nothing is.
    """

    length: int
    outputs: Array
    heads: dict[str, Array] | None = None
    unknown: Unknown = ()
    memory: Array | None = None


# What rows have beside their outputs, if it is nothing.
_OUTPUTS_ALONE = OutputRows(0, np.zeros(0))[2:]


def rows_from(sequence: Sequence, network: Network, heads: Iterable[str] = ()) -> OutputRows:
    """The requested rows of a finished sequence, and those of some heads."""
    outputs, named = joined_rows([sequence], network, heads) if heads else (outputs_of(sequence), None)
    return OutputRows(len(sequence.inputs), outputs, named)


def joined_rows(
    sequences: list[Sequence], network: Network, heads: Iterable[str] = ()
) -> tuple[Array, dict[str, Array] | None]:
    """The requested rows of finished sequences, one after the other, and those of some heads, as in `OutputRows`."""
    if not sequences:
        return np.zeros((0, network.output_size), np.float32), None
    outputs = [outputs_of(one) for one in sequences]
    named = None
    if heads:
        places = {one.name: at for at, one in enumerate(network.heads)}
        named = {
            name: np.concatenate([rows for s in sequences for rows in s.head_outputs[places[name]]]) for name in heads
        }
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs), named


def outputs_of(sequence: Sequence) -> Array:
    """The output rows that were requested of a finished sequence: `(length, output_size)`, or one row."""
    blocks = sequence.outputs
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def encode_answer(
    format: OutputFormat,
    request: PredictRequest[Any, Any],
    rows: list[OutputRows],
    extras: list[dict[str, Any]] | None = None,
) -> bytes:
    """The JSON answer to a predict request.

    Args:
        rows: what each sequence gave.
        extras: further fields of each result.

    Raises NotFiniteOutput, which JSON cannot carry.
    """
    many = request.many
    results = []
    for index, one in enumerate(rows):
        result: dict[str, Any] = {"length": one.length}
        result.update(rows_of(format, one, request, place_of(index, many)))
        if extras:
            result.update(extras[index])
        results.append(result)
    listed = encoded_list(results) if len(results) > MANY_SEQUENCES else results
    return encode_json({"model": format.name, "version": format.version, "results": listed})


def bundled(rows: list[OutputRows]) -> tuple[list[int], list[int], Array] | None:
    """Rows that are outputs alone, for `encode_bundled`: lengths, numbers of rows, and all outputs as one array.

    None if they are not. One array takes far less time to send to another process than thousands.
    """
    if any([one[2:] != _OUTPUTS_ALONE for one in rows]):
        return None
    return [one.length for one in rows], [len(one.outputs) for one in rows], np.concatenate([r.outputs for r in rows])


def encode_bundled(
    format: OutputFormat,
    request: PredictRequest[Any, Any],
    lengths: list[int],
    numbers: list[int],
    outputs: Array,
) -> bytes:
    """As `encode_answer`, from a bundle."""
    ends = pairwise(accumulate(numbers, initial=0))
    rows = [OutputRows(length, outputs[start:end]) for length, (start, end) in zip(lengths, ends, strict=True)]
    return encode_answer(format, request, rows)


def encode_json(answer: object) -> bytes:
    """An answer as JSON. It may contain arrays."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def encoded_list(items: Iterable[object]) -> orjson.Fragment:
    """A list for `encode_json`, encoded item by item, so that other threads run between them."""
    return orjson.Fragment(b"[" + b",".join(map(encode_json, items)) + b"]")


def encode_octets(outputs: Array, returns: Return) -> tuple[bytes, tuple[int, ...]]:
    """Output rows as little-endian float32, row-major, and their shape: `(rows, size)` for `steps`, else `(size,)`."""
    outputs = np.ascontiguousarray(outputs, FLOAT32)
    shape = outputs.shape if returns == "steps" else outputs.shape[1:]
    return outputs.tobytes(), shape


def rows_of(format: OutputFormat, rows: OutputRows, options: OutputOptions, place: str) -> dict[str, Any]:
    """The fields `output` or `outputs`, `decoded`, `heads` and `unknown` of one sequence. Raises NotFiniteOutput."""
    outputs = _json_array(rows.outputs, place)
    steps = options.returns == "steps"
    result: dict[str, Any] = {"outputs": outputs} if steps else {"output": outputs[0]}
    if rows.heads:
        heads = {name: _json_array(values, f"{place}, {name!r}") for name, values in rows.heads.items()}
        per_step = {name: steps and format.heads[name] == "steps" for name in heads}
        result["heads"] = {name: values if per_step[name] else values[-1] for name, values in heads.items()}
    if options.decode:
        decoded = decode_outputs(outputs, format, options.top, rows.memory)
        if decoded is not None:
            result["decoded"] = decoded if steps else decoded[0]
    if rows.unknown:
        result["unknown"] = listed_unknown(rows.unknown)
    return result


def _json_array(outputs: Array, place: str) -> Array:
    """Rows in a dtype that orjson writes: floats with the fewest digits that read back as the same number.

    Raises NotFiniteOutput.
    """
    if outputs.dtype.kind != "f":
        return outputs
    if not all_finite(outputs):
        step = int(np.argwhere(~np.isfinite(outputs))[0][0])
        raise NotFiniteOutput(
            f"the model's output for {place} is not finite (row {step}), which JSON cannot carry; "
            "application/octet-stream can",
            where=place,
        )
    return outputs.astype(np.float32) if outputs.dtype == np.float16 else outputs


def decode_outputs(outputs: Array, format: OutputFormat, top: int, memory: Array | None = None) -> list[Any] | None:
    """Decode each row of `(rows, output_size)` as the model's spec says; None if it has no decoder."""
    kind = format.decoder.kind
    if kind in ("labels", "tokens"):
        return _labels(outputs, format, top)
    return list(_values(outputs, format, memory)) if kind == "values" else None


def meaning_of(outputs: Array, format: OutputFormat, memory: Array | None = None) -> Array:
    """Outputs as probabilities (labels, tokens) or as values in the data's units; float64 of the same shape."""
    decoder = format.decoder
    rows = outputs.astype(np.float64)
    if decoder.kind == "values":
        return _values(rows, format, memory)
    if decoder.kind == "none" or decoder.scores == "probabilities":
        return rows
    if decoder.scores == "log_probabilities":
        return np.exp(np.minimum(rows, 0.0))
    exponents = np.exp(rows - rows.max(axis=1, keepdims=True))
    probabilities: Array = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


def _values(outputs: Array, format: OutputFormat, memory: Array | None) -> Array:
    if format.head is not None:
        outputs = format.head.point(format.head.split(outputs))
    if format.decoder.mean is None and not format.target:
        return outputs
    mean, std = format.scale(outputs.shape[1], memory)
    values: Array = outputs.astype(np.float64) * std + mean
    return values


def _labels(outputs: Array, format: OutputFormat, top: int) -> list[dict[str, Any]]:
    rank = _rank_few if outputs.shape[1] <= _FEW else _rank_many
    word = "label" if format.decoder.kind == "labels" else "token"
    return [_ranked(*rank(row, format.decoder, top), format.names, word) for row in outputs]


def _ranked(order: list[int], probabilities: list[float], names: tuple[str, ...], word: str) -> dict[str, Any]:
    best = [{word: names[i], "probability": p} for i, p in zip(order, probabilities, strict=True)]
    return {**best[0], "top": best}


def _rank_few(row: Array, decoder: DecoderSpec, top: int) -> tuple[list[int], list[float]]:
    """The indices of the `top` highest scores, best first, and their probabilities. Plain floats are faster for few."""
    scores: list[float] = row.tolist()
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top]
    if decoder.scores == "probabilities":
        return order, [scores[i] for i in order]
    if decoder.scores == "log_probabilities":
        return order, [math.exp(min(scores[i], 0.0)) for i in order]
    highest = scores[order[0]]
    total = math.fsum([math.exp(score - highest) for score in scores])
    return order, [math.exp(scores[i] - highest) / total for i in order]


def _rank_many(row: Array, decoder: DecoderSpec, top: int) -> tuple[list[int], list[float]]:
    """Like `_rank_few`, for many scores."""
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
