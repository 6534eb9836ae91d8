"""The adding problem: two of many numbers are marked; what is their sum?

S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997), section 5.4, in the form
used since (Q. V. Le, N. Jaitly and G. Hinton, 2015; M. Arjovsky, A. Shah and Y. Bengio, 2016): all sequences of one
length, numbers from 0 to 1, one mark in each half. Only memory solves it, because the
first mark may be as far back as the sequence is long, and the steps between carry nothing.
"""

import numpy as np
from numpy.typing import NDArray

NUM_FEATURES = 2
FEATURE_NAMES = ("number", "mark")
CHANCE = 1 / 6
"""The squared error of always answering 1, the mean: the variance of a sum of two numbers uniform on [0, 1]."""


def draw(count: int, length: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fresh sequences (count, length, 2) of a number and its mark, and their answers (count,).

    Raises ValueError if a half has no step to mark.
    """
    if length < 2:
        raise ValueError(f"two marks need a length of at least 2, and it is {length}")
    rows, middle = np.arange(count), length // 2
    first, second = generator.integers(0, middle, count), generator.integers(middle, length, count)
    sequences = np.zeros((count, length, NUM_FEATURES), np.float32)
    sequences[..., 0] = generator.random((count, length), np.float32)
    sequences[rows, first, 1] = sequences[rows, second, 1] = 1
    return sequences, sequences[rows, first, 0] + sequences[rows, second, 0]
