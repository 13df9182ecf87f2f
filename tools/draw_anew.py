"""Draws the pictures of entries again, on their stored files: python tools/draw_anew.py

The curves need a run's history, so they change only where the run that made an entry is still in
`output/<name>`.
"""

import pathlib
import sys
import tempfile

import numpy as np

from vae_zoo import cli, data, files, plots, runs, zoo
from vae_zoo.lab import canvas
from vae_zoo.lab.pictures import pictures, shown
from vae_zoo.parts import domains


def draw_anew(names: tuple[str, ...] = ()):
    """Draw the pictures of entries made from images.

    Args:
        names: of entries; all of images if left out
    """
    for name in names or zoo.names():
        model, card, folder = zoo.load(name), zoo.card(name), zoo.FOLDER / name
        if not isinstance(model.domain, domains.Images):
            continue
        settings = card["settings"]
        x, y = data.load(card["dataset"], "test", image_size=settings.get("image_size"))
        x = data.binarize(x) if model.sees_bits else x
        with tempfile.TemporaryDirectory() as new:
            history, new = pathlib.Path("output", name, "history.csv"), pathlib.Path(new)
            drawn = [
                path for path, _ in pictures(model, *shown(x, y), new, settings.get("seed", 0))
            ]
            if history.is_file():
                how = {"monitor": runs.monitored(model)[0]}
                table = np.genfromtxt(history, delimiter=",", names=True)
                terms = {name: table[name] for name in table.dtype.names if name != "epoch"}
                drawn.append(plots.curves(terms, new / "curves.png", **how))
            for path in drawn:
                if path.suffix == ".png":
                    canvas.thin_out(path)
                files.write_bytes(folder / path.name, path.read_bytes())
        print(f"{name}: {', '.join(path.name for path in drawn)}", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(draw_anew))
