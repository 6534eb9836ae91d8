"""A network of skorch, and torch's packed sequences, by both exporters of torch: `python skorch_models.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from writing import version_folder, write_rows

FEATURES, HIDDEN, LENGTHS = 3, 8, (6, 1, 20)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(FEATURES, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 2)

    def forward(self, X: Tensor) -> Tensor:
        return torch.softmax(self.head(self.rnn(X)[0][:, -1]), -1)


class Packed(nn.Module):
    """Padded rows with their lengths, longest first."""

    enforce_sorted = True

    def __init__(self, bidirectional: bool = False) -> None:
        super().__init__()
        self.rnn = nn.LSTM(FEATURES, HIDDEN, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(HIDDEN * (1 + bidirectional), 2)

    def forward(self, X: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(X, lengths, batch_first=True, enforce_sorted=self.enforce_sorted)
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


class Unsorted(Packed):
    enforce_sorted = False


class Gathered(Packed):
    """The last real step of each row, gathered."""

    def forward(self, X: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.rnn(X)[0][torch.arange(X.shape[0]), lengths - 1])


def fitted() -> nn.Module:
    rng = np.random.default_rng(0)
    net = NeuralNetClassifier(Classifier, max_epochs=1, verbose=0, train_split=None)
    net.fit(rng.standard_normal((16, 6, FEATURES)).astype(np.float32), rng.integers(0, 2, 16))
    return net.module_


def write(folder: Path, name: str, module: nn.Module, *, dynamo: bool) -> None:
    names = ["X", "lengths"][: 1 if name.startswith("skorch") else 2]
    example = (torch.randn(3, 7, FEATURES), torch.tensor([7, 5, 2]))[: len(names)]
    path = str(version_folder(folder, name) / "model.onnx")
    if dynamo:
        batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
        shapes = ({0: batch, 1: time}, {0: batch})[: len(names)]
        torch.onnx.export(module, example, path, dynamo=True, verbose=False, input_names=names, dynamic_shapes=shapes)
    else:
        axes = {"X": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}
        free = {one: axes[one] for one in names}
        torch.onnx.export(module, example, path, dynamo=False, input_names=names, dynamic_axes=free)
    rng = np.random.default_rng(0)
    rows = []
    for length in LENGTHS:
        given = {"X": rng.standard_normal((1, length, FEATURES)).astype(np.float32), "lengths": np.array([length])}
        given = {one: given[one] for one in names}
        answer = module(*map(torch.from_numpy, given.values())).detach().numpy()
        rows.append({**given, "answer 0": answer})
    write_rows(folder, name, rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    root, skorch, gathered = Path(sys.argv[1]), fitted().eval(), Gathered().eval()
    write(root, "skorch", skorch, dynamo=False)
    write(root, "skorch_dynamo", skorch, dynamo=True)
    # The other exporter refuses packed sequences, and freezes the time that is gathered from.
    write(root, "gathered", gathered, dynamo=False)
    write(root, "packed", Packed().eval(), dynamo=False)
    write(root, "packed_unsorted", Unsorted().eval(), dynamo=False)
    write(root, "packed_bidirectional", Unsorted(bidirectional=True).eval(), dynamo=False)
