"""Japanese Vowels: nine men say the vowels a and e in a row; which of them is speaking?

M. Kudo, J. Toyama and M. Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions",
Pattern Recognition Letters 20 (1999). The data is rebuilt from the wheel of the package aeon:

    pip download aeon --no-deps
    python -m models.tasks.vowels aeon-*.whl
"""

import sys
import zipfile
from pathlib import Path

import numpy as np

from models.tasks import Sequence, Split, Task, stratified

DATA = Path(__file__).parent.parent / "data" / "vowels.npz"
MEMBER = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"
NUM_FEATURES = 12
NUM_SPEAKERS = 9


def load() -> Task:
    """270 sequences for training and 370 held out, 7 to 29 steps of 12 features each."""
    with np.load(DATA) as arrays:
        train, test = (_unpack(dict(arrays), part) for part in ("TRAIN", "TEST"))
    return Task(
        name="vowels",
        train=train,
        validation=stratified(train.labels, fraction=0.2, seed=0),
        test=test,
        labels=tuple(f"speaker {i + 1}" for i in range(NUM_SPEAKERS)),
        augment=augment,
        about="Tells which of nine speakers says the vowels /ae/, from 12 LPC cepstrum coefficients a step.",
        data="Japanese Vowels (Kudo, Toyama and Shimbo, 1999), as packaged by aeon",
        licence="data CC BY 4.0 (UCI Machine Learning Repository); aeon, which packages it, BSD-3-Clause",
        split="the data set's own: 270 to train on (30 a speaker), 370 held out",
        num_features=NUM_FEATURES,
        feature_names=tuple(f"cepstrum {i + 1}" for i in range(NUM_FEATURES)),
    )


def augment(sequence: Sequence, generator: np.random.Generator) -> Sequence:
    """The sequence with noise and an offset, and up to two steps cut off at either end."""
    noise = 0.03 * generator.standard_normal(sequence.shape) + 0.03 * generator.standard_normal(NUM_FEATURES)
    first, last = generator.integers(0, 3, size=2)
    clipped = (sequence + noise)[first : len(sequence) - last]
    return clipped.astype(np.float32)


def _unpack(arrays: dict[str, Sequence], part: str) -> Split:
    rows, lengths = arrays[f"{part}_rows"], arrays[f"{part}_lengths"]
    sequences = np.split(rows, np.cumsum(lengths)[:-1])
    return Split(tuple(sequences), arrays[f"{part}_labels"].astype(np.int64))


def parse(text: str) -> Split:
    """Read the .ts format: one sequence a line, dimensions split by colons, the label last."""
    lines = [line for line in text.splitlines() if line and line[0] not in "#@"]
    fields = [line.rsplit(":", 1) for line in lines]
    sequences = tuple(
        np.array([dimension.split(",") for dimension in values.split(":")], np.float32).T for values, _ in fields
    )
    return Split(sequences, np.array([int(label) - 1 for _, label in fields]))


def rebuild(wheel: Path) -> None:
    """Write the compact copy in models/data from the wheel of aeon."""
    arrays: dict[str, Sequence] = {}
    with zipfile.ZipFile(wheel) as archive:
        for part in ("TRAIN", "TEST"):
            split = parse(archive.read(MEMBER.format(part=part)).decode())
            arrays[f"{part}_rows"] = np.concatenate(split.sequences)
            arrays[f"{part}_lengths"] = np.array([len(one) for one in split.sequences], np.uint8)
            arrays[f"{part}_labels"] = split.labels.astype(np.uint8)
    np.savez_compressed(DATA, allow_pickle=False, **arrays)


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
