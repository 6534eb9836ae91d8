"""The part of a spec that keeps a file from being served, found by leaving each part out."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from elman.errors import ModelRefused, SpecRefused
from elman.repository.spec import ModelSpec

# Each part costs a load. All of them, and the one that was refused, are within the time that loading may take.
_MOST_PARTS = 12
_MOST_SECONDS = 20.0
_MOST_TEXT = 120

_Path = tuple[str, ...]
"""The keys that lead to a field of a spec, as its JSON has them."""


def name_part(
    spec: ModelSpec, refused: ModelRefused, serves: Callable[[dict[str, Any]], bool], began: float
) -> ModelRefused:
    """The refusal of a file, which names the part of its spec that causes it. Without that part the file is served.

    The refusal as it is if it is about the spec already, if no part causes it, or if there is no time to find it.

    Args:
        spec: what is given of the file.
        refused: what is wrong with the file and that spec.
        serves: whether the file is served with a spec, which it is given as JSON.
        began: when the load began, by the monotonic clock.
    """
    if isinstance(refused, SpecRefused):
        return refused
    content, took = spec.dump(), time.monotonic() - began
    for paths in islice(_parts(content), _MOST_PARTS):
        if time.monotonic() - began + took > _MOST_SECONDS:
            break
        if serves(_without(content, paths)):
            return _caused_by(content, paths, refused)
    return refused


def _caused_by(content: dict[str, Any], paths: tuple[_Path, ...], refused: ModelRefused) -> SpecRefused:
    # A refusal may guess at the cause of another one. Here the cause is known.
    seen = refused.__cause__ if isinstance(refused.__cause__, ModelRefused) else refused
    said = " and ".join(f"{'.'.join(path)} is {_short(_at(content, path))}" for path in paths)
    names = " and ".join(".".join(path) for path in paths)
    them = "it" if len(paths) == 1 else "them"
    return SpecRefused(
        f"the spec's {said}, and with {them} {seen.reason}",
        node=seen.node,
        remedy=f"Correct {names} in model.json, or leave {them} out: without {them} the file is served.",
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."


def _parts(content: dict[str, Any]) -> Iterator[tuple[_Path, ...]]:
    """The parts that say how a file is run, the smaller first."""
    data = [("input", key) for key in ("name", "size", "batch_axis", "time_axis") if key in content.get("input", {})]
    ports: dict[str, Any] = content.get("inputs", {})
    fields = [("inputs", name, key) for name, one in ports.items() for key in ("batch_axis", "time_axis") if key in one]
    wholes: list[_Path] = [("constants", name) for name in content.get("constants", {})]
    wholes += [("inputs", name) for name in ports]
    wholes += [(key,) for key in ("state", "outputs") if key in content]
    yield from ((path,) for path in [*data, *fields, *wholes])
    axes = tuple(path for path in data if path[1].endswith("_axis"))
    every = (*data, *wholes)
    yield from dict.fromkeys(group for group in (axes, every) if len(group) > 1)


def _at(content: dict[str, Any], path: _Path) -> Any:
    value: Any = content
    for key in path:
        value = value[key]
    return value


def _without(content: dict[str, Any], paths: tuple[_Path, ...]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(content))
    for path in paths:
        del _at(copy, path[:-1])[path[-1]]
    return copy
