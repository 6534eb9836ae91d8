"""Generates the blocking client from the asynchronous one: `python -m tests.client.unasync`.

Both have the same methods, arguments and docstrings, so only the asynchronous ones are written by hand.
"""

import re
import subprocess
import sys
from pathlib import Path

from tests.running import ROOT

ASYNC = ROOT / "service" / "elman" / "client" / "aio"
SYNC = ASYNC.parent / "sync"
MODULES = ["client.py", "forecaster.py", "model.py", "session.py", "streams.py"]

NOTE = "# Generated from aio/{name} by `python -m tests.client.unasync`. Change that file, not this one.\n"

SUBSTITUTIONS = [
    (r'Opening\[("?\w+"?)\]', r"\1"),
    (r"Opening\((.*)\)$", r"\1"),
    (r"Coroutine\[Any, Any, (\w+)\]", r"\1"),
    (r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"import AsyncGenerator", "import Generator"),
    (r"the tasks of one event loop", "threads"),
    (r"\basynchronous", "blocking"),
    (r"\b[Aa]n `async with`", "a `with`"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\banext\b", "next"),
    (r"\baclos(e|ing)\b", r"clos\1"),
    (r"\bAsync(\w+)", r"\1"),
    (r"elman\.client\.aio\b", "elman.client.sync"),
]


def generate(name: str) -> str:
    """The blocking form of a module, formatted by ruff."""
    source = (ASYNC / name).read_text("utf-8")
    for pattern, replacement in SUBSTITUTIONS:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    # Imports that only the asynchronous half uses are removed, and the rest is sorted.
    fixed = _ruff("check", "--fix", "--quiet", "--select", "F401,I", source=source)
    return NOTE.format(name=name) + _ruff("format", "--quiet", source=fixed)


def _ruff(*arguments: str, source: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, f"--stdin-filename={SYNC / 'module.py'}", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def main() -> None:
    for name in MODULES:
        Path(SYNC / name).write_text(generate(name), "utf-8")


if __name__ == "__main__":
    main()
