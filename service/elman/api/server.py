"""What the routes share: repository, engine, sessions, and a queue and a decoder per model."""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.api.v2.ports import Ports
from elman.codec.answer import OutputFormat
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.faults import echoed
from elman.codec.input_format import InputFormat, input_format
from elman.codec.json import JSONDecoder
from elman.codec.limits import Limits
from elman.codec.pool import CodecPool
from elman.engine.engine import Engine
from elman.engine.queue import ModelQueue, Stats
from elman.engine.scheduler import Policy
from elman.errors import ModelChanged, ModelLoading, ModelRefused, NotByRequest, StoreUnavailable, UnknownModel
from elman.http.short import Results
from elman.repository.load_cache import LoadCache
from elman.repository.model import Model
from elman.repository.repository import Refusal, Repository
from elman.sessions.sessions import Sessions
from elman.sessions.snapshot import SnapshotFormat
from elman.sessions.store import Record, Store, Usage
from elman.sessions.stores.lmdb import LMDBStore
from elman.sessions.stores.memory import MemoryStore
from elman.sessions.timing import StoreTimes, TimedStore
from elman.sessions.tokens import StateTokens, own_key
from elman.settings import Settings

if TYPE_CHECKING:
    from elman.api.v2.repeated import Pattern
    from elman.sessions.stores.redis import RedisStore

_LOG = logging.getLogger("elman")

# Most replaced models that are kept for the sessions that started with them.
_MAX_RETIRED = 4
# For how long a look at the folder says that the model of a session is not there, and for how many of them at most.
_MISSED_SECONDS = 60.0
_MAX_MISSED = 1000
# Largest examples.json that is read, in bytes.
_MAX_EXAMPLES_BYTES = 2**20


@dataclass(frozen=True)
class ServedModel:
    """One model version, and its queue, decoder and output format."""

    model: Model
    queue: ModelQueue
    decoder: JSONDecoder
    outputs: OutputFormat

    @cached_property
    def format(self) -> InputFormat:
        """Its input on the wire."""
        return self.decoder.format

    @cached_property
    def key(self) -> tuple[str, int]:
        """Its name and version."""
        return self.model.name, self.model.version

    @cached_property
    def snapshots(self) -> SnapshotFormat:
        """The format of its snapshots."""
        return SnapshotFormat(self.model)

    @cached_property
    def autoregressive(self) -> AutoregressiveDecoder:
        """The decoder of its generate, forecast and influence requests."""
        return AutoregressiveDecoder(self.model, self.decoder)

    @cached_property
    def ports(self) -> Ports:
        """Its tensors in the Open Inference Protocol."""
        return Ports(self.model, self.format)

    @cached_property
    def patterns(self) -> Results[bytes, "Pattern | None"]:
        """What requests with binary tensors have in common, by their JSON. None for those that are read one by one."""
        return Results()

    @cached_property
    def digest(self) -> bytes:
        """The model's digest, 32 bytes."""
        return bytes.fromhex(self.model.digest.removeprefix("sha256:"))


# A step of a block takes about as long: others wait for it.
_BLOCK_SECONDS = 1e-3

Served = dict[str, dict[int, ServedModel]]
"""Models by name and version."""

Retired = dict[tuple[str, int, bytes], ServedModel]
"""Replaced models by name, version and digest, the oldest first."""


def policy_of(model: Model, settings: Settings) -> Policy:
    """How the engine may batch a model, as its proof allows."""
    network, proof = model.network, model.proof
    alone, fast = proof.batched == "alone", int(_BLOCK_SECONDS / model.calibration.row_step)
    batch = 1 if alone else settings.max_batch or model.calibration.batch
    return Policy(
        max_batch=batch,
        max_block=batch if alone or settings.max_batch else max(batch, min(fast, proof.max_rows)),
        max_chunk=1 if network.layout == "step" else settings.max_chunk,
        chunked=proof.chunked,
        steps_singly=network.outputs == "last",
        grouping=proof.batched,
        cost=model.calibration,
    )


class Server:
    """The running parts behind one application."""

    def __init__(self, settings: Settings, new_stats: Callable[[], Stats] = Stats) -> None:
        """
        Args:
            new_stats: makes what counts the runs of a model.
        """
        self.settings = settings
        self._new_stats = new_stats
        self.limits = Limits(settings.max_steps, settings.max_queue)
        self.repository = Repository(
            settings.repository, settings.load_timeout, settings.load_memory or None, _load_cache(settings)
        )
        self.store_times = StoreTimes()
        self.sessions = Sessions(
            lambda: TimedStore(self._open_store(), self.store_times),
            Usage(settings.max_sessions, settings.max_session_bytes),
            settings.session_ttl,
            settings.hot_session_bytes,
            shared=settings.workers > 1 or settings.is_remote,
            remote=settings.is_remote,
            timeout=settings.store_timeout,
        )
        self.engine = Engine(
            settings.max_queue,
            settings.max_queue_seconds,
            self.sessions.commit,
            num_savers=_num_savers(settings),
            save_timeout=settings.store_timeout,
            run_timeout=settings.run_timeout,
        )
        self.pool = CodecPool(largest=settings.max_body)
        self.ready = False
        self._shared_key: str | None = None
        self._served: Served = {}
        # Neither is changed in place: a thread makes new ones, and the event loop puts them here.
        self._retired: Retired = {}
        self._unopened: list[tuple[Model, ModelRefused]] = []
        self._changing = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._stop_at: float | None = None
        # When the last look at the folder began that is finished, and when models of sessions were missed first.
        self._looked_at = 0.0
        self._missed: dict[tuple[str, int, bytes], float] = {}

    async def start(self) -> None:
        """Load the repository, start the engine, and begin to poll for changed models. May follow `stop`."""
        self._stop_at = None
        self._changing = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._look_now = asyncio.Event()
        self.pool.open()
        self.repository.open()
        await self._change(self.repository.load)
        if self.warning:
            _LOG.warning(self.warning)
        await self.sessions.start()
        self.engine.start(asyncio.get_running_loop())
        self.ready = True
        if self.settings.poll:
            self._polling = asyncio.create_task(self._poll())

    async def load(self, name: str) -> None:
        """Load a model, or load it again, while serving. Raises UnknownModel, ModelRefused and NotByRequest."""
        self._check_alone()
        await self._change(lambda: self.repository.load_name(name))
        for model, refused in self._unopened:
            if model.name == name:
                raise refused

    async def unload(self, name: str) -> None:
        """Stop serving a model. Its queued sequences are finished. Raises UnknownModel and NotByRequest."""
        self._check_alone()
        await self._change(lambda: self.repository.unload_name(name))

    def _check_alone(self) -> None:
        """Raise NotByRequest if other processes serve the same sessions: a request reaches one of them only."""
        others = "workers" if self.settings.workers > 1 else "servers" if self.settings.is_remote else None
        if others is not None:
            raise NotByRequest(
                f"only one of several {others} would load or unload it; change the folder of the models instead, at "
                "which each looks every ELMAN_POLL seconds"
            )

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.poll):
                    await self._look_now.wait()
            self._look_now.clear()
            began = time.monotonic()
            try:
                await self._change(self.repository.load)
                self._looked_at = began
            except OSError as error:
                # The folder may be gone for a moment, for example while a volume is mounted. Loaded models stay.
                _LOG.warning("the model repository cannot be read: %s", error.strerror)
            except Exception:  # polling goes on after any error
                _LOG.exception("polling the model repository failed")

    async def _change(self, change: Callable[[], None]) -> None:
        """Change the repository in a thread, then serve the models that it holds."""
        async with self._changing:
            try:
                await asyncio.to_thread(change)
            finally:
                self._served, self._retired, self._unopened = await asyncio.to_thread(self._serve_all)

    def _serve_all(self) -> tuple[Served, Retired, list[tuple[Model, ModelRefused]]]:
        """What is served, what is retired, and what could not be opened, after a change of the repository."""
        served: Served = {}
        retired = dict(self._retired)
        unopened = []
        for model in self.repository:
            before = self._served.get(model.name, {}).get(model.version)
            now = before
            # An unchanged model keeps its queue. A changed one gets a new queue, and the old queue is finished.
            if before is None or before.model is not model:
                try:
                    now = self._open(model)
                except ModelRefused as refused:  # the other models, and what was served before, are served all the same
                    unopened.append((model, refused))
            if now is None:
                continue
            served.setdefault(model.name, {})[model.version] = now
            if before is not None and now is not before:
                # Kept for the sessions that started with it.
                retired[before.model.name, before.model.version, before.digest] = before
        return served, dict(list(retired.items())[-_MAX_RETIRED:]), unopened

    def _open(self, model: Model) -> ServedModel:
        """Open a model. It is tried once. Raises ModelRefused."""
        known = next((refused for other, refused in self._unopened if other is model), None)
        if known is not None:
            raise known
        try:
            return self._serve(model)
        except Exception as error:
            _LOG.exception("%s version %d cannot be opened", model.name, model.version)
            raise ModelRefused(f"version {model.version} cannot be opened: {type(error).__name__}") from None

    @property
    def refusals(self) -> list[Refusal]:
        """The model files that are not served, and why."""
        unopened = [Refusal(model.name, model.version, refused) for model, refused in self._unopened]
        return self.repository.refusals + unopened

    def _serve(self, model: Model) -> ServedModel:
        queue = ModelQueue(model, policy_of(model, self.settings), self._new_stats())
        limits = self.limits
        if not model.proof.chunked:
            # A sequence that cannot be run in chunks blocks all others until it ends.
            limits = replace(limits, max_steps=min(limits.max_steps, self.settings.max_whole_steps))
        return ServedModel(model, queue, JSONDecoder(input_format(model), limits), OutputFormat(model))

    def stopping(self, at_once: bool = False) -> None:
        """The server was told to stop: not ready, and from now on the time counts that draining may take.

        `at_once` ends that time.
        """
        self.ready = False
        if self._stop_at is None or at_once:
            self._stop_at = time.monotonic() + (0.0 if at_once else self.settings.drain_timeout)

    async def stop(self) -> None:
        """Refuse new work, finish the queued sequences, and stop."""
        self.stopping()
        assert self._stop_at is not None, "set by stopping()"
        if self._polling is not None:
            self._polling.cancel()
        await asyncio.to_thread(self.repository.close)
        await self.engine.drain(max(0.0, self._stop_at - time.monotonic()))
        self.engine.close()
        self.pool.close()
        await asyncio.to_thread(self.sessions.close)

    @property
    def failure(self) -> str | None:
        """Why the process must be replaced: its engine does not work. None if it does."""
        return self.engine.stuck() if self.engine.alive else "the engine's threads are not running"

    @property
    def warning(self) -> str | None:
        """What an operator should know although the server is ready: that every model file is refused."""
        refused = len(self.refusals)
        if not refused or self._served:
            return None
        return f"no model is served: all {refused} in the repository are refused; GET /v1/models says why"

    def served(self, name: str, version: str | None = None) -> ServedModel:
        """A model, at its default version or at `version`, which is text from a path. Raises UnknownModel."""
        versions = self._served.get(name)
        if versions is None:
            refused = any(refusal.name == name for refusal in self.refusals)
            why = "was refused at load; see GET /v1/models" if refused else "is not served"
            raise UnknownModel(f"the model {echoed(name)!r} {why}", expected=sorted(self._served) or None)
        if version is None:
            return versions[max(versions)]
        number = int(version) if re.fullmatch(r"[1-9][0-9]{0,8}", version) else None
        if number not in versions:
            raise UnknownModel(f"the model {name!r} has no version {version[:20]!r}", expected=sorted(versions))
        return versions[number]

    def served_in(self, parameters: Mapping[str, str]) -> ServedModel:
        """The model that the path parameters name. Raises UnknownModel."""
        return self.served(parameters["name"], parameters.get("version"))

    def served_to(self, record: Record) -> ServedModel:
        """The model that a session started with. Raises UnknownModel, ModelChanged and ModelLoading."""
        key = (record.model, record.version, record.digest)
        served = self._served.get(record.model, {}).get(record.version)
        if served is not None and served.digest == record.digest:
            return served
        retired = self._retired.get(key)
        if retired is not None:
            return retired
        if self._may_come(key):
            raise ModelLoading(
                f"the session started with version {record.version} of {record.model!r}, which the folder may have",
                retry_after=1,
            )
        if served is None:
            raise UnknownModel(f"the session's model, {record.model!r} version {record.version}, is no longer served")
        raise ModelChanged(
            f"version {record.version} of {record.model!r} is not the file that the session started with",
            expected=f"sha256:{record.digest.hex()}",
        )

    def _may_come(self, key: tuple[str, int, bytes]) -> bool:
        """Whether the folder may have the model of a session, which another server has seen before this one.

        If so, it is looked at, once: what is not there then is not waited for.
        """
        if not self.settings.poll:
            return False
        now = time.monotonic()
        missed = self._missed.get(key)
        if missed is None or now - missed > _MISSED_SECONDS:
            if len(self._missed) >= _MAX_MISSED:
                self._missed.clear()
            missed = self._missed[key] = now
            self._loop.call_soon_threadsafe(self._look_now.set)
        return self._looked_at < missed

    def examples(self, served: ServedModel) -> list[Any]:
        """The held-out sequences in a model's examples.json; none if there is no such file or it is not valid."""
        path = self.settings.repository / served.model.name / str(served.model.version) / "examples.json"
        try:
            stat = path.stat()
            return _examples(path, stat.st_mtime_ns, stat.st_size)
        except (OSError, ValueError):
            return []

    @cached_property
    def tokens(self) -> StateTokens:
        """Seals and opens state tokens. Raises StoreUnavailable if their key is in a store that does not work."""
        if self.settings.state_keys:
            return StateTokens(self.settings.state_keys)
        if not self.settings.is_remote:
            return StateTokens((own_key(None if self.settings.store == "memory" else self.settings.store_dir),))
        if self._shared_key is None:
            raise StoreUnavailable("the session store, which has the key of state tokens, does not work", retry_after=1)
        return StateTokens((self._shared_key,))

    def _open_store(self) -> Store:
        """Raises StoreUnavailable."""
        settings = self.settings
        if settings.is_remote:
            store = open_remote(settings)
            self._shared_key = store.state_key
            return store
        if settings.store == "memory":
            return MemoryStore()
        return LMDBStore(settings.store_dir, settings.store_bytes, settings.store_sync)

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are served, ascending."""
        return sorted(self._served.get(name, {}))

    def defaults(self) -> list[ServedModel]:
        """Every model at its default version, by name."""
        return [versions[max(versions)] for _, versions in sorted(self._served.items())]

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self._served.values():
            yield from versions.values()


@lru_cache(256)
def _examples(path: Path, changed: int, size: int) -> list[Any]:
    """The list in an examples file, read again when it has changed. Raises OSError and ValueError."""
    if size > _MAX_EXAMPLES_BYTES:
        raise ValueError(f"examples.json has more than {_MAX_EXAMPLES_BYTES} bytes")
    examples = json.loads(path.read_bytes())
    if not isinstance(examples, list):
        raise ValueError("examples.json is not a list")
    return [
        example
        for example in examples
        if isinstance(example, dict) and isinstance(example.get("title"), str) and "sequence" in example
    ]


def _load_cache(settings: Settings) -> LoadCache | None:
    """What keeps the results of loads: in the store's folder, unless another one is set."""
    folder = settings.load_cache_dir
    if folder is None and settings.store != "memory":
        folder = settings.store_dir / "loads"
    return None if folder is None or not settings.load_cache_bytes else LoadCache(folder, settings.load_cache_bytes)


def _num_savers(settings: Settings) -> int:
    """Threads that write steps: none where a write never waits, and one where a file takes one write at a time."""
    if settings.store == "memory":
        return 0
    return 2 if settings.is_remote else 1


def open_remote(settings: Settings) -> "RedisStore":
    """The store at a URL. Raises StoreUnavailable, and RefusedStore if it must not be used as it is."""
    try:
        from elman.sessions.stores.redis import RedisStore
    except ImportError:
        raise StoreUnavailable("a session store at a URL needs redis: pip install 'elman[redis]'") from None
    return RedisStore(settings.store, settings.store_replicas)
