"""The command `elman`, in this process or in one of its own."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from elman.cli import app
from tests.running import environment

COMMAND = [sys.executable, "-m", "elman"]


def elman_environment(**settings: object) -> dict[str, str]:
    return {**environment(**settings), "COLUMNS": "200", "NO_COLOR": "1"}


def elman_process(
    *arguments: object, cwd: Path, timeout: float = 120, **settings: object
) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own. `settings` are ELMAN_..."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=elman_environment(**settings),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def elman(*arguments: object, cwd: Path, given: str = "", **settings: object) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, on descriptors 0, 1 and 2 of its own. An uncaught exception is raised here.

    Starting Python and importing the packages would take longer than most commands do.

    Args:
        given: the standard input.
        settings: are ELMAN_...
    """
    with _folder(cwd), mock.patch.dict(os.environ, elman_environment(**settings), clear=True), _streams(given) as said:
        try:
            app(list(map(str, arguments)), prog_name="elman")
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(["elman"], code, *said)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _streams(given: str) -> Iterator[list[str]]:
    """Standard input from a text; what is written to standard output and error is in the list afterwards."""
    said: list[str] = []
    names = ("stdin", "stdout", "stderr")
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in names]
        files[0].write(given.encode())
        files[0].seek(0)
        saved = [os.dup(descriptor) for descriptor in range(3)]
        try:
            for descriptor, file in enumerate(files):
                os.dup2(file.fileno(), descriptor)
            streams = [open(fd, "w" if fd else "r", encoding="utf-8", closefd=False) for fd in range(3)]
            with mock.patch.multiple(sys, **dict(zip(names, streams, strict=True))):
                try:
                    yield said
                finally:
                    for stream in streams:
                        stream.close()
        finally:
            for descriptor, original in enumerate(saved):
                os.dup2(original, descriptor)
                os.close(original)
        for file in files[1:]:
            file.seek(0)
            said.append(file.read().decode())


def elman_on_terminal(
    *arguments: object, cwd: Path, columns: int = 80, given: str = "", **settings: object
) -> tuple[int, str]:
    """Run the command on a terminal of its own. Returns its exit code, and what the terminal shows of both streams.

    given: what is typed.
    """
    ours, theirs = pty.openpty()
    environment = {**elman_environment(**settings), "COLUMNS": str(columns), "TERM": "xterm"}
    shown = bytearray()
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, given.encode())
        try:
            while select.select([ours], [], [], 60)[0] and (piece := _read(ours)):
                shown += piece
            return process.wait(60), shown.decode().replace("\r\n", "\n")
        finally:
            process.kill()
            os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # whoever wrote has ended
        return b""
