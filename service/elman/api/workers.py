"""The figures of all workers of one server, from any of them.

Each worker holds a number, by a lock on a file, and gives its own figures at a Unix socket beside it. Whoever is asked
for `/metrics` or `/v1/engine` asks the others. A worker in the place of one that died takes its number, so the label
`worker` is stable. A worker that is stuck gives nothing: `elman_worker_up` is 0.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

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
        folder: where the workers meet. It is made if it does not exist.
        number: of workers that there should be.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._own: dict[str, Callable[[], Any]] = {}
        self._mine: int | None = None

    def offer(self, kind: str, own: Callable[[], Any]) -> None:
        """Give figures of a kind to whoever asks: `own` returns those of this worker, as MessagePack has them."""
        self._own[kind] = own

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
                _LOG.warning("figures are those of one worker only: %s", error.strerror or error)
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
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                own = self._own.get((await reader.readline()).decode("ascii", "replace").rstrip())
                if own is not None:
                    writer.write(msgspec.msgpack.encode(own()))
                    await writer.drain()
        writer.close()

    @property
    def alone(self) -> bool:
        """True if this worker knows of no others."""
        return self._mine is None

    async def ask(self, kind: str) -> dict[int, Any]:
        """What each worker gives of a kind, by its number; None for one that is missing or gave nothing in time."""
        if self._mine is None:
            return {0: self._own[kind]()}
        running = sorted({int(path.stem) for path in self._folder.glob("*.sock")} - {self._mine})
        others = dict(zip(running, await asyncio.gather(*(self._asked(one, kind) for one in running)), strict=True))
        found = {**dict.fromkeys(range(self._number)), **others, self._mine: self._own[kind]()}
        # A worker beyond their number is in the place of another, or is ending.
        return {one: figures for one, figures in sorted(found.items()) if one < self._number or figures is not None}

    async def _asked(self, number: int, kind: str) -> Any:
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                with contextlib.closing(writer):
                    writer.write(f"{kind}\n".encode())
                    return msgspec.msgpack.decode(await reader.read())
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None


def plain(families: Iterable[Metric]) -> list[Any]:
    """Metrics as a worker gives them to the others."""
    return [(one.name, one.documentation, one.type, [sample[:3] for sample in one.samples]) for one in families]


def merged(workers: Mapping[int, list[Any] | None]) -> list[Metric]:
    """The metrics of all workers, each with the number of its worker as a label, and which of them gave theirs."""
    families: dict[str, Metric] = {}
    up = GaugeMetricFamily("elman_worker_up", "1 if the worker gives its figures", labels=("worker",))
    for number, given in workers.items():
        up.add_metric([str(number)], given is not None)
        for name, text, kind, samples in given or ():
            family = families.setdefault(name, Metric(name, text, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "worker": str(number)}, value)
    return [*families.values(), up]
