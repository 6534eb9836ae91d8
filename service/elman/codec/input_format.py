"""The input of a model on the wire: all that the codec needs to decode its sequences."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from elman.repository.model import Model
from elman.repository.network import InputTensor


@dataclass(frozen=True)
class InputFormat:
    """The input of one model.

    Attributes:
        name: the name of the model.
        dtype: the dtype of its network's input.
        features: numbers per step, or samples per frame; None for tokens.
        stride: frames: samples from one frame to the next; None for other models.
        left_pad: frames: zeros before the first sample.
        vocabulary: tokens by id, if the spec has them.
        vocabulary_size: number of tokens; may be known without a vocabulary.
        unknown: the token for characters that are not in the vocabulary.
        data: the name of the data input.
        further: the other inputs with one value per step.
        statics: the inputs with one value per sequence.
        heads: the names of the outputs beside the primary one.
    """

    name: str
    dtype: str
    features: int | None
    stride: int | None = None
    left_pad: int = 0
    vocabulary: tuple[str, ...] | None = None
    vocabulary_size: int | None = None
    unknown: str | None = None
    data: str = ""
    further: tuple[InputTensor, ...] = ()
    statics: tuple[InputTensor, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def tokens(self) -> bool:
        """True if a sequence is token ids or text."""
        return self.features is None

    @property
    def frames(self) -> bool:
        """True if a sequence is a signal, which is cut into frames."""
        return self.stride is not None

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """`dtype` as a numpy dtype."""
        return np.dtype(self.dtype)

    @cached_property
    def token_ids(self) -> dict[str, int] | None:
        """The id of each token; None without a vocabulary."""
        return None if self.vocabulary is None else {token: i for i, token in enumerate(self.vocabulary)}


def input_format(model: Model) -> InputFormat:
    """The input format of a model."""
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
        data=network.inputs[0].name,
        further=network.further,
        statics=network.statics,
        heads=network.output_names[1:],
    )
