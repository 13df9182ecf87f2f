"""Puts the numbers of other seeds into an entry's card:

    python tools/add_seeds.py dense_vae_mnist --runs output/seed1,output/seed2

A run is one of the entry's command with another `--seed`, measured as the entry was.
"""

import json
import pathlib
import sys

import numpy as np

from vae_zoo import cli, data, load_model, zoo
from vae_zoo.lab.evaluate import measure
from vae_zoo.lab.factor_numbers import MEASURES

OWN = (
    "output",
    "resume",
    "overwrite",
    "tensorboard",
    "seed",
)  # settings of a run, not of what it trains


def add_seeds(name, runs: tuple[str, ...] = ()):
    """Measure runs that differ from an entry in the seed only, and write their numbers to its card.

    Args:
        name: of the entry
        runs: output folders of its recipe
    """
    if not runs:
        raise ValueError("Name at least one run: --runs FOLDER,FOLDER")
    card = zoo.card(name)
    numbers, settings = card["metrics"], card["settings"]
    bound = next((key for key in numbers if "nll" in key and "_iw" in key), None)
    how = {"num_samples": 0}
    if bound:
        how = {"num_samples": numbers[bound]["samples"], "num_images": numbers[bound]["images"]}
    x, _ = data.load(card["dataset"], "test", image_size=settings.get("image_size"))
    for run in map(pathlib.Path, runs):
        config = json.loads((run / "config.json").read_text())
        differing = [
            key
            for key, value in config["settings"].items()
            if key not in OWN and settings.get(key) != value
        ]
        if differing:
            raise ValueError(f"{run} differs from {name} in more than the seed: {differing}")
        model = load_model(run, compile=False)
        test = data.binarize(x) if model.sees_bits else np.asarray(x[:])
        if data.fingerprint(test) != card["evaluation"]["test_images"]:
            raise ValueError("The test images are not those of the entry")
        measured = measure(model, test, progress=cli.progress(str(run)), **how)
        parts = json.loads((run / "numbers.json").read_text())
        measured |= {key: number for key, number in parts.items() if key in MEASURES}
        for metric, number in measured.items():
            same = number["protocol"] == numbers.get(metric, {}).get("protocol")
            if metric in numbers and (same if metric in MEASURES else "standard_error" in number):
                first = {str(settings["seed"]): numbers[metric]["value"]}
                seeds = numbers[metric].setdefault("seeds", first)
                seeds[str(config["settings"]["seed"])] = number["value"]
    cli.write_json(zoo.FOLDER / name / "card.json", card)
    for metric, number in numbers.items():
        if "seeds" in number:
            values = list(number["seeds"].values())
            text = ", ".join(f"{value:.3f}" for value in values)
            print(f"{metric:<13} {text}; standard deviation {np.std(values, ddof=1):.3f}")
    return numbers


if __name__ == "__main__":
    sys.exit(not cli.run(add_seeds))
