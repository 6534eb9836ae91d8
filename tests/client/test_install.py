"""`pip install elman` brings the client and what it needs, and nothing of the server."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installing import clean_environment, uv
from tests.running import ROOT, RunningServer

pytestmark = pytest.mark.slow

SERVER_ONLY = [
    "fastapi",
    "starlette",
    "uvicorn",
    "onnx",
    "onnxruntime",
    "pydantic_settings",
    "msgspec",
    "orjson",
    "lmdb",
    "torch",
]

# typer needs these, for the command. They are installed with the client, but it must not load them.
NOT_LOADED = [*SERVER_ONLY, "pydantic", "rich", "typer"]

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
    "loaded": [name for name in {NOT_LOADED!r} if name in sys.modules],
    "importable": [name for name in {SERVER_ONLY!r} if importlib.util.find_spec(name)],
    "file": sys.modules["elman"].__file__,
}}))
"""


def test_the_client_alone_works_and_brings_nothing_of_the_server(
    installed: str, server: RunningServer, tmp_path: Path
) -> None:
    done = subprocess.run(
        [installed, "-c", LOOK, server.url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert str(ROOT) not in seen["file"]
    assert seen["label"] == "Swedish" and len(seen["output"]) == 9
    assert seen["importable"] == [] and seen["loaded"] == []
    assert all(name in ("elman", "elman.proxies") or name.startswith("elman.client") for name in seen["modules"]), seen[
        "modules"
    ]


def test_a_stream_without_websockets_names_the_extra(installed: str, server: RunningServer, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom elman import Client\n"
        "with Client(sys.argv[1]) as client, client.model('names-gru').stream() as stream: stream.send('Mc')"
    )
    done = subprocess.run(
        [installed, "-c", script, server.url], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 1 and "pip install 'elman[stream]'" in done.stderr


def test_a_user_s_script_runs_and_passes_mypy_strict(installed: str, server: RunningServer, tmp_path: Path) -> None:
    streams = tmp_path / "streams"
    into = ("--python", installed, "--target", str(streams))
    assert uv("pip", "install", "--only-binary", ":all:", *into, "websockets").returncode == 0
    script = shutil.copy(SCRIPT, tmp_path)
    clean = clean_environment()
    ran = subprocess.run(
        [installed, script, server.url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(streams)),
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
