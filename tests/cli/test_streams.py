"""Streams, addresses, keys and outputs as callers pass them: what is of no use is told in a line."""

import contextlib
import os
import shlex
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, elman, elman_environment, elman_on_terminal
from tests.running import RunningServer
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

CLOSED = {
    "models >&-": (1, "standard output, or a file, cannot be written: Bad file descriptor"),
    "predict names-gru names.txt >&-": (1, "standard output cannot be written: Bad file descriptor"),
    "predict names-gru - <&-": (2, "standard input cannot be read: Bad file descriptor"),
}


def shell(line: str, cwd: Path, server: RunningServer) -> "subprocess.CompletedProcess[str]":
    (cwd / "names.txt").write_text("Lindqvist\n")
    command, given = f"{shlex.join(COMMAND)} {line}", elman_environment(url=server.url)
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=given, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("line", CLOSED)
def test_a_stream_that_the_caller_closed_is_told(server: RunningServer, tmp_path: Path, line: str) -> None:
    code, words = CLOSED[line]
    done = shell(line, tmp_path, server)
    assert (done.returncode, done.stderr) == (code, f"elman: {words}\n")


def test_without_standard_error_the_work_is_done(server: RunningServer, tmp_path: Path) -> None:
    done = shell("predict names-gru names.txt 2>&-", tmp_path, server)
    assert done.returncode == 0 and "Swedish" in done.stdout


def test_a_terminal_without_unicode_shows_escapes(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (tmp_path / "names.txt").write_text("Šimek\n", "utf-8")
    code, shown = elman_on_terminal("predict", "names-gru", "names.txt", cwd=tmp_path, url=server.url)
    assert code == 0 and shown.startswith(r"\u0160imek  "), shown


def test_a_warning_without_colour_has_no_escapes(server: RunningServer, tmp_path: Path) -> None:
    code, shown = elman_on_terminal("predict", "names-gru", "none.txt", cwd=tmp_path, url=server.url)
    assert (code, shown) == (2, "elman: none.txt cannot be read: No such file or directory\n")


def test_a_model_file_does_not_replace_a_pipe(server: RunningServer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    done = elman("export", "a:b", "pipe.onnx", "--example-shape", "1,2", "--overwrite", cwd=tmp_path, url=server.url)
    assert done.returncode == 2 and "pipe.onnx is no regular file" in done.stderr
    assert stat.S_ISFIFO(pipe.stat().st_mode)


FORECAST = "forecast sunspots-gru series.jsonl --horizon 2"


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (f"{FORECAST} -o /dev/stdout | cat", "."),
        (f"{FORECAST} -o pipe.jsonl & cat pipe.jsonl; wait", "."),
        ("-o /dev/stdout | cat", "."),
        ("-o /dev/stdout --json 2>/dev/null | cat", "."),
        ("-o /dev/fd/3 3>&1 >/dev/null", "."),
        ("-o >(gzip >out.gz) && until gunzip -t out.gz; do sleep 0.1; done 2>/dev/null; gunzip -c out.gz", "."),
        ("-o pipe.jsonl & cat pipe.jsonl; wait", "."),
        ("-o link | cat", "."),
        ("-o /dev/stdout >> kept.jsonl; cat kept.jsonl", "before\n."),
        ("-o /dev/stdout --overwrite > kept.jsonl; cat kept.jsonl", "."),
        ("-o /dev/null; ls -A | wc -l", "4\n"),
    ],
)
def test_an_output_may_be_a_device_or_a_pipe(server: RunningServer, tmp_path: Path, line: str, read: str) -> None:
    """Nothing is replaced there, and what others wrote stays."""
    (tmp_path / "names.txt").write_text("Lindqvist\n")
    (tmp_path / "series.jsonl").write_text(f"{[float(one) for one in range(30)]}\n")
    (tmp_path / "kept.jsonl").write_text("before\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    if "link" in line:
        (tmp_path / "link").symlink_to("/dev/stdout")
    line = line if line.startswith("forecast") else f"predict names-gru names.txt {line}"
    command, given = f"{shlex.join(COMMAND)} {line}", elman_environment(url=server.url)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120)
    before, dot, _ = read.partition(".")
    result, end = done.stdout.removeprefix(before), "Swedish" if line.startswith("predict") else '"point"'
    assert done.returncode == 0 and done.stdout.startswith(before), done.stderr
    assert (result.count("\n"), end in result, result[:1]) == (1, True, "{") if dot else result == "", done.stdout
    assert stat.S_ISFIFO((tmp_path / "pipe.jsonl").stat().st_mode) and not list(tmp_path.glob("*.resume"))


def is_open(pid: int, file: Path) -> bool:
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it may be closed meanwhile
            if os.readlink(one) == str(file):
                return True
    return False


def test_what_a_pipe_cannot_do_is_told_and_waiting_for_its_reader_ends(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Lindqvist\n")
    for options, words in (
        (["/dev/null", "--resume"], "--resume continues a file"),
        (["/dev/null", "--output-format", "parquet"], "/dev/null: parquet cannot be written to a pipe; name a file"),
        (["/dev/full"], "/dev/full cannot be written: No space left on device"),
    ):
        done = elman("predict", "names-gru", "names.txt", "-o", *options, cwd=tmp_path, url=server.url)
        assert done.returncode in (1, 2) and words in done.stderr and done.stderr.count("\n") == 1
    os.mkfifo(tmp_path / "pipe.jsonl")
    command = [*COMMAND, "predict", "names-gru", "names.txt", "-o", "pipe.jsonl"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=elman_environment(url=server.url), stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: is_open(process.pid, tmp_path / "names.txt"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and process.stderr is not None
        assert process.stderr.read() == b"elman: interrupted\n"


def connected(pid: int) -> bool:
    """Whether a command has asked the server: the event loop itself has two sockets."""
    links = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(one))
    return sum(link.startswith("socket:") for link in links) > 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "names-gru", "pipe.txt"],
        ["predict", "names-gru", "pipe.csv.gz"],
        ["predict", "names-gru", "-"],
        ["forecast", "electricity-gru", "series.jsonl", "--horizon", "2", "--future", "pipe.csv"],
    ],
    ids=["pipe", "packed", "standard input", "future"],
)
def test_waiting_for_what_is_to_be_read_ends_with_a_signal(
    server: RunningServer, tmp_path: Path, arguments: list[str]
) -> None:
    for name in ("pipe.txt", "pipe.csv", "pipe.csv.gz"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "series.jsonl").write_text(f'{{"sequence": {[[1, 2, 3, 4, 5]] * 3}}}\n')
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, env=elman_environment(url=server.url), stdin=pipe, stderr=pipe
    ) as process:
        wait_until(lambda: connected(process.pid))
        time.sleep(0.5)  # until it waits; a signal that comes before ends it just so
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and process.stderr is not None
        assert process.stderr.read() == b"elman: interrupted\n"


def test_a_folder_in_place_of_a_file_is_told(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "names.txt").write_text("Lindqvist\n")
    for files in (["folder"], ["names.txt", "-o", "folder"]):
        done = elman("predict", "names-gru", *files, cwd=tmp_path, url=server.url)
        assert (done.returncode, done.stderr) == (2, "elman: folder: it is a folder; give a file\n")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["predict", "", "names.txt"], "model"),
        (["predict", "names-gru", ""], "file"),
        (["show", "@1"], "model"),
    ],
    ids=["model", "file", "name"],
)
def test_an_argument_with_nothing_in_it_is_told_as_that(tmp_path: Path, arguments: list[str], name: str) -> None:
    """As of a variable of a shell that is not set."""
    done = elman(*arguments, cwd=tmp_path, url="http://127.0.0.1:9")
    assert done.returncode == 2 and f"Invalid value for '{name}': it is empty" in done.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "write http://localhost:8000"),
        ("http://localhost:99999", "Port out of range"),
        ("http://localhost:port", "Port could not be"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://localhost/?a=1", "no ? and no #"),
        ("ftp://localhost", "not the address of a server"),
        ("http://", "not the address of a server"),
    ],
)
def test_what_is_no_address_is_told(tmp_path: Path, url: str, words: str) -> None:
    done = elman("ps", cwd=tmp_path, url=url)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_key_that_no_header_holds_is_told_and_no_password_is_shown(tmp_path: Path) -> None:
    for key in ("geheim\u00e9", "a\nb"):
        done = elman("ps", cwd=tmp_path, api_key=key)
        assert done.returncode == 2 and "the API key has characters" in done.stderr and key not in done.stderr
    for command in (["ps"], ["predict", "names-gru", "-"], ["generate", "names-gru-generator"]):
        done = elman(*command, cwd=tmp_path, url="http://me:secret@127.0.0.1:1")
        assert done.returncode == 3 and "http://127.0.0.1:1" in done.stderr and "secret" not in done.stderr


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    done = elman("models", ".", cwd=tmp_path)
    assert done.stderr == "elman: . has no <name>/<version>/model.onnx\n"
