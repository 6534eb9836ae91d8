"""Memory for bodies, which callers share."""

from collections import defaultdict

from elman.errors import Overloaded

# Memory in multiples of the largest body: for one party alone, for several,
_ALONE, _SEVERAL = 4, 5
# and for several if the last one holds little.
_WITH_SMALL, _SMALL = 5.5, 1 / 8


class Budget:
    """The bytes that each party holds. A party is a caller with an API key, or without keys an address.

    One alone may hold four of the largest bodies, and then there is room for one of another. While others hold some,
    none may hold more than is free, but for a single body.

    Args:
        largest: bytes of the largest body.

    Attributes:
        num_held: bytes that all hold.
    """

    def __init__(self, largest: int) -> None:
        self.num_held = 0
        self._largest = largest
        self._held: defaultdict[bytes, int] = defaultdict(int)

    def add(self, party: bytes, size: int) -> None:
        """Hold more bytes, also if there is no room for them. Raises Overloaded then."""
        if not size:
            return
        self._held[party] += size
        self.num_held += size
        largest, mine, several = self._largest, self._held[party], len(self._held) > 1
        most = (_WITH_SMALL if mine <= _SMALL * largest else _SEVERAL) if several else _ALONE
        if self.num_held > most * largest:
            raise Overloaded(f"bodies that wait or are being received take {self.num_held} bytes", retry_after=1)
        if several and mine > max(largest, _SEVERAL * largest - self.num_held):
            raise Overloaded(
                f"your bodies that wait or are being received take {mine} bytes; more would leave too little for other "
                "callers",
                retry_after=1,
            )

    def remove(self, party: bytes, size: int) -> None:
        """Hold so many bytes less."""
        self.num_held -= size
        self._held[party] -= size
        if not self._held[party]:
            del self._held[party]
