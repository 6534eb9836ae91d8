"""The ONNX graph of a module, traced by torch's exporter with batch and time left free."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from elman.exporter.errors import ExportRefused
from elman.exporter.onnx_layers import with_onnx_layers
from elman.exporter.onnx_scan import expand_projected
from elman.exporter.reference import TRACED_AT, Inputs, Layout, Reference
from elman.repository.spec import ModelSpec

# Steps of the second trace. A pooling may leave one of a few steps, and torch takes an extent of 1 for a constant.
_MANY_STEPS = 64

# Warnings that torch's exporter gives about itself, whatever module it is given.
_EXPORTER_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (DeprecationWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, r"# The axis name: .* will not be used"),
)


def trace(reference: Reference, inputs: Inputs, layout: Layout, spec: ModelSpec) -> onnx.ModelProto:
    """The graph of the module, its inputs and outputs named as the spec names them. Raises ExportRefused."""
    model = _traced(reference, inputs, layout, spec, TRACED_AT[1])
    if layout.time_axis is None or _is_free(model, layout.time_axis):
        return model
    longer = _traced(reference, inputs, layout, spec, TRACED_AT[1] + 1)
    if len(longer.graph.node) > len(model.graph.node):
        # A loop over the steps in Python. More of them would take torch minutes and leave the axis as it is.
        return model
    return _traced(reference, inputs, layout, spec, _MANY_STEPS)


def _traced(reference: Reference, inputs: Inputs, layout: Layout, spec: ModelSpec, time: int) -> onnx.ModelProto:
    """The graph of a trace at so many steps. Raises ExportRefused."""
    states = spec.state or ()
    state_names = iter([state.input for state in states])
    names = [next(state_names) if one.role == "state" else one.name for one in inputs.others]
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                with_onnx_layers(reference),
                inputs.at(layout, TRACED_AT[0], time),
                dynamo=True,
                verbose=False,
                input_names=["input", *names],
                output_names=[*(spec.outputs or ()), *(state.output for state in states)],
                dynamic_shapes=_free_axes(layout, time // 2 if time == _MANY_STEPS else 2),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportRefused(f"torch cannot export this module: {_root_cause(error)}") from error
    assert program is not None, "a graph is returned where no file is asked for"
    model = program.model_proto
    expand_projected(model)
    _strip(model)
    return model


def _is_free(model: onnx.ModelProto, time_axis: int) -> bool:
    """Whether the time axis of the data is free. torch fixes it where few steps would need another graph."""
    return not model.graph.input[0].type.tensor_type.shape.dim[time_axis].HasField("dim_value")


def _free_axes(layout: Layout, least: int) -> tuple[object, ...]:
    """The dynamic_shapes of `Reference.forward`: x, then all other tensors as one variadic argument.

    torch distinguishes tensors of one row, and some releases refuse a graph that is not proven to be right for them.
    So the trace is for batches from 2 and for times from `least`. The file itself has no such limit, and is verified at
    size 1 too.
    """
    batch, time = torch.export.Dim("batch", min=2), torch.export.Dim("time", min=least)
    x = {layout.batch_axis: batch}
    if layout.time_axis is not None:
        x[layout.time_axis] = time
    others = tuple({rows: batch} if steps is None else {rows: batch, steps: time} for rows, steps in layout.others)
    return (x, others) if others else (x,)


def _strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes beside the graph, such as the names of source files."""
    for described in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        described.ClearField("metadata_props")
        described.ClearField("doc_string")


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter logs and warns about itself, and no other warning."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in _EXPORTER_WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        logger.setLevel(level)
