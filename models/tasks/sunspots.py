"""Yearly sunspot numbers from 1700 on: how many will there be next year?

The series of A. S. Weigend, B. A. Huberman and D. E. Rumelhart, "Predicting the Future: A Connectionist Approach",
International Journal of Neural Systems 1 (1990), with their split. The data is rebuilt from the wheel of the package
statsmodels:

    pip download statsmodels --no-deps
    python -m models.tasks.sunspots statsmodels-*.whl
"""

import sys
import zipfile
from pathlib import Path

import numpy as np

from models.tasks.series import Series

DATA = Path(__file__).parent.parent / "data" / "sunspots.csv"
MEMBER = "statsmodels/datasets/sunspots/sunspots.csv"
FIRST_YEAR = 1700
LAST_YEAR_LEARNED = 1920


def row_of(year: int) -> int:
    return year - FIRST_YEAR


def years(first: int, last: int) -> range:
    """The rows of the years from `first` to `last`, which is included."""
    return range(row_of(first), row_of(last) + 1)


FOLDS = (years(1801, 1840), years(1841, 1880), years(1881, 1920))


def load() -> Series:
    """309 years of one number each."""
    table = np.genfromtxt(DATA, delimiter=",", skip_header=1)  # (years, 2)
    return Series(
        name="sunspots",
        rows=table[:, 1:].astype(np.float32),
        feature_names=("sunspots",),
        target=(0,),
        learned=row_of(LAST_YEAR_LEARNED) + 1,
        tests={"1921-1955": years(1921, 1955), "1956-1979": years(1956, 1979), "1980-2008": years(1980, 2008)},
        folds=FOLDS,
        left_out=FOLDS,
        about="Forecasts next year's sunspot number from the years before, and further ahead from its own outputs.",
        data="yearly sunspot numbers of the National Geophysical Data Center, 1700 to 2008, packaged by statsmodels",
        licence="public domain",
        split="1700 to 1920 to train on; held out 1921 to 1955, 1956 to 1979 (as in the literature), 1980 to 2008",
        minimum=0.0,
    )


def rebuild(wheel: Path) -> None:
    """Write the copy in models/data from the wheel of statsmodels."""
    with zipfile.ZipFile(wheel) as archive:
        DATA.write_bytes(archive.read(MEMBER))


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
