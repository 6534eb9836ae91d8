"""The command: `python -m tests.faults.history --help`."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.history.nemesis import FAULTS, Fault
from tests.faults.history.run import run
from tests.faults.history.scene import watched_redis


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.history", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--wait", type=int, default=1, help="replicas that must have a step (ELMAN_STORE_REPLICAS)")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of the primary")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kind", choices=["redis", "valkey"], default="valkey")
    parser.add_argument("--nemesis", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="FAULT",
                        help=", ".join(FAULTS))  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    moment = random.Random(given.seed)

    def faults() -> Iterator[Fault]:
        until = time.monotonic() + 60 * given.minutes
        while True:
            for name in moment.sample(given.nemesis, len(given.nemesis)):
                if time.monotonic() > until:
                    return
                print(time.strftime("%H:%M:%S"), name, flush=True)
                yield FAULTS[name]

    with tempfile.TemporaryDirectory(prefix="elman-history-") as folder:
        with watched_redis(given.kind, given.replicas, Path(folder)) as redis:
            report = run(redis, faults(), Path(folder), given.wait, given.servers, given.clients, seed=given.seed)
    print(report)
    if report.mistakes or report.unexplained or (given.wait and report.losses):
        sys.exit(1)


if __name__ == "__main__":
    main()
