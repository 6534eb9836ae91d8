"""What shells complete: names of models on a server, and paths of model files."""

from pathlib import Path

from elman.proxies import proxy_for

# Seconds that a shell waits for the server.
_PATIENCE = 1.0


def names(url: str, api_key: str | None, begin: str) -> list[str]:
    """The models of a server whose names begin so; none if it does not answer at once."""
    import httpx

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    address = f"{url.rstrip('/')}/v1/models"
    try:
        answer = httpx.get(address, headers=headers, timeout=_PATIENCE, proxy=proxy_for(url), trust_env=False).json()
        return [one["name"] for one in answer["models"] if one["name"].startswith(begin)]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return []


def paths(begin: str) -> list[str]:
    """The folders and files .onnx that begin so. Only where `begin` is a path and not a name."""
    if "/" not in begin:
        return []
    folder, _, name = begin.rpartition("/")
    try:
        found = sorted(Path(folder or "/").iterdir())
    except OSError:
        return []
    return [
        f"{folder}/{one.name}{'/' if one.is_dir() else ''}"
        for one in found
        if one.name.startswith(name) and (one.is_dir() or one.suffix == ".onnx")
    ]
