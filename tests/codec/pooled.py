"""What the tests of the pool call in its workers."""

import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from elman.errors import InvalidField


def double(number: int) -> int:
    return 2 * number


def refuse(where: str) -> None:
    raise InvalidField("not so", where=where)


def die(log: str) -> None:
    """Note that it was called, and be killed."""
    with Path(log).open("a") as file:
        file.write("called\n")
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def size(content: bytes) -> int:
    return len(content)


def wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.01)


def announce(size: int, log: str) -> None:
    """Begin on an answer of so many bytes, note how many the server holds once it reads it, and end."""
    # More than a pipe holds: it is written once the server reads.
    os.write(int(sys.argv[1]), struct.pack("!Q", size) + bytes(2**20))
    Path(log).write_text(str(resident(os.getppid())))
    os._exit(1)


def resident(pid: int) -> int:
    """The memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def echo(*values: Any) -> Any:
    return values
