"""The inputs of a model beside its data, as columns of a table."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from elman.cli.jobs.files.errors import UnusableFile

if TYPE_CHECKING:
    from elman.cli.jobs.files.items import ModelIO

_BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class NamedInput:
    """A static input, or a sequence input beside the data.

    Attributes:
        shape: of one step of a sequence input, of one sequence's static input; None is any extent.
        dtype: as a numpy name.
        columns: the columns that hold it, where the user names them.
    """

    name: str
    shape: tuple[int | None, ...] = ()
    dtype: str = "float32"
    columns: tuple[str, ...] = ()

    @property
    def integers(self) -> bool:
        """True if its values are whole numbers, such as ids."""
        return np.dtype(self.dtype).kind in "iu"

    def columns_in(self, header: Sequence[str], lists: Collection[str] = ()) -> list[str]:
        """The columns of a table that hold it: those of `columns`, the one of its name, or `name_0`, `name_1`, ...

        Args:
            lists: the columns whose cells are lists. One of them holds the whole input.

        Raises:
            UnusableFile: a column is missing or there twice, or they are too few or too many.
        """
        named = self.columns or (self.name,)
        if len(named) == 1 and named[0] in lists:
            return list(named)
        if None in self.shape:
            raise UnusableFile(
                f"{self.name!r} has no fixed size, so columns cannot hold it: use JSON lines, or --static "
                f"{self.name}=@FILE if it is static and the same for every sequence"
            )
        size = math.prod(extent or 1 for extent in self.shape)
        if not self.columns and size != 1:
            named = tuple(f"{self.name}_{index}" for index in range(size))
        for column in named:
            if header.count(column) != 1:
                found = "is no" if column not in header else "are several"
                raise UnusableFile(
                    f"there {found} column {column!r} for the input {self.name!r}; the columns are "
                    f"{', '.join(header)}; --columns {self.name}=... names others"
                )
        if len(named) != size:
            raise UnusableFile(f"the input {self.name!r} takes {size} columns, but --columns names {len(named)}")
        return list(named)

    def static_value(self, cells: Sequence[Any]) -> Any:
        """The value of a static input in JSON, from the cells of its columns. Raises ValueError with the fault."""
        if len(cells) == 1 and isinstance(cells[0], list):
            return cells[0]
        values = [self._number(cell) for cell in cells]
        return np.array(values).reshape([extent or 1 for extent in self.shape]).tolist()

    def step_values(self, rows: Any) -> Any:
        """The values of a sequence input, `(steps, columns)` of any numbers, in its own shape and kind.

        Raises ValueError with the fault.
        """
        if self.integers:
            rows = whole_numbers(rows)
        elif np.dtype(self.dtype).kind == "b":
            if not np.isin(rows, (0, 1)).all():
                raise ValueError("the values are not 0 or 1")
            rows = rows.astype(bool)
        return rows.reshape(len(rows), *(extent or 1 for extent in self.shape))

    def _number(self, cell: Any) -> float | int | bool:
        text = "null" if cell is None else str(cell).strip()
        try:
            if np.dtype(self.dtype).kind == "b":
                return _BOOLEANS[text.lower()]
            number = float(text)
            if not self.integers:
                if math.isfinite(number):
                    return number
            elif number.is_integer():
                exact = int(number) if abs(number) < 2**53 else int(text)
                if -(2**63) <= exact < 2**63:
                    return exact
        except (KeyError, ValueError):
            pass
        kind = (
            "true or false" if np.dtype(self.dtype).kind == "b" else "a whole number" if self.integers else "a number"
        )
        raise ValueError(f"{text[:40]!r} is not {kind}")


@dataclass(frozen=True)
class NamedColumns:
    """The columns of a table that hold the inputs beside the data: a list for each input, in the model's order."""

    further: list[list[str]]
    statics: list[list[str]]

    @cached_property
    def all(self) -> list[str]:
        """Every column, once."""
        return list(dict.fromkeys([*chain(*self.further), *self.statics_columns]))

    @property
    def statics_columns(self) -> list[str]:
        """The columns of all static inputs."""
        return list(chain(*self.statics))


def named_columns(model_io: "ModelIO", header: Sequence[str], lists: Collection[str] = ()) -> NamedColumns:
    """Find the columns of the inputs beside the data. `lists` are the columns of lists. Raises UnusableFile."""
    for name in model_io.given:
        if name in header and name not in (model_io.names or ()):
            raise UnusableFile(f"{name!r} is given by --static, and the table has a column of that name: leave one out")
    return NamedColumns(
        [one.columns_in(header, lists) for one in model_io.further],
        [one.columns_in(header, lists) for one in model_io.statics],
    )


def data_columns(model_io: "ModelIO", header: Sequence[str]) -> list[str] | None:
    """The columns that the user or the names of the features say hold the data; None if neither does.

    Raises UnusableFile.
    """
    for column in model_io.columns:
        if column not in header:
            raise UnusableFile(f"there is no column {column!r}; the columns are {', '.join(header)}")
    if model_io.columns:
        return list(model_io.columns)
    names = model_io.names if model_io.kind == "features" else None
    missing = [name for name in names or () if name not in header]
    if names is None or (missing and len(names) == 1):
        return None  # a single column is what it is, whatever its name
    if missing:
        hint = f"; --columns {model_io.data}=... names others, in the order of the model's features"
        raise UnusableFile(
            f"there is no column {', '.join(map(repr, missing))}; the columns are {', '.join(header)}"
            + (hint if model_io.data else "")
        )
    return list(names)


def static_field(model_io: "ModelIO", cells: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The field `static` of a request, from the cells of each static input; nothing where a file gives none.

    Raises ValueError with the input and its fault.
    """
    values = {}
    for one, of_one in zip(model_io.statics, cells, strict=True):
        try:
            values[one.name] = one.static_value(of_one)
        except ValueError as error:
            raise ValueError(f"{one.name}: {error}") from None
    return {"static": values} if values else {}


def whole_numbers(values: Any) -> Any:
    """Numbers as int64. Raises ValueError with the first one that is not whole."""
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    wrong = np.argwhere(values != np.floor(values))
    if len(wrong):
        raise ValueError(f"{values[tuple(wrong[0])]:g} at step {wrong[0][0]} is not a whole number")
    return values.astype(np.int64)


def sequence_json(model_io: "ModelIO", data: Any, further: Sequence[Any]) -> bytes:
    """A sequence in JSON: its data alone, or an object by name where the model has further inputs."""
    value = data
    if model_io.further:
        value = dict(zip((one.name for one in model_io.further), further, strict=True))
        if model_io.size != 0:
            value = {model_io.data: data, **value}
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
