"""One recipe with several seeds, or on several devices."""

import contextlib
import csv
import inspect
import io
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from vae_zoo import files
from vae_zoo.lab import console

TABLES = "seeds.csv", "seeds.tex"


def over_seeds(script, words, seeds, output):
    """Runs a recipe once a seed, each in a process and a folder of its own, `<output>/seed_<s>`,
    and prints mean and standard deviation of their numbers; they are written as CSV and LaTeX too.

    Args:
        script: path of the recipe.
        words: list of str, its flags without `--seed`, `--seeds` and `--output`.
        seeds: tuple of int.
        output: path of a folder.

    Returns:
        dict, name -> `value` (the mean), `standard_deviation` (over seeds), `unit` and `protocol`.

    Raises:
        SystemExit: with the status of the first run that fails, which has said why.
    """
    if len(set(seeds)) < max(len(seeds), 2):
        raise ValueError(f"--seeds must be two or more, each once. Received: {seeds}")
    output, found = pathlib.Path(output), []
    for seed in seeds:
        print(f"=== seed {seed} ===", flush=True)
        own = ["--seed", str(seed), "--output", str(output / f"seed_{seed}")]
        ended = subprocess.run([sys.executable, str(script), *words, *own])
        if ended.returncode:
            raise SystemExit(ended.returncode)
        found.append(json.loads((output / f"seed_{seed}" / "numbers.json").read_text()))
    numbers = summary(found, seeds)
    paths = [output / name for name in TABLES]
    for path, text in zip(paths, (_csv(numbers, found, seeds), _latex(numbers)), strict=True):
        files.write_bytes(path, text.encode())
    print(f"\n=== {len(seeds)} seeds: mean ± standard deviation ===")
    console.table(numbers, [(paths[0], "each seed's numbers"), (paths[1], "mean and deviation")])
    return numbers


def summary(found, seeds):
    """Mean and standard deviation of what all of several runs measured, by its name."""
    together = {}
    for name, first in found[0].items():
        values = [numbers.get(name, {}).get("value") for numbers in found]
        if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            together[name] = {
                "value": statistics.fmean(values),
                "standard_deviation": statistics.stdev(values),
                "unit": first.get("unit"),
                "protocol": f"seeds {', '.join(map(str, seeds))}",
            }
    return together


def _csv(numbers, found, seeds):
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["number", "unit", *(f"seed {s}" for s in seeds), "mean", "standard deviation"])
    for name, n in numbers.items():
        each = [run[name]["value"] for run in found]
        table.writerow([name, n["unit"] or "", *each, n["value"], n["standard_deviation"]])
    return text.getvalue()


def _latex(numbers):
    rows = []
    for name, n in numbers.items():
        value, error = console.digits(n["value"], n["standard_deviation"])
        cells = name.replace("_", r"\_"), n["unit"] or "", f"${value} {error}$"
        rows.append(" & ".join(cells).replace("±", r"\pm").replace("%", r"\%") + r" \\")
    head = r"number & unit & mean $\pm$ standard deviation \\"
    lines = [r"\begin{tabular}{llr}", r"\hline", head, r"\hline", *rows, r"\hline"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def distributed(function, devices, settings):
    """Calls a recipe within `data_parallel(devices)`; of several processes one prints, and writes
    to `output`."""
    from vae_zoo.engine import distribute

    with distribute.data_parallel(devices), contextlib.ExitStack() as stack:
        if not distribute.is_main():
            # Does all that the first one does, but where nobody looks.
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            output = inspect.signature(function).parameters.get("output")
            if output is not None:
                given = pathlib.Path(settings.get("output", output.default))
                # What a run goes on from; TensorFlow's workers read their own checkpoint.
                for name in ("checkpoint.npz", "config.json"):
                    if (given / name).exists():
                        shutil.copy(given / name, folder)
                for images in given.glob("images-*.*"):
                    pathlib.Path(folder, images.name).symlink_to(images.resolve())
                if (given / "trials").exists():
                    shutil.copytree(given / "trials", pathlib.Path(folder, "trials"))
                settings["output"] = folder
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
            )
        return function(**settings)
