"""Runs Python scripts, each in a fork of one process that has imported what takes seconds to import.

It reads the path of a script and that of its output, a line of JSON each time, and writes the script's process and its
exit code. A script runs in its own folder, and in a session of its own, so that what it leaves can be ended with it.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 120


@dataclass
class Forks:
    """The process, to be told what to run."""

    process: "subprocess.Popen[str]"

    def run(self, script: Path, output: Path) -> int:
        """The exit code of a script, less than zero if a signal ended it, as it does if the script takes too long."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([str(script), str(output)]), file=self.process.stdin, flush=True)
        pid, code = json.loads(self.process.stdout.readline())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return int(code)


@contextlib.contextmanager
def running_forks(environment: Mapping[str, str]) -> Iterator[Forks]:
    command = [sys.executable, __file__]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        yield Forks(one)


def _become(script: str, output: str) -> None:
    os.setsid()
    signal.alarm(_SECONDS)
    os.chdir(Path(script).parent)
    for descriptor, path in ((0, os.devnull), (1, output), (2, output)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv, sys.path[0] = [script], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def _main() -> None:
    # Not ONNX Runtime, which starts a thread: a fork has none but its own.
    for name in ("torch._dynamo", "onnx", "onnxscript"):
        importlib.import_module(name)
    for line in sys.stdin:
        script, output = json.loads(line)
        child = os.fork()
        if not child:
            return _become(script, output)
        print(json.dumps([child, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]), flush=True)


if __name__ == "__main__":
    _main()
