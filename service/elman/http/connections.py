"""The connections of one server: how many there may be, from where, and how long they may be silent."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Protocol

from elman.errors import Overloaded
from elman.http.bodies import Bodies
from elman.http.endpoint import Driver, Route
from elman.http.turns import Turns

if TYPE_CHECKING:
    from elman.http.exchange import HTTPExchange

# Connections beyond the limit that may still ask for the health. A new one takes the place of the oldest.
_MAX_EXTRA = 64


class Connection(Protocol):
    """What a sweep needs of a connection. `deadline` is on the clock of `time.monotonic`."""

    deadline: float

    def expire(self) -> None:
        """The deadline has passed, or a newer connection needs the place."""

    def forget_heads(self) -> None:
        """Look up the key of the next request anew, although its head is as before."""


class Places:
    """What is open at once: counted in all, and for each address."""

    def __init__(self, limit: int, address_limit: int) -> None:
        """
        Args:
            limit: most in all.
            address_limit: most from one address; 0 for half of `limit`.
        """
        self._limit = limit
        self._address_limit = address_limit or max(1, limit // 2)
        self._taken: dict[object, str] = {}
        self._by_address: Counter[str] = Counter()

    def take(self, holder: object, address: str) -> bool:
        """Count a holder until `give_back`. False if there are too many already. An empty address has no limit."""
        if len(self._taken) >= self._limit or (address and self._by_address[address] >= self._address_limit):
            return False
        self._taken[holder] = address
        self._by_address[address] += 1
        return True

    def give_back(self, holder: object) -> None:
        """A holder is gone. It may be one that got no place."""
        address = self._taken.pop(holder, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


class Connections:
    """Counts connections, and closes those whose deadline has passed in a sweep each second.

    Attributes:
        turns: the turns that their requests take.
    """

    def __init__(self, limit: int, address_limit: int) -> None:
        """
        Args:
            limit: most connections.
            address_limit: most from one address; 0 for half of `limit`.
        """
        self.all: set[Connection] = set()
        self.turns = Turns()
        self._places = Places(limit, address_limit)
        self._extra: dict[Connection, None] = {}

    def admit(self, transport: object, peer: Any) -> bool:
        """Count a connection until `release`. False if there are too many already."""
        return self._places.take(transport, network_of(peer))

    def release(self, transport: object) -> None:
        """A connection is closed. It may be one that was not admitted."""
        self._places.give_back(transport)

    def add(self, connection: Connection, *, extra: bool) -> None:
        """Watch the deadline of a connection. An `extra` one was not admitted."""
        self.all.add(connection)
        if extra:
            self._extra[connection] = None
            if len(self._extra) > _MAX_EXTRA:
                oldest = next(iter(self._extra))
                del self._extra[oldest]  # it is closed on a later turn of the loop only
                oldest.expire()

    def discard(self, connection: Connection) -> None:
        """No longer watch a connection."""
        self.all.discard(connection)
        self._extra.pop(connection, None)

    def forget_heads(self) -> None:
        """Keys have changed: no connection may take the caller of an earlier request for granted."""
        for connection in self.all:
            connection.forget_heads()

    def refusal(self) -> Overloaded:
        """Why a connection that was not admitted gets no answer."""
        return Overloaded("there are too many connections, in all or from this address", retry_after=1)

    async def sweep(self) -> None:
        """Close connections past their deadline, until cancelled.

        A connection must be late in two sweeps: if the event loop itself was blocked, data that arrived is read first.
        """
        late: set[Connection] = set()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            before, late = late, {one for one in self.all if one.deadline < now}
            for connection in late & before:
                connection.expire()


def network_of(peer: Any) -> str:
    """An IPv4 address, or the network of 64 bits of an IPv6 address, which one client usually has to itself.

    Empty if the peer has no address.
    """
    if not isinstance(peer, tuple | list):
        return ""
    address = str(peer[0])
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(IPv6Address(int(parsed) >> 64 << 64))
    return address


class Application(Protocol):
    """What the protocols need of an application, beside ASGI."""

    driver: Driver
    bodies: Bodies
    connections: Connections
    exchange: type["HTTPExchange"]

    def find(self, path: str, headers: Mapping[bytes, bytes]) -> Route | None:
        """The route of a POST; None if it is to be served as ASGI. Raises ElmanError."""

    def party(self, headers: Mapping[bytes, bytes], address: bytes) -> bytes:
        """Whose share of the server a request takes: the owner of its key, or without keys its address."""

    def is_admin(self, address: Any) -> bool:
        """Whether an address of the server, host and port, is that of its admin port."""


def served_by(app: Any) -> Application:
    """The application inside uvicorn's wrappers. Raises TypeError if it was not made by `create_app`."""
    inner = app
    while not hasattr(inner, "connections"):
        inner = getattr(inner, "app", None)
        if inner is None:
            raise TypeError("this protocol serves only applications made by elman.create_app")
    served: Application = inner
    return served
