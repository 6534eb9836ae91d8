"""Texts become the tokens of their characters, in the Unicode form of the vocabulary."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elman.codec.input_format import InputFormat, normal_form
from elman.codec.limits import Limits
from elman.codec.text import read_text
from elman.errors import UnknownToken
from elman.repository.spec import InputSpec

LIMITS = Limits(max_steps=100, max_sequences=3)
COMPOSED = ("<start>", *"aeéñ\uac01", "?")
DECOMPOSED = (*"aen", "\u0301", "\u0303")
DEVANAGARI = tuple("\u0928\u092e\u0938\u094d\u0924\u0947")


def format_of(vocabulary: tuple[str, ...], **said: Any) -> InputFormat:
    spec = InputSpec(vocabulary=vocabulary, **said)
    form = normal_form(spec)
    return InputFormat("text", "int64", None, vocabulary=vocabulary, unknown=spec.unknown, normalisation=form)


def read(text: str, format: InputFormat) -> list[str]:
    return [(format.vocabulary or ())[token] for token in read_text(text, format, "sequence", LIMITS)[0]]


def test_a_decomposed_text_has_the_tokens_of_a_vocabulary_of_composed_characters() -> None:
    format = format_of(COMPOSED)
    text = "aéñ\uac01"
    assert unicodedata.normalize("NFD", text) != text
    assert read(unicodedata.normalize("NFD", text), format) == read(text, format) == list(text)


def test_a_vocabulary_of_decomposed_characters_is_read_as_it_is() -> None:
    format = format_of(DECOMPOSED)
    assert format.normalisation is None
    assert read("ae\u0301", format) == ["a", "e", "\u0301"]
    with pytest.raises(UnknownToken) as caught:
        read("aé", format)
    assert caught.value.where == "sequence[1]"


@pytest.mark.parametrize(
    ("vocabulary", "form"),
    [
        (COMPOSED, "NFC"),
        (DEVANAGARI, "NFC"),  # marks that join no letter of the vocabulary
        ((*DEVANAGARI, "\u093c"), None),  # the nukta joins NA, which makes NNNA
        (DECOMPOSED, None),
        (("a", "\u212b"), None),  # the sign of the angstrom is not in NFC
        (("\u1100", "\u1161"), None),
        (("<e\u0301>", "a"), "NFC"),  # a token of several characters is read from no text
    ],
)
def test_a_text_is_normalised_where_that_changes_none_of_the_vocabulary(
    vocabulary: tuple[str, ...], form: str | None
) -> None:
    assert format_of(vocabulary).normalisation == form


# Letters and marks that join, beside any others.
JOINING = st.sampled_from("aeoé\u1ecd\u0301\u0323\u0928\u0929\u093c\u1100\u1161\u11a8\uac00\uac01")


@given(vocabulary=st.sets(JOINING | st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8), data=st.data())
def test_what_can_be_read_without_normalisation_has_the_same_tokens_with_it(
    vocabulary: set[str], data: st.DataObject
) -> None:
    tokens = tuple(sorted(vocabulary))
    text = data.draw(st.text(st.sampled_from(tokens), min_size=1, max_size=12))
    assert read(text, format_of(tokens)) == list(text)


def test_the_spec_decides_where_it_says_so() -> None:
    assert format_of(DECOMPOSED, normalisation="NFC").normalisation == "NFC"
    assert format_of(COMPOSED, normalisation="none").normalisation is None
    with pytest.raises(ValidationError, match="not in NFC"):
        InputSpec(vocabulary=("e\u0301",), normalisation="NFC")
    with pytest.raises(ValidationError, match="vocabulary"):
        InputSpec(normalisation="NFC")


def test_the_place_of_a_character_is_counted_in_the_text_that_is_read() -> None:
    with pytest.raises(UnknownToken) as caught:
        read("e\u0301x", format_of(COMPOSED))
    assert caught.value.where == "sequence[1]" and "NFC" in caught.value.detail
    with pytest.raises(UnknownToken) as caught:
        read("ax", format_of(COMPOSED))
    assert "NFC" not in caught.value.detail


def test_unknown_characters_are_counted_in_the_order_in_which_they_appear() -> None:
    format = format_of(COMPOSED, unknown="?")

    def unknown_in(text: str) -> tuple[tuple[str, int], ...]:
        return read_text(text, format, "sequence", LIMITS)[1]

    assert unknown_in("axe\u0301yx?") == (("x", 2), ("y", 1))
    assert unknown_in("o\u0301") == (("ó", 1),), "as the character that is read"
    assert unknown_in("".join(map(chr, range(0x4E00, 0x4E00 + 50))))[-1] == ("\u4e13", 1), "20 at most"
    assert unknown_in("aé?") == ()
