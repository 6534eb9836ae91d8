"""What the routes share: the repository, the engine, a lane and a decoder for each model, and the counters."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from service.codec.format import Format, format_of
from service.codec.json import JSONDecoder
from service.codec.request import Limits
from service.codec.worker import DecodingWorker
from service.engine.engine import Engine, Lane
from service.engine.scheduler import Policy
from service.errors import UnknownModel
from service.repository.model import Model
from service.repository.repository import Repository
from service.settings import Settings

_LOG = logging.getLogger("elman")


@dataclass(frozen=True)
class Served:
    """One model version with all that serving it takes."""

    model: Model
    lane: Lane
    format: Format
    decoder: JSONDecoder


def policy_of(model: Model, settings: Settings) -> Policy:
    """How the engine may batch a model, by what was proved of it."""
    network, proof = model.network, model.proof
    return Policy(
        max_batch=1 if proof.batched == "alone" else settings.max_batch or model.calibration.batch,
        max_chunk=1 if network.layout == "step" else settings.max_chunk,
        chunked=proof.chunked,
        steps_singly=network.outputs == "last",
        grouping=proof.batched,
        cost=model.calibration,
    )


class Server:
    """The running parts behind one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = Limits(settings.max_steps, settings.max_queue)
        self.repository = Repository(settings.models, settings.load_timeout, settings.load_memory or None)
        self.engine = Engine(settings.max_queue, settings.max_queue_seconds)
        self.decoding = DecodingWorker()
        self.ready = False
        self._served: dict[str, dict[int, Served]] = {}
        self._changing = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the repository, start the engine, and look for changed models from then on."""
        await self._change(self.repository.load)
        self.engine.start(asyncio.get_running_loop())
        self.ready = True
        if self.settings.poll:
            self._polling = asyncio.create_task(self._poll())

    async def load(self, name: str) -> None:
        """Load a model, or load it again, while serving. Raises UnknownModel and ModelRefused."""
        await self._change(lambda: self.repository.load_name(name))

    async def unload(self, name: str) -> None:
        """Serve a model no more; what is queued for it is finished. Raises UnknownModel."""
        await self._change(lambda: self.repository.unload_name(name))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll)
            try:
                await self._change(self.repository.load)
            except OSError as error:
                # The folder may be gone for a moment, as when a volume is mounted anew. What is loaded stays.
                _LOG.warning("the model repository cannot be read: %s", error.strerror)
            except Exception:  # whatever one look meets, the next is to be taken
                _LOG.exception("looking at the model repository failed")

    async def _change(self, change: Callable[[], None]) -> None:
        """Change the repository off the event loop, then serve what it holds, then let go of what it dropped."""
        async with self._changing:
            try:
                await asyncio.to_thread(change)
            finally:
                self._served = await asyncio.to_thread(self._serve_all)

    def _serve_all(self) -> dict[str, dict[int, Served]]:
        served: dict[str, dict[int, Served]] = {}
        for model in self.repository:
            before = self._served.get(model.name, {}).get(model.version)
            # A model that did not change keeps its lane; one that did gets another, and the old lane is finished.
            try:
                one = before if before is not None and before.model is model else self._serve(model)
            except Exception:  # one model that cannot be opened is not to keep the others from being served
                _LOG.exception("%s version %d cannot be opened", model.name, model.version)
                continue
            served.setdefault(model.name, {})[model.version] = one
        return served

    def _serve(self, model: Model) -> Served:
        lane = Lane(model, policy_of(model, self.settings))
        format, limits = format_of(model), self.limits
        if not model.proof.chunked:
            # What is run whole holds up everything else for as long as it takes.
            limits = replace(limits, max_steps=min(limits.max_steps, self.settings.max_whole_steps))
        return Served(model, lane, format, JSONDecoder(format, limits))

    async def stop(self) -> None:
        """Take no new work, finish what is queued, stop."""
        self.ready = False
        if self._polling is not None:
            self._polling.cancel()
        await asyncio.to_thread(self.repository.close)
        await self.engine.drain(self.settings.drain_timeout)
        self.engine.close()
        self.decoding.close()

    def served(self, name: str, version: str | None = None) -> Served:
        """A model ready to run, at its default version unless one is given, as it stands in a path.

        Raises UnknownModel.
        """
        versions = self._served.get(name)
        if versions is None:
            refused = any(refusal.name == name for refusal in self.repository.refusals)
            why = "was refused at load; see GET /v1/models" if refused else "is not served"
            raise UnknownModel(f"the model {name!r} {why}", expected=sorted(self._served) or None)
        if version is None:
            return versions[max(versions)]
        number = int(version) if re.fullmatch(r"[1-9][0-9]{0,8}", version) else None
        if number not in versions:
            raise UnknownModel(f"the model {name!r} has no version {version[:20]!r}", expected=sorted(versions))
        return versions[number]

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are served, ascending."""
        return sorted(self._served.get(name, {}))

    def defaults(self) -> list[Served]:
        """Every model at its default version, by name."""
        return [versions[max(versions)] for _, versions in sorted(self._served.items())]

    def __iter__(self) -> Iterator[Served]:
        for versions in self._served.values():
            yield from versions.values()
