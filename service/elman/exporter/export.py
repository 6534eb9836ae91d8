"""From a torch module to one ONNX file that the server serves as it is."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elman.exporter.description import Description, Scale, describe
from elman.exporter.dynamic import dynamically_quantised
from elman.exporter.layout import answering_results, check_outputs, find_layout
from elman.exporter.onnx_layers import with_onnx_layers
from elman.exporter.quantising import quantised
from elman.exporter.reference import Inputs, Layout, Reference, prepare
from elman.exporter.tracing import trace
from elman.exporter.verifying import verify
from elman.exporter.writing import embed, write
from elman.repository.spec import InputRole, ModelSpec, Task

TOLERANCE = 1e-5
"""Default of `tolerance`: absolute, for every number of every output."""


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: Tensor | tuple[Any, ...],
    task: Task | None = None,
    labels: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    unknown: str | None = None,
    normalisation: Literal["NFC", "none"] | None = None,
    feature_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    reads: Literal["data", "scaled", "series"] | None = None,
    input_mean: Sequence[float] | None = None,
    input_std: Sequence[float] | None = None,
    initial_state: Sequence[Tensor] = (),
    spec: ModelSpec | None = None,
    roles: Mapping[str, InputRole] = MappingProxyType({}),
    output_names: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
    quantise: bool | Literal["dynamic"] = False,
) -> ModelSpec:
    """Write `module` to `path` as one ONNX file, and return the spec that the file carries.

        export(tagger, "my-models/tagger/1/model.onnx", example=torch.randn(1, 10, 12), labels=["up", "down"])

    The file is written only after ONNX Runtime gave the module's own answers at other batch sizes and lengths than
    the example's. The spec travels in the file, as JSON under the metadata key `elman`, so that the server needs
    nothing else. The module itself is not changed.

    Args:
        module: an `nn.RNN`, `nn.LSTM` or `nn.GRU`, or any module with one of these forwards:
            (x) -> output, (x, h) -> (output, h), (x, (h, c)) -> (output, (h, c)), (x, h, c) -> (output, h, c).
            It may take further inputs, and return further outputs, as tensors or by name in a dict; new states come
            last. The output is float32, either one row a step, (batch, time, size) or time first, as `head(y)` gives,
            or one row a sequence, (batch, size), as `head(y[:, -1])` gives.
        path: of the file. Its folder is made where there is none, and a file that is there is replaced.
        example: x alone, or (x, h), (x, (h, c)), (x, h, c). x is float32 (batch, time, features), or int32 or int64
            token ids (batch, time), or either with time first, or float32 (batch, features) for a module that does
            one step. A state is float32 (layers, batch, hidden), or (batch, hidden). Batch and time may have any
            size: the file takes every size. Further tensors are inputs called as forward calls them: `static` ones
            without the time axis, float32, bool or integer ids (batch, ...); `sequence` ones with the batch and time
            axes of x; `lengths`, integers (batch,), so named; a mask (batch, time), so named and all of it for real
            steps. What can be read in two ways is refused.
        task: what the model is for. Without it, it follows from the decoder: labels make a classification, mean and
            std a regression, a vocabulary of the output's size a generation, and nothing of these "raw".
        labels: a name for each number of an output row, which are scores: logits, probabilities or logarithms of them.
        vocabulary: a token for each token id, the first for id 0.
        unknown: the token of the vocabulary that stands for all others.
        normalisation: the Unicode form that texts are brought into, that of the texts that the vocabulary was made of:
            `NFC`, or `none` if they were taken as they stood. Without it, it is NFC where NFC changes no token.
        feature_names: a name for each feature of x.
        mean, std: one number each for every number of an output row, which stands for `output * std + mean` in the
            data's own units.
        reads: the units that the module reads, which a forecaster with mean and std has to say: `data` if it takes the
            data's own units, `scaled` if it was trained on scaled values. Then the server scales what comes in, and
            each value that is fed back. `series` if it was trained on series that were each standardised by their own
            mean and std (divided by n, not by n - 1): the targets of a forecaster, and all features of another module.
        input_mean, input_std: one number for each feature of x, or one for all: the module reads
            `(x - input_mean) / input_std`. They imply `reads="scaled"`. Without them a module that reads scaled values
            of the features that it foretells reads them by `mean` and `std`. With `reads="series"` they are for the
            features that have no scale of their series.
        initial_state: states that a sequence starts from, shaped like those of the example but with a batch of 1.
            Without them a sequence starts from zeros.
        spec: a description that takes precedence over the arguments above, and over what the module shows.
        roles: the role of a further tensor by its name in forward's signature, where its shape leaves it open: one of
            sequence, static, lengths, mask and state.
        output_names: names of the results beside the states, the primary one first. Without them those of a dict that
            forward returns, or output, output_1 and so on.
        tolerance: the largest absolute difference from torch that is accepted.
        quantise: round the weights of LSTM and GRU layers, and of RNN layers of tanh, to 8 bits, and what they are
            multiplied with. The file is about a quarter as large. It answers near to the module, and the same bits
            whatever runs beside a sequence, so that it is batched, cut and carried on like any other: `tolerance`
            holds for the graph before rounding, the rounded one must only run at every size. Every other layer stays
            float32. The initial h of a layer must have a range that the graph shows: zeros, a constant, a state that
            the layer itself gives, or what a tanh gives. With "dynamic" it is ONNX Runtime's own form instead, of
            LSTM layers and matrix products (`onnxruntime.quantization.quantize_dynamic`), which is faster for small
            layers and one sequence at a time. Its scale is taken over all that is run, so that it is NOT exact and
            is not batched. The metadata key `elman.quantised` names the form.

    Raises:
        ExportRefused: the module fails on input like the example, cannot be traced, does not fit its description, or
            the file would answer otherwise than the module. Nothing was written.
        OSError: the file cannot be written.
    """
    given = spec or ModelSpec()
    scale = Scale(reads, input_mean, input_std)
    said = Description(task, labels, vocabulary, unknown, normalisation, feature_names, mean, std, scale, initial_state)
    reference, inputs = prepare(module, example, vocabulary or given.input.vocabulary)
    with_onnx_layers(reference)  # Layers that cannot be exported are refused before any work is done.
    with torch.no_grad():
        inputs, layout = find_layout(reference, inputs, given, roles)
        outputs = reference.run(inputs.traced(layout))
        names = output_names or _result_names(reference, inputs, layout)
        if not inputs.state and names is None:
            reference.kept = answering_results(outputs, reference, inputs, layout)
            outputs = reference.run(inputs.traced(layout))
        check_outputs(outputs, reference, inputs, layout)
        described = describe(given, said, layout, inputs, outputs, names)
        model = trace(reference, inputs, layout, described)
        embed(model, described, initial_state)
        verify(model.SerializeToString(), reference, inputs, layout, tolerance)
        if quantise:
            model = dynamically_quantised(model) if quantise == "dynamic" else quantised(model)
            verify(model.SerializeToString(), reference, inputs, layout, math.inf)
    write(Path(path), model.SerializeToString())
    return described


def _result_names(reference: Reference, inputs: Inputs, layout: Layout) -> tuple[str, ...] | None:
    """The names of the results beside the states, where forward returns a dict."""
    names = reference.result_names(inputs.traced(layout))
    return None if names is None else names[: len(names) - len(inputs.state)]
