"""`elman predict` on real files, with a real server and without one."""

import asyncio
import gc
import http.server
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from elman.cli.jobs.targets import connect
from models.tasks import names, vowels
from tests.cli.command import COMMAND, elman, elman_environment
from tests.running import STORE, RunningServer

pytestmark = pytest.mark.slow

NAMES = STORE / "names-gru"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Real names, held out."""
    data = json.loads((Path(names.__file__).parent.parent / "data" / "names.json").read_text())
    return [name for of_one in data.values() for name in of_one[::7]]


@pytest.fixture(scope="module")
def spoken() -> list[Any]:
    return list(vowels.load().test.sequences[:40])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_in_this_process_is_served_for_as_long_as_it_is_asked() -> None:
    """What collects garbage ends a lifespan that nobody holds, and with it the workers that encode large answers."""

    async def answered() -> int:
        async with connect(f"{NAMES}/1", "") as target:
            gc.collect()
            await asyncio.sleep(0)
            body = {"sequences": ["Elman" * 40] * 64, "return": "steps"}
            answer = await target.client.post(f"{target.version_path}/predict", json=body)
            return len(answer.raise_for_status().json()["results"])

    assert asyncio.run(asyncio.wait_for(answered(), 300)) == 64


def test_a_server_and_this_process_give_the_same_bytes(tmp_path: Path, server: RunningServer, texts: list[str]) -> None:
    (tmp_path / "in.txt").write_text("\n".join(texts[:300]) + "\n")
    asked = ("predict", "in.txt", "--batch", "7", "--concurrency", "5", "--return", "steps")
    there = elman(
        "predict", "names-gru@1", *asked[1:], "--url", server.url, "-o", "there.jsonl", "--json", cwd=tmp_path
    )
    here = elman("predict", NAMES, *asked[1:], cwd=tmp_path)
    assert (there.returncode, here.returncode, here.stderr) == (0, 0, "")
    summary = json.loads(there.stdout)
    assert (summary["sequences"], summary["failed"], summary["version"]) == (300, 0, 1)
    assert (tmp_path / "there.jsonl").read_text() == here.stdout
    whole = server.predict("names-gru", sequences=texts[:300], **{"return": "steps"}).json()["results"]
    assert lines(tmp_path / "there.jsonl") == whole


def test_answers_stand_in_order_with_their_ids(tmp_path: Path, server: RunningServer, spoken: list[Any]) -> None:
    with (tmp_path / "in.csv").open("w") as file:
        file.write("id," + ",".join(f"cepstrum {i}" for i in range(1, 13)) + "\n")
        for index, sequence in enumerate(spoken):
            file.writelines(f"s{index}," + ",".join(map(repr, row)) + "\n" for row in sequence.tolist())
    for output in ("out.parquet", "out.jsonl"):
        done = elman("predict", "vowels-gru", "in.csv", "-o", output, "--url", server.url, "--batch", "9", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "" and "40 sequences" in done.stderr
    results = server.predict("vowels-gru", sequences=[one.tolist() for one in spoken]).json()["results"]
    assert lines(tmp_path / "out.jsonl") == [{"id": f"s{i}", **result} for i, result in enumerate(results)]
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["id"] == [f"s{i}" for i in range(40)]
    assert table["label"] == [result["decoded"]["label"] for result in results]
    assert np.array_equal(np.array(table["output"], np.float32), np.array([r["output"] for r in results], np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.jsonl", "out.parquet"]
    for output in ("out.parquet", "out.jsonl"):
        whole = (tmp_path / output).read_bytes()
        again = elman("predict", "vowels-gru", "in.csv", "-o", output, "--resume", "--url", server.url, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert (tmp_path / output).read_bytes() == whole


@pytest.mark.parametrize(
    ("output", "number"), [("out.jsonl", signal.SIGINT), ("out.csv", signal.SIGKILL), ("out.npy", signal.SIGTERM)]
)
def test_an_interruption_changes_no_byte(
    tmp_path: Path, server: RunningServer, texts: list[str], output: str, number: int
) -> None:
    many = texts[:600]
    (tmp_path / "in.txt").write_text("\n".join(many) + "\n")
    asked = ["predict", str(NAMES), "in.txt", "--batch", "4", "-o", output]
    process = subprocess.Popen([*COMMAND, *asked], cwd=tmp_path, env=elman_environment(), stderr=subprocess.PIPE)
    wait_until(lambda: (tmp_path / output).exists() and (tmp_path / output).stat().st_size > 5_000, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number), said
    assert number == signal.SIGKILL or (b"--resume continues" in said and b"Traceback" not in said)
    half = (tmp_path / output).stat().st_size
    if number == signal.SIGINT:
        refused = elman("predict", "names-gru", *asked[2:], "--url", server.url, cwd=tmp_path)
        assert refused.returncode == 2 and "--resume" in refused.stderr
        more = ("--resume", "--top", "1", "--url", server.url)
        other = elman("predict", "names-gru", *asked[2:], *more, cwd=tmp_path)
        assert other.returncode == 2 and "was started with" in other.stderr
    resumed = elman(*asked, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0 and "from before" in resumed.stderr, resumed.stderr
    # What was there is kept, and a server gives the whole of it in the same bytes.
    whole = elman("predict", "names-gru", "in.txt", "-o", "whole" + output, "--url", server.url, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    content = (tmp_path / output).read_bytes()
    assert content == (tmp_path / f"whole{output}").read_bytes()
    assert half < len(content)
    assert not list(tmp_path.glob("*.resume"))


def wait_until(reached: Any, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 40
    while not reached():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.005)


def test_what_is_wrong_is_passed_over_or_ends_it(tmp_path: Path, server: RunningServer) -> None:
    given = ['"Novak"', "nonsense", "[1, 2]", "[1, 2000]", '{"id": 7, "sequence": ""}', '"Smith"']
    (tmp_path / "in.jsonl").write_text("\n".join(given))
    asked = ("predict", "names-gru", "in.jsonl", "--url", server.url)
    stopped = elman(*asked, "-o", "stopped.jsonl", cwd=tmp_path)
    assert stopped.returncode == 1
    assert "in.jsonl, line 2: it is not JSON" in stopped.stderr and "--on-error skip" in stopped.stderr
    assert len(lines(tmp_path / "stopped.jsonl")) == 1
    passed = elman(*asked, "--on-error", "skip", "-o", "passed.jsonl", "--json", cwd=tmp_path)
    assert passed.returncode == 0
    assert json.loads(passed.stdout)["failed"] == 3
    found = lines(tmp_path / "passed.jsonl")
    assert ["error" in one for one in found] == [False, True, False, True, True, False]
    assert "sequence[1]: token 2000" in found[3]["error"] and found[3]["place"] == "line 4"
    assert found[4]["id"] == 7
    # Once the file is mended, what was stopped goes on.
    (tmp_path / "in.jsonl").write_text("\n".join([given[0], given[2], given[5]]))
    assert elman(*asked, "-o", "stopped.jsonl", "--resume", "-q", cwd=tmp_path).returncode == 0
    assert len(lines(tmp_path / "stopped.jsonl")) == 3


def test_a_pipe_is_answered_as_it_comes(tmp_path: Path, server: RunningServer) -> None:
    process = subprocess.Popen(
        [*COMMAND, "predict", "names-gru", "--url", server.url, "--top", "1"],
        cwd=tmp_path, env=elman_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for name in ("Novák", "Smith", "Rossi"):
        process.stdin.write(name.encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["decoded"] == server.predict("names-gru", sequence=name, top=1).json()["results"][0]["decoded"]
    process.stdin.close()
    process.stdout.close()
    assert process.wait(20) == 0


def test_whoever_reads_no_more_is_no_failure_to_tell_of(tmp_path: Path, server: RunningServer) -> None:
    (tmp_path / "in.txt").write_text("Smith\n" * 5000)
    command = " ".join([*COMMAND, "predict", "names-gru", "in.txt", "--url", server.url, "| head -n 2"])
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=elman_environment(), capture_output=True, timeout=60)
    assert len(done.stdout.splitlines()) == 2 and done.stderr == b""


def test_memory_does_not_grow_with_the_file(tmp_path: Path, server: RunningServer) -> None:
    peaks = []
    for count in (4_000, 16_000):
        (tmp_path / "in.txt").write_text("Smith\n" * count)
        asked = ["predict", "names-gru", "in.txt", "--no-decode", "-o", f"{count}.jsonl", "--url", server.url]
        process = subprocess.Popen([*COMMAND, *asked], cwd=tmp_path, env=elman_environment(), stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert (tmp_path / f"{count}.jsonl").read_bytes().count(b"\n") == count
        peaks.append(usage.ru_maxrss / 1024)
    # Their answers are 3 MB more.
    assert peaks[1] - peaks[0] < 2.0, peaks


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("names-gru", "absent.csv"), 2, "absent.csv cannot be read"),
        (("names-gru", "in.xyz"), 2, "suffix"),
        (("names-gru", "in.txt", "-o", "there.jsonl"), 2, "there.jsonl exists; --resume"),
        (("names-gru", "in.txt", "--resume"), 2, "name it with --output"),
        (("names-gru", "in.txt", "-o", "out.npz"), 2, "--return steps"),
        (("names-gru", "in.txt", "-o", "none/out.csv"), 1, "none/out.csv"),
        (("nobody", "in.txt"), 1, "nobody"),
        (("names-gru@9", "in.txt"), 1, "version"),
        (("./nowhere", "in.txt"), 2, "there is no model.onnx"),
        (("./in.txt", "in.txt"), 1, "not an ONNX file"),
        (("vowels-gru", "in.txt"), 2, "does not read text"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    tmp_path: Path, server: RunningServer, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "in.txt").write_text("Smith\n")
    (tmp_path / "in.xyz").write_text("Smith\n")
    (tmp_path / "there.jsonl").write_text("precious\n")
    before = sorted(tmp_path.rglob("*"))
    done = elman("predict", *arguments, "--url", server.url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1", "ftp://localhost", "http://"])
def test_an_address_that_is_none_is_told(tmp_path: Path, url: str) -> None:
    done = elman("predict", "names-gru", "--url", url, cwd=tmp_path, given="x\n")
    assert done.returncode == 2 and f"{url!r} is not the address of a server" in done.stderr
    assert ("write http://" in done.stderr) is ("://" not in url)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_pipe_with_a_mark_at_its_start_is_read(tmp_path: Path, server: RunningServer, encoding: str) -> None:
    (tmp_path / "pipe").write_text('{"sequence": "Rossi"}', encoding=encoding)
    with (tmp_path / "pipe").open() as pipe:
        done = subprocess.run(
            [*COMMAND, "predict", "names-gru", "-", "--url", server.url],
            stdin=pipe,
            env=elman_environment(),
            capture_output=True,
            timeout=60,
        )
    assert json.loads(done.stdout)["decoded"]["label"] == "Italian", done.stderr


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "standard output cannot be written: No space left on device"),
        ("-o out.jsonl", "out.jsonl cannot be written: File too large"),  # one block is the limit of each file
    ],
)
def test_a_full_disk_is_told_of_the_output(tmp_path: Path, server: RunningServer, output: str, words: str) -> None:
    (tmp_path / "in.txt").write_text("Rossi\n" * 50)
    command = f"ulimit -f 1; {shlex.join(COMMAND)} predict names-gru in.txt {output}"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            ["sh", "-c", command],
            env=elman_environment(url=server.url), stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"elman: {words}")


def test_no_server_is_told_and_exits_with_3(tmp_path: Path) -> None:
    done = elman("predict", "names-gru", cwd=tmp_path, given="x\n", url="http://127.0.0.1:9")
    assert done.returncode == 3 and "elman serve" in done.stderr


def test_a_model_file_that_is_refused_says_why(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((NAMES / "1" / "model.onnx").read_bytes()[:1000])
    done = elman("predict", "./model.onnx", cwd=tmp_path, given="x\n")
    assert done.returncode == 1 and "cut short" in done.stderr


def test_a_model_file_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "best of all.onnx").write_bytes((NAMES / "1" / "model.onnx").read_bytes())
    done = elman("predict", "best of all.onnx", cwd=tmp_path, given="Novak\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["length"] == 5


class Flaky(http.server.BaseHTTPRequestHandler):
    """Passes on to a server, but for some requests, which it refuses, loses or answers with an error."""

    protocol_version = "HTTP/1.1"
    behind = ""
    faults: list[str]

    def do_GET(self) -> None:
        self._pass_on(httpx.get(self.behind + self.path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "lose":
            self.close_connection = True
        elif fault:
            self.send_response(int(fault))
            self.send_header("retry-after", "0")
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            self._pass_on(httpx.post(self.behind + self.path, content=body))

    def _pass_on(self, answer: httpx.Response) -> None:
        self.send_response(answer.status_code)
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def flaky(behind: str, faults: list[str]) -> Iterator[str]:
    handler = type("Handler", (Flaky,), {"behind": behind, "faults": faults})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join(60)


def test_a_busy_or_broken_connection_is_tried_again(tmp_path: Path, server: RunningServer) -> None:
    given = "".join(f"{'abcdefghij'[i % 10]}x\n" for i in range(60))
    with flaky(server.url, ["503", "lose", "", "429", "503", "lose"]) as url:
        done = elman("predict", "names-gru", "--batch", "10", "--url", url, cwd=tmp_path, given=given)
    straight = elman("predict", "names-gru", "--batch", "10", "--url", server.url, cwd=tmp_path, given=given)
    assert done.returncode == 0, done.stderr
    assert done.stdout == straight.stdout and len(done.stdout.splitlines()) == 60


def test_a_key_opens_a_server_that_wants_one(tmp_path: Path, start_server: Any) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "names-gru").symlink_to(NAMES)
    one = start_server(tmp_path / "models", api_keys="secret-one,secret-two")
    without = elman("predict", "names-gru", "--url", one.url, cwd=tmp_path, given="x\n")
    assert without.returncode == 1 and "key" in without.stderr
    with_key = elman("predict", "names-gru", "--url", one.url, cwd=tmp_path, given="x\n", api_key="secret-two")
    assert with_key.returncode == 0, with_key.stderr
