"""JSON lines and plain text. A line of JSON is `{"sequence": ..., "id": ...}` or a bare sequence."""

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import orjson

from elman.cli.jobs.files.errors import UTF16_MARKS, UnusableFile, reading
from elman.cli.jobs.files.items import InputItem, ModelIO, Outcome


class _Line(msgspec.Struct):
    sequence: msgspec.Raw = msgspec.Raw(b"")
    series: msgspec.Raw = msgspec.Raw(b"")
    id: str | int | None = None
    future: msgspec.Raw = msgspec.Raw(b"null")
    static: dict[str, msgspec.Raw] | None = None


_LINE = msgspec.json.Decoder(_Line)
_BARE = msgspec.json.Decoder(msgspec.Raw)


class LineSource:
    """A file with one sequence on each line. Subclasses say how a line is read."""

    def __init__(self, stream: BinaryIO, total: int | None) -> None:
        self.stream = stream
        self.total = total
        self.kept: dict[str, Any] = {}
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def close(self) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[InputItem]:
        with self.stream, reading():
            for number, line in enumerate(self._lines(), 1):
                self._position += len(line)
                item = self.read(line, f"line {number}")
                if item is not None:
                    yield item

    def _lines(self) -> Iterator[bytes]:
        """The lines in UTF-8, without the mark that some programs write at the start."""
        first = next(self.stream, b"")
        lines = itertools.chain([first.removeprefix(codecs.BOM_UTF8)], self.stream)
        return _from_utf16(lines) if first.startswith(UTF16_MARKS) else lines

    def read(self, line: bytes, place: str) -> InputItem | None:
        """The item of a line, or None if the line is empty. `line` includes its line break."""
        raise NotImplementedError


def _from_utf16(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a text in UTF-16, in UTF-8. Raises UnusableFile."""
    decoder, rest = codecs.getincrementaldecoder("utf-16")(), ""
    try:
        for piece in pieces:
            *whole, rest = (rest + decoder.decode(piece)).split("\n")
            yield from (line.encode() for line in whole)
        yield (rest + decoder.decode(b"", final=True)).encode()
    except UnicodeError as error:
        raise UnusableFile(f"it is not utf-16: {error}") from None


class JSONSource(LineSource):
    """One sequence in JSON on each line. It is passed on as written, and the server checks what is inside."""

    def __init__(self, stream: BinaryIO, total: int | None, model_io: ModelIO) -> None:
        super().__init__(stream, total)
        self._statics = {one.name for one in model_io.statics}
        self._given = model_io.given

    def read(self, line: bytes, place: str) -> InputItem | None:
        line = line.strip()
        if not line:
            return None
        item = _item(line, place)
        item.error = item.error or self._fault(item.extra.get("static", {}))
        return item

    def _fault(self, static: dict[str, Any]) -> str | None:
        """What is wrong with the names of the static inputs of a line."""
        for name in static:
            if name in self._given:
                return f"the static input {name!r} is given by --static too: leave one out"
        missing, unknown = self._statics - set(static), set(static) - self._statics
        if unknown:
            wanted = ", ".join(sorted(self._statics)) or "none"
            return f"the model has no static input {min(unknown)!r}; it has {wanted}"
        if missing:
            return f"the static input {min(missing)!r} is missing: put it into a field 'static', or add --static"
        return None


def _item(line: bytes, place: str) -> InputItem:
    try:
        line.decode()
        if not line.startswith(b"{"):
            return InputItem(place, bytes(_BARE.decode(line)))
        parsed = _LINE.decode(line)
    except msgspec.ValidationError as error:
        return InputItem(place, error=_in_words(error))
    except (msgspec.DecodeError, RecursionError) as error:
        return InputItem(place, error=f"it is not JSON: {error}")
    except UnicodeDecodeError as error:
        return InputItem(place, error=f"it is not UTF-8 at byte {error.start + 1}")
    content = bytes(parsed.sequence) or bytes(parsed.series)
    if not content:
        return InputItem(place, id=parsed.id, error="it has no field 'sequence'")
    item = InputItem(place, content, parsed.id)
    if bytes(parsed.future) != b"null":
        item.extra["future"] = orjson.Fragment(bytes(parsed.future))
    if parsed.static is not None:
        item.extra["static"] = {name: orjson.Fragment(bytes(value)) for name, value in parsed.static.items()}
    return item


def _in_words(error: msgspec.ValidationError) -> str:
    # msgspec writes "Expected `str`, got `object` - at `$.id`".
    text = re.sub(r" - at `\$\.?(.*?)`$", r" in \1", str(error))
    return text[:1].lower() + text[1:]


class TextSource(LineSource):
    """One text on each line, for models that read text."""

    def read(self, line: bytes, place: str) -> InputItem | None:
        line = line.rstrip(b"\r\n")
        return _text_item(line, place) if line else None


def _text_item(line: bytes, place: str) -> InputItem:
    try:
        return InputItem(place, orjson.dumps(line.decode()))
    except UnicodeDecodeError as error:
        return InputItem(place, error=f"it is not UTF-8 at byte {error.start + 1}")


def result_line(outcome: Outcome) -> bytes:
    """One outcome as a line: the id, if there is one, then the result as the server wrote it."""
    identity = outcome.item.id
    head = b"" if identity is None else b'"id":' + orjson.dumps(identity)
    if outcome.error is not None:
        body = orjson.dumps({"error": outcome.error, "place": outcome.item.place})
    else:
        body = outcome.content
    return b"{" + head + (b"," if head else b"") + body[1:] + b"\n"


class JSONSink:
    """Writes one line for each outcome."""

    def __init__(self, stream: BinaryIO, done: int = 0) -> None:
        self.stream = stream
        self.done = done

    def write(self, outcomes: list[Outcome]) -> None:
        self.stream.write(b"".join([result_line(outcome) for outcome in outcomes]))
        self.stream.flush()
        self.done += len(outcomes)

    def close(self, complete: bool) -> None:
        self.stream.close()


def open_json_sink(path: Path, resume: bool) -> JSONSink:
    """Open a file of JSON lines. If it resumes, a last line that was cut off is dropped."""
    if not resume:
        return JSONSink(path.open("wb"))
    stream = path.open("r+b")
    done = keep_whole_lines(stream)
    return JSONSink(stream, done)


def keep_whole_lines(stream: BinaryIO) -> int:
    """Cut off an unfinished last line, leave the stream at the end, and return the number of whole lines."""
    count, end, at = 0, 0, 0
    while piece := stream.read(1 << 20):
        count += piece.count(b"\n")
        last = piece.rfind(b"\n")
        end = at + last + 1 if last >= 0 else end
        at += len(piece)
    stream.seek(end)
    stream.truncate()
    return count
