"""Recurrent policies of rsl_rl, exported as its runner does: `python rsl_models.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
import torch
from rsl_rl.models import RNNModel
from tensordict import TensorDict
from writing import version_folder, write_rows

FEATURES, ACTIONS, LENGTHS = 5, 2, (5, 1, 9)


def write(folder: Path, kind: str, layers: int, *, normalised: bool) -> None:
    name = f"{kind}_{layers}{'_normalised' if normalised else ''}"
    torch.manual_seed(0)
    obs = TensorDict({"policy": torch.randn(4, FEATURES)}, batch_size=[4])
    options = {"rnn_type": kind, "rnn_hidden_dim": 8, "rnn_num_layers": layers, "obs_normalization": normalised}
    model = RNNModel(obs, {"actor": ["policy"]}, "actor", ACTIONS, hidden_dims=[8], **options)
    if normalised:
        model.update_normalization(obs)
    # What OnPolicyRunner.export_policy_to_onnx does, which needs an environment to train in.
    module = model.as_onnx().to("cpu").eval()
    path, names = version_folder(folder, name) / "model.onnx", {"input_names": module.input_names}
    names["output_names"] = module.output_names
    torch.onnx.export(module, module.get_dummy_inputs(), str(path), opset_version=18, verbose=False, **names)
    rng = np.random.default_rng(0)
    rows = [{"obs": rng.standard_normal((length, 1, FEATURES)).astype(np.float32)} for length in LENGTHS]
    write_rows(folder, name, rows, dict(zip(module.input_names[1:], module.output_names[1:], strict=True)))


if __name__ == "__main__":
    for kind in ("lstm", "gru"):
        write(Path(sys.argv[1]), kind, 1, normalised=False)
        write(Path(sys.argv[1]), kind, 2, normalised=True)
