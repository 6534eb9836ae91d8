"""The figures of all workers of one server, from any of them.

Each worker holds a number, by a lock on a file, and gives its own figures at a Unix socket beside it. Whoever is asked
for `/metrics` asks the others. A worker in the place of one that died takes its number, so the label `worker` is
stable. A worker that is stuck gives nothing: `elman_worker_up` is 0.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import count
from pathlib import Path

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

# How long the others may take to answer.
_PATIENCE = 2.0

_LOG = logging.getLogger("elman")


def meeting_folder(store_dir: Path, parent: int) -> Path:
    """Where the workers that `parent` started meet. The id of that process tells them from those of other servers."""
    return store_dir / f"workers-{parent}"


class Workers:
    """The workers of one server, as one of them sees them.

    Args:
        own: the figures of this worker.
        folder: where the workers meet. It is made if it does not exist.
        number: of workers that there should be.
    """

    def __init__(self, own: Callable[[], Iterable[Metric]], folder: Path, number: int) -> None:
        self._own = own
        self._folder = folder
        self._number = number
        self._mine: int | None = None

    @contextlib.asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Give the figures of this worker to the others meanwhile, if there are others."""
        if self._number == 1:
            yield
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._mine, lock = next(filter(None, map(self._claimed, count())))
                stack.callback(os.close, lock)
                path = self._socket(self._mine)
                path.unlink(missing_ok=True)
                await stack.enter_async_context(await asyncio.start_unix_server(self._give, path))
                stack.callback(path.unlink, missing_ok=True)
            except OSError as error:
                _LOG.warning("/metrics has the figures of one worker only: %s", error.strerror or error)
                self._mine = None
            yield

    def _claimed(self, number: int) -> tuple[int, int] | None:
        """A number and its lock, which the kernel frees when the process ends; None if another worker holds it."""
        lock = os.open(self._folder / f"{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return number, lock

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.sock"

    async def _give(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(_encode(self._own()))
            await writer.drain()
        writer.close()

    async def collect(self) -> list[Metric]:
        """The figures of all workers, each with the number of its worker as a label."""
        if self._mine is None:
            return list(self._own())
        running = {int(path.stem) for path in self._folder.glob("*.sock")} - {self._mine}
        others = dict(zip(running, await asyncio.gather(*map(self._ask, running)), strict=True))
        answered = {number: families for number, families in others.items() if families is not None}
        answered[self._mine] = list(self._own())
        up = GaugeMetricFamily("elman_worker_up", "1 if the worker gives its figures", labels=("worker",))
        for number in sorted({*range(self._number), *answered}):
            up.add_metric([str(number)], number in answered)
        return [*_merged(answered), up]

    async def _ask(self, number: int) -> list[Metric] | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                with contextlib.closing(writer):
                    return _decode(await reader.read())
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None


def _encode(families: Iterable[Metric]) -> bytes:
    return msgspec.msgpack.encode(
        [(one.name, one.documentation, one.type, [sample[:3] for sample in one.samples]) for one in families]
    )


def _decode(content: bytes) -> list[Metric]:
    families = []
    for name, text, kind, samples in msgspec.msgpack.decode(content):
        family = Metric(name, text, kind)
        for sample in samples:
            family.add_sample(*sample)
        families.append(family)
    return families


def _merged(workers: dict[int, list[Metric]]) -> list[Metric]:
    merged: dict[str, Metric] = {}
    for number, families in sorted(workers.items()):
        for one in families:
            family = merged.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            for sample in one.samples:
                family.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
    return list(merged.values())
