"""Counter-based random numbers: a number depends on seed, path and step only, not on the order of the runs.

The number of path `i` at step `t` is output `i * 2**32 + t` of the generator SplitMix64 with that seed (G. Steele, D.
Lea and C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), its upper 53 bits divided by 2**53.
"""

import numpy as np

from elman.repository.network import Array

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniforms(seeds: Array, paths: Array, steps: Array) -> Array:
    """Numbers in [0, 1), float64. The arguments are uint64, and are broadcast against each other."""
    with np.errstate(over="ignore"):
        counter = (paths << np.uint64(32)) + steps + np.uint64(1)
        z = seeds + counter * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    numbers: Array = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
