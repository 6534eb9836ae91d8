"""A process that works on a store until it is killed, or done: run as a script by the tests."""

import sys
import time
from pathlib import Path

from msgspec.structs import replace

from elman.sessions.store import Record
from elman.sessions.stores.lmdb import LMDBStore
from tests.sessions.records import PLENTY, advance_of, new_record


def say(*words: object) -> None:
    print(*words, flush=True)


def read(store: LMDBStore, id: str) -> Record:
    record = store.read(id)
    assert record is not None, id
    return record


def step(folder: Path, ids: list[str]) -> None:
    """Step all sessions at once, for ever, and make and forget one in between; say what was acknowledged."""
    store = LMDBStore(folder)
    while True:
        advances = [advance_of(read(store, id)) for id in ids]
        assert all(store.advance(advances))
        say("stepped", *[one.step for one in advances])
        now = time.time()
        record = new_record(3000, now=now)
        store.create(record, PLENTY)
        say("created", record.id)
        say("deleting", record.id)
        assert store.delete(record.id)
        say("deleted", record.id)


def race(folder: Path, id: str, until: int) -> None:
    """Advance one session from whatever step it is at, and say which were won."""
    store = LMDBStore(folder)
    say("ready")
    sys.stdin.readline()
    record = read(store, id)
    won = []
    while record.step < until:
        if store.advance([advance_of(record)]) == [True]:
            won.append(record.step)
        record = read(store, id)
    say(*won)


def begin(folder: Path) -> None:
    """Open a new store for each line that comes."""
    for line in sys.stdin:
        store = LMDBStore(folder / line.strip())
        say("open")
        store.close()


def hold(folder: Path, id: str) -> None:
    """Begin a transaction, write in it, and never end it."""
    store = LMDBStore(folder)
    record = read(store, id)
    with store._environment.transaction(write=True) as txn:
        assert store._tables.advance(txn, replace(advance_of(record), step=99), 0, time.time())
        say("holding")
        time.sleep(600)


if __name__ == "__main__":
    what, folder, *words = sys.argv[1:]
    if what == "step":
        step(Path(folder), words)
    elif what == "race":
        race(Path(folder), words[0], int(words[1]))
    elif what == "begin":
        begin(Path(folder))
    else:
        hold(Path(folder), words[0])
