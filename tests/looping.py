"""Small networks that feed on their own output, and the plain loops in torch to hold them to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elman.exporter.export import export
from elman.repository.spec import DecoderSpec, ForecastSpec, GenerationSpec, ModelSpec
from models.recurrent import Cell, Recurrent, Shape

Array = np.ndarray[Any, Any]

VOCABULARY = ("<start>", "<end>", "<loud>", *"abcdefghijklmnopqrstuvwxyz ")
CONDITIONS = {"loud": "<loud>"}


def generator(cell: Cell) -> Recurrent:
    torch.manual_seed(7)
    shape = Shape(cell=cell, num_outputs=len(VOCABULARY), vocabulary_size=len(VOCABULARY), hidden_size=24)
    network = Recurrent(shape).eval()
    with torch.no_grad():
        network.decoder.weight.mul_(8)  # so that what comes next is neither certain nor all the same
    return network


def put_generator(root: Path, name: str, network: Recurrent, endless: bool = False) -> None:
    spec = ModelSpec(
        task="generation",
        generation=GenerationSpec(start="<start>", end=None if endless else "<end>", conditions=CONDITIONS),
        decoder=DecoderSpec(kind="tokens"),
    )
    example = (torch.zeros(1, 5, dtype=torch.int64), *network.initial_state())
    export(network, root / name / "1" / "model.onnx", example=example, vocabulary=VOCABULARY, spec=spec)


@dataclass(frozen=True)
class Mix:
    """The steps of SplitMix64, one number at a time."""

    seed: int

    def uniform(self, path: int, step: int) -> float:
        mask = 2**64 - 1
        z = (self.seed + ((path << 32) + step + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@torch.no_grad()
def written_in_torch(
    network: Recurrent,
    prompt: list[int],
    seed: int,
    path: int,
    max_steps: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    banned: tuple[int, ...] = (0, 2),
    end: int = 1,
) -> list[int]:
    """The tokens after a prompt, by the rule that `elman.engine.sampling` states, in the plainest of loops."""
    mix = Mix(seed)
    outputs, *state = network(torch.tensor([prompt]))
    tokens: list[int] = []
    while len(tokens) < max_steps:
        scores = outputs[0, -1].double()
        scores[list(banned)] = -torch.inf
        if temperature == 0.0:
            token = int(scores.argmax())
        else:
            ranked = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))
            kept = ranked[: top_k or len(ranked)]
            highest = scores[kept[0]] / temperature
            weights = [float(torch.exp(scores[i] / temperature - highest)) for i in kept]
            total, sum_before, num_needed = sum(weights), 0.0, 0
            for weight in weights:
                if top_p < 1.0 and sum_before >= top_p * total:
                    break
                sum_before += weight
                num_needed += 1
            kept, weights = kept[:num_needed], weights[:num_needed]
            threshold, running, token = mix.uniform(path, len(tokens)) * sum(weights), 0.0, kept[-1]
            for candidate, weight in zip(kept, weights, strict=True):
                running += weight
                if running > threshold:
                    token = candidate
                    break
        if token == end:
            break
        tokens.append(token)
        outputs, *state = network(torch.tensor([[token]]), *state)
    return tokens


RESIDUALS = ((-0.5,), (-0.1,), (0.0,), (0.2,), (0.6,))
MEAN, STD = 10.0, 2.0


def forecaster(cell: Cell, features: int, outputs: int) -> Recurrent:
    torch.manual_seed(3)
    network = Recurrent(Shape(cell=cell, num_outputs=outputs, num_features=features, hidden_size=16)).eval()
    network.shift.fill_(MEAN)
    network.scale.fill_(1 / STD)
    return network


def put_forecaster(root: Path, name: str, network: Recurrent, forecast: ForecastSpec) -> None:
    outputs = network.shape.num_outputs
    spec = ModelSpec(
        task="forecasting",
        decoder=DecoderSpec(kind="values", mean=(MEAN,) * outputs, std=(STD,) * outputs),
        forecast=forecast,
    )
    example = (torch.zeros(1, 5, network.shape.num_features or 1), *network.initial_state())
    export(network, root / name / "1" / "model.onnx", example=example, spec=spec)


@torch.no_grad()
def carried_on_in_torch(
    network: Recurrent,
    series: Array,
    horizon: int,
    future: Array | None = None,
    target: tuple[int, ...] = (0,),
    known: tuple[int, ...] = (),
    draws: Array | None = None,
) -> Array:
    """The values after a series, `(horizon, outputs)`, each fed back; `draws` are added to them."""
    outputs, *state = network(torch.from_numpy(series)[None])
    values = []
    for step in range(horizon):
        value = outputs[0, -1].double().numpy() * STD + MEAN
        if draws is not None:
            value = value + draws[step]
        values.append(value)
        row = np.zeros(series.shape[1], np.float32)
        if future is not None:
            row[list(known)] = future[step]
        row[list(target)] = value
        outputs, *state = network(torch.from_numpy(row)[None, None], *state)
    return np.array(values)
