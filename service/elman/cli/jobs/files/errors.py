"""What goes wrong with a file as a whole."""

import codecs
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

DAMAGED = (EOFError, zlib.error, zipfile.BadZipFile)
"""What Python raises, beside OSError, while it unpacks a file that is cut off or damaged."""


UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What a text in UTF-16 begins with."""


class UnusableFile(Exception):
    """A file cannot be read or written as the user asked. The message says which file and why."""


class UnwritableOutput(Exception):
    """What is written does not go where it should, for example since a disk is full. The message says why."""


@contextmanager
def reading() -> Iterator[None]:
    """Raises UnusableFile if what is read meanwhile is damaged."""
    try:
        yield
    except DAMAGED as error:
        raise UnusableFile(f"it is damaged: {error}") from None


@contextmanager
def writing() -> Iterator[None]:
    """Raises UnwritableOutput if what is written meanwhile cannot be. A reader that has enough is no such case."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwritableOutput(error.strerror or str(error)) from None
