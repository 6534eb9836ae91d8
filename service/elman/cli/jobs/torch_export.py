"""Exports a torch module that the user names to an ONNX file."""

import json
from pathlib import Path
from typing import Literal, get_args

import typer

from elman.cli.exits import FAILED, refuse
from elman.errors import ModelRefused
from elman.exporter.errors import ExportRefused
from elman.exporter.export import TOLERANCE, export
from elman.exporter.source import FurtherInput, SourceError, example_input, find_module, load_weights
from elman.repository.spec import InputRole, ModelSpec, Task, parse_spec


def export_module(
    source: str,
    path: Path,
    *,
    example_shape: str,
    tokens: int | None,
    state_shapes: list[str],
    inputs: list[str],
    roles: list[str],
    weights: Path | None,
    task: str | None,
    labels: str | None,
    vocabulary: str | None,
    unknown: str | None,
    normalisation: Literal["NFC", "none"] | None,
    feature_names: str | None,
    mean: str | None,
    std: str | None,
    reads: Literal["data", "scaled", "series"] | None,
    input_mean: str | None,
    input_std: str | None,
    spec: Path | None,
    tolerance: float | None,
    quantise: bool,
    quantise_dynamic: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export a module and print where it was written. Exits as `elman export` does, whose options these are."""
    target = path if path.suffix == ".onnx" else path / "1" / "model.onnx"
    if target.exists() and not target.is_file():
        raise refuse(f"{target} is no regular file; give the path of a file to write")
    if target.exists() and not overwrite:
        raise refuse(f"{target} exists; --overwrite replaces it")
    if quantise and quantise_dynamic:
        raise refuse("--quantise and --quantise-dynamic are two forms of 8 bits: give one")
    sizes, state_sizes = _sizes("--example-shape", example_shape), [_sizes("--state-shape", s) for s in state_shapes]
    further, given_roles = [_further(text) for text in inputs], dict(_role(text) for text in roles)
    given_task, given_spec = _task(task), _spec(spec)
    given_labels, given_names, given_vocabulary = _items(labels), _items(feature_names), _vocabulary(vocabulary)
    given_mean, given_std = _numbers("--mean", mean), _numbers("--std", std)
    try:
        module = find_module(source)
        if weights is not None:
            load_weights(module, weights)
        example = example_input(module, sizes, tokens, state_sizes, further)
    except SourceError as error:
        raise refuse(str(error)) from None
    try:
        written = export(
            module,
            target,
            example=example,
            task=given_task,
            labels=given_labels,
            vocabulary=given_vocabulary,
            unknown=unknown,
            normalisation=normalisation,
            feature_names=given_names,
            mean=given_mean,
            std=given_std,
            reads=reads,
            input_mean=_numbers("--input-mean", input_mean),
            input_std=_numbers("--input-std", input_std),
            spec=given_spec,
            roles=given_roles,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            quantise="dynamic" if quantise_dynamic else quantise,
        )
    except ExportRefused as refused:
        raise refuse(f"{source} cannot be exported: {refused}", FAILED) from None
    except OSError as error:
        raise refuse(f"{target} cannot be written: {error.strerror}", FAILED) from None
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise refuse(f"{source} fails on an input of {example_shape}: {str(error).splitlines()[0]}", FAILED) from None
    if as_json:
        typer.echo(json.dumps({"path": str(target), "spec": written.dump()}, ensure_ascii=False))
    else:
        answers = "answers near to the module's" if quantise or quantise_dynamic else "the same answers as the module"
        typer.echo(f"{target}: {target.stat().st_size:,} bytes, with {answers}")
        typer.echo(f"elman check {target}    says how it will be served")


def _sizes(option: str, text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise refuse(f"{option} is {text!r}, not sizes such as 1,10,12")
    return sizes


def _further(text: str) -> FurtherInput:
    """An `--input`: NAME=SIZES, or NAME=SIZES:KIND."""
    name, equals, rest = text.partition("=")
    sizes, colon, kind = rest.partition(":")
    if not name or not equals:
        raise refuse(f"--input is {text!r}, not NAME=SIZES such as profile=1,4")
    given = tuple(_sizes("--input", sizes))
    if not colon or kind == "float":
        return FurtherInput(name, given)
    if kind == "lengths":
        return FurtherInput(name, given, "lengths")
    if kind == "mask":
        return FurtherInput(name, given, "mask")
    if not kind.isdecimal() or int(kind) < 2:
        raise refuse(f"--input {name} has the kind {kind!r}, not float, lengths, mask or the number of its ids")
    return FurtherInput(name, given, int(kind))


def _role(text: str) -> tuple[str, InputRole]:
    """A `--role`: NAME=ROLE."""
    name, _, role = text.partition("=")
    known: tuple[InputRole, ...] = get_args(InputRole)
    for one in known:
        if one == role:
            return name, one
    raise refuse(f"--role is {text!r}, not NAME=ROLE with one of {', '.join(known)}")


def _task(text: str | None) -> Task | None:
    for task in get_args(Task):
        if text == task:
            known: Task = task
            return known
    if text is not None:
        raise refuse(f"--task is {text!r}, not one of {', '.join(get_args(Task))}")
    return None


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
        raise refuse(f"{path} cannot be read: {error}") from None


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise refuse(f"{option} is {text!r}, not numbers separated by commas") from None


def _spec(path: Path | None) -> ModelSpec | None:
    if path is None:
        return None
    try:
        return parse_spec(path.read_text(), str(path))
    except (OSError, ModelRefused) as error:
        raise refuse(str(error)) from None
