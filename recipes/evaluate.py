"""Measure a model on the test split of a data set: `python recipes/evaluate.py saved_models/<name>`

`--help` lists the settings. The function behind it is `vae_zoo.evaluate.evaluate`.
"""

import json
import pathlib

from vae_zoo import cli, distribute, load_model, zoo
from vae_zoo.evaluate import evaluate

# isort: split
# After the package, which says in one line what is missing.
import keras


def evaluate_model(
    path,
    dataset: str = None,
    importance_samples=1000,
    importance_images: int = None,
    elbo_samples=16,
    seed=0,
    json_file: str = None,
):
    """Measure a trained model on held-out images.

    Args:
        path: a folder with model.keras in it (an entry of the zoo, a run), or a .keras file
        dataset: what to measure on; a folder knows what its model was trained on
        importance_samples: k of the importance-weighted NLL; 0 leaves it out
        importance_images: test images that it is taken over, the first ones; all if left out
        elbo_samples: draws of z per image that the ELBO is averaged over
        seed: of samples, mixtures and the untrained encoder
        json_file: where to write the numbers
    """
    path = pathlib.Path(path)
    dataset = dataset or _trained_on(path if path.is_dir() else path.parent)
    keras.utils.set_random_seed(seed)
    numbers = evaluate(
        load_model(path, compile=False),
        dataset,
        importance_samples=importance_samples,
        importance_images=importance_images,
        elbo_samples=elbo_samples,
        classifier=zoo.classifier(dataset),
        seed=seed,
        progress=cli.progress("importance sampling"),
    )
    cli.table(numbers)
    if json_file and distribute.is_main():
        cli.write_json(json_file, numbers)
    return numbers


def _trained_on(folder):
    """The data set that the card of an entry or the config of a run names."""
    for name in ("card.json", "config.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text())["settings"]
            if "dataset" in settings:  # fine-tuning is told of a folder of images
                return settings["dataset"]
    raise ValueError(f"{folder} does not say what the model was trained on: pass --dataset")


if __name__ == "__main__":
    cli.run(evaluate_model, distribute=True)
