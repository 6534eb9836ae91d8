"""Sampled forecasts against a plain loop in ONNX Runtime: one batch of all paths, noise drawn once a step."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.environments import BENCH, ROOT
from benchmarks.measure import WrongAnswer, machine, say
from benchmarks.processes import Process, cores, cpu_seconds
from benchmarks.serving import fetch_json, serving
from elman.repository.spec import METADATA_KEY, parse_spec

STORE = ROOT / "models" / "store"
_TOLERANCE = 1e-3
_CONTEXT = 60


@dataclass(frozen=True)
class Settings:
    """What one run measures: `samples` paths of `horizon` steps, of each model."""

    rounds: int = 5
    seconds: float = 0.0
    models: tuple[str, ...] = ("electricity-gru", "sunspots-gru")
    samples: int = 1000
    horizon: int = 500


QUICK = Settings(rounds=2)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure every model in turns with its loop, and return the results. `save` gets them after each model."""
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "paths": {}}
    with tempfile.TemporaryDirectory(prefix="paths-") as folder:
        repository = Path(folder) / "models"
        loops = {name: Loop(name, repository, settings) for name in settings.models}
        with serving(repository, Path(folder), BENCH / "logs" / "paths.log", store="memory") as process:
            for name, loop in loops.items():
                results["paths"][name] = rounds = [_round(process, loop, settings) for _ in range(settings.rounds)]
                results["machine"]["minutes"] = (time.monotonic() - started) / 60
                one = rounds[0]
                say(f"  {name}: forecast {one['forecast']['cpu']:.2f} s CPU, loop {one['loop']['cpu']:.2f} s CPU")
                save(results)
    return results


class Loop:
    """A shipped forecaster with residuals in its spec, which is put into `repository`, and its plain loop.

    The loop reads `series` for all paths at once. Row 0 is the point forecast, without noise.
    """

    def __init__(self, name: str, repository: Path, settings: Settings) -> None:
        self.name, self.rows, self.horizon = name, 1 + settings.samples, settings.horizon
        model = onnx.load(STORE / name / "1" / "model.onnx")
        carried = {entry.key: entry.value for entry in model.metadata_props}
        spec = parse_spec(carried[METADATA_KEY], name)
        assert spec.decoder is not None and spec.forecast is not None, "it forecasts"
        forecast, rng = spec.forecast, np.random.default_rng(0)
        self.target, self.known = list(forecast.target or (0,)), list(forecast.known)
        self.mean, self.std = np.array(spec.decoder.mean or (0.0,)), np.array(spec.decoder.std or (1.0,))
        self.input_mean, self.input_std = np.array(spec.input.mean or (0.0,)), np.array(spec.input.std or (1.0,))
        self.minimum = -np.inf if forecast.minimum is None else forecast.minimum
        self.residuals = 0.1 * self.std * rng.standard_normal((365, len(self.target)))
        # Errors of whole forecasts would be added to the point forecast, without a run of each path.
        changed = {"errors": None, "residuals": tuple(map(tuple, self.residuals.tolist()))}
        spec = spec.model_copy(update={"forecast": forecast.model_copy(update=changed)})
        onnx.helper.set_model_props(model, {**carried, METADATA_KEY: json.dumps(spec.dump())})
        path = repository / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(model, path)
        features = 1 + max([*self.target, *self.known])
        self.series = rng.random((_CONTEXT, features))
        self.future = rng.random((self.horizon - 1, len(self.known)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)

    def body(self) -> dict[str, Any]:
        """The forecast request of the same paths."""
        wanted = {"series": self.series.tolist(), "horizon": self.horizon, "samples": self.rows - 1}
        return {**wanted, "future": self.future.tolist()} if self.known else wanted

    def run(self) -> np.ndarray:
        """The values of all paths, float64 `(rows, horizon, outputs)`."""
        data, state = (one.name for one in self.session.get_inputs())
        rows, rng = self.rows, np.random.default_rng(1)
        h = np.zeros((self.session.get_inputs()[1].shape[0], rows, self.session.get_inputs()[1].shape[2]), np.float32)
        series = ((self.series - self.input_mean) / self.input_std).astype(np.float32)
        output, h = self.session.run(None, {data: np.repeat(series[None], rows, axis=0), state: h})
        values = np.empty((rows, self.horizon, len(self.target)))
        inputs = np.zeros((rows, 1, self.series.shape[1]), np.float32)
        for step in range(self.horizon):
            noise = self.residuals[rng.integers(len(self.residuals), size=rows)]
            noise[0] = 0.0
            values[:, step] = np.maximum(output[:, -1] * self.std + self.mean + noise, self.minimum)
            if step + 1 < self.horizon:
                inputs[:, 0, self.target] = values[:, step]
                inputs[:, 0, self.known] = self.future[step]
                inputs[:, 0] = (inputs[:, 0] - self.input_mean) / self.input_std
                output, h = self.session.run(None, {data: inputs, state: h})
        return values


def _round(process: Process, loop: Loop, settings: Settings) -> dict[str, Any]:
    """Seconds and processor seconds of one forecast by the server, and of the loop on the same core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[0]})
    try:
        started, cpu = time.perf_counter(), time.process_time()
        values = loop.run()
        ours = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    finally:
        os.sched_setaffinity(0, allowed)
    started, cpu = time.perf_counter(), cpu_seconds(process.pids())
    answer = fetch_json(process.port, "POST", f"/v1/models/{loop.name}/forecast", loop.body())
    served = {"seconds": time.perf_counter() - started, "cpu": cpu_seconds(process.pids()) - cpu}
    point = np.array(answer["point"]).reshape(loop.horizon, -1)
    apart = float(np.abs((point - values[0]) / loop.std).max())
    if apart > _TOLERANCE:
        raise WrongAnswer(f"{loop.name}: the point forecast differs from the loop by {apart} standard deviations")
    return {"loop": ours, "forecast": served, "difference": apart}
