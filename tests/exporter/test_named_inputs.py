"""A module with further inputs and outputs is exported with the role of each, and served as it answers itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elman.exporter import ExportRefused, export
from tests.exporter.test_export import Letters, Tagger, embedded, exported
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.torch

FEATURES, HIDDEN, SPEAKERS = 3, 4, 5
LENGTHS = (4, 1, 9)


class Voices(nn.Module):
    """A gain per step, a speaker and an age per sequence; and three outputs by name."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.voices = nn.Embedding(SPEAKERS, FEATURES)
        self.gru = nn.GRU(FEATURES, HIDDEN, batch_first=batch_first)
        self.scores, self.value = nn.Linear(HIDDEN, 2), nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, gain: Tensor, speaker: Tensor, age: Tensor) -> dict[str, Tensor]:
        shift = (self.voices(speaker) + age).unsqueeze(1 if self.gru.batch_first else 0)
        y = self.gru(x * gain.unsqueeze(-1) + shift)[0]
        return {
            "scores": self.scores(y),
            "value": self.value(y),
            "level": y[:, -1] if self.gru.batch_first else y[-1],
            "best": self.scores(y).argmax(-1),
        }


class Stepwise(nn.Module):
    """A state between the further inputs, and a head before the new state."""

    def __init__(self) -> None:
        super().__init__()
        self.voices = nn.Embedding(SPEAKERS, FEATURES)
        self.letters = nn.Embedding(11, FEATURES)
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.scores, self.value = nn.Linear(HIDDEN, 11), nn.Linear(HIDDEN, 1)

    def forward(self, tokens: Tensor, speaker: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Any, ...]:
        y, state = self.lstm(self.letters(tokens) + self.voices(speaker)[:, None], state)
        return self.scores(y), self.value(y), state


class Counted(Tagger):
    """The mean over the real steps, which the lengths or a mask tell."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        y = self.lstm(x)[0]
        last: Tensor = self.head(y[torch.arange(y.shape[0]), lengths.to(torch.int64) - 1])
        return last


class Masked(Tagger):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        y = self.lstm(x)[0] * mask[..., None]
        answers: Tensor = self.head(y.sum(1) / mask.sum(1, keepdim=True))
        return answers


class Static(Tagger):
    """`hint`, as wide as the outputs, could be a state by its shape, and `extra` one value a step."""

    def forward(self, x: Tensor, hint: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        answers = self.head(self.lstm(x)[0])
        return answers + hint[:, None], answers[:, -1] + hint


def example(batch_first: bool = True) -> tuple[Tensor, ...]:
    x, gain = torch.randn(2, 6, FEATURES), torch.ones(2, 6)
    return (
        x if batch_first else x.transpose(0, 1),
        gain if batch_first else gain.T,
        torch.tensor([0, SPEAKERS - 1]),
        torch.rand(2, 1),
    )


@pytest.fixture(scope="module")
def files() -> dict[str, tuple[nn.Module, Path]]:
    torch.manual_seed(0)
    voices, turned, stepwise, counted, masked = Voices(), Voices(batch_first=False), Stepwise(), Counted(), Masked()
    states = (torch.zeros(1, 2, HIDDEN), torch.zeros(1, 2, HIDDEN))
    tokens, x = torch.randint(0, 11, (2, 6)), torch.randn(2, 6, 12)
    made = {
        "voices": (voices, exported(voices, example())),
        "turned": (turned, exported(turned, example(batch_first=False))),
        "stepwise": (
            stepwise,
            exported(stepwise, (tokens, torch.tensor([1, 4]), states), output_names=("scores", "value")),
        ),
        "counted": (counted, exported(counted, (x, torch.tensor([6, 3])))),
        "masked": (masked, exported(masked, (x, torch.ones(2, 6)))),
    }
    return {name: (module.eval(), path) for name, (module, path) in made.items()}


@pytest.fixture(scope="module")
def own(files: dict[str, tuple[nn.Module, Path]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("exports")
    for name, (_, path) in files.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").symlink_to(path)
    with running_server(root) as one:
        yield one


def close(found: object, expected: Tensor) -> None:
    np.testing.assert_allclose(np.array(found, np.float32), expected.numpy(), atol=1e-5)


def test_the_file_carries_the_role_of_every_input(files: Any) -> None:
    roles = {name: {port: one.role for port, one in embedded(path).inputs.items()} for name, (_, path) in files.items()}
    assert roles["voices"] == roles["turned"] == {"gain": "sequence", "speaker": "static", "age": "static"}
    assert roles["stepwise"] == {"speaker": "static"}
    assert (roles["counted"], roles["masked"]) == ({"lengths": "lengths"}, {"mask": "mask"})
    assert embedded(files["voices"][1]).outputs == ("scores", "value", "level", "best")
    gain = embedded(files["turned"][1]).inputs["gain"]
    assert (gain.batch_axis, gain.time_axis) == (1, 0)
    assert embedded(files["masked"][1]).inputs["mask"].valid == 1


@pytest.mark.parametrize("name", ["voices", "turned"])
def test_further_inputs_and_heads_are_served_as_torch_answers(files: Any, own: RunningServer, name: str) -> None:
    module = files[name][0]
    rng = np.random.default_rng(0)
    sequences = [
        {"input": rng.standard_normal((n, FEATURES)).tolist(), "gain": rng.uniform(0.5, 2, n).tolist()} for n in LENGTHS
    ]
    statics = [{"speaker": i + 1, "age": 0.3 * i} for i in range(len(LENGTHS))]
    body = {"sequences": sequences, "static": statics, "heads": ["value", "level", "best"], "return": "steps"}
    answer = own.predict(name, **body)
    assert answer.status_code == 200, answer.text
    for result, one, static in zip(answer.json()["results"], sequences, statics, strict=True):
        x, gain = torch.tensor([one["input"]]), torch.tensor([one["gain"]])
        inputs = (x, gain) if module.gru.batch_first else (x.transpose(0, 1), gain.T)
        with torch.no_grad():
            right = module(*inputs, torch.tensor([static["speaker"]]), torch.tensor([[static["age"]]]))
        rows = {key: value.flatten(0, 1) for key, value in right.items() if key != "level"}
        close(result["outputs"], rows["scores"])
        close(result["heads"]["value"], rows["value"])
        close(result["heads"]["level"], right["level"][0])
        assert result["heads"]["best"] == rows["best"][:, None].tolist()


def test_a_state_among_further_inputs_is_carried(files: Any, own: RunningServer) -> None:
    module = files["stepwise"][0]
    card = own.client.get("/v1/models/stepwise").json()
    assert (card["streaming"], card["input"]["vocabulary_size"]) == (True, 11)
    tokens, zeros = [3, 10, 0, 7], torch.zeros(1, 1, HIDDEN)
    with torch.no_grad():
        scores, value, _ = module(torch.tensor([tokens]), torch.tensor([2]), (zeros, zeros))
    session = own.client.post("/v1/models/stepwise/sessions", json={"static": {"speaker": 2}}).json()["id"]
    for part in (slice(0, 1), slice(1, 4)):
        body = {"sequence": tokens[part], "return": "steps", "heads": ["value"], "decode": False}
        answer = own.client.post(f"/v1/sessions/{session}/steps", json=body).json()
        close(answer["outputs"], scores[0, part])
        close(answer["heads"]["value"], value[0, part])


@pytest.mark.parametrize("name", ["counted", "masked"])
def test_lengths_and_masks_are_filled_by_the_server(files: Any, own: RunningServer, name: str) -> None:
    module = files[name][0]
    sequences = [torch.randn(length, 12) for length in LENGTHS]
    results = own.predict(name, sequences=[one.tolist() for one in sequences]).json()["results"]
    for result, one in zip(results, sequences, strict=True):
        further = torch.tensor([len(one)]) if name == "counted" else torch.ones(1, len(one))
        with torch.no_grad():
            close(result["output"], module(one[None], further)[0])


class Profile(nn.Module):
    """A static input that is called as a state may be."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(12, 8, batch_first=True), nn.Linear(10, 2)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        answer: Tensor = self.head(torch.cat([self.rnn(x)[0][:, -1], s], -1))
        return answer


def test_what_is_called_a_state_is_static_where_forward_returns_none(tmp_path: Path) -> None:
    spec = export(Profile(), tmp_path / "model.onnx", example=(torch.randn(2, 6, 12), torch.randn(2, 2)))
    assert spec.inputs["s"].role == "static"


X = torch.randn(2, 6, 12)


@pytest.mark.parametrize(
    ("module", "further", "options", "reason"),
    [
        (Static(), (torch.zeros(2, 2),), {}, "'hint' of forward can be read as static: .*; or state: .*roles="),
        (Static(), (torch.zeros(2, 2),), {"roles": {"hunt": "static"}}, "roles names 'hunt', but .* are hint"),
        (Static(), (torch.zeros(2, 2),), {"roles": {"hint": "fixed"}}, "the role of 'hint' is 'fixed', not one of"),
        (Masked(), (torch.tensor([[1.0] * 6, [1.0] * 5 + [0.0]]),), {}, "mask 'mask' must be the same for every step"),
        (Static(), (torch.zeros(2, 2, dtype=torch.float64),), {}, "'hint' must be float32"),
        (Static(), ("two",), {}, "'hint' is str"),
        (
            Static(),
            (torch.zeros(2, 2),),
            {"roles": {"hint": "static"}, "output_names": ["one"]},
            "output_names lists 1, but forward returns 2 results",
        ),
        (
            Static(),
            (torch.zeros(2, 2),),
            {"roles": {"hint": "static"}, "output_names": ["a", "a"]},
            "would be called 'a'",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_the_words_to_say_it(
    tmp_path: Path, module: nn.Module, further: Any, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ExportRefused, match=reason):
        export(module, tmp_path / "new" / "model.onnx", example=(X, *further), **options)
    assert not list(tmp_path.iterdir())


def test_a_role_that_the_caller_gives_decides(tmp_path: Path) -> None:
    spec = export(Static(), tmp_path / "model.onnx", example=(X, torch.zeros(2, 2)), roles={"hint": "static"})
    assert (spec.inputs["hint"].role, spec.outputs) == ("static", ("output", "output_1"))
    assert spec.state is None


def test_an_example_of_the_size_of_the_trace_is_not_taken_by_chance(tmp_path: Path) -> None:
    one = (torch.randn(1, 5, FEATURES), torch.ones(1, 5), torch.tensor([SPEAKERS - 1]), torch.rand(1, 1))
    spec = export(Voices(), tmp_path / "model.onnx", example=one)
    assert {name: port.role for name, port in spec.inputs.items()} == {
        "gain": "sequence", "speaker": "static", "age": "static",
    }  # fmt: skip


def test_a_state_by_another_name_is_still_found(tmp_path: Path) -> None:
    class Renamed(Letters):
        def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x, before)

    example = (torch.zeros(1, 7, dtype=torch.int64), torch.zeros(2, 1, 8))
    spec = export(Renamed(), tmp_path / "model.onnx", example=example)
    assert [one.input for one in spec.state or ()] == ["h"]
    assert spec.inputs == {}
