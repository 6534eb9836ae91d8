"""Writes the tables that the code and the measurements decide: settings, errors, and throughput.

python tests/readme/tables.py
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import PydanticUndefined

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import elman.app  # noqa: F401  (defines every error)
from benchmarks import report
from elman.errors import ElmanError, RequestError
from elman.settings import Settings
from tests.readme.blocks import PAGES, ROOT

_RESULTS = ROOT / "benchmarks" / "results" / "results.json"


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


def figures_table() -> str:
    """Requests a second of Elman and of the peers at the most connections, by model."""
    results = json.loads(_RESULTS.read_text("utf-8"))
    models = [report.Figures(results, name) for name in results["models"]]
    most = models[0].num_connections
    rows = []
    for name, contender in models[0].contenders.items():
        if contender["role"] == "floor":
            continue
        rates = [one.overall(report.per_second, name, "json", connections=most) for one in models]
        title = f"**{contender['title']}**" if contender["role"] == "elman" else contender["title"]
        rows.append([title, *map(report.number, rates)])
    head = [f"requests a second, {most} connections", *(one.found["title"] for one in models)]
    said = (
        f"Measured {results['machine']['date']} by `python -m benchmarks`: JSON, the server on one core, sequences of\n"
        f"{models[0].found['mean_length']:.0f} steps in the mean. I is the number of features, H the hidden size."
    )
    return f"{report.table(head, rows, words=1)}\n\n{said}"


def with_tables(text: str) -> str:
    """`text` with the tables that it has as they should be."""
    for name, table in (("settings", settings_table), ("errors", errors_table), ("figures", figures_table)):
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)"
        if re.search(pattern, text, flags=re.DOTALL):
            written = f"\n{table()}\n\n"
            text = re.sub(pattern, lambda found, new=written: found[1] + new + found[2], text, flags=re.DOTALL)  # type: ignore[misc]
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
    for page in PAGES:
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")
