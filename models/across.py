"""Leave each person out in turn, which estimates a recipe better than the few people that a split holds out.

    python -m models.across watch-gru --seeds 0 1

The recipe and its number of epochs are those of the shipped model. They were chosen on some of these people, but the
shipped file was trained on none that the split holds out. The results go into `results.json` and onto the model's
card.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.cards import TAGGED, read_results
from models.fitting import fit
from models.measuring import Measured, export_model, measure
from models.tasks import Recipe, watch
from models.train import HERE, RECIPES, cell_of, publish


def leave_out(name: str, person: int, seed: int, recipe: Recipe | None = None) -> Measured:
    """The measures on one person of the model `name`, trained on all others. recipe: to use in place of its own."""
    recipe, cell = recipe or RECIPES[name], cell_of(name)
    assert recipe.num_epochs is not None
    everything = watch.recordings()
    task = replace(
        watch.load(),
        train=watch.split(one for one in everything if one.person != person),
        test=watch.split(one for one in everything if one.person == person),
    )
    model, _ = fit(task, cell, recipe, seed, task.train, recipe.num_epochs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_model(model, task, path)
        return measure(path, task)


def across(name: str, seeds: list[int]) -> dict[str, Any]:
    """Each measure by seed, the mean over the people; and the share of steps right by person."""
    people = sorted({one.person for one in watch.recordings()})
    found = {(seed, person): leave_out(name, person, seed) for seed in seeds for person in people}

    def over_people(measure: str, seed: int) -> float:
        return float(np.mean([getattr(found[seed, person], measure) for person in people]))

    return {
        "command": f"python -m models.across {name} --seeds {' '.join(map(str, seeds))}",
        **{f"{measure}_by_seed": [over_people(measure, seed) for seed in seeds] for measure in TAGGED},
        "people": {
            str(person): float(np.mean([found[seed, person].step_accuracy for seed in seeds])) for person in people
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.across", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[name for name in RECIPES if name.startswith("watch-")])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args(arguments)
    result = across(given.model, given.seeds)
    publish({given.model: {**read_results(HERE / "results.json")[given.model], "across": result}})
    print({key: value for key, value in result.items() if key != "command"})


if __name__ == "__main__":
    main()
