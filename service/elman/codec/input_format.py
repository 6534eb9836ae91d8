"""What a sequence of a model looks like on the wire: all that the codec must know of a model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from elman.repository.model import Model


@dataclass(frozen=True)
class InputFormat:
    """The input of one model.

    Attributes:
        name: the model's.
        dtype: of the arrays that its network takes.
        features: numbers of a step, or samples of a frame; None for tokens.
        stride: of frames: samples from one to the next; None where a step is a row of features.
        left_pad: of frames: zeros before the first sample.
        vocabulary: tokens by id, where there is one; `vocabulary_size` is known more often.
        unknown: the token that stands for what is not in the vocabulary.
    """

    name: str
    dtype: str
    features: int | None
    stride: int | None = None
    left_pad: int = 0
    vocabulary: tuple[str, ...] | None = None
    vocabulary_size: int | None = None
    unknown: str | None = None

    @property
    def tokens(self) -> bool:
        """Whether a sequence is token ids, or text."""
        return self.features is None

    @property
    def frames(self) -> bool:
        """Whether a sequence is a signal that is cut into frames."""
        return self.stride is not None

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """`dtype` as numpy's."""
        return np.dtype(self.dtype)

    @cached_property
    def token_ids(self) -> dict[str, int] | None:
        """The id of each token, where there is a vocabulary."""
        return None if self.vocabulary is None else {token: i for i, token in enumerate(self.vocabulary)}


def input_format(model: Model) -> InputFormat:
    """What a sequence of a model looks like on the wire."""
    spec, network = model.spec.input, model.network
    frames = spec.kind == "frames"
    return InputFormat(
        name=model.name,
        dtype=network.input_dtype.name,
        features=network.features,
        stride=(spec.stride or network.features) if frames else None,
        left_pad=spec.left_pad if frames else 0,
        vocabulary=spec.vocabulary,
        vocabulary_size=spec.vocabulary_size,
        unknown=spec.unknown,
    )
