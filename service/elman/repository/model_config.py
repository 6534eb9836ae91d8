"""The messages of Triton's model configuration, which `config.pbtxt` holds as text and gRPC hands out.

They are built here, in a pool of their own: the stubs of clients define the same names, and two of one name cannot live
in one pool.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from elman.errors import ModelRefused

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

CONFIG_FILE = "config.pbtxt"
PACKAGE = "inference"

# Characters of a file, and how deep its messages may lie in each other. Real ones have some thousand, and four.
_MOST_CHARACTERS = 64 * 1024
_DEEPEST = 32
# Characters of the reason of a refusal, which may have names of the file in it.
_MOST_REASON = 400

# In the order of their numbers.
_DATA_TYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16".split()
_ENUMS = {
    "DataType": [f"TYPE_{name}" for name in _DATA_TYPES],
    "ControlKind": [f"CONTROL_SEQUENCE_{name}" for name in ("START", "READY", "END", "CORRID")],
}

# What has a meaning here, by message: each field with its number and type. `*` is a list, `?` one of which there is at
# most one in its message.
_FIELDS = {
    "ModelTensorReshape": {"shape": "1 int64*"},
    "ModelInput": {
        "name": "1 string",
        "data_type": "2 DataType",
        "dims": "4 int64*",
        "reshape": "5 ModelTensorReshape",
        "optional": "8 bool",
    },
    "ModelOutput": {
        "name": "1 string",
        "data_type": "2 DataType",
        "dims": "3 int64*",
        "reshape": "5 ModelTensorReshape",
        "label_filename": "4 string",
    },
    "Latest": {"num_versions": "1 uint32"},
    "All": {},
    "Specific": {"versions": "1 int64*"},
    "ModelVersionPolicy": {"latest": "1 Latest?", "all": "2 All?", "specific": "3 Specific?"},
    "Control": {
        "kind": "1 ControlKind",
        "int32_false_true": "2 int32*",
        "fp32_false_true": "3 float*",
        "data_type": "4 DataType",
        "bool_false_true": "5 bool*",
    },
    "ControlInput": {"name": "1 string", "control": "2 Control*"},
    "InitialState": {
        "data_type": "1 DataType",
        "dims": "2 int64*",
        "zero_data": "3 bool?",
        "data_file": "4 string?",
        "name": "5 string",
    },
    "State": {
        "input_name": "1 string",
        "output_name": "2 string",
        "data_type": "3 DataType",
        "dims": "4 int64*",
        "initial_state": "5 InitialState*",
    },
    "StrategyDirect": {},
    "StrategyOldest": {},
    "ModelSequenceBatching": {
        "max_sequence_idle_microseconds": "1 uint64",
        "control_input": "2 ControlInput*",
        "direct": "3 StrategyDirect?",
        "oldest": "4 StrategyOldest?",
        "state": "5 State*",
        "iterative_sequence": "6 bool",
    },
    "ModelParameter": {"string_value": "1 string"},
    "ParametersEntry": {"key": "1 string", "value": "2 ModelParameter"},
    "ModelConfig": {
        "name": "1 string",
        "platform": "2 string",
        "version_policy": "3 ModelVersionPolicy",
        "max_batch_size": "4 int32",
        "input": "5 ModelInput*",
        "output": "6 ModelOutput*",
        "default_model_filename": "8 string",
        "sequence_batching": "13 ModelSequenceBatching",
        "parameters": "14 ParametersEntry*",
        "ensemble_scheduling": "15 Meaningless",
        "backend": "17 string",
        "batch_input": "20 Meaningless*",
        "batch_output": "21 Meaningless*",
    },
    "Meaningless": {},
}

_NUMPY_NAMES = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bfloat16": "BF16", "object": "STRING"}


def data_type_of(dtype: np.dtype[Any]) -> int:
    """The number of a `DataType`; that of TYPE_INVALID for what has none."""
    name = _NUMPY_NAMES.get(dtype.name, dtype.name.upper())
    return _DATA_TYPES.index(name) if name in _DATA_TYPES else 0


def data_type_name(number: int) -> str:
    """`TYPE_FP32`."""
    return f"TYPE_{_DATA_TYPES[number]}"


@cache
def _config_class() -> Any:
    # Most servers have no such file, and start without the library.
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="elman/model_config.proto", package=PACKAGE, syntax="proto3")
    add_model_config(file)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.ModelConfig"))


def add_model_config(file: "FileDescriptorProto") -> None:
    """Add the messages to a file of a package, so that a service in it can answer with `ModelConfig`."""
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _FIELDS.items():
        _add_message(file, name, fields)


def _add_message(file: "FileDescriptorProto", name: str, fields: Mapping[str, str]) -> None:
    message = file.message_type.add(name=name)
    for field, declared in fields.items():
        number, kind = declared.split()
        one = message.field.add(name=field, number=int(number), json_name=field)
        one.label = one.LABEL_REPEATED if kind.endswith("*") else one.LABEL_OPTIONAL
        if kind.endswith("?"):
            if not message.oneof_decl:
                message.oneof_decl.add(name="choice")
            one.oneof_index = 0
        kind = kind.rstrip("*?")
        if kind in _FIELDS or kind in _ENUMS:
            one.type = one.TYPE_ENUM if kind in _ENUMS else one.TYPE_MESSAGE
            one.type_name = f".{file.package}.{kind}"
        else:
            one.type = getattr(one, f"TYPE_{kind.upper()}")


def model_config(content: bytes = b"") -> Any:
    """A message `ModelConfig`, read from its serialised form."""
    return _config_class().FromString(content)


def as_json(message: Any) -> dict[str, Any]:
    """A message as a JSON object in Triton's form: every field by its own name, numbers as numbers, enums by name.

    Fields that hold a message are there if they are set; all others always.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.name == "parameters":
            found[field.name] = {one.key: as_json(one.value) for one in value}
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found[field.name] = [_plain(field, one) for one in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _plain(field, value)
    return found


def _plain(field: "FieldDescriptor", value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value


# Reading


@dataclass(frozen=True)
class ConfigText:
    """A configuration as it was read, with the settings that have no meaning here, each by the path of its name."""

    message: Any
    ignored: tuple[str, ...]


def parse_config(content: bytes) -> ConfigText:
    """Read the text form of a `ModelConfig`. Raises ModelRefused, with the line, where it is none."""
    from google.protobuf import text_format

    if len(content) > 4 * _MOST_CHARACTERS:  # it may be cut, also within a character
        raise refused(f"it has more than {_MOST_CHARACTERS} characters")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise refused(f"line {line}: it is no text in UTF-8") from None
    if len(text) > _MOST_CHARACTERS:
        raise refused(f"it has {len(text)} characters, more than {_MOST_CHARACTERS}")
    message = model_config()
    try:
        cutter = _Cutter(text, message.DESCRIPTOR)
        text_format.Parse(cutter.cut(), message)
    except text_format.ParseError as error:
        where = "" if error.GetLine() is None else f"line {error.GetLine()}: "
        reason = re.sub(r"^[0-9]+:[0-9]+ : ('.*': )?", "", str(error), flags=re.DOTALL)
        raise refused(where + reason.replace(f"{PACKAGE}.", "").strip()) from None
    return ConfigText(message, tuple(dict.fromkeys(cutter.foreign)))


def refused(reason: str) -> ModelRefused:
    """The refusal of a model whose configuration cannot be followed."""
    remedy = f"Correct {CONFIG_FILE}, or take it away: a model is served without one."
    return ModelRefused(f"{CONFIG_FILE}: {reason[:_MOST_REASON]}", node=CONFIG_FILE, remedy=remedy)


class _Cutter:
    """Walks over the tokens of a text, and cuts out the fields that the message does not have.

    What the parser itself skips it can name none of, and some it cannot skip.
    """

    def __init__(self, text: str, descriptor: "Descriptor") -> None:
        from google.protobuf import text_format

        self.foreign: list[str] = []
        self._lines = text.split("\n")
        self._tokens = text_format.Tokenizer(self._lines[:])
        # What the walk is inside of: the path before names, the message, whether it is a list.
        self._inside: list[tuple[str, Descriptor | None, bool]] = [("", descriptor, False)]
        self._cut_from: tuple[int, int, int] | None = None

    def cut(self) -> str:
        """The text without them, of as many lines. Raises ParseError, also for messages that lie too deep."""
        tokens, inside = self._tokens, self._inside
        path, field, has_value = "", None, False
        while not tokens.AtEnd():
            token, (within, message, is_list) = tokens.token, inside[-1]
            if token in ("{", "<", "["):
                if token == "[" and not has_value:  # the name of an extension
                    self._end()
                    path, field = f"{within}[...]", None
                    self._begin(path)
                inside.append((path, field, True) if token == "[" else (f"{path}.", field, False))
                has_value = False
                if len(inside) > _DEEPEST:
                    raise tokens.ParseError(f"messages lie more than {_DEEPEST} deep in each other")
            elif token in ("}", ">", "]") and len(inside) > 1:
                if token != "]":
                    self._end()
                path, field, is_list = inside.pop()
                path, field, _ = (path, field, False) if is_list else inside[-1]
            elif has_value or is_list or token in (":", ",", ";") or token[0] in "\"'":
                has_value = has_value and token == ":"
            else:
                self._end()
                path, field, has_value = within + token, None, True
                if message is not None and token in message.fields_by_name:
                    field = message.fields_by_name[token].message_type
                elif message is not None and token.isidentifier():
                    self._begin(path)
            tokens.NextToken()
        self._end()
        return "\n".join(self._lines)

    def _begin(self, path: str) -> None:
        self.foreign.append(path)
        self._cut_from = len(self._inside), *self._position()

    def _end(self) -> None:
        """Cut to here, if a field that was begun ends here."""
        if self._cut_from is None or len(self._inside) > self._cut_from[0]:
            return
        (_, line, column), (last, end) = self._cut_from, self._position()
        self._cut_from = None
        for at in range(line, min(last, len(self._lines) - 1) + 1):
            text = self._lines[at]
            begin, stop = column if at == line else 0, end if at == last else len(text)
            self._lines[at] = text[:begin] + " " * (stop - begin) + text[stop:]

    def _position(self) -> tuple[int, int]:
        """Line and column of the token, counted from 0. The tokenizer tells them in its errors alone."""
        here = self._tokens.ParseError("")
        return here.GetLine() - 1, here.GetColumn() - 1
