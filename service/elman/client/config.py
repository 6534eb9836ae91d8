"""Settings of a client: how long calls may take, how they are repeated, how long lists are cut."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long a call may take, in seconds. Raises ValueError if a value is not more than 0.

    Attributes:
        total: the whole call, from the first byte sent to the last byte read, including retries and pauses.
        connect: one attempt to open a connection.
        read: the longest silence while one attempt waits for its response. Then the attempt is given up and, if the
            call may be repeated, sent again. So it must be longer than the longest computation. None for no limit
            beside `total`.
        write: the longest pause while sending.
    """

    total: float = 60.0
    connect: float = 5.0
    read: float | None = None
    write: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be more than 0 seconds")

    def silence(self, left: float) -> float:
        """How many seconds one attempt may be silent, if `left` seconds are left in all."""
        return left if self.read is None else min(self.read, left)

    def override(self, timeout: "Timeout | float | None") -> "Timeout":
        """This timeout if `timeout` is None, with another total if it is a number, and else `timeout` itself."""
        if timeout is None:
            return self
        return timeout if isinstance(timeout, Timeout) else replace(self, total=float(timeout))


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and when a failed call is sent again. Raises ValueError unless 1 <= attempts and 0 <= first <= longest.

    A call is never repeated after its total timeout, and never if its effect could happen twice.

    Attributes:
        attempts: most attempts in all; 1 for no retries.
        first: longest pause before the first retry, in seconds. It doubles for each further one. A random half to whole
            of it is waited.
        longest: longest pause between two attempts, in seconds. A `Retry-After` of the server is waited in full.
    """

    attempts: int = 6
    first: float = 0.1
    longest: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first <= self.longest:
            raise ValueError(f"attempts must be 1 or more, and 0 <= first <= longest; got {self}")


@dataclass(frozen=True, slots=True)
class Batching:
    """How a long list of sequences is cut into requests. Raises ValueError if a value is less than 1.

    Attributes:
        sequences: most sequences in a request.
        numbers: most numbers in a request. A single sequence with more is sent alone.
        concurrency: how many requests of one call are sent at the same time.
    """

    sequences: int = 512
    numbers: int = 32_768
    concurrency: int = 4

    def __post_init__(self) -> None:
        if min(self.sequences, self.numbers, self.concurrency) < 1:
            raise ValueError(f"each value must be 1 or more; got {self}")
