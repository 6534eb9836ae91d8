"""The command `elman`: its help, its examples, and what it says of models."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elman import __version__
from elman.cli import app
from tests.cli.command import elman, elman_process
from tests.running import ROOT, STORE, environment

COMMANDS = (
    "serve", "demo", "models", "show", "check", "predict", "forecast", "generate", "sessions", "ps", "bench", "export",
    "keys",
)  # fmt: skip


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = elman_process("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^\W+([a-z]+) {2,}\w", done.stdout.split("Commands:")[1], re.MULTILINE)
    assert tuple(listed) == COMMANDS


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert elman("--version", cwd=tmp_path).stdout == f"elman {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    done = elman(command, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: elman {command} [OPTIONS]" in done.stdout


def examples() -> list[str]:
    """The lines of every command's help, and of the room's page, that are commands."""
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
    assert "Commands:" in done.stdout + done.stderr


def test_shells_complete_commands_and_options(tmp_path: Path) -> None:
    start = "import sys; sys.argv = ['elman']; from elman.cli import main; main()"
    for words, index, wanted in (("elman pre", "1", "predict"), ("elman predict --conc", "2", "--concurrency")):
        asked = {"_ELMAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": index}
        done = subprocess.run(
            [sys.executable, "-c", start], cwd=tmp_path, env={**environment(), **asked}, capture_output=True, text=True
        )
        assert done.stdout.split() == [wanted], done.stderr


# What is said of models


@pytest.mark.slow
def test_check_tells_how_a_file_would_be_served(tmp_path: Path) -> None:
    shown = elman("check", STORE / "vowels-lstm-bidirectional", cwd=tmp_path)
    assert shown.returncode == 0
    assert "looks ahead" in shown.stdout and "12 features" in shown.stdout
    described = json.loads(elman("check", "--json", STORE / "vowels-gru" / "1", cwd=tmp_path).stdout)
    assert (described["name"], described["version"], described["cell"]) == ("vowels-gru", 1, "gru")
    assert described["streaming"] and described["proof"]["exact"] and described["spec"]["task"] == "classification"


def test_check_tells_why_a_file_is_refused_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((STORE / "vowels-gru" / "1" / "model.onnx").read_bytes()[:1000])
    shown = elman("check", "model.onnx", cwd=tmp_path)
    assert shown.returncode == 1 and "refused" in shown.stdout
    assert "cut short" in shown.stdout and "Copy or export" in shown.stdout
    refused = elman("check", "--json", "model.onnx", cwd=tmp_path)
    assert refused.returncode == 1 and "cut short" in json.loads(refused.stdout)["reason"]
    absent = elman("check", "absent", cwd=tmp_path)
    assert absent.returncode == 2 and "there is no model.onnx at absent" in absent.stderr and absent.stdout == ""


@pytest.mark.slow
def test_check_of_a_folder_sums_up_its_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    whole = (STORE / "vowels-gru" / "1" / "model.onnx").read_bytes()
    for name, content in (("good", whole), ("a/cut", whole[:1000]), ("a/b/empty", b"")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
    shown = elman("check", ".", cwd=tmp_path)
    assert shown.returncode == 1
    assert "served  good.onnx: gru 1x" in shown.stdout and "12 features, sessions" in shown.stdout
    assert "refused a/cut.onnx: cut.onnx is not an ONNX file, or is cut short" in shown.stdout
    assert "1 served, 2 refused" in shown.stdout
    described = json.loads(elman("check", "--json", ".", cwd=tmp_path).stdout)
    assert [one["file"] for one in described["served"]] == ["good.onnx"]
    assert [one["file"] for one in described["refused"]] == ["a/b/empty.onnx", "a/cut.onnx"]
    (tmp_path / "a" / "cut.onnx").unlink()
    (tmp_path / "a" / "b" / "empty.onnx").unlink()
    assert elman("check", tmp_path, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_models_lists_a_repository(tmp_path: Path) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / "model.onnx").write_bytes(b"nothing")
    for name in ("vowels-rnn", "names-lstm"):
        (tmp_path / name).symlink_to(STORE / name)
    shown = elman("models", ".", cwd=tmp_path)
    assert shown.returncode == 1 and "refused mine version 1: " in shown.stdout and "not an ONNX file" in shown.stdout
    assert "lstm 1x" in shown.stdout and "12 features" in shown.stdout
    listed = json.loads(elman("models", "--json", cwd=tmp_path, models=tmp_path).stdout)
    assert {one["name"] for one in listed["models"]} == {"vowels-rnn", "names-lstm"}
    assert [one["name"] for one in listed["refused"]] == ["mine"]
    assert elman("models", "nowhere", cwd=tmp_path).returncode == 2
    bare = elman("models", cwd=tmp_path, url="http://127.0.0.1:9")
    assert bare.returncode == 3 and "elman models my-models" in bare.stderr
