"""Writes the tables of README.md that the code decides: the settings and the errors.

python tests/readme/tables.py
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import PydanticUndefined

import elman.app  # noqa: F401  (defines every error)
from elman.errors import ElmanError, RequestError
from elman.settings import Settings

README = Path(__file__).parents[2] / "README.md"


def settings_table() -> str:
    """Every setting with its default and its own docstring."""
    rows = [
        f"| `ELMAN_{name.upper()}` | {'' if field.default in (None, PydanticUndefined) else f'`{field.default}`'} "
        f"| {_docstrings(Settings)[name]} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | |", "|---|---|---|", *rows])


def errors_table() -> str:
    """Every error that a caller can meet, by status and code."""
    found = {(error.status, error.code, error.title) for error in _errors(ElmanError)}
    rows = [f"| {status} | `{code}` | {title} |" for status, code, title in sorted(found)]
    return "\n".join(["| status | code | |", "|---|---|---|", *rows])


def with_tables(text: str) -> str:
    """`text` with both tables as they should be."""
    for name, table in (("settings", settings_table()), ("errors", errors_table())):
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)"
        text = re.sub(pattern, rf"\g<1>\n{table}\n\n\g<2>", text, flags=re.DOTALL)
    return text


def _docstrings(cls: type) -> dict[str, str]:
    """The string under each annotated field of a class."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _errors(base: type[ElmanError]) -> Iterator[type[ElmanError]]:
    if base not in (ElmanError, RequestError):
        yield base
    for error in base.__subclasses__():
        yield from _errors(error)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
