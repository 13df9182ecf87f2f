"""The folder of a run: whether another run is there, and what was trained in it."""

import json
import os
import pathlib
import platform
import shutil
import time

import keras

from vae_zoo import files
from vae_zoo.lab import console
from vae_zoo.lab.checkpoint import BEFORE, settings_of
from vae_zoo.lab.pictures import NAMES

WRITTEN = ("model.keras", "config.json", "numbers.json", "checkpoint.npz", "history.csv")
WRITTEN += ("traversals.gif",)
FREE = ("output", "resume", "overwrite", "tensorboard")  # settings that change no number


def claim(settings):
    """Looks at the folder of a run before anything else is done: another run there stays.

    Args:
        settings: dict, what the run is started with, `output` among it. `overwrite` lets it take
            the place of any run, `resume` is left to `fit`.

    Raises:
        ValueError: if a run with other settings is there, or one that goes on, or no folder can be.
    """
    output = pathlib.Path(settings["output"])
    if above := next((p for p in (output, *output.parents) if p.exists() and not p.is_dir()), None):
        raise ValueError(f"--output must be a folder. Received: {above}, which is a file")
    if settings.get("overwrite") and settings.get("resume"):
        raise ValueError(
            "--resume goes on with a run and --overwrite replaces it: pass one of them"
        )
    hold(output)
    if settings.get("overwrite") or settings.get("resume"):
        return
    own = json.loads(json.dumps(settings, default=str))
    own |= {"backend": keras.backend.backend()}
    if (output / "config.json").is_file():
        config = files.read_json(output / "config.json")
        then = {**config.get("settings", {}), "backend": config.get("backend", own["backend"])}
    elif (output / "checkpoint.npz").is_file():
        then = settings_of(output)
        own = {name: own.get(name) for name in then}
    elif any((output / name).exists() for name in ("model.keras", "numbers.json", "search.json")):
        raise ValueError(f"{output} holds other results: choose another --output, or --overwrite")
    else:
        return
    names = [name for name in {**then, **own} if name not in FREE]
    other = [name for name in names if then.get(name) != own.get(name)]
    if other:
        shown = ", ".join(f"{name}={then.get(name)}" for name in other[:5])
        shown += f" and {len(other) - 5} more that differ" if len(other) > 5 else ""
        raise ValueError(
            f"{output} holds a run with {shown}: choose another --output, or replace the run with "
            "--overwrite"
        )
    print(
        f"{output} holds a run with the same settings, which this one replaces (--resume goes on "
        "with one that was killed)"
    )


def hold(output):
    """Holds the folder of a run as long as this process lives, and sweeps it; `ValueError` where
    another run holds it. The processes of one search hold theirs together."""
    if "KERASTUNER_TUNER_ID" in os.environ:
        return
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {platform.node()}, {console.command()}, since {since}"
    if other := files.lock(output, holder):
        raise ValueError(
            f"{output} is in use by another run ({other}): wait for it, or choose another --output"
        )
    files.sweep(output, *WRITTEN, BEFORE, *(f"{name}.png" for name in NAMES), "images-*.u8")


def clear(output):
    """Removes what a run that is about to be replaced has written, but what `fit` writes anew."""
    for name in (*WRITTEN, BEFORE, *(f"{name}.png" for name in NAMES)):
        if name not in ("checkpoint.npz", "history.csv"):
            (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / "tensorboard", ignore_errors=True)
    for inner in [*output.glob("prior*/"), output / "scratch"]:
        if (inner / "checkpoint.npz").is_file():
            shutil.rmtree(inner)


def trained_on(folder):
    """What the card of an entry or the config of a run says of its data: a dict of `dataset` and,
    where they were set, `image_size` and `quadrants`."""
    for name in ("card.json", "config.json"):
        file = pathlib.Path(folder, name)
        if file.is_file():
            settings = files.read_json(file).get("settings", {})
            if "dataset" in settings:  # fine-tuning is told of a folder of images
                names = ("dataset", "image_size", "quadrants")
                return {name: settings[name] for name in names if settings.get(name)}
    raise ValueError(f"{folder} does not say what the model was trained on: pass --dataset")
