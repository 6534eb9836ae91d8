"""The classification extension of the Open Inference Protocol: the highest scores with their indices and labels."""

from collections.abc import Sequence

import numpy as np

from elman.repository.network import Array


def classified(scores: Array, axes: int, count: int, labels: Sequence[str]) -> Array:
    """The `count` highest scores of each vector, best first, as `value:index` or `value:index:label`.

    Args:
        scores: an output; the axes from `axes` on are one vector.
        count: at least 1; more than there are scores gives all of them.
        labels: by index; none if the scores have no labels.

    Returns:
        `bytes` objects, `(..., count)`, the shape of the first `axes` axes and then the classes.
    """
    rows = scores.reshape(-1, int(np.prod(scores.shape[axes:], dtype=int)))
    count = min(count, rows.shape[1])
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    found = np.empty((len(rows), count), object)
    for at, (row, indices) in enumerate(zip(rows, order.tolist(), strict=True)):
        for place, index in enumerate(indices):
            label = f":{labels[index]}" if labels else ""
            value = f"{row[index]:f}" if scores.dtype.kind == "f" else int(row[index])
            found[at, place] = f"{value}:{index}{label}".encode()
    return found.reshape(*scores.shape[:axes], count)
