"""Every kind of file gives the same sequences, and an output cut anywhere is gone on with to the same bytes."""

import csv
import gzip
import json
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elman.cli.jobs.checkpoint import checkpoint_of, open_checkpoint
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.formats import open_sink, open_source
from elman.cli.jobs.files.items import PLAIN_TABLE, InputItem, ModelIO, Outcome, TableOptions
from elman.cli.jobs.files.json import JSONSource, TextSource
from elman.cli.jobs.files.rows import TableSource
from elman.cli.jobs.files.tables import CSVTable

Array = np.ndarray[Any, Any]

THREE = ModelIO("features", 3, outputs=2, decoded="label")
TEXT = ModelIO("tokens", text=True, outputs=2, decoded="label")
RNG = np.random.default_rng(0)
SEQUENCES = [RNG.standard_normal((length, 3)).astype(np.float32) for length in (5, 1, 12, 3, 3, 40)]
IDS = [f"s{i}" for i in range(len(SEQUENCES))]


def write_csv(path: Path, rows: list[list[Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def write(folder: Path, kind: str) -> Path:
    """SEQUENCES in a file of a kind."""
    path = folder / kind
    lists = [one.tolist() for one in SEQUENCES]
    steps = [[id, *map(repr, row)] for id, one in zip(IDS, lists, strict=True) for row in one]
    if kind == "bare.jsonl":
        path.write_text("\n\n".join(json.dumps(one) for one in lists))
    elif kind == "named.jsonl":
        lines = [{"id": id, "sequence": one, "more": 1} for id, one in zip(IDS, lists, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif kind == "long.csv":
        write_csv(path, [["id", "a", "b", "c"], *steps])
    elif kind == "turned.csv":
        write_csv(path, [["c", "id", "b", "a"], *([c, id, b, a] for id, a, b, c in steps)])
    elif kind == "semicolons.csv":
        write_csv(path, [["id", "a", "b", "c"], *steps], ";")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    elif kind == "members.npz":
        np.savez(path, *SEQUENCES)
    elif kind == "flat.npz":
        np.savez_compressed(path, rows=np.concatenate(SEQUENCES), lengths=[len(one) for one in SEQUENCES])
    elif kind == "columns.npz":
        np.savez(path, rows=np.asfortranarray(np.concatenate(SEQUENCES)), lengths=[len(one) for one in SEQUENCES])
    elif kind == "doubles.npz":
        np.savez(path, *[one.astype(np.float64) for one in SEQUENCES])
    elif kind == "lists.parquet":
        kind_ = pa.list_(pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": IDS, "sequence": pa.array(lists, kind_)}), path, row_group_size=2)
    elif kind == "fixed.parquet":
        kind_ = pa.list_(pa.list_(pa.float32(), 3))
        pq.write_table(pa.table({"id": IDS, "sequence": pa.array(lists, kind_)}), path)
    elif kind == "long.parquet":
        columns = dict(zip(("id", "a", "b", "c"), map(list, zip(*steps, strict=True)), strict=True))
        table = pa.table({"id": columns["id"], **{k: np.array(columns[k], np.float32) for k in "abc"}})
        pq.write_table(table, path, row_group_size=7)
    return path


KINDS = (
    "bare.jsonl", "named.jsonl", "long.csv", "turned.csv", "semicolons.csv", "members.npz", "flat.npz",
    "columns.npz", "doubles.npz", "lists.parquet", "fixed.parquet", "long.parquet",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_sequences(tmp_path: Path, kind: str) -> None:
    shape = ModelIO("features", 3, ("a", "b", "c"))
    items = list(open_source(str(write(tmp_path, kind)), shape))
    assert [item.error for item in items] == [None] * len(SEQUENCES)
    for item, sequence in zip(items, SEQUENCES, strict=True):
        assert np.array_equal(np.array(orjson.loads(item.content), np.float32), sequence)
    named = "bare" not in kind and "npz" not in kind
    assert [item.id for item in items] == (IDS if named else [None] * len(IDS))


def test_an_array_is_one_sequence_or_many_by_its_axes(tmp_path: Path) -> None:
    batch = RNG.standard_normal((4, 6, 3)).astype(np.float32)
    np.save(tmp_path / "many.npy", batch)
    np.save(tmp_path / "one.npy", np.asfortranarray(batch[0]).astype(">f4"))
    np.save(tmp_path / "flat.npy", batch[0, :, 0])
    found = [orjson.loads(item.content) for item in open_source(str(tmp_path / "many.npy"), THREE)]
    assert np.array_equal(np.array(found, np.float32), batch)
    (one,) = open_source(str(tmp_path / "one.npy"), THREE)
    assert np.array_equal(np.array(orjson.loads(one.content), np.float32), batch[0])
    (flat,) = open_source(str(tmp_path / "flat.npy"), ModelIO("features", 1))
    assert np.array_equal(np.array(orjson.loads(flat.content), np.float32), batch[0, :, :1])


def test_a_table_without_header_or_id_is_one_sequence(tmp_path: Path) -> None:
    write_csv(tmp_path / "bare.csv", SEQUENCES[0].tolist())
    with pytest.raises(UnusableFile, match="add --no-header or --header"):
        open_source(str(tmp_path / "bare.csv"), THREE)
    (item,) = open_source(str(tmp_path / "bare.csv"), THREE, table=TableOptions(header=False))
    assert np.array_equal(np.array(orjson.loads(item.content), np.float32), SEQUENCES[0])
    assert item.place == "rows 1 to 5"


def test_texts_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    texts = ["Novák", "O'Brien, Pat", 'a "b"', "über\u2028", "x"]
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    write_csv(tmp_path / "t.csv", [["id", "name"], *([str(i), text] for i, text in enumerate(texts))])
    write_csv(tmp_path / "other.csv", [["id", "surname"], *([str(i), text] for i, text in enumerate(texts))])
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", np.array(texts))
    for name in ("t.txt", "t.jsonl", "t.csv", "other.csv", "t.parquet", "t.npy"):
        items = list(open_source(str(tmp_path / name), TEXT))
        assert [orjson.loads(item.content) for item in items] == texts, name


def test_tokens_and_signals_are_columns_of_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "long.csv", [["id", "token"], ["a", 3], ["a", 4], ["b", 5]])
    ids = [orjson.loads(r.content) for r in open_source(str(tmp_path / "long.csv"), ModelIO("tokens"))]
    assert ids == [[3, 4], [5]]
    named = open_source(str(tmp_path / "long.csv"), ModelIO("frames", 512), table=TableOptions(column="token"))
    assert [orjson.loads(r.content) for r in named] == [[3.0, 4.0], [5.0]]


def faults(source: Any) -> dict[str, str]:
    return {item.place: item.error for item in source if item.error is not None}


def test_what_is_wrong_with_a_table_is_told_by_row_and_column() -> None:
    rows = "id,a,b,c\nx,1,2,3\nx,1,zwei,3\ny,1,2\nz,1,2,3\nw,1,2,nan\nv,1,,3\nu,\xff,2,3\nlast,1,2,3\n"
    stream = BufferedReader(BytesIO(rows.encode("latin-1")))
    items = list(TableSource(CSVTable(stream, None, THREE, PLAIN_TABLE), THREE, PLAIN_TABLE))
    assert [item.id for item in items] == ["x", "y", "z", "w", "v", "u", "last"]
    told = faults(items)
    assert told["rows 2 to 3"] == "row 3, b: 'zwei' is not a number"
    assert told["rows 4 to 4"] == "row 4: it has 3 cells, the header has 4"
    assert told["rows 6 to 6"] == "row 6, c: a value is missing"
    assert told["rows 7 to 7"] == "row 7, b: a value is missing"
    assert "row 8, a" in told["rows 8 to 8"]
    assert len(told) == 5


def test_what_is_wrong_with_a_line_is_told_by_its_number() -> None:
    lines = b'[[1,2,3]]\nnonsense\n{"id": 1}\n[1,\n"\xff"\n{"id": {}, "sequence": []}\n[[NaN]]\n' + b"[" * 5000
    told = faults(JSONSource(BytesIO(lines), None, THREE))
    assert set(told) == {f"line {n}" for n in range(2, 9)}
    assert told["line 3"] == "it has no field 'sequence'"
    assert "UTF-8" in told["line 5"] and "id" in told["line 6"]
    assert faults(TextSource(BytesIO(b"good\n\xe4\n"), None)) == {"line 2": "it is not UTF-8 at byte 1"}


def test_lines_are_read_without_the_mark_at_their_start_and_from_utf_16() -> None:
    line, texts = b'{"id": 1, "sequence": "\xc3\xa9"}\n', ["Lindqvist", "Zoë", ""]
    (marked,) = JSONSource(BytesIO(b"\xef\xbb\xbf" + line), None, TEXT)
    assert (marked.id, marked.content, marked.error) == (1, b'"\xc3\xa9"', None)
    for encoding in ("utf-8-sig", "utf-16"):
        stream = BytesIO("\r\n".join(texts).encode(encoding))
        assert [orjson.loads(one.content) for one in TextSource(stream, None)] == texts[:2]
    with pytest.raises(UnusableFile, match="it is not utf-16"):
        list(TextSource(BytesIO("Zoë".encode("utf-16")[:-1]), None))


def test_what_is_wrong_with_an_array_is_told(tmp_path: Path) -> None:
    bad = SEQUENCES[0].copy()
    bad[3, 1] = np.inf
    np.savez(tmp_path / "a.npz", SEQUENCES[1], bad, SEQUENCES[1][:, :0].ravel(), np.array(["x"]))
    told = faults(open_source(str(tmp_path / "a.npz"), THREE))
    assert told["arr_1"] == "a number is not finite at [3][1]"
    assert "shape is [0]" in told["arr_2"]
    lists = pa.array(
        [[[1.0, 2.0, 3.0]], None, [[1.0, None, 3.0]], [[1.0], [2.0, 3.0]]], pa.list_(pa.list_(pa.float64()))
    )
    pq.write_table(pa.table({"sequence": lists}), tmp_path / "b.parquet")
    items = list(open_source(str(tmp_path / "b.parquet"), THREE))
    # What is ragged, or holds a null, is for the server to judge, which names the step.
    assert [item.error for item in items] == [None, "it is null", None, None]


LENGTHS: dict[str, Any] = {
    "negative.npz": [-2, 5],
    "fractions.npz": [1.5, 1.5],
    "table.npz": [[1, 2]],
}
BROKEN = {
    "empty.csv": b"",
    "columns.csv": b"id,a,b\nx,1,2\n",
    "not.npy": b"\x93NUMPY but no more",
    "cut.npy": None,
    "pickled.npy": None,
    "not.npz": b"PK but no more",
    **dict.fromkeys([*LENGTHS, "damaged.npz"]),
    "cut.jsonl.gz": gzip.compress(b"[[1, 2, 3]]\n" * 1000, mtime=0)[:-20],
    "damaged.jsonl.gz": gzip.compress(RNG.bytes(9000), mtime=0)[:5000] + bytes(50),
    "cut.csv.gz": gzip.compress(b"id,a,b,c\n" + b"x,1,2,3\n" * 1000, mtime=0)[:-20],
    "not.parquet": b"PAR1",
    "mixed.parquet": None,
    "unknown.xyz": b"",
    "absent.csv": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, BROKEN[name]
    if content is not None:
        path.write_bytes(content)
    elif name == "cut.npy":
        np.save(path, SEQUENCES[0])
        path.write_bytes(path.read_bytes()[:-1])
    elif name == "pickled.npy":
        np.save(path, np.array([one.tolist() for one in SEQUENCES], object), allow_pickle=True)
    elif name in LENGTHS:
        np.savez(path, rows=np.zeros((3, 3), np.float32), lengths=LENGTHS[name])
    elif name == "damaged.npz":
        np.savez_compressed(path, rows=RNG.standard_normal((9000, 3)), lengths=[9000])
        content = bytearray(path.read_bytes())
        content[5000:6000] = bytes(1000)
        path.write_bytes(content)
    elif name == "mixed.parquet":
        pq.write_table(pa.table({"a": [1], "b": [2], "c": ["x"]}), path)
    with pytest.raises(UnusableFile, match=name):
        try:
            list(open_source(str(path), THREE))
        except UnusableFile as error:  # what is met while reading is given its name by the pump
            raise UnusableFile(f"{name}: {error}") from None


# Sinks


def test_a_checkpoint_that_is_damaged_is_no_reason_to_fail_without_a_word(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    checkpoint_of(output).write_text("")  # the disk was full
    with pytest.raises(UnusableFile, match="is unfinished"):
        open_checkpoint(output, {"model": "a"}, False, False)
    with pytest.raises(UnusableFile, match="no longer says"):
        open_checkpoint(output, {"model": "a"}, True, False)
    assert not open_checkpoint(output, {"model": "a"}, False, True)
    assert open_checkpoint(output, {"model": "a"}, True, False)
    assert [one.name for one in tmp_path.iterdir()] == ["out.jsonl.resume"]


RESULT = {"length": 2, "output": [0.5, -1.25], "decoded": {"label": "a\nb", "probability": 0.75}}
STEPS = {
    "length": 2,
    "outputs": [[0.5, -1.25], [1.0, 2.0]],
    "decoded": [{"label": 'q"', "probability": 0.75}, {"label": "c", "probability": 0.5}],
}


def outcomes(steps: bool) -> list[Outcome]:
    """Six answers, one of which says that there is none; ids with all that CSV must quote."""
    ids = ["a", "b,c", 'd"e', "f\ng", "", "h"]
    content = orjson.dumps(STEPS if steps else RESULT)
    made = [Outcome(i, InputItem(f"line {i}", id=id), content) for i, id in enumerate(ids)]
    made[2].content, made[2].error = b"", "it is wrong, and\nsays so"
    return made


@pytest.mark.parametrize(("suffix", "steps"), [(".jsonl", False), (".csv", False), (".csv", True), (".npy", False)])
def test_an_output_cut_at_any_byte_is_gone_on_with_to_the_same_bytes(tmp_path: Path, suffix: str, steps: bool) -> None:
    path, kind, given = tmp_path / f"out{suffix}", suffix[1:], outcomes(steps)
    sink = open_sink(path, THREE, steps, kind, resume=False)  # type: ignore[arg-type]
    sink.write(given[:4])
    sink.write(given[4:])
    sink.close(True)
    whole = path.read_bytes()
    done = set()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        sink = open_sink(path, THREE, steps, kind, resume=True)  # type: ignore[arg-type]
        done.add(sink.done)
        sink.write(given[sink.done :]) if sink.done < len(given) else None
        sink.close(True)
        assert path.read_bytes() == whole, cut
    assert done == set(range(len(given) + 1))


@pytest.mark.parametrize(("suffix", "steps"), [(".parquet", False), (".parquet", True), (".npz", True)])
def test_an_output_in_parts_is_gone_on_with_to_the_same_bytes(
    tmp_path: Path, suffix: str, steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elman.cli.jobs.files.parquet._PART_ROWS", 2)
    path, kind, given = tmp_path / f"out{suffix}", suffix[1:], outcomes(steps)
    whole = b""
    for cut in (len(given), *range(len(given))):
        sink = open_sink(path, THREE, steps, kind, resume=False)  # type: ignore[arg-type]
        if cut < len(given):
            sink.write(given[:cut])
            sink.close(False)
            sink = open_sink(path, THREE, steps, kind, resume=True)  # type: ignore[arg-type]
            assert sink.done == (cut // 2 * 2 if suffix == ".parquet" else cut)
        sink.write(given[sink.done :])
        sink.close(True)
        whole = whole or path.read_bytes()
        assert path.read_bytes() == whole
        path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_by_the_usual_readers(tmp_path: Path) -> None:
    for name, steps in (("a.parquet", False), ("b.parquet", True), ("c.npy", False), ("d.npz", True), ("e.csv", True)):
        sink = open_sink(tmp_path / name, THREE, steps, name[2:], resume=False)  # type: ignore[arg-type]
        sink.write(outcomes(steps))
        sink.close(True)
    first, wrong = pq.read_table(tmp_path / "a.parquet").to_pylist()[1:3]
    assert first == {"id": "b,c", "error": None, **RESULT["decoded"], "length": 2, "output": [0.5, -1.25]}  # type: ignore[dict-item]
    assert wrong["error"] == "it is wrong, and\nsays so" and wrong["output"] is None
    assert pq.read_table(tmp_path / "b.parquet")["outputs"][0].as_py() == STEPS["outputs"]
    finals = np.load(tmp_path / "c.npy")
    assert finals.dtype == np.float32 and finals.shape == (6, 2) and np.isnan(finals[2]).all()
    archive = np.load(tmp_path / "d.npz")
    assert archive["lengths"].tolist() == [2, 2, 0, 2, 2, 2] and archive["outputs"].shape == (10, 2)
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines(keepends=True)))
    assert len(rows) == 11 and rows[1]["label"] == "c" and rows[2]["id"] == "b,c"


@pytest.mark.parametrize(
    ("name", "steps"), [("a.npy", True), ("a.npz", False), ("a.txt", False), ("none/a.jsonl", False)]
)
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, name: str, steps: bool) -> None:
    with pytest.raises(UnusableFile):
        open_sink(tmp_path / name, THREE, steps, name[-3:] if "none" not in name else "jsonl", resume=False)  # type: ignore[arg-type]
