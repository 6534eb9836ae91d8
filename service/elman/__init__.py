"""Elman: an inference server for recurrent networks, and its client.

    from elman import Client        the client, which needs nothing of the server
    from elman import create_app    the server as an ASGI application: pip install 'elman[server]'
    from elman import export        a torch module to an ONNX file: pip install 'elman[train]'
    from elman import calibrate     intervals for a forecaster's file, from its errors

Each name is imported when it is first used, so that a client loads nothing of the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.app import create_app
    from elman.client import AsyncClient, Client
    from elman.exporter import calibrate, export

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "__version__", "calibrate", "create_app", "export"]

_HOMES = {
    "AsyncClient": "elman.client",
    "Client": "elman.client",
    "calibrate": "elman.exporter",
    "create_app": "elman.app",
    "export": "elman.exporter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
