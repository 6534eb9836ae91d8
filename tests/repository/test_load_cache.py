"""What loading found is kept for the next start: just that, for just that file, and never at the cost of a load."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import graphs
import msgspec
import onnx
import pytest

from elman.api.server import _load_cache
from elman.cli.jobs.model_files import load_file
from elman.errors import ModelRefused
from elman.repository import load_cache, loading
from elman.repository.calibration import Calibration
from elman.repository.load_cache import LoadCache
from elman.repository.loading import Loader
from elman.repository.model import Model
from elman.settings import Settings
from tests import triton
from tests.running import STORE

KEY = "5" * 64
LIMIT = 2**24
SHIPPED = sorted(path.name for path in STORE.iterdir() if path.is_dir())
CELL = triton.config(triton.CELL, controls={"START": "fp32", "END": "fp32"})
LABELS = b"up\ndown\nleft\nright\n"


@dataclass
class CountingLoader:
    """A loader with a cache, which tells how many files its child has loaded."""

    loader: Loader
    cache: LoadCache
    num_loads: int = 0

    def load(self, path: Path, cached: bool = True, name: str = "model", version: int = 1) -> Model:
        self.loader._cache = self.cache if cached else None
        return self.loader.load(path, name, version)

    def loads_anew(self, path: Path) -> bool:
        before = self.num_loads
        self.load(path)
        return self.num_loads > before


@pytest.fixture(scope="module")
def child() -> Iterator[CountingLoader]:
    """One child process for the whole file: each takes a second to start."""
    with Loader() as loader:
        counting = CountingLoader(loader, LoadCache(Path(), 0))
        call: Callable[..., bytearray] = loader._child.call

        def counted(*arguments: Any) -> bytearray:
            counting.num_loads += 1
            return call(*arguments)

        loader._child.call = counted  # type: ignore[method-assign]
        yield counting


@pytest.fixture
def loader(child: CountingLoader, tmp_path: Path) -> CountingLoader:
    child.cache = LoadCache(tmp_path / "loads", LIMIT)
    return child


def content(model: Model) -> bytes:
    """All that there is to know of a model."""
    return msgspec.msgpack.encode(model, enc_hook=loading._enc_hook)


def recurrent(folder: Path) -> Path:
    return graphs.save(graphs.tagger(), folder)


def external(folder: Path) -> Path:
    tagger = graphs.tagger()
    weight = next(one for one in tagger.graph.initializer if one.name == "W")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "w.bin").write_bytes(weight.raw_data)
    return graphs.save(graphs.externalise(tagger, "W", "sub/w.bin"), folder)


def described(folder: Path) -> Path:
    path = graphs.save(graphs.tagger(), folder)
    path.with_name("model.json").write_text('{"task": "tagging"}')
    return path


def branched(folder: Path) -> Path:
    path = graphs.save(graphs.branched(), folder)
    path.with_name("model.json").write_text('{"constants": {"rate": 16000}}')
    return path


def configured(folder: Path) -> Path:
    return triton.save(folder, "model", triton.cell(), CELL, labels=LABELS, first=triton.FIRST_H.tobytes())


ODD = {
    "external data": external,
    "model.json": described,
    "config.pbtxt": configured,
    "tokens": lambda folder: graphs.save(graphs.letters(), folder),
    "a branch": branched,
    "controls": lambda folder: triton.save(
        folder, "model", triton.accumulator(), triton.config(triton.ACCUMULATOR, controls=triton.ALL_CONTROLS)
    ),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_an_odd_model_from_the_cache_is_the_one_that_was_loaded(
    loader: CountingLoader, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    assert_kept(loader, make(tmp_path / "models"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_from_the_cache_is_the_one_that_was_loaded(loader: CountingLoader, name: str) -> None:
    assert_kept(loader, STORE / name / "1" / "model.onnx")


def assert_kept(loader: CountingLoader, path: Path) -> None:
    first = loader.load(path)
    before = loader.num_loads
    kept = loader.load(path)
    assert loader.num_loads == before
    assert content(kept) == content(first)
    # Only what is measured may differ from one load to the next.
    anew = loader.load(path, cached=False)
    assert loader.num_loads == before + 1
    assert content(replace(kept, calibration=Calibration())) == content(replace(anew, calibration=Calibration()))


# When a file is loaded anew


def change_weights(path: Path) -> None:
    proto = onnx.load(path)
    proto.doc_string = "trained longer"
    onnx.save(proto, path)


CHANGES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "the file": (recurrent, change_weights),
    "external data": (external, lambda path: (path.parent / "sub" / "w.bin").write_bytes(bytes(4 * 4096))),
    "model.json": (described, lambda path: path.with_name("model.json").write_text('{"task": "raw"}')),
    "a new model.json": (recurrent, lambda path: path.with_name("model.json").write_text("{}")),
    "a removed model.json": (described, lambda path: path.with_name("model.json").unlink()),
    "config.pbtxt": (configured, lambda path: (path.parents[1] / "config.pbtxt").write_text(CELL + "# new")),
    "labels": (configured, lambda path: (path.parents[1] / "labels.txt").write_bytes(LABELS.upper())),
    "a first state": (configured, lambda path: (path.parents[1] / "initial_state" / "h.bin").write_bytes(bytes(16))),
}


@pytest.mark.parametrize(("make", "change"), CHANGES.values(), ids=CHANGES)
def test_a_changed_model_is_loaded_anew(
    loader: CountingLoader, tmp_path: Path, make: Callable[[Path], Path], change: Callable[[Path], object]
) -> None:
    path = make(tmp_path / "models")
    assert loader.loads_anew(path)
    assert not loader.loads_anew(path)
    change(path)
    assert loader.loads_anew(path)


def test_external_data_that_becomes_a_link_is_refused_as_ever(loader: CountingLoader, tmp_path: Path) -> None:
    path = external(tmp_path / "models")
    loader.load(path)
    data = path.parent / "sub" / "w.bin"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused, match="symbolic link"):
        loader.load(path)


def test_a_refusal_is_found_anew(loader: CountingLoader, tmp_path: Path) -> None:
    path = graphs.save(graphs.tagger(), tmp_path)
    path.write_bytes(b"no model")
    for loads in (1, 2):
        before = loader.num_loads
        with pytest.raises(ModelRefused, match="not an ONNX file"):
            loader.load(path)
        assert loader.num_loads == before + 1, loads
    assert list((tmp_path / "loads").iterdir()) == []


def test_check_proves_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMAN_LOAD_CACHE_DIR", str(tmp_path / "loads"))
    load_file(recurrent(tmp_path / "models"))
    assert not (tmp_path / "loads").exists()


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"store_dir": "state"}, "state/loads"),
        ({"load_cache_dir": "elsewhere"}, "elsewhere"),
        ({"load_cache_dir": "elsewhere", "store": "memory"}, "elsewhere"),
        ({"store_dir": "state", "store": "memory"}, None),
        ({"load_cache_dir": "elsewhere", "load_cache_bytes": 0}, None),
    ],
)
def test_a_setting_says_where_loads_are_kept(settings: dict[str, Any], folder: str | None) -> None:
    cache = _load_cache(Settings(**settings))
    assert (cache and str(cache._folder)) == folder


@pytest.mark.parametrize("what", ["code", "new code", "version", "runtime", "library", "processor"])
def test_another_program_or_machine_has_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    room = tmp_path / "repository"
    room.mkdir()
    for source in Path(load_cache.__file__).parent.glob("*.py"):
        (room / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(load_cache, "__file__", str(room / "load_cache.py"))
    before = load_cache._surroundings.__wrapped__()
    assert before == load_cache._surroundings()  # the folder does not matter, its files do
    if what == "code":
        (room / "proof.py").write_text((room / "proof.py").read_text() + "# better\n")
    elif what == "new code":
        (room / "more.py").touch()
    elif what == "version":
        monkeypatch.setattr(load_cache, "__version__", "7.0")
    elif what == "runtime":
        monkeypatch.setattr(load_cache, "RUNTIME_BUILD", "9.9")
    elif what == "library":
        monkeypatch.setattr(load_cache, "version", lambda name: "9.9")
    else:
        monkeypatch.setattr(load_cache, "_processor", lambda: "x86_64 with AVX-1024")
    assert load_cache._surroundings.__wrapped__() != before


# Whose files are trusted, and what the disk may do


@pytest.fixture
def cache(tmp_path: Path) -> LoadCache:
    return LoadCache(tmp_path / "store" / "loads", LIMIT)


def file_of(cache: LoadCache, key: str = KEY) -> Path:
    return cache._folder / f"{key}.load"


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def exchange(path: Path) -> None:
    path.rename(path.with_name(f"{'6' * 64}.load"))


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: rewrite(path, lambda old: old[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit": lambda path: rewrite(path, lambda old: old[:40] + bytes([old[40] ^ 1]) + old[41:]),
    "longer": lambda path: rewrite(path, lambda old: old + b"\0"),
    "of another key": exchange,
    "writable by everybody": lambda path: path.chmod(0o666),
    "a link": link,
    "a pipe": pipe,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_foreign_file_is_passed_over(cache: LoadCache, damage: Callable[[Path], object]) -> None:
    answer = b"all that was found" * 10
    cache.write(KEY, answer)
    assert cache.read(KEY) == answer
    damage(file_of(cache))
    assert cache.read(KEY) is None and cache.read("6" * 64) is None


def test_a_file_of_another_user_is_passed_over(cache: LoadCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(KEY, b"found")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.read(KEY) is None


def test_an_answer_that_is_no_model_is_passed_over(loader: CountingLoader, tmp_path: Path) -> None:
    path = recurrent(tmp_path / "models")
    loader.load(path)
    (file,) = (tmp_path / "loads").iterdir()
    for answer in (b"\xc1", msgspec.msgpack.encode({"refused": None})):
        loader.cache.write(file.stem, answer)
        assert loader.loads_anew(path)
        assert not loader.loads_anew(path)


def test_only_the_owner_can_read_what_is_kept(cache: LoadCache) -> None:
    cache.write(KEY, b"found")
    modes = [path.stat().st_mode & 0o777 for path in (cache._folder.parent, cache._folder, file_of(cache))]
    assert modes == [0o700, 0o700, 0o600]


def test_what_was_not_used_for_longest_is_removed(cache: LoadCache) -> None:
    cache.limit = 1000
    keys = [digit * 64 for digit in "abc"]
    stranger = cache._folder / "notes.txt"
    for age, key in enumerate(keys):
        cache.write(key, bytes(400))
        os.utime(file_of(cache, key), (1000 + age, 1000 + age))
        stranger.write_bytes(bytes(5000))
    assert [cache.read(key) is not None for key in keys] == [False, True, True]
    os.utime(file_of(cache, "c" * 64), (1, 1))
    cache.write("d" * 64, bytes(400))  # b was read since
    assert [cache.read(key) is not None for key in [*keys, "d" * 64]] == [False, True, False, True]
    cache.write("e" * 64, bytes(1000))  # with its digest it is too large
    assert cache.read("e" * 64) is None and cache.read("d" * 64) is not None
    assert stranger.exists()


@pytest.mark.parametrize("folder", ["a file", "below a file", "/proc/none"])
def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    loader: CountingLoader, tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").touch()
    place = {"a file": tmp_path / "a file", "below a file": tmp_path / "a file" / "loads"}.get(folder, Path(folder))
    loader.cache = LoadCache(place, LIMIT)
    path = recurrent(tmp_path / "models")
    assert loader.loads_anew(path) and loader.loads_anew(path)
    assert caplog.text.count("what loading finds cannot be kept in") == 1


def test_a_full_disk_costs_only_the_cache(cache: LoadCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.write(KEY, b"found")
    assert list(cache._folder.iterdir()) == []


# Several at once


def test_whoever_comes_second_takes_it_from_the_first(loader: CountingLoader, tmp_path: Path) -> None:
    path = recurrent(tmp_path / "models")
    before, found = loader.num_loads, []
    others = [Loader(cache=LoadCache(tmp_path / "loads", LIMIT)) for _ in range(4)]
    for one in others:
        one._child = loader.loader._child
    threads = [threading.Thread(target=lambda one=one: found.append(one.load(path, "m", 1))) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert loader.num_loads == before + 1
    assert len({content(one) for one in found}) == 1 and len(found) == 4


def test_nobody_waits_for_longer_than_a_load_may_take(cache: LoadCache) -> None:
    with cache.turn(KEY, 60.0, threading.Event()):
        began = time.monotonic()
        with cache.turn(KEY, 0.1, threading.Event()):
            assert 0.1 <= time.monotonic() - began < 30
        stopped = threading.Event()
        stopped.set()
        with cache.turn(KEY, 60.0, stopped):  # a server that is told to stop waits for nobody
            assert time.monotonic() - began < 30
