"""Several server processes on one address. Each has its own engine, and all share the sessions of one store."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import typer

from elman.api.workers import meeting_folder
from elman.cli.exits import CANNOT_START
from elman.cli.garbage import collect_rarely
from elman.cli.jobs.listening import hold_port
from elman.cli.jobs.server import FORCE_SECONDS
from elman.http.accepting import NOT_ACCEPTING, Counts
from elman.http.keys import KeysFile
from elman.http.process import drop_silent_peers
from elman.sessions.tokens import own_key
from elman.settings import Settings

BEAT_SECONDS = 1.0
"""A worker sends a beat this often."""

# A worker that sends none for so long is replaced: a long run blocks no beat.
_SILENCE_SECONDS = 60.0
# A worker that ended before it was ready is replaced only after this time.
_START_AGAIN_SECONDS = 1.0
# Workers that may be ending beside those that run and those that come in their place.
_SPARE_PLACES = 64

_SPAWN = multiprocessing.get_context("spawn")
_LOG = logging.getLogger("uvicorn.error")


def run_workers(
    settings: Settings, keys: KeysFile | None, sockets: list[socket.socket], options: dict[str, Any]
) -> None:
    """Serve with `settings.workers` processes until told to stop. Exits with 3 if they cannot start.

    A worker that dies is replaced. SIGHUP replaces all, one after the other.

    Args:
        keys: the file of keys.
        sockets: bound already.
        options: of `uvicorn.Config`.
    """
    if not settings.state_keys and not settings.is_remote:
        # All workers must seal state tokens with the same key.
        settings = settings.model_copy(update={"state_keys": (own_key(settings.store_dir),)})
    for one in sockets:
        drop_silent_peers(one, settings.stream_timeout)
    try:
        with contextlib.ExitStack() as stack:
            if settings.grpc_port is not None:
                held = stack.enter_context(hold_port(settings.grpc_host, settings.grpc_port))
                settings = settings.model_copy(update={"grpc_port": held.getsockname()[1]})
                _LOG.info("gRPC running on %s, port %d", settings.grpc_host, settings.grpc_port)
            Supervisor(settings, keys, sockets, options).run()
    finally:
        shutil.rmtree(meeting_folder(settings.store_dir, os.getpid()), ignore_errors=True)


@dataclass(eq=False)
class Worker:
    """A process that serves.

    Attributes:
        beats: what it sends while it goes on.
        heard: when it last did, on the clock of `time.monotonic`; at first, when it was started.
        place: of its number of connections among those of all.
        ready: True once it takes connections.
        replaces: the worker that ends once this one is ready.
    """

    process: BaseProcess
    beats: Connection
    heard: float
    place: int
    ready: bool = False
    replaces: "Worker | None" = None

    @property
    def dead(self) -> bool:
        return self.process.exitcode is not None

    @property
    def hangs(self) -> bool:
        """True if it has been silent for too long. Loading its models may take longer than a beat."""
        return self.ready and time.monotonic() - self.heard > _SILENCE_SECONDS

    def listen(self) -> None:
        """Take in its beats."""
        try:
            while self.beats.poll():
                self.beats.recv_bytes()
                self.heard, self.ready = time.monotonic(), True
        except (EOFError, OSError):  # it is ending
            pass

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.pid is not None and not self.dead:
            os.kill(self.process.pid, number)

    def close(self) -> None:
        """Give back what a dead worker holds: descriptors, which would be kept until a collection of garbage."""
        self.beats.close()
        self.process.close()


class Supervisor:
    """Starts the workers, and replaces those that die or hang."""

    def __init__(
        self, settings: Settings, keys: KeysFile | None, sockets: list[socket.socket], options: dict[str, Any]
    ) -> None:
        self._settings = settings
        # Kept up to date, so that a worker can start while the file is broken.
        self._keys = keys
        self._sockets = sockets
        self._options = options
        self._workers: list[Worker] = []
        # Workers that were told to end.
        self._leaving: list[Worker] = []
        # Workers that are still to be replaced by a restart of all.
        self._outdated: list[Worker] = []
        # How many connections each worker has. Those that are being replaced have places too.
        self._counts: Counts = _SPAWN.RawArray("i", [NOT_ACCEPTING] * (2 * settings.workers + _SPARE_PLACES))
        self._start_again_at = 0.0
        self._stopping = self._restarting = False
        self._woken, self._wake = socket.socketpair()

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT."""
        self._take_signals()
        self._fill()
        _LOG.info("Started %d workers under process [%d]", len(self._workers), os.getpid())
        while not self._stopping:
            self._wait(BEAT_SECONDS)
            self._remove_dead()
            self._hand_over()
            self._fill()
        self._end_all()

    def _take_signals(self) -> None:
        def stop(number: int, frame: Any) -> None:
            self._stopping = True

        def restart(number: int, frame: Any) -> None:
            self._restarting = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        signal.signal(signal.SIGHUP, restart)
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def _start(self) -> Worker:
        beats, sender = _SPAWN.Pipe(duplex=False)
        taken = {one.place for one in self._workers + self._leaving}
        place = next(one for one in range(len(self._counts)) if one not in taken)
        report = not taken  # the first one says what all of them serve
        arguments = (self._settings, self._keys, self._sockets, self._options, sender, self._counts, place, report)
        process = _SPAWN.Process(target=_serve, args=arguments)
        process.start()
        sender.close()
        return Worker(process, beats, time.monotonic(), place)

    def _wait(self, seconds: float) -> None:
        """Wait for a signal, a beat or a death."""
        everyone = self._workers + self._leaving
        wait([self._woken, *(one.process.sentinel for one in everyone)], seconds)
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass
        for worker in self._workers:
            worker.listen()
        for worker in [one for one in self._leaving if one.dead]:
            self._leaving.remove(worker)
            self._close(worker)
        if self._keys is not None:
            self._keys.refresh()

    def _remove_dead(self) -> None:
        for worker in [one for one in self._workers if one.dead or one.hangs]:
            if not worker.dead:
                _LOG.error("Worker [%s] hangs", worker.process.pid)
                worker.end(signal.SIGKILL)
                worker.process.join()
            _LOG.warning("Worker [%s] ended with %s", worker.process.pid, worker.process.exitcode)
            self._workers.remove(worker)
            if not worker.ready:
                self._did_not_start(worker)
            for successor in self._workers:
                if successor.replaces is worker:
                    successor.replaces = None
            self._outdated = [one for one in self._outdated if one is not worker]
            self._close(worker)

    def _close(self, worker: Worker) -> None:
        """Forget a dead worker."""
        self._counts[worker.place] = NOT_ACCEPTING
        worker.close()

    def _did_not_start(self, worker: Worker) -> None:
        """Try again a little later. Exits with 3 if there is no reason to hope: none could start."""
        self._start_again_at = time.monotonic() + _START_AGAIN_SECONDS
        if worker.process.exitcode == CANNOT_START and not any(one.ready for one in self._workers):
            _LOG.error("Worker [%s] cannot start: stopping", worker.process.pid)
            self._end_all()
            raise typer.Exit(CANNOT_START)
        if worker.replaces is not None:
            _LOG.error("The restart is given up: the new worker did not start")
            self._outdated = []

    def _hand_over(self) -> None:
        """Go on with a restart of all: a worker ends once the one in its place takes connections."""
        for worker in self._workers:
            if worker.ready and worker.replaces is not None:
                before, worker.replaces = worker.replaces, None
                before.end()
                self._leaving.append(before)
        self._workers = [one for one in self._workers if one not in self._leaving]
        replaced = [one.replaces for one in self._workers if one.replaces is not None]
        if self._restarting:
            self._restarting = False
            _LOG.info("Restarting the workers")
            self._outdated = [one for one in self._workers if one not in replaced]
        if self._outdated and not replaced:
            successor = self._start()
            successor.replaces = self._outdated.pop(0)
            self._workers.append(successor)

    def _fill(self) -> None:
        """Start as many workers as are missing, beside those that come in the place of another."""
        if time.monotonic() >= self._start_again_at:
            places = sum(one.replaces is None for one in self._workers)
            for _ in range(self._settings.workers - places):
                self._workers.append(self._start())

    def _end_all(self) -> None:
        """Tell all workers to end, and end those that do not by force."""
        # While any process has them open, clients can connect, but nobody would answer them.
        for one in self._sockets:
            one.close()
        everyone = self._workers + self._leaving
        for worker in everyone:
            worker.end()
        until = time.monotonic() + self._settings.drain_timeout + 2 * FORCE_SECONDS
        for worker in everyone:
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.end(signal.SIGKILL)


def _serve(*arguments: Any) -> None:
    """What the process of a worker runs."""
    collect_rarely()
    # Imported here, since the supervisor does without what serves.
    from elman.cli.jobs.worker import serve_as_worker

    serve_as_worker(*arguments)
