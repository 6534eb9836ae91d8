"""Recurrent forecasters of darts, written by its own to_onnx: `python darts_models.py FOLDER`."""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
from darts import TimeSeries
from darts.models import BlockRNNModel, RNNModel
from darts.utils.likelihood_models.torch import GaussianLikelihood
from writing import version_folder, write_rows

WINDOW, LENGTHS = 12, (12, 1, 20)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
COMMON = {"n_epochs": 1, "random_state": 0, "hidden_dim": 8, "batch_size": 8, "input_chunk_length": WINDOW}
STEPS, BLOCK = {"training_length": 20}, {"output_chunk_length": 4}
MODELS = {
    "rnn_lstm": (RNNModel, {"model": "LSTM", **STEPS}, ()),
    "rnn_gru": (RNNModel, {"model": "GRU", **STEPS}, ()),
    "rnn_rnn": (RNNModel, {"model": "RNN", **STEPS}, ()),
    "rnn_covariates": (RNNModel, {"model": "LSTM", **STEPS}, ("future_covariates",)),
    "rnn_gaussian": (RNNModel, {"model": "GRU", "likelihood": GaussianLikelihood(), **STEPS}, ()),
    "block_lstm": (BlockRNNModel, {"model": "LSTM", **BLOCK}, ()),
    "block_rnn": (BlockRNNModel, {"model": "RNN", **BLOCK}, ()),
    "block_covariates": (BlockRNNModel, {"model": "GRU", **BLOCK}, ("past_covariates",)),
}


def series(components: int = 1) -> TimeSeries:
    t = np.arange(80)
    return TimeSeries.from_values(np.stack([np.sin(t / (5 + k)) for k in range(components)], 1).astype(np.float32))


def write(folder: Path, name: str) -> None:
    kind, options, covariates = MODELS[name]
    model = kind(**COMMON, **options, pl_trainer_kwargs=QUIET)
    model.fit(series(), **{one: series(2) for one in covariates})
    path = version_folder(folder, name) / "model.onnx"
    model.to_onnx(str(path))
    inputs = onnxruntime.InferenceSession(str(path)).get_inputs()
    pairs = {one.name: one.name.replace("_in_", "_out_") for one in inputs if one.name.startswith("state_in_")}
    shapes = {one.name: tuple(one.shape) for one in inputs if one.name not in pairs}
    rng = np.random.default_rng(0)
    rows = []
    for length in LENGTHS:
        steps = (length,) if pairs else ()
        rows.append({key: rng.standard_normal((*steps, *shape)).astype(np.float32) for key, shape in shapes.items()})
    write_rows(folder, name, rows, pairs)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for name in MODELS:
        write(Path(sys.argv[1]), name)
