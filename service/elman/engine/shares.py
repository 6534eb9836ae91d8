"""How the callers share the room of the queue."""


class Shares:
    """The pending sequences of each caller.

    Once there are several callers, none may hold more sequences than there are free places. So one alone gets half of
    the queue, two get a third each, and there is always room for another. `several` says whether there are.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, int] = {}
        self.several = False
        self._last: bytes | None = None

    def held(self, owner: bytes) -> int:
        """Pending sequences of a caller."""
        return self._held.get(owner, 0)

    def exceeds(self, owner: bytes, num_sequences: int, num_free: int) -> bool:
        """True if that many more sequences of a caller would be more than its share."""
        return self.several and self.held(owner) + num_sequences > max(1, num_free)

    def add(self, owner: bytes, num_sequences: int) -> int:
        """Count sequences of a caller. Returns how many it held before, or 0 if there is no other caller."""
        before = self._held.get(owner, 0)
        self._held[owner] = before + num_sequences
        if self._last != owner:
            self.several = self.several or self._last is not None
            self._last = owner
        return before if self.several else 0

    def remove(self, owner: bytes, num_sequences: int) -> None:
        """Count sequences that are done."""
        left = self._held[owner] - num_sequences
        if left:
            self._held[owner] = left
        else:
            del self._held[owner]
