"""Reads, rewrites and proves a model file."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import ValidationError

from elman.errors import ModelRefused, SpecRefused, message_of
from elman.repository.calibration import calibrate
from elman.repository.config_reader import ConfigReader
from elman.repository.digest import model_digest
from elman.repository.executor import Executor
from elman.repository.external import embed_external_data
from elman.repository.graph import all_nodes
from elman.repository.model import Model
from elman.repository.model_config import CONFIG_FILE
from elman.repository.network import Array, InputTensor, Network
from elman.repository.proof import Proof, prove
from elman.repository.rewriting import Rewriting, Sample, rewrite_graph
from elman.repository.runtime import RUNTIME_VERSION, GraphSession, RuntimeFailure
from elman.repository.spec import (
    QUANTISED_KEY,
    DecoderSpec,
    ForecastSpec,
    InputSpec,
    ModelSpec,
    embedded_spec,
    parse_spec,
)
from elman.repository.spec_parts import name_part
from elman.repository.triton import TritonConfig, config_file, read_config

# Rewritten and original may round differently where the runtime fuses other nodes; past this they disagree.
_SAME = 1e-4

_RUN = "Run it in ONNX Runtime on sequences of one step and of many, alone and together."
_TELL = "It is a fault of Elman's own. Please report it with the file."
_AGAIN = "Copy or export the file again; onnx.checker.check_model says what is wrong with it."


def load_model(path: Path, name: str, version: int) -> Model:
    """Read, rewrite and prove the model file at `path`.

    Raises ModelRefused, saying what is wrong with it and what would mend it, and nothing else.
    """
    try:
        return _load(path, name, version)
    except ModelRefused:
        raise
    except OSError as error:
        raise ModelRefused(f"a file of it cannot be read: {error.strerror}", remedy=_AGAIN) from None
    except MemoryError:
        raise ModelRefused("loading it takes more memory than there is", remedy=_AGAIN) from None
    except RuntimeFailure as failure:
        raise ModelRefused(f"the graph fails on a probe: {failure}", node=failure.node, remedy=_RUN) from None
    except Exception as error:  # a file may be broken in more ways than can be named
        text = f"{type(error).__name__}: {error}"[:450]
        if _is_sound(path):
            raise ModelRefused(f"the server itself fails on this file, which is sound: {text}", remedy=_TELL) from None
        raise ModelRefused(f"the file is broken: {text}", remedy=_AGAIN) from None


def _is_sound(path: Path) -> bool:
    try:
        onnx.checker.check_model(str(path))
    except Exception:  # whatever the checker says or fails with
        return False
    return True


def _load(path: Path, name: str, version: int) -> Model:
    began = time.monotonic()
    content = _read(path)
    proto = _parse(content, path)
    pieces, external = embed_external_data(proto, path.parent)
    given, triton = _given_spec(path, proto), None
    if (at := config_file(path)) is not None:
        given, triton = ConfigReader(at, read_config(at), proto, given).read(name)
    digest = model_digest(hashlib.sha256(content), path, external)
    try:
        network, proof, session = _first_that_holds(proto, given)
    except ModelRefused as refused:
        if refused.template is not None and not _holds(proto, given, refused.template):
            refused.template = None
        raise name_part(given, refused, lambda spec: _proof_of(proto, spec) is not None, began) from None
    _check_carrying(proto, given, network, proof, began)
    if _rounds_dynamically(proto):
        # However well it repeats its own bits alone, a scale that is taken over all that is run makes them another's.
        rounded = "its weights are rounded to 8 bits, so that it answers only about as its module does"
        proof = replace(proof, exact=False, reason="; ".join(filter(None, [rounded, proof.reason])))
    spec = _resolve(given, network)
    calibration = calibrate(network, proof.min_rows, session)
    if triton is not None:
        network = replace(network, inputs=tuple(_with_source(one, triton) for one in network.inputs))
    return Model(name, version, spec, network, proof, calibration, digest, triton, tuple(pieces))


def _rounds_dynamically(proto: onnx.ModelProto) -> bool:
    """Whether a file says that it is rounded to 8 bits, and has an operator that takes its scale over a whole run."""
    said = any(entry.key == QUANTISED_KEY for entry in proto.metadata_props)
    return said and any(node.op_type.startswith("DynamicQuantize") for node in all_nodes(proto.graph))


def _with_source(tensor: InputTensor, triton: TritonConfig) -> InputTensor:
    """An input with `config.pbtxt` for the source of its role, if that is what said it."""
    if tensor.name not in triton.names:
        return tensor
    return replace(tensor, found=tensor.found.replace("model.json", CONFIG_FILE, 1))


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise ModelRefused(f"{path.name} is not a regular file", remedy=f"Put the model's file at {path.name}.")
        return path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{path.name} cannot be read: {error.strerror}", remedy=_AGAIN) from None


def _parse(content: bytes, path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(content)
    except Exception:
        raise ModelRefused(f"{path.name} is not an ONNX file, or is cut short", remedy=_AGAIN) from None
    if not proto.graph.node:
        raise ModelRefused(f"{path.name} holds no graph", remedy=_AGAIN)
    return proto


def _given_spec(path: Path, proto: onnx.ModelProto) -> ModelSpec:
    beside = path.with_name("model.json")
    if beside.is_file():
        return parse_spec(beside.read_bytes(), "model.json")
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return embedded_spec(metadata) or ModelSpec()


def _first_that_holds(proto: onnx.ModelProto, spec: ModelSpec) -> tuple[Network, Proof, GraphSession]:
    """Rewrite as much as the graph takes: all of it, then without the cut before the decoder, then plainly.

    Returns the network, its proof, and the network opened in ONNX Runtime.
    """
    failures = []
    for want in (Rewriting(), Rewriting(select=False), Rewriting(ragged=False, select=False)):
        try:
            network, sample = rewrite_graph(proto, spec, want)
            session = GraphSession(network.model)
            difference = _disagreement(network, sample, session)
            proof = prove(network, session)
        except RuntimeFailure as failure:
            failures.append(ModelRefused(f"the graph fails on a probe: {failure}", node=failure.node, remedy=_RUN))
            continue
        if difference <= _SAME:
            return network, proof, session
        failures.append(_moved(network, sample, difference))
    raise failures[0]


def _moved(network: Network, sample: Sample, difference: float) -> ModelRefused:
    """The refusal of a network whose outputs are not those of the graph as it was."""
    if _disagreement(network, sample, GraphSession(network.model, optimised=False)) > _SAME:
        reason = f"rewritten for batching, its outputs move by {difference:.2g}"
        return ModelRefused(reason, remedy="Export it again with elman.export.")
    return ModelRefused(
        f"ONNX Runtime {RUNTIME_VERSION} moves its outputs by {difference:.2g} when it optimises the graph",
        remedy="Write what it optimises in another way, such as x.flip(1) in place of an index that counts down.",
    )


def _holds(proto: onnx.ModelProto, given: ModelSpec, template: dict[str, Any]) -> bool:
    """Whether a suggested model.json would serve the file; one with values left open cannot be tried."""
    if None in template.get("constants", {}).values():
        return True
    return _proof_of(proto, given.dump() | template) is not None


def _proof_of(proto: onnx.ModelProto, spec: dict[str, Any]) -> Proof | None:
    """The proof of a file with a spec; None if it is refused."""
    try:
        return _first_that_holds(proto, ModelSpec.model_validate(spec))[1]
    except (ModelRefused, ValidationError):
        return None


def _check_carrying(proto: onnx.ModelProto, given: ModelSpec, network: Network, proof: Proof, began: float) -> None:
    """Raise ModelRefused for states of the spec that do not carry a sequence on, if those of the graph do."""
    told = given.state or any(one.role == "state" for one in given.inputs.values())
    if not told or proof.streaming or network.mixes_time is not None or network.look_ahead is not None:
        return
    moved = ModelRefused("the outputs of a sequence that is cut are not those of the whole one")

    def streams(spec: dict[str, Any]) -> bool:
        found = _proof_of(proto, spec)
        return found is not None and found.streaming

    refused = name_part(given, moved, streams, began)
    if refused is not moved:
        raise refused


def _disagreement(network: Network, sample: Sample, session: GraphSession) -> float:
    """How far the rewritten network is from the graph as it was, as a share of each output's magnitude."""
    rows, time = sample.data.shape[:2]
    first = [np.zeros_like(s.initial) if s.input in sample.zero_states else s.initial for s in network.states]
    states = [value.repeat(rows, state.batch_axis) for state, value in zip(network.states, first, strict=True)]
    every = np.array([(row, step) for row in range(rows) for step in range(time)], np.int64)
    last = every[time - 1 :: time]
    lengths = np.full(rows, time, np.int32)
    executor = Executor(network, session=session)
    worst = 0.0
    for index, (expected, batch, steps) in enumerate(sample.answers):
        select = last if steps is None or network.layout == "step" else every
        if network.answering[index].own_clock:
            continue
        seen, _ = executor.run(sample.data, lengths, states, select, sample.others, heads=True)
        ordered = _in_order(expected, batch, steps)
        worst = max(worst, _share(seen[index], ordered.reshape(len(select), -1)))
    return worst


def _in_order(output: Array, batch: int | None, time: int | None) -> Array:
    """An output with its rows first and then its steps."""
    axes = [axis for axis in (batch, time) if axis is not None]
    return np.moveaxis(output, axes, range(len(axes)))


def _share(seen: Array, expected: Array) -> float:
    scale = max(float(np.abs(np.nan_to_num(expected.astype(np.float64))).max(initial=0.0)), 1.0)
    with np.errstate(all="ignore"):
        apart = np.abs(seen.astype(np.float64) - expected)
    same = (seen == expected) | ((seen != seen) & (expected != expected))
    difference = float(np.where(same, 0.0, apart).max(initial=0.0)) / scale
    return difference if np.isfinite(difference) else float("inf")


def _resolve(given: ModelSpec, network: Network) -> ModelSpec:
    """Fill what the spec left out from the network, and refuse what contradicts it."""
    declared = given.input
    _check_kind(given, network)
    vocabulary_size = network.vocabulary_size or declared.vocabulary_size
    if declared.vocabulary is not None:
        vocabulary_size = len(declared.vocabulary)
    kind = declared.kind or ("tokens" if network.features is None else "features")
    found: dict[str, Any] = {"kind": kind, "name": network.input}
    if network.features is not None:
        found["size"] = network.features
    elif vocabulary_size is not None:
        found["vocabulary_size"] = vocabulary_size
    try:
        resolved = InputSpec.model_validate(declared.model_dump(exclude_none=True) | found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise SpecRefused(
            f"the spec's input does not fit the graph: {message_of(first)}",
            node=f"input {network.input!r}",
            remedy="Correct under input in model.json what the message names.",
        ) from None
    decoder = given.decoder or DecoderSpec()
    task = given.task or ("classification" if decoder.kind == "labels" else "raw")
    _check_decoder(decoder, resolved, network, given.forecast or ForecastSpec())
    return given.model_copy(update={"task": task, "input": resolved, "decoder": decoder})


def _check_kind(given: ModelSpec, network: Network) -> None:
    """Raise ModelRefused where the spec takes ids for numbers or numbers for ids, or has more ids than the network."""
    declared, known, tokens = given.input, network.vocabulary_size, network.features is None
    fields: tuple[str, ...] = ("size",) if tokens else ("vocabulary", "vocabulary_size")
    if not tokens and given.decoder is not None and given.decoder.kind == "tokens":
        fields = ()  # the vocabulary is that of the answers, as of letters that are heard
    told = next((field for field in fields if getattr(declared, field) is not None), None)
    if declared.kind is not None and (declared.kind == "tokens") != tokens:
        told = f"kind {declared.kind!r}"
    if told is not None:
        step = "one whole number, an id" if tokens else f"{network.features} float32 numbers"
        raise SpecRefused(
            f"the spec's input {told} does not fit the graph: a step of {network.input!r} is {step}",
            node=f"input {network.input!r}",
            remedy="Leave it out of model.json, or declare the input float32 in the file if its numbers are no ids."
            if tokens
            else "Leave it out of model.json, or declare the input int64 in the file if its numbers are ids.",
        )
    count = len(declared.vocabulary) if declared.vocabulary is not None else declared.vocabulary_size
    if count is not None and known is not None and count > known:
        what = "lists" if declared.vocabulary is not None else "has, as vocabulary_size says,"
        raise SpecRefused(
            f"the vocabulary {what} {count} tokens, the embedding has {known}",
            node=f"input {network.input!r}",
            remedy="List the tokens that the embedding was trained with.",
        )


def _check_decoder(decoder: DecoderSpec, declared: InputSpec, network: Network, forecast: ForecastSpec) -> None:
    """Raise ModelRefused where the decoder does not fit the output, which may be values of several steps."""
    parameters = (forecast.horizon or 1) * (1 if forecast.head is None else forecast.head.num_parameters)
    size = network.output_size
    vocabulary = declared.vocabulary if decoder.kind == "tokens" else None
    for what, values in (
        ("labels", decoder.labels),
        ("mean", decoder.mean),
        ("std", decoder.std),
        ("tokens of the vocabulary", vocabulary),
    ):
        per_value = {1, size // parameters} if what in ("mean", "std") else set()
        if values is not None and len(values) != size and len(values) not in per_value:
            raise SpecRefused(
                f"the spec lists {len(values)} {what}, a step of the output has {size} numbers",
                node=f"output {network.output_names[0]!r}",
                remedy="Give as many as the output has numbers.",
            )
