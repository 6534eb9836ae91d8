"""The sizes and the numbers that a module is tried on before its file is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elman.exporter import ExportRefused, export
from elman.exporter.verifying import open_session

pytestmark = pytest.mark.torch


class Pooled(nn.Module):
    """A convolution and a pooling before an LSTM: it takes no sequence of one step."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv1d(2, 4, 3, padding=1), pool
        self.rnn, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(torch.relu(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        answer: Tensor = self.head(self.rnn(pooled)[0][:, -1])
        return answer


class Counts(nn.Module):
    """It takes the logarithm of counts."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.expm1(self.head(self.rnn(torch.log1p(x))[0]))


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.rnn(x)[0] * torch.nan
        return answer


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.rnn(x)[0]
        return answer


@pytest.mark.parametrize("pool", [nn.MaxPool1d(2), nn.MaxPool1d(3, stride=2, padding=1), nn.AvgPool1d(2)])
def test_lengths_that_the_module_itself_cannot_take_are_not_asked_for(tmp_path: Path, pool: nn.Module) -> None:
    torch.manual_seed(0)
    module, path = Pooled(pool).eval(), tmp_path / "1" / "model.onnx"
    export(module, path, example=torch.randn(2, 24, 2))
    session = open_session(str(path))
    for length in (2, 3, 8, 50):
        x = torch.randn(3, length, 2)
        with torch.no_grad():
            (found,) = session.run(None, {"input": x.numpy()})
            np.testing.assert_allclose(found, module(x).numpy(), atol=1e-5)


def test_a_module_is_tried_on_the_numbers_of_the_example(tmp_path: Path) -> None:
    """Numbers of the same mean and spread may be below zero, where a logarithm is NaN."""
    module, path = Counts().eval(), tmp_path / "1" / "model.onnx"
    example = torch.tensor([[[0.0], [1.0], [0.0], [0.0], [40.0], [0.0]]])
    export(module, path, example=example)
    with torch.no_grad():
        (found,) = open_session(str(path)).run(None, {"input": example.numpy()})
        np.testing.assert_allclose(found, module(example).numpy(), atol=1e-5)


def test_a_module_that_gives_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="gives NaN on input like the example"):
        export(Nothing(), tmp_path / "model.onnx", example=torch.randn(1, 9, 1))


def test_what_the_server_would_not_read_is_refused(tmp_path: Path) -> None:
    options: Any = {"task": "forecast"}
    with pytest.raises(ExportRefused, match="task: Input should be 'classification'"):
        export(Plain(), tmp_path / "model.onnx", example=torch.randn(1, 9, 12), **options)
    with pytest.raises(ExportRefused, match=r"std\.0: Input should be greater than 0"):
        export(Plain(), tmp_path / "model.onnx", example=torch.randn(1, 9, 12), std=[0.0])
