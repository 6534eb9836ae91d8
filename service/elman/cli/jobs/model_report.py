"""What `elman check` and `elman models` print of models and refusals, for people and for programs."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from elman.cli.jobs.printing import counted, exactness, print_facts, print_table, printable, shape_of
from elman.cli.jobs.request_example import request_example
from elman.errors import ModelRefused
from elman.repository.feeding import driving_of, why_no_forecast, why_no_generation
from elman.repository.model import Model
from elman.repository.repository import Refusal
from elman.repository.spec import ForecastSpec

# Most items of a list that are printed for people.
_MAX_ITEMS = 12
# Most characters of the example of a request.
_MAX_EXAMPLE = 1000

_BATCHING = {
    "ragged": "sequences of different lengths run together",
    "equal": "sequences of the same length run together",
    "alone": "each sequence runs alone",
}


def describe(model: Model) -> dict[str, Any]:
    """A model as a JSON object: its spec, its network and its proof."""
    network, proof = model.network, model.proof
    return {
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "spec": model.spec.dump(),
        "cell": network.cell,
        "layers": network.layers,
        "hidden_size": network.hidden_size,
        "layout": network.layout,
        "window": network.window,
        "inputs": [_port(one.name, one.role, one.shape, one.dtype, one.found) for one in network.inputs],
        "outputs": [_port(one.name, one.role, one.shape, one.dtype, one.found) for one in network.answers],
        "output": {"name": network.output_names[0], "size": network.output_size},
        "state": [{"name": s.name, "shape": list(s.row_shape), "dtype": s.dtype.name} for s in network.states],
        "state_bytes": network.state_nbytes,
        "streaming": model.sessions,
        "generates": why_no_generation(model) is None,
        "forecasts": why_no_forecast(model) is None,
        "proof": {
            "exact": proof.exact,
            "tolerance": proof.tolerance,
            "batched": proof.batched,
            "chunked": proof.chunked,
            "min_rows": proof.min_rows,
            "reason": proof.reason,
        },
        "notes": [] if model.triton is None else list(model.triton.notes),
    }


def _port(name: str, role: str, shape: tuple[int | None, ...], dtype: Any, found: str) -> dict[str, Any]:
    return {"name": name, "role": role, "shape": list(shape), "dtype": dtype.name, "found": found}


def refusal_report(refused: ModelRefused) -> dict[str, Any]:
    """A refusal as a JSON object."""
    return {"reason": refused.reason, "node": refused.node, "remedy": refused.remedy, "model_json": refused.template}


def print_model(file: Path, model: Model) -> None:
    """Print a model that can be served."""
    console = Console(highlight=False)
    console.print(f"[green]served[/]  {escape(str(file))}")
    print_facts(_facts(model))
    console.print()
    _print_ports(model)
    for note in () if model.triton is None else model.triton.notes:
        console.print(f"[yellow]note[/]  {escape(note)}", soft_wrap=True)
    example = json.dumps(request_example(model), ensure_ascii=False)
    console.print("\na request, as POST /v1/models/", escape(model.name), "/predict takes it:", sep="")
    if len(example) > _MAX_EXAMPLE:
        example = f"it is long: elman check --json {file} has it as 'request'"
    console.print(escape(example), soft_wrap=True)
    console.print("\nspec (a model.json beside the file overrides it):")
    console.print(escape(json.dumps(_shorten(model.spec.dump()), indent=2, ensure_ascii=False)), soft_wrap=True)


def _print_ports(model: Model) -> None:
    """Every input and output with its role, its shape in a step or a sequence, and how the role was found."""
    rows = [
        (side, one.name, one.role, shape_of(one.shape), one.dtype.name, one.found)
        for side, ports in (("input", model.network.inputs), ("output", model.network.answers))
        for one in ports
    ]
    print_table(("", "name", "role", "shape", "type", "found"), rows)


def print_refusal(file: Path, refused: ModelRefused) -> None:
    """Print why a file is refused."""
    console = Console(highlight=False)
    console.print(f"[red]refused[/] {escape(str(file))}")
    console.print(f"  {escape(refused.reason)}", soft_wrap=True)
    if refused.node:
        console.print(f"  [bold]at[/] {escape(refused.node)}", soft_wrap=True)
    if refused.remedy:
        console.print(f"  {escape(refused.remedy)}", soft_wrap=True)
    if refused.template:
        console.print("  model.json to start from:")
        console.print(escape(json.dumps(refused.template, indent=2)), soft_wrap=True)


def print_checked(root: Path, checked: Mapping[Path, Model | ModelRefused]) -> None:
    """Print a line for each file below `root`, and how many are refused for each reason."""
    console = Console(highlight=False, soft_wrap=True)
    reasons: Counter[str] = Counter()
    for file, one in checked.items():
        name = escape(str(file.relative_to(root)))
        if isinstance(one, ModelRefused):
            reasons[_without_names(one.reason)] += 1
            console.print(f"[red]refused[/] {name}: {escape(one.reason)}")
        else:
            sessions = "sessions" if one.proof.streaming else "no sessions"
            console.print(f"[green]served[/]  {name}: {_size(one)}, {_input(one)}, {sessions}")
    console.print(f"\n{len(checked) - reasons.total()} served, {reasons.total()} refused")
    for reason, count in reasons.most_common():
        console.print(f"{count:>5} {escape(reason)}")


def _without_names(reason: str) -> str:
    """A reason without what differs from file to file, as docs/refusals.md lists it."""
    return re.sub(r"'[^']*'|\[[^]]*\]|[0-9][0-9.]*", "...", reason.split(": ")[0])


MODEL_COLUMNS = ("model", "task", "network", "input", "out", "sessions", "exact")
"""The columns of a list of models."""


def print_models(models: Iterable[Model], refusals: Iterable[Refusal]) -> None:
    """Print the models of a folder, and the files that are refused."""
    listed = list(models)
    several = {model.name for model in listed if model.version != 1}
    rows = [
        (
            f"{model.name}@{model.version}" if model.name in several else model.name,
            model.spec.task or "raw",
            _size(model),
            _input(model),
            str(model.network.output_size),
            "yes" if model.sessions else "no",
            exactness(model.proof.exact, model.proof.tolerance),
        )
        for model in listed
    ]
    print_table(MODEL_COLUMNS, rows, right=("out",))
    for one in refusals:
        print_refused(one.name, one.version, str(one.reason))


def print_refused(name: str, version: int | None, reason: str) -> None:
    """Print in a line why a file of a list is refused."""
    numbered = "" if version is None else f" version {version}"
    text = printable(f"{name}{numbered}: {reason}")
    Console(highlight=False).print(f"[red]refused[/] {escape(text)}", soft_wrap=True)


def _facts(model: Model) -> list[tuple[str, str]]:
    network, proof = model.network, model.proof
    facts: list[tuple[str, str]] = [
        ("network", _network(model)),
        ("input", f"{network.input!r}: {_input(model)}" + (f", {network.window} steps" if network.window else "")),
        ("output", f"{network.output_names[0]!r}: {counted(network.output_size, 'number')} per {_unit(model)}"),
        ("state", _state(model)),
        ("sessions", "yes" if model.sessions else "no"),
        ("batching", _BATCHING[proof.batched] + ("" if proof.chunked else "; each as a whole, not in chunks")),
        ("exact", "the same bits alone, batched and in chunks" if proof.exact else f"within {proof.tolerance:.2g}"),
    ]
    if proof.reason is not None:
        facts.append(("because", proof.reason))
    if model.spec.task == "generation" or model.spec.generation is not None:
        facts.append(("generates", why_no_generation(model) or _generation(model)))
    if model.spec.task == "forecasting":
        facts.append(("forecasts", why_no_forecast(model) or _forecast(model)))
    return facts


def _generation(model: Model) -> str:
    spec = model.spec.generation
    conditions = ", ".join(spec.conditions) if spec is not None else ""
    return f"yes, with the conditions {conditions}" if conditions else "yes"


def _forecast(model: Model) -> str:
    axes, names = driving_of(model), model.spec.input.names
    target, known = (
        ", ".join(names[i] if names else str(i) for i in features) for features in (axes.target, axes.known)
    )
    ahead = f"with {known} known ahead, for the {axes.known_for} step" if known else ""
    driven = {
        "recursive": "",
        "window": f"driven by windows of {axes.window}",
        "direct": f"{axes.horizon} steps at once",
    }
    parts = [f"feature {target}", ahead, driven[axes.drive], _intervals(model.spec.forecast or ForecastSpec())]
    return f"yes, {', '.join(filter(None, parts))}"


def _intervals(spec: ForecastSpec) -> str:
    errors = spec.errors
    if errors is None:
        return "with quantiles" if spec.sampled else ""
    words = f"with quantiles up to {errors.steps} steps"
    if not errors.coverage:
        return words
    shares = [100 * share for step in errors.coverage for share in step]
    return f"{words}: {100 * errors.level:g} % intervals held {min(shares):.0f} to {max(shares):.0f} % of held-out data"


def _unit(model: Model) -> str:
    return "step" if model.network.answering[0].role == "steps" else "sequence"


def _network(model: Model) -> str:
    network = model.network
    direction = "" if network.look_ahead is None else ", looks ahead"
    return f"{network.layers} x {network.cell}, hidden size {network.hidden_size}{direction}"


def _size(model: Model) -> str:
    network = model.network
    return f"{network.cell} {network.layers}x{network.hidden_size}"


def _shorten(value: Any) -> Any:
    """Shorten long lists, such as vocabularies, to their first items."""
    if isinstance(value, dict):
        return {key: _shorten(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) > _MAX_ITEMS:
        return [*value[:_MAX_ITEMS], f"... {len(value) - _MAX_ITEMS} more"]
    return value


def _input(model: Model) -> str:
    spec = model.spec.input
    if spec.kind == "frames":
        return f"signal, frames of {spec.size} every {spec.stride or spec.size}"
    if model.tokens:
        return "tokens" if spec.vocabulary_size is None else f"{spec.vocabulary_size} tokens"
    return counted(model.network.features or 0, "feature")


def _state(model: Model) -> str:
    tensors = ", ".join(f"{state.name} {list(state.row_shape)}" for state in model.network.states)
    return f"{tensors}: {model.network.state_nbytes} bytes per sequence" if tensors else "none"
