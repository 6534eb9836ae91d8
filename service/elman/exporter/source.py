"""The torch module that MODULE:ATTR names, its weights, and an example of its input."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class SourceError(Exception):
    """The module or its weights cannot be loaded. The message says what and why."""


def find_module(source: str) -> nn.Module:
    """The `nn.Module` that MODULE:ATTR names. The user's code is run.

    MODULE is an importable name or a file.py. What it imports is looked for in its folder and in the current folder
    first. Afterwards these folders come last on the import path, so that a file of the user's hides no library.

    Args:
        source: such as `net.py:model`. ATTR may be dotted, and may be a callable that returns the module.

    Raises:
        SourceError: there is no such module.
    """
    name, colon, attributes = source.rpartition(":")
    if not colon or not name or not attributes:
        raise SourceError(f"{source!r} is not MODULE:ATTR, such as net.py:model")
    folders = [os.getcwd()]
    if name.endswith(".py"):
        folders.insert(0, str(Path(name).resolve().parent))
    sys.path[:0] = folders
    try:
        return _module_in(_import(name), source, attributes)
    finally:
        del sys.path[: len(folders)]
        sys.path += folders


def _import(name: str) -> ModuleType:
    if name.endswith(".py") and not Path(name).is_file():
        raise SourceError(f"there is no file {name}")
    try:
        return _import_file(Path(name).resolve()) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:  # the user's own code can raise anything
        raise SourceError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    # A file called elman.py or queue.py must not take the place of a library that is loaded.
    name = path.stem if path.stem not in sys.modules else f"__{path.stem}__"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _module_in(namespace: ModuleType, source: str, attributes: str) -> nn.Module:
    found: Any = namespace
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise SourceError(f"{source}: there is no {attribute!r} in {namespace.__file__ or namespace.__name__}")
        found = getattr(found, attribute)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except TypeError as error:
            raise SourceError(f"{source} cannot be called without arguments: {error}") from error
    if not isinstance(found, nn.Module):
        raise SourceError(f"{source} is of type {type(found).__name__}, not a torch.nn.Module")
    return found


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state_dict, as `torch.save` writes it. Raises SourceError."""
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises a dozen kinds without a common base
        raise SourceError(f"the weights in {path} cannot be loaded: {str(error).splitlines()[0]}") from error


def example_input(
    sizes: Sequence[int], num_tokens: int | None, state_sizes: Sequence[Sequence[int]]
) -> Tensor | tuple[Any, ...]:
    """A random example of the input, followed by states of zeros if there are any.

    Args:
        sizes: of the input, `(batch, time, features)` or `(batch, time)`.
        num_tokens: the input is token ids below this; None for numbers.
        state_sizes: of each state.
    """
    x = torch.randn(*sizes) if num_tokens is None else torch.randint(0, num_tokens, tuple(sizes))
    if num_tokens is not None:
        x.view(-1)[0] = num_tokens - 1  # the largest id shows how many tokens there are
    states = tuple(torch.zeros(*one) for one in state_sizes)
    return (x, *states) if states else x
