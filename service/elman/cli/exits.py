"""Exit codes of the commands.

0    the work was done
1    the work failed, or a model, a sequence or a request was refused
2    the command was used wrongly: an unknown option, a file that does not exist
3    the command cannot start: no server answers, a port is taken, a package is missing
130  interrupted by Ctrl-C (143: by SIGTERM)
"""

import contextlib
import errno
import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)
FAILED, USAGE, CANNOT_START, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


def refuse(message: str, code: int = USAGE) -> typer.Exit:
    """Print in one line why the command ends. Returns the exception to raise."""
    warn(message, "red")
    return typer.Exit(code)


def warn(message: str, colour: str = "yellow") -> None:
    """Print a line on standard error, without colour if NO_COLOR is set. It is dropped if it cannot be written."""
    plain = bool(os.environ.get("NO_COLOR"))
    with contextlib.suppress(OSError):
        typer.secho(f"elman: {message}", fg=None if plain else colour, reset=not plain, err=True)


def prepare_standard_streams() -> None:
    """Make standard streams fit for use, whatever the caller passes.

    A stream that the caller closed is opened so that it fails when it is used, and no other file gets its number. On
    standard output a character that its encoding does not have is written as an escape, such as `\\u0160`.
    """
    for number, access in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, access)  # it gets the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class Commands(TyperGroup):
    """The commands, and what is said of a disk or a file that fails any of them."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            ended = refuse(system_fault(error), FAILED)
        # Python would fail once more on what is still buffered for a standard output that fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(ended.exit_code)


def system_fault(error: OSError, reads: str = "") -> str:
    """What the system refused, in words, and of which file. `reads` is the file that was read meanwhile."""
    reason = error.strerror or str(error)
    if error.errno in _UNWRITABLE:
        return f"{error.filename or 'standard output, or a file,'} cannot be written: {reason}"
    place = error.filename or reads
    return f"{place}: {reason}" if place else reason
