"""The input of a model on the wire: all that the codec needs to decode its sequences."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from elman.repository.model import Model
from elman.repository.network import Array, InputTensor
from elman.repository.spec import InputSpec

# Hangul vowels and final consonants join the letter before them, as combining marks do.
_JOINING_LETTERS = range(0x1161, 0x1200)


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
        normalisation: the Unicode form that texts are brought into; None if they are read as they are.
        mean, std: the network reads `(x - mean) / std`; one number for each feature, or none.
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
    normalisation: Literal["NFC"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
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

    def scaled(self, values: Array, features: Sequence[int] | None = None) -> Array:
        """Values in the data's units as the network reads them, float64 `(..., features)`.

        features: the indices of the features that `values` has, where it has not all of them.
        """
        if self.mean is None:
            return values
        mean, std = self.scale_of(range(self.features or 1) if features is None else features)
        scaled: Array = (values.astype(np.float64) - mean) / std
        return scaled

    def scale_of(self, features: Sequence[int]) -> tuple[Array, Array]:
        """Mean and std of some features, float64; 0 and 1 where the network reads the data's units."""
        pair = self.mean or (0.0,), self.std or (1.0,)
        mean, std = (np.resize(np.array(one, np.float64), self.features or 1)[list(features)] for one in pair)
        return mean, std

    @cached_property
    def token_ids(self) -> dict[str, int] | None:
        """The id of each token; None without a vocabulary."""
        return None if self.vocabulary is None else {token: i for i, token in enumerate(self.vocabulary)}

    def normalised(self, text: str) -> str:
        """A text in the Unicode form of the vocabulary."""
        return unicodedata.normalize("NFC", text) if self.normalisation == "NFC" else text


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
        normalisation=normal_form(spec),
        mean=spec.mean,
        std=spec.std,
        data=network.inputs[0].name,
        further=network.further,
        statics=network.statics,
        heads=network.output_names[1:],
    )


def normal_form(spec: InputSpec) -> Literal["NFC"] | None:
    """The form that texts are brought into before their characters are looked up.

    If the spec does not say, it is NFC where NFC changes no text of the vocabulary's own characters. So a text that can
    be read without NFC has the same tokens with it.
    """
    if spec.vocabulary is None or spec.normalisation is not None:
        return "NFC" if spec.normalisation == "NFC" else None
    characters = [token for token in spec.vocabulary if len(token) == 1]
    joining = [one for one in characters if unicodedata.category(one)[0] == "M" or ord(one) in _JOINING_LETTERS]
    texts = (*characters, *("".join([first + one for first in characters]) for one in joining))
    return "NFC" if all(unicodedata.is_normalized("NFC", text) for text in texts) else None
