"""The fuzzer's targets, for some seconds: the inputs to begin with, and the same further ones each time."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.corpus import seeds
from tests.running import ROOT, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"),
]


@pytest.mark.parametrize(("target", "further"), [("codec", 2_000), ("grpc", 2_000), ("http", 1_000)])
def test_whatever_bytes_come_get_an_answer_or_a_refusal(target: str, further: int, tmp_path: Path) -> None:
    runs = len(seeds(target)) + further
    command = [sys.executable, "-m", "tests.fuzz", target, "--runs", str(runs), "--findings", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not list(tmp_path.iterdir()), done.stderr[-4000:]
    found = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert found is not None and int(found[1]) >= runs, done.stderr[-4000:]
