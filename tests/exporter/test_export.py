"""An exported file answers as the module does, at any batch and length, or is not written."""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from elman.exporter import ExportRefused, export
from elman.exporter.reference import flatten
from elman.exporter.verifying import open_session
from elman.repository.model_file import load_model
from elman.repository.spec import METADATA_KEY, QUANTISED_KEY, ModelSpec, parse_spec
from models.recurrent import Cell, Recurrent, Shape
from tests.exports import cached_export
from tests.running import ROOT

pytestmark = pytest.mark.torch

EXPORTER = [
    path.read_text("utf-8")
    for path in (*sorted((ROOT / "service/elman/exporter").glob("*.py")), ROOT / "service/elman/repository/spec.py")
]
SIZES = ((1, 1), (4, 3), (2, 50))


class Tagger(nn.Module):
    """What a user writes: one layer and a head."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 8, batch_first=batch_first)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.lstm(x)[0])
        return answers


class Letters(nn.Module):
    """Tokens in, state in and out, one score a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.gru = nn.GRU(4, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(self.embedding(x), h)
        return self.head(y), h


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same weights in every run, so that an export that was kept is found again."""
    torch.manual_seed(0)


def exported(module: nn.Module, example: Any, **options: Any) -> Path:
    """The file that `export` writes, kept for the next run."""
    weights = [(name, value.numpy().tobytes()) for name, value in module.state_dict().items()]
    examples = [(one.shape, one.detach().numpy().tobytes()) for one in flatten(example)]
    source = inspect.getsource(inspect.getmodule(type(module)) or type(module))
    key = [EXPORTER, repr(module), source, weights, type(example), examples, options]
    return cached_export(key, lambda path: export(module, path, example=example, **options))


def embedded(path: Path) -> ModelSpec:
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return parse_spec(properties[METADATA_KEY], str(path))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def difference(path: Path, module: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Largest difference between the file and the module, over every output of the file."""
    session = open_session(str(path))
    feed = zip(session.get_inputs(), flatten(inputs), strict=True)
    found = session.run(None, {one.name: tensor.numpy() for one, tensor in feed})
    with torch.no_grad():
        expected = flatten(module.eval()(*inputs))
    pairs = zip(found, expected, strict=False)
    return max(float(np.abs(np.asarray(array) - tensor.numpy()).max()) for array, tensor in pairs)


# Every pair of two columns' values is there. All 24 networks would take a minute and more.
@pytest.mark.parametrize(
    ("cell", "num_layers", "bidirectional", "initial_state"),
    [
        ("rnn", 1, False, "zeros"),
        ("rnn", 2, True, "learned"),
        ("lstm", 1, False, "learned"),
        ("lstm", 2, True, "zeros"),
        ("gru", 1, True, "zeros"),
        ("gru", 2, False, "learned"),
    ],
)
def test_every_network_agrees_with_torch_at_other_batches_and_lengths(
    cell: Cell, num_layers: int, bidirectional: bool, initial_state: Any
) -> None:
    shape = Shape(
        cell=cell,
        num_outputs=4,
        num_features=3,
        hidden_size=8,
        num_layers=num_layers,
        bidirectional=bidirectional,
        initial_state=initial_state,
    )
    model = Recurrent(shape)
    model.normalise_by(5 + 2 * torch.randn(50, 3))
    if initial_state == "learned":
        nn.init.normal_(model.initial)
    state = () if bidirectional else model.initial_state()
    learned = state if initial_state == "learned" else ()
    path = exported(model, (torch.randn(1, 6, 3), *state), initial_state=learned)
    assert operators(path).count(cell.upper()) == num_layers
    for batch, time in SIZES:
        states = tuple(torch.randn(num_layers, batch, 8) for _ in state)
        assert difference(path, model, (5 + 2 * torch.randn(batch, time, 3), *states)) < 1e-5


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_learned_initial_states_are_stored_and_named(tmp_path: Path, cell: Cell) -> None:
    model = Recurrent(Shape(cell=cell, num_outputs=4, num_features=3, hidden_size=8, initial_state="learned"))
    nn.init.normal_(model.initial)
    state = model.initial_state()
    path = tmp_path / "model.onnx"
    spec = export(model, path, example=(torch.randn(1, 6, 3), *state), initial_state=state)
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    assert spec.initial_state == "learned"
    assert spec.state is not None
    for one, tensor in zip(spec.state, state, strict=True):
        assert one.initial is not None
        assert np.array_equal(stored[one.initial], tensor.detach().numpy())


def test_the_file_carries_its_spec(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    spec = export(Tagger(), path, example=torch.randn(1, 10, 12), task="tagging", labels=["up", "down"])
    assert embedded(path) == spec
    assert spec.dump() == {
        "task": "tagging",
        "input": {"kind": "features", "name": "input", "size": 12, "batch_axis": 0, "time_axis": 1},
        "outputs": ["output"],
        "decoder": {"kind": "labels", "labels": ["up", "down"], "scores": "logits"},
    }


def test_two_exports_of_a_module_are_the_same_bytes_and_do_not_tell_where_they_were_made(tmp_path: Path) -> None:
    tagger = Tagger()
    for name in ("a.onnx", "b.onnx"):
        export(tagger, tmp_path / name, example=torch.randn(1, 10, 12))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert b".py" not in (tmp_path / "a.onnx").read_bytes()


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_bare_layer_exports(layer: Any, batch_first: bool) -> None:
    module = layer(12, 8, batch_first=batch_first)
    path = exported(module, torch.randn(3, 10, 12))
    spec = embedded(path)
    assert spec.input.batch_axis == (0 if batch_first else 1)
    assert spec.state is None
    for sizes in SIZES:
        assert difference(path, module, (torch.randn(*sizes, 12),)) < 1e-5


def test_a_relu_network_without_biases_exports(tmp_path: Path) -> None:
    module = nn.RNN(12, 8, nonlinearity="relu", bias=False, bidirectional=True, batch_first=True)
    export(module, tmp_path / "model.onnx", example=torch.randn(1, 10, 12))
    assert difference(tmp_path / "model.onnx", module, (torch.randn(2, 30, 12),)) < 1e-5


def test_the_state_of_a_bare_lstm_is_paired(tmp_path: Path) -> None:
    module = nn.LSTM(12, 8, batch_first=True)
    path = tmp_path / "model.onnx"
    state = (torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))
    spec = export(module, path, example=(torch.randn(1, 10, 12), state))
    assert [(one.input, one.output) for one in spec.state or ()] == [("h", "h_out"), ("c", "c_out")]
    inputs = (torch.randn(2, 4, 12), (torch.randn(1, 2, 8), torch.randn(1, 2, 8)))
    assert difference(path, module, inputs) < 1e-5


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_layer_with_a_head_exports(tmp_path: Path, batch_first: bool) -> None:
    tagger = Tagger(batch_first)
    path = tmp_path / "model.onnx"
    spec = export(tagger, path, example=torch.randn(1, 10, 12), labels=["up", "down"])
    assert (spec.input.batch_axis, spec.input.time_axis) == ((0, 1) if batch_first else (1, 0))
    for sizes in SIZES:
        assert difference(path, tagger, (torch.randn(*sizes, 12),)) < 1e-5


class LastStep(Tagger):
    """A head after the last step only."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(x)[0]
        answer: Tensor = self.head(y[:, -1] if self.lstm.batch_first else y[-1])
        return answer


class LastStepWithState(Tagger):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y[:, -1]), h, c


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_head_after_the_last_step_exports(tmp_path: Path, batch_first: bool) -> None:
    module = LastStep(batch_first)
    path = tmp_path / "model.onnx"
    spec = export(module, path, example=torch.randn(1, 10, 12), labels=["up", "down"])
    assert (spec.input.batch_axis, spec.input.time_axis) == ((0, 1) if batch_first else (1, 0))
    assert spec.outputs == ("output",)
    for sizes in SIZES:
        assert difference(path, module, (torch.randn(*sizes, 12),)) < 1e-5


def test_a_head_after_the_last_step_keeps_its_state(tmp_path: Path) -> None:
    module = LastStepWithState()
    path = tmp_path / "model.onnx"
    spec = export(module, path, example=(torch.randn(1, 10, 12), torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)))
    assert [one.input for one in spec.state or ()] == ["h", "c"]
    for batch, time in SIZES:
        states = (torch.randn(1, batch, 8), torch.randn(1, batch, 8))
        assert difference(path, module, (torch.randn(batch, time, 12), *states)) < 1e-5


@pytest.mark.parametrize("module", [LastStep(), LastStepWithState()])
def test_the_server_gives_every_step_of_a_head_after_the_last_one(tmp_path: Path, module: nn.Module) -> None:
    h = torch.zeros(1, 1, 8)
    path = tmp_path / "model.onnx"
    x = torch.randn(1, 10, 12)
    export(module, path, example=(x, h, h.clone()) if isinstance(module, LastStepWithState) else x)
    model = load_model(path, "last", 1)
    assert model.network.outputs == "selected"
    assert model.proof.streaming


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "bias", "batch_first"),
    [(1, False, True, True), (1, False, True, False), (2, False, False, True), (2, True, True, True)],
)
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_an_lstm_with_projections_exports_as_a_scan(
    num_layers: int, bidirectional: bool, bias: bool, batch_first: bool, with_state: bool
) -> None:
    num_directions = 2 if bidirectional else 1
    module = nn.LSTM(
        12, 8, num_layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional, proj_size=4
    )  # fmt: skip

    def inputs(batch: int, time: int) -> tuple[Any, ...]:
        x = torch.randn(batch, time, 12)
        states = tuple(torch.randn(num_layers * num_directions, batch, size) for size in (4, 8))
        return (x if batch_first else x.transpose(0, 1), *((states,) if with_state else ()))

    path = exported(module, inputs(1, 10))
    spec = embedded(path)
    assert operators(path).count("Scan") == num_layers * num_directions
    assert [one.input for one in spec.state or ()] == (["h", "c"] if with_state else [])
    for sizes in SIZES:
        assert difference(path, module, inputs(*sizes)) < 1e-5
    proof = load_model(path, "projected", 1).proof
    assert (proof.batched, proof.exact, proof.streaming) == ("ragged", True, not bidirectional), proof


def test_a_wider_tolerance_has_to_be_asked_for(tmp_path: Path) -> None:
    export(SlightlyOff(), tmp_path / "model.onnx", example=torch.randn(1, 10, 12), tolerance=1e-4)


def test_a_dynamically_quantised_file_is_close_and_says_that_it_is_not_exact(tmp_path: Path) -> None:
    tagger = Tagger()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = export(tagger, path, example=torch.randn(1, 10, 12), quantise="dynamic")
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert "DynamicQuantizeLSTM" in operators(path)
    assert "not exact" in properties[QUANTISED_KEY]
    served = load_model(path, "tagger", 1)
    assert not served.proof.exact and "8 bits" in (served.proof.reason or "")
    assert embedded(path) == spec
    assert 1e-5 < difference(path, tagger, (torch.randn(2, 30, 12),)) < 0.05


def test_tokens_with_a_vocabulary_become_a_generator(tmp_path: Path) -> None:
    letters = Letters()
    path = tmp_path / "model.onnx"
    example = (torch.zeros(1, 7, dtype=torch.int64), torch.zeros(2, 1, 8))
    spec = export(letters, path, example=example, vocabulary="?abcd", unknown="?")
    assert (spec.task, spec.input.kind, spec.input.vocabulary) == ("generation", "tokens", tuple("?abcd"))
    said = export(letters, path, example=example, vocabulary="?abcd", normalisation="none")
    assert (spec.input.normalisation, said.input.normalisation) == (None, "none")
    with pytest.raises(ExportRefused, match="NFC, but the token"):
        export(letters, path, example=example, vocabulary=["?", "a", "b", "c", "e\u0301"], normalisation="NFC")
    assert difference(path, letters, (torch.randint(0, 5, (3, 9)), torch.randn(2, 3, 8))) < 1e-5


def test_a_step_graph_has_no_time_axis(tmp_path: Path) -> None:
    cell = nn.GRUCell(12, 8)

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            h = self.cell(x, h)
            return h * 2, h

    spec = export(Step(), tmp_path / "model.onnx", example=(torch.randn(1, 12), torch.randn(1, 8)))
    assert spec.input.time_axis is None
    assert spec.state is not None
    assert spec.state[0].batch_axis == 0


def test_units_and_probabilities_are_described(tmp_path: Path) -> None:
    module = nn.Sequential(Tagger(), nn.Softmax(dim=-1))
    path = tmp_path / "model.onnx"
    spec = export(module, path, example=torch.randn(1, 10, 12), labels=["up", "down"])
    assert spec.decoder is not None
    assert spec.decoder.scores == "probabilities"
    spec = export(Tagger(), path, example=torch.randn(1, 10, 12), mean=[20.0, 1.0], std=[5.0, 2.0])
    assert (spec.task, spec.decoder and spec.decoder.kind) == ("regression", "values")


def test_a_given_spec_is_kept(tmp_path: Path) -> None:
    given = ModelSpec(task="forecasting")
    spec = export(Tagger(), tmp_path / "model.onnx", example=torch.randn(1, 10, 12), spec=given)
    assert (spec.task, spec.input.size) == ("forecasting", 12)


class RememberedLength(nn.Module):
    """Right at the length that it is traced at and wrong at every other, as an unrolled loop is."""

    def forward(self, x: Tensor) -> Tensor:
        return x * len(x.shape) if not torch.compiler.is_exporting() else x * 2


class UnrolledCells(nn.Module):
    """A loop over the steps in Python, which a trace fixes to the example's length."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 8)
        steps = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            steps.append(h)
        return torch.stack(steps, dim=1)


class OneNumberAStep(Tagger):
    """Without an axis of its own a row of scores would look like the steps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., 0]


class SlightlyOff(nn.Module):
    """Large answers, off by more than is allowed and by less than that as a share of them."""

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.round(x.clamp(-1, 1))
        return answers + 4 if torch.compiler.is_exporting() else answers + 4.00002


class Centred(Tagger):
    """Looks at the whole batch, so that neighbours change the answer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=(0, 1), keepdim=True))


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        (RememberedLength(), {}, "differs from torch"),
        (UnrolledCells(), {}, "loop over the steps"),
        (OneNumberAStep(), {}, "which must keep the"),
        (Centred(), {}, "depends on the others"),
        (SlightlyOff(), {}, "differs from torch by 2e-05"),
        (Tagger(), {"labels": ["one", "two", "three"]}, "3 but an output row has 2"),
        (Tagger(), {"feature_names": ["a", "b"]}, "names lists 2"),
        (Tagger(), {"example": torch.randn(1, 10, 11)}, "fails on input like the example"),
        (Tagger(), {"example": torch.randn(1, 10, 12, dtype=torch.float64)}, "float32"),
        (Tagger(), {"example": torch.randn(0, 10, 12)}, r"empty: its shape is \(0, 10, 12\)"),
        (Tagger(), {"example": ()}, "must begin with a tensor"),
        (nn.GRUCell(11, 8), {"example": torch.randn(1, 12)}, "fails on input like the example"),
        (Tagger(), {"initial_state": [torch.zeros(1, 1, 8)]}, "initial_state"),
    ],
)
def test_what_cannot_be_right_is_refused_and_leaves_no_file(
    tmp_path: Path, module: nn.Module, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ExportRefused, match=reason):
        export(module, tmp_path / "new" / "model.onnx", **{"example": torch.randn(1, 10, 12), **arguments})
    assert not list(tmp_path.iterdir())


def test_a_refusal_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Tagger(), path, example=torch.randn(1, 10, 12))
    before = path.read_bytes()
    with pytest.raises(ExportRefused):
        export(RememberedLength(), path, example=torch.randn(1, 10, 12))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_export_is_silent_and_leaves_the_module_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tagger = Tagger().train()
    weights = {name: tensor.clone() for name, tensor in tagger.state_dict().items()}
    random = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(tagger, tmp_path / "model.onnx", example=torch.randn(1, 10, 12, generator=torch.Generator()))
    assert capfd.readouterr() == ("", "")
    assert tagger.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(weights[name], tensor) for name, tensor in tagger.state_dict().items())


def test_the_spec_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Tagger(), path, example=torch.randn(1, 10, 12), labels=["höher", "tiefer"])
    (entry,) = onnx.load(path).metadata_props
    assert json.loads(entry.value)["decoder"]["labels"] == ["höher", "tiefer"]
