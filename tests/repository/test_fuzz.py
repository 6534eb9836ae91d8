"""Fuzzed model files: each gives a model or a refusal; none crashes, hangs, or reads outside its folder."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fuzzing import BASES, MUTATIONS, SECRET, write_case

from elman.errors import ModelRefused
from elman.repository.model import Model
from elman.repository.model_file import load_model

pytestmark = pytest.mark.slow

try:
    from elman.repository.loading import load_isolated as load
except ImportError:
    load = load_model

ROOT = Path(__file__).parents[2]
# Each mutation of each base three times, unless more are asked for.
COUNT = int(os.environ.get("ELMAN_FUZZ_CASES", 3 * len(MUTATIONS) * len(BASES)))
HANGS_AFTER = 45.0
ISOLATED = load is not load_model


@dataclass
class Outcome:
    """What became of one fuzzed file. `crashed` and `hung` are of the process that loaded it unguarded."""

    number: int
    what: str
    outcome: str
    seconds: float


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Load every file without isolation, many to a process; one that dies is started again after the file at fault."""
    root = tmp_path_factory.mktemp("fuzz")
    first, found = 0, []
    while first < COUNT:
        found += _child(root, first)
        first = found[-1].number + 1
        (root / "report").unlink()
    return found


def _child(root: Path, first: int) -> list[Outcome]:
    report = root / "report"
    with (root / "output").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fuzzing.py")), str(root), str(first), str(COUNT)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
        )
        hung = False
        while process.poll() is None and not hung:
            time.sleep(0.1)
            hung = report.exists() and time.time() - report.stat().st_mtime > HANGS_AFTER
        if hung:
            process.kill()
            process.wait(HANGS_AFTER)
    assert report.exists(), (root / "output").read_text(errors="replace")[-2000:]
    return _read(report, "hung" if hung else f"crashed with {process.returncode}")


def _read(report: Path, ended: str) -> list[Outcome]:
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    what = {line["number"]: line["what"] for line in lines if "what" in line}
    done = {line["number"]: line for line in lines if "outcome" in line}
    return [
        Outcome(n, what[n], *((done[n]["outcome"], done[n]["seconds"]) if n in done else (ended, HANGS_AFTER)))
        for n in sorted(what)
    ]


def listed(bad: list[Outcome]) -> str:
    return f"{len(bad)} files:\n" + "\n".join(f"{one.number} {one.what}: {one.outcome}" for one in bad)


def test_there_are_at_least_500(outcomes: list[Outcome]) -> None:
    assert len(outcomes) >= 500
    assert {one.what.split()[0] for one in outcomes} == {mutation.__name__ for mutation in MUTATIONS}
    kinds = Counter(one.outcome.split(":")[0] for one in outcomes)
    # Else the files are all alike: either nothing was broken, or nothing came as far as the graph.
    assert kinds["loaded"] > 50, kinds
    assert kinds["refused"] > 250, kinds


def test_each_gives_a_model_or_a_refusal(outcomes: list[Outcome]) -> None:
    bad = [one for one in outcomes if one.outcome.startswith("raised")]
    assert not bad, listed(bad)


def test_none_reads_outside_its_folder(outcomes: list[Outcome]) -> None:
    bad = [one for one in outcomes if one.outcome.startswith(("leaked", "read outside"))]
    assert not bad, listed(bad)


def test_what_crashes_or_hangs_a_process_is_refused_by_the_server(outcomes: list[Outcome], tmp_path: Path) -> None:
    bad = [one for one in outcomes if one.outcome.startswith(("crashed", "hung"))]
    if not ISOLATED:
        assert not bad, listed(bad)
    for one in bad:
        with pytest.raises(ModelRefused):
            load(made(one.number, tmp_path), "fuzzed", 1)


def made(number: int, root: Path) -> Path:
    folder = root / str(number) / "1"
    folder.mkdir(parents=True)
    write_case(number, folder)
    return folder / "model.onnx"


@pytest.mark.parametrize("number", range(0, 29 * len(BASES), 11))
def test_isolated_loading_keeps_the_same_contract(tmp_path: Path, number: int) -> None:
    path = made(number, tmp_path)
    try:
        model = load(path, "fuzzed", 1)
    except ModelRefused as refused:
        assert SECRET[:8].decode() not in str(refused)
    else:
        assert isinstance(model, Model)
        assert SECRET[:16] not in model.network.model
    shutil.rmtree(path.parent)


def test_the_original_files_are_served(tmp_path: Path) -> None:
    """What the mutations start from is good, so that a refusal is of the mutation."""
    loader: Callable[[Path, str, int], Model] = load_model
    for number, base in enumerate(BASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.onnx").write_bytes(base().SerializeToString())
        if number == 4:
            (folder / "model.json").write_text('{"constants": {"rate": 16000}}')
        assert loader(folder / "model.onnx", "base", 1).proof.exact
