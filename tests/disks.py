"""Small disks of a test's own, and full ones."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MAY_MOUNT = sys.platform == "linux" and os.geteuid() == 0


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small disk at a folder."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill_up(folder: Path) -> Path:
    """Fill the disk of a folder to the last byte. Returns the file that does."""
    others = folder / "others"
    with contextlib.suppress(OSError), others.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    return others
