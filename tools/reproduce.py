"""Runs the command of an entry's card again and compares: python tools/reproduce.py <name>

Exit status 0 when every number that is a mean over test images came out.
"""

import math
import os
import pathlib
import runpy
import shlex
import subprocess
import sys

import numpy as np

from vae_zoo import cli, data, files, load_model, zoo
from vae_zoo.lab.evaluate import labels_of, measure

ROOT = pathlib.Path(__file__).parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
WRITES = ("--output", "--overwrite", "--resume", "--json-file", "--tensorboard")
COMPARED = ("elbo", "rate", "distortion", "nll", "relative_mse", "psnr")


def reproduce(name, output="output", errors=3.0):
    """Train an entry again and say whether its numbers came out.

    Both models are measured here, on the same test images with the same noise, so that it is the
    differences image by image whose mean must be near zero. A run on the same backend and kind of
    machine gives the same weights; on another the noise of training differs, as with another seed:
    where the card has the numbers of several seeds, their spread counts too.

    Args:
        name: of the entry
        output: where the run goes, to a folder of the entry's name; an interrupted one goes on
        errors: standard errors (of the mean difference, and of seeds) that a number may differ
    """
    card, folder = zoo.card(name), pathlib.Path(output, name).resolve()
    backend, recipe, arguments = command_of(card)
    command = [sys.executable, str(recipe), *arguments, f"--output={folder}", "--resume"]
    print(card["command"], flush=True)
    done = subprocess.run(command, cwd=ROOT, env={"KERAS_BACKEND": backend, **os.environ})
    if done.returncode:
        raise ValueError(f"The command of {name} ended with status {done.returncode}")
    equal = compare(card, zoo.load(name), load_model(folder, compile=False), errors)
    return compare_parts(card, files.read_json(folder / "numbers.json"), errors) and equal


def command_of(card):
    """The backend, the recipe and the arguments of a card's command.

    A card is data, whoever wrote it: nothing runs but a recipe of this project, with arguments that
    it takes, none of which says where anything is written.

    Returns:
        str; path; list of str.

    Raises:
        ValueError: in one line, if the command is anything else.
    """
    received = f"Received: command={files.shown(card.get('command'))}"
    recipes = {f"recipes/{path.name}": path for path in (ROOT / "recipes").glob("*.py")}
    try:
        if not isinstance(card.get("command"), str):
            raise ValueError("it is no text")
        backend, python, recipe, *arguments = shlex.split(card["command"])
        backend = backend.removeprefix("KERAS_BACKEND=")
        if backend not in BACKENDS or python != "python" or recipe not in recipes:
            raise ValueError("it is another program")
        function = runpy.run_path(str(recipes[recipe]))[recipes[recipe].stem]
        arguments = cli.checked(function, arguments)
        written = [a for a in arguments if a.split("=")[0] in WRITES]
        if written:
            raise ValueError(f"{written[0]} is not a card's to say")
    except (ValueError, KeyError) as error:
        raise ValueError(
            "A card's command must be KERAS_BACKEND=… python recipes/….py with settings of that "
            f"recipe ({files.in_words(error)}). {received}"
        ) from None
    return backend, recipes[recipe], arguments


def compare(card, old, new, errors):
    """Prints the numbers of an entry's model and of another one; True where all agree."""
    numbers = card["metrics"]
    bound = next((key for key in numbers if "nll" in key and "_iw" in key), None)
    how = {"num_samples": numbers[bound]["samples"] if bound else 0}
    how["num_images"] = numbers[bound]["images"] if bound else None
    size = card["settings"].get("image_size")
    (x_train, _), (x, y) = (
        data.load(card["dataset"], split, image_size=size) for split in ("train", "test")
    )
    x = data.binarize(x) if old.sees_bits else x
    progress = cli.progress("importance sampling")
    first, again = (
        measure(
            model, x, labels_of(model, y), x_train=x_train, values=True, progress=progress, **how
        )
        for model in (old, new)
    )
    equal = True
    for metric in [*COMPARED, *[bound] * bool(bound)]:
        if metric not in first or len(first[metric]["values"]) == 1:  # of a graph, see below
            continue
        difference = again[metric]["values"] - first[metric]["values"]
        of_images = difference.std(ddof=1) / math.sqrt(len(difference))
        seeds = list(numbers[metric].get("seeds", {}).values())
        of_seeds = math.sqrt(2) * np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0
        spread = errors * math.hypot(of_images, of_seeds)
        equal &= said(metric, first[metric], again[metric], difference.mean(), spread)
    return equal


def compare_parts(card, again, errors):
    """Of what was measured over random parts of a graph, a model each, the same; see `compare`."""
    equal = True
    for metric in (name for name in card["metrics"] if name.endswith("_parts")):
        first, now = card["metrics"][metric], again[metric]
        spread = errors * math.hypot(first["standard_error"], now["standard_error"])
        equal &= said(metric, first, now, now["value"] - first["value"], spread)
    return equal


def said(metric, first, again, difference, spread):
    """Prints a number of an entry beside that of now: True if they differ by `spread` at most."""
    within = bool(abs(difference) <= spread)
    print(
        f"{metric:<13} {first['value']:10.4f} of the entry, {again['value']:10.4f} now, "
        f"difference {difference:+.4f}, {'within' if within else 'NOT WITHIN'} ± {spread:.4f}"
    )
    return within


if __name__ == "__main__":
    sys.exit(not cli.run(reproduce))
