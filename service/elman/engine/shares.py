"""How the callers share the room of the queue."""

# A party that holds no more than this part of the queue may hold it while others fill the queue,
_SMALL_SHARE = 1 / 32
# and all such parties together this part.
_SMALL_SHARES = 1 / 8


class Shares:
    """The pending sequences of each party, and their seconds by the calibrated cost.

    A party is a caller with an API key, or without keys an address. Once there are several, none may hold more than is
    free. So one alone gets half of the queue, two get a third each, and there is always room for another.

    Args:
        max_sequences, max_seconds: the room of the queue.

    Attributes:
        several: whether there are, or were, several parties.
    """

    def __init__(self, max_sequences: int, max_seconds: float) -> None:
        self.several = False
        self._max_sequences = max_sequences
        self._max_seconds = max_seconds
        self._held: dict[bytes, tuple[int, float]] = {}
        self._last: bytes | None = None

    def held(self, party: bytes) -> int:
        """Pending sequences of a party."""
        return self._held.get(party, _NOTHING)[0]

    def extra(self, party: bytes, num_sequences: int, seconds: float) -> float:
        """By which part of the queue a party may exceed it with a request. Only one that holds little may."""
        num_held, held = self._held.get(party, _NOTHING)
        several = self.several or self._last not in (None, party)
        small = (
            several
            and num_held + num_sequences <= _SMALL_SHARE * self._max_sequences
            and held + seconds <= _SMALL_SHARE * self._max_seconds
        )
        return _SMALL_SHARES if small else 0.0

    def exceeds(self, party: bytes, num_sequences: int, seconds: float, num_free: int, free: float) -> bool:
        """True if a request would make a party hold more than its share.

        Args:
            num_free, free: the sequences and seconds for which there is room.
        """
        num_held, held = self._held.get(party, _NOTHING)
        if not self.several:
            return False
        return num_held + num_sequences > max(1, num_free) or (num_held > 0 and held + seconds > free)

    def add(self, party: bytes, num_sequences: int, seconds: float) -> bool:
        """Count sequences of a party. True if it has no others, and there are several parties."""
        num_before, before = self._held.get(party, _NOTHING)
        self._held[party] = num_before + num_sequences, before + seconds
        if self._last != party:
            self.several = self.several or self._last is not None
            self._last = party
        return self.several and not num_before

    def remove(self, party: bytes, num_sequences: int, seconds: float) -> None:
        """Count sequences that are done."""
        num_held, held = self._held[party]
        if num_held > num_sequences:
            self._held[party] = num_held - num_sequences, held - seconds
        else:
            del self._held[party]


_NOTHING = (0, 0.0)
