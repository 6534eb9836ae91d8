"""From a torch module to one ONNX file that the server serves as it is.

    export(tagger, "models/store/tagger/1/model.onnx", example=torch.randn(1, 10, 12), labels=["up", "down"])

The file is only written after ONNX Runtime has given the module's own answers, at other batch sizes and
lengths than the example's. Everything the server must know travels inside it, as a ModelSpec in JSON
under the metadata key `elman`.
"""

import copy
import itertools
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from elman.exporter.onnx_layers import UnsupportedLayer, with_onnx_layers
from elman.exporter.onnx_scan import expand_projected
from elman.repository.spec import METADATA_KEY, QUANTISED_KEY, DecoderSpec, InputSpec, ModelSpec, StateSpec, Task

TOLERANCE = 1e-5
"""Largest difference from torch of any output, whatever its size."""

TRACED_AT = (3, 5)
"""Batch and time of the trace: 0 and 1 would be taken for constants."""

VERIFIED_AT = tuple(itertools.product((1, 2, 5), (1, 2, 7, 33)))
"""Batches and times at which the file must agree with the module."""

FIXED_LENGTH = (
    "A loop over the steps in Python is fixed to one length by the trace: use nn.RNN, nn.LSTM or nn.GRU "
    "over the whole sequence."
)

# What torch's exporter says of its own insides, whatever it is given.
EXPORTER_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (DeprecationWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, r"# The axis name: .* will not be used"),
)


class ExportRefused(Exception):
    """The module cannot be exported so that the file answers as it does. Nothing was written."""


@dataclass(frozen=True)
class Layout:
    """Which axes of the data input and the state may vary; `time_axis` is None for a step graph."""

    batch_axis: int
    time_axis: int | None
    state_axes: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What the caller of `export` said in so many words."""

    task: Task | None
    labels: Sequence[str] | None
    vocabulary: Sequence[str] | None
    unknown: str | None
    feature_names: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None


class Flat(nn.Module):
    """A module as a function of flat tensors: (x, *state) -> (output, ..., *new_state).

    `kept` are the results that become outputs of the file; all of them where it is None.
    """

    def __init__(self, module: nn.Module, nested: bool) -> None:
        super().__init__()
        self.module = module
        self.nested = nested
        self.kept: tuple[int, ...] | None = None

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        result = flatten(self.module(x, *((state,) if self.nested else state)))
        return result if self.kept is None else tuple(result[i] for i in self.kept)


class Prober:
    """Makes inputs like the example at any batch and time, always the same ones."""

    def __init__(self, x: Tensor, state: tuple[Tensor, ...], num_tokens: int | None) -> None:
        self.x = x
        self.state = state
        self.num_tokens = num_tokens
        self.generator = torch.Generator().manual_seed(0)

    def inputs(self, layout: Layout, batch: int, time: int) -> tuple[Tensor, ...]:
        sizes = {layout.batch_axis: batch, layout.time_axis: time}
        x = self._like(self.x, [sizes.get(axis, size) for axis, size in enumerate(self.x.shape)])
        states = zip(self.state, layout.state_axes, strict=True)
        return x, *(
            self._like(state, [batch if i == axis else size for i, size in enumerate(state.shape)])
            for state, axis in states
        )

    def _like(self, example: Tensor, shape: Sequence[int]) -> Tensor:
        if not example.is_floating_point():
            assert self.num_tokens is not None
            return torch.randint(0, self.num_tokens, shape, generator=self.generator, dtype=example.dtype)
        spread = example.std(correction=0) or torch.tensor(1.0)
        return example.mean() + spread * torch.randn(shape, generator=self.generator)


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: Tensor | tuple[Any, ...],
    task: Task | None = None,
    labels: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    unknown: str | None = None,
    feature_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    initial_state: Sequence[Tensor] = (),
    spec: ModelSpec | None = None,
    tolerance: float = TOLERANCE,
    quantise: bool = False,
) -> ModelSpec:
    """Write `module` to `path` as one ONNX file, and return the spec that it carries.

    module: an `nn.RNN`, `nn.LSTM`, `nn.GRU`, or any module whose forward is one of
        (x) -> output, (x, h) -> (output, h), (x, (h, c)) -> (output, (h, c)), (x, h, c) -> (output, h, c).
        The output keeps the time axis, the decoder being applied to every step, or is one row a sequence,
        (batch, ...), as of `head(y[:, -1])`.
    example: x alone, or (x, h), (x, (h, c)), (x, h, c). x is float32 (batch, time, features), or integer
        tokens (batch, time), or time first; or, for a step graph, (batch, features). A state is
        (layers, batch, hidden), or (batch, hidden). Sizes of batch and time are free.
    labels: one for each score of an output row.
    vocabulary: one for each token id; `unknown` is the one that stands for all others.
    mean, std: outputs become values in the data's own units after `output * std + mean`.
    initial_state: what learned states start from, as the example's but with a batch of one.
    spec: what it says is kept; the rest is filled in.
    tolerance: largest difference from torch, absolute, that is not refused.
    quantise: round the weights of LSTM layers and matrix products to 8 bits (half their range, so that no sum
        overflows on processors without VNNI), and what is multiplied by them as it comes
        (onnxruntime.quantization.quantize_dynamic). The file is smaller and is NOT exact: `tolerance` holds for the
        graph before rounding, and of the rounded one only that it runs at every size. Its metadata has the key
        `elman.quantised`. GRU and RNN nodes stay as they are.

    Raises ExportRefused, having written nothing, where the module cannot be traced, where the description
    does not fit it, and where the file would answer otherwise than the module by more than `tolerance`.
    """
    given = spec or ModelSpec()
    wanted = Wanted(task, labels, vocabulary, unknown, feature_names, mean, std)
    reference, x, state = _prepare(module, example)
    prober = Prober(x, state, _num_tokens(module, x, vocabulary or given.input.vocabulary))
    with torch.no_grad():
        layout = _find_layout(reference, prober, given)
        if not state:
            reference.kept = _alike(reference(*prober.inputs(layout, *TRACED_AT)), layout)
        outputs = reference(*prober.inputs(layout, *TRACED_AT))
        _check_outputs(outputs, reference, prober, layout)
        spec = _describe(given, wanted, layout, prober, outputs, initial_state)
        _check_description(spec, outputs[0], state, initial_state)
        model = _trace(reference, prober.inputs(layout, *TRACED_AT), layout, spec)
        _embed(model, spec, initial_state)
        _verify(model.SerializeToString(), reference, prober, layout, tolerance)
        if quantise:
            model = quantised(model)
            _verify(model.SerializeToString(), reference, prober, layout, math.inf)
    _write(Path(path), model.SerializeToString())
    return spec


def flatten(result: Any) -> tuple[Tensor, ...]:
    """The tensors of nested tuples and lists, in order."""
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, tuple | list):
        return tuple(tensor for part in result for tensor in flatten(part))
    raise ExportRefused(f"forward must return tensors, or tuples of them, not {type(result).__name__}")


def _prepare(module: nn.Module, example: Tensor | tuple[Any, ...]) -> tuple[Flat, Tensor, tuple[Tensor, ...]]:
    """A copy of the module that is safe to run, with the example taken apart."""
    x, *rest = (example,) if isinstance(example, Tensor) else example
    nested = len(rest) == 1 and not isinstance(rest[0], Tensor)
    state = tuple(tensor.detach().cpu() for tensor in flatten(rest))
    if x.dtype not in (torch.float32, torch.int32, torch.int64):
        raise ExportRefused(f"the data input must be float32, or int32 or int64 tokens, not {x.dtype}")
    if x.dim() < 2:
        raise ExportRefused(f"the example must have a batch axis, but its shape is {tuple(x.shape)}")
    reference = Flat(copy.deepcopy(module).cpu().eval(), nested)
    try:
        with_onnx_layers(reference)
    except UnsupportedLayer as error:
        raise ExportRefused(str(error)) from error
    return reference, x.detach().cpu(), state


def _num_tokens(module: nn.Module, x: Tensor, vocabulary: Sequence[str] | None) -> int | None:
    if x.is_floating_point():
        return None
    if vocabulary is not None:
        return len(vocabulary)
    embeddings = [layer for layer in module.modules() if isinstance(layer, nn.Embedding)]
    return embeddings[0].num_embeddings if embeddings else int(x.max()) + 1


def _find_layout(module: Flat, prober: Prober, given: ModelSpec) -> Layout:
    """Which axis is the batch. Where the spec does not say, the module is asked: see `_keeps_rows_apart`."""
    state_axes = tuple(
        given.state[i].batch_axis if given.state else int(state.dim() > 2) for i, state in enumerate(prober.state)
    )
    if prober.x.is_floating_point() and prober.x.dim() == 2:
        return Layout(0, None, state_axes)
    candidates = [Layout(axis, 1 - axis, state_axes) for axis in (0, 1)]
    if given.input.batch_axis is not None:
        return candidates[given.input.batch_axis]
    failures: list[Exception] = []
    for layout in candidates:
        try:
            if _keeps_rows_apart(module, prober, layout):
                return layout
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            failures.append(error)
    if len(failures) == len(candidates):
        raise ExportRefused(f"the module fails on input like the example: {failures[0]}") from failures[0]
    raise ExportRefused("a sequence's answer depends on the others in its batch, so none can be served alone")


def _keeps_rows_apart(module: Flat, prober: Prober, layout: Layout) -> bool:
    """Whether changing the first row leaves the answers of all others as they were."""
    x, *state = prober.inputs(layout, *TRACED_AT)
    other, *_ = prober.inputs(layout, *TRACED_AT)
    changed = x.clone()
    changed.select(layout.batch_axis, 0).copy_(other.select(layout.batch_axis, 0))
    before, after = module(x, *state)[0], module(changed, *state)[0]
    axis = layout.batch_axis if _is_per_step(before, layout) else 0
    if axis >= before.dim() or before.shape[axis] != TRACED_AT[0]:
        return False
    before, after = (output.movedim(axis, 0)[1:] for output in (before, after))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def _is_per_step(output: Tensor, layout: Layout) -> bool:
    """Whether an output of TRACED_AT has the batch and time axes of the data, and one of its own."""
    batch, time = TRACED_AT
    leading = (batch,) if layout.time_axis is None else (batch, time) if layout.batch_axis == 0 else (time, batch)
    return output.dim() > len(leading) and output.shape[: len(leading)] == leading


def _check_outputs(outputs: Sequence[Tensor], module: Flat, prober: Prober, layout: Layout) -> None:
    """Hold the module to an output for every step, or one a sequence, and to states that keep their shape."""
    num_states = len(prober.state)
    x, *state = prober.inputs(layout, *TRACED_AT)
    if not _is_per_step(outputs[0], layout) and not _is_per_sequence(outputs[0], module, prober, layout):
        raise ExportRefused(
            f"an input of {tuple(x.shape)} gives an output of {tuple(outputs[0].shape)}, which must keep the "
            "batch and time axes and add its own, as `head(y)`, or keep the batch axis alone, as `head(y[:, -1])`"
        )
    taken = [tuple(tensor.shape) for tensor in state]
    returned = [tuple(output.shape) for output in outputs[len(outputs) - num_states :]]
    if len(outputs) <= num_states or (num_states and returned != taken):
        raise ExportRefused(
            f"forward must return the output and then each new state, shaped {taken}, but returns "
            f"{[tuple(output.shape) for output in outputs]}"
        )


def _is_per_sequence(output: Tensor, module: Flat, prober: Prober, layout: Layout) -> bool:
    """Whether an output is one row a sequence, whose shape does not follow the length."""
    batch, time = TRACED_AT
    if layout.time_axis is None or output.dim() < 2 or output.shape[0] != batch:
        return False
    longer: Tensor = module(*prober.inputs(layout, batch, time + 1))[0]
    return longer.shape == output.shape


def _alike(results: Sequence[Tensor], layout: Layout) -> tuple[int, ...]:
    """Results with the first one's batch and time axes: a final state is of no use without its input."""
    first = results[0]
    if _is_per_step(first, layout):
        return tuple(i for i, result in enumerate(results) if result.shape[:2] == first.shape[:2])
    return tuple(
        i for i, result in enumerate(results) if result.dim() == first.dim() and result.shape[:1] == first.shape[:1]
    )


def _state_names(num_states: int) -> tuple[str, ...]:
    return ("h", "c")[:num_states] if num_states <= 2 else tuple(f"state_{i}" for i in range(num_states))


def _describe(
    given: ModelSpec,
    wanted: Wanted,
    layout: Layout,
    prober: Prober,
    outputs: Sequence[Tensor],
    initial_state: Sequence[Tensor],
) -> ModelSpec:
    """The given spec, with what it leaves out taken from the module and the arguments.

    The names of inputs and outputs are always the export's own: it gives them.
    """
    kinds: dict[str, Task] = {"labels": "classification", "values": "regression", "tokens": "generation"}
    num_outputs = len(outputs) - len(prober.state)
    try:
        found = _input_spec(wanted, layout, prober)
        said = given.input.model_dump(exclude_unset=True, exclude={"name"})
        decoder = given.decoder or _decoder_spec(wanted, outputs[0])
        return given.model_copy(
            update={
                "task": given.task or wanted.task or (kinds.get(decoder.kind, "raw") if decoder else "raw"),
                "input": InputSpec(**{**found.model_dump(exclude_unset=True), **said}),
                "state": _state_specs(layout, initial_state) or None,
                "outputs": tuple(f"output_{i}" if i else "output" for i in range(num_outputs)),
                "decoder": decoder,
                "initial_state": "learned" if initial_state else "zeros",
            }
        )
    except ValueError as error:
        raise ExportRefused(f"the description contradicts itself: {error}") from error


def _input_spec(wanted: Wanted, layout: Layout, prober: Prober) -> InputSpec:
    axes: dict[str, Any] = {"name": "input", "batch_axis": layout.batch_axis, "time_axis": layout.time_axis}
    if prober.x.is_floating_point():
        names = None if wanted.feature_names is None else tuple(wanted.feature_names)
        return InputSpec(kind="features", size=prober.x.shape[-1], names=names, **axes)
    vocabulary = None if wanted.vocabulary is None else tuple(wanted.vocabulary)
    return InputSpec(
        kind="tokens",
        vocabulary=vocabulary,
        vocabulary_size=prober.num_tokens,
        unknown=wanted.unknown,
        **axes,
    )


def _state_specs(layout: Layout, initial_state: Sequence[Tensor]) -> tuple[StateSpec, ...]:
    names = _state_names(len(layout.state_axes))
    return tuple(
        StateSpec(
            input=name,
            output=f"{name}_out",
            batch_axis=axis,
            initial=f"{name}_initial" if initial_state else None,
        )
        for name, axis in zip(names, layout.state_axes, strict=True)
    )


def _decoder_spec(wanted: Wanted, output: Tensor) -> DecoderSpec | None:
    if wanted.labels is not None:
        return DecoderSpec(kind="labels", labels=tuple(wanted.labels), scores=_scores(output))
    if wanted.mean is not None or wanted.std is not None:
        return DecoderSpec(kind="values", mean=_numbers(wanted.mean), std=_numbers(wanted.std))
    generates = wanted.vocabulary is not None and wanted.task in (None, "generation")
    if generates and output.shape[-1] == len(wanted.vocabulary or ()):
        return DecoderSpec(kind="tokens", scores=_scores(output))
    return None


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _scores(output: Tensor) -> Any:
    """What the module's scores are: rows that sum to one are probabilities already."""
    ones = torch.ones(output.shape[:-1])
    if bool((output >= 0).all()) and torch.allclose(output.sum(dim=-1), ones, atol=1e-4):
        return "probabilities"
    if bool((output <= 0).all()) and torch.allclose(output.exp().sum(dim=-1), ones, atol=1e-4):
        return "log_probabilities"
    return "logits"


def _check_description(
    spec: ModelSpec, output: Tensor, state: Sequence[Tensor], initial_state: Sequence[Tensor]
) -> None:
    """Refuse labels, values and initial states that do not fit the module."""
    size = output.shape[-1]
    decoder = spec.decoder or DecoderSpec()
    for name, listed in (("labels", decoder.labels), ("mean", decoder.mean), ("std", decoder.std)):
        if listed is not None and len(listed) != size:
            raise ExportRefused(f"{name} lists {len(listed)} but an output row has {size} numbers")
    wanted = [
        tuple(1 if axis == one.batch_axis else n for axis, n in enumerate(tensor.shape))
        for one, tensor in zip(spec.state or (), state, strict=True)
    ]
    found = [tuple(tensor.shape) for tensor in initial_state]
    if initial_state and found != wanted:
        raise ExportRefused(f"initial_state has shapes {found}; the states of the example ask for {wanted}")


def _trace(reference: Flat, inputs: tuple[Tensor, ...], layout: Layout, spec: ModelSpec) -> onnx.ModelProto:
    """The ONNX graph of the module, batch and time left free."""
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    data_axes = {layout.batch_axis: batch}
    if layout.time_axis is not None:
        data_axes[layout.time_axis] = time
    state_axes = tuple({axis: batch} for axis in layout.state_axes)
    states = spec.state or ()
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                with_onnx_layers(reference),
                inputs,
                dynamo=True,
                verbose=False,
                input_names=["input", *(state.input for state in states)],
                output_names=[*(spec.outputs or ()), *(state.output for state in states)],
                dynamic_shapes=(data_axes, *((state_axes,) if state_axes else ())),
            )
    except UnsupportedLayer as error:
        raise ExportRefused(str(error)) from error
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportRefused(f"torch cannot export this module: {_root_cause(error)}") from error
    assert program is not None
    model = program.model_proto
    expand_projected(model)
    return model


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of its own insides, and nothing else."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in EXPORTER_WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        logger.setLevel(level)


def _embed(model: onnx.ModelProto, spec: ModelSpec, initial_state: Sequence[Tensor]) -> None:
    """Put the spec and the learned initial states into the model, and take the trace's file names out."""
    for described in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        described.ClearField("metadata_props")
        described.ClearField("doc_string")
    for state, tensor in zip(spec.state or (), initial_state, strict=bool(initial_state)):
        array = tensor.detach().cpu().numpy().astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, state.initial))
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(spec.dump(), ensure_ascii=False)})
    onnx.checker.check_model(model)


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one CPU thread; `model` is the file's content or its path."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Initial states are initialisers that no node reads, which it remarks on.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with 8-bit weights, and with what it carries about itself."""
    # Takes a second to import, and few want it.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # It recommends a preparation that is for convolutions.
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            # Of weights of the full range, sums of two products overflow 16 bits on processors without VNNI.
            quantize_dynamic(
                copy.deepcopy(model),
                path,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                op_types_to_quantize=["LSTM", "MatMul"],
            )
            rounded = onnx.load(path)
    finally:
        logging.disable(disabled)
    carried = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(rounded, {**carried, QUANTISED_KEY: "int8 weights, dynamic; not exact"})
    return rounded


def _verify(model: bytes, reference: Flat, prober: Prober, layout: Layout, tolerance: float) -> None:
    """Run the file beside the module at every size of VERIFIED_AT."""
    session = open_session(model)
    names = [graph_input.name for graph_input in session.get_inputs()]
    for batch, time in VERIFIED_AT:
        inputs = prober.inputs(layout, batch, time)
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        where = f"at batch {batch} and length {time}"
        try:
            found = session.run(None, feed)
        except Exception as error:  # onnxruntime raises a dozen kinds, with no base of their own
            raise ExportRefused(f"the exported graph fails {where}. {FIXED_LENGTH} ({error})") from error
        for expected, array in zip(reference(*inputs), found, strict=True):
            _compare(expected.numpy(), np.asarray(array), where, tolerance)


def _compare(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any], where: str, tolerance: float) -> None:
    if expected.shape != found.shape:
        raise ExportRefused(f"the exported graph gives {found.shape} {where}, torch {expected.shape}. {FIXED_LENGTH}")
    difference = float(np.abs(expected - found).max())
    if not difference <= tolerance:
        raise ExportRefused(f"the exported graph differs from torch by {difference:.2g} {where}")


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".model-", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)  # NamedTemporaryFile makes it private
    os.replace(file.name, path)
