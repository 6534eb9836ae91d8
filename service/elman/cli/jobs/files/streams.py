"""Outputs that are no regular files, such as /dev/stdout, a device or a pipe: nothing is replaced or resumed there."""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

_MAX_LINKS = 8
# Seconds.
_PAUSE = 0.05


def is_stream(path: Path) -> bool:
    """Whether what is written to a path goes on at once, and leaves no file that could be replaced."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_stream(path: Path | None) -> BinaryIO:
    """Open such an output, or standard output for None. Files that are open already are not opened anew.

    A shell may have begun such a file, or share it with other commands: it is neither emptied nor closed.
    """
    descriptor = 1 if path is None else descriptor_of(path)
    return open(path or "", "wb") if descriptor is None else open(descriptor, "wb", closefd=False)


@contextlib.asynccontextmanager
async def read_by_another(path: Path | None) -> AsyncIterator[None]:
    """Wait until another process reads from a path, if it is a pipe. To open it sooner would block the event loop."""
    descriptor = None
    while descriptor is None and path is not None and descriptor_of(path) is None and path.is_fifo():
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            await asyncio.sleep(_PAUSE)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def descriptor_of(path: Path) -> int | None:
    """The open file of this process that a path names, as /dev/stdout and /dev/fd/3 do; None for other paths."""
    place = str(path)
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(place)
        folder = os.path.realpath(folder)
        if folder in (f"/proc/{os.getpid()}/fd", "/dev/fd") and name.isdecimal():
            return int(name)
        if not os.path.islink(os.path.join(folder, name)):
            return None
        place = os.path.join(folder, os.readlink(os.path.join(folder, name)))
    return None
