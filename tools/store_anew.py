"""Writes all entries anew, as this version of the package stores them: python tools/store_anew.py

Numbers and pictures stay as they are; `tests/test_zoo.py` says whether the models do.
"""

import pathlib
import sys

from vae_zoo import cli, zoo

# isort: split
# After the package, which says in one line what is missing.
import keras


def store_anew():
    """Load every entry, classifiers first, and save it again."""
    names = [path.parent.name for path in zoo.FOLDER.glob("*/card.json")]
    for name in sorted(names, key=lambda name: (not name.startswith(zoo.CLASSIFIER), name)):
        card, folder = zoo.card(name), zoo.FOLDER / name
        if "classifier_sha256" in card:
            classifier = zoo.CLASSIFIER + pathlib.Path(card["dataset"]).stem
            card["classifier_sha256"] = zoo.card(classifier)["sha256"]
        before = _size(folder)
        model = keras.models.load_model(zoo.checked(name), compile=False)
        zoo.save(model, name, card, zoo.pictures_of(folder))
        print(f"{name:<26} {before:8,.1f} KB, now {_size(folder):8,.1f} KB", flush=True)


def _size(folder):
    return sum(path.stat().st_size for path in folder.iterdir()) / 1000


if __name__ == "__main__":
    sys.exit(not cli.run(store_anew))
