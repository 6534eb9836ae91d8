"""A child process that answers calls over pipes: for work that may crash, or that would block the server.

A message, in both directions, is its length in eight bytes (big-endian) and then its content.
"""

import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

_PIECE = 1 << 20
# A longer length can only be garbage.
_MAX_MESSAGE = 1 << 33


class ChildDied(Exception):
    """The child ended before it answered. The message tells how."""


class Child:
    """Runs `python -m module ANSWERS ARGUMENTS...`, whose calls `answer_calls` serves. One call at a time.

    The first call starts it, and so does the first call after it died or was closed.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        # With -P a file of the user's in the current folder cannot hide a library.
        self._command = [sys.executable, "-P", "-m", module]
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._turn = threading.Lock()

    def call(self, request: bytes | memoryview, timeout: float, more: Sequence[memoryview] = ()) -> memoryview:
        """The answer to a request. Raises ChildDied, and TimeoutError, after which the child is stopped.

        Args:
            timeout: seconds for writing the request and reading the answer together.
            more: the rest of the request, each of bytes.
        """
        with self._turn:
            return self._call([memoryview(request), *more], timeout)

    def _call(self, request: Sequence[memoryview], timeout: float) -> memoryview:
        try:
            process = self._process or self._start()
        except OSError as error:
            raise ChildDied(f"it cannot be started: {error.strerror}") from None
        assert process.stdin is not None
        deadline = time.monotonic() + timeout
        try:
            length = struct.pack("!Q", sum(map(len, request)))
            for piece in (memoryview(length), *request):
                self._write(process.stdin.fileno(), piece, deadline)
            (size,) = struct.unpack("!Q", self._read(8, deadline))
            if size > _MAX_MESSAGE:
                raise ConnectionResetError
            return self._read(size, deadline)
        except TimeoutError:
            self._end()
            raise
        except OSError:
            raise ChildDied(self._cause_of_death()) from None

    def close(self) -> None:
        """Stop the child; a call that waits for it ends with ChildDied."""
        process = self._process
        if process is not None:
            process.kill()
        with self._turn:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()
        os.close(self._answers)

    def _start(self) -> "subprocess.Popen[bytes]":
        answers, end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*self._command, str(end), *self._arguments],
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(end,),
                env={**os.environ, "PYTHONPATH": _import_path()},
            )
        except OSError:
            os.close(answers)
            raise
        finally:
            os.close(end)
        self._answers = answers
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _write(self, out: int, rest: memoryview, deadline: float) -> None:
        """Raises TimeoutError if the child does not read in time, and OSError if it is gone."""
        poll = select.poll()
        poll.register(out, select.POLLOUT)
        while rest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
                raise TimeoutError
            rest = rest[os.write(out, rest[:_PIECE]) :]

    def _read(self, length: int, deadline: float) -> memoryview:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN | select.POLLHUP)
        # Memory that is not filled with zeros: for 20 MB that would hold the interpreter's lock for 10 ms.
        rest = content = np.empty(length, np.uint8).data
        while rest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
                raise TimeoutError
            num_read = os.readv(self._answers, [rest[:_PIECE]])
            if not num_read:
                raise ConnectionResetError
            rest = rest[num_read:]
        return content

    def _cause_of_death(self) -> str:
        process = self._process
        assert process is not None
        try:
            status = process.wait(5)
        except subprocess.TimeoutExpired:
            status = 0
        self._end()
        return f"signal {signal.Signals(-status).name}" if status < 0 else "it ran out of memory or ended early"


def answer_calls(answers: int, answer: Callable[[bytes], bytes | list[memoryview]]) -> None:
    """The child's side: answer calls until the parent is gone.

    A terminal or a service manager sends its signals to all processes. A parent that stops gracefully needs its child.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(answers, "wb") as out:
        while header := sys.stdin.buffer.read(8):
            (length,) = struct.unpack("!Q", header)
            content = answer(sys.stdin.buffer.read(length))
            pieces = content if isinstance(content, list) else [content]
            out.write(struct.pack("!Q", sum(map(len, pieces))))
            for piece in pieces:
                out.write(piece)
            out.flush()


def _import_path() -> str:
    """A PYTHONPATH with which the child finds this package, installed or not."""
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
