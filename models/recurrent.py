"""The network of the shipped models: a recurrent cell, its input, and a decoder at every step.

The project is named after Elman's network (J. L. Elman, "Finding Structure in Time", Cognitive Science 14, 1990). The
gated cells are LSTM (Hochreiter and Schmidhuber, 1997) and GRU (Cho et al., 2014).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Cell = Literal["rnn", "lstm", "gru"]
CELLS: dict[Cell, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class Shape:
    """The hyperparameters that determine the shapes of the weights.

    Exactly one of `num_features` (float input) and `vocabulary_size` (token input, embedded in `embedding_size`
    numbers) is set. Only the plain cell has a choice of `nonlinearity`.
    """

    cell: Cell
    num_outputs: int
    num_features: int | None = None
    vocabulary_size: int | None = None
    embedding_size: int = 32
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    initial_state: Literal["zeros", "learned"] = "zeros"
    dropout: float = 0.0
    nonlinearity: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        if (self.num_features is None) == (self.vocabulary_size is None):
            raise ValueError("set one of num_features and vocabulary_size")
        if self.cell != "rnn" and self.nonlinearity != "tanh":
            raise ValueError("only the plain cell has a choice of nonlinearity")

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c") if self.cell == "lstm" else ("h",)


class Recurrent(nn.Module):
    """Embedding or normalisation, then the cell, then a linear decoder applied to every step.

    `forward` is exported: it takes the state and returns the new one. `unroll` is for training. Features are
    normalised inside the network, so that requests carry raw values.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        if shape.vocabulary_size is not None:
            self.embedding = nn.Embedding(shape.vocabulary_size, shape.embedding_size)
        num_inputs = shape.num_features or shape.embedding_size
        self.register_buffer("shift", torch.zeros(num_inputs))
        self.register_buffer("scale", torch.ones(num_inputs))
        self.dropout = nn.Dropout(shape.dropout)
        self.layers = CELLS[shape.cell](
            num_inputs,
            shape.hidden_size,
            num_layers=shape.num_layers,
            bidirectional=shape.bidirectional,
            dropout=shape.dropout if shape.num_layers > 1 else 0.0,
            batch_first=True,
            **({"nonlinearity": shape.nonlinearity} if shape.cell == "rnn" else {}),
        )
        self.decoder = nn.Linear(shape.num_directions * shape.hidden_size, shape.num_outputs)
        initial = torch.zeros(len(shape.state_names), shape.num_layers * shape.num_directions, 1, shape.hidden_size)
        self.initial = nn.Parameter(initial, requires_grad=shape.initial_state == "learned")

    def normalise_by(self, features: Tensor) -> None:
        """Fix the normalisation to the mean and deviation of `features` (rows, features)."""
        self.shift.copy_(features.mean(dim=0))
        self.scale.copy_(1 / features.std(dim=0))

    @torch.no_grad()
    def start_as_memory(self, kept: float) -> None:
        """Set the recurrent weights to `kept` times the identity, and the biases to zero.

        The state is then a leaky sum of the inputs, because a plain network can hardly learn to remember. After
        Q. V. Le, N. Jaitly and G. Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units",
        2015, but with tanh instead of rectified units, so that the state is bounded on a stream of any length.
        """
        for name, weight in self.layers.named_parameters():
            if "weight_hh" in name:
                nn.init.eye_(weight).mul_(kept)
            elif "bias" in name:
                nn.init.zeros_(weight)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        """The state that a sequence starts from: h (and c), each (layers * directions, batch, hidden)."""
        return tuple(state.expand(-1, batch, -1).contiguous() for state in self.initial)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One segment of a sequence.

        x: (batch, time, features) float32, or (batch, time) int64 tokens.
        state: h (and c), each (layers, batch, hidden). Without it the sequence starts from the initial state.
        Returns outputs (batch, time, outputs) and, for a forward network, the new state.
        """
        y, final = self.layers(self._inputs(x), self._start(x.shape[0], state))  # (batch, time, hidden)
        outputs = self.decoder(self.dropout(y))  # (batch, time, outputs)
        if self.shape.bidirectional:
            return (outputs,)
        return (outputs, *final) if isinstance(final, tuple) else (outputs, final)

    def unroll(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The outputs of a padded batch (batch, time, outputs). Outputs past a sequence's length are undefined.

        lengths: (batch,) int64. Only a bidirectional network needs them, because its backward direction begins at the
        end of a sequence.
        """
        if not self.shape.bidirectional:
            return self(x)[0]  # type: ignore[no-any-return]
        packed = pack_padded_sequence(self._inputs(x), lengths, batch_first=True, enforce_sorted=False)
        y, _ = self.layers(packed, self._start(x.shape[0]))
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
        outputs: Tensor = self.decoder(self.dropout(y))
        return outputs

    def _start(self, batch: int, state: tuple[Tensor, ...] = ()) -> Tensor | tuple[Tensor, ...] | None:
        """The state as torch's layers take it; None for zeros."""
        if not state and self.shape.initial_state == "zeros":
            return None
        h, *rest = state or self.initial_state(batch)
        return (h, *rest) if rest else h

    def _inputs(self, x: Tensor) -> Tensor:
        """The cell's input, normalised or embedded: (batch, time, num_inputs)."""
        if self.shape.vocabulary_size is not None:
            return self.dropout(self.embedding(x))  # type: ignore[no-any-return]
        return self.dropout((x - self.shift) * self.scale)  # type: ignore[no-any-return]
