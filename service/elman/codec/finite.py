"""Whether numbers are finite, and where the first one is that is not."""

from math import inf
from typing import Any

import numpy as np

from elman.errors import NotFinite
from elman.repository.network import Array

# In bodies too. A dtype that is made from text each time takes half a microsecond more.
FLOAT32 = np.dtype("<f4")

# Up to this many numbers BLAS does not start threads.
_SMALL = 10_000
# The largest number of each dtype, limited so that its square is a finite float.
_LARGEST = {np.dtype(kind): min(float(np.finfo(kind).max), 1e154) for kind in (np.float16, np.float32, np.float64)}


def finite(data: Array, dtype: np.dtype[Any], where: str) -> Array:
    """`data` as `dtype`. Raises NotFinite for the first number that is not finite in it."""
    narrowed = dtype.itemsize < data.dtype.itemsize
    if _all_below(data, _LARGEST[dtype] if narrowed else inf):
        return data.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        data = data.astype(dtype, copy=False)
    if not all_finite(data):
        wrong = ~np.isfinite(data)
        missing = np.isnan(data.flat[int(np.argmax(wrong))])
        detail = "a value is missing (NaN)" if missing else f"the number is not finite in {dtype.name}"
        raise NotFinite(detail, where=where + first_place(wrong), expected="a finite number")
    return data


def first_place(wrong: Array) -> str:
    """The place of the first number that is wrong, such as `[17][2]`. `wrong` has a boolean for each number."""
    return "".join(f"[{index}]" for index in np.argwhere(wrong)[0])


def all_finite(data: Array) -> bool:
    """True if no number of a float array is NaN or infinite."""
    return _all_below(data, inf) or bool(np.isfinite(data).all())


def _all_below(data: Array, limit: float) -> bool:
    """True if the Euclidean norm is below `limit`, and so every magnitude. False says nothing. One fast pass."""
    # A sum that is too large is no warning here, as it is with `dot`.
    return data.size <= _SMALL and bool(np.vdot(data, data) < limit * limit)
