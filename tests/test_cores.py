"""The cores and the memory that a container was given are read from either version of control groups."""

from pathlib import Path

import pytest

from elman.cores import WORKER_BYTES, given_cores, given_memory, usable_cores, workers_for
from elman.settings import Settings

CPU = "cpu,cpuacct"
V2, V1 = "0::/pod/server", "4:cpu,cpuacct:/pod/server\n3:memory:/pod/server\n0::/"


def tree(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Control groups with some files, and the file that names those of the process."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "own").write_text(own)
    return folder, folder / "own"


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.cores.usable_cores", lambda: 8)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2, {"pod/server/cpu.max": "250000 100000"}, 2),
        (V2, {"pod/server/cpu.max": "max 100000"}, None),
        (V2, {"pod/server/cpu.max": "max 100000", "pod/cpu.max": "300000 100000"}, 3),
        (V2, {"cpu.max": "50000 100000"}, 1),  # the path is that of the host
        (V2, {"pod/server/cpu.max": "6400000 100000"}, 8),  # no more than there are
        (V2, {}, None),
        (V1, {f"{CPU}/pod/server/cpu.cfs_quota_us": "400000", f"{CPU}/pod/server/cpu.cfs_period_us": "100000"}, 4),
        (V1, {f"{CPU}/cpu.cfs_quota_us": "-1", f"{CPU}/cpu.cfs_period_us": "100000"}, None),
    ],
)  # fmt: skip
def test_cores(tmp_path: Path, own: str, files: dict[str, str], cores: int | None) -> None:
    assert given_cores(*tree(tmp_path, own, files)) == cores


@pytest.mark.parametrize(
    ("own", "files", "memory"),
    [
        (V2, {"pod/server/memory.max": "1073741824"}, 2**30),
        (V2, {"pod/server/memory.max": "max", "memory.max": "4096"}, 4096),
        (V2, {"pod/server/memory.max": "max"}, None),
        (V1, {"memory/memory.limit_in_bytes": "536870912"}, 2**29),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_memory(tmp_path: Path, own: str, files: dict[str, str], memory: int | None) -> None:
    assert given_memory(*tree(tmp_path, own, files)) == memory


@pytest.mark.parametrize(("memory", "workers"), [(None, 4), (2 * WORKER_BYTES, 2), (WORKER_BYTES - 1, 1)])
def test_there_is_memory_for_each_worker(memory: int | None, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.cores.given_memory", lambda: memory)
    assert workers_for(4) == workers


def test_auto_is_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, given, expected in (("elman.settings.given_cores", 3, 3), ("elman.settings.given_cores", None, 5)):
        monkeypatch.setattr(name, lambda given=given: given)
        monkeypatch.setattr("elman.settings.usable_cores", lambda: 5)
        monkeypatch.setattr("elman.settings.workers_for", lambda cores: cores)
        assert Settings(workers="auto").workers == expected  # type: ignore[arg-type]
    assert Settings().workers == 1 and usable_cores() >= 1
