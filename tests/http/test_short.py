"""The cache of short texts holds no more than it should."""

import pytest

from elman.http.short import cache_short


def test_a_short_text_is_computed_once_and_a_long_one_each_time() -> None:
    seen: list[bytes] = []

    def length_of(text: bytes) -> int:
        seen.append(text)
        return len(text)

    length = cache_short(length_of)
    for text in (b"a" * 255, b"a" * 256):
        assert length(text) == length(text) == len(text)
    assert list(map(len, seen)) == [255, 256, 256]


def test_no_more_than_1024_texts_are_kept() -> None:
    seen: list[str] = []

    def length_of(text: str) -> int:
        seen.append(text)
        return len(text)

    length = cache_short(length_of)
    texts = [str(number) for number in range(1025)]
    for text in (*texts, *texts):
        assert length(text) == len(text)
    assert len(seen) > 1025, "not all were kept"


def test_an_error_is_not_kept() -> None:
    numbers = cache_short(_number)
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            numbers("x")


def _number(text: str) -> int:
    return int(text)
