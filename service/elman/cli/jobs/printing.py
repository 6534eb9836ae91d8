"""What people read on standard output: tables that fit the terminal, and text from elsewhere."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Wider than any table, so that its own width is found.
_UNLIMITED = 10_000


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Print rows as a table, or each as lines of its own where the terminal is too narrow for it. No cell is cut.

    Args:
        right: the columns of numbers, which stand to the right.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in header:
        table.add_column(Text(name), justify="right" if name in right else "left", no_wrap=True)
    listed = [[printable(cell) for cell in row] for row in rows]
    for row in listed:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    wide = Console(highlight=False, width=_UNLIMITED)
    width = Measurement.get(wide, wide.options, table).maximum
    if console.is_terminal and width > console.width:
        _print_blocks(console, header, listed)
    else:
        Console(highlight=False, width=width).print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print a line for each name and value; none for an empty value."""
    listed = [(name, printable(value)) for name, value in facts if value]
    indent = max(len(name) for name, _ in listed)
    console = Console(highlight=False)
    for name, value in listed:
        console.print(Text.assemble((f"{name:<{indent}}", "bold"), f"  {value}"), soft_wrap=True)


def _print_blocks(console: Console, header: Sequence[str], rows: list[list[str]]) -> None:
    """Print each row as a block: its first cell, then the name and the cell of each other column that has one."""
    indent = max(map(len, header[1:]), default=0)
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=True)
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell:
                console.print(Text(f"  {name:<{indent}}  {cell}"), soft_wrap=True)


def printable(text: str) -> str:
    """A text without what a terminal would take for a command, or for the end of a line."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 session` or `2 sessions`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def shape_of(shape: Iterable[int | None]) -> str:
    """A shape as it is printed, such as `3x4`."""
    return "x".join("any" if extent is None else str(extent) for extent in shape) or "1"


def exactness(exact: bool, tolerance: float | None) -> str:
    """In words, whether a batch changes no bit of an answer."""
    return "yes" if exact else f"within {tolerance:.1g}"
