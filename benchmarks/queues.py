"""A simulation of steps that queue at replicas and then at the store. Seeded, so that it is the same each time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Steps of one simulation, and those at its beginning that do not count, since all queues are empty then.
NUM_STEPS = 400_000
_FILLING = 40_000


@dataclass(frozen=True)
class Plant:
    """What serves steps.

    Attributes:
        replicas: servers, each with one core, which take steps in turn.
        shards: primaries of the store, each with one core. A session is on one of them.
        replica_seconds: mean processor time of a step at a replica.
        store_seconds: the same at the store.
    """

    replicas: int
    shards: int
    replica_seconds: float
    store_seconds: float


def departures(arrivals: Array, service: Array) -> Array:
    """When each of some arrivals leaves a queue that serves one after another. Arrivals are in order."""
    total = np.cumsum(service)
    left: Array = total + np.maximum.accumulate(arrivals - (total - service))
    return left


def waits(plant: Plant, rate: float, seed: int = 0) -> Array:
    """Seconds from the arrival of each step until the store has it. Arrivals are Poisson, `rate` a second.

    Service times are exponential about their means.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, NUM_STEPS))
    through = _stage(arrivals, np.arange(NUM_STEPS) % plant.replicas, plant.replica_seconds, rng)
    order = np.argsort(through, kind="stable")
    stored = np.empty(NUM_STEPS)
    stored[order] = _stage(through[order], rng.integers(0, plant.shards, NUM_STEPS), plant.store_seconds, rng)
    return (stored - arrivals)[_FILLING:]


def _stage(arrivals: Array, places: Array, mean: float, rng: np.random.Generator) -> Array:
    """When each arrival leaves the queue of its place."""
    service = rng.exponential(mean, len(arrivals))
    left = np.empty(len(arrivals))
    for place in np.unique(places):
        here = places == place
        left[here] = departures(arrivals[here], service[here])
    return left
