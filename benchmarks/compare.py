"""Compares the speed of two versions of the server in one run.

    git worktree add ../before SOME-COMMIT
    (cd ../before && python3 -m venv .venv && .venv/bin/pip install --editable '.[server]')
    python -m benchmarks.compare -- ../before/.venv/bin/python -m elman

After `--` comes the command of the other version; `serve MODELS --port PORT` is added to it. Both versions are measured
in turn, round by round, so that a drift of the machine affects both. Both are started anew for each round: two
processes of one version differ by up to 5 % in speed, since their memory is laid out differently. All results are
ratios: this version over the other.
"""

import argparse
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import ELMAN
from benchmarks.environments import BENCH
from benchmarks.load import Plan, Report
from benchmarks.measure import generate
from benchmarks.models import SHAPES, write_model
from benchmarks.processes import Process, cores, free_port
from benchmarks.serving import elman, wait_until_ready
from benchmarks.workload import Format, Workload, draw

_FORMS: tuple[Format, ...] = ("json", "octet")
_NUM_REQUESTS = 400


@dataclass
class Ratios:
    """Ratios of this version over the other, one per round."""

    requests: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, ours: Report, other: Report) -> None:
        self.requests.append((ours.num_done / ours.seconds) / (other.num_done / other.seconds))
        self.p50.append(ours.p50 / other.p50)
        self.p99.append(ours.p99 / other.p99)
        self.cpu.append((ours.server_cpu / ours.num_done) / (other.server_cpu / other.num_done))

    def __str__(self) -> str:
        columns = []
        for figures in (self.requests, self.p50, self.p99, self.cpu):
            middle = statistics.median(figures)
            columns.append(f"{middle:5.2f} ({min(figures):.2f}-{max(figures):.2f})")
        return " | ".join(columns)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of the other version: PYTHON -m PACKAGE")
    given = parser.parse_args()
    command = [part for part in given.command if part != "--"]
    if not command:
        parser.error("name the command of the other version")
    print("| model | form | connections | requests | p50 | p99 | processor time a request |")
    print("|---|---|---|---|---|---|---|")
    for name in given.models:
        _compare(name, command, given.connections, given.rounds, given.seconds)


def _compare(name: str, command: list[str], connections: list[int], rounds: int, seconds: float) -> None:
    shape, logs = SHAPES[name], BENCH / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    repository = write_model(shape, BENCH / "models" / name).parents[2]
    workload = draw(shape, "lognormal", _NUM_REQUESTS)
    ratios = {(form, number): Ratios() for form in _FORMS for number in connections}
    for index in range(rounds):
        with ExitStack() as stack:
            ours = stack.enter_context(elman(repository, BENCH, logs / "compare-ours.log", store="memory"))
            other = stack.enter_context(_other(command, repository, logs))
            for process in (ours, other):
                wait_until_ready(process)
            for (form, number), figures in ratios.items():
                order = (ours, other) if index % 2 == 0 else (other, ours)
                reports = [_ask(process, workload, form, number, seconds) for process in order]
                figures.add(*(reports if order[0] is ours else reversed(reports)))
    for (form, number), figures in ratios.items():
        print(f"| {name} | {form} | {number} | {figures} |", flush=True)


def _other(command: list[str], repository: Path, logs: Path) -> Process:
    port = free_port()
    serve = [*command, "serve", str(repository), "--port", str(port), "--log-level", "warning"]
    settings = {"ELMAN_STORE": "memory", "ELMAN_POLL": "0"}
    return Process(serve, port, cores()[0], logs / "compare-other.log", settings)


def _ask(process: Process, workload: Workload, form: Format, connections: int, seconds: float) -> Report:
    plan = Plan(process.port, ELMAN.requests(workload, form), workload.lengths, connections, seconds=seconds)
    plan.pids, plan.core = process.pids(), cores()[1]
    report = generate(plan)
    if set(report.statuses) != {"200"}:
        raise RuntimeError(f"answers were {report.statuses}")
    return report


if __name__ == "__main__":
    main()
