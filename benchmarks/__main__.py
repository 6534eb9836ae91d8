"""`python -m benchmarks`: measures, prints the tables, writes the results and draws the pictures."""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import (
    autoregressive,
    client,
    fairness,
    on_ray,
    pages,
    paths,
    protocols,
    quantised,
    report,
    scale,
    scale_pages,
    sessions,
    soak,
    workers,
)
from benchmarks.contenders import PEERS
from benchmarks.measure import QUICK, Settings, run
from benchmarks.models import SHAPES
from benchmarks.profile import profile
from benchmarks.soak.page import page as soak_page

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "results.json"
_ALWAYS = ("naive", "mosec")


@dataclass(frozen=True)
class Study:
    """A separate measurement: its usual and quick settings, its function, and its page."""

    usual: Any
    quick: Any
    run: Callable[[Any, Callable[[dict[str, Any]], None]], dict[str, Any]]
    page: Callable[[dict[str, Any]], str]
    publish: Callable[[str], None]


def _in_readme(mark: str) -> Callable[[str], None]:
    return lambda page: report.put(HERE / "README.md", mark, page)


def _in_scale(mark: str) -> Callable[[str], None]:
    return lambda page: report.put(HERE.parent / "docs" / "scale.md", mark, page)


def _int8_page(page: str) -> None:
    (HERE.parent / "models" / "int8.md").write_text(page)


STUDIES = {
    "sessions": Study(sessions.Settings(), sessions.QUICK, sessions.run, pages.sessions, _in_readme("sessions")),
    "autoregressive": Study(
        autoregressive.Settings(),
        autoregressive.QUICK,
        autoregressive.run,
        pages.autoregressive,
        _in_readme("autoregressive"),
    ),
    "client": Study(client.Settings(), client.QUICK, client.run, pages.clients, _in_readme("client")),
    "paths": Study(paths.Settings(), paths.QUICK, paths.run, pages.paths, _in_readme("paths")),
    "protocols": Study(protocols.Settings(), protocols.QUICK, protocols.run, pages.protocols, _in_readme("protocols")),
    "fairness": Study(fairness.Settings(), fairness.QUICK, fairness.run, pages.fairness, _in_readme("fairness")),
    "workers": Study(workers.Settings(), workers.QUICK, workers.run, scale_pages.workers, _in_scale("workers")),
    "ray": Study(on_ray.Settings(), on_ray.QUICK, on_ray.run, scale_pages.ray, _in_scale("ray")),
    "scale": Study(scale.Settings(), scale.QUICK, scale.run, scale_pages.scale, _in_scale("scale")),
    "soak": Study(soak.Settings(), soak.QUICK, soak.run, soak_page, _in_readme("soak")),
    "int8": Study(quantised.Settings(), quantised.QUICK, quantised.run, pages.int8, _int8_page),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "profile", "report", *STUDIES),
        default="run",
        help="run: measure all. profile: where the time of a request goes. report: tables and pictures of earlier "
        "results. The others are separate studies, which write their part of the page.",
    )
    parser.add_argument("--quick", action="store_true", help="a run of a few minutes, with fewer and shorter rounds")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES), help="models to measure")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=[*PEERS, "all"],
        default=["litserve"],
        help="peers beside the naive server and mosec, which are always measured",
    )
    parser.add_argument("--rounds", type=int, help="number of rounds; each measures every contender once")
    parser.add_argument("--seconds", type=float, help="seconds of each measurement")
    parser.add_argument("--minutes", type=float, help="the same in minutes, for a soak")
    parser.add_argument("--no-tune", dest="tune", action="store_false", help="use the first setting of each peer")
    parser.add_argument("--no-promises", dest="promises", action="store_false", help="measure the contenders only")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> Settings:
    settings = replace(QUICK if args.quick else Settings(), models=tuple(args.models), promises=args.promises)
    settings = replace(settings, tune=args.tune and not args.quick)
    return replace(settings, rounds=args.rounds or settings.rounds, seconds=args.seconds or settings.seconds)


def write(results: dict[str, Any], output: Path) -> None:
    output.write_text(json.dumps(results, indent=1) + "\n")


def study(name: str, args: argparse.Namespace) -> None:
    """Run a study and write its results. Without --quick and --output, also write its part of the page."""
    one = STUDIES[name]
    settings = one.quick if args.quick else one.usual
    seconds = 60 * args.minutes if args.minutes else args.seconds or settings.seconds
    settings = replace(settings, rounds=args.rounds or settings.rounds, seconds=seconds)
    usual = not args.quick and args.output is None
    output = args.output or RESULTS.with_name("quick.json" if args.quick else f"{name}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])

    def save(results: dict[str, Any]) -> None:
        write({**results, "command": command}, output)

    one.run(settings, save)
    print(f"\nWritten to {output}", file=sys.stderr)
    page = one.page(json.loads(output.read_text()))
    print(page)
    if usual:
        one.publish(page)


def main() -> None:
    # Turn the signal into an exception, so that the servers are stopped however the run ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parse()
    output = args.output or (RESULTS.with_name("quick.json") if args.quick else RESULTS)
    if args.command in STUDIES:
        study(args.command, args)
        return
    if args.command == "profile":
        found = profile(args.models, args.seconds or 2.0)
        print(report.parts_table(found), report.functions(found), sep="\n\n")
        return
    if args.command == "run":
        chosen = list(_ALWAYS) + ([] if args.quick and args.peers == ["litserve"] else args.peers)
        peers = [peer for name, peer in PEERS.items() if name in chosen or "all" in chosen]
        output.parent.mkdir(parents=True, exist_ok=True)
        run(settings_of(args), peers, lambda results: write(results, output))
        print(f"\nWritten to {output}", file=sys.stderr)
    results = json.loads(output.read_text())
    print(report.tables(results))
    if output == RESULTS:
        report.write_page(results, HERE / "README.md")
        report.draw(output, HERE / "pictures")


if __name__ == "__main__":
    main()
