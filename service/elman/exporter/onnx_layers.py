"""torch's recurrent layers as the ONNX operators of the same name, for export only.

torch's own exporter unrolls `nn.RNN` to the length of its example. Here every layer becomes one RNN, LSTM or GRU node,
whose time axis is free. ONNX has no operator for an LSTM with projections, which becomes one Scan for each direction.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic, symbolic_multi_out

from elman.exporter.errors import UnsupportedLayer
from elman.exporter.onnx_scan import PROJECTED

Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]

OPERATORS = {"RNN_TANH": "RNN", "RNN_RELU": "RNN", "LSTM": "LSTM", "GRU": "GRU"}

# The order of ONNX's gates, as indices of torch's: LSTM i f g o becomes i o f c, GRU r z n becomes z r h.
GATE_ORDER = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


class OnnxLayers(nn.Module):
    """Replaces an `nn.RNN`, `nn.LSTM` or `nn.GRU` while a module is traced. It cannot compute.

    `forward` takes and returns what the replaced layer does: float32 input (batch, time, features), or time first
    without `batch_first`, and the state. Raises UnsupportedLayer for other dtypes, packed and unbatched input.
    """

    def __init__(self, layers: nn.RNNBase) -> None:
        super().__init__()
        self.mode = layers.mode
        self.operator = OPERATORS[layers.mode]
        self.input_size = layers.input_size
        self.hidden_size = layers.hidden_size
        self.proj_size = layers.proj_size
        self.num_layers = layers.num_layers
        self.bias = layers.bias
        self.batch_first = layers.batch_first
        self.dropout = layers.dropout
        self.bidirectional = layers.bidirectional
        self.num_directions = 2 if layers.bidirectional else 1
        for layer in range(layers.num_layers):
            weights = self._stack_projected(layers, layer) if layers.proj_size else self._stack(layers, layer)
            for kind, weight in weights.items():
                self.register_buffer(f"{kind}{layer}", weight)

    def _stack(self, layers: nn.RNNBase, layer: int) -> dict[str, Tensor]:
        """The weights of one layer for its ONNX node: directions stacked, gates in ONNX's order."""
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]
        parts = {
            name: torch.stack([self._reorder(getattr(layers, f"{name}_{suffix}")) for suffix in suffixes])
            for name in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        }
        stacked = {"W": parts["weight_ih"], "R": parts["weight_hh"]}  # (directions, gates * hidden, ...)
        if self.bias:
            stacked["B"] = torch.cat([parts["bias_ih"], parts["bias_hh"]], dim=1)
        return stacked

    def _stack_projected(self, layers: nn.RNNBase, layer: int) -> dict[str, Tensor]:
        """The weights of one layer for its Scan: directions stacked, transposed for a product from the right."""
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]
        stacked = {
            kind: torch.stack(
                [self._float32(getattr(layers, f"{name}_{suffix}")).T.contiguous() for suffix in suffixes]
            )
            for kind, name in (("W", "weight_ih"), ("R", "weight_hh"), ("P", "weight_hr"))
        }
        if self.bias:
            sums = [getattr(layers, f"bias_ih_{suffix}") + getattr(layers, f"bias_hh_{suffix}") for suffix in suffixes]
            stacked["B"] = self._float32(torch.stack(sums))
        return stacked

    def _float32(self, weight: Tensor) -> Tensor:
        if weight.dtype != torch.float32:
            raise UnsupportedLayer(f"recurrent weights must be float32, not {weight.dtype}")
        return weight.detach()

    def _reorder(self, weight: Tensor) -> Tensor:
        order = GATE_ORDER[self.operator]
        gates = self._float32(weight).chunk(len(order))
        return torch.cat([gates[gate] for gate in order])

    def flatten_parameters(self) -> None:
        """Does nothing. Modules call it on the layer that this one replaces."""

    def forward(
        self, input: Tensor, hx: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        if not isinstance(input, Tensor):
            raise UnsupportedLayer("PackedSequence cannot be exported; give the layer the padded tensor")
        if input.dim() != 3:
            raise UnsupportedLayer("unbatched input cannot be exported; give it a batch axis")
        y = input.transpose(0, 1) if self.batch_first else input  # (time, batch, features)
        states = [hx] if isinstance(hx, Tensor) else list(hx or ())
        finals: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            node = self._scans if self.proj_size else self._node
            y, *final = node(layer, y, [self._of_layer(state, layer) for state in states])
            finals.append(final)
        if self.batch_first:
            y = y.transpose(0, 1)  # (batch, time, directions * hidden)
        h, *rest = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*finals, strict=True)]
        return y, (h, rest[0]) if rest else h

    def _of_layer(self, state: Tensor, layer: int) -> Tensor:
        if self.num_layers == 1:
            return state
        return state[layer * self.num_directions : (layer + 1) * self.num_directions]

    def _node(self, layer: int, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """One ONNX node over (time, batch, features): its output, then its final h (and c)."""
        final = (self.num_directions, x.shape[1], self.hidden_size)
        num_outputs = 3 if self.operator == "LSTM" else 2
        weights = [self.get_buffer(f"{kind}{layer}") for kind in ("W", "R")]
        bias = self.get_buffer(f"B{layer}") if self.bias else None
        y, *finals = symbolic_multi_out(
            self.operator,
            # The fifth input is sequence_lens, which the server adds.
            [x, *weights, bias, None, *states],
            self._attributes(),
            dtypes=[x.dtype] * num_outputs,
            shapes=[(x.shape[0], *final), *[final] * (num_outputs - 1)],
        )
        return [self._join_directions(y), *finals]

    def _scans(self, layer: int, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """One layer with projections over (time, batch, features): its output, then its final h and c."""
        batch = x.shape[1]
        sizes = (self.proj_size, self.hidden_size)
        h, c = states or [x.new_zeros(self.num_directions, batch, size) for size in sizes]
        runs = []
        for direction in range(self.num_directions):
            w, r, p = (self.get_buffer(f"{kind}{layer}")[direction] for kind in ("W", "R", "P"))
            gates = x @ w  # (time, batch, 4 * hidden)
            if self.bias:
                gates = gates + self.get_buffer(f"B{layer}")[direction]
            run = symbolic_multi_out(
                PROJECTED,
                [h[direction], c[direction], gates, r, p],
                {"backwards": direction},
                dtypes=[x.dtype] * 3,
                shapes=[(batch, self.proj_size), (batch, self.hidden_size), (x.shape[0], batch, self.proj_size)],
            )
            runs.append(run)
        hs, cs, ys = zip(*runs, strict=True)
        return [torch.cat(ys, dim=-1), torch.stack(hs), torch.stack(cs)]

    def _attributes(self) -> Attributes:
        attributes: Attributes = {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if self.bidirectional else "forward",
        }
        if self.operator == "RNN":
            activation = "Relu" if self.mode == "RNN_RELU" else "Tanh"
            attributes["activations"] = [activation] * self.num_directions
        if self.operator == "GRU":
            attributes["linear_before_reset"] = 1  # torch's formula, which is not the operator's default
        return attributes

    def _join_directions(self, y: Tensor) -> Tensor:
        """(time, directions, batch, hidden) to (time, batch, directions * hidden)."""
        if self.num_directions == 1:
            return y.squeeze(1)
        y = y.transpose(1, 2)
        shape = (y.shape[0], y.shape[1], 2 * self.hidden_size)
        return symbolic("Reshape", [y, torch.tensor([0, 0, -1])], dtype=y.dtype, shape=shape)


class Pool(nn.Module):
    """An `nn.MaxPool1d`, written as a pooling over two axes, since torch's trace fixes the length of one axis.

    The first axis has the extent 1.
    """

    def __init__(self, pool: nn.MaxPool1d) -> None:
        super().__init__()
        sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        kernel, stride, padding, dilation = (one[0] if isinstance(one, tuple) else one for one in sizes)
        self.pool = nn.MaxPool2d((1, kernel), (1, stride), (0, padding), (1, dilation), ceil_mode=pool.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, time)."""
        pooled: Tensor = self.pool(x.unsqueeze(-2)).squeeze(-2)
        return pooled


def with_onnx_layers(module: nn.Module) -> nn.Module:
    """A copy of `module` in eval mode. Its RNN, LSTM and GRU layers are ONNX nodes, and its poolings take any length.

    Subclasses of those layers are left to the exporter, because their forward may be anything.

    Raises UnsupportedLayer.
    """
    module = copy.deepcopy(module).eval()
    for name, layers in list(module.named_modules(remove_duplicate=False)):
        if isinstance(layers, nn.RNNBase) and type(layers) in (nn.RNN, nn.LSTM, nn.GRU):
            module.set_submodule(name, OnnxLayers(layers))
        elif type(layers) is nn.MaxPool1d and not layers.return_indices:
            module.set_submodule(name, Pool(layers))
    return module
