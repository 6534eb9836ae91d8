"""Tables as pandas, Excel and databases write them: read as they are meant, or refused with what to do."""

import bz2
import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import orjson
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from elman.cli.jobs import ray_job
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.formats import open_source
from elman.cli.jobs.files.items import ModelIO, TableOptions
from tests.cli.command import elman
from tests.running import RunningServer

ONE = ModelIO("features", 1)
NAMED = ModelIO("features", 2, ("load", "heat"), data="input")
A, B = [1.0, 2.0, 3.0], [7.0, 8.0, 9.0]
GATHER = TableOptions(gather=True)
TIMED = TableOptions(time_column="when", gaps="refuse")


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


def test_a_row_without_an_id_is_refused(tmp_path: Path) -> None:
    """It would be missing in the sequence that it belongs to."""
    path = write(tmp_path, "id,value\nA,1\n,2\nA,3\n")
    with pytest.raises(UnusableFile, match="row 3: its cell in 'id' is empty"):
        rows_of(path)
    pq.write_table(pa.table({"id": ["A", None, "A"], "value": A}), tmp_path / "in.parquet")
    with pytest.raises(UnusableFile, match="row 1: its cell in 'id' is empty"):
        rows_of(tmp_path / "in.parquet")


@pytest.mark.parametrize("at", [0, 1])
def test_an_id_or_a_time_that_is_not_utf_8_is_refused(tmp_path: Path, at: int) -> None:
    cells = [b"Bonn", b"3"]
    cells[at] = "Köln".encode("latin-1")
    path = tmp_path / "in.csv"
    path.write_bytes(b"id,when,value\n" + b",".join(cells) + b",1\n")
    with pytest.raises(UnusableFile, match="is not UTF-8: save the table in UTF-8"):
        rows_of(path, table=TIMED)


@pytest.mark.parametrize(
    "time", [lambda i: f"{1700 + i}-01-01", lambda i: i - 5, lambda i: f"2024-01-01T{i:02}:30:00+02:00"]
)
def test_rows_are_sorted_by_time(tmp_path: Path, time: Callable[[int], Any]) -> None:
    lines = [f"{id},{time(i)},{v}" for id, values in (("A", A), ("B", B)) for i, v in enumerate(values)]
    path = write(tmp_path, "\n".join(["id,when,value", *reversed(lines)]))
    assert rows_of(path, table=TableOptions(time_column="when")) == {"B": B, "A": A}


def test_times_of_a_parquet_file_are_sorted_too(tmp_path: Path) -> None:
    days = [datetime(2024, 1, day) for day in (3, 1, 2)]
    pq.write_table(pa.table({"when": days, "value": [3.0, 1.0, 2.0]}), tmp_path / "in.parquet")
    assert rows_of(tmp_path / "in.parquet", table=TableOptions(time_column="when")) == {None: A}


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["2024-01-01", "2024-01-01"], "the rows 2 and 3 have the same time"),
        (["2024-01-01", "5"], "the time of row 2 is a date, that of row 3 a number"),
        (["2024-01-01", "soon"], "row 3, when: 'soon' is neither a number nor a date"),
        (["20240131", "20240132"], "the time of row 2 is a date, that of row 3 a number"),
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


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(PANEL.encode(), mtime=0), "it is not text in UTF-8"),
        (PANEL.encode("utf-16-le"), "UTF-16 with its mark at the start"),
        (PANEL.encode("utf-32"), "it is not text in UTF-8"),
        (b"\n" + PANEL.encode(), "the first row is blank"),
    ],
)
def test_what_is_no_table_of_text_is_said(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    with pytest.raises(UnusableFile, match=told):
        rows_of(path)


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
    (tmp_path / "old.csv").write_bytes(PANEL.replace("\n", "\r").encode())
    assert rows_of(tmp_path / "old.csv") == {"A": A, "B": B}
    zstd = pa.compress(PANEL.encode(), "zstd", asbytes=True)
    for suffix, packed in (
        (".gz", gzip.compress(PANEL.encode(), mtime=0)),
        (".bz2", bz2.compress(PANEL.encode())),
        (".zst", zstd),
    ):
        path = tmp_path / f"in.csv{suffix}"
        path.write_bytes(packed)
        assert rows_of(path) == {"A": A, "B": B}


@pytest.mark.parametrize("kind", ["file.feather", "file.arrow", "stream.arrows", "table.xlsx"])
def test_other_kinds_of_tables_are_read_as_csv_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    days = [datetime(2024, 1, day) for day in (3, 3, 2, 2, 1, 1)]
    columns = {"id": list("ABABAB"), "when": days, "value": [A[2], B[2], A[1], B[1], A[0], B[0]]}
    table = pa.table(columns)
    if kind == "table.xlsx":
        book = openpyxl.Workbook()
        for row in [list(columns), *zip(*columns.values(), strict=True)]:
            book.active.append(row)
        book.save(path)
    elif kind == "file.feather":
        pyarrow.feather.write_feather(table.set_column(0, "id", table["id"].dictionary_encode()), path)
    else:
        write_to = pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream
        with write_to(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    items = list(open_source(str(path), ONE, table=TableOptions(gather=True, time_column="when", gaps="refuse")))
    assert {item.id: [row[0] for row in orjson.loads(item.content)] for item in items} == {"A": A, "B": B}
    assert [str(item.clock.after(1).cell)[:10] for item in items if item.clock] == ["2024-01-04"] * 2


def test_a_sheet_is_named_where_there_are_several(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["notes"])
    for row in (["when", "value"], [date(2024, 1, 31), 1], [date(2024, 2, 29), 2.5], [None, None]):
        book.create_sheet("data") if "data" not in book.sheetnames else None
        book["data"].append(row)
    book.save(tmp_path / "in.xlsx")
    with pytest.raises(UnusableFile, match="name the sheet with --sheet; the sheets are Sheet, data"):
        rows_of(tmp_path / "in.xlsx")
    (item,) = open_source(
        str(tmp_path / "in.xlsx"), ONE, table=TableOptions(time_column="when", gaps="refuse", sheet="data")
    )
    assert orjson.loads(item.content) == [[1.0], [2.5]]
    assert item.clock is not None and item.clock.after(1).cell == "2024-03-31"


@pytest.mark.parametrize(
    "text", ["value\n1,5\n2\n-3,25\n", "n;value\n0;1,5\n0;2\n0;-3,25\n", 'n,value\n0,"1,5"\n0,2\n0,"-3,25"\n']
)
def test_a_decimal_comma_is_read_where_it_is_plain(tmp_path: Path, text: str) -> None:
    table = TableOptions("", "value" if "n" == text[0] else None)
    if text.startswith("value"):  # a comma in a row tells two cells
        assert "2 cells, the header has 1" in rows_of(write(tmp_path, text), table=table)[None]
        assert rows_of(tmp_path / "in.csv", table=replace(table, decimal=",")) == {None: [1.5, 2.0, -3.25]}
    else:
        assert rows_of(write(tmp_path, text), table=table) == {None: [1.5, 2.0, -3.25]}


def test_a_comma_that_may_be_a_thousand_s_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "id;value\nA;1,234\nA;2\nA;3\n")
    with pytest.raises(UnusableFile, match="'1,234' may have a decimal comma or a thousand's: add --decimal ,"):
        rows_of(path)
    assert rows_of(path, table=TableOptions(decimal=",")) == {"A": [1.234, 2.0, 3.0]}
    assert "row 2, value: '1,234' is not a number" in rows_of(path, table=TableOptions(decimal="."))["A"]
    mixed = write(tmp_path, "id;value\nA;1,5\nA;1.234\n")
    assert rows_of(mixed)["A"] == "row 3, value: '1.234' is not a number"


def test_a_fault_is_told_by_its_row_in_a_file_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.cli.jobs.files.tables._BLOCK", 64)
    rows = [f"s{i // 10},{i}" for i in range(200)]
    rows[57], rows[93], rows[140], rows[199] = "s5,57,0", "", "s14,x", "s19"
    found = rows_of(write(tmp_path, "id,value\n" + "\n".join(rows) + "\n\n"), table=TableOptions())
    assert found["s5"] == "row 59: it has 3 cells, the header has 2"
    assert found["s9"] == "row 95: it is blank, and a missing value is no step"
    assert found["s14"] == "row 142, value: 'x' is not a number"
    assert found["s19"] == "row 201: it has 1 cells, the header has 2"
    assert found["s7"] == [float(i) for i in range(70, 80)] and len(found) == 20


@pytest.mark.parametrize("days", [(3, 2, 1), (1, 3, 2)])
def test_rows_that_are_not_in_order_are_not_taken_as_they_stand(tmp_path: Path, days: tuple[int, ...]) -> None:
    path = write(tmp_path, "id,day,value\n" + "".join(f"A,2024-01-0{day},{day}\n" for day in days))
    with pytest.raises(UnusableFile, match="'day' are not in order: --time-column 'day' sorts the rows"):
        rows_of(path, table=TableOptions(column="value"))
    assert rows_of(path, table=TableOptions(column="value", time_column="day")) == {"A": A}


@pytest.mark.parametrize(
    ("times", "follow"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03"], ["2024-01-04", "2024-01-05"]),
        (["2023-11-01", "2023-12-01", "2024-01-01"], ["2024-02-01", "2024-03-01"]),
        (["2023-11-30", "2023-12-31", "2024-01-31"], ["2024-02-29", "2024-03-31"]),
        (["2023-10", "2023-11", "2023-12"], ["2024-01", "2024-02"]),
        (["1998-07-01", "1999-07-01", "2000-07-01"], ["2001-07-01", "2002-07-01"]),
        (["2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08"], ["2024-01-09", "2024-01-10"]),
        (["2024-01-01 22:30", "2024-01-01 23:00", "2024-01-01 23:30"], ["2024-01-02 00:00", "2024-01-02 00:30"]),
        (["2024-01-01T00:00:00Z", "2024-01-01T06:00:00Z"], ["2024-01-01T12:00:00Z", "2024-01-01T18:00:00Z"]),
        (["2024-W50", "2024-W51", "2024-W52"], ["2025-W01", "2025-W02"]),
        (["20240129", "20240130", "20240131"], ["20240201", "20240202"]),
        (["20240131T2200", "20240131T2300"], ["20240201T0000", "20240201T0100"]),
        (["20240131000", "20240131001"], [20240131002, 20240131003]),
        (["1700", "1701", "1702"], [1703, 1704]),
        (["0.1", "0.2", "0.3"], [0.4, 0.5]),
    ],
)
def test_times_go_on_by_the_step_of_the_series(tmp_path: Path, times: list[str], follow: list[Any]) -> None:
    path = write(tmp_path, "when,value\n" + "".join(f"{time},1\n" for time in times))
    (item,) = open_source(str(path), ONE, table=TIMED)
    assert item.error is None and item.clock is not None
    assert [item.clock.after(step).cell for step in (1, 2)] == follow


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (
            ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-05"],
            "between 2024-01-03 and 2024-01-05, where the step is 1 day",
        ),
        (
            ["2024-01-01", "2024-02-01", "2024-03-01", "2024-05-01"],
            "2024-03-01 and 2024-05-01, where the step is 1 month",
        ),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-11"], "the step is 1 business day"),
        (["1", "2", "3", "4.5"], "between 3 and 4.5, where the step is 1"),
    ],
)
def test_a_gap_is_named_and_refused_unless_the_user_says_how(tmp_path: Path, times: list[str], told: str) -> None:
    path = write(tmp_path, "when,value\n" + "".join(f"{time},{i}\n" for i, time in enumerate(times)))
    refused = rows_of(path, table=TIMED)[None]
    assert told in refused and "--gaps ignore" in refused
    assert len(rows_of(path, table=TableOptions(time_column="when", gaps="ignore"))[None]) == len(times)
    # A row for 4 would still leave no step from there to 4.5.
    filled = rows_of(path, table=TableOptions(time_column="when", gaps="missing"))[None]
    assert ("--gaps ignore" if "4.5" in times else "the model takes no missing values") in filled


def test_missing_values_are_null_for_a_model_that_takes_them(tmp_path: Path) -> None:
    takes = ModelIO("features", 1, missing=True)
    path = write(tmp_path, "when,value\n2024-01-04,4\n2024-01-01,1\n2024-01-02,NA\n")
    table = TableOptions(time_column="when", gaps="missing", keep=True)
    (item,) = open_source(str(path), takes, table=table)
    assert item.error is None and orjson.loads(item.content) == [[1.0], [None], [None], [4.0]]
    assert item.clock is not None and item.clock.after(1).cell == "2024-01-05"
    assert rows_of(write(tmp_path, "value\n1\n\n3\n"), takes) == {None: [1.0, None, 3.0]}
    assert "not a finite number" in rows_of(write(tmp_path, "value\n1\ninf\n"), takes)[None]


SERIES = [
    (id, f"{1900 + i}-01-01", id.lower(), i % 7, 40 + 10 * (i % 11) + k) for k, id in enumerate("AB") for i in range(30)
]


def panel(folder: Path, rows: list[tuple[Any, ...]] = SERIES) -> str:
    with (folder / "panel.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "year", "region", "step", "value"), *rows])
    return "panel.csv"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


TIME = ("--column", "value", "--time-column", "year")


@pytest.mark.slow
def test_forecasts_have_the_times_that_follow_and_the_columns_of_their_series(
    tmp_path: Path, server: RunningServer
) -> None:
    file = panel(tmp_path, sorted(SERIES, key=lambda row: row[1], reverse=True))
    options = ("sunspots-gru", file, "-n", 2, *TIME, "--url", server.url)
    assert elman("forecast", *options, "-o", "out.csv", cwd=tmp_path).returncode == 0
    rows = read(tmp_path / "out.csv")
    assert [(row["id"], row["year"], row["region"], row["input.step"]) for row in rows] == [
        (id, f"{year}-01-01", id.lower(), "") for id in "AB" for year in (1930, 1931)
    ]
    done = elman("forecast", *options, "--json", "-q", cwd=tmp_path)
    right = [
        httpx.post(
            f"{server.url}/v1/models/sunspots-gru/forecast",
            json={"series": [row[4] for row in SERIES if row[0] == id], "horizon": 2},
        )
        for id in "AB"
    ]
    for line, one in zip(map(json.loads, done.stdout.splitlines()), right, strict=True):
        assert line["times"] == ["1930-01-01", "1931-01-01"] and line["point"] == one.json()["point"]
    shown = elman("forecast", *options, cwd=tmp_path)
    assert "1931-01-01" in shown.stdout


@pytest.mark.slow
def test_predictions_have_the_columns_that_the_model_does_not_use(tmp_path: Path, server: RunningServer) -> None:
    file = panel(tmp_path)
    for output, returns in (("final.csv", "final"), ("steps.csv", "steps"), ("steps.parquet", "steps")):
        done = elman(
            "predict", "sunspots-gru", file, *TIME, "--return", returns, "-o", output, "--url", server.url, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    finals, steps = read(tmp_path / "final.csv"), read(tmp_path / "steps.csv")
    assert [(row["region"], row["year"], row["step"]) for row in finals] == [
        ("a", "1929-01-01", ""),
        ("b", "1929-01-01", ""),
    ]
    assert [(row["id"], row["year"], row["region"], int(row["input.step"])) for row in steps] == [
        row[:4] for row in SERIES
    ]
    lists = pq.read_table(tmp_path / "steps.parquet").to_pydict()
    assert lists["year"] == [[row[1] for row in SERIES if row[0] == id] for id in "AB"]


NAMES = ["demand, GW", "temperature, °C", "workday", "half-hour of the day", "day of the week"]


def half_hours(start: int, count: int, known: int) -> list[list[Any]]:
    """Rows of the electricity models from a half-hour of 2024 on, with their times; from the feature `known` on."""
    moments = [datetime(2024, 1, 1) + timedelta(minutes=30 * i) for i in range(start, start + count)]
    rows = []
    for when in moments:
        weekday, half_hour = when.weekday(), 2 * when.hour + when.minute // 30
        features = [4 + 0.1 * (when.hour % 5), 20.0, int(weekday < 5), half_hour, weekday]
        rows.append([when.isoformat(), *features[known:]])
    return rows


@pytest.mark.slow
def test_a_future_is_matched_by_id_and_time(tmp_path: Path, server: RunningServer) -> None:
    ends = {"A": 100, "B": 130}
    with (tmp_path / "history.csv").open("w", newline="") as stream:
        rows = [[id, *row] for id, end in ends.items() for row in half_hours(end - 48, 48, 0)]
        csv.writer(stream).writerows([["id", "when", *NAMES], *rows])

    def forecast(rows: list[list[Any]], *first: str) -> Any:
        with (tmp_path / "future.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([[*first, "when", *NAMES[2:]], *rows])
        options = ("--time-column", "when", "--future", "future.csv", "-n", 6, "--json", "-q", "--url", server.url)
        return elman("forecast", "electricity-gru", "history.csv", *options, cwd=tmp_path)

    right = [
        httpx.post(
            f"{server.url}/v1/models/electricity-gru/forecast",
            json={
                "series": [row[1:] for row in half_hours(end - 48, 48, 0)],
                "horizon": 6,
                "future": [row[1:] for row in half_hours(end, 6, 2)],
            },
        ).json()["point"]
        for end in ends.values()
    ]
    whole = half_hours(0, 300, 2)
    for done in (
        forecast(whole),
        forecast(whole[::-1]),
        forecast([[id, *row] for id in "BA" for row in half_hours(ends[id], 6, 2)], "id"),
    ):
        assert [json.loads(line)["point"] for line in done.stdout.splitlines()] == right, done.stderr
    late = forecast(half_hours(101, 100, 2))
    assert "it has a row for 2024-01-03T02:30:00, where the series goes on with 2024-01-03T02:00:00" in late.stderr
    early = forecast(half_hours(0, 100, 2))
    assert "all its rows are at or before 2024-01-03T01:30:00, where the series ends" in early.stderr
    assert (late.returncode, early.returncode) == (1, 1)


def test_some_row_groups_of_a_file_are_read_and_told_by_the_numbers_of_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = tmp_path / "in.parquet", [[[float(index)]] for index in range(10)]
    pq.write_table(pa.table({"sequence": rows}), path, row_group_size=3)
    items = list(open_source(str(path), ONE, table=TableOptions(row_groups=(1, 3))))
    assert [orjson.loads(item.content) for item in items] == rows[3:9]
    assert [item.place for item in items] == [item.place for item in open_source(str(path), ONE)][3:9]
    monkeypatch.setattr(ray_job, "_PART_ROWS", 6)
    parts = list(ray_job.parts_of_input(path, ONE, TableOptions()))
    assert [(part.row_groups, part.start, part.end) for part in parts] == [((0, 2), 0, 6), ((2, 4), 6, 10)]
