"""`elman export`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.cli.command import elman

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


class Load(nn.Module):
    def __init__(self):
        super().__init__()
        self.station = nn.Embedding(12, 4)
        self.rnn, self.head = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x, lengths, profile, station):
        still = profile + self.station(station)[:, 1:]
        y, _ = self.rnn(torch.cat([x, still[:, None].expand(-1, x.shape[1], -1)], -1))
        return self.head(y[torch.arange(x.shape[0]), lengths - 1])


class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters, self.rnn, self.head = nn.Embedding(4, 5), nn.GRU(5, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(self.letters(x))[0])


class Strokes(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Moody(nn.Module):
    def forward(self, x):
        raise RuntimeError("it is in no mood")


word = "no module"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with net.py. What it adds to this process is taken back."""
    (tmp_path / "net.py").write_text(NET)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("net", None)


def test_a_module_of_ones_own_is_exported_and_answers(folder: Path) -> None:
    asked = ("export", "net.py:build", "mine/tagger", "--example-shape", "1,10,3", "--labels", "up,down")
    done = elman(*asked, "--task", "tagging", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "mine/tagger/1/model.onnx"
    answer = elman("predict", "mine/tagger", cwd=folder, given="[[1,2,3],[4,5,6]]\n")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    net = ModuleType("net")
    exec(NET, net.__dict__)
    with torch.no_grad():
        scores = net.build()(torch.tensor([[[1.0, 2, 3], [4, 5, 6]]]))[0, -1].tolist()
    assert found["output"] == pytest.approx(scores, abs=1e-5)
    assert found["decoded"]["label"] in ("up", "down")


def test_further_arguments_are_given_by_name(folder: Path) -> None:
    asked = ("export", "net.py:Load", "load.onnx", "--example-shape", "2,9,2", "--input", "station=2:12")
    more = ("--input", "lengths=2:lengths", "--input", "profile=2,3", "--role", "profile=static")
    done = elman(*asked, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    checked = json.loads(elman("check", "load.onnx", "--json", cwd=folder).stdout)
    roles = {one["name"]: one["role"] for one in checked["inputs"]}
    assert roles == {"input": "sequence", "lengths": "lengths", "profile": "static", "station": "static"}


@pytest.mark.parametrize(("option", "exact"), [("--quantise", True), ("--quantise-dynamic", False)])
def test_either_form_of_8_bits_is_written(folder: Path, option: str, exact: bool) -> None:
    done = elman("export", "net.py:Strokes", "out.onnx", "--example-shape", "1,10,3", option, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "answers near to the module's" in done.stdout
    proof = json.loads(elman("check", "out.onnx", "--json", cwd=folder).stdout)["proof"]
    assert proof["exact"] is exact, proof


@pytest.mark.parametrize(("form", "ids"), [("NFC", [3]), ("none", [2, 1])])
def test_the_form_of_texts_is_said(folder: Path, form: str, ids: list[int]) -> None:
    """`e` and an accent are the last token in NFC, and two tokens as they stand."""
    asked = ("export", "net.py:Letters", "letters.onnx", "--example-shape", "1,8", "--tokens", 4)
    done = elman(*asked, "--vocabulary", "a\u0301e\u00e9", "--normalisation", form, cwd=folder)
    assert done.returncode == 0, done.stderr
    text, read = (elman("predict", "letters.onnx", cwd=folder, given=given) for given in ('"e\u0301"\n', f"{ids}\n"))
    assert text.returncode == read.returncode == 0, text.stderr + read.stderr
    assert json.loads(text.stdout)["output"] == json.loads(read.stdout)["output"]


def test_the_import_path_is_given_back_last(folder: Path) -> None:
    before = list(sys.path)
    elman("export", "net.py:absent", "out.onnx", "--example-shape", "1,4,3", cwd=folder)
    assert sys.path == [*before, str(folder), str(folder)]


@pytest.mark.parametrize(
    ("source", "options", "code", "words"),
    [
        ("net.py:Moody", (), 1, "it is in no mood"),
        ("net.py:word", (), 2, "not a torch.nn.Module"),
        ("net.py:absent", (), 2, "there is no 'absent' in "),
        ("nowhere.py:build", (), 2, "there is no file nowhere.py"),
        ("nowhere:build", (), 2, "No module named 'nowhere'"),
        ("net.py", (), 2, "MODULE:ATTR"),
        ("net.py:build", ("--labels", "a,b,c"), 1, "labels"),
        ("net.py:build", ("--labels", "@absent.txt"), 2, "absent.txt"),
        ("net.py:build", ("--weights", "absent.pt"), 2, "absent.pt"),
        ("net.py:build", ("--mean", "a"), 2, "--mean"),
        ("net.py:build", ("--task", "guessing"), 2, "one of classification, tagging"),
        ("net.py:build", ("--state-shape", "1,0"), 2, "--state-shape"),
        ("net.py:build", ("--input", "profile"), 2, "NAME=SIZES"),
        ("net.py:build", ("--input", "profile=1,4:ids"), 2, "float, lengths, mask or the number"),
        ("net.py:build", ("--role", "profile=fixed"), 2, "sequence, static"),
        ("net.py:Load", ("--input", "profil=1,3"), 2, "no argument 'profil'"),
        ("net.py:build", ("--quantise", "--quantise-dynamic"), 2, "two forms of 8 bits"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(
    folder: Path, source: str, options: tuple[str, ...], code: int, words: str
) -> None:
    done = elman("export", source, "out.onnx", "--example-shape", "1,4,3", *options, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (folder / "out.onnx").exists()


def test_export_replaces_no_file_unasked(folder: Path) -> None:
    (folder / "out.onnx").write_text("precious")
    asked = ("export", "net.py:build", "out.onnx", "--example-shape", "1,4,3")
    assert elman(*asked, cwd=folder).returncode == 2
    assert (folder / "out.onnx").read_text() == "precious"
    assert elman(*asked, "--overwrite", cwd=folder).returncode == 0
    assert (folder / "out.onnx").stat().st_size > 1000
