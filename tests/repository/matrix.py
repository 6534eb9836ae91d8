"""The matrix: ordinary torch networks around a recurrent layer, the ways they are exported, and their right answers."""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tests.exports import cached_export

FEATURES, HIDDEN, LAYER_STATE, CLASSES, VOCABULARY = 5, 8, 4, 3, 13
TRACED_AT = (2, 7)

Array = np.ndarray[Any, Any]
Kind = Literal["rnn-tanh", "rnn-relu", "lstm", "gru"]
KINDS: tuple[Kind, ...] = ("rnn-tanh", "rnn-relu", "lstm", "gru")


@dataclass
class Reference:
    """What torch answers to a sequence `(length, ...)`. `steps` is None where no step has an answer of its own."""

    final: Callable[[Array], Array]
    steps: Callable[[Array], Array] | None


@dataclass(frozen=True)
class Case:
    """One model: how its file is made in a folder, what it must answer, and what the server must find out.

    Attributes:
        build: writes `model.onnx` (and what belongs beside it) into a folder and returns the right answers.
        streams: whether a sequence can be carried on from its state.
        refused: the words that a refusal must contain; None where the model must be served.
        spec: the `model.json` beside the model.
        tolerance: from torch, as a share of the largest answer where that passes 1.
        exact: False where its kernels round by the number of steps, which the card must say.
    """

    id: str
    build: Callable[[Path], Reference]
    streams: bool = True
    tokens: bool = False
    features: int = FEATURES
    dtype: str = "float32"
    tolerance: float = 1e-5
    spec: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None
    exact: bool = True

    def make(self, folder: Path) -> Reference:
        folder.mkdir(parents=True, exist_ok=True)
        reference = self.build(folder)
        if self.spec:
            (folder / "model.json").write_text(json.dumps(self.spec))
        return reference

    def sequences(self, *lengths: int, seed: int = 0) -> list[Array]:
        rng = np.random.default_rng([seed, *self.id.encode()])
        if self.tokens:
            return [rng.integers(0, VOCABULARY, length) for length in lengths]
        return [rng.standard_normal((length, self.features)).astype(self.dtype) for length in lengths]


# Networks


@dataclass(frozen=True)
class Form:
    """One network of the ordinary kind, and one way to export it."""

    kind: Kind = "lstm"
    layers: int = 1
    bidirectional: bool = False
    batch_first: bool = True
    state: Literal["none", "in", "out", "both"] = "none"
    embedding: bool = False
    head: Literal["steps", "last-y", "last-h", "none"] = "steps"
    exporter: Literal["torchscript", "dynamo"] = "torchscript"
    half: bool = False
    named: bool = True
    outputs: tuple[int, ...] | None = None  # another order
    free: Literal["both", "time"] = "both"  # axes that the exporter is told are dynamic
    external: bool = False
    bias: bool = True

    @property
    def id(self) -> str:
        words = [self.kind, f"{self.layers}-layer", "bidirectional" if self.bidirectional else "forward"]
        words.append("batch-first" if self.batch_first else "time-first")
        if self.state != "none":
            words.append({"in": "state-in", "out": "state-out", "both": "state-in-out"}[self.state])
        words += ["embedding"] * self.embedding
        words.append({"steps": "head-every-step", "none": "no-head"}.get(self.head, f"head-{self.head}"))
        words += ["float16"] * self.half + ["external-data"] * self.external + ["no-bias"] * (not self.bias)
        words += ["unnamed"] * (not self.named) + ["batch-frozen"] * (self.free == "time")
        if self.outputs is not None:
            words.append("outputs-" + "".join(map(str, self.outputs)))
        return "_".join([*words, self.exporter])


def _layer(form: Form, inputs: int) -> nn.Module:
    options: dict[str, Any] = {
        "num_layers": form.layers,
        "bidirectional": form.bidirectional,
        "batch_first": form.batch_first,
        "bias": form.bias,
    }
    if form.kind == "lstm":
        return nn.LSTM(inputs, HIDDEN, **options)
    if form.kind == "gru":
        return nn.GRU(inputs, HIDDEN, **options)
    return nn.RNN(inputs, HIDDEN, nonlinearity=form.kind.removeprefix("rnn-"), **options)


class Network(nn.Module):
    """Embedding, recurrent layer and head, as a Form says. `forward` takes the state as flat tensors."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.embedding = nn.Embedding(VOCABULARY, FEATURES) if form.embedding else None
        self.layer = _layer(form, FEATURES)
        width = HIDDEN * (2 if form.bidirectional else 1)
        self.head = None if form.head == "none" else nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Any:
        if self.embedding is not None:
            x = self.embedding(x)
        initial = None if h is None else ((h, c) if self.form.kind == "lstm" else h)
        y, final = self.layer(x, initial)
        states = final if self.form.kind == "lstm" else (final,)
        results = [self.answer(y, states[0])]
        if self.form.state in ("out", "both"):
            results += states
        if self.form.outputs is not None:
            results = [results[i] for i in self.form.outputs]
        return results[0] if len(results) == 1 else tuple(results)

    def answer(self, y: Tensor, h: Tensor) -> Tensor:
        if self.head is None:
            return y
        if self.form.head == "last-y":
            y = y[:, -1] if self.form.batch_first else y[-1]
        elif self.form.head == "last-h":
            y = torch.cat([h[-2], h[-1]], dim=-1) if self.form.bidirectional else h[-1]
        answers: Tensor = self.head(y)
        return answers


def ordinary(form: Form) -> Case:
    """The case of a Form."""

    def build(folder: Path) -> Reference:
        torch.manual_seed(len(form.id))
        network = Network(form).eval()
        if form.half:
            network = network.half()
        export_form(form, copy.deepcopy(network), folder / "model.onnx")
        return _network_reference(form, network.float())

    unrolled = form.kind.startswith("rnn") and form.exporter == "dynamo"
    return Case(
        form.id,
        build,
        streams=not form.bidirectional,
        tokens=form.embedding,
        dtype="float16" if form.half else "float32",
        tolerance=1e-2 if form.half else 1e-5,
        refused="frozen" if unrolled else None,
    )


def _network_reference(form: Form, network: Network) -> Reference:
    where = 0 if form.outputs is None else form.outputs.index(0)

    def run(sequence: Array) -> Array:
        data = torch.from_numpy(sequence if form.embedding else sequence.astype(np.float32))
        data = data[None] if form.batch_first else data[:, None]
        with torch.no_grad():
            result = network(data)
        answer = (result[where] if isinstance(result, tuple) else result).numpy()
        if form.head in ("last-y", "last-h"):
            return answer[0]
        return answer[0] if form.batch_first else answer[:, 0]

    if form.head in ("steps", "none"):
        return Reference(lambda sequence: run(sequence)[-1], run)
    if form.bidirectional:
        return Reference(run, None)
    return Reference(run, prefixes(run))


def prefixes(final: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Every step of a network that answers after its last one: its answer to each prefix."""
    return lambda sequence: np.stack([final(sequence[: end + 1]) for end in range(len(sequence))])


# Exporting


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """What torch says while it exports, left out; nothing else is."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # As an error, a warning of torch's own insides changes which way its exporter goes.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_form(form: Form, network: Network, path: Path) -> None:
    batch, time = TRACED_AT if form.free == "both" else (1, TRACED_AT[1])
    x = torch.zeros(batch, time, dtype=torch.int64) if form.embedding else torch.randn(batch, time, FEATURES)
    x = x if form.batch_first else x.swapaxes(0, 1)
    state = torch.zeros(form.layers * (2 if form.bidirectional else 1), batch, HIDDEN)
    count = 0 if form.state in ("none", "out") else (2 if form.kind == "lstm" else 1)
    # Not one tensor twice, which torch.export would take for one input.
    arguments = (x, *(state.clone() for _ in range(count)))
    arguments = tuple(a.half() if form.half and a.is_floating_point() else a for a in arguments)
    axes = {0: "batch", 1: "time"} if form.batch_first else {0: "time", 1: "batch"}
    if form.free == "time":
        axes = {axis: name for axis, name in axes.items() if name == "time"}
    state_axes = {1: "batch"} if form.free == "both" else {}
    if form.exporter == "dynamo":
        export_dynamo(network, path, arguments, [set(axes), *[set(state_axes)] * count], external=form.external)
        return
    inputs = ["input", "h0", "c0"][: 1 + count]
    outputs = ["output"]
    if form.state in ("out", "both"):
        outputs += ["hn", "cn"] if form.kind == "lstm" else ["hn"]
    dynamic: dict[str, Any] = {"input": axes, **{name: state_axes for name in inputs[1:]}}
    if form.head in ("steps", "none"):
        dynamic["output"] = axes
    elif form.free == "both":
        dynamic["output"] = {0: "batch"}
    dynamic |= {name: state_axes for name in outputs[1:]}
    if form.outputs is not None:
        outputs = [outputs[i] for i in form.outputs]
    if not form.named:
        # Whoever names nothing can still free the axes of the input, which torch calls by its argument's name.
        export_torchscript(network, path, arguments, ["x"], None, {"x": axes})
        return
    export_torchscript(network, path, arguments, inputs, outputs, {k: v for k, v in dynamic.items() if v})
    if form.external:
        save_externally(path, "weights/part.bin")


def export_torchscript(
    module: nn.Module,
    path: Path,
    arguments: tuple[Tensor, ...],
    inputs: list[str] | None,
    outputs: list[str] | None,
    dynamic: dict[str, Any],
) -> None:
    with quiet_exporter():
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=dynamic,
        )


def export_dynamo(
    module: nn.Module,
    path: Path,
    arguments: tuple[Tensor, ...],
    axes: list[set[int]],
    external: bool = False,
    names: tuple[list[str], list[str]] | None = None,
) -> None:
    """Export by torch.export, which is slow: what it writes is kept."""
    shapes = tuple({axis: torch.export.Dim.AUTO for axis in sorted(one)} for one in axes)
    inputs, outputs = names or (None, None)

    def make(kept: Path) -> None:
        with quiet_exporter():
            torch.onnx.export(
                module,
                arguments,
                str(kept),
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                external_data=external,
                verbose=False,
            )

    told = [Path(__file__).read_text("utf-8"), repr(module), getattr(module, "form", None), external, names]
    told += [(tuple(a.shape), str(a.dtype), sorted(one)) for a, one in zip(arguments, axes, strict=True)]
    told += [(name, value.numpy().tobytes()) for name, value in module.state_dict().items()]
    for file in cached_export(told, make).parent.iterdir():
        (path.parent / file.name).write_bytes(file.read_bytes())


def save_externally(path: Path, location: str) -> None:
    """Move every weight of a model into `location` beside it."""
    model = onnx.load(path)
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


# The ordinary exports


def _forms() -> Iterator[Form]:
    base = Form()
    for kind in KINDS:
        one = replace(base, kind=kind)
        for layers in (1, 2, 3, 4):
            yield replace(one, layers=layers, batch_first=layers % 2 == 1)
        yield replace(one, state="both")
        yield replace(one, state="both", layers=2, batch_first=False)
        yield replace(one, state="out", layers=2)
        yield replace(one, state="in")
        yield replace(one, head="last-y", layers=2)
        yield replace(one, head="last-h", layers=2, batch_first=False)
        yield replace(one, head="last-h", state="both", layers=2)
        yield replace(one, head="none", state="out")
        yield replace(one, embedding=True)
        yield replace(one, embedding=True, head="last-y", batch_first=False, state="both")
        yield replace(one, bidirectional=True, layers=2)
        yield replace(one, bidirectional=True, head="last-h", layers=2)
        yield replace(one, bidirectional=True, head="last-y", batch_first=False)
    for kind in ("lstm", "gru"):
        one = replace(base, kind=kind)
        yield replace(one, bidirectional=True, embedding=True, layers=3)
        yield replace(one, bidirectional=True, head="none", state="both", batch_first=False)
        yield replace(one, named=False, state="out", head="none")
        yield replace(one, free="time")
        yield replace(one, free="time", state="both")
        yield replace(one, half=True)
        yield replace(one, bias=False, layers=2)
    yield replace(base, kind="rnn-tanh", half=True)
    yield replace(base, half=True, state="both", embedding=True)
    yield replace(base, external=True, layers=2, state="both")
    yield replace(base, external=True, embedding=True, head="last-y")
    # Two states of equal shape, listed in another order.
    yield replace(base, state="both", outputs=(2, 1, 0))
    yield replace(base, state="both", outputs=(1, 2, 0), layers=2)
    yield replace(base, state="both", outputs=(2, 0, 1), head="none")
    yield replace(base, state="both", outputs=(0, 2, 1), head="last-h")
    new = replace(base, exporter="dynamo")
    yield replace(new, layers=2)
    yield replace(new, kind="gru", layers=3, batch_first=False)
    yield replace(new, state="both", layers=2)
    yield replace(new, kind="gru", state="both", batch_first=False)
    yield replace(new, state="out", head="none", outputs=(2, 0, 1))
    yield replace(new, bidirectional=True, layers=2)
    yield replace(new, kind="gru", bidirectional=True, head="last-h")
    yield replace(new, head="last-y")
    yield replace(new, kind="gru", head="last-h", state="both", layers=2)
    yield replace(new, embedding=True, state="both", head="steps")
    yield replace(new, kind="gru", embedding=True, head="last-y", batch_first=False)
    yield replace(new, half=True)
    yield replace(new, external=True, layers=4)
    yield replace(new, external=True, kind="gru", bidirectional=True, embedding=True)
    yield replace(new, kind="rnn-tanh")
    yield replace(new, kind="rnn-relu", bidirectional=True, head="last-h")


# Step graphs: no time axis


class Cells(nn.Module):
    """Stacked cells called once a step; the state of all of them is one tensor a kind, in a layout of its own."""

    def __init__(self, kind: str, layers: int, layout: str, head: bool = True, reverse: bool = False) -> None:
        super().__init__()
        cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind]
        self.cells = nn.ModuleList([cell(FEATURES if not i else HIDDEN, HIDDEN) for i in range(layers)])
        self.head = nn.Linear(HIDDEN, CLASSES) if head else nn.Identity()
        self.kind, self.layers, self.layout, self.reverse = kind, layers, layout, reverse

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        states = [self.split(one) for one in state]
        finals: list[list[Tensor]] = [[] for _ in state]
        for layer, cell in enumerate(self.cells):
            held = tuple(one[layer] for one in states)
            new = cell(x, held if self.kind == "lstm" else held[0])
            new = new if self.kind == "lstm" else (new,)
            for final, value in zip(finals, new, strict=True):
                final.append(value)
            x = new[0]
        results = (self.head(x), *(self.join(final) for final in finals))
        return results[::-1] if self.reverse else results

    def split(self, state: Tensor) -> list[Tensor]:
        if self.layout == "BH":
            return [state]
        return list(state.unbind(0 if self.layout == "LBH" else 1))

    def join(self, states: list[Tensor]) -> Tensor:
        if self.layout == "BH":
            return states[0]
        return torch.stack(states, dim=0 if self.layout == "LBH" else 1)

    def state_shape(self, batch: int) -> tuple[int, ...]:
        return {"BH": (batch, HIDDEN), "LBH": (self.layers, batch, HIDDEN), "BLH": (batch, self.layers, HIDDEN)}[
            self.layout
        ]


def step_case(
    kind: str,
    layers: int,
    layout: str,
    exporter: str = "torchscript",
    reverse: bool = False,
    names: tuple[list[str], list[str]] | None = None,
    spec: dict[str, Any] | None = None,
    refused: str | None = None,
    id: str = "",
) -> Case:
    def build(folder: Path) -> Reference:
        torch.manual_seed(3)
        cells = Cells(kind, layers, layout, reverse=reverse).eval()
        count = 2 if kind == "lstm" else 1
        states = tuple(torch.zeros(cells.state_shape(2)) for _ in range(count))
        axis = layout.index("B")
        arguments = (torch.randn(2, FEATURES), *states)
        if exporter == "dynamo":
            _export_cells_dynamo(cells, folder / "model.onnx", arguments, axis, names)
        else:
            inputs, outputs = names or (["x", "h", "c"][: 1 + count], ["y", "h_out", "c_out"][: 1 + count])
            if reverse and names is None:
                outputs = outputs[::-1]
            dynamic = {name: {axis if name in inputs[1:] else 0: "batch"} for name in inputs}
            free = [0, axis, axis][: 1 + count]
            dynamic |= {n: {a: "batch"} for n, a in zip(outputs, free[::-1] if reverse else free, strict=True)}
            export_torchscript(copy.deepcopy(cells), folder / "model.onnx", arguments, inputs, outputs, dynamic)

        def run(sequence: Array) -> Array:
            held = tuple(torch.zeros(cells.state_shape(1)) for _ in range(count))
            steps = []
            with torch.no_grad():
                for row in torch.from_numpy(sequence):
                    results = cells(row[None], *held)
                    y, *new = results[::-1] if reverse else results
                    held = tuple(new)
                    steps.append(y[0].numpy())
            return np.stack(steps)

        return Reference(lambda sequence: run(sequence)[-1], run)

    words = [f"step_{kind}-cell", f"{layers}-layer", f"state-{layout}"] + ["reversed-outputs"] * reverse + [exporter]
    return Case(id or "_".join(words), build, spec=spec or {}, refused=refused)


class _OneState(nn.Module):
    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.cells(x, h)


class _TwoStates(_OneState):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:  # type: ignore[override]
        return self.cells(x, h, c)


def _export_cells_dynamo(
    cells: Cells,
    path: Path,
    arguments: tuple[Tensor, ...],
    axis: int,
    names: tuple[list[str], list[str]] | None,
) -> None:
    module = (_TwoStates if len(arguments) == 3 else _OneState)(copy.deepcopy(cells))
    export_dynamo(module, path, arguments, [{0}, *[{axis}] * (len(arguments) - 1)], names=names)


def _step_cases() -> Iterator[Case]:
    for kind in ("lstm", "gru", "rnn"):
        yield step_case(kind, 1, "BH")
        yield step_case(kind, 2, "LBH")
        yield step_case(kind, 2, "BLH")
    yield step_case("lstm", 1, "BH", reverse=True)
    yield step_case("gru", 1, "LBH")
    named = (["x", "h", "c"], ["y", "h_out", "c_out"])
    yield step_case("lstm", 1, "BH", exporter="dynamo", names=named)
    # torch.export calls outputs by what made them, and the two states mix in the cell: nothing tells them apart.
    yield step_case("lstm", 1, "BH", exporter="dynamo", refused="could be", id="step_lstm-cell_unnamed_dynamo")
    yield step_case("gru", 2, "BLH", exporter="dynamo")
    anonymous = (["p", "q", "r"], ["u", "v", "w"])
    yield step_case(
        "lstm", 1, "BH", names=anonymous, refused="could be", id="step_lstm-cell_states-nameless_is-ambiguous"
    )
    pairs = [{"input": "q", "output": "v", "batch_axis": 0}, {"input": "r", "output": "w", "batch_axis": 0}]
    yield step_case(
        "lstm", 1, "BH", names=anonymous, spec={"state": pairs}, id="step_lstm-cell_states-nameless_told-by-model-json"
    )


# Networks of several parts


def special(
    id: str,
    module: Callable[[], nn.Module],
    *,
    exporter: str = "torchscript",
    head: Literal["steps", "last"] = "steps",
    answer: int = 0,
    states: tuple[tuple[int, ...], ...] = (),
    inputs: list[str] | None = None,
    outputs: list[str] | None = None,
    extra: tuple[Tensor, ...] = (),
    streams: bool = True,
    spec: dict[str, Any] | None = None,
    features: int = FEATURES,
    refused: str | None = None,
    exact: bool = True,
) -> Case:
    """A batch-first module of one's own: forward(x, *states, *extra). `states` are shapes with 0 for the batch."""

    def build(folder: Path) -> Reference:
        torch.manual_seed(5)
        net = module().eval()
        batch, time = TRACED_AT
        x = torch.randn(batch, time, features)

        def zeros(rows: int) -> tuple[Tensor, ...]:
            return tuple(torch.zeros([dim or rows for dim in shape]) for shape in states)

        arguments = (x, *zeros(batch), *extra)
        path = folder / "model.onnx"
        if exporter == "dynamo":
            axes = [{0, 1}, *({shape.index(0)} for shape in states), *(set() for _ in extra)]
            export_dynamo(copy.deepcopy(net), path, arguments, axes)
        else:
            names = inputs or ["input", *(f"s{i}" for i in range(len(states))), *(f"e{i}" for i in range(len(extra)))]
            results = outputs or ["output", *(f"s{i}_out" for i in range(len(states)))]
            dynamic: dict[str, Any] = {names[0]: {0: "batch", 1: "time"}}
            dynamic |= {name: {shape.index(0): "batch"} for name, shape in zip(names[1:], states, strict=False)}
            where = results[answer]
            dynamic[where] = {0: "batch", 1: "time"} if head == "steps" else {0: "batch"}
            # Shape inference gives the other outputs their dynamic axes.
            export_torchscript(copy.deepcopy(net), path, arguments, names, results, dynamic)

        def run(sequence: Array) -> Array:
            with torch.no_grad():
                result = net(torch.from_numpy(sequence)[None], *zeros(1), *extra)
            found = result[answer] if isinstance(result, tuple) else result
            return np.asarray(found[0].numpy())

        if head == "steps":
            return Reference(lambda sequence: run(sequence)[-1], run)
        return Reference(run, prefixes(run) if streams else None)

    return Case(id, build, streams=streams, spec=spec or {}, features=features, refused=refused, exact=exact)


class LearnedStart(nn.Module):
    """An initial state that was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        self.start = nn.Parameter(torch.randn(2, 1, HIDDEN))
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())[0])
        return answers


class Mixed(nn.Module):
    """Normalised input, a GRU under an LSTM, a residual, and probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU())
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        x = x + self.gru(x)[0]
        x = x + self.lstm(x)[0]
        return self.head(x).softmax(-1)


class Pooled(nn.Module):
    """The mean over all steps: no running state carries it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.lstm(x)[0].mean(dim=1))
        return answers


class Attending(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        weights = (y @ y[:, -1:].transpose(1, 2)).softmax(dim=1)
        answers: Tensor = self.head((weights * y).sum(dim=1))
        return answers


class Convolved(nn.Module):
    """A convolution over time below the recurrent layer, that sees the step to come."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(FEATURES, HIDDEN, kernel, padding=kernel // 2)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.gru(self.convolution(x.transpose(1, 2)).transpose(1, 2))[0])
        return answers


class ForwardOverBoth(nn.Module):
    """A forward layer on top of a bidirectional one."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.LSTM(FEATURES, HIDDEN, bidirectional=True, batch_first=True)
        self.top = nn.GRU(2 * HIDDEN, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.top(self.both(x)[0])[0])
        return answers


class TwoRecurrents(nn.Module):
    """Two LSTMs of one size: four states of equal shape, given back in an order of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.high = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, h1: Tensor, c1: Tensor, h2: Tensor, c2: Tensor) -> tuple[Tensor, ...]:
        x, (h1, c1) = self.low(x, (h1, c1))
        y, (h2, c2) = self.high(x, (h2, c2))
        return c2, h1, self.head(y), c1, h2


class PackedState(nn.Module):
    """h and c as one tensor (2, batch, hidden), as Silero's network keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (state[0:1], state[1:2]))
        return self.head(y), torch.cat([h, c])


class BatchLeadingState(nn.Module):
    """The state as (batch, layers, hidden), turned round inside."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x, state.transpose(0, 1).contiguous())
        return self.head(y), h.transpose(0, 1)


class Scaled(nn.Module):
    """An extra input that the server must be told: a number, or a vector for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        answers: Tensor = self.head(self.lstm(x * scale)[0])
        return answers


class ScaledWithState(Scaled):
    def forward(self, x: Tensor, h: Tensor, c: Tensor, scale: Tensor) -> Any:  # type: ignore[override]
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y) * scale, h, c


class Projected(nn.Module):
    """nn.LSTM with proj_size. ONNX has no such operator."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, proj_size=LAYER_STATE, batch_first=True)
        self.head = nn.Linear(LAYER_STATE, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.lstm(x)[0])
        return answers


class TwoSpeeds(nn.Module):
    """More than one per-step output."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, HIDDEN, batch_first=True)
        self.scores = nn.Linear(HIDDEN, CLASSES)
        self.value = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.gru(x)
        return self.scores(y), self.value(y)


class Flattened(nn.Module):
    """The head applied to (batch * time, hidden), as older code does."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        batch, time, _ = y.shape
        return self.head(y.reshape(-1, HIDDEN)).reshape(batch, time, CLASSES)


class Squeezed(nn.Module):
    """One number a step, without an axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.gru(x)[0]).squeeze(-1)
        return answers


def _special_cases() -> Iterator[Case]:
    state = (1, 0, HIDDEN)
    yield special("learned-initial-state_gru_torchscript", LearnedStart)
    yield special("learned-initial-state_gru_dynamo", LearnedStart, exporter="dynamo")
    yield special("gru-under-lstm_residual_softmax_torchscript", Mixed)
    yield special("gru-under-lstm_residual_softmax_dynamo", Mixed, exporter="dynamo")
    yield special("mean-over-time_lstm_torchscript", Pooled, head="last", streams=False)
    yield special("attention-over-time_lstm_torchscript", Attending, head="last", streams=False)
    yield special("convolution-over-time_gru_torchscript", lambda: Convolved(3), streams=False)
    yield special("convolution-of-one-step_gru_torchscript", lambda: Convolved(1), exact=False)
    yield special("forward-over-bidirectional_torchscript", ForwardOverBoth, streams=False)
    yield special(
        "two-lstms_four-states-shuffled_torchscript",
        TwoRecurrents,
        answer=2,
        states=(state,) * 4,
        inputs=["input", "h1", "c1", "h2", "c2"],
        outputs=["c2_out", "h1_out", "answers", "c1_out", "h2_out"],
    )
    yield special(
        "two-lstms_four-states-shuffled_nameless_torchscript",
        TwoRecurrents,
        answer=2,
        states=(state,) * 4,
        inputs=["a", "b", "c", "d", "e"],
        outputs=["p", "q", "r", "s", "t"],
    )
    yield special(
        "two-lstms_four-states-shuffled_dynamo", TwoRecurrents, exporter="dynamo", answer=2, states=(state,) * 4
    )
    yield special("state-h-and-c-in-one-tensor_torchscript", PackedState, states=((2, 0, HIDDEN),))
    yield special("state-h-and-c-in-one-tensor_dynamo", PackedState, exporter="dynamo", states=((2, 0, HIDDEN),))
    yield special("state-batch-leading_gru_torchscript", BatchLeadingState, states=((0, 2, HIDDEN),))
    yield special("constant-scalar_torchscript", Scaled, extra=(torch.tensor(0.5),), spec={"constants": {"e0": 0.5}})
    yield special(
        "constant-scalar-with-state_torchscript",
        ScaledWithState,
        states=(state, state),
        extra=(torch.tensor(0.5),),
        spec={"constants": {"e0": 0.5}},
    )
    yield special(
        "constant-vector_torchscript",
        Scaled,
        extra=(torch.tensor([[[0.5, 1.0, 2.0, -1.0, 0.0]]]),),
        spec={"constants": {"e0": [[[0.5, 1.0, 2.0, -1.0, 0.0]]]}},
    )
    yield special("lstm-with-projection_dynamo", Projected, exporter="dynamo", refused="")
    yield special("two-outputs-a-step_torchscript", TwoSpeeds, outputs=["scores", "value"])
    yield special("head-over-flattened-steps_torchscript", Flattened)
    yield special("head-over-flattened-steps_dynamo", Flattened, exporter="dynamo")
    yield special("one-feature_one-number-a-step_torchscript", Squeezed, features=1)


# Graphs built by hand: what torch does not export


def _declared(name: str, kind: int, dims: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def _weights(lstm: nn.LSTM, prefix: str) -> tuple[list[TensorProto], list[str]]:
    """W (1, 4H, F), R (1, 4H, H), B (1, 8H) of a one-layer LSTM; ONNX orders the gates i, o, f, c."""

    def ordered(tensor: Tensor) -> Array:
        i, f, g, o = np.split(tensor.detach().numpy(), 4)
        return np.concatenate([i, o, f, g])[None]

    w, r = ordered(lstm.weight_ih_l0), ordered(lstm.weight_hh_l0)
    b = np.concatenate([ordered(lstm.bias_ih_l0), ordered(lstm.bias_hh_l0)], axis=1)
    names = [f"{prefix}.W", f"{prefix}.R", f"{prefix}.B"]
    return [numpy_helper.from_array(v, n) for v, n in zip((w, r, b), names, strict=True)], names


def _branch(name: str, lstm: nn.LSTM, data: str, states: bool) -> onnx.GraphProto:
    """A subgraph that reads (time, batch, features) from outside and gives Y and, where wanted, h and c."""
    tensors, names = _weights(lstm, name)
    finals = [f"{name}.h", f"{name}.c"] if states else []
    node = helper.make_node(
        "LSTM",
        [data, *names, "", *(["h0", "c0"] if states else [])],
        [f"{name}.y4", *finals],
        name=f"{name}.lstm",
        hidden_size=HIDDEN,
    )
    squeeze = helper.make_node("Squeeze", [f"{name}.y4", f"{name}.axis"], [f"{name}.y"])
    tensors.append(numpy_helper.from_array(np.array([1], np.int64), f"{name}.axis"))
    outputs = [_declared(n, TensorProto.FLOAT, None) for n in (f"{name}.y", *finals)]
    return helper.make_graph([node, squeeze], name, [], outputs, tensors)


def lstm_in_if(id: str, *, states: bool, taken: int) -> Case:
    """Two LSTMs, one in each branch of an If on the extra input `sr`, as Silero's network has them."""

    def build(folder: Path) -> Reference:
        torch.manual_seed(7)
        low, high = (nn.LSTM(FEATURES, HIDDEN, batch_first=True).eval() for _ in range(2))
        nodes = [
            helper.make_node("Transpose", ["input"], ["moved"], perm=[1, 0, 2]),
            helper.make_node("Equal", ["sr", "rate"], ["is_high"]),
            helper.make_node(
                "If",
                ["is_high"],
                ["steps", *(["hn", "cn"] if states else [])],
                name="choose",
                then_branch=_branch("high", high, "moved", states),
                else_branch=_branch("low", low, "moved", states),
            ),
            helper.make_node("Transpose", ["steps"], ["output"], perm=[1, 0, 2]),
        ]
        inputs = [
            _declared("input", TensorProto.FLOAT, ["batch", "time", FEATURES]),
            *[_declared(n, TensorProto.FLOAT, [1, "batch", HIDDEN]) for n in (("h0", "c0") if states else ())],
            _declared("sr", TensorProto.INT64, []),
        ]
        outputs = [
            _declared("output", TensorProto.FLOAT, ["batch", "time", HIDDEN]),
            *[_declared(n, TensorProto.FLOAT, [1, "batch", HIDDEN]) for n in (("hn", "cn") if states else ())],
        ]
        rate = numpy_helper.from_array(np.array(16000, np.int64), "rate")
        graph = helper.make_graph(nodes, "vad", inputs, outputs, [rate])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, folder / "model.onnx")
        chosen = high if taken == 16000 else low

        def run(sequence: Array) -> Array:
            with torch.no_grad():
                return np.asarray(chosen(torch.from_numpy(sequence)[None])[0][0].numpy())

        return Reference(lambda sequence: run(sequence)[-1], run)

    return Case(id, build, spec={"constants": {"sr": taken}})


def projected_scan(id: str) -> Case:
    """An LSTM with projection as an ONNX Scan over time, which is how it can be written."""

    def build(folder: Path) -> Reference:
        torch.manual_seed(9)
        lstm = nn.LSTM(FEATURES, HIDDEN, proj_size=LAYER_STATE).eval()
        weights = {
            "w": lstm.weight_ih_l0.T, "r": lstm.weight_hh_l0.T, "b": lstm.bias_ih_l0 + lstm.bias_hh_l0,
            "p": lstm.weight_hr_l0.T,
        }  # fmt: skip
        tensors = [numpy_helper.from_array(np.ascontiguousarray(v.detach().numpy()), n) for n, v in weights.items()]
        body = [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("MatMul", ["h", "r"], ["hr"]),
            helper.make_node("Add", ["xw", "hr"], ["sum"]),
            helper.make_node("Add", ["sum", "b"], ["gates"]),
            helper.make_node("Split", ["gates"], ["i", "f", "g", "o"], axis=1, num_outputs=4),
            *[helper.make_node("Sigmoid", [gate], [f"{gate}s"]) for gate in "ifo"],
            helper.make_node("Tanh", ["g"], ["gt"]),
            helper.make_node("Mul", ["fs", "c"], ["kept"]),
            helper.make_node("Mul", ["is", "gt"], ["new"]),
            helper.make_node("Add", ["kept", "new"], ["c_out"]),
            helper.make_node("Tanh", ["c_out"], ["ct"]),
            helper.make_node("Mul", ["os", "ct"], ["full"]),
            helper.make_node("MatMul", ["full", "p"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["y"]),
        ]
        loop = helper.make_graph(
            body,
            "step",
            [_declared(n, TensorProto.FLOAT, None) for n in ("h", "c", "x")],
            [_declared(n, TensorProto.FLOAT, None) for n in ("h_out", "c_out", "y")],
        )
        nodes = [helper.make_node("Scan", ["h0", "c0", "input"], ["hn", "cn", "output"], body=loop, num_scan_inputs=1)]
        dims = {"h": ["batch", LAYER_STATE], "c": ["batch", HIDDEN]}
        inputs = [_declared("input", TensorProto.FLOAT, ["time", "batch", FEATURES])]
        inputs += [_declared(f"{n}0", TensorProto.FLOAT, d) for n, d in dims.items()]
        outputs = [_declared("output", TensorProto.FLOAT, ["time", "batch", LAYER_STATE])]
        outputs += [_declared(f"{n}n", TensorProto.FLOAT, d) for n, d in dims.items()]
        graph = helper.make_graph(nodes, "projected", inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, folder / "model.onnx")

        def run(sequence: Array) -> Array:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN", UserWarning)
                return np.asarray(lstm(torch.from_numpy(sequence)[:, None])[0][:, 0].numpy())

        return Reference(lambda sequence: run(sequence)[-1], run)

    return Case(id, build)


def _hand_built_cases() -> Iterator[Case]:
    for rate in (16000, 8000):
        yield lstm_in_if(f"lstm-in-if_states_sr-{rate}", states=True, taken=rate)
    yield lstm_in_if("lstm-in-if_no-states_sr-16000", states=False, taken=16000)
    yield projected_scan("lstm-with-projection_scan_states")


CASES: tuple[Case, ...] = (
    *(ordinary(form) for form in _forms()),
    *_step_cases(),
    *_special_cases(),
    *_hand_built_cases(),
)
