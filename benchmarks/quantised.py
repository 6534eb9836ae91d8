"""Compares both forms of 8-bit weights with float32: accuracy on held-out data, size, speed, and the models' cards."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.ceilings import pinned
from benchmarks.environments import BENCH, ROOT
from benchmarks.load import Plan, request
from benchmarks.measure import generate, machine, say
from benchmarks.models import SHAPES, write_model
from benchmarks.processes import Process, cores
from benchmarks.serving import fetch_json, serving
from benchmarks.workload import CONTENT_TYPES
from models.tasks import Task, names, vowels

STORE = ROOT / "models" / "store"
BATCHES = (1, 8, 64)
CONNECTIONS = (1, 64)
FORMS = {"float32": "", "int8": "-int8", "dynamic": "-dynamic"}
"""What follows a model's name in each form: `int8` is exact, and `dynamic` ONNX Runtime's own."""

_TASKS: dict[str, Callable[[], Task]] = {
    "vowels-lstm": vowels.load,
    "vowels-gru": vowels.load,
    "vowels-lstm-bidirectional": vowels.load,
    "names-lstm": names.load,
    "names-gru": names.load,
}
_CHUNK = 32
_NUM_REQUESTS = 200
_LENGTH = 23
_TICK = 0.01  # seconds, the least that processor time is counted in
_OCTET = CONTENT_TYPES["octet"]


@dataclass(frozen=True)
class Settings:
    """What one run measures."""

    rounds: int = 3
    seconds: float = 1.0


QUICK = Settings(rounds=1, seconds=0.3)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything, `save` the results, and return them."""
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "models": {}}
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        repository = Path(folder) / "models"
        paths = {name: put_forms(STORE / name / "1" / "model.onnx", repository, name) for name in _TASKS}
        for name, shape in SHAPES.items():
            paths[name] = put_forms(write_model(shape, BENCH / "models" / name), repository, name)
        found = {name: {"sizes": [one.stat().st_size for one in forms]} for name, forms in paths.items()}
        results["models"] = found
        for name, load in _TASKS.items():
            found[name] |= accuracies(load(), paths[name])
            say(
                f"  {name}: {found[name]['wrong']} wrong of {found[name]['held_out']}, {found[name]['changed']} changed"
            )
        with pinned(cores()[0]):
            for name, forms in paths.items():
                found[name]["kernel"] = kernels(forms, settings)
                say(f"  {name}: steps/s in ONNX Runtime, {', '.join(FORMS)}: {found[name]['kernel']}")
        results["machine"]["minutes"] = (time.monotonic() - started) / 60
        save(results)
        with serving(repository, Path(folder), BENCH / "logs" / "int8.log", store="memory") as process:
            for name in paths:
                cards = [fetch_json(process.port, "GET", f"/v1/models/{name}{suffix}") for suffix in FORMS.values()]
                found[name]["batching"] = [card["batching"] for card in cards]
                found[name]["streaming"] = [card["streaming"] for card in cards]
                found[name]["served"] = served(process, name, cards[0], settings)
                say(f"  {name}: served {found[name]['served']}")
    results["machine"]["minutes"] = (time.monotonic() - started) / 60
    save(results)
    return results


def put_forms(source: Path, repository: Path, name: str) -> list[Path]:
    """Write the model in each of FORMS, under a name of its own."""
    # These import torch, which no other benchmark needs.
    from elman.exporter.dynamic import dynamically_quantised
    from elman.exporter.quantising import quantised

    model = onnx.load(source)
    paths = []
    for suffix, one in zip(FORMS.values(), (model, quantised(model), dynamically_quantised(model)), strict=True):
        path = repository / f"{name}{suffix}" / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(one, path)
        paths.append(path)
    return paths


def accuracies(task: Task, paths: list[Path]) -> dict[str, Any]:
    """Labels at the last step of held-out sequences: how many are wrong, and how many differ from float32's."""
    from models.measuring import answers

    found = [answers(path, task.test) for path in paths]
    wrong = [int((one != task.test.labels).sum()) for one in found]
    return {"held_out": len(task.test), "wrong": wrong, "changed": [int((one != found[0]).sum()) for one in found]}


class Kernel:
    """A file in ONNX Runtime alone, on one thread: full batches of equal length, from the initial state."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self._outputs = [self._session.get_outputs()[0].name]
        self._feeds = {batch: self._feed(batch) for batch in BATCHES}

    def _feed(self, batch: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(batch)
        data, *states = self._session.get_inputs()
        if "int" in data.type:
            inputs = rng.integers(1, 50, (batch, _CHUNK)).astype(np.int64)
        else:
            inputs = rng.standard_normal((batch, _CHUNK, data.shape[2]), np.float32)
        zeros = {one.name: np.zeros((one.shape[0], batch, one.shape[2]), np.float32) for one in states}
        return {data.name: inputs, **zeros}

    def steps_per_second(self, batch: int, seconds: float) -> float:
        """Steps of all rows, per second of processor time."""
        feed = self._feeds[batch]
        self._session.run(self._outputs, feed)
        count, started, until = 0, time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._session.run(self._outputs, feed)
            count += batch * _CHUNK
        return count / (time.process_time() - started)


def kernels(paths: list[Path], settings: Settings) -> dict[str, list[float]]:
    """Steps per second of each form by batch size. The forms are measured in turn; medians."""
    opened = [Kernel(path) for path in paths]
    seen: dict[int, list[list[float]]] = {batch: [[] for _ in opened] for batch in BATCHES}
    for _ in range(settings.rounds):
        for batch, rates in seen.items():
            for kernel, found in zip(opened, rates, strict=True):
                found.append(kernel.steps_per_second(batch, settings.seconds))
    return {str(batch): [statistics.median(found) for found in rates] for batch, rates in seen.items()}


def served(process: Process, name: str, card: dict[str, Any], settings: Settings) -> dict[str, list[float]]:
    """Steps per second of the server's own processor time, of each form by connections; measured in turn, medians."""
    bodies = [draw(card["input"], seed) for seed in range(_NUM_REQUESTS)]
    seen: dict[int, list[list[float]]] = {count: [[] for _ in FORMS] for count in CONNECTIONS}
    for turn in range(settings.rounds):
        for count, rates in seen.items():
            for suffix, found in zip(FORMS.values(), rates, strict=True):
                path = f"/v1/models/{name}{suffix}/predict"
                whole = [request(path, body, _OCTET, _OCTET) for body in bodies]
                plan = Plan(process.port, whole, [_LENGTH] * len(whole), connections=count, seconds=settings.seconds)
                report = generate(replace(plan, core=cores()[1], seed=turn, pids=process.pids()))
                found.append(report.num_steps / max(report.server_cpu, _TICK))
    return {str(count): [statistics.median(found) for found in rates] for count, rates in seen.items()}


def draw(accepted: dict[str, Any], seed: int) -> bytes:
    """A random sequence as octets, for the input that a card describes."""
    rng = np.random.default_rng(seed)
    if accepted["kind"] == "tokens":
        return rng.integers(1, 50, _LENGTH).astype("<i4").tobytes()
    return rng.standard_normal((_LENGTH, accepted["size"])).astype("<f4").tobytes()
