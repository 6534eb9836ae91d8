"""What the arguments of a module's forward are for, beside the data."""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from elman.exporter.errors import ExportRefused
from elman.repository.naming import names_lengths, names_mask, names_state
from elman.repository.spec import InputRole

ROLES: dict[InputRole, str] = {
    "sequence": "one value a step, with the batch and time axes of the data",
    "static": "one value a sequence, without the time axis",
    "lengths": "the number of steps of each row, integers (batch,)",
    "mask": "one value a step, real or padding",
    "state": "a state, which a result of forward replaces",
}
"""The roles of an argument, as a refusal explains them."""


@dataclass(frozen=True)
class Argument:
    """A tensor of the example beside the data.

    Attributes:
        name: of the parameter that takes it; empty for tensors in a tuple, and for what forward takes as `*state`.
        valid: what a mask says of a real step; None for other roles.
    """

    name: str
    tensor: Tensor
    role: InputRole = "state"
    valid: int | None = None


def read_arguments(module: nn.Module, example: Sequence[Any]) -> tuple[tuple[Argument, ...], tuple[int | None, ...]]:
    """The tensors of an example after the data, all as states; and for each argument the size of its tuple, or None.

    Raises ExportRefused.
    """
    found: list[Argument] = []
    groups: list[int | None] = []
    for name, value in zip(parameter_names(module, len(example)), example, strict=True):
        tensors = (value,) if isinstance(value, Tensor) else value
        if not isinstance(tensors, tuple | list) or not all(isinstance(one, Tensor) for one in tensors):
            raise ExportRefused(
                f"the example must hold tensors, or tuples of states, but {name or 'an argument'!r} is "
                f"{type(value).__name__}"
            )
        groups.append(None if isinstance(value, Tensor) else len(tensors))
        for tensor in tensors:
            if tensor.dtype not in (torch.float32, torch.int32, torch.int64, torch.bool):
                raise ExportRefused(
                    f"{name or 'an argument'!r} must be float32, int32, int64 or bool, not {tensor.dtype}"
                )
            found.append(Argument(name if isinstance(value, Tensor) else "", tensor.detach().cpu()))
    return tuple(found), tuple(groups)


def parameter_names(module: nn.Module, count: int) -> list[str]:
    """The names of forward's parameters after the data; empty where it has none, as for `*state`."""
    named = [
        one.name
        for one in inspect.signature(module.forward).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return [*named[1 : count + 1], *[""] * (count - len(named[1:]))]


def readings(
    arguments: Sequence[Argument], x: Tensor, roles: Mapping[str, InputRole]
) -> Iterator[tuple[Argument, ...]]:
    """Every way in which the arguments may be meant. `roles` are those that the caller gives. Raises ExportRefused."""
    unknown = set(roles) - {one.name for one in arguments}
    if unknown:
        known = ", ".join(one.name for one in arguments if one.name) or "none"
        raise ExportRefused(f"roles names {min(unknown)!r}, but the further arguments of the example are {known}")
    choices = [[_as(one, role) for role in _roles(one, x, roles.get(one.name))] for one in arguments]
    return itertools.product(*choices)


def _roles(argument: Argument, x: Tensor, told: InputRole | None) -> list[InputRole]:
    """The roles that the name, the dtype and the shape of an argument allow."""
    name, tensor = argument.name, argument.tensor
    if told is not None:
        return [told]
    if not name:
        return ["state"]
    floats, rank = tensor.is_floating_point(), tensor.dim()
    per_step = x.dim() > 1 and rank >= 2 and tensor.shape[:2] == x.shape[:2]
    if not floats and tensor.dtype != torch.bool and rank == 1 and names_lengths(name):
        return ["lengths"]
    if per_step and rank == 2 and names_mask(name):
        return ["mask"]
    found: list[InputRole] = ["static"]
    if x.is_floating_point() and x.dim() == 2:  # a module of one step: nothing has a time axis
        found.append("sequence")
    elif per_step:
        found.append("sequence")
    if floats and (rank >= 2 or names_state(name)):
        found.append("state")
    return found


def _as(argument: Argument, role: InputRole) -> Argument:
    """An argument in a role. Raises ExportRefused where its example does not fit the role."""
    if role not in ROLES:
        raise ExportRefused(f"the role of {argument.name!r} is {role!r}, not one of {', '.join(ROLES)}")
    if role != "mask":
        return replace(argument, role=role)
    values = sorted(set(argument.tensor.flatten().tolist()))
    if values not in ([0], [1]):
        raise ExportRefused(
            f"the mask {argument.name!r} must be the same for every step of the example, as for steps that are all "
            f"real, so that it shows what stands for a real step; it holds {values[:4]}"
        )
    return replace(argument, role=role, valid=int(values[0]))


def undecided(readings: Sequence[tuple[Argument, ...]]) -> ExportRefused:
    """The refusal of a module whose arguments can be read in several ways."""
    of_each = (list(dict.fromkeys(one.role for one in of_one)) for of_one in zip(*readings, strict=True))
    open_ones = [(one.name, roles) for one, roles in zip(readings[0], of_each, strict=True) if len(roles) > 1]
    name, roles = open_ones[0]
    words = "; or ".join(f"{role}: {ROLES[role]}" for role in roles)
    chosen = ", ".join(f"{name!r}: {roles[0]!r}" for name, roles in open_ones)
    return ExportRefused(
        f"the argument {name!r} of forward can be read as {words}. Say which, such as roles={{{chosen}}}"
    )
