"""The search for heads that are read in two ways, for a second."""

from collections.abc import Callable, Iterator

import pytest

from elman.http import protocol
from elman.http.repeated import RepeatedHead
from tests.fuzz.heads import Compared, Heads

pytestmark = pytest.mark.slow


@pytest.fixture
def compared() -> Iterator[Compared]:
    one = Compared()
    yield one
    one.close()


def test_a_head_that_repeats_the_last_one_is_read_as_the_parser_reads_it(compared: Compared) -> None:
    heads = Heads(0)
    for _ in range(2_000):
        pieces = heads.case()
        assert compared.differ(pieces) is None, pieces
    assert min(compared.counts["repeated"], compared.counts["parsed"]) > 400


def _takes_any_length(self: protocol.HTTPProtocol, data: bytes, last: RepeatedHead) -> bool:
    """As the server, but it does not compare the length with the body."""
    before, after = last._line + last._before, last._after
    at = data.find(after, len(before))
    if not data.startswith(before) or at < 0:
        return False
    self._take(self._exchange(self, last._head, data[at + len(after) :], 0.0))
    return True


def _takes_any_target(self: protocol.HTTPProtocol, data: bytes, last: RepeatedHead) -> bool:
    """As the server, but it serves each target as the last one."""
    line = data.find(b" HTTP/1.1\r\n") + 1
    found = last.read(last._line + data[line:], self._find, self._bodies.limit) if line else None
    if found is not None:
        self._take(self._exchange(self, *found, 0.0))
    return found is not None


@pytest.mark.parametrize("take", [_takes_any_length, _takes_any_target])
def test_a_server_that_reads_heads_in_two_ways_is_found(
    monkeypatch: pytest.MonkeyPatch, take: Callable[..., bool]
) -> None:
    monkeypatch.setattr(protocol.HTTPProtocol, "_take_repeated", take)
    heads, compared = Heads(0), Compared()
    assert any(compared.differ(heads.case()) for _ in range(200))
    compared.close()
