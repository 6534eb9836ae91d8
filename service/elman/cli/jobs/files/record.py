"""What a source yields, what a sink takes, and what both must know of a model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Identity = str | int


class Unusable(Exception):
    """A file that cannot be read or written as it was asked for; the message says which and why."""


@dataclass(frozen=True)
class Shape:
    """What one sequence of a model is.

    Attributes:
        kind: rows of `size` numbers (`features`), one row of samples (`frames`), or token ids (`tokens`).
        names: the features by name, where the model says.
        text: whether tokens may be written as text.
        outputs: numbers of an output row.
        decoded: what an answer's `decoded` holds: the word of its best item, `values`, or None.
    """

    kind: Literal["features", "frames", "tokens"]
    size: int | None = None
    names: tuple[str, ...] | None = None
    text: bool = False
    outputs: int = 1
    decoded: Literal["label", "token", "values"] | None = None

    @property
    def rank(self) -> int:
        """Axes of the array of one sequence: (time, features), or (time,)."""
        return 2 if self.kind == "features" else 1


@dataclass(slots=True)
class Record:
    """One sequence, as the JSON that a request carries, or the reason why there is none.

    Attributes:
        place: where it stands in its file: `line 7`, `rows 12 to 30`.
        content: the sequence in JSON.
        error: why it cannot be sent.
        extra: what else its line holds, such as a forecast's `future`.
    """

    place: str
    content: bytes = b""
    id: Identity | None = None
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """The answer to one record: a result in JSON, as the server writes it, or what was wrong."""

    index: int
    record: Record
    content: bytes = b""
    error: str | None = None


class Source(Protocol):
    """Sequences out of a file, one at a time.

    `total` is its size in whatever unit `position` counts, or None where nobody knows.
    """

    total: int | None

    @property
    def position(self) -> int: ...

    def __iter__(self) -> Iterator[Record]:
        """Once; what is open is closed at the end."""
        ...

    def close(self) -> None:
        """Let go of a source that was not begun with."""
        ...


class Sink(Protocol):
    """Answers to a file, in order; only whole ones are ever in it."""

    done: int
    """Answers that it holds for good; when it is opened, those that it held already."""

    def write(self, answers: list[Answer]) -> None: ...

    def close(self, complete: bool) -> None:
        """`complete` is False where more was to come: what there is can be gone on with."""
        ...


def parts_of(path: Path) -> Path:
    """Where the parts of a file that can only be written whole are gathered."""
    return path.with_name(path.name + ".parts")
