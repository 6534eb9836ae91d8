"""`pip install elman` brings the client and what it needs, and nothing of the server."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.running import ROOT, RunningServer

pytestmark = pytest.mark.slow

SERVER_ONLY = [
    "fastapi",
    "starlette",
    "uvicorn",
    "onnx",
    "onnxruntime",
    "pydantic",
    "msgspec",
    "orjson",
    "lmdb",
    "torch",
]

SCRIPT = Path(__file__).parent / "script.py"

LOOK = f"""
import importlib.util, json, sys
import numpy as np
from elman import Client

with Client(sys.argv[1]) as client:
    label = client.model("names-gru").predict("Lindqvist").label
    output = client.model("vowels-gru").predict(np.ones((3, 12))).output.tolist()
print(json.dumps({{
    "label": label,
    "output": output,
    "modules": sorted(name for name in sys.modules if name.split(".")[0] == "elman"),
    "importable": [name for name in {SERVER_ONLY!r} if importlib.util.find_spec(name)],
    "file": sys.modules["elman"].__file__,
}}))
"""


def pip(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that holds the built package and its base dependencies alone."""
    folder = tmp_path_factory.mktemp("installed")
    built = pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-300:]}")
    venv.create(folder / "venv", with_pip=False)
    python = str(folder / "venv" / "bin" / "python")
    (wheel,) = folder.glob("elman-*.whl")
    done = pip("--python", python, "install", "--only-binary", ":all:", str(wheel))
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr[-300:]}")
    return python


def test_the_client_alone_works_and_brings_nothing_of_the_server(
    installed: str, server: RunningServer, tmp_path: Path
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [installed, "-c", LOOK, server.url], capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=60
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert str(ROOT) not in seen["file"]
    assert seen["label"] == "Swedish" and len(seen["output"]) == 9
    assert seen["importable"] == []
    assert all(name == "elman" or name.startswith("elman.client") for name in seen["modules"]), seen["modules"]


def test_a_stream_without_websockets_names_the_extra(installed: str, server: RunningServer, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom elman import Client\n"
        "with Client(sys.argv[1]) as client, client.model('names-gru').stream() as stream: stream.send('Mc')"
    )
    done = subprocess.run([installed, "-c", script, server.url], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "pip install 'elman[stream]'" in done.stderr


def test_a_user_s_script_runs_and_passes_mypy_strict(installed: str, server: RunningServer, tmp_path: Path) -> None:
    streams = tmp_path / "streams"
    assert pip("install", "--only-binary", ":all:", "--target", str(streams), "websockets").returncode == 0
    script = shutil.copy(SCRIPT, tmp_path)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY"))}
    ran = subprocess.run(
        [installed, script, server.url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(streams)},
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (0, "Swedish\n"), ran.stderr
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, script]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=300)
    assert checked.returncode == 0, checked.stdout
    # mypy knows the signatures: a wrong name of an option is an error.
    Path(script).write_text(SCRIPT.read_text("utf-8").replace("top=2", "tops=2"), "utf-8")
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=300)
    assert refused.returncode == 1 and "tops" in refused.stdout
