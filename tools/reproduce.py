"""Runs the command of an entry's card again and compares: python tools/reproduce.py <name>

Exit status 0 when every number that has a standard error came out within its spread.
"""

import json
import math
import os
import pathlib
import shlex
import subprocess
import sys

from vae_zoo import cli, zoo

ROOT = pathlib.Path(__file__).parent.parent
COMPARED = ("elbo", "rate", "distortion", "nll", "relative_mse", "psnr")


def reproduce(name, output="output", errors=3.0):
    """Train an entry again and say whether its numbers came out.

    A run on the same backend and kind of machine gives the same numbers; on another backend the
    noise differs, and the numbers with it.

    Args:
        name: of the entry
        output: where the run goes, to a folder of the entry's name; an interrupted one goes on
        errors: standard errors (over test images, of both runs together) that a number may differ
    """
    card, folder = zoo.card(name), pathlib.Path(output, name).resolve()
    words = shlex.split(card["command"])
    environment = dict(word.split("=", 1) for word in words[: words.index("python")])
    command = [sys.executable, *words[words.index("python") + 1 :]]
    command += ["--output", str(folder), "--resume"]
    print(card["command"], flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**environment, **os.environ})
    if done.returncode:
        raise ValueError(f"The command of {name} ended with status {done.returncode}")
    again = json.loads((folder / "numbers.json").read_text())
    equal = True
    for metric in COMPARED:
        if metric not in card["metrics"]:
            continue
        old, new = card["metrics"][metric], again[metric]
        spread = errors * math.hypot(old["standard_error"], new["standard_error"])
        within = abs(old["value"] - new["value"]) <= spread
        equal &= within
        print(
            f"{metric:<13} {old['value']:10.4f} in the card, {new['value']:10.4f} now, "
            f"{'within' if within else 'NOT WITHIN'} ± {spread:.4f}"
        )
    return equal


if __name__ == "__main__":
    sys.exit(not cli.run(reproduce))
