"""What a server serves, holds and does, as commands tell it: to programs, to people, and to shells."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.cli.command import COMMAND, elman, elman_environment, elman_on_terminal
from tests.running import STORE, RunningServer, environment, running_server

pytestmark = pytest.mark.slow


class Silent(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_the_models_of_a_server_are_listed(tmp_path: Path, server: RunningServer) -> None:
    done = elman("models", cwd=tmp_path, url=server.url)
    cards = server.client.get("/v1/models").json()
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "model",
        *(one["name"] for one in cards["models"]),
    ]
    assert re.search(r"^names-gru +classification +gru 1x128 +\d+ tokens +13 +yes +yes", done.stdout, re.MULTILINE)
    # An address that is typed comes before a folder of the environment.
    listed = elman("models", "--url", server.url, "--json", cwd=tmp_path, models="nowhere")
    assert json.loads(listed.stdout) == cards


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://localhost:8000",), "elman models --url http://localhost:8000"),
        ((".", "--url", "http://localhost:8000"), "not both"),
        (("--url", "localhost:8000"), "write http://localhost:8000"),
    ],
)
def test_what_is_neither_a_folder_nor_a_server_is_told(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = elman("models", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("models",), ("show", "names-gru"), ("sessions",), ("ps",)])
def test_no_server_and_no_key_are_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = elman(*command, cwd=tmp_path, url="http://127.0.0.1:9")
    assert done.returncode == 3 and "no server answers at http://127.0.0.1:9" in done.stderr


def test_a_file_of_the_name_is_suggested_where_no_server_answers(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = elman("show", "mine", cwd=tmp_path, url="http://127.0.0.1:9")
    assert done.returncode == 3 and done.stderr.endswith(", or for the file write ./mine\n")


def test_another_server_is_told(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    for name, content in (("models", "{}"), ("sessions", "[]"), ("engine", "no JSON")):
        (tmp_path / "v1" / name).write_text(content)
    handler = partial(Silent, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            for command in ("models", "sessions", "ps"):
                done = elman(command, cwd=tmp_path, url=f"http://127.0.0.1:{other.server_port}")
                assert done.returncode == 3 and done.stderr.endswith(" is not an Elman server\n")
        finally:
            other.shutdown()
            thread.join(30)


def test_a_model_is_shown_the_same_from_a_server_and_from_its_file(tmp_path: Path, server: RunningServer) -> None:
    shown = elman("show", "names-gru", cwd=tmp_path, url=server.url)
    one = elman("show", "sunspots-gru", cwd=tmp_path, url=server.url).stdout
    assert re.search("^input +1 feature$", one, re.MULTILINE) and re.search("^output +1 number$", one, re.MULTILINE)
    card = json.loads(elman("show", "names-gru@1", "--json", cwd=tmp_path, url=server.url).stdout)
    assert card == server.client.get("/v1/models/names-gru").json()
    for word in ("1 x gru", "Swedish", "512 bytes each", card["digest"]):
        assert word in shown.stdout
    assert elman("show", STORE / "names-gru", cwd=tmp_path).stdout == shown.stdout


def test_the_nearest_name_is_suggested(tmp_path: Path, server: RunningServer) -> None:
    for command in (("show", "names-gur"), ("predict", "names-gur", "-"), ("generate", "names-gur")):
        done = elman(*command, cwd=tmp_path, url=server.url)
        assert (done.returncode, done.stderr) == (
            1, "elman: the model 'names-gur' is not served; did you mean names-gru?\n",
        )  # fmt: skip
    far = elman("show", "zebra", cwd=tmp_path, url=server.url)
    assert "did you mean" not in far.stderr and "names-gru" in far.stderr


def test_sessions_are_listed(tmp_path: Path, server: RunningServer) -> None:
    made = server.client.post("/v1/models/vowels-gru/sessions", json={}).json()
    shown = elman("sessions", "--model", "vowels-gru", cwd=tmp_path, url=server.url)
    assert re.search(rf"^{made['id']} +vowels-gru@1 +0 +20\d\d-", shown.stdout, re.MULTILINE)
    listed = json.loads(elman("sessions", "--json", cwd=tmp_path, url=server.url).stdout)["sessions"]
    assert made in listed
    assert made["id"] not in elman("sessions", "--model", "names-gru", cwd=tmp_path, url=server.url).stdout
    server.client.delete(f"/v1/sessions/{made['id']}").raise_for_status()


def made_sessions(server: RunningServer, *models: str) -> list[str]:
    return [server.client.post(f"/v1/models/{model}/sessions", json={}).json()["id"] for model in models]


def test_sessions_are_deleted_by_their_ids(tmp_path: Path, server: RunningServer) -> None:
    first, second, third = made_sessions(server, "names-gru", "names-gru", "names-gru")
    done = elman("sessions", "--delete", first, "--delete", second, cwd=tmp_path, url=server.url)
    assert (done.returncode, done.stdout) == (0, "2 sessions deleted\n")
    again = elman("sessions", "--delete", first, "--delete", third, "--json", cwd=tmp_path, url=server.url)
    assert again.returncode == 1 and json.loads(again.stdout) == {"deleted": [third]}
    assert again.stderr.startswith(f"elman: {first} is not deleted: ") and len(again.stderr.splitlines()) == 1
    assert not {first, second, third} & {one["id"] for one in server.client.get("/v1/sessions").json()["sessions"]}
    both = elman("sessions", "--delete", first, "--all", cwd=tmp_path, url=server.url)
    assert both.returncode == 2 and "without --all" in both.stderr


def test_all_sessions_of_a_model_are_deleted_and_a_terminal_is_asked_first(tmp_path: Path, small_store: Path) -> None:
    with running_server(small_store, store="memory") as server:
        made = made_sessions(server, "vowels-gru", "vowels-gru", "names-gru")
        all_of = ("sessions", "--all", "--model", "vowels-gru")
        code, shown = elman_on_terminal(*all_of, cwd=tmp_path, url=server.url, given="n\n")
        assert code == 1 and f"Delete 2 sessions at {server.url}? [y/N]" in shown
        assert len(server.client.get("/v1/sessions").json()["sessions"]) == 3
        code, shown = elman_on_terminal(*all_of, cwd=tmp_path, url=server.url, given="y\n")
        assert code == 0 and shown.endswith("2 sessions deleted\n")
        left = server.client.get("/v1/sessions").json()["sessions"]
        assert [one["id"] for one in left] == made[2:]
        done = elman("sessions", "--all", cwd=tmp_path, url=server.url)
        assert (done.returncode, done.stdout) == (0, "1 session deleted\n")
        assert elman("sessions", "--all", cwd=tmp_path, url=server.url).stdout == "0 sessions deleted\n"


def test_what_a_server_is_doing_is_told(tmp_path: Path, server: RunningServer) -> None:
    server.predict("names-gru", sequence="Lindqvist").raise_for_status()
    shown = elman("ps", cwd=tmp_path, url=server.url).stdout
    assert re.search(r"^unfinished +\d+ sequences", shown, re.MULTILINE)
    stats = json.loads(elman("ps", "--json", cwd=tmp_path, url=server.url).stdout)
    assert stats["process"] == server.process.pid
    (row,) = [one for one in stats["models"] if one["model"] == "names-gru"]
    found = re.search(r"^names-gru@1 +\d+ +([\d,]+) ", shown, re.MULTILINE)
    assert found is not None and 1 <= int(found[1].replace(",", "")) <= row["sequences"]


def test_the_figures_of_several_workers_are_summed_and_each_is_listed(tmp_path: Path, small_store: Path) -> None:
    with running_server(small_store, workers=2) as server:
        for worker in ("0", "1"):
            server.wait_for("elman_worker_up", 1, worker)
        for _ in range(20):  # over connections of their own, so that both workers have some
            httpx.post(f"{server.url}/v1/models/vowels-gru/predict", json={"sequence": [[0.0] * 12]}).raise_for_status()
        stats = json.loads(elman("ps", "--json", cwd=tmp_path, url=server.url).stdout)
        assert list(stats["workers"]) == ["0", "1"]
        processes = [one["process"] for one in stats["workers"].values()]
        assert len(set(processes)) == 2 and stats["process"] in processes
        shown = elman("ps", cwd=tmp_path, url=server.url).stdout
        assert re.search(rf"^process +{processes[0]}, {processes[1]}$", shown, re.MULTILINE)
        assert re.search(rf"^1 +{processes[1]} +0 +0 +0$", shown, re.MULTILINE)
        assert re.search(r"^vowels-gru@1 +0 +20 +20 ", shown, re.MULTILINE)
        os.kill(processes[0], signal.SIGSTOP)
        try:
            until = time.monotonic() + 60
            while "gives no answer" not in (shown := elman("ps", "--timeout", 5, cwd=tmp_path, url=server.url).stdout):
                assert time.monotonic() < until, shown
        finally:
            os.kill(processes[0], signal.SIGCONT)
        assert re.search(r"^0 +gives no answer", shown, re.MULTILINE)
        assert "workers" not in server.client.get("/v1/engine").json()


def test_shells_complete_models_of_the_server_and_paths(tmp_path: Path, server: RunningServer) -> None:
    (tmp_path / "mine" / "tagger").mkdir(parents=True)
    (tmp_path / "mine" / "net.onnx").touch()
    (tmp_path / "mine" / "notes.txt").touch()
    start = "import sys; sys.argv = ['elman']; from elman.cli import main; main()"
    for words, url, wanted in (
        ("elman predict vowels-g", server.url, ["vowels-gru"]),
        ("elman show mine/", server.url, ["mine/net.onnx", "mine/tagger/"]),
        ("elman show vowels-g", "http://127.0.0.1:9", []),
    ):
        asked = {"_ELMAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
        done = subprocess.run(
            [sys.executable, "-c", start], cwd=tmp_path, env={**environment(url=url), **asked}, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.split() == wanted, done.stderr


# Terminals, pipes and full disks


def test_an_answer_on_a_terminal_is_for_people(tmp_path: Path, server: RunningServer) -> None:
    (tmp_path / "names.txt").write_text("Lindqvist\nRossi\nan\x1b[31mother\n")
    code, shown = elman_on_terminal("predict", "names-gru", "names.txt", cwd=tmp_path, url=server.url)
    lines = shown.splitlines()
    # How far the names are filled up depends on how many were read at once.
    assert code == 0 and [re.split("  +", line) for line in lines[:2]] == [
        ["Lindqvist", "Swedish 98 %"], ["Rossi", "Italian 80 %"],
    ]  # fmt: skip
    assert "\x1b" not in shown and lines[2].startswith("an�[31mother  ")
    (tmp_path / "in.jsonl").write_text('{"id": "a", "sequence": [1, 2]}\n[[1, 2]]\n')
    code, shown = elman_on_terminal(
        "predict", "sunspots-gru", "in.jsonl", "--return", "steps", "--on-error", "skip", cwd=tmp_path, url=server.url
    )
    assert re.fullmatch(r"a +step 1  [\d.]+\na +step 2  [\d.]+\nline 2  error: .+\n.*", shown, re.DOTALL), shown
    _, shown = elman_on_terminal(
        "predict", "names-gru", "names.txt", "--output-format", "jsonl", cwd=tmp_path, url=server.url
    )
    assert json.loads(shown.splitlines()[0])["decoded"]["label"] == "Swedish"


@pytest.mark.parametrize("columns", [40, 200])
def test_no_column_is_lost_on_a_narrow_terminal(tmp_path: Path, server: RunningServer, columns: int) -> None:
    code, shown = elman_on_terminal("models", cwd=tmp_path, columns=columns, url=server.url)
    plain = re.sub(r"\x1b\[1m|\x1b\[0m", "", shown)
    assert code == 0 and "\x1b" not in plain  # NO_COLOR is set
    assert max(map(len, plain.splitlines())) <= columns
    blocks = {
        True: "names-gru\n  task      classification\n  network   gru 1x128\n",
        False: "names-gru                  classification  gru 1x128  ",
    }
    assert blocks[columns == 40] in plain and plain.count("classification") > 5


def test_a_refusal_on_a_terminal_has_no_colour_where_that_is_asked(tmp_path: Path) -> None:
    assert elman_on_terminal("serve", cwd=tmp_path)[1].startswith("elman: give what to serve")


@pytest.mark.parametrize("arguments", [("--help",), ("models",)])
def test_a_full_disk_and_a_reader_that_has_enough_leave_no_traceback(
    tmp_path: Path, server: RunningServer, arguments: tuple[str, ...]
) -> None:
    command, given = [*COMMAND, *arguments], elman_environment(url=server.url)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=tmp_path, env=given, stdout=full, stderr=subprocess.PIPE, timeout=60)
    said = b"elman: standard output, or a file, cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)
    with subprocess.Popen(command, cwd=tmp_path, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert (process.wait(60), process.stderr and process.stderr.read()) == (1, b"")


@pytest.mark.parametrize("command", [("models", "."), ("check", "x.onnx"), ("bench", "x.onnx")])
def test_a_wrong_setting_is_told_by_every_command(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "x.onnx").touch()
    done = elman(*command, cwd=tmp_path, load_timeout="soon")
    assert done.returncode == 2 and done.stderr.startswith("elman: load_timeout: ") and "'soon'" in done.stderr
