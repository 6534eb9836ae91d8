"""The ModelSpec that an exported file carries: from the caller's words, and from the module itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from elman.errors import ModelRefused
from elman.exporter.errors import ExportRefused
from elman.exporter.reference import Inputs, Layout
from elman.repository.spec import (
    DecoderSpec,
    InputSpec,
    ModelSpec,
    PortSpec,
    StateSpec,
    Task,
    first_error,
    parse_spec,
)

# The task of a model whose decoder is of this kind, where nobody says another.
_TASKS: dict[str, Task] = {"labels": "classification", "values": "regression", "tokens": "generation"}


@dataclass(frozen=True)
class Description:
    """What the caller of `export` said about the model. Its docstring explains each."""

    task: Task | None
    labels: Sequence[str] | None
    vocabulary: Sequence[str] | None
    unknown: str | None
    normalisation: Literal["NFC", "none"] | None
    feature_names: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    scale: "Scale"
    initial_state: Sequence[Tensor]


@dataclass(frozen=True)
class Scale:
    """The units that the module reads, as the caller of `export` said."""

    reads: Literal["data", "scaled", "series"] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def describe(
    given: ModelSpec,
    said: Description,
    layout: Layout,
    inputs: Inputs,
    outputs: Sequence[Tensor],
    output_names: Sequence[str] | None,
) -> ModelSpec:
    """The given spec, with what it leaves out taken from the module and the caller's words. Raises ExportRefused.

    The data and the states get names of the export's own, whatever the given spec calls them.
    """
    num_outputs = len(outputs) - len(inputs.state)
    try:
        found = _input_spec(said, layout, inputs)
        kept = given.input.model_dump(exclude_unset=True, exclude={"name"})
        decoder = given.decoder or _decoder_spec(said, outputs[0], _forecasts(given, said))
        kept = {**_scale(given, said, decoder, found), **kept}
        spec = given.model_copy(
            update={
                "task": given.task or said.task or (_TASKS.get(decoder.kind, "raw") if decoder else "raw"),
                "input": InputSpec(**{**found.model_dump(exclude_unset=True), **kept}),
                "state": _state_specs(inputs, layout, said.initial_state) or None,
                "inputs": {**_port_specs(inputs, layout), **given.inputs},
                "outputs": _output_names(output_names, num_outputs),
                "decoder": decoder,
                "initial_state": "learned" if said.initial_state else "zeros",
            }
        )
        # As the server reads it from the file.
        parse_spec(json.dumps(spec.dump()), "the description")
    except ModelRefused as refused:
        raise ExportRefused(refused.reason) from None
    except ValidationError as error:
        raise ExportRefused(f"the description contradicts itself: {first_error(error)}") from error
    _check_sizes(spec, outputs[0], inputs.state, said.initial_state)
    _check_names(spec)
    _check_units(spec, said.scale)
    return spec


def _scale(given: ModelSpec, said: Description, decoder: DecoderSpec | None, found: InputSpec) -> dict[str, Any]:
    """The fields `mean`, `std` and `scale` of the input, if the module reads scaled values. Raises ExportRefused."""
    scale = said.scale
    if scale.reads == "series":
        if _forecasts(given, said) and decoder is not None and decoder.mean is not None:
            raise ExportRefused('reads is "series", so each output has the scale of its series: leave out mean and std')
        own = {} if scale.mean is None and scale.std is None else {"mean": scale.mean, "std": scale.std}
        return {"scale": "series", **{name: _numbers(values) for name, values in own.items()}}
    if scale.reads == "data" and (scale.mean is not None or scale.std is not None):
        raise ExportRefused('reads is "data", but input_mean or input_std says that the module reads scaled values')
    if scale.mean is not None or scale.std is not None:
        return {"mean": _numbers(scale.mean), "std": _numbers(scale.std)}
    if scale.reads != "scaled" or given.input.mean is not None:
        return {}
    target = tuple(range(found.size or 0)) if given.forecast is None else given.forecast.target
    if decoder is None or decoder.mean is None or target != tuple(range(found.size or 0)):
        raise ExportRefused('reads is "scaled": give input_mean and input_std, one number for each feature of x')
    return {"mean": decoder.mean, "std": decoder.std}


def _check_units(spec: ModelSpec, scale: Scale) -> None:
    """Raises ExportRefused for a forecaster whose outputs are scaled, if nothing says whether its inputs are."""
    decoder = spec.decoder or DecoderSpec()
    if spec.task == "forecasting" and decoder.mean is not None and spec.input.mean is None and scale.reads is None:
        raise ExportRefused(
            "mean and std say that the outputs are scaled. A forecast feeds them back, so say what the module reads: "
            'reads="scaled" if it was trained on scaled values, reads="data" if it takes the data\'s own units'
        )


def _port_specs(inputs: Inputs, layout: Layout) -> dict[str, PortSpec]:
    """The roles of the inputs beside data and state."""
    return {
        one.name: PortSpec(role=one.role, batch_axis=batch, time_axis=time, valid=one.valid)
        for one, (batch, time) in zip(inputs.others, layout.others, strict=True)
        if one.role != "state"
    }


def _output_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"output_{i}" if i else "output" for i in range(count))
    if len(names) != count:
        raise ExportRefused(f"output_names lists {len(names)}, but forward returns {count} results beside its states")
    _refuse_twice(names)
    return tuple(names)


def _check_names(spec: ModelSpec) -> None:
    """Raises ExportRefused where two inputs or outputs would have one name."""
    states = spec.state or ()
    names = [str(spec.input.name), *spec.inputs, *(spec.outputs or ())]
    names += [name for state in states for name in (state.input, state.output)]
    _refuse_twice(names)


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ExportRefused(f"two inputs or outputs of the file would be called {name!r}: rename one of forward's")


def _input_spec(said: Description, layout: Layout, inputs: Inputs) -> InputSpec:
    axes: dict[str, Any] = {"name": "input", "batch_axis": layout.batch_axis, "time_axis": layout.time_axis}
    if said.normalisation is not None:
        axes["normalisation"] = said.normalisation
    if inputs.x.is_floating_point():
        names = None if said.feature_names is None else tuple(said.feature_names)
        return InputSpec(kind="features", size=inputs.x.shape[-1], names=names, **axes)
    vocabulary = None if said.vocabulary is None else tuple(said.vocabulary)
    return InputSpec(
        kind="tokens", vocabulary=vocabulary, vocabulary_size=inputs.num_tokens, unknown=said.unknown, **axes
    )


def _state_specs(inputs: Inputs, layout: Layout, initial_state: Sequence[Tensor]) -> tuple[StateSpec, ...]:
    axes = [batch for one, (batch, _) in zip(inputs.others, layout.others, strict=True) if one.role == "state"]
    num_states = len(axes)
    names = ("h", "c")[:num_states] if num_states <= 2 else tuple(f"state_{i}" for i in range(num_states))
    return tuple(
        StateSpec(
            input=name,
            output=f"{name}_out",
            batch_axis=axis,
            initial=f"{name}_initial" if initial_state else None,
        )
        for name, axis in zip(names, axes, strict=True)
    )


def _forecasts(given: ModelSpec, said: Description) -> bool:
    return (given.task or said.task) == "forecasting"


def _decoder_spec(said: Description, output: Tensor, forecasts: bool) -> DecoderSpec | None:
    if said.labels is not None:
        return DecoderSpec(kind="labels", labels=tuple(said.labels), scores=_scores(output))
    if said.mean is not None or said.std is not None:
        return DecoderSpec(kind="values", mean=_numbers(said.mean), std=_numbers(said.std))
    if forecasts and said.scale.reads == "series":
        return DecoderSpec(kind="values")
    generates = said.vocabulary is not None and said.task in (None, "generation")
    if generates and output.shape[-1] == len(said.vocabulary or ()):
        return DecoderSpec(kind="tokens", scores=_scores(output))
    return None


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _scores(output: Tensor) -> Any:
    """The kind of scores: if every row sums to one they are probabilities, if it does after `exp` their logarithms."""
    ones = torch.ones(output.shape[:-1])
    if bool((output >= 0).all()) and torch.allclose(output.sum(dim=-1), ones, atol=1e-4):
        return "probabilities"
    if bool((output <= 0).all()) and torch.allclose(output.exp().sum(dim=-1), ones, atol=1e-4):
        return "log_probabilities"
    return "logits"


def _check_sizes(spec: ModelSpec, output: Tensor, state: Sequence[Tensor], initial_state: Sequence[Tensor]) -> None:
    """Raises ExportRefused where labels, values or initial states do not fit the module."""
    size = output.shape[-1]
    decoder, horizon = spec.decoder or DecoderSpec(), (spec.forecast and spec.forecast.horizon) or 1
    for name, listed in (("labels", decoder.labels), ("mean", decoder.mean), ("std", decoder.std)):
        allowed = {size} if name == "labels" else {size, size // horizon, 1}
        if listed is not None and len(listed) not in allowed:
            raise ExportRefused(f"{name} lists {len(listed)} but an output row has {size} numbers")
    expected = [
        tuple(1 if axis == one.batch_axis else n for axis, n in enumerate(tensor.shape))
        for one, tensor in zip(spec.state or (), state, strict=True)
    ]
    found = [tuple(tensor.shape) for tensor in initial_state]
    if initial_state and found != expected:
        raise ExportRefused(f"initial_state has shapes {found}, but the example's states need {expected}")
