"""The command `elman`, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

from tests.running import environment

COMMAND = [sys.executable, "-m", "service"]


def elman_environment(**settings: object) -> dict[str, str]:
    return {**environment(**settings), "COLUMNS": "200", "NO_COLOR": "1"}


def elman(
    *arguments: object, cwd: Path, given: str | bytes | None = None, timeout: float = 60, **settings: object
) -> "subprocess.CompletedProcess[str]":
    """What the command said and how it ended; `given` is its standard input, `settings` are ELMAN_..."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=elman_environment(**settings),
        cwd=cwd,
        input=given.encode() if isinstance(given, str) else given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        timeout=timeout,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
