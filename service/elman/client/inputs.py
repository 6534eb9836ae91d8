"""What callers have, as sequences: arrays of any library, data frames, lists of numbers, text.

No library but NumPy is imported: the others are known by the methods with which they give their numbers.
"""

from array import array as buffer
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elman.client.advice import few, no_columns, no_numbers, ragged


class SupportsArray(Protocol):
    """Whatever NumPy can make an array of: tensors, series, data frames, arrays of Arrow."""

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]: ...


class SupportsRows(SupportsArray, Protocol):
    """The same, with a length: an array and no single number."""

    def __len__(self) -> int: ...


SequenceLike = NDArray[Any] | str | SupportsArray | Mapping[str, NDArray[Any] | SupportsArray | str | list[Any]]
"""One sequence: an array `(time, features)`, `(time,)` of token ids or of a signal, or text.

An array may be one of NumPy, a tensor, a series, or one of Arrow; or a data frame of pandas or polars or a table of
Arrow, whose columns are matched by name with the model's features. For a model with several sequence inputs it is a
mapping from the name of each to its values.
"""

_S = TypeVar("_S", bound=SequenceLike)
SequenceList = list[_S] | tuple[_S, ...] | Iterator[_S]
"""Many sequences, of any lengths."""

SeriesLike = ArrayLike | Mapping[str, ArrayLike]
"""One series in the units of its data; or, for a model with several sequence inputs, the values of each by its name."""

_R = TypeVar("_R", bound=SupportsRows | Mapping[str, Any])
SeriesList = list[_R] | tuple[_R, ...] | Iterator[_R]
"""Many series, of any lengths. A list of numbers, or of lists of them, is one series."""

Read = NDArray[Any] | str | Mapping[str, NDArray[Any] | str]
"""A sequence that was read: an array of NumPy, text, or a mapping of those."""

_METHODS = ("__array__", "to_numpy", "__arrow_array__", "__arrow_c_array__", "__dlpack__")


def needs_card(x: object) -> bool:
    """Whether only the model's card tells what it means: names of columns, or how many axes a nested list has."""
    return is_table(x) or (isinstance(x, list | tuple) and (any(map(is_table, x)) or _num_axes(x) == 2))


def listed(x: Any) -> Any:
    """A generator or another iterable, or an array of sequences, as a list; anything else as it is.

    Raises TypeError for bytes, sets and packed sequences, which would be read as something else than was meant.
    """
    if hasattr(x, "batch_sizes"):
        raise TypeError(
            "a packed sequence has its steps in another order; pass the sequences that it was made of, as "
            "torch.nn.utils.rnn.unpack_sequence gives them"
        )
    elements = _elements(x)
    if elements is not None:
        return elements
    if isinstance(x, str | Mapping | list | tuple) or is_table(x) or _holds_values(x) or getattr(x, "ndim", 1) == 0:
        return x
    if isinstance(x, bytes | bytearray):
        raise TypeError("bytes are neither text nor numbers; pass text as str, which x.decode() gives")
    if isinstance(x, set | frozenset):
        raise TypeError("a set has no order; pass a list")
    return [listed(one) for one in x] if isinstance(x, Iterable) else x


def _elements(x: Any) -> list[Any] | None:
    """The elements of an array of sequences, which are texts or arrays (time, features); None for anything else."""
    numeric = getattr(getattr(x, "dtype", None), "kind", "O") in "fiubcmM"
    if numeric or hasattr(x, "detach") or is_table(x) or not _holds_values(x):
        return None
    try:
        array = _converted(x)
    except (TypeError, ValueError, RuntimeError):  # whoever reads it tells of that
        return None
    if array.ndim != 1 or array.dtype.kind not in "UOT":
        return None
    elements = array.tolist()
    return elements if any(isinstance(one, str) or getattr(one, "ndim", 0) == 2 for one in elements) else None


def read_input(x: object, card: Mapping[str, Any] | None = None, where: str = "x") -> Read | list[Read]:
    """One sequence, or a list of them.

    Args:
        x: what the caller gave, after `listed`.
        card: the `input` of the model's card, if `needs_card`.
        where: its name in errors.

    Raises:
        TypeError: it is none of that.
        ValueError: the columns of a data frame do not fit the model.
        RequestError: the steps have different numbers of features.
    """
    if isinstance(x, str | Mapping | np.ndarray) or is_table(x) or _holds_values(x):
        return read_one(x, card, where)
    if not isinstance(x, list | tuple):
        instead = "pass an array, a data frame, a list or text"
        raise TypeError(f"{where} must be a sequence or a list of them; got {type(x).__name__}; {instead}")
    if _num_axes(x) == 1 or (_num_axes(x) == 2 and (card or {}).get("kind") == "features"):
        return read_one(x, card, where)
    return [read_one(one, card, f"{where}[{index}]") for index, one in enumerate(x)]


def read_one(x: object, card: Mapping[str, Any] | None = None, where: str = "x") -> Read:
    """One sequence. Raises as `read_input` does."""
    x = listed(x)
    if isinstance(x, str):
        return x
    if isinstance(x, Mapping):
        return {
            name: one if isinstance(one, str) else read_values(one, f"{where}[{name!r}]") for name, one in x.items()
        }
    if is_table(x):
        x = by_name(x, (card or {}).get("names"), where)
    array = read_values(x, where)
    if array.ndim == 0:
        raise TypeError(f"{where} is a single value and no sequence; pass an array (time, features) or (time,)")
    if array.ndim > 2:
        shapes = "must have the shape (time, features) or (time,)"
        raise TypeError(f"{where} {shapes}, got {array.shape}; pass a batch to predict as list(x)")
    return array


def is_table(x: object) -> bool:
    """Whether it has columns with names."""
    return hasattr(x, "column_names") or (hasattr(x, "to_numpy") and hasattr(x, "columns")) or _fields(x) is not None


def _fields(x: object) -> tuple[str, ...] | None:
    """The names of the fields of a structured array of NumPy, which it has in place of columns."""
    names: tuple[str, ...] | None = x.dtype.names if isinstance(x, np.ndarray) else None
    return names


def is_many(x: object) -> bool:
    """Whether it is a list of series, each an array, a data frame or a mapping, and not one series as nested lists."""
    return isinstance(x, list | tuple) and any(
        is_table(one) or _holds_values(one) or isinstance(one, Mapping) for one in x
    )


def by_name(x: Any, names: Sequence[str] | None, where: str, many: bool = False) -> Any:
    """The columns of a data frame in the order of `names`; anything else as an array.

    many: True if `x` is a list of those, for a list of arrays.

    Raises ValueError if a name is not a column, or if the columns have no names to be matched with.
    """
    if many:
        return [by_name(one, names, f"{where}[{index}]") for index, one in enumerate(x)]
    if not is_table(x):
        return read_values(x, where)
    named = x.column_names if hasattr(x, "column_names") else _fields(x) or x.columns
    columns = [str(name) for name in named]
    if names is None:
        if len(columns) == 1:
            return _columns(x, columns, where)
        raise ValueError(
            f"{where} has the columns {few(columns)}, and the model does not name its features; pass an array with the "
            f"columns in the order of the model's features, as {where}.to_numpy() gives it"
        )
    if not set(names) <= set(columns) or len(set(columns)) < len(columns):
        raise no_columns(names, columns, where)
    return _columns(x, columns, where, names)


def _columns(table: Any, columns: list[str], where: str, names: Sequence[str] | None = None) -> NDArray[Any]:
    """The columns with these names, or all. Only they are read: others may be text."""
    order = [columns.index(name) for name in names or columns]
    if hasattr(table, "column_names"):
        parts = [table.column(number) for number in order]
    elif hasattr(table, "iloc"):
        parts = [table.iloc[:, number] for number in order]
    else:
        parts = [table[columns[number]] for number in order]
    read = [read_values(part, f"{where}[{columns[number]!r}]") for part, number in zip(parts, order, strict=True)]
    return np.stack(read, axis=1)


def read_values(x: Any, where: str) -> NDArray[Any]:
    """An array of floats, integers or booleans. Raises TypeError, and RequestError for lists of different lengths."""
    try:
        array = _converted(_at_hand(x))
        if array.dtype.kind == "O":
            array = np.asanyarray(array.tolist())  # what holds arrays, as a list column does, has one axis more
        if array.dtype.kind == "O" and not any(isinstance(one, str) for one in array.flat):
            array = array.astype(np.float64)  # None is a missing value: NaN
        elif array.dtype.kind == "V" and np.can_cast(array.dtype, np.float32):
            array = array.astype(np.float32)  # a type of few bits that NumPy does not have itself
    except (TypeError, ValueError, RuntimeError) as error:
        if "inhomogeneous" in str(error):
            raise ragged(x, where) from None
        raise TypeError(f"{where} holds no numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise no_numbers(array.dtype, where)
    return array


def _at_hand(x: Any) -> Any:
    """A tensor of torch as NumPy can read it: without a device, gradients, or a type of less than 32 bits.

    So each of a list of tensors; anything else as it is.
    """
    if isinstance(x, list | tuple) and x and hasattr(x[0], "detach"):
        return [_at_hand(one) for one in x]
    if not hasattr(x, "detach"):
        return x
    tensor = x.detach().cpu().resolve_conj().resolve_neg()
    return tensor.float() if tensor.dtype.is_floating_point and tensor.element_size() < 4 else tensor


def _converted(x: Any) -> NDArray[Any]:
    if hasattr(x, "__array__") or isinstance(x, list | tuple | int | float | memoryview | buffer):
        return np.asanyarray(x)
    if hasattr(x, "to_numpy"):
        return np.asanyarray(x.to_numpy())
    if hasattr(x, "__arrow_array__") or hasattr(x, "__arrow_c_array__"):
        import pyarrow  # whoever has such an array nearly always has it

        return np.asanyarray(pyarrow.array(x).to_numpy(zero_copy_only=False))
    if hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    raise TypeError(f"{type(x).__name__} is neither an array nor a list")


def _holds_values(x: object) -> bool:
    """Whether it is an array of some library, and no single number of it."""
    if isinstance(x, str | Mapping | list | tuple | np.generic):
        return False
    has_values = isinstance(x, memoryview | buffer) or any(hasattr(x, name) for name in _METHODS)
    return has_values and getattr(x, "ndim", 1) != 0


def _num_axes(x: object) -> int:
    """The axes of a list of numbers: 1 for a flat one, 2 for a list of flat ones; 0 for anything else."""
    if not isinstance(x, list | tuple) or not x:
        return 0
    if all(one is None or _is_number(one) for one in x):
        return 1
    if not all(isinstance(one, list | tuple) for one in x):
        return 0
    below = _num_axes(next(filter(None, x), None))
    return 1 + below if below else 0


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) or (hasattr(x, "__float__") and getattr(x, "ndim", 0) == 0)
