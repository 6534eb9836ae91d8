"""Remedies that name another way to export are true: what is refused one way is served the other way."""

from pathlib import Path

import pytest
import torch
from matrix import export_torchscript
from torch import Tensor, nn

import elman
from elman.errors import ModelRefused
from elman.repository.model_file import load_model

pytestmark = pytest.mark.torch


class Attending(nn.Module):
    """An LSTM and self-attention over its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.layer(x)[0]
        attended: Tensor = self.attention(steps, steps, steps, need_weights=False)[0]
        return attended


def test_attention_of_torchs_own_is_served_as_its_remedy_says(tmp_path: Path) -> None:
    module, example = Attending().eval(), torch.randn(2, 7, 3)
    export_torchscript(module, tmp_path / "frozen.onnx", (example,), ["x"], None, {"x": {0: "batch", 1: "time"}})
    with pytest.raises(ModelRefused, match="the time axis of 'x' is probably frozen") as caught:
        load_model(tmp_path / "frozen.onnx", "model", 1)
    assert "nn.MultiheadAttention, export with elman.export" in str(caught.value.remedy)
    elman.export(module, tmp_path / "free.onnx", example=example)
    assert not load_model(tmp_path / "free.onnx", "model", 1).proof.chunked
