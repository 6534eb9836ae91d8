"""Reads a `config.pbtxt` against the model file that it is about: what it declares must be what the file has."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from elman.repository.arranging import add_rows
from elman.repository.controls import ADDED
from elman.repository.graph import Graph
from elman.repository.model_config import CONFIG_FILE, ConfigText, data_type_name, data_type_of, refused
from elman.repository.spec import Control, DecoderSpec, InputSpec, ModelSpec, PortSpec
from elman.repository.triton import INITIAL_FOLDER, TritonConfig, plain_name

_CONTROLS: tuple[Control, ...] = ("start", "ready", "end", "corrid")  # in the order of Triton's numbers
_FALSE_TRUE = {"int32_false_true": "int32", "fp32_false_true": "float32", "bool_false_true": "bool"}
_SCORES: Mapping[str, Any] = {"Softmax": "probabilities", "LogSoftmax": "log_probabilities"}
_MOST_LABEL_BYTES = 4 * 2**20
_MOST_BYTES = 2**31


class ConfigReader:
    """Reads one configuration.

    Args:
        path: of `config.pbtxt`.
        text: what is in it.
        proto: the model file. Extents that it leaves open and the configuration fixes are fixed in it, and what states
            begin with is added to it.
        given: the spec of `model.json` or of the file itself, which is followed where it says something else.
    """

    def __init__(self, path: Path, text: ConfigText, proto: onnx.ModelProto, given: ModelSpec) -> None:
        self._path = path
        self._config = text.message
        self._graph = Graph(proto)
        self._given = given
        self._ports = dict(given.inputs)
        self._names: list[str] = []
        self._taken: set[str] = set()
        self._notes = [f"{', '.join(text.ignored)}: no meaning here"] if text.ignored else []
        self._has_rows = self._config.max_batch_size > 0
        names = [one.name for one in self._config.input]
        # A step of one sequence, a vector of numbers, has no axis that could be that of its rows.
        self._lacks_rows = not self._has_rows and len(names) == 1 and self._is_vector(names[0])

    def read(self, name: str) -> tuple[ModelSpec, TritonConfig]:
        """The spec with what the configuration adds to it, and the configuration. Raises ModelRefused.

        name: what the model is served as.
        """
        config = self._config
        self._check_kind()
        if config.name and config.name != name:
            self._notes.append(f"it calls the model {config.name!r}, which is served as {name!r}")
        self._declare("input", config.input, self._graph.inputs)
        self._declare("output", config.output, self._graph.outputs)
        self._read_states()
        self._read_controls()
        outputs = self._outputs()
        labels = {one.name: self._labels(one) for one in config.output if one.label_filename}
        decoder = self._decoder(labels, outputs)
        if self._lacks_rows:
            tensors = [*self._graph.inputs, *self._graph.outputs]
            if not all(isinstance(dim, int) for one in tensors for dim in self._graph.dims(one)):
                raise refused("with max_batch_size 0 a tensor has all its dims, and one of the file is open")
            add_rows(self._graph)
        added = {
            "input": self._input(),
            "inputs": self._ports,
            "outputs": outputs,
            "decoder": decoder,
        }
        notes = tuple(f"{CONFIG_FILE}: {note}" for note in self._notes)
        triton = TritonConfig(config.SerializeToString(), notes, tuple(self._names), labels)
        return self._given.model_copy(update=added), triton

    def _check_kind(self) -> None:
        config = self._config
        if config.backend not in ("", "onnxruntime"):
            raise refused(f"the backend is {config.backend[:80]!r}; served are ONNX files, backend 'onnxruntime'")
        if config.platform not in ("", "onnxruntime_onnx"):
            raise refused(f"the platform is {config.platform[:80]!r}; served are ONNX files, 'onnxruntime_onnx'")
        if config.HasField("ensemble_scheduling"):
            raise refused("it is an ensemble of models; served are single ones")
        if config.batch_input or config.batch_output:
            raise refused("batch_input and batch_output are tensors about the whole batch, which has no meaning here")
        if config.sequence_batching.iterative_sequence:
            raise refused("iterative_sequence runs one request again and again; here each request is run once")
        if config.max_batch_size < 0:
            raise refused(f"max_batch_size is {config.max_batch_size}; it is 0 or more")
        if config.default_model_filename:
            plain_name(config.default_model_filename)

    # Tensors

    def _is_vector(self, name: str) -> bool:
        graph = self._graph
        return name in graph.inputs and len(graph.dims(name)) == 1 and graph.dtype(name).kind == "f"

    def _declare(self, kind: str, declared: Any, known: Mapping[str, Any]) -> None:
        """Hold what is declared of the inputs or outputs against the file."""
        seen: set[str] = self._taken if kind == "input" else set()
        for index, one in enumerate(declared):
            where = f"{kind} {one.name!r}" if one.name else f"{kind} {index}"
            if not one.name:
                raise refused(f"{where} has no name")
            if one.name in seen:
                raise refused(f"{where} is declared twice")
            seen.add(one.name)
            if kind == "input" and one.optional and one.name in self._graph.initializers:
                continue  # the value of the file stands
            if kind == "input" and one.optional:
                self._notes.append(f"{where} is optional, but the file has no value for it: each request must give it")
            self._check_known(where, one.name, known)
            dims = self._dims(where, one.dims)
            if one.HasField("reshape"):
                dims = _reshaped(where, dims, self._dims(where, one.reshape.shape, least=0))
            self._check_tensor(where, one.name, one.data_type, dims)

    def _check_known(self, where: str, name: str, known: Mapping[str, Any]) -> None:
        if name not in known:
            names = ", ".join(map(repr, list(known)[:8])) or "none"
            raise refused(f"{where} is not in the file, which has {names}")

    def _dims(self, where: str, dims: Any, least: int = 1) -> list[int]:
        if len(dims) < least:
            raise refused(f"{where} has no dims")
        wrong = next((dim for dim in dims if dim < 1 and dim != -1), None)
        if wrong is not None:
            raise refused(f"{where} has the dim {wrong}; a dim is -1 or more than 0")
        return list(dims)

    def _check_tensor(self, where: str, name: str, data_type: int, dims: list[int]) -> None:
        """Hold a declared tensor against the file's, and fix there what only the declaration fixes."""
        dtype, own = self._graph.dtype(name), self._graph.dims(name)
        if data_type == 0:
            raise refused(f"{where} has no data_type; in the file it is {data_type_name(data_type_of(dtype))}")
        if data_type != data_type_of(dtype):
            raise refused(f"{where} is {data_type_name(data_type)} here and {dtype.name} in the file")
        rows: list[int] = [-1] if self._has_rows else []
        fits = len(own) == len(rows + dims) and all(
            not isinstance(there, int) or here in (-1, there) for here, there in zip(rows + dims, own, strict=False)
        )
        if not fits:
            axis = f", after an axis of rows as max_batch_size is {self._config.max_batch_size}," * self._has_rows
            raise refused(f"{where} has the dims {dims}{axis} here and {own} in the file")
        if name in self._graph.inputs:
            named = ["" if dim is None else dim for dim in own]
            pairs = zip(rows + dims, named, strict=True)
            self._graph.set_input_dims(name, [there if here == -1 else here for here, there in pairs])

    def _take(self, where: str, name: str) -> None:
        """Note what an input is for, which is one thing."""
        if name in self._taken:
            raise refused(f"{where} is declared twice, here and as another input, state or control")
        self._taken.add(name)

    # Roles

    def _input(self) -> InputSpec:
        """The data input: the only one that is declared, with its rows first."""
        found, given = dict[str, Any](), self._given.input
        names = [one.name for one in self._config.input]
        if len(names) == 1:
            found["name"] = self._settle("the data input", given.name, names[0])
            self._names += names if given.name is None else []
        if self._has_rows or self._lacks_rows:
            found["batch_axis"] = self._settle("the axis of the rows", given.batch_axis, 0)
        return given.model_copy(update=found)

    def _outputs(self) -> Any:
        names = tuple(one.name for one in self._config.output)
        given = self._given.outputs
        return self._settle("the outputs that answer", given, names) if names else given

    def _settle(self, what: str, told: Any, read: Any) -> Any:
        """What `model.json` says, if it says anything."""
        if told is not None and told != read:
            self._notes.append(f"{what}: {read!r} here and {told!r} in model.json, which is followed")
        return read if told is None else told

    def _set_port(self, name: str, read: PortSpec) -> None:
        """Give an input its role, unless `model.json` does."""
        given = self._given
        told = given.inputs.get(name)
        if name in given.values:
            told = PortSpec(role="constant")
        elif given.state is not None and read.role == "state":
            # That list is of all states.
            outputs = {state.input: state.output for state in given.state}
            told = PortSpec(role="state", output=outputs[name]) if name in outputs else PortSpec(role="sequence")
        if told is None or told.role is None:
            self._ports[name] = read
            self._names.append(name)
        elif (told.role, told.output, told.control) != (read.role, read.output, read.control):
            self._settle(f"the role of the input {name!r}", _said(told), _said(read))

    def _read_states(self) -> None:
        for index, state in enumerate(self._config.sequence_batching.state):
            where = f"state {state.input_name!r}" if state.input_name else f"state {index}"
            if not state.input_name or not state.output_name:
                raise refused(f"{where} has no {'output' if state.input_name else 'input'}_name")
            self._take(where, state.input_name)
            self._check_known(where, state.input_name, self._graph.inputs)
            self._check_known(f"the output {state.output_name!r} of {where}", state.output_name, self._graph.outputs)
            self._check_tensor(where, state.input_name, state.data_type, self._dims(where, state.dims))
            rows = 0 if self._has_rows or self._lacks_rows else None
            initial = self._initial(where, state)
            self._set_port(
                state.input_name, PortSpec(role="state", output=state.output_name, batch_axis=rows, initial=initial)
            )

    def _initial(self, where: str, state: Any) -> str | None:
        """Put what a state begins with into the file, and return its name there; None for zeros."""
        if len(state.initial_state) > 1:
            raise refused(f"{where} begins with {len(state.initial_state)} values; it has one initial_state at most")
        for initial in state.initial_state:
            dims = self._dims(f"the initial_state of {where}", initial.dims)
            self._check_tensor(f"the initial_state of {where}", state.input_name, initial.data_type, dims)
            if initial.WhichOneof("choice") is None:
                raise refused(f"the initial_state of {where} has neither zero_data nor data_file")
            if not initial.data_file:
                continue
            dtype = self._graph.dtype(state.input_name)
            if -1 in dims:
                raise refused(f"the initial_state of {where} has an open dim, so that no file can hold it")
            size = prod(dims) * dtype.itemsize
            content = self._content(Path(INITIAL_FOLDER) / plain_name(initial.data_file), size)
            if len(content) != size:
                more = "more" if len(content) > size else len(content)
                raise refused(f"the file {initial.data_file!r} has {more} bytes; {where} has {size}")
            values = np.frombuffer(content, dtype).reshape([1] * (self._has_rows or self._lacks_rows) + dims)
            return self._graph.add_initializer(f"{ADDED}{state.input_name}.first", values)
        return None

    def _read_controls(self) -> None:
        for index, one in enumerate(self._config.sequence_batching.control_input):
            where = f"control_input {one.name!r}" if one.name else f"control_input {index}"
            if not one.name:
                raise refused(f"{where} has no name")
            if len(one.control) != 1:
                raise refused(f"{where} has {len(one.control)} controls; an input has one")
            self._take(where, one.name)
            self._check_known(where, one.name, self._graph.inputs)
            self._set_port(one.name, self._control(where, one.name, one.control[0]))

    def _control(self, where: str, name: str, control: Any) -> PortSpec:
        kind, dtype = _CONTROLS[control.kind], self._graph.dtype(name)
        given = [field for field in _FALSE_TRUE if len(getattr(control, field))]
        if kind == "corrid":
            if given:
                raise refused(f"{where} has {given[0]}; a CORRID has a data_type")
            if data_type_name(control.data_type) == "TYPE_STRING":
                raise refused(f"{where} takes the id of a sequence as text; an id that a graph is given is a number")
            if control.data_type != data_type_of(dtype):
                raise refused(f"{where} is {data_type_name(control.data_type)} here and {dtype.name} in the file")
            return PortSpec(role="control", control=kind)
        if len(given) != 1 or len(getattr(control, given[0])) != 2:
            raise refused(f"{where} needs two values, for no and yes, in one of {', '.join(_FALSE_TRUE)}")
        if _FALSE_TRUE[given[0]] != dtype.name:
            raise refused(f"{where} has {given[0]}, and is {dtype.name} in the file")
        no, yes = getattr(control, given[0])
        if no == yes or not np.isfinite([no, yes]).all():
            raise refused(
                f"{where} has the values {no} and {yes} in {given[0]}, by which no and yes are not told apart"
            )
        return PortSpec(role="control", control=kind, false_true=(no, yes))

    # Labels

    def _labels(self, output: Any) -> tuple[str, ...]:
        name, size = output.label_filename, prod(dim for dim in output.dims if dim > 0)
        try:
            lines = self._content(Path(plain_name(name)), _MOST_LABEL_BYTES).decode().splitlines()
        except UnicodeDecodeError:
            raise refused(f"the labels in {name!r} are no text in UTF-8") from None
        labels = tuple(line.strip() for line in lines if line.strip())
        if len(labels) != size:
            raise refused(f"the file {name!r} has {len(labels)} labels, and the output {output.name!r} {size} numbers")
        return labels

    def _decoder(self, labels: Mapping[str, tuple[str, ...]], outputs: Any) -> DecoderSpec | None:
        """The decoder of the primary output, if it has labels."""
        given, primary = self._given.decoder, next(iter(outputs or ()), None)
        if primary is None or primary not in labels:
            return given
        if given is not None:
            self._settle("the labels", given.labels, labels[primary])
            return given
        made_by = self._graph.producer.get(primary)
        scores = None if made_by is None else _SCORES.get(made_by.op_type)
        if scores is None:
            self._notes.append(
                f"the numbers of {primary!r} are taken for logits; if they are not, say its scores in model.json"
            )
        return DecoderSpec(kind="labels", labels=labels[primary], scores=scores)

    def _content(self, name: Path, size: int) -> bytes:
        """A file beside the configuration, or its first `size` bytes and one more. Raises ModelRefused."""
        try:
            with (self._path.parent / name).open("rb") as file:
                return file.read(min(size, _MOST_BYTES) + 1)
        except OSError as error:
            raise refused(f"the file {str(name)!r} cannot be read: {error.strerror}") from None


def _reshaped(where: str, dims: list[int], shape: list[int]) -> list[int]:
    """The shape that the file has for what a client sends as `dims`."""
    if (-1 in dims) != (-1 in shape) or (-1 not in dims and prod(dims) != prod(shape)):
        raise refused(f"{where} has the dims {dims} and the reshape {shape}, which hold not as many numbers")
    return shape


def _said(port: PortSpec) -> str:
    """A role in a few words."""
    return " ".join(filter(None, [port.control, port.role, port.output and f"replaced by {port.output!r}"]))
