"""Recurrent policies of sb3-contrib, exported as its users do: `python sb3_models.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import Tensor, nn
from writing import version_folder, write_rows

LENGTHS = (6, 1, 11)


class Action(nn.Module):
    """The action for an observation, and the actor's next state."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        action, states = self.policy._predict(obs, (h, c), torch.zeros(obs.shape[0]), deterministic=True)
        return action, *states


class Distribution(Action):
    """The scores of the actions: none is chosen in the graph."""

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        distribution, states = self.policy.get_distribution(obs, (h, c), torch.zeros(obs.shape[0]))
        return distribution.distribution.logits, *states


class Everything(Action):
    """Action, value and probability, with the states of actor and critic, as the policy's own forward gives them."""

    def forward(self, obs: Tensor, pi_h: Tensor, pi_c: Tensor, vf_h: Tensor, vf_c: Tensor) -> tuple[Tensor, ...]:
        states = RNNStates((pi_h, pi_c), (vf_h, vf_c))
        action, value, log_prob, states = self.policy(obs, states, torch.zeros(obs.shape[0]), deterministic=True)
        return action, value, log_prob, *states.pi, *states.vf


ACTOR, BOTH = ("h", "c"), ("pi_h", "pi_c", "vf_h", "vf_c")
MODELS = {
    "discrete_action": ("CartPole-v1", Action, ACTOR, ("action",)),
    "discrete_logits": ("CartPole-v1", Distribution, ACTOR, ("logits",)),
    "box_action": ("Pendulum-v1", Action, ACTOR, ("action",)),
    "box_everything": ("Pendulum-v1", Everything, BOTH, ("action", "value", "log_prob")),
}


def write(folder: Path, name: str, *, free: bool) -> None:
    env, wrapper, states, answers = MODELS[name.removesuffix("_free")]
    torch.manual_seed(0)
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=8, policy_kwargs={"lstm_hidden_size": 16}, device="cpu")
    (width,) = model.observation_space.shape
    lstm = model.policy.lstm_actor
    state = torch.zeros(lstm.num_layers, 1, lstm.hidden_size)
    pairs = {f"{one}_in": f"{one}_out" for one in states}
    axes = {one: {0: "batch"} for one in ("obs", *answers)} | {one: {1: "batch"} for one in (*pairs, *pairs.values())}
    torch.onnx.export(
        wrapper(model.policy).eval(),
        (torch.zeros(1, width), *[state] * len(states)),
        str(version_folder(folder, name) / "model.onnx"),
        dynamo=False,
        input_names=["obs", *pairs],
        output_names=[*answers, *pairs.values()],
        dynamic_axes=axes if free else {},
    )
    rng = np.random.default_rng(0)
    rows = [{"obs": rng.standard_normal((length, 1, width)).astype(np.float32)} for length in LENGTHS]
    write_rows(folder, name, rows, pairs)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for name in MODELS:
        write(Path(sys.argv[1]), name, free=False)
        write(Path(sys.argv[1]), f"{name}_free", free=True)
