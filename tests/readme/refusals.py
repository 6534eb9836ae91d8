"""Every reason for which a model is refused, as the code has it: what differs from file to file is `...`."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from tests.readme.blocks import ROOT

PACKAGE = ROOT / "service" / "elman"

_REFUSALS = ("ModelRefused", "SpecRefused")


def reasons() -> dict[str, str]:
    """The reasons, each with the place in the code that gives it."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") in _REFUSALS and call.args:
                    place = f"{path.relative_to(ROOT)}:{call.lineno}"
                    found |= dict.fromkeys(_texts(call.args[0], function, constants), place)
    return found


def _texts(node: ast.expr, function: ast.FunctionDef, constants: dict[str, Any]) -> Iterator[str]:
    """What an expression may say; a variable is what the function assigns to it."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = [_part(part, constants) for part in node.values]
        yield re.sub(r"'?\.\.\.'?( ?'?\.\.\.'?)*", "...", "".join(parts))
    elif isinstance(node, ast.Name):
        for other in ast.walk(function):
            if isinstance(other, ast.Assign) and any(getattr(t, "id", "") == node.id for t in other.targets):
                yield from _texts(other.value, function, constants)


def _part(part: ast.expr, constants: dict[str, Any]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    return str(constants.get(value.id, "...")) if isinstance(value, ast.Name) else "..."


if __name__ == "__main__":
    for reason, place in reasons().items():
        print(f"{place}: {reason}")
