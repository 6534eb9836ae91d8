"""A torch module, found by its name, to one ONNX file: what `elman export` does.

    python -m elman.exporter.script net.py:model my-models/tagger --example-shape 1,10,12 --labels up,down

Exits with 0 once the file is written, 1 where the module cannot be exported as it is, 2 where an argument is wrong.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from elman.errors import ModelRefused
from elman.exporter.errors import ExportRefused
from elman.exporter.export import TOLERANCE, export
from elman.repository.spec import ModelSpec, parse_spec


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    module = find(given.source)
    if given.weights is not None:
        _load_weights(module, given.weights)
    path = target(given.path)
    if path.exists() and not given.overwrite:
        _stop(f"{path} exists; --overwrite replaces it")
    try:
        spec = export(
            module,
            path,
            example=_example(given.example_shape, given.tokens, given.state_shape),
            task=given.task,
            labels=_items(given.labels),
            vocabulary=_vocabulary(given.vocabulary),
            unknown=given.unknown,
            feature_names=_items(given.feature_names),
            mean=_numbers("--mean", given.mean),
            std=_numbers("--std", given.std),
            spec=_spec(given.spec),
            tolerance=given.tolerance,
            quantise=given.quantise,
        )
    except ExportRefused as refused:
        _stop(f"{given.source} cannot be exported: {refused}", 1)
    except OSError as error:
        _stop(f"{path} cannot be written: {error.strerror}", 1)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        _stop(f"{given.source} fails on an input of {given.example_shape}: {str(error).splitlines()[0]}", 1)
    if given.json:
        print(json.dumps({"path": str(path), "spec": spec.dump()}, ensure_ascii=False))
    else:
        print(f"{path}: {path.stat().st_size:,} bytes, and it answers as the module does")
        print(f"elman check {path}    says how it will be served")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="elman export", description="Export a torch module to one ONNX file.")
    parser.add_argument("source", metavar="MODULE:ATTR")
    parser.add_argument("path", type=Path)
    parser.add_argument("--example-shape", required=True)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--state-shape", action="append", default=[])
    for name in ("task", "labels", "vocabulary", "unknown", "feature-names", "mean", "std"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    for flag in ("quantise", "overwrite", "json"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser


def find(source: str) -> nn.Module:
    """The module that `MODULE:ATTR` names; ATTR may be dotted, and may be what gives a module when called."""
    name, colon, attributes = source.rpartition(":")
    if not colon or not name or not attributes:
        _stop(f"{source!r} is no MODULE:ATTR, such as net.py:model")
    found: Any = _import(name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            _stop(f"{name} has no {attributes}")
        found = getattr(found, attribute)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except TypeError as error:
            _stop(f"{source} cannot be called without arguments: {error}")
    if not isinstance(found, nn.Module):
        _stop(f"{source} is {type(found).__name__}, and not a torch.nn.Module")
    return found


def _import(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).resolve()
        # What it imports may lie beside it.
        sys.path.insert(0, str(path.parent))
        loading = importlib.util.spec_from_file_location(path.stem, path)
        if loading is None or loading.loader is None or not path.is_file():
            _stop(f"there is no file {name}")
        module = importlib.util.module_from_spec(loading)
        sys.modules[path.stem] = module
        loading.loader.exec_module(module)
        return module
    except Exception as error:  # whatever the user's own code raises
        _stop(f"{name} cannot be imported: {type(error).__name__}: {error}")


def target(path: Path) -> Path:
    """The file that is written: a path that is no .onnx is a model's folder."""
    return path if path.suffix == ".onnx" else path / "1" / "model.onnx"


def _load_weights(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises a dozen kinds, with no base of their own
        _stop(f"the weights in {path} cannot be loaded: {str(error).splitlines()[0]}")


def _example(shape: str, tokens: int | None, state_shapes: list[str]) -> Tensor | tuple[Any, ...]:
    sizes = _sizes("--example-shape", shape)
    x = torch.randn(sizes) if tokens is None else torch.randint(0, tokens, sizes)
    if tokens is not None:
        x.view(-1)[0] = tokens - 1  # the largest there is, from which the number of tokens may be told
    states = tuple(torch.zeros(_sizes("--state-shape", one)) for one in state_shapes)
    return (x, *states) if states else x


def _sizes(option: str, text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        _stop(f"{option} is {text!r}, and not sizes such as 1,10,12")
    return sizes


def _items(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return _lines(text[1:]) if text.startswith("@") else text.split(",")


def _vocabulary(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return _lines(text[1:]) if text.startswith("@") else list(text)


def _lines(path: str) -> list[str]:
    try:
        # A token may be a blank, and one line may be empty.
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        _stop(f"{path} cannot be read: {error}")


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        _stop(f"{option} is {text!r}, and not numbers separated by commas")


def _spec(path: Path | None) -> ModelSpec | None:
    if path is None:
        return None
    try:
        return parse_spec(path.read_text(), str(path))
    except (OSError, ModelRefused) as error:
        _stop(str(error))


def _stop(message: str, code: int = 2) -> NoReturn:
    print(f"elman: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
