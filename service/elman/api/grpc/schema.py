"""Messages and services of gRPC, made here from lists of fields.

They live in a pool of their own. The stubs of several clients register a package `inference` in the common pool, with
other contents, so that no two of them can be loaded into one process.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto
# Kinds of fields that are no messages, by name: `string` is TYPE_STRING.
_SCALARS = {name.removeprefix("TYPE_").lower(): number for name, number in Field.Type.items()}


class Schema:
    """The messages of one package.

    Args:
        messages: one message a line, which goes on after `+`: its name, and for each field `name:kind=number`. The name
            of a message in another has that in front, with a dot. `*kind` is a list, `{kind}` a map from strings, and
            `choice/name` a field of the group `choice`, of which one is set.
        enums: their values by the name of the enum, counted from 0.
        services: their methods by the name of the service. A method that ends in `>` answers with a stream, one that
            begins with `>` also takes one. Its messages have its name with `Request` and `Response`; other ones stand
            after it.
        add: adds further messages to the file.
    """

    def __init__(
        self,
        package: str,
        messages: str,
        enums: Mapping[str, str] | None = None,
        services: Mapping[str, str] | None = None,
        add: Callable[[descriptor_pb2.FileDescriptorProto], None] = lambda file: None,
    ) -> None:
        self.package = package
        self.file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}
        self._enums = {name: f".{package}.{name}" for name in enums or {}}
        lines = [line.split() for line in re.sub(r"\s+\+ ", " ", messages).splitlines() if line.strip()]
        for name, *_ in lines:
            self._declare(name)
        for name, *fields in lines:
            for field in fields:
                self._add_field(name, self._messages[name], field)
        for name, values in (enums or {}).items():
            enum = self.file.enum_type.add(name=name)
            for number, value in enumerate(values.split()):
                enum.value.add(name=value, number=number)
        for name, methods in (services or {}).items():
            service = self.file.service.add(name=name)
            for line in methods.splitlines():
                if line.strip():
                    self._add_method(service, line.split())
        add(self.file)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)
        self._pool = pool

    @property
    def services(self) -> list[str]:
        """The full names of the services."""
        return [f"{self.package}.{service.name}" for service in self.file.service]

    def message(self, name: str) -> Any:
        """The class of a message."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self.package}.{name}"))

    def _declare(self, name: str) -> None:
        outer, _, inner = name.rpartition(".")
        within = self._messages[outer].nested_type if outer else self.file.message_type
        self._messages[name] = within.add(name=inner)

    def _add_field(self, outer: str, message: descriptor_pb2.DescriptorProto, text: str) -> None:
        name, rest = text.split(":")
        kind, number = rest.split("=")
        choice, _, name = name.rpartition("/")
        field = message.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
        if choice:
            choices = [one.name for one in message.oneof_decl]
            if choice not in choices:
                message.oneof_decl.add(name=choice)
            field.oneof_index = choices.index(choice) if choice in choices else len(choices)
        if kind[0] in "*{":
            field.label = Field.LABEL_REPEATED
        if kind[0] == "{":
            # On the wire a map is a list of pairs.
            entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
            entry.options.map_entry = True
            self._add_field(outer, entry, "key:string=1")
            self._add_field(outer, entry, f"value:{kind[1:-1]}=2")
            kind = f"{outer}.{entry.name}"
        self._set_kind(field, kind.removeprefix("*"))

    def _set_kind(self, field: Any, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        elif kind in self._enums:
            field.type, field.type_name = Field.TYPE_ENUM, self._enums[kind]
        else:
            field.type, field.type_name = Field.TYPE_MESSAGE, f".{self.package}.{kind}"

    def _add_method(self, service: descriptor_pb2.ServiceDescriptorProto, words: list[str]) -> None:
        name = words[0].strip(">")
        request, response = words[1:] or (f"{name}Request", f"{name}Response")
        service.method.add(
            name=name,
            input_type=f".{self.package}.{request}",
            output_type=f".{self.package}.{response}",
            client_streaming=words[0].startswith(">"),
            server_streaming=words[0].endswith(">"),
        )
