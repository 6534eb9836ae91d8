"""Tables as pandas, Excel and databases write them: read as they are meant, or refused with what to do."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.formats import open_source
from elman.cli.jobs.files.items import ModelIO, TableOptions

ONE = ModelIO("features", 1)
NAMED = ModelIO("features", 2, ("load", "heat"), data="input")
A, B = [1.0, 2.0, 3.0], [7.0, 8.0, 9.0]
GATHER = TableOptions(gather=True)


def rows_of(path: Path, model_io: ModelIO = ONE, table: TableOptions = GATHER) -> dict[Any, Any]:
    """The values of each sequence of a file, by its id; the error in place of a faulty one."""
    items = list(open_source(str(path), model_io, table=table))
    values = {item.id: item.error or orjson.loads(item.content) for item in items}
    assert len(values) == len(items)
    return {
        id: [v[0] for v in one] if isinstance(one, list) and len(one[0]) == 1 else one for id, one in values.items()
    }


def write(folder: Path, text: str, name: str = "in.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(text, encoding)
    return path


PANEL = "id,value\n" + "".join(f"A,{a}\nB,{b}\n" for a, b in zip(A, B, strict=True))


def test_the_rows_of_an_id_may_stand_anywhere(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, PANEL)) == {"A": A, "B": B}
    table = pa.table({"id": list("ABABAB"), "value": [A[0], B[0], A[1], B[1], A[2], B[2]]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert rows_of(tmp_path / "in.parquet") == {"A": A, "B": B}


def test_where_a_file_is_read_in_pieces_scattered_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="row 4: the id 'A' has rows further up"):
        rows_of(write(tmp_path, PANEL), table=TableOptions())
    pq.write_table(pa.table({"id": list("ABA"), "value": A}), tmp_path / "in.parquet")
    with pytest.raises(UnusableFile, match="row 2: the id 'A' has rows further up"):
        rows_of(tmp_path / "in.parquet", table=TableOptions())


def test_a_column_of_ids_that_is_misspelt_or_not_named_is_refused(tmp_path: Path) -> None:
    lines = "".join(f"{id},{i},{v}\n" for id, values in (("A", A), ("B", B)) for i, v in enumerate(values))
    path = write(tmp_path, "unique_id,ds,y\n" + lines)
    with pytest.raises(UnusableFile, match="there is no column 'uniqueid'; the columns are unique_id, ds, y"):
        rows_of(path, table=TableOptions("uniqueid", "y"))
    with pytest.raises(UnusableFile, match="nothing says what the columns 'unique_id', 'ds' are: --id-column"):
        rows_of(path, table=TableOptions(column="y"))
    assert rows_of(path, table=TableOptions("unique_id", "y")) == {"A": A, "B": B}
    assert rows_of(path, table=TableOptions("", "y")) == {None: [*A, *B]}
    table = pa.table({"unique_id": list("AAA"), "y": A})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(UnusableFile, match="nothing says what the columns 'unique_id' are"):
        rows_of(tmp_path / "in.parquet", table=TableOptions(column="y"))


@pytest.mark.parametrize(
    "time", [lambda i: f"{1700 + i}-01-01", lambda i: i - 5, lambda i: f"2024-01-01T{i:02}:30:00+02:00"]
)
def test_rows_are_sorted_by_time(tmp_path: Path, time: Callable[[int], Any]) -> None:
    lines = [f"{id},{time(i)},{v}" for id, values in (("A", A), ("B", B)) for i, v in enumerate(values)]
    path = write(tmp_path, "\n".join(["id,when,value", *reversed(lines)]))
    assert rows_of(path, table=TableOptions(time_column="when")) == {"B": B, "A": A}


def test_times_of_a_parquet_file_are_sorted_too(tmp_path: Path) -> None:
    import datetime

    days = [datetime.datetime(2024, 1, day) for day in (3, 1, 2)]
    pq.write_table(pa.table({"when": days, "value": [3.0, 1.0, 2.0]}), tmp_path / "in.parquet")
    assert rows_of(tmp_path / "in.parquet", table=TableOptions(time_column="when")) == {None: A}


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["2024-01-01", "2024-01-01"], "the rows 2 and 3 have the same time"),
        (["2024-01-01", "5"], "the time of row 2 is a date, that of row 3 a number"),
        (["2024-01-01", "soon"], "row 3, when: 'soon' is neither a number nor a date"),
        (["nan", "1"], "row 2, when: 'nan' is no time"),
    ],
)
def test_times_that_give_no_order_are_refused(tmp_path: Path, cells: list[str], told: str) -> None:
    path = write(tmp_path, "when,value\n" + "".join(f"{cell},1\n" for cell in cells))
    assert told in rows_of(path, table=TableOptions(time_column="when"))[None]


@pytest.mark.parametrize("first", ["0", "1700"])
def test_a_first_row_of_numbers_is_a_header_or_data_as_the_user_says(tmp_path: Path, first: str) -> None:
    path = write(tmp_path, f"{first}\n1\n2\n3\n")
    with pytest.raises(UnusableFile, match="may be data or the names of the columns: add --no-header or --header"):
        rows_of(path)
    assert rows_of(path, table=TableOptions(header=True)) == {None: A}
    assert rows_of(path, table=TableOptions(header=False)) == {None: [float(first), *A]}


def test_a_blank_row_is_a_missing_value(tmp_path: Path) -> None:
    assert "row 3: it is blank" in rows_of(write(tmp_path, "value\n1\n\n3\n"))[None]
    assert rows_of(write(tmp_path, "value\n1\n2\n3\n\n\n")) == {None: A}


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="the file has a header and no rows"):
        rows_of(write(tmp_path, "id,value\n"))


def test_names_of_features_all_match_or_are_named(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, "heat,load\n9,1\n8,2\n"), NAMED) == {None: [[1.0, 9.0], [2.0, 8.0]]}
    for header in ("heat,laod", "a,b"):
        path = write(tmp_path, f"{header}\n9,1\n")
        with pytest.raises(UnusableFile, match=r"there is no column 'load'.*; --columns input=... names others"):
            rows_of(path, NAMED)
    chosen = ModelIO("features", 2, ("load", "heat"), data="input", columns=("b", "a"))
    assert rows_of(write(tmp_path, "a,b\n9,1\n"), chosen) == {None: [[1.0, 9.0]]}


def test_encodings_and_packed_files_are_read(tmp_path: Path) -> None:
    text = "id\tvalue\r\n" + "".join(f"A\t{v}\r\n" for v in A)
    assert rows_of(write(tmp_path, text, "excel.csv", "utf-16")) == {"A": A}
    cut = write(tmp_path, text, "cut.csv", "utf-16")
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(UnusableFile, match="it is not utf-16"):
        rows_of(cut)
    packed = tmp_path / "in.csv.gz"
    packed.write_bytes(gzip.compress(PANEL.encode()))
    assert rows_of(packed) == {"A": A, "B": B}
