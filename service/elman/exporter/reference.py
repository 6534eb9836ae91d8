"""The module to export, as a function of flat tensors, and inputs to try it on."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elman.exporter.errors import ExportRefused

TRACED_AT = (3, 5)
"""Batch and time of the trace. torch takes sizes of 0 and 1 for constants, and equal sizes for one size."""


@dataclass(frozen=True)
class Layout:
    """Axes of free size.

    Attributes:
        batch_axis: of the data input.
        time_axis: of the data input; None for a graph of one step, which has no time axis.
        state_axes: the batch axis of each state.
    """

    batch_axis: int
    time_axis: int | None
    state_axes: tuple[int, ...]


class Reference(nn.Module):
    """A copy of a module, on the CPU and in eval mode, as a function of flat tensors: (x, *state) -> (output, ...).

    Attributes:
        nested: whether the module takes its states as one tuple, as `nn.LSTM` does.
        kept: indices of the results that become outputs of the file; None for all of them.
    """

    def __init__(self, module: nn.Module, nested: bool) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).cpu().eval()
        self.nested = nested
        self.kept: tuple[int, ...] | None = None

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        result = flatten(self.module(x, *((state,) if self.nested else state)))
        return result if self.kept is None else tuple(result[i] for i in self.kept)

    def run(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs for some inputs. Raises ExportRefused if the module fails."""
        try:
            outputs: tuple[Tensor, ...] = self(*inputs)
        except ExportRefused:
            raise
        except Exception as error:  # a user's forward may raise anything
            shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ExportRefused(f"the module fails on input like the example, of {shapes}: {reason}") from error
        return outputs


class Inputs:
    """Random inputs like the example, at any batch and time. The same calls in the same order give the same inputs.

    Attributes:
        x: the example's data input.
        state: the example's states.
        num_tokens: how many token ids there are; None where x is features.
    """

    def __init__(self, x: Tensor, state: tuple[Tensor, ...], num_tokens: int | None) -> None:
        self.x = x
        self.state = state
        self.num_tokens = num_tokens
        self._generator = torch.Generator().manual_seed(0)

    def at(self, layout: Layout, batch: int, time: int) -> tuple[Tensor, ...]:
        """x and the states for `batch` sequences of `time` steps."""
        sizes = {layout.batch_axis: batch, layout.time_axis: time}
        x = self._like(self.x, [sizes.get(axis, size) for axis, size in enumerate(self.x.shape)])
        states = zip(self.state, layout.state_axes, strict=True)
        return x, *(
            self._like(state, [batch if i == axis else size for i, size in enumerate(state.shape)])
            for state, axis in states
        )

    def traced(self, layout: Layout) -> tuple[Tensor, ...]:
        """x and the states at the sizes of the trace."""
        return self.at(layout, *TRACED_AT)

    def _like(self, example: Tensor, shape: Sequence[int]) -> Tensor:
        if not example.is_floating_point():
            assert self.num_tokens is not None
            return torch.randint(0, self.num_tokens, shape, generator=self._generator, dtype=example.dtype)
        spread = example.std(correction=0) or torch.tensor(1.0)
        return example.mean() + spread * torch.randn(shape, generator=self._generator)


def prepare(
    module: nn.Module, example: Tensor | tuple[Any, ...], vocabulary: Sequence[str] | None
) -> tuple[Reference, Inputs]:
    """A copy of the module that is safe to run, and inputs like the example. Raises ExportRefused."""
    x, *rest = (example,) if isinstance(example, Tensor) else example or (None,)
    if not isinstance(x, Tensor):
        raise ExportRefused(f"the example must begin with a tensor, the data input, not with {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.int32, torch.int64):
        raise ExportRefused(f"the data input must be float32, or int32 or int64 tokens, not {x.dtype}")
    if x.dim() < 2:
        raise ExportRefused(f"the example must have a batch axis, but its shape is {tuple(x.shape)}")
    if not x.numel():
        raise ExportRefused(f"the example is empty: its shape is {tuple(x.shape)}")
    nested = len(rest) == 1 and not isinstance(rest[0], Tensor)
    state = tuple(tensor.detach().cpu() for tensor in flatten(rest))
    x = x.detach().cpu()
    return Reference(module, nested), Inputs(x, state, _num_tokens(module, x, vocabulary))


def flatten(result: Any) -> tuple[Tensor, ...]:
    """The tensors of nested tuples and lists, in order. Raises ExportRefused for anything else."""
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, tuple | list):
        return tuple(tensor for part in result for tensor in flatten(part))
    raise ExportRefused(f"forward must take and return tensors, or tuples of them, not {type(result).__name__}")


def _num_tokens(module: nn.Module, x: Tensor, vocabulary: Sequence[str] | None) -> int | None:
    if x.is_floating_point():
        return None
    if vocabulary is not None:
        return len(vocabulary)
    embeddings = [layer for layer in module.modules() if isinstance(layer, nn.Embedding)]
    return embeddings[0].num_embeddings if embeddings else int(x.max()) + 1
