"""JSON lines: `{"sequence": ..., "id": ...}` or the bare sequence, a line each; and plain text, a sequence a line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import orjson

from elman.cli.jobs.files.record import Answer, Record


class _Line(msgspec.Struct):
    sequence: msgspec.Raw = msgspec.Raw(b"")
    series: msgspec.Raw = msgspec.Raw(b"")
    id: str | int | None = None
    future: msgspec.Raw = msgspec.Raw(b"null")


_LINE = msgspec.json.Decoder(_Line)
_BARE = msgspec.json.Decoder(msgspec.Raw)


class LineSource:
    """A file that holds a sequence a line; what a line means is for `read` to say."""

    def __init__(self, stream: BinaryIO, total: int | None) -> None:
        self.stream = stream
        self.total = total
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def close(self) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[Record]:
        with self.stream:
            for number, line in enumerate(self.stream, 1):
                self._position += len(line)
                record = self.read(line, f"line {number}")
                if record is not None:
                    yield record

    def read(self, line: bytes, place: str) -> Record | None:
        """The record of a line, its end included; None where there is nothing in it."""
        raise NotImplementedError


class JSONSource(LineSource):
    """A sequence a line, passed on as it is written; the server says what is wrong inside it."""

    def read(self, line: bytes, place: str) -> Record | None:
        line = line.strip()
        return _record(line, place) if line else None


def _record(line: bytes, place: str) -> Record:
    try:
        line.decode()
        if not line.startswith(b"{"):
            return Record(place, bytes(_BARE.decode(line)))
        parsed = _LINE.decode(line)
    except msgspec.ValidationError as error:
        return Record(place, error=_in_words(error))
    except (msgspec.DecodeError, RecursionError) as error:
        return Record(place, error=f"it is not JSON: {error}")
    except UnicodeDecodeError as error:
        return Record(place, error=f"it is not UTF-8 at byte {error.start + 1}")
    content = bytes(parsed.sequence) or bytes(parsed.series)
    if not content:
        return Record(place, id=parsed.id, error="it has no field sequence")
    record = Record(place, content, parsed.id)
    if bytes(parsed.future) != b"null":
        record.extra["future"] = orjson.Fragment(bytes(parsed.future))
    return record


def _in_words(error: msgspec.ValidationError) -> str:
    text = re.sub(r" - at `\$\.?(.*?)`$", r" in \1", str(error))
    return text[:1].lower() + text[1:]


class TextSource(LineSource):
    """A sequence of characters a line, for models that read text."""

    def read(self, line: bytes, place: str) -> Record | None:
        line = line.rstrip(b"\r\n")
        return _text_record(line, place) if line else None


def _text_record(line: bytes, place: str) -> Record:
    try:
        return Record(place, orjson.dumps(line.decode()))
    except UnicodeDecodeError as error:
        return Record(place, error=f"it is not UTF-8 at byte {error.start + 1}")


def result_line(answer: Answer) -> bytes:
    """One answer as a line: the id, if there was one, and then the result as the server wrote it."""
    given = answer.record.id
    head = b"" if given is None else b'"id":' + orjson.dumps(given)
    if answer.error is not None:
        body = orjson.dumps({"error": answer.error, "place": answer.record.place})
    else:
        body = answer.content
    return b"{" + head + (b"," if head else b"") + body[1:] + b"\n"


class JSONSink:
    """A line an answer, appended whole."""

    def __init__(self, stream: BinaryIO, done: int = 0) -> None:
        self.stream = stream
        self.done = done

    def write(self, answers: list[Answer]) -> None:
        self.stream.write(b"".join([result_line(answer) for answer in answers]))
        self.stream.flush()
        self.done += len(answers)

    def close(self, complete: bool) -> None:
        self.stream.close()


def open_json_sink(path: Path, resume: bool) -> JSONSink:
    """Where it resumes, a last line that was cut off is dropped. Raises Unusable."""
    if not resume:
        return JSONSink(path.open("wb"))
    stream = path.open("r+b")
    done = keep_whole_lines(stream)
    return JSONSink(stream, done)


def keep_whole_lines(stream: BinaryIO) -> int:
    """Cut off what stands after the last line's end, leave the stream there, and count the lines."""
    count, end, at = 0, 0, 0
    while piece := stream.read(1 << 20):
        count += piece.count(b"\n")
        last = piece.rfind(b"\n")
        end = at + last + 1 if last >= 0 else end
        at += len(piece)
    stream.seek(end)
    stream.truncate()
    return count
