"""Imports go one way: api → codec, sessions, engine → repository → errors; and serving needs no torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.running import ROOT, environment

PACKAGE = ROOT / "service" / "elman"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# What each room may import of the package, beside itself.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "child": set(),
    "cores": set(),
    "disk": set(),
    "settings": {"errors", "cores"},
    "repository": {"errors", "child"},
    "engine": {"repository", "errors"},
    "codec": {"engine", "repository", "errors", "child"},
    "sessions": {"engine", "repository", "codec", "errors", "disk"},
    "http": {"codec", "engine", "errors", "settings", "disk"},
    "api": {"http", "codec", "sessions", "engine", "repository", "errors", "settings"},
    "exporter": {"repository", "errors"},
    "proxies": set(),
    "client": {"proxies"},
    "playground": set(),
}
TRAINING = {"torch", "torchvision", "onnxscript", "matplotlib", "models", "tqdm"}


@cache
def imports(path: Path) -> frozenset[str]:
    """The dotted names that a module imports, at its top or anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def room(path: Path) -> str:
    """`elman/api/ops.py` is in the room `api`, `elman/errors.py` in `errors`."""
    return path.parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path)]
    rooms = {parts[1] for parts in names if parts[0] == "elman" and len(parts) > 1}
    return {one for one in rooms if (PACKAGE / one).is_dir() or (PACKAGE / f"{one}.py").is_file()}


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 20
    assert {"api", "codec", "engine", "repository", "errors"} <= {room(path) for path in MODULES}
    # The walk itself sees what it is there to see.
    assert "repository" in imported_rooms(Path("engine/runner.py"))


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in ROOMS], ids=str)
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    mine = room(path)
    assert imported_rooms(path) <= ROOMS[mine] | {mine}


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) != "exporter"], ids=str)
def test_only_the_exporter_imports_what_trains(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & TRAINING


def test_only_the_runtime_imports_onnxruntime() -> None:
    others = [path for path in MODULES if room(path) != "exporter"]
    importers = {path for path in others if any(name.split(".")[0] == "onnxruntime" for name in imports(path))}
    assert importers == {Path("repository/runtime.py")}


def test_nothing_below_the_composition_imports_it() -> None:
    above = {"app", "cli", "ray", "__main__", "__init__"}
    for path in MODULES:
        if room(path) not in above:
            assert not imported_rooms(path) & above, path


def test_the_scheduler_is_pure() -> None:
    names = {name.split(".")[0] for name in imports(Path("engine/scheduler.py"))}
    assert not names & {"asyncio", "time", "numpy", "threading", "os", "onnxruntime"}


def loaded_after(statement: str) -> set[str]:
    """The top-level packages in memory after a statement, in a process of its own."""
    command = [sys.executable, "-c", f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_serving_loads_no_torch() -> None:
    statement = (
        "from elman.app import create_app\nfrom elman.settings import Settings\n"
        "from elman.repository.model_file import load_model\nfrom pathlib import Path\n"
        f"create_app(Settings(models={str(ROOT / 'models' / 'store')!r}))\n"
        f"load_model(Path({str(ROOT / 'models' / 'store' / 'vowels-rnn' / '1' / 'model.onnx')!r}), 'm', 1)"
    )
    loaded = loaded_after(statement)
    assert {"elman", "onnxruntime", "fastapi"} <= loaded
    assert not loaded & TRAINING


def test_the_command_line_imports_little_until_it_serves() -> None:
    assert not loaded_after("import elman.cli") & {"onnxruntime", "onnx", "fastapi", "uvicorn", "numpy"}


def test_the_package_itself_imports_little() -> None:
    loaded = loaded_after("import elman")
    assert "elman" in loaded and not loaded & {"httpx", "numpy", "fastapi", "onnxruntime", *TRAINING}


def test_the_client_loads_nothing_of_the_server() -> None:
    loaded = loaded_after("from elman import AsyncClient, Client")
    assert {"httpx", "numpy"} <= loaded
    assert not loaded & {"fastapi", "starlette", "uvicorn", "onnx", "onnxruntime", "pydantic", "msgspec", *TRAINING}


def test_a_blocking_client_starts_without_asyncio() -> None:
    assert "asyncio" not in loaded_after("from elman import Client")


def test_a_server_starts_without_what_few_requests_need() -> None:
    assert not loaded_after("import elman.cli.jobs.graceful, elman.app") & {"cryptography", "onnx", "grpc", "redis"}


def test_a_supervisor_starts_without_what_its_workers_serve_with() -> None:
    assert not loaded_after("import elman.cli.jobs.workers") & {"fastapi", "numpy", "onnxruntime", "websockets"}
