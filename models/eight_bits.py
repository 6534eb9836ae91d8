"""Measure the shipped models in 8 bits, on the same held-out data as their cards.

    python -m models.eight_bits                  all of them, a minute or two
    python -m models.eight_bits names-gru        only some

Each file is rounded as `elman.export(..., quantise=True)` rounds one, measured in ONNX Runtime, and thrown away.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from elman.exporter.quantising import quantised
from models import forecast_recipes, forecasting, generation
from models.cards import read_results
from models.forecast_cards import WORDS
from models.measuring import measure
from models.tasks import generator
from models.train import HERE, TASKS, publish


def round_model(name: str, path: Path) -> None:
    """Write a shipped model in 8 bits."""
    onnx.save(quantised(onnx.load(HERE / "store" / name / "1" / "model.onnx")), path)


def of_classifier(name: str, path: Path) -> dict[str, Any]:
    found = measure(path, TASKS[name.split("-")[0]]())
    return {"accuracy": found.accuracy, "step_accuracy": found.step_accuracy}


def of_generator(name: str, path: Path) -> dict[str, Any]:
    corpus = generator.load()
    bits = generation.bits_per_character(path, corpus, corpus.test)
    return {"bits_per_character": bits, "shipped": generation.bits_in_words(bits)}


def of_forecaster(name: str, path: Path) -> dict[str, Any]:
    task = name.split("-")[0]
    measured = forecasting.MEASURES[task](path, forecasting.TASKS[task]())
    return {"measured": measured, "shipped": WORDS[task](measured, [measured])["shipped"]}


def measure_rounded(name: str) -> dict[str, Any]:
    """What a shipped model measures in 8 bits, and the bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        round_model(name, path)
        return {**_measure_of(name)(name, path), "size": path.stat().st_size}


def _measure_of(name: str) -> Callable[[str, Path], dict[str, Any]]:
    if name in generation.RECIPES:
        return of_generator
    return of_forecaster if name in forecast_recipes.RECIPES else of_classifier


def main(arguments: list[str] | None = None) -> None:
    results = read_results(HERE / "results.json")
    parser = argparse.ArgumentParser(prog="python -m models.eight_bits", description="Measure the models in 8 bits.")
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"one of {', '.join(results)}")
    names = parser.parse_args(arguments).names or list(results)
    if unknown := [name for name in names if name not in results]:
        parser.error(f"there is no model {unknown[0]}")
    for name in names:
        found = measure_rounded(name)
        publish({name: {**read_results(HERE / "results.json")[name], "eight_bits": found}})
        said = found.get("shipped") or f"{100 * found['accuracy']:.2f} % on held-out data"
        print(f"{name}: {said}, {found['size']:,} bytes of {results[name]['size']:,}")


if __name__ == "__main__":
    main()
