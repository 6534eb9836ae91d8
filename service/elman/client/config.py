"""How long a call may take, how it is tried again, and how large batches are cut: value objects."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long a call may take, in seconds.

    Attributes:
        total: the whole call, from the first byte sent to the last one read, retries and their waiting included.
        connect: one attempt to open a connection.
        read: the longest silence while one attempt waits for its answer, after which it is given up and, where the
            call may be repeated, sent again; so it must be longer than the longest computation. None for as long as
            there is time.
        write: the longest stall while sending.
    """

    total: float = 60.0
    connect: float = 5.0
    read: float | None = None
    write: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, and must be more than 0 seconds")

    def silence(self, left: float) -> float:
        """How long one attempt may be silent, of what is left."""
        return left if self.read is None else min(self.read, left)

    def within(self, total: "Timeout | float | None") -> "Timeout":
        """This, or another one, or this with another total."""
        if total is None:
            return self
        return total if isinstance(total, Timeout) else replace(self, total=float(total))


@dataclass(frozen=True, slots=True)
class Retries:
    """How a call that failed is tried again: never past its total timeout, and never where it might be done twice.

    Attributes:
        attempts: most attempts in all; 1 for no retries.
        first: seconds before the first retry, at most; doubled for each further one, a random part of it waited.
        longest: most seconds between two attempts, but for a `Retry-After` of the server, which is waited in full.
    """

    attempts: int = 6
    first: float = 0.1
    longest: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first <= self.longest:
            raise ValueError(f"attempts must be 1 or more, and 0 <= first <= longest: {self}")


@dataclass(frozen=True, slots=True)
class Batching:
    """How a long list of sequences is cut into requests, which are sent side by side.

    Attributes:
        sequences: most sequences a request.
        numbers: most numbers a request, unless one sequence alone has more.
        concurrency: most requests of one call on their way at once.
    """

    sequences: int = 512
    numbers: int = 32_768
    concurrency: int = 4

    def __post_init__(self) -> None:
        if min(self.sequences, self.numbers, self.concurrency) < 1:
            raise ValueError(f"each must be 1 or more: {self}")
