"""Small networks that feed on their own output, and the plain loops in ONNX Runtime to hold them to."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from elman.repository.spec import METADATA_KEY, DecoderSpec, ForecastSpec, GenerationSpec, InputSpec, ModelSpec
from tests.running import RunningServer

Array = np.ndarray[Any, Any]
Cell = Literal["rnn", "lstm", "gru"]

VOCABULARY = ("<start>", "<end>", "<loud>", *"abcdefghijklmnopqrstuvwxyz ")
CONDITIONS = {"loud": "<loud>"}
EMBEDDING_SIZE = 32
MEAN, STD = 10.0, 2.0


@dataclass(frozen=True)
class Network:
    """A recurrent layer and a linear decoder, with weights drawn from a seed as torch draws them.

    Its input is `(batch, time)` tokens, embedded, where `features` is None, and `(batch, time, features)` otherwise,
    normalised by MEAN and STD. `gain` multiplies the decoder's weights.
    """

    cell: Cell
    outputs: int
    hidden: int
    features: int | None = None
    gain: float = 1.0
    seed: int = 0

    @cached_property
    def graph(self) -> onnx.GraphProto:
        rng = np.random.default_rng(self.seed)
        gates = {"rnn": 1, "lstm": 4, "gru": 3}[self.cell] * self.hidden
        size = self.features or EMBEDDING_SIZE
        bound = self.hidden**-0.5
        shapes = {"W": (1, gates, size), "R": (1, gates, self.hidden), "B": (1, 2 * gates)}
        weights = {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
        weights["decoder"] = self.gain * rng.uniform(-bound, bound, (self.hidden, self.outputs))
        weights["bias"] = rng.uniform(-bound, bound, self.outputs)
        if self.features is None:
            weights["embedding"] = rng.standard_normal((self.outputs, size))
            nodes = [helper.make_node("Gather", ["embedding", "input"], ["x"])]
            data = helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", "time"])
        else:
            weights |= {"mean": np.full(size, MEAN), "std": np.full(size, STD)}
            nodes = [
                helper.make_node("Sub", ["input", "mean"], ["centred"]),
                helper.make_node("Div", ["centred", "std"], ["x"]),
            ]
            data = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "time", size])
        kept = ["h", "c"] if self.cell == "lstm" else ["h"]
        options = {"linear_before_reset": 1} if self.cell == "gru" else {}
        after = [f"{name}_out" for name in kept]
        layer = self.cell.upper()
        nodes += [
            helper.make_node("Transpose", ["x"], ["x_by_time"], perm=[1, 0, 2]),
            helper.make_node(
                layer, ["x_by_time", "W", "R", "B", "", *kept], ["y", *after], hidden_size=self.hidden, **options
            ),
            helper.make_node("Squeeze", ["y", "direction"], ["y_by_time"]),
            helper.make_node("Transpose", ["y_by_time"], ["hidden"], perm=[1, 0, 2]),
            helper.make_node("MatMul", ["hidden", "decoder"], ["scores"]),
            helper.make_node("Add", ["scores", "bias"], ["output"]),
        ]
        tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        tensors.append(numpy_helper.from_array(np.array([1]), "direction"))

        def states(names: list[str]) -> list[onnx.ValueInfoProto]:
            shape = [1, "batch", self.hidden]
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]

        output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "time", self.outputs])
        return helper.make_graph(nodes, self.cell, [data, *states(kept)], [output, *states(after)], tensors)

    @cached_property
    def session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        content = self.proto().SerializeToString()
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def proto(self, spec: ModelSpec | None = None) -> onnx.ModelProto:
        """The model, with its spec in the metadata where there is one."""
        model = helper.make_model(self.graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        if spec is not None:
            helper.set_model_props(model, {METADATA_KEY: json.dumps(spec.dump())})
        return model

    def __call__(self, inputs: Array, *state: Array) -> list[Array]:
        """Outputs `(1, time, outputs)` and the next state; without one, a sequence `(1, time, ...)` starts here."""
        data, *states = self.session.get_inputs()
        state = state or tuple(np.zeros((1, 1, self.hidden), np.float32) for _ in states)
        feed = {one.name: array for one, array in zip(states, state, strict=True)}
        found: list[Array] = self.session.run(None, {data.name: inputs, **feed})
        return found

    def put(self, root: Path, name: str, spec: ModelSpec) -> None:
        """Write the model as version 1 of a repository's `name`."""
        path = root / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(self.proto(spec), path)


def generator(cell: Cell) -> Network:
    # The gain makes what comes next neither certain nor all the same.
    return Network(cell, len(VOCABULARY), hidden=24, gain=8.0, seed=7)


def put_generator(root: Path, name: str, network: Network, endless: bool = False) -> None:
    spec = ModelSpec(
        task="generation",
        input=InputSpec(vocabulary=VOCABULARY),
        generation=GenerationSpec(start="<start>", end=None if endless else "<end>", conditions=CONDITIONS),
        decoder=DecoderSpec(kind="tokens"),
    )
    network.put(root, name, spec)


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


def generate_alone(
    network: Network,
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
    outputs, *state = network(np.array([prompt]))
    tokens: list[int] = []
    while len(tokens) < max_steps:
        scores = outputs[0, -1].astype(np.float64)
        scores[list(banned)] = -np.inf
        if temperature == 0.0:
            token = int(scores.argmax())
        else:
            ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
            kept = ranked[: top_k or len(ranked)]
            highest = scores[kept[0]] / temperature
            weights = [float(np.exp(scores[i] / temperature - highest)) for i in kept]
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
        outputs, *state = network(np.array([[token]]), *state)
    return tokens


Scores = Callable[[tuple[int, ...]], Array]
"""The scores of the next token after some tokens."""


def log_softmax(scores: Array) -> Array:
    scores = scores.astype(np.float64)
    scores = scores - scores.max()
    return scores - np.log(np.exp(scores).sum())


def scores_after(network: Network, prompt: list[int]) -> Scores:
    """The scores of a network, which reads the prompt and all tokens anew each time."""
    return lambda tokens: network(np.array([[*prompt, *tokens]]))[0][0, -1]


def search_alone(
    scores: Scores,
    num_beams: int,
    num_return: int,
    max_steps: int,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    banned: tuple[int, ...] = (0, 2),
    end: int = 1,
) -> list[tuple[float, float, tuple[int, ...]]]:
    """Beam search as `elman.engine.beams` states it: lists that are sorted whole, and all steps are done.

    Returns the score, the sum and the tokens of each, with the end token.
    """
    going: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    closed: list[tuple[float, float, tuple[int, ...]]] = []
    for step in range(1, max_steps + 1):
        longer = [
            (total + float(logprob), (*tokens, token))
            for total, tokens in going
            for token, logprob in enumerate(log_softmax(scores(tokens)))
            if token not in banned
        ]
        longer.sort(key=lambda pair: -pair[0])  # stable
        going = [pair for pair in longer if pair[1][-1] != end][:num_beams]
        ended = [pair for rank, pair in enumerate(longer) if pair[1][-1] == end and rank < num_beams]
        if step == max_steps:
            ended = [pair for pair in longer if pair in going or pair in ended]
        closed += [(total / step**length_penalty, total, tokens) for total, tokens in ended]
        if early_stopping and len(closed) >= num_beams:
            break
    closed.sort(key=lambda one: -one[0])
    return closed[:num_return]


RESIDUALS = ((-0.5,), (-0.1,), (0.0,), (0.2,), (0.6,))


def forecaster(cell: Cell, features: int, outputs: int) -> Network:
    return Network(cell, outputs, hidden=16, features=features, seed=3)


def forecast(server: RunningServer, model: str, code: int = 200, **body: object) -> dict[str, Any]:
    """The answer to a forecast request, whose status must be `code`."""
    answer = server.client.post(f"/v1/models/{model}/forecast", json=body)
    assert answer.status_code == code, answer.text
    return dict(answer.json())


def put_forecaster(root: Path, name: str, network: Network, forecast: ForecastSpec) -> None:
    outputs = network.outputs
    spec = ModelSpec(
        task="forecasting",
        decoder=DecoderSpec(kind="values", mean=(MEAN,) * outputs, std=(STD,) * outputs),
        forecast=forecast,
    )
    network.put(root, name, spec)


def forecast_alone(
    network: Network,
    series: Array,
    horizon: int,
    future: Array | None = None,
    target: tuple[int, ...] = (0,),
    known: tuple[int, ...] = (),
    draws: Array | None = None,
) -> Array:
    """The values after a series, `(horizon, outputs)`, each fed back; `draws` are added to them."""
    outputs, *state = network(series[None])
    values = []
    for step in range(horizon):
        value = outputs[0, -1].astype(np.float64) * STD + MEAN
        if draws is not None:
            value = value + draws[step]
        values.append(value)
        row = np.zeros(series.shape[1], np.float32)
        if future is not None:
            row[list(known)] = future[step]
        row[list(target)] = value
        outputs, *state = network(row[None, None], *state)
    return np.array(values)
