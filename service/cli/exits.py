"""What the commands share: how they refuse, and which file a path means.

Exit codes: 0 the work was done; 1 it failed or was refused; 2 the command was used wrongly; 3 it cannot start;
130 it was interrupted.
"""

from pathlib import Path

import typer

FAILED, USAGE, CANNOT_START, INTERRUPTED = 1, 2, 3, 130


def refuse(message: str, code: int = USAGE) -> typer.Exit:
    """Say in one line why the command ends, and return the exit to raise."""
    typer.secho(f"elman: {message}", fg="red", err=True)
    return typer.Exit(code)


def model_file(path: Path) -> Path:
    """The model.onnx that a path means: itself, in a version's folder, or in the highest version's folder."""
    if path.is_file():
        return path
    versions = [child for child in path.glob("*/model.onnx") if child.parent.name.isdigit()]
    candidates = [path / "model.onnx", *sorted(versions, key=lambda file: -int(file.parent.name))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise refuse(f"there is no model.onnx at {path}")
