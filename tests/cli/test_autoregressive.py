"""`elman forecast` and `elman generate`, with a server and without one."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.command import elman
from tests.running import STORE, RunningServer

pytestmark = pytest.mark.slow

HISTORY = (10 + 2 * np.sin(np.arange(30) / 3)).tolist()
WRITER = "names-lstm-generator"
POWER = ["demand, GW", "temperature, °C", "workday", "half-hour of the day", "day of the week"]


def write_history(path: Path, columns: int = 1) -> None:
    """Two series: `one`, and `two` without its first five steps."""
    with path.open("w", newline="") as file:
        names = ["v"] if columns == 1 else POWER
        rows = [[value + i for i in range(columns)] for value in HISTORY]
        csv.writer(file).writerows(
            [["id", *names], *(["one", *row] for row in rows), *(["two", *row] for row in rows[5:])]
        )


def test_a_forecast_is_the_servers_own(tmp_path: Path, server: RunningServer) -> None:
    write_history(tmp_path / "in.csv")
    asked = ("in.csv", "--horizon", "6", "--samples", "20", "--quantiles", "0.1,0.9", "--seed", "3")
    there = elman("forecast", "sunspots-gru", *asked, "--url", server.url, "--json", cwd=tmp_path)
    here = elman("forecast", STORE / "sunspots-gru", *asked, "-o", "out.csv", cwd=tmp_path)
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    body = {"series": HISTORY, "horizon": 6, "samples": 20, "quantiles": [0.1, 0.9], "seed": 3}
    whole = server.client.post("/v1/models/sunspots-gru/forecast", json=body).json()
    first, second = map(json.loads, there.stdout.splitlines())
    assert first == {"id": "one", **{key: whole[key] for key in whole if key not in ("model", "version")}}
    assert second["id"] == "two" and second["point"] != first["point"]
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 12 and list(rows[0]) == ["id", "step", "point", "mean", "q0.1", "q0.9", "error"]
    assert [float(row["q0.9"]) for row in rows[:6]] == whole["quantiles"]["0.9"]
    assert [int(row["step"]) for row in rows[:6]] == [1, 2, 3, 4, 5, 6]


def test_many_series_share_a_request_and_one_that_is_wrong_harms_no_other(
    tmp_path: Path, server: RunningServer
) -> None:
    series = [HISTORY[at:] for at in range(12)]
    lines = [json.dumps({"id": f"s{at}", "sequence": one}) for at, one in enumerate(series)]
    lines[5] = json.dumps({"id": "s5", "sequence": []})
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    asked = ("forecast", "sunspots-gru", "in.jsonl", "-n", "3", "--on-error", "skip", "--url", server.url)
    for output in ("out.csv", "out.parquet", "out.arrow"):
        done = elman(*asked, "-o", output, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["id"] for row in rows if row["error"]] == ["s5"]
    for at in (0, 4, 6, 11):
        whole = server.client.post("/v1/models/sunspots-gru/forecast", json={"series": series[at], "horizon": 3}).json()
        assert [float(row["point"]) for row in rows if row["id"] == f"s{at}"] == whole["point"]
    tables = pq.read_table(tmp_path / "out.parquet"), pa.ipc.open_file(tmp_path / "out.arrow").read_all()
    for table in tables:
        assert str(table.schema.field("step").type) == "int32" and str(table.schema.field("point").type) == "double"
        found = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
        assert found == rows


def test_people_are_shown_a_table(tmp_path: Path, server: RunningServer) -> None:
    write_history(tmp_path / "in.csv")
    shown = elman("forecast", "sunspots-gru", "in.csv", "-n", "3", "--url", server.url, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split()[:4] == ["one,", "sunspots", "step", "point"] and "two" in shown.stdout


def test_what_is_known_ahead_comes_from_a_file_of_its_own(tmp_path: Path, server: RunningServer) -> None:
    write_history(tmp_path / "in.csv", columns=5)
    ahead = [[0.5, 1.0, 2.0]] * 4
    with (tmp_path / "ahead.csv").open("w", newline="") as file:
        rows = [
            [id, *row] for id, other in (("two", 9.0), ("one", 0.0)) for row in [[v + other for v in r] for r in ahead]
        ]
        csv.writer(file).writerows([["id", *POWER[2:]], *rows])
    asked = ("forecast", "electricity-gru", "in.csv", "-n", "4", "--seed", "1", "--url", server.url)
    done = elman(*asked, "--future", "ahead.csv", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    series = [[value + i for i in range(5)] for value in HISTORY]
    body = {"series": series, "horizon": 4, "future": ahead}
    whole = server.client.post("/v1/models/electricity-gru/forecast", json=body).json()
    assert json.loads(done.stdout.splitlines()[0])["point"] == whole["point"], "the future goes by its id"
    # Each value that is forecast has a column of its own.
    written = elman(*asked, "--future", "ahead.csv", "-o", "out.csv", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    header, *rows = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    assert header == ["id", "step", "point_demand, GW", "point_temperature, °C", "error"]
    assert [[float(cell) for cell in row[2:4]] for row in rows[:4]] == whole["point"]
    # The same future in the line of its series.
    line = json.dumps({"sequence": series, "future": ahead, "id": "one"})
    piped = elman(*asked[:2], "-", *asked[3:], "--json", cwd=tmp_path, given=line + "\n")
    assert piped.stdout == done.stdout.splitlines(keepends=True)[0]
    without = elman(*asked, cwd=tmp_path)
    assert without.returncode == 1 and "future" in without.stderr
    (tmp_path / "other.csv").write_text("id,workday,half-hour of the day,day of the week\nthree,1,2,3\n")
    wrong = elman(*asked, "--future", "other.csv", cwd=tmp_path)
    assert wrong.returncode == 1 and "--future has nothing for the id 'one'" in wrong.stderr
    (tmp_path / "other.csv").write_text("workday,half-hour of the day,day of the week\n" + "1,2,3\n" * 4)
    wrong = elman(*asked, "--future", "other.csv", "--id-column", "", cwd=tmp_path)
    assert wrong.returncode == 0, wrong.stderr
    (tmp_path / "other.csv").write_text("id,weekday,half-hour of the day,day of the week\none,1,2,3\n")
    wrong = elman(*asked, "--future", "other.csv", cwd=tmp_path)
    assert wrong.returncode == 2 and "there is no column 'workday'" in wrong.stderr


def test_what_cannot_forecast_says_why(tmp_path: Path, server: RunningServer) -> None:
    for arguments, code, words in (
        (("vowels-gru", "in.jsonl"), 1, "cannot forecast"),
        (("sunspots-gru", "in.jsonl", "--samples", "5", "--quantiles", "2"), 2, "between 0 and 1"),
        (("sunspots-gru", "in.jsonl", "--quantiles", "0.2"), 2, "add --samples"),
        (("sunspots-gru", "in.jsonl", "-o", "out.xlsx"), 2, ".csv, .parquet or .arrow"),
        (("sunspots-gru", "in.jsonl", "--future", "x.csv"), 2, "leave out --future"),
    ):
        row = [[0.0] * 12] if arguments[0] == "vowels-gru" else [0.0, 1.0]
        (tmp_path / "in.jsonl").write_text(json.dumps(row))
        done = elman("forecast", *arguments, "--url", server.url, cwd=tmp_path)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_text_is_continued(tmp_path: Path, server: RunningServer) -> None:
    asked = ("Mc", "--seed", "5", "--max-steps", "12", "--samples", "3", "--condition", "Irish")
    body = {"prompt": "Mc", "seed": 5, "max_steps": 12, "samples": 3, "condition": "Irish"}
    whole = server.client.post(f"/v1/models/{WRITER}/generate", json=body).json()
    there = elman("generate", WRITER, *asked, "--url", server.url, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert there.stdout.splitlines() == ["Mc" + one["text"] for one in whole["results"]]
    here = elman("generate", STORE / WRITER, *asked, "--json", cwd=tmp_path)
    assert json.loads(here.stdout)["results"] == whole["results"]


def test_a_text_is_shown_as_it_comes(tmp_path: Path, server: RunningServer) -> None:
    asked = ("generate", WRITER, "Mc", "--seed", "5", "--max-steps", "12", "--url", server.url)
    plain = elman(*asked, cwd=tmp_path)
    followed = elman(*asked, "--stream", cwd=tmp_path)
    assert (followed.returncode, followed.stdout) == (0, plain.stdout), followed.stderr
    events = elman("generate", STORE / WRITER, *asked[2:], "--stream", "--json", cwd=tmp_path)
    *tokens, last = map(json.loads, events.stdout.splitlines())
    assert "".join(one["text"] for one in tokens) == last["results"][0]["text"] == plain.stdout[2:-1]
    assert len(tokens) > 2


def test_the_most_likely_texts_are_searched(tmp_path: Path, server: RunningServer) -> None:
    body = {"prompt": "Mc", "num_beams": 4, "num_return_sequences": 3, "logprobs": 1}
    whole = server.client.post(f"/v1/models/{WRITER}/generate", json=body).json()
    asked = ("generate", WRITER, "Mc", "--num-beams", "4", "--num-return-sequences", "3", "--url", server.url)
    shown = elman(*asked, cwd=tmp_path)
    assert shown.stdout.splitlines() == ["Mc" + one["text"] for one in whole["results"]], shown.stderr
    assert json.loads(elman(*asked, "--logprobs", "1", "--json", cwd=tmp_path).stdout) == whole


def test_unknown_characters_are_told_of(tmp_path: Path, server: RunningServer) -> None:
    for streamed in ((), ("--stream",)):
        done = elman("generate", WRITER, "M漢漢", "--max-steps", "3", *streamed, "--url", server.url, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "elman: read as the unknown token: '漢' (2)\n")
    asked = ("predict", "names-gru", "-", "--input-format", "txt", "--url", server.url)
    done = elman(*asked, cwd=tmp_path, given="Lind\nM漢\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert "in 1 of the sequences characters outside the vocabulary" in done.stderr


def test_what_cannot_generate_says_why(tmp_path: Path, server: RunningServer) -> None:
    for arguments, code, words in (
        (("vowels-gru",), 1, "cannot generate"),
        ((WRITER, "Mc", "--condition", "Klingon"), 1, "Irish"),
        ((WRITER, "Mc", "--condition", "Klingon", "--stream"), 1, "Irish"),
        ((WRITER, "--stream", "--samples", "2"), 2, "--stream"),
        ((WRITER, "--temperature", "hot"), 2, "temperature"),
        ((WRITER, "--logprobs", "2"), 2, "--json"),
        ((WRITER, "--num-beams", "3", "--temperature", "0.5"), 1, "temperature"),
    ):
        done = elman("generate", *arguments, "--url", server.url, cwd=tmp_path)
        assert done.returncode == code and words in done.stderr, done.stderr


def test_check_says_what_feeds_on_itself(tmp_path: Path) -> None:
    for name, words in (
        ("electricity-gru", "yes, feature demand, GW, temperature, °C, with workday, half-hour of the day, day of the"),
        ("sunspots-gru", "yes, feature sunspots, with quantiles"),
        (WRITER, "yes, with the conditions Croatian"),
    ):
        shown = elman("check", STORE / name, cwd=tmp_path)
        assert shown.returncode == 0 and words in shown.stdout, shown.stdout
