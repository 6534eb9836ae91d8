"""Encoder-decoders: one run reads the series and what is known of all steps ahead, and gives them all, as in torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elman import export
from elman.repository.spec import ForecastSpec, ModelSpec
from tests.looping import forecast
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]
HORIZON = 5
MEAN, STD = (40.0, 12.0, 3.0), (9.0, 7.0, 2.0)


class EncoderDecoder(nn.Module):
    """Its decoder reads the known features of the steps ahead: (batch, steps, 1), and a constant for each series."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder, self.decoder = nn.GRU(3, 12, batch_first=True), nn.GRU(2, 12, batch_first=True)
        self.head, self.flat = nn.Linear(12, 2), flat

    def forward(self, x: torch.Tensor, site: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
        _, h = self.encoder(x)
        read, _ = self.decoder(torch.cat([ahead, site[:, None].expand(-1, HORIZON, -1)], dim=2), h)
        values: torch.Tensor = self.head(read)  # (batch, steps, 2)
        return values.flatten(1) if self.flat else values


class Alone(nn.Module):
    """Its decoder reads only the last state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder, self.decoder = nn.LSTM(1, 12, batch_first=True), nn.LSTM(12, 12, batch_first=True)
        self.head = nn.Linear(12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (h, c) = self.encoder(x)
        read, _ = self.decoder(h[-1][:, None].expand(-1, HORIZON, -1), (h, c))
        values: torch.Tensor = self.head(read)
        return values


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("decoders")
    wide = ForecastSpec(drive="direct", horizon=HORIZON, target=(0, 2), known=(1,), future="ahead")
    shared: dict[str, Any] = {
        "task": "forecasting",
        "mean": [MEAN[0], MEAN[2]],
        "std": [STD[0], STD[2]],
        "input_mean": MEAN,
        "input_std": STD,
        "roles": {"site": "static", "ahead": "static"},
        "spec": ModelSpec(forecast=wide),
    }
    example = (torch.zeros(2, 9, 3), torch.zeros(2, 1), torch.zeros(2, HORIZON, 1))
    for name, flat in (("rows", False), ("flat", True)):
        export(EncoderDecoder(flat), root / name / "1" / "model.onnx", example=example, **shared)
    direct = ModelSpec(forecast=ForecastSpec(drive="direct", horizon=HORIZON))
    path = root / "alone" / "1" / "model.onnx"
    export(Alone(), path, example=torch.zeros(2, 9, 1), task="forecasting", reads="series", spec=direct)
    wrong = wide.model_copy(update={"future": "site"})
    path = root / "wrong" / "1" / "model.onnx"
    export(EncoderDecoder(True), path, example=example, **{**shared, "spec": ModelSpec(forecast=wrong)})
    with running_server(root) as one:
        yield one


@pytest.mark.parametrize("model", ["rows", "flat"])
def test_what_is_known_ahead_goes_to_the_decoder(server: RunningServer, model: str) -> None:
    rng = np.random.default_rng(3)
    data = [np.array(MEAN) + np.array(STD) * rng.standard_normal((length, 3)) for length in (14, 9)]
    ahead = [12.0 + 7.0 * rng.standard_normal((HORIZON, 1)) for _ in data]
    sites = [[0.5], [-1.0]]
    net, right = EncoderDecoder(flat=False).eval(), []
    for rows, known, site in zip(data, ahead, sites, strict=True):
        z, known = (rows - MEAN) / STD, (known - MEAN[1]) / STD[1]
        with torch.no_grad():
            x, c, k = (torch.tensor(one, dtype=torch.float32)[None] for one in (z, site, known))
            right.append(net(x, c, k).numpy()[0] * [STD[0], STD[2]] + [MEAN[0], MEAN[2]])
    statics = [{"site": site} for site in sites]
    given = {"series_list": [one.tolist() for one in data], "future": [one.tolist() for one in ahead]}
    for result, wanted in zip(forecast(server, model, **given, static=statics)["results"], right, strict=True):
        np.testing.assert_allclose(result["point"], wanted, rtol=1e-5)
    one = {"series": data[0].tolist(), "future": ahead[0].ravel().tolist(), "static": statics[0]}
    np.testing.assert_allclose(forecast(server, model, **one, horizon=2)["point"], right[0][:2], rtol=1e-5)
    card = server.client.get(f"/v1/models/{model}").json()["forecast"]
    assert (card["future"], card["known"], card["max_horizon"]) == ("ahead", [1], HORIZON)
    listed = server.client.get("/v1/timeseries/models").json()
    assert "alone" in listed and model not in listed, "KServe's protocol has no static inputs"
    problem = forecast(server, model, 422, **{**one, "future": [1.0]})
    assert (problem["where"], problem["expected"]) == ("future", "5 rows of 1")
    problem = forecast(server, model, 422, **{**one, "static": {"site": [0.5], "ahead": [[1.0]] * 5}})
    assert problem["where"] == "static.ahead"


def test_a_decoder_without_inputs_of_its_own(server: RunningServer) -> None:
    data = 300.0 + 20.0 * np.random.default_rng(4).standard_normal(16)
    with torch.no_grad():
        z = torch.tensor((data - data.mean()) / data.std(), dtype=torch.float32)
        right = Alone().eval()(z[None, :, None]).numpy()[0, :, 0] * data.std() + data.mean()
    np.testing.assert_allclose(forecast(server, "alone", series=data.tolist())["point"], right, rtol=1e-5)


def test_an_input_of_another_shape_cannot_take_what_is_known(server: RunningServer) -> None:
    problem = forecast(server, "wrong", 409, series=[[1.0, 2.0, 3.0]])
    assert problem["code"] == "cannot_forecast" and "does not take features of 5 steps" in problem["detail"]
