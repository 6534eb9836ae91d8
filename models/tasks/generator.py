"""Surnames to write: the names of `names`, each as a generator's input and its targets.

The split is that of `names`. A sequence is the token of its language and then one token for each character. The start
token stands in place of the language where any language is wanted. The target of each step is the next character; after
the last one, it is the end token.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.tasks import names

START = "<start>"
END = "<end>"
UNKNOWN = names.UNKNOWN

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Name:
    text: str
    language: str


@dataclass(frozen=True)
class Names:
    """The surnames with their split. `train` is for training and selection, `test` for measuring only."""

    vocabulary: tuple[str, ...]
    conditions: dict[str, str]
    """The token of each language."""
    train: tuple[Name, ...]
    validation: NDArray[np.int64]
    """Indices into `train` of the names that are held out while the number of epochs is chosen."""
    test: tuple[Name, ...]
    data: str
    licence: str
    split: str

    def encode(self, text: str, language: str | None) -> Tokens:
        """The input tokens of `text`, (1 + characters,) int64.

        language: None for any. Characters outside the vocabulary become the unknown one.
        """
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        first = ids[START if language is None else self.conditions[language]]
        return np.array([first, *(ids.get(character, ids[UNKNOWN]) for character in text)], np.int64)

    def targets(self, text: str) -> Tokens:
        """The target of each input token, (characters + 1,) int64: the name, then the end."""
        return np.append(self.encode(text, None)[1:], self.vocabulary.index(END))

    def spell(self, tokens: Tokens) -> str:
        """The text of character tokens, up to the end if it is there."""
        written = [self.vocabulary[token] for token in tokens]
        return "".join(written[: written.index(END)] if END in written else written)


def load() -> Names:
    """About nine thousand surnames of thirteen languages, split as `names` is."""
    task = names.load()
    letters = task.vocabulary or ()

    def listed(sequences: tuple[Tokens, ...], labels: NDArray[np.int64]) -> tuple[Name, ...]:
        spelled = ("".join(letters[token] for token in one) for one in sequences)
        return tuple(Name(text, task.labels[label]) for text, label in zip(spelled, labels.tolist(), strict=True))

    train, test = (listed(split.sequences, split.labels) for split in (task.train, task.test))
    conditions = {language: f"<{language}>" for language in task.labels}
    characters = sorted({character for name in train for character in name.text})
    return Names(
        vocabulary=(UNKNOWN, START, END, *conditions.values(), *characters),
        conditions=conditions,
        train=train,
        validation=task.validation,
        test=test,
        data=task.data,
        licence=task.licence,
        split=task.split,
    )
