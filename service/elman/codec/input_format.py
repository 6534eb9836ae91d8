"""The input of a model on the wire: all that the codec needs to decode its sequences."""

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from elman.repository.feeding import driving_of
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
        names: the names of the features, if the spec has them.
        scaled: the features that have the mean and std of their series.
        missing, missing_mask: as in `InputSpec`.
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
    names: tuple[str, ...] | None = None
    scaled: tuple[int, ...] = ()
    missing: str | float | None = None
    missing_mask: int | None = None

    @cached_property
    def prepares(self) -> bool:
        """Whether rows are scaled, or missing values taken, before the network reads them."""
        return self.mean is not None or bool(self.scaled) or self.missing is not None

    @cached_property
    def remembers(self) -> bool:
        """Whether rows are read by what is kept of their series. They are decoded in the data's units, as float64."""
        return bool(self.scaled) or self.missing == "forward_fill"

    @cached_property
    def tokens(self) -> bool:
        """True if a sequence is token ids or text."""
        return self.features is None

    @cached_property
    def frames(self) -> bool:
        """True if a sequence is a signal, which is cut into frames."""
        return self.stride is not None

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """`dtype` as a numpy dtype."""
        return np.dtype(self.dtype)

    @cached_property
    def scale(self) -> Array:
        """Mean and std of each feature, float64 `(2, features)`; 0 and 1 where the network reads the data's units."""
        pair = self.mean or (0.0,), self.std or (1.0,)
        scale = np.stack([np.resize(np.array(one, np.float64), self.features or 1) for one in pair])
        if self.missing_mask is not None:
            scale[:, self.missing_mask] = 0.0, 1.0
        return scale

    @cached_property
    def token_ids(self) -> dict[str, int] | None:
        """The id of each token; None without a vocabulary."""
        return None if self.vocabulary is None else {token: i for i, token in enumerate(self.vocabulary)}

    @cached_property
    def character_ids(self) -> Array:
        """The id of each character by its code point, int64; -1 for one that is no token, and as the last entry."""
        ids = {ord(token): i for token, i in (self.token_ids or {}).items() if len(token) == 1}
        table = np.full(max(ids, default=0) + 2, -1)
        table[list(ids)] = list(ids.values())
        return table

    def normalised(self, text: str) -> str:
        """A text in the Unicode form of the vocabulary."""
        return unicodedata.normalize("NFC", text) if self.normalisation == "NFC" else text


def input_format(model: Model) -> InputFormat:
    """The input format of a model."""
    spec, network = model.spec.input, model.network
    frames = spec.kind == "frames"
    scaled: tuple[int, ...] = ()
    if spec.scale is not None:
        others = (one for one in range(network.features or 0) if one != spec.missing_mask)
        scaled = spec.scaled or (driving_of(model).target if model.spec.task == "forecasting" else tuple(others))
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
        names=spec.names,
        scaled=scaled,
        missing=spec.missing,
        missing_mask=spec.missing_mask,
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
