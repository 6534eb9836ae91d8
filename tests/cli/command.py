"""The command `elman`, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from elman.cli import app
from tests.running import environment

COMMAND = [sys.executable, "-m", "elman"]


def elman_environment(**settings: object) -> dict[str, str]:
    return {**environment(**settings), "COLUMNS": "200", "NO_COLOR": "1"}


def elman(
    *arguments: object, cwd: Path, given: str | bytes | None = None, timeout: float = 300, **settings: object
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


def elman_here(*arguments: object, cwd: Path, given: str = "") -> "subprocess.CompletedProcess[str]":
    """As `elman`, in this process: for what is refused, where a process each would cost more than it shows."""
    before = os.getcwd()
    os.chdir(cwd)
    try:
        done = CliRunner().invoke(app, list(map(str, arguments)), input=given)
    finally:
        os.chdir(before)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(["elman"], done.exit_code, done.stdout, done.stderr)
