"""The module to export, as a function of flat tensors, and inputs to try it on."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elman.exporter.arguments import Argument, read_arguments
from elman.exporter.errors import ExportRefused

TRACED_AT = (3, 5)
"""Batch and time of the trace. torch takes sizes of 0 and 1 for constants, and equal sizes for one size."""


@dataclass(frozen=True)
class Layout:
    """Axes of free size.

    Attributes:
        batch_axis: of the data input.
        time_axis: of the data input; None for a graph of one step, which has no time axis.
        others: the batch and time axis of each further argument; the time axis is None where it has none.
    """

    batch_axis: int
    time_axis: int | None
    others: tuple[tuple[int, int | None], ...] = ()


class Reference(nn.Module):
    """A copy of a module, on the CPU and in eval mode, as a function of flat tensors: (x, *others) -> (output, ...).

    Attributes:
        groups: for each argument after x, how many tensors are in its tuple; None for a tensor by itself.
        kept: indices of the results that become outputs of the file; None for all of them.
    """

    def __init__(self, module: nn.Module, groups: tuple[int | None, ...]) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).cpu().eval()
        self.groups = groups
        self.kept: tuple[int, ...] | None = None

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        result = flatten(self._call(x, *others))
        return result if self.kept is None else tuple(result[i] for i in self.kept)

    def _call(self, x: Tensor, *others: Tensor) -> Any:
        rest, arguments = list(others), []
        for size in self.groups:
            taken, rest = rest[: size or 1], rest[size or 1 :]
            arguments.append(taken[0] if size is None else tuple(taken))
        return self.module(x, *arguments)

    def result_names(self, inputs: Sequence[Tensor]) -> tuple[str, ...] | None:
        """The names of the results, where forward returns them by name."""
        result = self._call(*inputs)
        if not isinstance(result, Mapping):
            return None
        counts = {name: len(flatten(value)) for name, value in result.items()}
        return tuple(f"{name}_{i}" if count > 1 else name for name, count in counts.items() for i in range(count))

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
        others: the other tensors of the example.
        num_tokens: how many token ids there are; None where x is features.
    """

    def __init__(self, x: Tensor, others: tuple[Argument, ...], num_tokens: int | None) -> None:
        self.x = x
        self.others = others
        self.num_tokens = num_tokens
        self._generator = torch.Generator().manual_seed(0)

    @property
    def state(self) -> tuple[Tensor, ...]:
        """The example's states."""
        return tuple(one.tensor for one in self.others if one.role == "state")

    def at(self, layout: Layout, batch: int, time: int, own: bool = False) -> tuple[Tensor, ...]:
        """x and the other tensors for `batch` sequences of `time` steps.

        own: whether the numbers of x are some of the example's own, feature by feature, and not drawn from a normal
            distribution of the same mean and spread.
        """
        sizes = {layout.batch_axis: batch, layout.time_axis: time}
        shape = [sizes.get(axis, size) for axis, size in enumerate(self.x.shape)]
        x = self._chosen(self.x, shape) if own else self._like(self.x, shape, self.num_tokens)
        pairs = zip(self.others, layout.others, strict=True)
        return x, *(self._other(one, {axes[0]: batch, axes[1]: time}, batch, time) for one, axes in pairs)

    def _other(self, one: Argument, sizes: Mapping[int | None, int], batch: int, time: int) -> Tensor:
        shape = [sizes.get(axis, size) for axis, size in enumerate(one.tensor.shape)]
        if one.role == "mask":
            return torch.full(shape, one.valid or 0, dtype=one.tensor.dtype)
        if one.role == "lengths":
            lengths = torch.randint(1, time + 1, shape, generator=self._generator, dtype=one.tensor.dtype)
            lengths[0] = time  # a batch is as long as its longest row
            return lengths
        return self._like(one.tensor, shape, None if one.tensor.is_floating_point() else int(one.tensor.max()) + 1)

    def traced(self, layout: Layout) -> tuple[Tensor, ...]:
        """x and the other tensors at the sizes of the trace."""
        return self.at(layout, *TRACED_AT)

    def _chosen(self, example: Tensor, shape: Sequence[int]) -> Tensor:
        """Values of the example, each of the feature where it stands; of token ids any."""
        features = shape[-1] if example.is_floating_point() else 1
        rows = example.reshape(-1, features)
        chosen = torch.randint(0, len(rows), (math.prod(shape) // features, features), generator=self._generator)
        return rows.gather(0, chosen).reshape(list(shape))

    def _like(self, example: Tensor, shape: Sequence[int], num_tokens: int | None) -> Tensor:
        if not example.is_floating_point():
            assert num_tokens is not None
            values = torch.randint(0, num_tokens, shape, generator=self._generator, dtype=torch.int64)
            return values.to(example.dtype)
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
    others, groups = read_arguments(module, rest)
    x = x.detach().cpu()
    reference = Reference(module, groups)
    return reference, Inputs(x, others, _num_tokens(reference, [x, *(one.tensor for one in others)], vocabulary))


def flatten(result: Any) -> tuple[Tensor, ...]:
    """The tensors of nested tuples, lists and dicts, in order. Raises ExportRefused for anything else."""
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, Mapping):
        result = tuple(result.values())
    if isinstance(result, tuple | list):
        return tuple(tensor for part in result for tensor in flatten(part))
    raise ExportRefused(f"forward must take and return tensors, or tuples of them, not {type(result).__name__}")


def _num_tokens(reference: Reference, inputs: Sequence[Tensor], vocabulary: Sequence[str] | None) -> int | None:
    x = inputs[0]
    if x.is_floating_point():
        return None
    if vocabulary is not None:
        return len(vocabulary)
    embeddings = [layer for layer in reference.modules() if isinstance(layer, nn.Embedding)]
    if len(embeddings) > 1:
        embeddings = _reading(reference, embeddings, inputs)
    return embeddings[0].num_embeddings if embeddings else int(x.max()) + 1


def _reading(reference: Reference, embeddings: list[nn.Embedding], inputs: Sequence[Tensor]) -> list[nn.Embedding]:
    """Those of some layers that look up the data itself."""
    found: list[nn.Embedding] = []

    def note(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and arguments[0].data_ptr() == inputs[0].data_ptr() and isinstance(layer, nn.Embedding):
            found.append(layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in embeddings]
    try:
        with torch.no_grad():
            reference.run(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
