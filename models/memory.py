"""The memory study: how far back an RNN, an LSTM and a GRU remember, trained, measured and drawn by one command.

python -m models.memory            every run that models/memory.json does not hold yet
python -m models.memory --quick    a minute of it, written to models/runs/memory
"""

import argparse
import copy
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from elman.exporter.verifying import open_session
from models.measuring import initial_values
from models.memory_page import LONGEST, REPRODUCED_AT, draw_all, lengths_of, write_page
from models.recurrent import CELLS, Cell, Recurrent, Shape
from models.tasks import Sequence, adding
from models.train import TASKS

# -- config ------------------------------------------------------------------------------------------

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Budget:
    """How every network is trained on the adding problem, for every cell and length."""

    hidden_size: int = 64
    batch_size: int = 32
    learning_rate: float = 5e-3
    clip_norm: float = 1.0
    max_steps: int = 8000
    """Most batches, each of fresh sequences."""
    decay_share: float = 0.2
    """Over this last share of them the learning rate falls linearly to zero."""
    interval: int = 100
    """Batches in each point of the training curve."""
    enough: float = 4e-4
    """Training stops early once two points in a row are below this squared error."""
    num_held_out: int = 2000
    num_probed: int = 200
    """Held-out sequences on which the gradient is measured."""


@dataclass(frozen=True)
class Run:
    """One network to train on the adding problem at one length."""

    cell: Cell
    length: int
    seed: int
    learning_rate: float

    @property
    def key(self) -> str:
        return f"{self.cell} length {self.length} seed {self.seed} rate {self.learning_rate:g}"


BUDGET = Budget()
QUICK_BUDGET = Budget(max_steps=1200, num_held_out=500)
SEEDS = {0: (100, 50, 200, 400, 25, 10), 1: (100, 50)}
"""The lengths that each seed is trained at. Long ones cost most; the short ones show where the plain cell fails."""
OTHER_RATES: tuple[float, ...] = ()
"""Learning rates also tried with the plain cell, to see whether they cause its failure."""
STUDIED = ("vowels", "names", "watch")
"""Tasks whose shipped models are measured for influence by distance."""


def planned(budget: Budget, quick: bool) -> Iterator[Run]:
    """Every run of the study, in order."""
    rate = budget.learning_rate
    if quick:
        yield from (Run(cell, length, 0, rate) for length in (10, 20) for cell in CELLS)
        return
    for seed, lengths in SEEDS.items():
        yield from (Run(cell, length, seed, rate) for length in lengths for cell in CELLS)
    yield from (Run("rnn", REPRODUCED_AT, 0, other) for other in OTHER_RATES)


# -- the adding problem ------------------------------------------------------------------------------


def held_out(length: int, count: int) -> tuple[Tensor, Tensor]:
    """Sequences and answers that no training draws. They are the same for every cell and seed."""
    sequences, answers = adding.draw(count, length, np.random.default_rng([1, length]))
    return torch.from_numpy(sequences), torch.from_numpy(answers)


def train(run: Run, budget: Budget) -> tuple[Recurrent, dict[str, Any]]:
    """Train one network from torch's own starting weights, and measure it on the held-out sequences."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    generator = np.random.default_rng([0, run.seed, run.length])
    shape = Shape(cell=run.cell, num_outputs=1, num_features=adding.NUM_FEATURES, hidden_size=budget.hidden_size)
    model = Recurrent(shape)
    x, answers = held_out(run.length, budget.num_held_out)
    started = time.process_time()
    before = gradient_by_distance(model, x[: budget.num_probed])
    curve = fit(model, run, budget, generator)
    result = {
        **asdict(run),
        "mse": squared_error(model, x, answers),
        "steps": len(curve) * budget.interval,
        "curve": curve,
        "gradient_before": before,
        "gradient_after": gradient_by_distance(model, x[: budget.num_probed]),
        "processor_seconds": round(time.process_time() - started, 1),
    }
    return model, result


def fit(model: Recurrent, run: Run, budget: Budget, generator: np.random.Generator) -> list[float]:
    """The mean squared error of each `interval` of fresh batches; it ends early once the problem is solved."""
    optimizer = torch.optim.Adam(model.parameters(), run.learning_rate)
    decay_steps = budget.decay_share * budget.max_steps
    schedule = LambdaLR(optimizer, lambda step: min(1.0, (budget.max_steps - step) / decay_steps))
    curve: list[float] = []
    while len(curve) * budget.interval < budget.max_steps:
        losses = []
        for _ in range(budget.interval):
            sequences, answers = adding.draw(budget.batch_size, run.length, generator)
            found = last_answer(model, torch.from_numpy(sequences))  # (batch,)
            loss = (found - torch.from_numpy(answers)).square().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), budget.clip_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        curve.append(rounded(float(np.mean(losses))))
        if len(curve) > 1 and max(curve[-2:]) < budget.enough:
            break
    return curve


def last_answer(model: Recurrent, x: Tensor) -> Tensor:
    """The network's answer at the last step of x (batch, time, features): (batch,)."""
    outputs: Tensor = model(x)[0]  # (batch, time, 1)
    return outputs[:, -1, 0]


@torch.no_grad()
def squared_error(model: Recurrent, x: Tensor, answers: Tensor) -> float:
    """The mean over sequences x (count, time, features) with their answers (count,)."""
    found = torch.cat([last_answer(model, part) for part in torch.split(x, 500)])
    return float((found - answers).square().mean())


def chance(length: int, count: int) -> float:
    """The squared error of always answering 1 on the held-out sequences."""
    return rounded(float((held_out(length, count)[1] - 1).square().mean()))


def gradient_by_distance(model: Recurrent, x: Tensor) -> list[float]:
    """The norm of d o_n / d x_k at each distance n - k from 0 up, the mean over sequences (count, time, features).

    In double precision, because after a hundred steps the squares are smaller than the smallest float32.
    """
    x = x.double().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(last_answer(copy.deepcopy(model).double(), x).sum(), x)
    norms = gradient.norm(dim=2).mean(dim=0).flip(0)  # (time,)
    return [rounded(one) for one in norms.tolist()]


def rounded(value: float) -> float:
    """Rounded to four digits, so that the results stay readable."""
    return float(f"{value:.4g}")


# -- influence by distance ---------------------------------------------------------------------------

Answer = Callable[[Sequence], NDArray[np.float64]]
"""Sequences of one length, (batch, time, ...), to the label probabilities at the last step, (batch, labels)."""


def open_answer(path: Path) -> Answer:
    """The label probabilities at the last step, from a shipped classifier's file."""
    session, starts = open_session(str(path)), initial_values(path)
    data, *states = session.get_inputs()

    def answer(x: Sequence) -> NDArray[np.float64]:
        zeros = {state.name: np.zeros((state.shape[0], 1, state.shape[2]), np.float32) for state in states}
        feed = {name: np.repeat(value, len(x), axis=1) for name, value in (zeros | starts).items()}
        scores = np.asarray(session.run(["output"], {**feed, data.name: x})[0])[:, -1].astype(np.float64)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))  # (batch, labels)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    return answer


def influence(answer: Answer, sequence: Sequence) -> NDArray[np.float64]:
    """How far o_n moves when each step in turn is left out: Euclidean distances (time,).

    Every shortened sequence is run whole. Raises ValueError for a sequence of one step.
    """
    if len(sequence) < 2:
        raise ValueError("a sequence of one step has no step that can be left out")
    # Run twice in one batch, because ONNX Runtime sums a batch of one in another order.
    whole = answer(np.stack([sequence, sequence]))[0]  # (labels,)
    without = answer(np.stack([np.delete(sequence, k, axis=0) for k in range(len(sequence))]))  # (time, labels)
    return np.asarray(np.linalg.norm(without - whole, axis=1))


def sensitivity(answer: Answer, sequence: Sequence, deviations: NDArray[np.float32]) -> NDArray[np.float64]:
    """The norm of d o_n / d x_k at each step k of (time, features), features in units of their deviations: (time,).

    By central differences on the file itself, a twentieth of a deviation to either side.
    """
    num_steps, num_features = sequence.shape
    nudges = np.zeros((num_steps, num_features, num_steps, num_features), np.float32)
    step, feature = np.ogrid[:num_steps, :num_features]
    nudges[step, feature, step, feature] = 0.05 * deviations
    flat = nudges.reshape(-1, num_steps, num_features)  # (time * features, time, features)
    change = (answer(sequence + flat) - answer(sequence - flat)) / 0.1  # (time * features, labels)
    return np.asarray(np.linalg.norm(change.reshape(num_steps, -1), axis=1))


def span(moved: NDArray[np.float64]) -> int:
    """How many of the last steps hold 90 % of the influence (time,)."""
    held = np.cumsum(moved[::-1])
    return int(np.searchsorted(held, 0.9 * held[-1]) + 1)


def by_distance(rows: list[NDArray[np.float64]]) -> list[float]:
    """The mean at each distance n - k from 0 up, over the rows (time,) that are long enough."""
    longest = max(len(row) for row in rows)
    at = [[row[-1 - distance] for row in rows if len(row) > distance] for distance in range(longest)]
    return [rounded(float(np.mean(values))) for values in at]


def measure_influence(name: str, path: Path, most: int) -> dict[str, Any]:
    """Influence by distance of one shipped model, over its held-out sequences (`most` of them at most)."""
    task_name, cell = name.split("-")
    task, answer = TASKS[task_name](), open_answer(path)
    sequences = [one[-LONGEST:] for one in task.test.sequences if len(one) > 1]
    sequences = sequences[:: -(-len(sequences) // most)]
    started = time.process_time()
    moved = [influence(answer, one) for one in sequences]
    gradient = None
    if task.num_features:
        deviations = np.concatenate(task.test.sequences).std(axis=0)  # (features,)
        gradient = by_distance([sensitivity(answer, one, deviations) for one in sequences])
    lengths = np.array([len(one) for one in sequences])
    return {
        "task": task_name,
        "cell": cell,
        "digest": digest(path),
        "num_sequences": len(sequences),
        "mean_length": rounded(float(lengths.mean())),
        "num_at": [int((lengths > distance).sum()) for distance in range(lengths.max())],
        "moved": by_distance(moved),
        "gradient": gradient,
        "span": rounded(float(np.mean([span(one) for one in moved]))),
        "even_span": rounded(float(np.mean(np.ceil(0.9 * lengths)))),
        "processor_seconds": round(time.process_time() - started, 1),
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- results -----------------------------------------------------------------------------------------


def read(path: Path, budget: Budget) -> dict[str, Any]:
    """The results of earlier commands. Raises SystemExit if they were trained with another budget."""
    if not path.exists():
        return {"budget": asdict(budget), "chance": {}, "machine": "", "adding": {}, "influence": {}}
    results: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if results["budget"] != asdict(budget):
        raise SystemExit(f"{path} was measured with another budget; move it away to start anew")
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    """Write one run a line, into a new file that replaces the old one, so that an interruption loses nothing."""
    sections = []
    for section, content in results.items():
        if section not in ("adding", "influence"):
            sections.append(f'"{section}": {json.dumps(content)}')
            continue
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(one)}" for key, one in content.items())
        sections.append(f'"{section}": {{\n{lines}\n}}')
    new = path.with_suffix(".new")
    new.write_text("{\n" + ",\n".join(sections) + "\n}\n", "utf-8")
    new.replace(path)


def run_adding(results: dict[str, Any], path: Path, budget: Budget, quick: bool) -> None:
    """Do the runs that the results lack. Each is written as soon as it is finished."""
    for run in planned(budget, quick):
        if run.key in results["adding"]:
            continue
        _, result = train(run, budget)
        results["adding"][run.key] = result
        write(path, results)
        seconds = result["processor_seconds"]
        print(f"{run.key}: squared error {result['mse']:.6f}, {result['steps']} steps, {seconds} s", flush=True)


def run_influence(results: dict[str, Any], path: Path, most: int) -> None:
    """Measure the shipped models that the results lack, or whose files have changed."""
    for name in (f"{task}-{cell}" for task in STUDIED for cell in CELLS):
        file = HERE / "store" / name / "1" / "model.onnx"
        if not file.exists() or results["influence"].get(name, {}).get("digest") == digest(file):
            continue
        results["influence"][name] = measure_influence(name, file, most)
        write(path, results)
        print(f"{name}: span {results['influence'][name]['span']} steps", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.memory", description="Train, measure and draw.")
    parser.add_argument("--quick", action="store_true", help="a minute of it, written to models/runs/memory")
    given = parser.parse_args(arguments)
    home, budget = (HERE / "runs" / "memory", QUICK_BUDGET) if given.quick else (HERE, BUDGET)
    home.mkdir(parents=True, exist_ok=True)
    path = home / "memory.json"
    results = read(path, budget)
    run_adding(results, path, budget, given.quick)
    run_influence(results, path, most=40 if given.quick else 10_000)
    results["chance"] = {str(length): chance(length, budget.num_held_out) for length in lengths_of(results)}
    results["machine"] = f"{platform.machine()}, torch {torch.__version__}"
    write(path, results)
    draw_all(home / "pictures", results)
    write_page(home / "memory.md", results)


if __name__ == "__main__":
    main()
