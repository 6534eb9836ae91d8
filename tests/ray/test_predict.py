"""`elman predict --engine ray`: the results of `elman predict`, in parts, on a real Ray."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elman.cli.jobs import ray_job
from tests.cli.command import elman
from tests.running import LOADS, STORE

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

MODEL = STORE / "vowels-gru" / "1" / "model.onnx"
SIZE = 12


def write_sequences(folder: Path, *files: list[int]) -> list[Path]:
    """Files of whole sequences of these lengths, four a row group, each with a column that the model does not use."""
    folder.mkdir()
    made, draw = [], np.random.default_rng(1)
    for number, lengths in enumerate(files):
        rows = [draw.standard_normal((length, SIZE)).astype(np.float32).tolist() for length in lengths]
        table = pa.table({"sequence": rows, "where": [f"{number}/{i}" for i in range(len(rows))]})
        made.append(folder / f"{number}.parquet")
        pq.write_table(table, made[-1], row_group_size=4)
    return made


def joined(paths: list[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in paths])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `in`, whose last sequence has a row too short, and `plain.parquet` of the same without that."""
    folder = tmp_path_factory.mktemp("predict")
    first, second = write_sequences(folder / "in", [3, 1, 7, 2, 5, 6, 4, 9, 8, 2, 3], [4, 5, 1])
    pq.write_table(joined([first, second]), folder / "joint.parquet")
    plain = run(folder, "predict", MODEL, "joint.parquet", "-o", "plain.parquet")
    assert plain.returncode == 0, plain.stderr
    (folder / "good.parquet").write_bytes(second.read_bytes())
    table = pq.read_table(second).to_pylist()
    table[-1]["sequence"][-1].pop()
    pq.write_table(pa.Table.from_pylist(table), second)
    return folder


def run(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return elman(*arguments, cwd=folder, load_cache_dir=LOADS)


def test_parts_are_the_results_of_the_plain_command_and_done_ones_are_kept(
    cluster: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job, "_PART_ROWS", 8)
    ask = ["predict", MODEL, "in", "-o", "out", "--engine", "ray", "--json"]
    failed = run(folder, *ask)
    assert failed.returncode == 1 and "1.parquet: row 2" in failed.stderr and "--resume" in failed.stderr
    for wrong, why in (((), "out is unfinished"), (("--resume", "--top", 1), "out was started with the options")):
        refused = run(folder, *ask, *wrong)
        assert refused.returncode == 2 and why in refused.stderr
    names = ["rows-000000000000-000000000007.parquet", "rows-000000000008-000000000010.parquet"]
    done = {path.name: path.stat().st_mtime_ns for path in sorted((folder / "out").glob("*.parquet"))}
    assert list(done) == names

    (folder / "in" / "1.parquet").write_bytes((folder / "good.parquet").read_bytes())
    resumed = run(folder, *ask, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["sequences"] == 3
    parts = sorted((folder / "out").iterdir())
    assert [path.name for path in parts] == [*names, "rows-000000000011-000000000013.parquet"]
    assert {path.name: path.stat().st_mtime_ns for path in parts[:2]} == done
    assert joined(parts).equals(pq.read_table(folder / "plain.parquet"))
    assert "nothing to resume" in run(folder, *ask, "--resume").stderr


def test_a_file_whose_sequences_have_several_rows_is_one_part(cluster: None, tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    names = [f"cepstrum {i + 1}" for i in range(SIZE)]
    ids = [["a"] * 3 + ["b"] * 2, ["c"] * 4]
    (tmp_path / "in").mkdir()
    for number, one in enumerate(ids):
        columns = {name: draw.standard_normal(len(one)).astype(np.float32) for name in names}
        pq.write_table(pa.table({"id": one, **columns}), tmp_path / "in" / f"{number}.parquet", row_group_size=2)
    pq.write_table(joined(sorted((tmp_path / "in").iterdir())), tmp_path / "joint.parquet")
    steps = ("--return", "steps")
    assert run(tmp_path, "predict", MODEL, "joint.parquet", "-o", "plain.parquet", *steps).returncode == 0
    done = run(tmp_path, "predict", MODEL, "in", "-o", "out", "--engine", "ray", *steps)
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "out").iterdir())
    assert [path.name[5:17] for path in parts] == ["000000000000", "000000000005"]
    assert joined(parts).equals(pq.read_table(tmp_path / "plain.parquet"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("vowels-gru", "in", "-o", "out"), "give its path"),
        ((MODEL, "in"), "writes a folder of Parquet files"),
        ((MODEL, "in", "-o", "out.parquet"), "writes a folder of Parquet files"),
        ((MODEL, ".", "-o", "out"), "has no Parquet files"),
        ((MODEL, "in", "-o", "in"), "name another one"),
    ],
)
def test_what_ray_cannot_do_is_refused(tmp_path: Path, arguments: tuple[object, ...], why: str) -> None:
    refused = run(tmp_path, "predict", *arguments, "--engine", "ray")
    assert refused.returncode == 2 and why in refused.stderr
