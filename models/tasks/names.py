"""Surnames: which language does this one come from?

The names are rebuilt from the wheel of the package Faker, whose locales list real surnames:

    pip download faker --no-deps
    python -m models.tasks.names faker-*.whl

All locales chosen here write in Latin letters, because another script would reveal the language. Dialects of one
language have one label. Slovak lists men's and women's forms apart; only the men's are taken, because Novák in the
training data would reveal Nováková in the test. A name that several languages share has no single right answer, and is
left out.
"""

import ast
import json
import sys
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from models.tasks import Sequence, Split, Task, stratified

DATA = Path(__file__).parent.parent / "data" / "names.json"
MEMBER = "faker/providers/person/{locale}/__init__.py"
PUNCTUATION = " '\u2019-"
UNKNOWN = "\ufffd"
MOST_NAMES = 900
"""Names of one language at most, so that no language is far more frequent than another."""

SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    "Croatian": (("hr_HR", "last_names"),),
    "Dutch": (("nl_NL", "last_names"),),
    "English": (("en", "last_names"), ("en_GB", "last_names")),
    "Estonian": (("et_EE", "last_names_est"),),
    "Finnish": (("fi_FI", "last_names"),),
    "French": (("fr_FR", "last_names"), ("fr_CA", "last_names")),
    "German": (("de_DE", "last_names"), ("de_AT", "last_names")),
    "Irish": (("ga_IE", "last_names"),),
    "Italian": (("it_IT", "last_names"),),
    "Polish": (("pl_PL", "unisex_last_names"),),
    "Slovak": (("sk_SK", "last_names_male"),),
    "Spanish": (("es_ES", "last_names"), ("es_MX", "last_names"), ("es_CL", "last_names")),
    "Swedish": (("sv_SE", "last_names"),),
}
"""For each language, the locales and their lists of names."""


def load() -> Task:
    """Character tokens of about nine thousand surnames, a fifth of each language held out."""
    by_language: dict[str, list[str]] = json.loads(DATA.read_text("utf-8"))
    names = [name for listed in by_language.values() for name in listed]
    labels = np.repeat(np.arange(len(by_language)), [len(listed) for listed in by_language.values()])
    held_out = stratified(labels, fraction=0.2, seed=0)
    learned = np.setdiff1d(np.arange(len(names)), held_out)
    vocabulary = _vocabulary([names[i] for i in learned])
    everything = Split(tuple(encode(name, vocabulary) for name in names), labels)
    train = everything.take(learned)
    return Task(
        name="names",
        train=train,
        validation=stratified(train.labels, fraction=0.125, seed=1),
        test=everything.take(held_out),
        labels=tuple(by_language),
        augment=_augment_with(vocabulary),
        about=f"Tells which of {len(by_language)} languages a surname comes from, letter by letter.",
        data=f"{len(names)} surnames from the locales of Faker: {', '.join(by_language)}",
        licence="MIT (Faker)",
        split=(
            f"{len(learned)} names to train on, {len(held_out)} held out (a fifth of each language, "
            "chosen by a fixed seed); no name is in both, whatever its case"
        ),
        vocabulary=vocabulary,
        unknown=UNKNOWN,
    )


def encode(name: str, vocabulary: tuple[str, ...]) -> Sequence:
    """One token a character, (time,) int64; characters outside the vocabulary become the unknown one."""
    ids = {character: i for i, character in enumerate(vocabulary)}
    return np.array([ids.get(character, ids[UNKNOWN]) for character in name], np.int64)


def _vocabulary(names: list[str]) -> tuple[str, ...]:
    """Every character of the names, and of the same names in small letters."""
    return (UNKNOWN, *sorted({character for name in names for character in name + name.lower()}))


def _augment_with(vocabulary: tuple[str, ...]) -> "_Augment":
    return _Augment(np.array([vocabulary.index(c.lower()) if c.lower() in vocabulary else 0 for c in vocabulary]))


class _Augment:
    """Lower-cases some names and replaces some characters by the unknown token, so that both are learned."""

    def __init__(self, lower: Sequence) -> None:
        self.lower = lower

    def __call__(self, sequence: Sequence, generator: np.random.Generator) -> Sequence:
        tokens = self.lower[sequence] if generator.random() < 0.2 else sequence
        return np.where(generator.random(len(tokens)) < 0.015, 0, tokens).astype(np.int64)


def literals(source: str, variable: str) -> set[str]:
    """The strings assigned to `variable` in a Python source, which is parsed and never run."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            value = getattr(node, "value", None) or ast.Tuple([])
            found |= {
                constant.value
                for constant in ast.walk(value)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
            }
    return found


def is_latin(name: str) -> bool:
    """Whether every character is a Latin letter or a mark that may stand between two."""
    return all(c in PUNCTUATION or unicodedata.name(c, "").startswith("LATIN") for c in name)


def rebuild(wheel: Path) -> None:
    """Write the compact copy in models/data from the wheel of Faker."""
    listed: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for language, sources in SOURCES.items():
            texts = [(archive.read(MEMBER.format(locale=locale)).decode(), name) for locale, name in sources]
            names = {unicodedata.normalize("NFC", one) for text, name in texts for one in literals(text, name)}
            listed[language] = {one.casefold(): one for one in sorted(names) if len(one) > 1 and is_latin(one)}
    shared = Counter(key for names in listed.values() for key in names)
    generator = np.random.default_rng(0)
    chosen = {}
    for language, own in listed.items():
        alone = [name for key, name in own.items() if shared[key] == 1]
        chosen[language] = sorted(generator.permutation(alone)[:MOST_NAMES].tolist())
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in chosen.items())
    DATA.write_text("{\n" + lines + "\n}\n", "utf-8")


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
