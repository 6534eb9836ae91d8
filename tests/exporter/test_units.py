"""The units of a forecaster: trained on scaled values, exported, and forecast as the plain loop in torch does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elman import export
from elman.exporter.errors import ExportRefused
from elman.repository.spec import ForecastSpec, ModelSpec
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.torch

STEPS = np.arange(144)
SERIES = 280 + 1.5 * STEPS + 60 * np.sin(2 * np.pi * STEPS / 12)
MEAN, STD = float(SERIES.mean()), float(SERIES.std())


class Net(nn.Module):
    def __init__(self, features: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(features, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(x)[0])
        return out


def options(**more: Any) -> dict[str, Any]:
    return {"example": torch.zeros(1, 12, 1), "task": "forecasting", "mean": [MEAN], "std": [STD], **more}


@pytest.fixture(scope="module")
def trained() -> Net:
    net = Net()
    z = torch.tensor((SERIES - MEAN) / STD, dtype=torch.float32)[None, :, None]
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = ((net(z[:, :-1]) - z[:, 1:]) ** 2).mean()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def server(trained: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("units")
    export(trained, root / "scaled" / "1" / "model.onnx", **options(reads="scaled"))
    with running_server(root) as one:
        yield one


def test_a_forecast_is_the_loop_in_scaled_values(server: RunningServer, trained: Net) -> None:
    z = torch.tensor((SERIES - MEAN) / STD, dtype=torch.float32)[None, :, None]
    right = []
    with torch.no_grad():
        for _ in range(12):
            value = trained(z)[0, -1, 0]
            right.append(float(value) * STD + MEAN)
            z = torch.cat([z, value.view(1, 1, 1)], 1)
    body = {"series": SERIES.tolist(), "horizon": 12}
    point = server.client.post("/v1/models/scaled/forecast", json=body).json()["point"]
    np.testing.assert_allclose(point, right, rtol=1e-5)
    decoded = server.predict("scaled", sequence=SERIES.tolist()).json()["results"][0]["decoded"]
    np.testing.assert_allclose(decoded[0], point[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, 'say what the module reads: reads="scaled"'),
        ({"reads": "data", "input_mean": [0.0], "input_std": [1.0]}, 'reads is "data", but'),
        ({"input_mean": [0.0]}, "mean and std go together"),
        ({"input_mean": [float("nan")], "input_std": [1.0]}, "finite number"),
        ({"reads": "scaled", "std": [0.0]}, "greater than 0"),
    ],
)
def test_what_is_not_said_or_contradicts_itself_is_refused(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ExportRefused, match=told):
        export(Net().eval(), tmp_path / "model.onnx", **options(**more))
    assert not list(tmp_path.iterdir())


def test_scaled_features_beside_the_target_need_their_own_scale(tmp_path: Path) -> None:
    spec = ModelSpec(forecast=ForecastSpec(target=(0,), known=(1,), known_for="same"))
    given = options(example=torch.zeros(1, 12, 2), spec=spec)
    with pytest.raises(ExportRefused, match="one number for each feature of x"):
        export(Net(2).eval(), tmp_path / "model.onnx", **given, reads="scaled")
    written = export(Net(2).eval(), tmp_path / "model.onnx", **given, input_mean=[MEAN, 3.0], input_std=[STD, 2.0])
    assert written.input.mean == (MEAN, 3.0)
    assert export(Net(2).eval(), tmp_path / "other.onnx", **given, reads="data").input.mean is None
