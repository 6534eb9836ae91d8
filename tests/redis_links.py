"""A link to a Redis server, which a test can slow down, hold up or cut."""

import asyncio
import contextlib
import math
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self


@dataclass
class Connection:
    """One that a link passes on.

    Attributes:
        who: the name that its client has told, or "replica".
        begun: whether its client has sent more than about itself, as it does at first.
    """

    who: str = ""
    begun: bool = False


Rule = Callable[[Connection, bool], float | None]
"""What becomes of some bytes of a connection, which are a reply or not.

They are late by so many seconds. Infinity holds them until the rule is another, and None cuts the connection.
"""
HELD = math.inf
# A client tells its name (`client_name` in a URL of redis-py), a Sentinel does too, and a replica says what it is.
_NAME = re.compile(rb"SETNAME\r\n\$\d+\r\n([\w-]+?)(?:-[0-9a-f]{8}\S*)?\r\n|(REPLCONF)", re.IGNORECASE)
_TICK = 0.01


def passes(connection: Connection, is_reply: bool) -> float | None:
    """The rule of a sound link."""
    return 0.0


@dataclass
class Lossy:
    """The rule of a link that loses some replies, with their connections. What comes before them gets through."""

    num_replies: int

    def __call__(self, connection: Connection, is_reply: bool) -> float | None:
        if not is_reply or not connection.begun or self.num_replies == 0:
            return 0.0
        self.num_replies -= 1
        return None


class LossyOnce:
    """The rule of a link that loses one reply, with its connection. Before its client sees that, something happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=self._happen, args=(happens,), daemon=True)
        self._connection: Connection | None = None
        self.error: BaseException | None = None

    def __call__(self, connection: Connection, is_reply: bool) -> float | None:
        if self._connection is None and is_reply and connection.begun:
            self._connection = connection
            # In a thread, since it may need the link.
            self._thread.start()
        if connection is not self._connection or not is_reply:
            return 0.0
        return HELD if self._thread.is_alive() else None

    def _happen(self, happens: Callable[[], object]) -> None:
        try:
            happens()
        except BaseException as error:
            self.error = error

    @property
    def is_done(self) -> bool:
        """Whether a reply was lost, after all happened as it should."""
        return self._connection is not None and self.error is None and not self._thread.is_alive()


class Link:
    """Listens on `port` of loopback, and passes on what is sent to the server behind it, as `rule` says."""

    def __init__(self, server_port: int) -> None:
        self.rule: Rule = passes
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._serving = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(10.0)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listening)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            connection = Connection()
            with contextlib.closing(server_writer):
                asking = asyncio.ensure_future(self._pass_on(reader, server_writer, connection, False))
                replying = asyncio.ensure_future(self._pass_on(server_reader, writer, connection, True))
                try:
                    await asyncio.wait((asking, replying), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    asking.cancel()
                    replying.cancel()

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, connection: Connection, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while content := await source.read(65536):
                connection.begun |= not is_reply and b"CLIENT\r\n" not in content
                if not is_reply and not connection.who and (found := _NAME.search(content)):
                    connection.who = found[1].decode() if found[1] else "replica"
                while (late := self.rule(connection, is_reply)) == HELD:
                    await asyncio.sleep(_TICK)
                if late is None:
                    return
                if late:
                    await asyncio.sleep(late)
                target.write(content)
                await target.drain()
