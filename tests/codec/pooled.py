"""What the tests of the pool call in its workers."""

import os
import signal
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


def echo(*values: Any) -> Any:
    return values
