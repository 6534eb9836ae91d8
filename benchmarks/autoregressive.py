"""Autoregressive requests under load: token streams beside predictions, and influence against brute force."""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.environments import BENCH, ROOT
from benchmarks.load import Plan, request
from benchmarks.measure import WrongAnswer, finish, generate, machine, raise_file_limit, say, start_generator
from benchmarks.processes import Process, cores
from benchmarks.serving import fetch_json, serving
from benchmarks.streaming import StreamPlan
from benchmarks.workload import CONTENT_TYPES
from elman.repository.spec import METADATA_KEY, parse_spec
from models.tasks import Task, names, vowels

STORE = ROOT / "models" / "store"
WRITER = "names-lstm-generator"
READER = "names-lstm"

_JSON = CONTENT_TYPES["json"]
_NUM_REQUESTS = 400
STEPS = (20, 60)
"""Shortest and longest stream in tokens. Lengths are drawn, so that streams do not end together."""
_WARMUP = 1.0
_NUM_SEQUENCES = 4
_TOLERANCE = 1e-9
_LONG = 60.0


@dataclass(frozen=True)
class Settings:
    """What one run measures. `lengths` are the lengths of the sequences for influence requests."""

    rounds: int = 3
    seconds: float = 4.0
    streams: int = 200
    predicting: int = 200
    lengths: tuple[int, ...] = (20, 50, 100, 200)
    influence_seconds: float = 1.0


QUICK = Settings(rounds=1, seconds=1.5, lengths=(20, 100), influence_seconds=0.5)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything and return the results. `save` gets them after each part."""
    started = time.monotonic()
    raise_file_limit()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings)}
    tasks = {READER: names.load(), "vowels-lstm": vowels.load()}
    with tempfile.TemporaryDirectory(prefix="autoregressive-") as folder:
        repository = Path(folder) / "models"
        for name in (READER, "vowels-lstm"):
            put(STORE / name / "1" / "model.onnx", repository / name / "1" / "model.onnx")
        put(STORE / WRITER / "1" / "model.onnx", repository / WRITER / "1" / "model.onnx", endless=True)
        with serving(repository, Path(folder), BENCH / "logs" / "autoregressive.log", store="memory") as process:
            results["streams"] = [streams(process, tasks[READER], settings, turn) for turn in range(settings.rounds)]
            results["machine"]["minutes"] = (time.monotonic() - started) / 60
            save(results)
            results["influence"] = {name: influence(process, name, task, settings) for name, task in tasks.items()}
    results["machine"]["minutes"] = (time.monotonic() - started) / 60
    save(results)
    return results


def put(source: Path, path: Path, endless: bool = False) -> None:
    """Copy a model. `endless` removes the end token of a generator, so that streams are long."""
    model = onnx.load(source)
    if endless:
        carried = {entry.key: entry.value for entry in model.metadata_props}
        spec = parse_spec(carried[METADATA_KEY], str(source))
        assert spec.generation is not None, "it generates"
        spec = spec.model_copy(update={"generation": spec.generation.model_copy(update={"end": None})})
        onnx.helper.set_model_props(model, {**carried, METADATA_KEY: json.dumps(spec.dump())})
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


def stream_plan(port: int, settings: Settings, turn: int) -> StreamPlan:
    """Requests for names of random languages and random lengths."""
    rng, languages = np.random.default_rng(turn), list(names.SOURCES)
    requests, sizes = [], []
    for seed in range(_NUM_REQUESTS):
        steps = int(rng.integers(*STEPS, endpoint=True))
        asked = {"condition": languages[seed % len(languages)], "seed": seed, "max_steps": steps, "stream": True}
        requests.append(request(f"/v1/models/{WRITER}/generate", json.dumps(asked).encode(), _JSON))
        sizes.append(steps)
    plan = StreamPlan(port, requests, sizes, connections=settings.streams, seconds=settings.seconds)
    return replace(plan, warmup=_WARMUP, core=cores()[1], seed=turn)


def predict_plan(port: int, task: Task, settings: Settings, turn: int) -> Plan:
    """Requests for the language of held-out surnames."""
    assert task.vocabulary is not None, "surnames are letters"
    texts = ["".join(task.vocabulary[token] for token in one) for one in task.test.sequences[:_NUM_REQUESTS]]
    bodies = [json.dumps({"sequence": text}).encode() for text in texts]
    requests = [request(f"/v1/models/{READER}/predict", body, _JSON) for body in bodies]
    plan = Plan(port, requests, [len(text) for text in texts], connections=settings.predicting)
    return replace(plan, seconds=settings.seconds, warmup=_WARMUP, core=cores()[1], seed=turn)


def streams(process: Process, task: Task, settings: Settings, turn: int) -> dict[str, Any]:
    """Streams alone, predictions alone, and both at once."""
    pids = process.pids()
    writing = replace(stream_plan(process.port, settings, turn), pids=pids)
    reading = replace(predict_plan(process.port, task, settings, turn), pids=pids)
    found = {
        "streams alone": together(process.port, {"streams": writing}),
        "predict alone": together(process.port, {"predict": reading}),
        "beside": together(process.port, {"streams": writing, "predict": reading}),
    }
    for name, one in found.items():
        seen = [f"{kind} {_said(report)}" for kind, report in one["reports"].items()]
        say(f"  {name}: {'; '.join(seen)}; a run of the generator every {1e3 * one['iteration']:.1f} ms")
    return found


def _said(report: dict[str, Any]) -> str:
    if "gap_p99" not in report:
        return f"{report['num_done'] / report['seconds']:,.0f}/s, p99 {1e3 * report['p99']:.1f} ms"
    gaps = [f"{1e3 * report[name]:.1f}" for name in ("first_p99", "gap_p50", "gap_p99", "gap_most")]
    return f"{report['num_tokens'] / report['seconds']:,.0f} tokens/s, first p99, gap p50, p99, most {gaps} ms"


def together(port: int, plans: dict[str, Plan]) -> dict[str, Any]:
    """The reports of plans that run at the same time, and the runs of the generator model meanwhile.

    `iteration` is the seconds from one run of the generator to the next, `rows` the streams that each run advanced.
    Both are 0 if it did not run.
    """
    with contextlib.ExitStack() as stack:
        under_way = {name: stack.enter_context(start_generator(plan)) for name, plan in plans.items()}
        seconds = next(iter(plans.values())).seconds
        # Wait until the load generators have started, then count in the middle of the measured time.
        time.sleep(_WARMUP + 0.25 * seconds)
        before, started = _stats(port), time.perf_counter()
        time.sleep(0.5 * seconds)
        after, elapsed = _stats(port), time.perf_counter() - started
        reports = {name: asdict(finish(plans[name], one)) for name, one in under_way.items()}
    runs, rows = (after[name] - before[name] for name in ("runs", "rows"))
    return {"reports": reports, "iteration": elapsed / runs if runs else 0.0, "rows": rows / runs if runs else 0.0}


def _stats(port: int) -> dict[str, Any]:
    models = fetch_json(port, "GET", "/v1/engine")["models"]
    return next(one for one in models if one["model"] == WRITER)


def influence(process: Process, name: str, task: Task, settings: Settings) -> list[dict[str, Any]]:
    """For each length, the influence route against brute force: a predict request with each step left out."""
    found = []
    for length in settings.lengths:
        sequences = [take(task, length, number * length) for number in range(_NUM_SEQUENCES)]
        by_route = [json.dumps({"sequence": one, "decode": False}).encode() for one in sequences]
        by_force = [json.dumps({"sequences": without(one), "decode": False}).encode() for one in sequences]
        rounds = []
        for turn in range(settings.rounds):
            ways = [("influence", by_route), ("predict", by_force)]
            seen = {}
            for verb, bodies in ways[:: 1 if turn % 2 == 0 else -1]:
                started = time.perf_counter()
                fetch_json(process.port, "POST", f"/v1/models/{name}/{verb}", json.loads(bodies[0]))
                count = max(_NUM_SEQUENCES, round(settings.influence_seconds / (time.perf_counter() - started)))
                whole = [request(f"/v1/models/{name}/{verb}", body, _JSON) for body in bodies]
                plan = Plan(process.port, whole, [length] * len(whole), limit=count, seconds=_LONG)
                seen[verb] = asdict(generate(replace(plan, pids=process.pids(), core=cores()[1], seed=turn)))
            rounds.append(seen)
        most = max(_difference(process.port, name, *bodies) for bodies in zip(by_route, by_force, strict=True))
        if most > _TOLERANCE:
            raise WrongAnswer(f"{name}: the influence of a step differs by {most} from brute force")
        found.append({"length": length, "rounds": rounds, "difference": most})
        one = rounds[0]
        say(
            f"  {name}, {length} steps: influence p50 {1e3 * one['influence']['p50']:.1f} ms, brute force "
            f"{1e3 * one['predict']['p50']:.1f} ms; they differ by {most:.1g} at most"
        )
    return found


def take(task: Task, length: int, start: int) -> Any:
    """`length` steps of the held-out sequences, which are joined end to end."""
    whole = np.concatenate(task.test.sequences)
    return whole[start : start + length].tolist()


def without(sequence: list[Any]) -> list[list[Any]]:
    """The sequence, and its copies with one step left out."""
    return [sequence, *(sequence[:k] + sequence[k + 1 :] for k in range(len(sequence)))]


def _difference(port: int, name: str, by_route: bytes, by_force: bytes) -> float:
    """The largest difference between the two ways in the influence of a step, as a probability."""
    path = f"/v1/models/{name}"
    answered = fetch_json(port, "POST", f"{path}/influence", json.loads(by_route))["influence"]
    results = fetch_json(port, "POST", f"{path}/predict", json.loads(by_force))["results"]
    chances = probabilities(np.array([one["output"] for one in results], np.float32))
    moved = np.linalg.norm(chances[1:] - chances[0], axis=1)
    return float(np.abs(moved - np.array(answered)).max())


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax of logits, float64 `(rows, labels)`."""
    exponents = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True).astype(np.float64))
    return exponents / exponents.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def steps_of(length: int) -> tuple[int, int]:
    """Number of steps that (influence, brute force) must run for a sequence of that length."""
    return length + length * (length - 1) // 2, length + length * (length - 1)
