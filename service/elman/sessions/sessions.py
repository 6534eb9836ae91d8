"""Sessions: a step request changes a record once, however often and to whichever process it is sent."""

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from copy import copy
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from elman.engine.sequence import Sequence
from elman.engine.work import Steps, Work, wait
from elman.errors import StepConflict, StepReused, StoreUnavailable, UnknownSession
from elman.sessions.calls import StoreCalls, Trouble
from elman.sessions.store import Advance, Record, Store, Usage, new_id, new_mark

T = TypeVar("T")

_LOG = logging.getLogger("elman")

# Most expired sessions that are deleted each second.
_SWEPT = 2_000
# Time until a store that could not be opened is tried again.
_REOPEN_SECONDS = 5.0
# How often a step is tried that lost to another process.
_TRIES = 4
# Memory of a record beside its two states.
_RECORD_NBYTES = 700


class StepIntent(Struct, frozen=True, gc=False):
    """What a step request means to do to a session.

    Attributes:
        input_digest: of the input, 16 bytes.
        length: number of steps.
        at: the step at which the caller believes the session to be; None if it does not say.
        deadline: until when it may wait for its turn, on the clock of `time.monotonic`.
    """

    input_digest: bytes
    length: int
    at: int | None
    deadline: float = math.inf


class StepWrite(Struct, eq=False):
    """What is to be written once a step has run.

    Attributes:
        compose: makes the new snapshot from the sequence that ran.
        won: whether it was written. If not, another step was faster.
        ended: whether these are the last steps. They can be repeated until `expires_at`.
    """

    id: str
    mark: bytes
    step: int
    input_digest: bytes
    expires_at: float
    compose: Callable[[Sequence], bytes] | None = None
    snapshot: bytes = b""
    won: bool = False
    ended: bool = False
    next_mark: bytes = field(default_factory=new_mark)

    def advance(self) -> Advance:
        """The write in the form that stores take."""
        return Advance(
            self.id,
            self.mark,
            self.next_mark,
            self.step,
            self.snapshot,
            self.input_digest,
            self.expires_at,
            self.ended,
        )


RunStep = Callable[[bytes, StepWrite | None], Steps[T]]
"""Runs a step from a snapshot, and does the write if there is one."""


class Sessions:
    """The sessions of one server.

    Args:
        open_store: opens the store. It is called again after it failed.
        most: what one caller may hold.
        ttl: seconds that a session lives after its last step, if its creator does not say.
        hot_bytes: memory for cached records. The record of a live session is not read again for each step.
        shared: whether other processes may step the same sessions.
        remote: whether the store is on the network. Its sessions are then counted each second, beside the event loop.
        timeout: seconds that a call waits for the store.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        most: Usage,
        ttl: float,
        hot_bytes: int,
        shared: bool,
        timeout: float = 10.0,
        remote: bool = False,
    ) -> None:
        self.ttl = ttl
        self._open_store = open_store
        self._most = most
        self.max_sessions_of: Callable[[bytes], int | None] = lambda owner: None
        """Most sessions of one caller, if it has a limit of its own. Called in any thread."""
        self._shared = shared
        self._remote = remote
        self._num_counted = 0
        self._cached: OrderedDict[str, Record] = OrderedDict()
        self._cached_nbytes = 0
        self._cache_bytes = hot_bytes
        # By session id, the requests that wait for their turn. A session is here while a step of it is under way.
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}
        self._timeout = timeout
        self._calls = StoreCalls(timeout)
        self._trouble = Trouble()
        self._store: Store | None = None
        self._failure = StoreUnavailable("the session store is not open yet", retry_after=1)
        self._reopen_at = 0.0

    async def start(self) -> None:
        """Open the store, unless it takes longer than a call may wait. It is then used once it is open."""
        self._calls = StoreCalls(self._timeout)
        with contextlib.suppress(StoreUnavailable):
            await self._calls.write_aside(self.open)

    def open(self) -> None:
        """Open the store. If that fails, sessions are refused with the reason, and everything else works."""
        # Meanwhile nobody else opens it.
        self._reopen_at = math.inf
        try:
            self._store = self._open_store()
            self._trouble.worked()
        except StoreUnavailable as failure:
            self._trouble.failed(failure)
            self._failure = failure
            self._reopen_at = time.monotonic() + _REOPEN_SECONDS

    def close(self) -> None:
        """Close the store. Calls that do not end soon are given up, and go on until the process ends."""
        self._calls.close()
        self._failure, self._reopen_at = StoreUnavailable("the session store is closed"), math.inf
        store, self._store = self._store, None
        self._cached.clear()
        self._cached_nbytes = 0
        if store is not None:
            store.close()
        self._calls.give_up()

    def __len__(self) -> int:
        """Number of sessions; 0 if the store does not work."""
        if self._remote:
            return self._num_counted
        try:
            return len(self._store) if self._store is not None else 0
        except StoreUnavailable:
            return 0

    def create(
        self,
        owner: bytes,
        model: str,
        version: int,
        digest: bytes,
        step: int,
        snapshot: bytes,
        ttl: float | None,
    ) -> Steps[Record]:
        """A new session that stands at `step`. Raises Quota, StoreUnavailable."""
        now, ttl = time.time(), self.ttl if ttl is None else ttl
        record = Record(new_id(), owner, model, version, digest, now, now + ttl, ttl, new_mark(), step, snapshot)
        yield from self._write(lambda store: store.create(record, self._most_of(owner)))
        self._keep(record)
        return record

    def _most_of(self, owner: bytes) -> Usage:
        """What a caller may hold."""
        own = self.max_sessions_of(owner)
        most = self._most
        return most if own is None else Usage(min(own, most.num_sessions), most.num_bytes)

    def read(self, owner: bytes, id: str) -> Steps[Record]:
        """A session, from the store. Raises StoreUnavailable, and UnknownSession, also for another caller's session."""
        record = yield from self._stored(owner, id)
        if record.ended:
            raise _unknown()
        return record

    def _stored(self, owner: bytes, id: str) -> Steps[Record]:
        """As `read`, but also a session that has ended."""
        record = yield from self._read(lambda store: store.read(id))
        if record is None or record.owner != owner:
            self._forget(id)
            raise _unknown()
        self._keep(record)
        return record

    def find(self, owner: bytes, id: str) -> Steps[Record]:
        """A session, from the cache if it is there; also one that has ended. Raises what `read` raises."""
        record = self.known(owner, id)
        return (yield from self._stored(owner, id)) if record is None else record

    def known(self, owner: bytes, id: str) -> Record | None:
        """A session from the cache, also one that has ended; None if it is not there."""
        record = self._cached.get(id)
        return None if record is None or record.owner != owner or record.expires_at <= time.time() else record

    def owned(self, owner: bytes, limit: int, after: str | None, model: str | None) -> Steps[list[Record]]:
        """A caller's sessions by id. Raises StoreUnavailable."""
        return (yield from self._read(lambda store: store.list(owner, limit, after, model)))

    def delete(self, owner: bytes, id: str) -> Steps[None]:
        """Delete a session. Raises UnknownSession, StoreUnavailable."""
        yield from self.read(owner, id)
        self._forget(id)
        if not (yield from self._write(lambda store: store.delete(id))):
            raise _unknown()

    def restore(self, owner: bytes, id: str, step: int, snapshot: bytes) -> Steps[Record]:
        """Set a session to another state, earlier or later. Raises UnknownSession, StepConflict, StoreUnavailable."""
        yield from self._take_turn(id, queue=True)
        try:
            for _ in range(_TRIES):
                before = yield from self.read(owner, id)
                after = replace(
                    before,
                    mark=new_mark(),
                    step=step,
                    snapshot=snapshot,
                    previous_step=0,
                    previous=None,
                    input_digest=b"",
                    expires_at=time.time() + before.ttl,
                )
                if (yield from self._write(lambda store, one=after, old=before: store.replace(one, old.mark))):  # type: ignore[misc]
                    self._keep(after)
                    return after
        finally:
            self._end_turn(id)
        raise StepConflict("other steps of this session were faster than its restoration", expected=before.step)

    def step(self, owner: bytes, id: str, intent: StepIntent, run: RunStep[T]) -> Steps[tuple[T, Record, bool]]:
        """Do the steps of a request, once.

        Returns what `run` returned, the session after it, and whether the steps had been done already.
        Raises UnknownSession, StepConflict, StepReused, StoreUnavailable, and what `run` raises.
        """
        return self._in_turn(id, self.advance(owner, id, intent, run), intent.at is not None, intent.deadline)

    def in_turn(self, id: str, steps: Steps[T], deadline: float) -> Steps[T]:
        """Run a script that steps a session when all that came before it are done. Raises what it raises."""
        return self._in_turn(id, steps, True, deadline)

    def _in_turn(self, id: str, steps: Steps[T], queue: bool, deadline: float) -> Steps[T]:
        yield from self._take_turn(id, queue, deadline)
        try:
            return (yield from steps)
        except BaseException:
            # A write of it may have happened, or may still happen: only the store knows.
            self._forget(id)
            raise
        finally:
            self._end_turn(id)

    def begin(self, new: Record, always: bool) -> Steps[Record]:
        """In a turn: put a new session of a chosen id into the store, and return it.

        If there is one of this id that has not ended, it ends if `always` is set, and else is returned.
        Raises Quota, StepConflict, StoreUnavailable.
        """
        id = new.id
        for _ in range(_TRIES):
            before = yield from self._read(lambda store: store.read(id))
            if before is not None and not (always or before.ended):
                return before
            if before is None:
                made = yield from self._write(lambda store: store.create(new, self._most_of(new.owner)))
            else:
                made = yield from self._write(lambda store, mark=before.mark: store.replace(new, mark))  # type: ignore[misc]
            if made:
                self._keep(new)
                return new
        raise StepConflict("other requests began this session at the same time")

    def latest(self, owner: bytes, id: str) -> Steps[Record]:
        """In a turn: a session as it is now, also one that has ended. Raises what `read` raises."""
        return (yield from self._stored(owner, id) if self._shared else self.find(owner, id))

    def advance(
        self, owner: bytes, id: str, intent: StepIntent, run: RunStep[T], record: Record | None = None
    ) -> Steps[tuple[T, Record, bool]]:
        """In a turn: do the steps of a request, once, as `step`. `record`: the session as it is now, if it was read."""
        if record is None:
            # Without `at`, only the store shows whether another process has stepped the session.
            record = None if self._shared and intent.at is None else self.known(owner, id)
            if record is None or not _moves_on(record, intent):
                record = yield from self._stored(owner, id)
        digest = record.digest
        for _ in range(_TRIES):
            if _is_replay(record, intent):
                assert record.previous is not None, "there is something to repeat"
                return (yield from run(record.previous, None)), record, True
            write = StepWrite(
                id, record.mark, record.step + intent.length, intent.input_digest, time.time() + record.ttl
            )
            result = yield from run(record.snapshot, write)
            if write.won:
                record = _advanced(record, write)
                self._keep(record)
                return result, record, False
            record = yield from self._stored(owner, id)
            # One that was begun anew may belong to another model file than the request was read for.
            if intent.at is None or record.digest != digest:
                break
        raise StepConflict("another step of this session was faster", expected=record.step)

    def save(self, write: StepWrite) -> Steps[None]:
        """Write a step for which nothing had to run."""
        (outcome,) = yield from self._write(lambda store: store.advance([write.advance()]))
        if isinstance(outcome, StoreUnavailable):
            raise outcome
        write.won = outcome

    def commit(self, sequences: list[Sequence]) -> None:
        """Write the steps of some sequences in one transaction."""
        writes = []
        try:
            store = self._store
            if store is None:
                raise StoreUnavailable(self._failure.detail)
            for sequence in sequences:
                write = sequence.save
                assert isinstance(write, StepWrite) and write.compose is not None, "only sessions write"
                write.snapshot = write.compose(sequence)
                writes.append(write)
            outcomes = store.advance([one.advance() for one in writes])
        except StoreUnavailable as failure:
            outcomes = [failure] * len(sequences)
        failures = [one for one in outcomes if isinstance(one, StoreUnavailable)]
        if failures:
            self._trouble.failed(failures[0], len(failures))
        else:
            self._trouble.worked()
        for sequence, outcome in zip(sequences, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                # Each has an error of its own: one that is raised keeps what it passed through.
                sequence.error = copy(outcome)
            else:
                assert isinstance(sequence.save, StepWrite), "only sessions write"
                sequence.save.won = outcome

    async def sweep(self) -> None:
        """Delete expired sessions, a part of the store each second, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            with contextlib.suppress(StoreUnavailable):
                if self._store is not None:
                    await self._calls.write_aside(self._store.sweep, time.time(), _SWEPT)
                    if self._remote:
                        self._num_counted = await self._calls.write_aside(len, self._store)
                elif time.monotonic() >= self._reopen_at:
                    await self._calls.write_aside(self.open)
            now = time.time()
            for id in [id for id, record in self._cached.items() if record.expires_at <= now]:
                self._forget(id)

    def _take_turn(self, id: str, queue: bool, deadline: float = math.inf) -> Iterable[Work]:
        """What to wait for until it is the turn on a session. Raises StepConflict, unless it may `queue`."""
        waiting = self._turns.get(id)
        if waiting is not None:
            return self._wait_for_turn(id, waiting, queue, deadline)
        self._turns[id] = deque()
        return ()

    def _wait_for_turn(
        self, id: str, waiting: deque[asyncio.Future[None]], queue: bool, deadline: float
    ) -> Steps[None]:
        if not queue:
            record = self._cached.get(id)
            raise StepConflict(
                "another step of this session is under way", expected=None if record is None else record.step
            )
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(mine)
        try:
            yield from wait(mine, deadline)
        except BaseException:
            # The request was given up. If it already had the turn, the turn goes to the next.
            if mine.done() and not mine.cancelled():
                self._end_turn(id)
            raise

    def _end_turn(self, id: str) -> None:
        """Give the turn to the next request that still waits."""
        waiting = self._turns[id]
        while waiting:
            following = waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        del self._turns[id]

    def _read(self, call: Callable[[Store], T]) -> Steps[T]:
        """The result of a call that only reads. Raises StoreUnavailable."""
        return (yield from self._noted(self._calls.read(call, (yield from self._opened()))))

    def _write(self, call: Callable[[Store], T]) -> Steps[T]:
        """The result of a call that writes. Raises StoreUnavailable."""
        return (yield from self._noted(self._calls.write(call, (yield from self._opened()))))

    def _opened(self) -> Steps[Store]:
        if self._store is None and time.monotonic() >= self._reopen_at:
            yield from self._calls.write(self.open)
        if self._store is None:
            raise StoreUnavailable(self._failure.detail, retry_after=self._failure.retry_after)
        return self._store

    def _noted(self, steps: Steps[T]) -> Steps[T]:
        try:
            return (yield from steps)
        except StoreUnavailable as failure:
            self._trouble.failed(failure)
            raise

    def _keep(self, record: Record) -> None:
        """Put a record into the cache."""
        self._forget(record.id)
        self._cached[record.id] = record
        self._cached_nbytes += _nbytes(record)
        while self._cached_nbytes > self._cache_bytes:
            _, dropped = self._cached.popitem(last=False)
            self._cached_nbytes -= _nbytes(dropped)

    def _forget(self, id: str) -> None:
        record = self._cached.pop(id, None)
        if record is not None:
            self._cached_nbytes -= _nbytes(record)


def _nbytes(record: Record) -> int:
    return _RECORD_NBYTES + 2 * len(record.snapshot)


def _advanced(record: Record, write: StepWrite) -> Record:
    # Not by `replace`, which takes twice the time.
    return Record(
        record.id, record.owner, record.model, record.version, record.digest, record.created_at,
        expires_at=write.expires_at,
        ttl=record.ttl,
        mark=write.next_mark,
        step=write.step,
        snapshot=write.snapshot,
        previous_step=record.step,
        previous=record.snapshot,
        input_digest=write.input_digest,
        ended=write.ended,
    )  # fmt: skip


def _moves_on(record: Record, intent: StepIntent) -> bool:
    """Whether the request begins at the session's step."""
    return intent.at is None or intent.at == record.step


def _is_replay(record: Record, intent: StepIntent) -> bool:
    """Whether to repeat the last answer, and not to do new steps. Raises StepConflict, StepReused, UnknownSession."""
    if record.ended and intent.at != record.previous_step:
        raise _unknown()
    if _moves_on(record, intent):
        return False
    if record.previous is None or intent.at != record.previous_step:
        raise StepConflict(
            f"the session is at step {record.step}, not {intent.at}"
            + ("; only its last step can be done again" if (intent.at or 0) < record.step else ""),
            expected=record.step,
        )
    if record.input_digest != intent.input_digest:
        raise StepReused(
            f"step {intent.at} was done with other content; the session is at step {record.step}",
            where="at",
            expected=record.step,
        )
    return True


def _unknown() -> UnknownSession:
    return UnknownSession("there is no such session, or it has expired")
