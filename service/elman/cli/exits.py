"""Exit codes of the commands.

0    the work was done
1    the work failed, or a model, a sequence or a request was refused
2    the command was used wrongly: an unknown option, a file that does not exist
3    the command cannot start: no server answers, a port is taken, a package is missing
130  interrupted by Ctrl-C (143: by SIGTERM)
"""

import errno
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAILED, USAGE, CANNOT_START, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


def refuse(message: str, code: int = USAGE) -> typer.Exit:
    """Print in one line why the command ends. Returns the exception to raise."""
    warn(message, "red")
    return typer.Exit(code)


def warn(message: str, colour: str = "yellow") -> None:
    """Print a line on standard error, without colour if NO_COLOR is set."""
    typer.secho(f"elman: {message}", fg=None if os.environ.get("NO_COLOR") else colour, err=True)


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
    if error.errno in _FULL:
        return f"{error.filename or 'standard output, or a file,'} cannot be written: {reason}"
    place = error.filename or reads
    return f"{place}: {reason}" if place else reason
