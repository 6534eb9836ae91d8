"""How commands end.

0    the work was done
1    it failed, or was refused: a model, a sequence, a request
2    the command was used wrongly: an option, a file that is not there
3    it cannot start: no server answers, a port is taken, a package is missing
130  it was interrupted (143: by SIGTERM)
"""

import typer

FAILED, USAGE, CANNOT_START, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


def refuse(message: str, code: int = USAGE) -> typer.Exit:
    """Say in one line why the command ends, and return the exit to raise."""
    typer.secho(f"elman: {message}", fg="red", err=True)
    return typer.Exit(code)
