"""Static inputs, further sequence inputs and heads on the command line, from every kind of file."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elman.cli.jobs.files.formats import open_source
from elman.cli.jobs.files.inputs import NamedInput
from elman.cli.jobs.files.items import ModelIO
from tests.cli.command import elman
from tests.named import sequence, static, write_models
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

LENGTHS = (5, 1, 30, 12)
SEQUENCES = [sequence(length, seed) for seed, length in enumerate(LENGTHS)]
STATICS = [static(index, 0.25 * index) for index in range(len(LENGTHS))]
HEADER = ["who", "c", "gain", "age", "b", "id", "a"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("named"))


@pytest.fixture(scope="module")
def own(models: Path) -> Any:
    with running_server(models) as one:
        yield one


def rows() -> list[list[Any]]:
    """A row for each step, in the order of HEADER."""
    return [
        [given["speaker"], data[2], gain, given["age"][0], data[1], f"s{index}", data[0]]
        for index, (one, given) in enumerate(zip(SEQUENCES, STATICS, strict=True))
        for data, gain in zip(one["input"], one["gain"], strict=True)
    ]


def write(folder: Path, kind: str) -> str:
    path = folder / f"in.{kind}"
    columns = dict(zip(HEADER, map(list, zip(*rows(), strict=True)), strict=True))
    if kind == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows()])
    elif kind == "parquet":
        pq.write_table(pa.table(columns), path, row_group_size=7)
    elif kind == "lists.parquet":
        whole = {
            "id": [f"s{index}" for index in range(len(LENGTHS))],
            "sequence": [one["input"] for one in SEQUENCES],
            "gain": [one["gain"] for one in SEQUENCES],
            "who": [one["speaker"] for one in STATICS],
            "age": [one["age"] for one in STATICS],
        }
        pq.write_table(pa.table(whole), path)
    else:
        lines = [
            {"id": f"s{index}", "sequence": one, "static": given}
            for index, (one, given) in enumerate(zip(SEQUENCES, STATICS, strict=True))
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.name


def asked(kind: str) -> tuple[str, ...]:
    """The options that a kind of file needs."""
    if kind == "jsonl":
        return ()
    return ("--columns", "speaker=who", *(() if kind == "lists.parquet" else ("--columns", "input=a,b,c")))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "lists.parquet"])
def test_every_kind_of_file_gives_what_a_request_gives(
    tmp_path: Path, models: Path, own: RunningServer, kind: str
) -> None:
    file = write(tmp_path, kind)
    body = {"sequences": SEQUENCES, "static": STATICS, "heads": ["best", "level"]}
    right = [{"id": f"s{i}", **one} for i, one in enumerate(own.predict("tagger", **body).json()["results"])]
    options = ("--head", "best", "--head", "level", *asked(kind))
    there = elman("predict", "tagger", file, *options, "--batch", 3, "--url", own.url, cwd=tmp_path)
    here = elman("predict", models / "tagger", file, *options, cwd=tmp_path)
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    assert there.stdout == here.stdout
    assert lines(there.stdout) == right


def test_heads_have_columns_in_tables(tmp_path: Path, own: RunningServer) -> None:
    file = write(tmp_path, "csv")
    options = ("--head", "level", "--head", "best", *asked("csv"), "--return", "steps", "--url", own.url)
    for output in ("out.csv", "out.parquet"):
        done = elman("predict", "tagger", file, *options, "-o", output, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    body = {"sequences": SEQUENCES, "static": STATICS, "heads": ["best", "level"], "return": "steps"}
    right = own.predict("tagger", **body).json()["results"]
    with (tmp_path / "out.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [int(row["heads.best_0"]) for row in table] == [best[0] for one in right for best in one["heads"]["best"]]
    level = [one["heads"]["level"] for one in right for _ in one["outputs"]]
    assert [[float(row[f"heads.level_{i}"]) for i in range(4)] for row in table] == level
    lists = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert lists["heads.best"] == [one["heads"]["best"] for one in right]
    level = [[one["heads"]["level"]] for one in right]
    assert np.array_equal(np.array(lists["heads.level"], np.float32), np.array(level, np.float32))
    refused = elman("predict", "tagger", file, *options, "-o", "out.npz", cwd=tmp_path)
    assert refused.returncode == 2 and "--head" in refused.stderr


def test_one_value_is_for_every_sequence(tmp_path: Path, own: RunningServer) -> None:
    texts = ["ab", "cde", "k"]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    (tmp_path / "in.csv").write_text("id,text,style\n" + "".join(f"{i},{text},2\n" for i, text in enumerate(texts)))
    right = own.predict("letters", sequences=texts, static={"style": 2}).json()["results"]
    done = elman("predict", "letters", "in.txt", "--static", "style=2", "--url", own.url, cwd=tmp_path)
    assert lines(done.stdout) == right, done.stderr
    (tmp_path / "style.json").write_text("2")
    read = elman("predict", "letters", "in.txt", "--static", "style=@style.json", "--url", own.url, cwd=tmp_path)
    assert read.stdout == done.stdout
    table = elman("predict", "letters", "in.csv", "--url", own.url, cwd=tmp_path)
    assert lines(table.stdout) == [{"id": str(i), **one} for i, one in enumerate(right)], table.stderr
    told = elman("predict", "letters", "in.txt", "--url", own.url, cwd=tmp_path)
    assert told.returncode == 2 and "add --static style=VALUE" in told.stderr


def test_generate_takes_static_inputs(tmp_path: Path, models: Path, own: RunningServer) -> None:
    body = {"prompt": "ab", "max_steps": 8, "temperature": 0, "static": {"style": 1}}
    right = httpx.post(f"{own.url}/v1/models/letters/generate", json=body).json()["results"][0]["text"]
    options = ("ab", "--max-steps", 8, "--temperature", 0, "--static", "style=1")
    for target in (("letters", "--url", own.url), (models / "letters",)):
        done = elman("generate", *target, *options, cwd=tmp_path)
        assert done.stdout == f"ab{right}\n", done.stderr
    refused = elman("generate", "letters", "ab", "--url", own.url, cwd=tmp_path)
    assert refused.returncode == 1 and "style" in refused.stderr


CSV = "id,a,b,c,gain,speaker,age\nx,1,2,3,1,{},0.5\nx,1,2,3,1,{},0.5\n"


@pytest.mark.parametrize(
    ("text", "options", "code", "words"),
    [
        (CSV.format(1, 2), (), 1, "row 3, speaker: '2', but '1' in the rows before"),
        (CSV.format(1.5, 1.5), (), 1, "speaker: '1.5' is not a whole number"),
        (CSV.format("ann", "ann"), (), 1, "speaker: 'ann' is not a whole number"),
        (CSV.format(9, 9), (), 1, "static.speaker: 9 is outside the range (expected: 0 to 4)"),
        (CSV.format(1, 1).replace("speaker", "spaeker"), (), 2, "there is no column 'speaker'"),
        (CSV.format(1, 1).replace("gain", "speaker"), (), 2, "there is no column 'gain'"),
        (CSV.format(1, 1), ("--columns", "speaker=who"), 2, "there is no column 'who' for the input 'speaker'"),
        (CSV.format(1, 1), ("--columns", "speaker=a,b"), 2, "takes 1 columns, but --columns names 2"),
        (CSV.format(1, 1), ("--columns", "input=a,b"), 2, "the model takes 3 features"),
        (CSV.format(1, 1), ("--columns", "input=a,b,x"), 2, "there is no column 'x'"),
        (CSV.format(1, 1), ("--columns", "sex=a"), 2, "the model has no input 'sex'; it has input, gain, speaker, age"),
        (CSV.format(1, 1), ("--static", "speaker=1"), 2, "'speaker' is given by --static, and the table"),
        (CSV.format(1, 1), ("--static", "speaker=who"), 2, "--columns speaker=who"),
        (CSV.format(1, 1), ("--static", "speaker=@none.json"), 2, "none.json cannot be read"),
        (
            "id,a,b,c,gain,age\nx,1,2,3,1,0.5\n",
            ("--static", f"speaker={10**30}"),
            1,
            "static.speaker: expected integer",
        ),
        (CSV.format(1, 1), ("--static", "speaker"), 2, "is not of the form speaker=3"),
        (CSV.format(1, 1), ("--static", "gain=1"), 2, "the model has no static input 'gain'; it has speaker, age"),
        (CSV.format(1, 1), ("--head", "volume"), 2, "the model has no head 'volume'; it has value, best, level"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(
    tmp_path: Path, own: RunningServer, text: str, options: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "in.csv").write_text(text)
    done = elman("predict", "tagger", "in.csv", *options, "--url", own.url, cwd=tmp_path)
    assert (done.returncode, words in done.stderr, done.stdout) == (code, True, ""), done.stderr


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"static": {"speaker": 1}}, (), "the static input 'age' is missing"),
        ({"static": {**static(1, 0.5), "sex": 1}}, (), "the model has no static input 'sex'; it has age, speaker"),
        ({"static": static(1, 0.5)}, ("--static", "age=0.5"), "the static input 'age' is given by --static too"),
        ({"static": {"speaker": 1, "age": "old"}}, (), "line 2: static.age"),
        ({"sequence": {"input": SEQUENCES[0]["input"], "gain": [1.0]}}, (), "line 2: sequence.gain"),
    ],
)
def test_a_line_that_is_wrong_is_named(
    tmp_path: Path, own: RunningServer, change: dict[str, Any], options: tuple[str, ...], words: str
) -> None:
    good = {"sequence": SEQUENCES[0], "static": static(1, 0.5)}
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    done = elman("predict", "tagger", "in.jsonl", *options, "--url", own.url, cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr, done.stderr


VECTORS = ModelIO("features", 1, further=(NamedInput("pair", (2,)),), statics=(NamedInput("place", (2, 2)),))


def vectors_csv(path: Path, place: Callable[[int, int], float]) -> None:
    header = ["x", *(f"place_{i}" for i in range(4)), "pair_0", "pair_1"]
    cells = [[step, *(place(step, i) for i in range(4)), step, -step] for step in range(3)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *cells])


def test_an_input_of_several_numbers_has_numbered_columns(tmp_path: Path) -> None:
    vectors_csv(tmp_path / "in.csv", lambda step, i: i / 2)
    (item,) = open_source(str(tmp_path / "in.csv"), VECTORS)
    assert item.extra == {"static": {"place": [[0.0, 0.5], [1.0, 1.5]]}}
    assert json.loads(item.content)["pair"] == [[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]
    vectors_csv(tmp_path / "in.csv", lambda step, i: step)
    (item,) = open_source(str(tmp_path / "in.csv"), VECTORS)
    assert item.error is not None and item.error.startswith("row 3, place_0: '1', but '0' in the rows before")


def test_token_ids_in_a_table_are_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("token\n3\n4.5\n")
    (item,) = open_source(str(tmp_path / "in.csv"), ModelIO("tokens"))
    assert item.error == "4.5 at step 1 is not a whole number"
    pq.write_table(pa.table({"token": [3.0, 4.5]}), tmp_path / "in.parquet")
    (item,) = open_source(str(tmp_path / "in.parquet"), ModelIO("tokens"))
    assert item.error == "4.5 at step 1 is not a whole number"


@pytest.mark.parametrize("name", ["tagger", "letters"])
def test_check_shows_a_request_that_the_server_takes(
    tmp_path: Path, models: Path, own: RunningServer, name: str
) -> None:
    shown = elman("check", models / name, cwd=tmp_path).stdout
    described = json.loads(elman("check", "--json", models / name, cwd=tmp_path).stdout)
    request = described["request"]
    assert f"/v1/models/{name}/predict" in shown and json.dumps(request) in shown
    assert own.predict(name, **request).json()["results"][0].get("heads", {}).keys() == set(request.get("heads", ()))
    for port in (*described["inputs"], *described["outputs"]):
        (line,) = (line for line in shown.splitlines() if line.split()[1:3] == [port["name"], port["role"]])
        assert port["dtype"] in line and port["found"] in line


@pytest.mark.parametrize("name", ["names-gru", "vowels-lstm-bidirectional", "watch-gru", "electricity-gru"])
def test_the_request_of_a_shipped_model_is_taken(tmp_path: Path, server: RunningServer, name: str) -> None:
    request = json.loads(elman("check", "--json", STORE / name, cwd=tmp_path).stdout)["request"]
    answer = server.predict(name, **request)
    assert answer.status_code == 200, answer.text
