"""The exported graph beside the module: both must give the same answers at many sizes."""

import itertools
from typing import Any

import numpy as np
import onnxruntime
import torch

from elman.exporter.errors import ExportRefused
from elman.exporter.reference import TRACED_AT, Inputs, Layout, Reference

VERIFIED_AT = tuple(itertools.product((1, 2, 5), (1, 2, 7, 33)))
"""Batches and times at which the graph must agree with the module."""

_FIXED_LENGTH = (
    "The trace fixed the number of steps, as it does with a loop over the steps in Python: use nn.RNN, nn.LSTM or "
    "nn.GRU over the whole sequence. Or an operator of the module is traced for one length only."
)


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one CPU thread; `model` is the content of a file or its path."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # It warns of initial states, because no node reads them.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def verify(model: bytes, reference: Reference, inputs: Inputs, layout: Layout, tolerance: float) -> None:
    """Run the graph and the module at every size of VERIFIED_AT, on drawn numbers and on the example's own.

    Lengths that are too short for the module itself, as for a pooling, are left out.

    Raises ExportRefused where the graph fails, gives another shape, or differs by more than `tolerance` (absolute).
    NaN and infinities must stand at the same places. Raises it also where the module gives no finite number at all.
    """
    session = open_session(model)
    names = [graph_input.name for graph_input in session.get_inputs()]
    finite = False
    for (batch, time), own in itertools.product(VERIFIED_AT, (False, True)):
        tensors = inputs.at(layout, batch, time, own)
        try:
            expected = reference.run(tensors)
        except ExportRefused:
            if time >= TRACED_AT[1]:
                raise
            continue
        if not own and any(bool(torch.isnan(one).any()) for one in expected):
            continue  # the module is not defined there, such as a logarithm below zero
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        where = f"at batch {batch} and length {time}"
        try:
            found = session.run(None, feed)
        except Exception as error:  # onnxruntime raises a dozen kinds, which have no common base
            raise ExportRefused(f"the exported graph fails {where}. {_FIXED_LENGTH} ({error})") from error
        for one, array in zip(expected, found, strict=True):
            _compare(one.numpy(), np.asarray(array), where, tolerance)
        finite = finite or bool(torch.isfinite(expected[0]).any())
    if not finite:
        raise ExportRefused("the module gives no finite number on input like the example")


def _compare(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any], where: str, tolerance: float) -> None:
    if expected.shape != found.shape:
        raise ExportRefused(f"the exported graph gives {found.shape} {where}, torch {expected.shape}. {_FIXED_LENGTH}")
    wide, other = expected.astype(np.float64), found.astype(np.float64)
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    difference = float(np.abs(np.subtract(wide, other, out=np.zeros_like(wide), where=~same)).max(initial=0.0))
    if not difference <= tolerance:  # so that NaN on one side is refused too
        raise ExportRefused(f"the exported graph differs from torch by {difference:.2g} {where}")
