"""Exit codes of the commands.

0    the work was done
1    the work failed, or a model, a sequence or a request was refused
2    the command was used wrongly: an unknown option, a file that does not exist
3    the command cannot start: no server answers, a port is taken, a package is missing
130  interrupted by Ctrl-C (143: by SIGTERM)
"""

import typer

FAILED, USAGE, CANNOT_START, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


def refuse(message: str, code: int = USAGE) -> typer.Exit:
    """Print in one line why the command ends. Returns the exception to raise."""
    typer.secho(f"elman: {message}", fg="red", err=True)
    return typer.Exit(code)
