"""The optional dependencies that commands need, checked before a command starts its work."""

import importlib.util
from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

from elman.cli.exits import CANNOT_START, refuse

Extra = Literal["server", "grpc", "redis", "train", "tables", "ray"]

# The import names of what an extra in pyproject.toml installs, as far as the command line uses them.
_MODULES: dict[Extra, tuple[str, ...]] = {
    "server": ("fastapi", "lmdb", "msgspec", "onnx", "onnxruntime", "orjson", "pydantic_settings", "rich", "uvicorn"),
    "grpc": ("grpc",),
    "redis": ("redis", "hiredis"),
    "train": ("torch", "onnxscript", "onnx", "onnxruntime", "pydantic_settings"),
    "tables": ("pyarrow", "python_calamine"),
    "ray": ("ray", "pyarrow", "pandas"),
}

P = ParamSpec("P")
R = TypeVar("R")


def need(extra: Extra) -> None:
    """Exit with 3, naming the extra to install, if one of its packages is missing."""
    missing = [name for name in _MODULES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise refuse(f"this needs {', '.join(missing)}: pip install 'elman[{extra}]'", CANNOT_START)


def needs(extra: Extra) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a command so that it checks for an extra when it is called. Its help works without the extra."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        @wraps(command)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            need(extra)
            return command(*args, **kwargs)

        return checked

    return decorate
