"""`elman bench`, `elman train` and `elman export`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from elman.exporter import script as exporting
from tests.cli.command import elman, elman_here
from tests.running import STORE, environment

pytestmark = pytest.mark.torch

NET = """
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.head(y)


def build():
    torch.manual_seed(0)
    return Tagger()


class Moody(nn.Module):
    def forward(self, x):
        raise RuntimeError("it is in no mood")


word = "no module"
"""


def test_bench_measures_kernel_engine_and_server(tmp_path: Path) -> None:
    asked = ("bench", STORE / "vowels-gru", "--seconds", "0.2", "--connections", "1,3", "--json")
    done = elman(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert [line["what"] for line in measured["lines"]] == ["kernel", "engine", "HTTP, 1 at once", "HTTP, 3 at once"]
    for line in measured["lines"]:
        assert line["steps_per_second"] > 0 and line["failed"] == 0
    for line in measured["lines"][2:]:
        assert 0 < line["p50_seconds"] <= line["p99_seconds"]
        assert line["steps_per_second"] == pytest.approx(22 * line["sequences_per_second"], rel=0.5)
    assert list(tmp_path.iterdir()) == []


def test_bench_says_why_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    done = elman_here("bench", ".", cwd=tmp_path)
    assert done.returncode == 1 and "refused" in done.stderr and "Traceback" not in done.stderr
    assert elman_here("bench", "nowhere", cwd=tmp_path).returncode == 2
    assert elman_here("bench", STORE / "vowels-gru", "--connections", "many", cwd=tmp_path).returncode == 2


def test_a_module_of_ones_own_is_exported_and_answers(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    asked = ("export", "net.py:build", "mine/tagger", "--example-shape", "1,10,3", "--labels", "up,down")
    done = elman(*asked, "--task", "tagging", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "mine/tagger/1/model.onnx"
    answer = elman("predict", "mine/tagger", cwd=tmp_path, given="[[1,2,3],[4,5,6]]\n")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    code = "import net, torch; print(net.build()(torch.tensor([[[1.,2,3],[4,5,6]]]))[0,-1].tolist())"
    torch = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found["output"] == pytest.approx(json.loads(torch.stdout), abs=1e-5)
    assert found["decoded"]["label"] in ("up", "down")


@pytest.mark.parametrize(
    ("source", "options", "code", "words"),
    [
        ("net.py:Moody", (), 1, "it is in no mood"),
        ("net.py:word", (), 2, "not a torch.nn.Module"),
        ("net.py:absent", (), 2, "has no absent"),
        ("nowhere.py:build", (), 2, "nowhere.py"),
        ("net.py", (), 2, "MODULE:ATTR"),
        ("net.py:build", ("--labels", "a,b,c"), 1, "labels"),
        ("net.py:build", ("--weights", "absent.pt"), 2, "absent.pt"),
        ("net.py:build", ("--mean", "a"), 2, "--mean"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(NET)
    with pytest.raises(SystemExit) as stopped:
        exporting.main([source, "out.onnx", "--example-shape", "1,4,3", *options])
    said = capsys.readouterr()
    assert (stopped.value.code, said.out) == (code, "")
    assert words in said.err and len(said.err.splitlines()) == 1
    assert not (tmp_path / "out.onnx").exists()


def test_export_replaces_no_file_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "out.onnx").write_text("precious")
    asked = ["net.py:build", "out.onnx", "--example-shape", "1,4,3"]
    with pytest.raises(SystemExit):
        exporting.main(asked)
    assert (tmp_path / "out.onnx").read_text() == "precious"
    exporting.main([*asked, "--overwrite"])
    assert (tmp_path / "out.onnx").stat().st_size > 1000


def test_train_hands_on_what_it_is_given(tmp_path: Path) -> None:
    done = elman("train", "vowels", "--cell", "nothing", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 2 and "invalid choice: 'nothing'" in done.stderr


@pytest.mark.parametrize("command", ["train names", "export net.py:build out.onnx --example-shape 1,4,3"])
def test_without_torch_they_say_what_to_install(tmp_path: Path, command: str) -> None:
    statement = (
        "import importlib.util, sys; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
        f"from elman.cli import main; sys.argv = ['elman', *{command.split()}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", statement], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 3 and b"pip install 'elman[train]'" in done.stderr


def test_shells_complete_commands_and_options(tmp_path: Path) -> None:
    start = "import sys; sys.argv = ['elman']; from elman.cli import main; main()"
    for words, index, wanted in (("elman pre", "1", "predict"), ("elman predict --conc", "2", "--concurrency")):
        asked = {"_ELMAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": index}
        done = subprocess.run(
            [sys.executable, "-c", start], cwd=tmp_path, env={**environment(), **asked}, capture_output=True, text=True
        )
        assert done.stdout.split() == [wanted], done.stderr
