"""Tables of Parquet that are dropped onto the page: their numbers are those that pyarrow wrote."""

import io
import itertools
import json
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenScreen, both_looks
from tests.browser.test_address import answered, drop, forecaster
from tests.running import RunningServer

look = both_looks()
NUMBERS = 500
READ = """async (bytes) => {
  const { parquetRows } = await import("./playground/parquet.js");
  const text = (_, value) => (typeof value === "bigint" || Number.isNaN(value) ? String(value) : value);
  return JSON.stringify(parquetRows(Uint8Array.from(bytes)), text);
}"""


def written(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def table() -> pa.Table:
    """A column of each kind of number, and one with gaps."""
    rng = np.random.default_rng(0)
    columns = {
        "float32": rng.normal(size=NUMBERS).astype(np.float32),
        "float64": rng.normal(size=NUMBERS),
        "int8": rng.integers(-128, 127, NUMBERS).astype(np.int8),
        "int64": rng.integers(2**62, 2**63 - 1, NUMBERS),
        "uint32": rng.integers(0, 2**32, NUMBERS).astype(np.uint32),
        "uint64": rng.integers(2**63, 2**64 - 1, NUMBERS, dtype=np.uint64),
        "bool": rng.integers(0, 2, NUMBERS).astype(bool),
    }
    gaps = pa.array([None if i % 7 == 0 else i % 11 / 4 for i in range(NUMBERS)])
    return pa.table({**columns, "gaps": gaps, "__index_level_0__": np.arange(NUMBERS)})


def test_every_number_is_the_one_that_was_written(open_screen: OpenScreen, server: RunningServer) -> None:
    page = open_screen(server.url + "/").open("models")
    wanted = [[int(one) if isinstance(one, bool) else one for one in row.values()][:-1] for row in table().to_pylist()]
    for packed, by_dictionary, version in itertools.product(("snappy", "none"), (True, False), ("1.0", "2.0")):
        options = {"compression": packed, "use_dictionary": by_dictionary, "data_page_version": version}
        content = written(table(), row_group_size=200, data_page_size=512, **options)
        rows = json.loads(page.evaluate(READ, list(content)))
        # Whole numbers of 64 bits come as text here, since JavaScript's numbers do not hold them.
        whole = [[int(one) if isinstance(one, str) else one for one in row] for row in rows]
        assert whole == wanted, options


@pytest.mark.parametrize(
    ("column", "options", "words"),
    [
        ([1.0], {"compression": "zstd"}, "the column x is packed with zstd"),
        ([1.0], {"compression": "gzip"}, "the column x is packed with gzip"),
        (["a"], {}, "the column x has no numbers"),
        ([datetime(2020, 1, 1)], {}, "the column x has no numbers"),
        ([[1.0, 2.0]], {}, "a column is nested"),
        (
            [1, 2, 3],
            {"use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"},
            "the column x is written in the encoding delta",
        ),
        ([0.0] * 200_001, {}, "200001 rows of 1 numbers are more than the 200000"),
        (None, {}, "it is damaged, or no Parquet file"),
    ],
    ids=["zstd", "gzip", "text", "time", "nested", "delta", "long", "damaged"],
)
def test_what_cannot_be_read_is_refused_beside_the_box(
    open_screen: OpenScreen, server: RunningServer, column: list[Any] | None, options: dict[str, Any], words: str
) -> None:
    page = open_screen(server.url + "/").page
    page.goto(f"{server.url}/#explore/names-gru")
    answered(page, "After all")
    content = b"PAR1" + bytes(100) + b"PAR1" if column is None else written(pa.table({"x": column}), **options)
    assert drop(page, "some.parquet", content)
    beside = page.get_by_role("region", name="Sequence").get_by_role("alert")
    expect(beside).to_contain_text(f"some.parquet: {words}")
    expect(beside).to_contain_text("elman predict MODEL some.parquet")
    expect(page.get_by_role("region", name="Answer")).to_be_hidden()


def test_a_table_that_is_cut_or_changed_anywhere_says_something(open_screen: OpenScreen, server: RunningServer) -> None:
    """Whatever its bytes are, the page reads rows or says why not, and does not hang."""
    page = open_screen(server.url + "/").open("models")
    content = written(table().slice(0, 20))
    rng = np.random.default_rng(1)
    tries = [content[: int(at)] + b"PAR1" for at in rng.integers(8, len(content), 20)]
    for at, bit in zip(rng.integers(4, len(content), 60), rng.integers(0, 8, 60), strict=True):
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        tries.append(bytes(changed))
    told = page.evaluate(
        """async (all) => {
          const { parquetRows } = await import("./playground/parquet.js");
          return all.map((bytes) => {
            try {
              return parquetRows(Uint8Array.from(bytes)).length ? "rows" : "none";
            } catch (error) {
              return error.message;
            }
          });
        }""",
        [list(one) for one in tries],
    )
    assert len(told) == len(tries) and {"it is damaged, or no Parquet file", "rows"} <= set(told)


def test_a_series_of_a_table_is_read_where_it_is_dropped(page: Page, server: RunningServer) -> None:
    card = forecaster(server)
    page.goto(f"{server.url}/#forecast/{card['name']}")
    headline = page.locator("#forecast .answer")
    expect(headline).to_contain_text("after")
    before = headline.inner_text()
    series = [10.0, 30.0, 60.0, 90.0, 60.5, 30.0, 10.0, 30.0]
    assert drop(page, "series.parquet", written(pa.table({"sunspots": series})))
    expect(headline).not_to_have_text(before)
    box = page.get_by_role("textbox", name="History")
    assert [float(line) for line in box.input_value().splitlines()] == series
