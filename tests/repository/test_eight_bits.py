"""A model in 8 bits is batched, cut and carried on like any other, and its bits depend on nothing but the sequence."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from conftest import Service, outputs, run, run_alone
from onnx import TensorProto, numpy_helper
from test_carried import carries_on
from torch import Tensor, nn
from truth import Truth

from elman.api.server import policy_of
from elman.engine.sequence import Sequence
from elman.errors import ModelRefused
from elman.exporter import ExportRefused, export
from elman.repository.graph import all_graphs
from elman.repository.model_file import load_model
from elman.repository.proof import prove
from elman.repository.rewriting import Rewriting, rewrite_graph
from elman.repository.runtime import GraphSession
from elman.repository.spec import ModelSpec
from elman.settings import Settings
from tests.exports import cached_export
from tests.running import ROOT

pytestmark = pytest.mark.torch

FEATURES, HIDDEN = 5, 24
RAGGED = (1, 40, 7, 2, 70, 19, 3, 28, 11)
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
SOURCE = [
    (ROOT / "service/elman/exporter" / f"{name}.py").read_text("utf-8")
    for name in ("export", "quantising", "bounds", "onnx_layers", "tracing", "writing")
]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Form:
    """A network: a recurrent layer and a head over every step, or over the final h."""

    cell: str = "lstm"
    layers: int = 1
    bidirectional: bool = False
    state: bool = False
    bias: bool = True
    head: Literal["steps", "final"] = "steps"

    @property
    def id(self) -> str:
        words = [self.cell, f"{self.layers}-layer"] + ["bidirectional"] * self.bidirectional + ["state"] * self.state
        return "-".join(words + ["no-bias"] * (not self.bias) + ["final"] * (self.head == "final"))


class Network(nn.Module):
    """As a Form says, with seeded weights."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.form = form
        self.layer = CELLS[form.cell](
            FEATURES, HIDDEN, form.layers, bias=form.bias, bidirectional=form.bidirectional, batch_first=True
        )
        self.head = nn.Linear(HIDDEN * (1 + form.bidirectional), 3)

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        given = None if not state else tuple(state) if self.form.cell == "lstm" else state[0]
        y, final = self.layer(x, given)
        finals = final if isinstance(final, tuple) else (final,)
        answer = self.head(y if self.form.head == "steps" else finals[0][-1])
        return (answer, *finals) if self.form.state else answer

    def states(self) -> tuple[Tensor, ...]:
        """Zeros, as an example of the states."""
        sizes = (self.form.layers * (1 + self.form.bidirectional), 1, HIDDEN)
        return (torch.zeros(sizes),) * (1 + (self.form.cell == "lstm")) if self.form.state else ()


FORMS = [
    *(Form(cell, layers) for cell in CELLS for layers in (1, 2)),
    *(Form(cell, 2, state=True) for cell in CELLS),
    *(Form(cell, 2, bidirectional=True) for cell in CELLS),
    Form("gru", bias=False),
    Form("lstm", head="final"),
    Form("gru", 2, head="final"),
]
FORWARD = [form for form in FORMS if not form.bidirectional]


def forms(chosen: list[Form]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("form", chosen, ids=lambda form: form.id)


def exported(form: Form) -> Path:
    network = Network(form)
    key = ("8 bits", form, *SOURCE, inspect.getsource(Network))
    example = (torch.randn(1, 9, FEATURES), *network.states())
    return cached_export(key, lambda path: export(network, path, example=example, quantise=True))


def rows(*lengths: int) -> list[Array]:
    rng = np.random.default_rng(0)
    data = [rng.standard_normal((length, FEATURES), np.float32) for length in lengths]
    data[1] *= 100  # a neighbour whose numbers would set a scale that is shared
    data[2][:] = 0
    return data


@forms(FORMS)
def test_it_is_proved_exact(form: Form) -> None:
    model = load_model(exported(form), "model", 1)
    proof, network = model.proof, model.network
    assert (proof.batched, proof.exact, proof.tolerance) == ("ragged", True, 0.0), proof
    assert (proof.chunked, proof.streaming, bool(network.states)) == (not form.bidirectional,) * 3, proof
    assert proof.reason is None or ("reverse" in proof.reason and form.bidirectional)
    assert (network.cell, network.layers, network.hidden_size) == (form.cell, form.layers, HIDDEN)
    assert network.outputs == "selected"


@forms(FORMS)
def test_its_bits_are_those_of_the_file_alone_however_it_is_run(form: Form) -> None:
    path = exported(form)
    model, data = load_model(path, "model", 1), rows(*RAGGED)
    expected = [run_alone(model, row, "steps") for row in data]
    truth, zeros = Truth(onnx.load(path)), {s.input: s.initial for s in model.network.states if form.state}
    for row, found in zip(data, expected, strict=True):
        own = truth.answers({"input": row[None], **zeros})["output"][0].reshape(-1, 3)
        np.testing.assert_allclose(found[-len(own) :], own, rtol=0, atol=1e-6)
    for chunk in (1, 3, 8, 128):
        policy = replace(policy_of(model, Settings()), max_chunk=chunk) if model.proof.chunked else None
        together = run(model, [Sequence(row, "steps") for row in data], policy)
        for one, wanted in zip(together, expected, strict=True):
            assert outputs(one).tobytes() == wanted.tobytes()


@forms([form for form in FORMS if form.head == "final"])
def test_a_head_over_the_final_h_reads_the_last_step_of_each_row(form: Form) -> None:
    proto = onnx.load(exported(form))
    network, _ = rewrite_graph(proto, ModelSpec(), Rewriting(select=False))
    proof = prove(network, GraphSession(network.model))
    assert (network.outputs, proof.batched, proof.exact) == ("last", "ragged", True), proof


@forms(FORWARD)
def test_a_session_gives_the_bits_of_the_whole(form: Form) -> None:
    carries_on(load_model(exported(form), "model", 1), rows(*RAGGED))


@forms(FORMS)
def test_it_answers_near_to_the_module(form: Form) -> None:
    model, network, apart = load_model(exported(form), "model", 1), Network(form).eval(), 0.0
    for row in rows(*RAGGED):
        with torch.no_grad():
            answer = network(torch.from_numpy(row)[None])
        expected = (answer[0] if isinstance(answer, tuple) else answer).numpy().reshape(-1, 3)[-1]
        (found,) = run_alone(model, row, "final")
        apart = max(apart, float(np.abs(found - expected).max()))
    assert 0 < apart < 0.02


@forms([Form("lstm"), Form("gru", 2)])
def test_no_sum_of_two_products_leaves_16_bits(form: Form) -> None:
    """As ONNX Runtime adds them on processors with AVX2 and without VNNI."""
    proto = onnx.load(exported(form))
    weights = [one for one in proto.graph.initializer if one.data_type == TensorProto.INT8]
    assert len(weights) == 2 * form.layers
    for one in weights:
        value = numpy_helper.to_array(one)
        assert np.abs(value.astype(np.int32)).max() == 63
        assert 2 * 255 * 63 < 2**15
    operators = {node.op_type for graph in all_graphs(proto.graph) for node in graph.node}
    assert not operators & {"LSTM", "GRU"}


def test_the_file_is_a_quarter_as_large(tmp_path: Path) -> None:
    module = nn.LSTM(64, 256, batch_first=True)
    for name, quantise in (("plain", False), ("small", True)):
        export(module, tmp_path / name, example=torch.randn(1, 9, 64), quantise=quantise)
    sizes = [(tmp_path / name).stat().st_size for name in ("plain", "small")]
    assert sizes[1] < 0.27 * sizes[0]


# What h starts from


class Started(nn.Module):
    """A GRU that starts from what `first` makes of a static input."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.gru, self.head = first, nn.GRU(FEATURES, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, who: Tensor) -> Tensor:
        answer: Tensor = self.head(self.gru(x, self.first(who)[None])[0])
        return answer


def test_an_initial_h_without_a_range_is_refused(tmp_path: Path) -> None:
    example = (torch.randn(1, 9, FEATURES), torch.randn(1, 4))
    with pytest.raises(ExportRefused, match=r"how large the initial h .* may be, and 8 bits need a range: put a tanh"):
        export(Started(nn.Linear(4, HIDDEN)), tmp_path / "model.onnx", example=example, quantise=True)
    assert not list(tmp_path.iterdir())
    bounded = Started(nn.Sequential(nn.Linear(4, HIDDEN), nn.Tanh()))
    found = []
    for name, quantise in (("plain", False), ("rounded", True)):
        export(bounded, tmp_path / name, example=example, quantise=quantise)
        found.append(load_model(tmp_path / name, "model", 1).proof)
    assert replace(found[1], reason=found[0].reason) == found[0] and found[1].exact


def test_a_state_that_a_module_enlarges_is_refused(tmp_path: Path) -> None:
    class Enlarging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(FEATURES, HIDDEN, batch_first=True)

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            y, h = self.gru(x, h)
            return y, 2 * h

    example = (torch.randn(1, 9, FEATURES), torch.zeros(1, 1, HIDDEN))
    with pytest.raises(ExportRefused, match="the initial h"):
        export(Enlarging(), tmp_path / "model.onnx", example=example, quantise=True)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_learned_initial_state_has_a_scale_of_its_own(tmp_path: Path, cell: str) -> None:
    form = Form(cell, 2, state=True)
    network, path = Network(form), tmp_path / "model.onnx"
    first = tuple(torch.linspace(-3, 3, 2 * HIDDEN).reshape(2, 1, HIDDEN) for _ in network.states())
    example = (torch.randn(1, 9, FEATURES), *network.states())
    export(network, path, example=example, initial_state=first, quantise=True)
    model, data = load_model(path, "model", 1), rows(*RAGGED)
    assert model.proof.exact and model.network.states[0].limit == pytest.approx(3 * 127.5 / 127)
    carries_on(model, data)
    for row in data:
        with torch.no_grad():
            expected = network(torch.from_numpy(row)[None], *first)[0][0, -1].numpy()
        assert np.abs(run_alone(model, row, "final")[0] - expected).max() < 0.05


def test_an_initial_state_that_the_scale_would_cut_off_is_refused(tmp_path: Path) -> None:
    network, path = Network(Form("gru", state=True)), tmp_path / "model.onnx"
    export(network, path, example=(torch.randn(1, 9, FEATURES), *network.states()), quantise=True)
    proto = onnx.load(path)
    proto.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, HIDDEN), 1.5, np.float32), "first"))
    onnx.save(proto, path)
    state = {"role": "state", "output": "h_out", "initial": "first"}
    path.with_name("model.json").write_text(json.dumps({"inputs": {"h": state}}))
    with pytest.raises(ModelRefused, match=r"has 1\.5, and the graph rounds it to 8 bits within 1\.004 of zero"):
        load_model(path, "model", 1)


def test_a_module_without_a_layer_that_can_be_rounded_is_refused(tmp_path: Path) -> None:
    module = nn.RNN(FEATURES, HIDDEN, nonlinearity="relu", batch_first=True)
    with pytest.raises(ExportRefused, match="quantise rounds LSTM and GRU layers"):
        export(module, tmp_path / "model.onnx", example=torch.randn(1, 9, FEATURES), quantise=True)


def test_a_layer_of_another_formula_stays_as_it_is(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(FEATURES, HIDDEN, nonlinearity="relu", batch_first=True)
            self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(self.rnn(x)[0])[0]  # type: ignore[no-any-return]

    export(Both(), tmp_path / "model.onnx", example=torch.randn(1, 9, FEATURES), quantise=True)
    proto = onnx.load(tmp_path / "model.onnx")
    assert [node.op_type for node in proto.graph.node if node.op_type in ("RNN", "GRU", "Scan")] == ["RNN", "Scan"]
    model = load_model(tmp_path / "model.onnx", "model", 1)
    assert model.proof.exact and (model.network.cell, model.network.layers) == ("rnn+gru", 2)
    carries_on(model, rows(*RAGGED))


# Over HTTP


@pytest.fixture(scope="module")
def service(serve: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    root = tmp_path_factory.mktemp("served")
    for form in (Form("lstm", 2), Form("gru", state=True)):
        path = root / form.id / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(exported(form).read_bytes())
    return serve(root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm-2-layer", "gru-1-layer-state"])
def test_a_card_says_exact_and_a_session_gives_the_answers_of_the_whole(service: Service, name: str) -> None:
    batching: Any = service.card(name)["batching"]
    assert (batching["exact"], batching["tolerance"], batching["reason"]) == (True, 0.0, None)
    data = rows(*RAGGED)
    together = service.predict(name, data, "steps")
    client = service.client
    for row, expected in zip(data, together, strict=True):
        assert service.predict(name, [row], "steps")[0].tobytes() == expected.tobytes()
        session = client.post(f"/v1/models/{name}/sessions").json()["id"]
        found = []
        for piece in np.array_split(row, min(3, len(row))):
            body = {"sequence": piece.tolist(), "return": "steps", "decode": False}
            answer = client.post(f"/v1/sessions/{session}/steps", json=body)
            assert answer.status_code == 200, answer.text
            found += answer.json()["outputs"]
        assert np.array(found, np.float32).tobytes() == expected.tobytes()


@pytest.mark.slow
def test_a_state_that_would_be_cut_off_is_refused(service: Service) -> None:
    def ask(largest: float) -> Any:
        tensors = [("input", np.zeros((1, 2, FEATURES))), ("h", np.full((1, 1, HIDDEN), largest))]
        inputs = [
            {"name": name, "shape": list(one.shape), "datatype": "FP32", "data": one.ravel().tolist()}
            for name, one in tensors
        ]
        return service.client.post("/v2/models/gru-1-layer-state/infer", json={"inputs": inputs})

    assert ask(1.0).status_code == 200
    refused = ask(1.5)
    assert refused.status_code == 422, refused.text
    assert "the state has 1.5, and the model rounds it to 8 bits" in refused.json()["error"]
    assert refused.json()["expected"] == "-1.00394 to 1.00394"
