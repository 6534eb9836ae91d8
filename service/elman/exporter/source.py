"""The torch module that MODULE:ATTR names, its weights, and an example of its input."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elman.exporter.arguments import parameter_names


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


@dataclass(frozen=True)
class FurtherInput:
    """An example of an argument of forward beside the data.

    Attributes:
        name: of the parameter.
        sizes: of the tensor.
        kind: `float`, `mask` (true everywhere), `lengths` (all steps), or the number of ids that it may take.
    """

    name: str
    sizes: tuple[int, ...]
    kind: int | Literal["float", "mask", "lengths"] = "float"

    def example(self, steps: int) -> Tensor:
        """A tensor of these sizes. `steps`: the number of steps of the data."""
        if self.kind == "float":
            return torch.randn(*self.sizes)
        if self.kind == "mask":
            return torch.ones(self.sizes, dtype=torch.bool)
        if self.kind == "lengths":
            return torch.full(self.sizes, steps)
        return _ids(self.sizes, self.kind)


def example_input(
    module: nn.Module,
    sizes: Sequence[int],
    num_tokens: int | None,
    state_sizes: Sequence[Sequence[int]],
    further: Sequence[FurtherInput] = (),
) -> Tensor | tuple[Any, ...]:
    """A random example of the arguments of forward: the data, further inputs by name, and states of zeros.

    Args:
        sizes: of the data, `(batch, time, features)` or `(batch, time)`.
        num_tokens: the data is token ids below this; None for numbers.
        state_sizes: of each state. States are what forward takes beside the data and the further inputs, in order.

    Raises:
        SourceError: forward has no parameter of such a name.
    """
    x = torch.randn(*sizes) if num_tokens is None else _ids(sizes, num_tokens)
    states = [torch.zeros(*one) for one in state_sizes]
    named = {one.name: one.example(sizes[1] if len(sizes) > 1 else 1) for one in further}
    parameters = [one for one in parameter_names(module, len(named) + len(states)) if one]
    unknown = [name for name in named if name not in parameters]
    if unknown:
        raise SourceError(f"forward has no argument {unknown[0]!r} there, only {', '.join(parameters) or 'the data'}")
    arguments = [named[name] if name in named else states.pop(0) for name in parameters if name in named or states]
    whole = (x, *arguments, *states)
    return whole if len(whole) > 1 else x


def _ids(sizes: Sequence[int], count: int) -> Tensor:
    ids = torch.randint(0, count, tuple(sizes))
    ids.view(-1)[0] = count - 1  # the largest id shows how many there are
    return ids
