"""Resuming an output: a file beside it holds the model and options that it was started with."""

import json
from pathlib import Path
from typing import Any

from elman.cli.jobs.files.errors import UnusableFile


def checkpoint_of(output: Path) -> Path:
    """The file beside an unfinished output."""
    return output.with_name(output.name + ".resume")


def open_checkpoint(output: Path, made_with: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Write the checkpoint of an output. Returns True if the output is resumed.

    Args:
        made_with: what decides the bytes of the output: for each aspect a phrase that an error can quote.

    Raises:
        UnusableFile: the output exists, is a folder, or was started with something else.
    """
    if output.is_dir():
        raise UnusableFile(f"{output}: it is a folder; give a file")
    checkpoint = checkpoint_of(output)
    started = _started(checkpoint)
    if not resume and not overwrite and (output.exists() or started is not None):
        what = "is unfinished" if started is not None else "exists"
        raise UnusableFile(f"{output} {what}; --resume continues it, --overwrite replaces it")
    if resume and started is not None and started != made_with:
        unknown = "options that its damaged .resume file no longer says"
        was, now = next(
            (started.get(key, unknown), made_with[key]) for key in made_with if started.get(key) != made_with[key]
        )
        raise UnusableFile(f"{output} was started with {was}, not with {now}; --overwrite replaces it")
    # Written whole, also where the disk is full.
    written = checkpoint.with_name(checkpoint.name + ".half")
    try:
        written.write_text(json.dumps(made_with))
        written.replace(checkpoint)
    finally:
        written.unlink(missing_ok=True)
    return resume


def _started(checkpoint: Path) -> dict[str, Any] | None:
    """What an output was started with; nothing is known if the file is damaged. None if there is no file."""
    try:
        started = json.loads(checkpoint.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return started if isinstance(started, dict) else {}


def remove_checkpoint(output: Path) -> None:
    """The output is complete."""
    checkpoint_of(output).unlink(missing_ok=True)
