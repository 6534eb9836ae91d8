"""The command `elman`."""

import json
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elman.cli import app
from tests.cli.command import elman
from tests.running import ROOT, STORE

COMMANDS = ("serve", "check", "models", "predict", "forecast", "generate", "bench", "train", "export")


def check_says(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """A failure is told in a line, and not in a traceback."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = elman("--help", cwd=tmp_path)
    assert done.returncode == 0
    listed = set(re.findall(r"^\W+([a-z]+) {2,}", done.stdout, re.MULTILINE))
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    done = elman(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Usage: elman {command}" in done.stdout or f"{command} [OPTIONS]" in done.stdout
    assert done.stderr == ""


def examples() -> list[str]:
    """The lines of every command's help, and of its page, that are commands."""
    runner = CliRunner()
    texts = [runner.invoke(app, [*command, "--help"]).stdout for command in ([], *([one] for one in COMMANDS))]
    texts.append((ROOT / "service" / "elman" / "cli" / "README.md").read_text())
    return [line.strip() for text in texts for line in text.splitlines() if re.match(r" +(echo .* )?elman ", line)]


def test_there_are_examples() -> None:
    assert {line.split("elman ")[1].split()[0] for line in examples()} >= set(COMMANDS)


@pytest.mark.parametrize("line", examples())
def test_an_example_in_the_help_is_a_command_that_there_is(line: str) -> None:
    words = shlex.split(re.split(r" {3,}| > ", line.split("elman ", 1)[1])[0])
    # Options that do not exist are met before the help is shown.
    done = CliRunner().invoke(app, [words[0], "--help", *words[1:]])
    assert done.exit_code == 0, done.output


def test_no_arguments_show_the_help(tmp_path: Path) -> None:
    done = elman(cwd=tmp_path)
    assert "serve" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_serving_a_missing_folder_says_so_and_exits_with_2(tmp_path: Path) -> None:
    check_says(elman("serve", "nowhere", "--port", "0", cwd=tmp_path), 2, "nowhere", "not a folder")


def test_serving_a_file_says_so_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_says(elman("serve", "file", cwd=tmp_path), 2, "'file'", "not a folder")


def test_the_default_folder_is_relative_to_where_one_stands(tmp_path: Path) -> None:
    check_says(elman("serve", cwd=tmp_path), 2, "models/store", "not a folder")


def test_the_folder_may_come_from_the_environment(tmp_path: Path) -> None:
    check_says(elman("serve", cwd=tmp_path, models="elsewhere"), 2, "elsewhere")


@pytest.mark.parametrize(
    "flags", [("--max-batch", "-1"), ("--max-body", "0"), ("--max-queue", "many"), ("--prot", "1")]
)
def test_a_wrong_option_is_named_without_a_traceback(tmp_path: Path, flags: tuple[str, str]) -> None:
    check_says(elman("serve", str(STORE), *flags, cwd=tmp_path), 2, flags[0].split("-")[-1])


def test_a_wrong_setting_in_the_environment_is_named_without_a_traceback(tmp_path: Path) -> None:
    check_says(elman("serve", str(STORE), cwd=tmp_path, max_batch="many"), 2, "max_batch")


def test_a_port_that_is_taken_is_a_failure_without_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = elman("serve", str(tmp_path), "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert done.returncode > 0
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_describes_a_model_that_can_be_served(tmp_path: Path) -> None:
    done = elman("check", str(STORE / "vowels-lstm"), "--json", cwd=tmp_path)
    assert done.returncode == 0
    described = json.loads(done.stdout)
    assert (described["cell"], described["proof"]["exact"], described["streaming"]) == ("lstm", True, True)


def test_check_says_why_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    done = elman("check", "model.onnx", cwd=tmp_path)
    assert done.returncode == 1
    assert "refused" in done.stdout and "not an ONNX file" in done.stdout
    assert "Traceback" not in done.stderr
    assert elman("check", "nowhere", cwd=tmp_path).returncode == 2


def test_models_lists_the_repository(tmp_path: Path) -> None:
    done = elman("models", str(STORE), "--json", cwd=tmp_path)
    assert done.returncode == 0
    listed = json.loads(done.stdout)
    assert {one["name"] for one in listed["models"]} == {folder.name for folder in STORE.iterdir()}
    assert listed["refused"] == []
    assert elman("models", "nowhere", cwd=tmp_path).returncode == 2


def test_check_tells_how_a_file_would_be_served(tmp_path: Path) -> None:
    shown = elman("check", str(STORE / "vowels-lstm-bidirectional"), cwd=tmp_path)
    assert shown.returncode == 0
    assert "looks ahead" in shown.stdout and "12 features" in shown.stdout
    told = json.loads(elman("check", "--json", str(STORE / "vowels-gru" / "1"), cwd=tmp_path).stdout)
    assert told["streaming"] and told["proof"]["exact"] and told["spec"]["task"] == "classification"


def test_check_tells_why_a_file_is_refused_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((STORE / "vowels-gru" / "1" / "model.onnx").read_bytes()[:1000])
    shown = elman("check", "model.onnx", cwd=tmp_path)
    assert shown.returncode == 1 and "cut short" in shown.stdout and "Copy or export" in shown.stdout
    told = elman("check", "--json", "model.onnx", cwd=tmp_path)
    assert told.returncode == 1 and "cut short" in json.loads(told.stdout)["reason"]
    check_says(elman("check", "absent", cwd=tmp_path), 2, "there is no model.onnx")


def test_models_lists_a_repository(tmp_path: Path) -> None:
    shown = elman("models", str(STORE), cwd=tmp_path)
    assert shown.returncode == 0 and "names-lstm" in shown.stdout and "vowels-rnn" in shown.stdout
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / "model.onnx").write_bytes(b"nothing")
    told = elman("models", "--json", str(tmp_path), cwd=tmp_path)
    assert told.returncode == 1
    assert [one["name"] for one in json.loads(told.stdout)["refused"]] == ["mine"]
