"""A session that is about to be opened."""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar


class AsyncContext(Protocol):
    """An asynchronous context manager that enters as itself."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


C = TypeVar("C", bound=AsyncContext)


class Opening(Generic[C]):
    """Something that is about to be opened: `await` it, or enter it with `async with`."""

    def __init__(self, opens: Coroutine[Any, Any, C]) -> None:
        self._opens = opens
        self._opened: C | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session that is not open yet cannot be pickled; await it, and pickle what that gives")

    def __await__(self) -> Generator[Any, None, C]:
        return self._opens.__await__()

    async def __aenter__(self) -> C:
        self._opened = await self._opens
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, traceback)
