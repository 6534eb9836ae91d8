"""The store in a file: it survives what happens to processes, disks and folders, and wastes little room."""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from elman.errors import StoreUnavailable
from elman.sessions.store import Record, Usage
from elman.sessions.stores.lmdb import LMDBStore
from elman.sessions.stores.lmdb.fields import HEADER_NBYTES
from elman.sessions.stores.lmdb.layout import layout_of
from tests.disks import MAY_MOUNT, fill_up, mounted
from tests.running import ROOT
from tests.sessions.records import OWNER, PLENTY, Clock, advance_of, advanced, new_record, state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "hidden"


@contextlib.contextmanager
def opened(folder: Path, **options: object) -> Iterator[LMDBStore]:
    with contextlib.closing(LMDBStore(folder, **options)) as store:  # type: ignore[arg-type]
        yield store


def lasting(size: int = 1000) -> Record:
    """A record that outlives the test."""
    return new_record(size, now=time.time(), ttl=3600.0)


def filled(folder: Path, count: int, size: int = 1000) -> list[Record]:
    """A store with some sessions, closed."""
    records = [lasting(size) for _ in range(count)]
    with opened(folder) as store:
        for record in records:
            store.create(record, PLENTY)
    return records


@dataclass
class Worker:
    """A process that works on a store, and what it says."""

    process: subprocess.Popen[str]
    input: IO[str]
    output: IO[str]


@contextlib.contextmanager
def worker(*words: object) -> Iterator[Worker]:
    command = [sys.executable, "-m", "tests.sessions.stepping", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield Worker(process, process.stdin, process.stdout)
        finally:
            process.kill()


# What happens to processes


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    ids = [one.id for size in (100, 1000, 2048, 9000) for one in filled(folder, 3, size)]
    sizes = [size for size in (100, 1000, 2048, 9000) for _ in range(3)]
    randoms = random.Random(5)
    steps = [0] * len(ids)
    for _ in range(30):
        with worker("step", folder, *ids) as one:
            lines = [one.output.readline()]
            killing = threading.Timer(randoms.uniform(0.0, 0.03), one.process.kill)
            killing.start()
            lines += one.output.readlines()
            killing.join()
        # A line that the kill cut short was acknowledged all the same, or was not: it is not counted.
        said = [line.split() for line in lines if line.endswith("\n")]
        acknowledged = [[int(word) for word in words] for kind, *words in said if kind == "stepped"]
        with opened(folder) as store:
            records = [store.read(id) for id in ids]
            made, going, gone = (
                {words[0] for kind, *words in said if kind == which} for which in ("created", "deleting", "deleted")
            )
            others = [one.id for one in store.list(OWNER, 100) if one.id not in ids]
            assert set(others) >= made - going and not set(others) & gone and len(others) <= 1
            assert len(store) == len(ids) + len(others) == store.usage(OWNER).num_sessions
            for id in others:
                extra = store.read(id)
                assert extra is not None and extra.snapshot == state(id, 0, 3000)
                store.delete(id)
        found = []
        for id, size, record in zip(ids, sizes, records, strict=True):
            assert record is not None
            assert record.snapshot == state(id, record.step, size)
            if record.step:
                assert record.previous == state(id, record.step - 1, size) and record.previous_step == record.step - 1
            found.append(record.step)
        # All were stepped in one transaction, so either all of the last are there or none.
        last = acknowledged[-1] if acknowledged else steps
        assert found in (last, [step + 1 for step in last])
        steps = found
    assert min(steps) > 30


def test_of_four_processes_one_wins_each_step(folder: Path) -> None:
    (record,) = filled(folder, 1)
    until = 400
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker("race", folder, record.id, until)) for _ in range(4)]
        assert [one.output.readline() for one in workers] == ["ready\n"] * 4
        for one in workers:
            one.input.write("go\n")
            one.input.flush()
        won = [[int(word) for word in one.output.readline().split()] for one in workers]
    assert sorted(step for each in won for step in each) == list(range(until))
    # They did race.
    assert sum(bool(each) for each in won) > 1
    with opened(folder) as store:
        after = store.read(record.id)
        assert after is not None and after.step == until
        assert after.snapshot == state(record.id, until, 1000)
        assert after.previous == state(record.id, until - 1, 1000)


@pytest.mark.slow
def test_four_processes_open_a_new_store_at_once(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker("begin", folder)) for _ in range(4)]
        for number in range(200):
            for one in workers:
                one.input.write(f"{number}\n")
                one.input.flush()
            assert [one.output.readline() for one in workers] == ["open\n"] * 4, number


def test_a_process_that_dies_in_a_transaction_leaves_no_lock(folder: Path) -> None:
    (record,) = filled(folder, 1)
    with opened(folder) as store, worker("hold", folder, record.id) as one:
        assert one.output.readline() == "holding\n"
        done: list[bool] = []
        waiting = threading.Thread(target=lambda: done.extend(store.advance([advance_of(record)])))
        waiting.start()
        time.sleep(0.1)
        assert not done and store.read(record.id) == record
        one.process.kill()
        waiting.join(60)
        assert done == [True]
        after = store.read(record.id)
        assert after is not None and after.step == 1


def test_a_store_is_opened_again_as_it_was(folder: Path) -> None:
    records = filled(folder, 20)
    with opened(folder, sync=True) as store:
        assert store.advance([advance_of(records[0])]) == [True]
        assert [store.read(one.id) for one in records[1:]] == records[1:]
    with opened(folder, max_bytes=2**33) as store:
        assert len(store) == 20


def test_a_closed_store_says_so(folder: Path) -> None:
    (record,) = filled(folder, 1)
    store = LMDBStore(folder)
    store.close()
    store.close()
    for call in (len, lambda store: store.read(record.id), lambda store: store.sweep(0.0, 1)):
        with pytest.raises(StoreUnavailable, match="closed"):
            call(store)


# What happens to disks and folders


def test_where_the_store_is_full_sessions_live_on_and_can_be_forgotten(folder: Path) -> None:
    records = []
    with opened(folder, max_bytes=2**20) as store:
        with pytest.raises(StoreUnavailable, match="is full"):
            for _ in range(1000):
                record = lasting()
                store.create(record, PLENTY)
                records.append(record)
        assert 200 < len(records) < 500
        for _ in range(3):
            moves = [advance_of(one) for one in records]
            assert all(store.advance([one]) == [True] for one in moves)
            records = list(map(advanced, records, moves))
        assert len(store) == len(records) and all(store.read(one.id) == one for one in records)
        for record in records[:100]:
            assert store.delete(record.id)
        for _ in range(50):
            store.create(lasting(), PLENTY)
    assert (folder / "data.mdb").stat().st_size < 2 * 2**20


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
def test_where_the_disk_is_full_the_store_says_so_and_loses_nothing(folder: Path) -> None:
    with mounted(folder, "1m"), opened(folder) as store:
        records = []
        with pytest.raises(StoreUnavailable, match="disk is full"):
            for _ in range(1000):
                record = lasting()
                store.create(record, PLENTY)
                records.append(record)
        assert len(records) > 100
        refused = 0
        for index, record in enumerate(records):
            try:
                one = advance_of(record)
                assert store.advance([one]) == [True]
                records[index] = advanced(record, one)
            except StoreUnavailable as error:
                assert "disk is full" in error.detail
                refused += 1
        assert [store.read(one.id) for one in records] == records
        store.close()
        with opened(folder) as again:
            assert [again.read(one.id) for one in records] == records


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
@pytest.mark.parametrize("num_pages", range(8))
def test_a_write_that_the_disk_has_no_room_to_finish_is_a_full_disk(folder: Path, num_pages: int) -> None:
    with mounted(folder, "1m"), opened(folder) as store:
        kept = lasting()
        store.create(kept, PLENTY)
        disk = os.statvfs(folder)
        (folder / "others").write_bytes(bytes((disk.f_bavail - num_pages) * disk.f_frsize))
        with pytest.raises(StoreUnavailable, match="disk is full"):
            store.create(lasting(40_000), PLENTY)
        assert store.read(kept.id) == kept and len(store) == 1


def fill(folder: Path, store: LMDBStore, ttl: float) -> list[Record]:
    """Fill a disk: with sessions, and then to the last byte. Returns the sessions."""
    records = []
    for _ in range(1000):
        records.append(replace(lasting(), ttl=ttl, expires_at=time.time() + ttl))
        store.create(records[-1], PLENTY)
    fill_up(folder)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        for _ in range(1000):
            record = replace(lasting(), ttl=ttl, expires_at=time.time() + ttl)
            store.create(record, PLENTY)
            records.append(record)
    return records


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
def test_on_a_full_disk_sessions_are_deleted_and_make_room_for_others(folder: Path) -> None:
    with mounted(folder, "8m"), opened(folder) as store:
        records = fill(folder, store, 3600.0)
        half = len(records) // 2
        assert all(store.delete(one.id) for one in records[:half])
        assert [store.read(one.id) for one in records] == [None] * half + records[half:]
        num_before = len(records)
        # New ones take the room of those that are gone, but not what deletions need.
        with pytest.raises(StoreUnavailable, match="disk is full"):
            for _ in range(2000):
                record = lasting()
                store.create(record, PLENTY)
                records.append(record)
        assert len(records) > num_before + 50
        for one in records:
            store.delete(one.id)
        assert len(store) == 0


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
def test_on_a_full_disk_expired_sessions_are_swept_and_the_room_for_deletions_comes_back(folder: Path) -> None:
    with mounted(folder, "8m"), opened(folder) as store:
        fill(folder, store, 5.0)
        for _ in range(1000):
            store.sweep(time.time() + 10.0, 2_000)
            if not len(store):
                break
        assert len(store) == 0
        assert (folder / "reserve").stat().st_size == 0
        (folder / "others").unlink()
        store.sweep(time.time(), 1)
        assert (folder / "reserve").stat().st_size > 0


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
@pytest.mark.parametrize("num_pages", [0, 1, 2, 32, 34, 35])
def test_a_full_disk_holds_no_new_store(folder: Path, num_pages: int) -> None:
    with mounted(folder, "1m"):
        disk = os.statvfs(folder)
        (folder / "others").write_bytes(bytes((disk.f_bavail - num_pages) * disk.f_frsize))
        with pytest.raises(StoreUnavailable, match="disk is full"):
            LMDBStore(folder)
        (folder / "others").unlink()
        with opened(folder) as store:
            assert store.create(lasting(), PLENTY)


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
def test_a_folder_that_cannot_be_written_holds_no_store(folder: Path) -> None:
    with mounted(folder, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        refused(folder, "cannot be written")
        refused(folder / "deeper", "cannot be written")


def refused(folder: Path, reason: str) -> None:
    """There can be no store there, for this reason, which does not tell where."""
    with pytest.raises(StoreUnavailable, match=reason) as error:
        LMDBStore(folder)
    assert folder.name not in error.value.detail and "/" not in error.value.detail


def test_a_file_is_no_folder(folder: Path) -> None:
    folder.write_text("a file")
    refused(folder, "no folder")
    refused(folder / "deeper", "no folder")


@pytest.mark.parametrize("content", [b"x", b"not a database\n" * 1000, bytes(65536), os.urandom(65536)])
def test_what_is_no_database_is_left_alone(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "data.mdb").write_bytes(content)
    refused(folder, "damaged|no session store|of another version")
    assert (folder / "data.mdb").read_bytes()[: len(content)] == content


def test_a_database_of_something_else_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    with lmdb.open(str(folder)) as other, other.begin(write=True) as txn:
        txn.put(b"theirs", b"kept")
    refused(folder, "something else")
    with lmdb.open(str(folder)) as other, other.begin() as txn:
        assert dict(txn.cursor()) == {b"theirs": b"kept"}


def test_a_store_of_another_format_is_left_alone(folder: Path) -> None:
    filled(folder, 1)
    with lmdb.open(str(folder)) as other, other.begin(write=True) as txn:
        txn.put(b"format", b"elman sessions 99")
    refused(folder, "another version of this server")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_short_kills_nothing(folder: Path, kept: float) -> None:
    records = filled(folder, 300)
    file = folder / "data.mdb"
    os.truncate(file, int(file.stat().st_size * kept))
    intact = damaged = 0
    with contextlib.suppress(StoreUnavailable), opened(folder) as store:
        for record in records:
            try:
                found = store.read(record.id)
            except StoreUnavailable as error:
                assert "damaged" in error.detail
                damaged += 1
            else:
                assert found == record
                intact += 1
    assert damaged or not intact


def test_a_state_that_changed_on_the_disk_is_not_served(folder: Path) -> None:
    records = [one for size in (100, 1000, 2048, 9000) for one in filled(folder, 1, size)]
    file = folder / "data.mdb"
    content = bytearray(file.read_bytes())
    for record in records:
        # In a state that is cut, the beginning lies in one piece; of a page there may be older copies.
        beginning = record.snapshot[:64]
        assert beginning in content
        content = content.replace(beginning, bytes([beginning[0] ^ 1]) + beginning[1:])
    file.write_bytes(content)
    with opened(folder) as store:
        for record in records:
            with pytest.raises(StoreUnavailable, match="state of this session is damaged"):
                store.read(record.id)
            assert store.delete(record.id)


def test_a_session_whose_facts_changed_on_the_disk_stops_no_other(folder: Path) -> None:
    records = [replace(lasting(), input_digest=bytes([65 + number]) * 16) for number in range(8)]
    with opened(folder) as store:
        for record in records:
            store.create(record, PLENTY)
    file = folder / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"C" * 16, b"C" * 15 + b"D"))
    with opened(folder) as store:
        with pytest.raises(StoreUnavailable, match="record of this session"):
            store.read(records[2].id)
        moves = [advance_of(one) for one in records]
        assert store.advance(moves) == [number != 2 for number in range(8)]
        with pytest.raises(StoreUnavailable, match="record of this session"):
            store.advance([advance_of(records[2])])
        assert len(store.list(OWNER, 100)) == 7
        intact = [number for number in range(8) if number != 2]
        assert [store.read(records[number].id) for number in intact] == [
            advanced(records[number], moves[number]) for number in intact
        ]
        assert store.sweep(time.time() + 9999, 100) == 7


def test_what_the_folder_holds_is_the_owners_alone(folder: Path) -> None:
    filled(folder, 1)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())


# What it takes


@given(size=st.integers(0, 70_000), page=st.sampled_from([4096, 16384]))
def test_a_state_of_any_size_is_cut_so_that_it_fits(size: int, page: int) -> None:
    layout = layout_of(size, page)
    whole, count = (2 * size, 1) if layout.joint else (size, 2)
    rest = HEADER_NBYTES + count * (whole - layout.inside)
    assert 0 <= layout.inside <= whole
    assert (layout.num_pieces - 1) * layout.piece < rest <= layout.num_pieces * layout.piece
    # LMDB moves what is longer than this to pages of its own.
    assert layout.piece + 16 <= (page - 16) // 2 - 2
    assert layout.num_pieces + layout.num_bodies < 256


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 256, 640, 1024, 1345, 1360, 1375, 2048, 3000, 4096, 6000, 16384])
def test_a_session_takes_little_more_than_its_states(folder: Path, size: int) -> None:
    count = 4000 if size < 2000 else 1000
    clock = Clock()
    with opened(folder, clock=clock) as store:
        records = [new_record(size) for _ in range(count)]
        for record in records:
            store.create(record, PLENTY)
        random.Random(3).shuffle(records)
        for start in range(0, count, 32):
            assert all(store.advance([advance_of(one) for one in records[start : start + 32]]))
        assert store.usage(OWNER) == Usage(count, 2 * size * count)
    # The copies that a store keeps while it writes are few pages, however many sessions there are.
    nbytes = (folder / "data.mdb").stat().st_size - 400_000
    assert nbytes / count < 1.5 * 2 * size + 200
