"""`elman forecast` and `elman generate`, with a server and without one."""

import csv
import json
from pathlib import Path

import numpy as np

from tests.cli.command import elman, elman_here
from tests.running import RunningServer

HISTORY = (10 + 2 * np.sin(np.arange(30) / 3)).tolist()


def write_history(path: Path, columns: int = 1) -> None:
    with path.open("w", newline="") as file:
        names = ["v"] if columns == 1 else [f"f{i}" for i in range(columns)]
        rows = [[value + i for i in range(columns)] for value in HISTORY]
        csv.writer(file).writerows(
            [["id", *names], *(["one", *row] for row in rows), *(["two", *row] for row in rows[5:])]
        )


def test_a_forecast_is_the_servers_own(tmp_path: Path, served: RunningServer, root: Path) -> None:
    write_history(tmp_path / "in.csv")
    asked = ("in.csv", "--horizon", "6", "--samples", "20", "--quantiles", "0.1,0.9", "--seed", "3")
    there = elman("forecast", "seer", *asked, "--url", served.url, "--json", cwd=tmp_path)
    here = elman("forecast", root / "seer", *asked, "-o", "out.csv", cwd=tmp_path)
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    body = {"series": HISTORY, "horizon": 6, "samples": 20, "quantiles": [0.1, 0.9], "seed": 3}
    whole = served.client.post("/v1/models/seer/forecast", json=body).json()
    first, second = map(json.loads, there.stdout.splitlines())
    assert first == {"id": "one", **{key: whole[key] for key in whole if key not in ("model", "version")}}
    assert second["id"] == "two" and second["point"] != first["point"]
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 12 and list(rows[0]) == ["id", "step", "point", "mean", "q0.1", "q0.9", "error"]
    assert [float(row["q0.9"]) for row in rows[:6]] == whole["quantiles"]["0.9"]
    assert [int(row["step"]) for row in rows[:6]] == [1, 2, 3, 4, 5, 6]


def test_people_are_shown_a_table(tmp_path: Path, served: RunningServer) -> None:
    write_history(tmp_path / "in.csv")
    shown = elman("forecast", "seer", "in.csv", "-n", "3", "--url", served.url, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split()[:3] == ["one", "step", "point"] and "two" in shown.stdout


def test_what_is_known_ahead_comes_from_a_file_of_its_own(tmp_path: Path, served: RunningServer) -> None:
    write_history(tmp_path / "in.csv", columns=4)
    ahead = [[0.5, 1.0]] * 4
    with (tmp_path / "ahead.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "a", "b"], *([id, *row] for id in ("one", "two") for row in ahead)])
    asked = ("forecast", "many", "in.csv", "-n", "4", "--url", served.url, "--json")
    done = elman(*asked, "--future", "ahead.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    series = [[value + i for i in range(4)] for value in HISTORY]
    body = {"series": series, "horizon": 4, "future": ahead}
    whole = served.client.post("/v1/models/many/forecast", json=body).json()
    assert json.loads(done.stdout.splitlines()[0])["point"] == whole["point"]
    # The same as a line of JSON; and without it the model cannot.
    line = json.dumps({"sequence": series, "future": ahead, "id": "one"})
    piped = elman(*asked[:2], "-", *asked[3:], cwd=tmp_path, given=line + "\n")
    assert json.loads(piped.stdout) == {
        **json.loads(done.stdout.splitlines()[0]),
        "seed": json.loads(piped.stdout)["seed"],
    }
    without = elman(*asked, cwd=tmp_path)
    assert without.returncode == 1 and "future" in without.stderr
    short = elman(*asked, "--future", "in.csv", cwd=tmp_path)
    assert short.returncode == 2 and "2 features" in short.stderr


def test_what_cannot_forecast_says_why(tmp_path: Path, served: RunningServer) -> None:
    for arguments, code, words in (
        (("vowels-gru", "in.jsonl"), 1, "cannot forecast"),
        (("seer", "in.jsonl", "--quantiles", "2"), 2, "between 0 and 1"),
        (("seer", "in.jsonl", "-o", "out.parquet"), 2, ".jsonl or .csv"),
        (("seer", "in.jsonl", "--future", "x.csv"), 2, "leave out --future"),
    ):
        row = [[0.0] * 12] if arguments[0] == "vowels-gru" else [0.0, 1.0]
        (tmp_path / "in.jsonl").write_text(json.dumps(row))
        done = elman_here("forecast", *arguments, "--url", served.url, cwd=tmp_path)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_text_is_written_on(tmp_path: Path, served: RunningServer, root: Path) -> None:
    asked = ("ab", "--seed", "5", "--max-steps", "12", "--samples", "3", "--condition", "loud")
    body = {"prompt": "ab", "seed": 5, "max_steps": 12, "samples": 3, "condition": "loud"}
    whole = served.client.post("/v1/models/writer/generate", json=body).json()
    there = elman("generate", "writer", *asked, "--url", served.url, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert there.stdout.splitlines() == ["ab" + one["text"] for one in whole["results"]]
    here = elman("generate", root / "writer", *asked, "--json", cwd=tmp_path)
    assert json.loads(here.stdout)["results"] == whole["results"]


def test_a_text_is_shown_as_it_comes(tmp_path: Path, served: RunningServer, root: Path) -> None:
    asked = ("generate", "writer", "ab", "--seed", "5", "--max-steps", "12", "--url", served.url)
    plain = elman(*asked, cwd=tmp_path)
    followed = elman(*asked, "--stream", cwd=tmp_path)
    assert (followed.returncode, followed.stdout) == (0, plain.stdout), followed.stderr
    events = elman("generate", root / "writer", *asked[2:], "--stream", "--json", cwd=tmp_path)
    *tokens, last = map(json.loads, events.stdout.splitlines())
    assert "".join(one["text"] for one in tokens) == last["results"][0]["text"] == plain.stdout[2:-1]


def test_what_cannot_generate_says_why(tmp_path: Path, served: RunningServer) -> None:
    for arguments, code, words in (
        (("vowels-gru",), 1, "cannot generate"),
        (("writer", "ab", "--condition", "quiet"), 1, "loud"),
        (("writer", "AB"), 1, "vocabulary"),
        (("writer", "AB", "--stream"), 1, "vocabulary"),
        (("writer", "--stream", "--samples", "2"), 2, "--stream"),
        (("writer", "--temperature", "hot"), 2, "temperature"),
    ):
        done = elman_here("generate", *arguments, "--url", served.url, cwd=tmp_path)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_check_says_what_feeds_on_itself(tmp_path: Path, root: Path) -> None:
    for name, words in (
        ("many", "yes, feature 2, 0, given 3, 1 ahead, with quantiles"),
        ("seer", "yes, feature 0, with quantiles"),
        ("writer", "yes, on condition of loud"),
    ):
        shown = elman_here("check", root / name, cwd=tmp_path)
        assert shown.returncode == 0 and words in shown.stdout, shown.stdout
