"""Policies with memory of Unity ML-Agents, written by its own exporter: `python mlagents_models.py FOLDER`."""

import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mlagents.trainers.policy.torch_policy import TorchPolicy
from mlagents.trainers.settings import NetworkSettings
from mlagents.trainers.torch_entities.model_serialization import ModelSerializer
from mlagents.trainers.torch_entities.networks import SimpleActor
from mlagents_envs.base_env import ActionSpec, BehaviorSpec, DimensionProperty, ObservationSpec, ObservationType
from writing import version_folder, write_rows

LENGTHS = (5, 1, 9)
MODELS = {
    "continuous": ((6,), ActionSpec.create_continuous(2)),
    "discrete": ((6,), ActionSpec.create_discrete((3,))),
    "branches": ((6,), ActionSpec.create_discrete((3, 2))),
    "two_sensors": ((6, 4), ActionSpec.create_continuous(2)),
    "hybrid": ((6,), ActionSpec(2, (3,))),
}


def sensor(width: int) -> ObservationSpec:
    return ObservationSpec((width,), (DimensionProperty.NONE,), ObservationType.DEFAULT, f"vector of {width}")


def write(folder: Path, name: str) -> None:
    widths, action = MODELS[name]
    torch.manual_seed(0)
    memory = NetworkSettings.MemorySettings(sequence_length=8, memory_size=16)
    network = NetworkSettings(hidden_units=16, num_layers=1, memory=memory, normalize=True)
    behaviour = BehaviorSpec([sensor(width) for width in widths], action)
    policy = TorchPolicy(0, behaviour, network, SimpleActor, {"conditional_sigma": False, "tanh_squash": False})
    ModelSerializer(policy).export_policy_model(str(version_folder(folder, name) / "model"))
    rng = np.random.default_rng(0)
    rows = []
    for length in LENGTHS:
        given = {f"obs_{at}": rng.standard_normal((length, 1, width)) for at, width in enumerate(widths)}
        if action.discrete_size:
            given["action_masks"] = np.ones((length, 1, sum(action.discrete_branches)))
        rows.append({key: value.astype(np.float32) for key, value in given.items()})
    write_rows(folder, name, rows, {"recurrent_in": "recurrent_out"})


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    # The exporter that torch chose by itself when the package was made.
    torch.onnx.export = partial(torch.onnx.export, dynamo=False)
    for name in MODELS:
        write(Path(sys.argv[1]), name)
