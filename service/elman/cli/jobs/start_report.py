"""What a server says once it listens: its address, its models, the files that are refused, its keys and its store."""

import logging
from urllib.parse import urlsplit

from elman.api.server import Server
from elman.cli.exits import warn
from elman.settings import Settings

# Most models that are named.
_MAX_NAMES = 20

_LOG = logging.getLogger("elman")
_UVICORN_LOG = logging.getLogger("uvicorn.error")


def report_start(address: str, server: Server, settings: Settings) -> None:
    """Log what a server serves and how. Refused files are warnings.

    Args:
        address: such as `http://127.0.0.1:8000`.
    """
    _UVICORN_LOG.info("Elman running on %s (Press CTRL+C to quit)", address)
    _UVICORN_LOG.info("Serving %s", _models(server))
    if not server.refusals and not list(server.defaults()):
        _UVICORN_LOG.warning("%s has no <name>/<version>/model.onnx", settings.models)
    for refusal in server.refusals:
        version = "" if refusal.version is None else f" version {refusal.version}"
        if settings.log_format == "json":
            _LOG.warning("%s%s is refused: %s", refusal.name, version, refusal.reason)
        else:
            warn(f"{refusal.name}{version} is refused: {refusal.reason}")
    _UVICORN_LOG.info("Keys: %s", _keys(settings))
    _UVICORN_LOG.info("Sessions: %s", _store(settings))


def _models(server: Server) -> str:
    names = []
    for served in server.defaults():
        name, versions = served.model.name, server.versions(served.model.name)
        names.append(name if versions == [1] else f"{name}@{','.join(map(str, versions))}")
    listed = ", ".join(names[:_MAX_NAMES])
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{len(names)} model{'s' * (len(names) != 1)}{': ' * bool(names)}{listed}{more}"


def _keys(settings: Settings) -> str:
    counts = (("ELMAN_API_KEYS", settings.api_keys), ("ELMAN_ADMIN_API_KEYS", settings.admin_api_keys))
    parts = [f"{len(keys)} of {name}" for name, keys in counts if keys]
    if settings.api_keys_file is not None:
        parts.append(f"those in {settings.api_keys_file}")
    return ", ".join(parts) or "none, so whoever reaches the server may use, load and unload every model"


def _store(settings: Settings) -> str:
    if settings.store == "memory":
        return "in memory, so they end with the server"
    if not settings.is_remote:
        return f"in {settings.store_dir}, with LMDB"
    url = urlsplit(settings.store)
    # Without its password. The hosts of a cluster or of sentinels are several.
    return f"at {url.scheme}://{url.netloc.rpartition('@')[2]}"
