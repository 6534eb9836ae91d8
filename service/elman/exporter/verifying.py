"""The exported graph beside the module: both must give the same answers at many sizes."""

import itertools
from typing import Any

import numpy as np
import onnxruntime

from elman.exporter.errors import ExportRefused
from elman.exporter.reference import Inputs, Layout, Reference

VERIFIED_AT = tuple(itertools.product((1, 2, 5), (1, 2, 7, 33)))
"""Batches and times at which the graph must agree with the module."""

_FIXED_LENGTH = (
    "A loop over the steps in Python is fixed to one length by the trace: use nn.RNN, nn.LSTM or nn.GRU "
    "over the whole sequence."
)


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one CPU thread; `model` is the content of a file or its path."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # It warns of initial states, because no node reads them.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def verify(model: bytes, reference: Reference, inputs: Inputs, layout: Layout, tolerance: float) -> None:
    """Run the graph and the module at every size of VERIFIED_AT.

    Raises ExportRefused where the graph fails, gives another shape, or differs by more than `tolerance` (absolute).
    """
    session = open_session(model)
    names = [graph_input.name for graph_input in session.get_inputs()]
    for batch, time in VERIFIED_AT:
        tensors = inputs.at(layout, batch, time)
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        where = f"at batch {batch} and length {time}"
        try:
            found = session.run(None, feed)
        except Exception as error:  # onnxruntime raises a dozen kinds, which have no common base
            raise ExportRefused(f"the exported graph fails {where}. {_FIXED_LENGTH} ({error})") from error
        for expected, array in zip(reference.run(tensors), found, strict=True):
            _compare(expected.numpy(), np.asarray(array), where, tolerance)


def _compare(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any], where: str, tolerance: float) -> None:
    if expected.shape != found.shape:
        raise ExportRefused(f"the exported graph gives {found.shape} {where}, torch {expected.shape}. {_FIXED_LENGTH}")
    difference = float(np.abs(expected.astype(np.float64) - found).max())
    if not difference <= tolerance:  # so that NaN is refused too
        raise ExportRefused(f"the exported graph differs from torch by {difference:.2g} {where}")
