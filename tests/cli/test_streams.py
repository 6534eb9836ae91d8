"""Streams, addresses, keys and outputs as callers pass them: what is of no use is told in a line."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, elman, elman_environment, elman_on_terminal
from tests.running import RunningServer

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


@pytest.mark.parametrize("command", ["predict names-gru names.txt --output-format jsonl", "export a:b"])
def test_an_output_that_is_no_regular_file_stays(server: RunningServer, tmp_path: Path, command: str) -> None:
    """A device would have been removed, or replaced by a file."""
    (tmp_path / "names.txt").write_text("Lindqvist\n")
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    place = ["pipe.onnx", "--example-shape", "1,2"] if command.startswith("export") else ["-o", "pipe.onnx"]
    done = elman(*command.split(), *place, "--overwrite", cwd=tmp_path, url=server.url)
    assert done.returncode == 2 and "pipe.onnx is no regular file" in done.stderr
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_in_place_of_a_file_is_told(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "names.txt").write_text("Lindqvist\n")
    for files in (["folder"], ["names.txt", "-o", "folder"]):
        done = elman("predict", "names-gru", *files, cwd=tmp_path, url=server.url)
        assert (done.returncode, done.stderr) == (2, "elman: folder: it is a folder; give a file\n")


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
