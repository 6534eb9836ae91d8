"""What a server says of its store when it starts."""

import pytest

from elman.cli.jobs import start_report
from elman.settings import Settings


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("memory", "in memory, so they end with the server"),
        ("lmdb", "in .elman, with LMDB"),
        ("redis://user:secret@keeper:6379/2", "at redis://keeper:6379"),
        ("redis+cluster://one:7000,two:7001,three", "at redis+cluster://one:7000,two:7001,three"),
        ("redis+sentinel://:secret@one:26379,two/main", "at redis+sentinel://one:26379,two"),
    ],
)
def test_the_place_of_the_sessions_is_told_without_a_password(store: str, words: str) -> None:
    assert start_report._store(Settings(store=store)) == words
