"""Kills a recipe with -9 at random moments, resumes it, and compares its weights with those of a
run that was never killed: KERAS_BACKEND=jax python tools/kill_and_resume.py

Exit status 0 when all resumed runs end bit for bit as the whole one.
"""

import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from vae_zoo import cli

RECIPES = pathlib.Path(__file__).parent.parent / "recipes"


def kill_and_resume(recipe="dense_vae", runs=10, epochs=40, seed=0):
    """Compare killed and resumed runs of a recipe with a whole one.

    Args:
        recipe: name of the recipe
        runs: runs that are killed once each, some time after a random epoch
        epochs: of each run
        seed: of the moments
    """
    folder = pathlib.Path(tempfile.mkdtemp())
    moments = random.Random(seed)
    command = [sys.executable, RECIPES / f"{recipe}.py", "--epochs", str(epochs)]
    command += ["--importance-samples", "0"] if recipe != "autoencoder" else []

    def start(output, *more):
        arguments = [*command, "--output", folder / output, *more]
        log = open(folder / f"{output}.log", "a")  # noqa: SIM115
        return subprocess.Popen(arguments, stdout=log, stderr=log)

    try:
        begin = time.monotonic()
        if start("whole").wait():
            raise ValueError((folder / "whole.log").read_text()[-2000:])
        seconds = (time.monotonic() - begin) / epochs  # of an epoch, start-up shared out
        whole, equal = _state(folder / "whole"), 0
        for i in range(runs):
            process = start(f"killed{i}")
            after, more = moments.randrange(epochs - 1), moments.uniform(0, seconds)
            while process.poll() is None and _epochs(folder / f"killed{i}") < after:
                time.sleep(0.005)
            time.sleep(more)
            process.kill()
            process.wait()
            start(f"killed{i}", "--resume").wait()
            resumed = _state(folder / f"killed{i}")
            same = resumed is not None and whole.keys() == resumed.keys()
            same = same and all(np.array_equal(whole[k], resumed[k]) for k in whole)
            equal += same
            kept = [
                line
                for line in (folder / f"killed{i}.log").read_text().splitlines()
                if line.startswith(("Resuming", "No "))  # which epoch it fell in
            ]
            moment = f"{more:.2f} s after epoch {after}"
            print(f"killed {moment}, {kept}: {'equal' if same else 'DIFFERENT'}", flush=True)
        print(f"{equal} of {runs} equal")
        return equal == runs
    finally:
        shutil.rmtree(folder)


def _epochs(output):
    """Epochs that a run has finished."""
    table = output / "history.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def _state(output):
    """Every array of the last checkpoint: weights, moments, noise, best weights."""
    if not (output / "model.keras").exists():
        return None
    with np.load(output / "checkpoint.npz") as file:
        return {name: file[name] for name in file.files if name != "seconds"}


if __name__ == "__main__":
    sys.exit(not cli.run(kill_and_resume))
