"""A run, from data to numbers: what the recipes of all families share.

`splits` reads a data set, `fit` trains with a progress bar, `report` measures, draws and saves.
"""

import os
import pathlib
import platform

import keras
import numpy as np
import tqdm

from vae_zoo import cli, data, plots
from vae_zoo.base import BaseVAE
from vae_zoo.evaluate import measure


def splits(dataset, binary=False, static=False):
    """Train, validation and test split of a data set, each a pair (x, y); x uint8 images.

    Args:
        dataset: a name or a path, see `vae_zoo.data.load`.
        binary: True for Bernoulli likelihoods: validation and test images become fixed bits,
            training images stay grey levels that the step draws bits from ("dynamic").
        static: True makes fixed bits of the training images too.
    """
    parts = []
    for split in data.SPLITS:
        x, y = data.load(dataset, split)
        if binary and (static or split != "train"):
            x = data.binarize(x)
        parts.append((x, y))
    train, validation, test = (len(x) for x, _ in parts)
    kind = f"{parts[0][0].shape[1:]} images"
    print(f"{dataset}: {train:,} train, {validation:,} validation, {test:,} test {kind}")
    return parts


def decayed(learning_rate, epochs, n, batch_size):
    """`learning_rate` decayed by half a cosine to a hundredth over all updates of a run."""
    steps = epochs * -(-n // batch_size)
    return keras.optimizers.schedules.CosineDecay(learning_rate, max(1, steps), alpha=0.01)


def fit(model, train, validation, epochs, batch_size, seed, patience, output):
    """Trains, keeps the weights of the best validation epoch, logs to `<output>/history.csv`.

    Args:
        model: compiled model.
        train, validation: pairs (x, y).
        epochs: int, at most.
        batch_size: int.
        seed: int, of the order of the examples.
        patience: int, epochs without a better validation bound (or loss) after which to stop.
        output: folder.

    Returns:
        Keras's history, a dict name -> list.
    """
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    monitor, mode = ("val_elbo", "max") if isinstance(model, BaseVAE) else ("val_loss", "min")
    callbacks = [
        keras.callbacks.EarlyStopping(
            monitor, patience=patience, mode=mode, restore_best_weights=True
        ),
        keras.callbacks.CSVLogger(output / "history.csv"),
    ]
    batches = data.Batches(*train, batch_size=batch_size, seed=seed)
    held_out = data.Batches(*validation, batch_size=batch_size, shuffle=False)
    # One line an epoch where nobody watches: a progress bar would fill a log file.
    verbose = "auto" if os.isatty(1) else 2
    history = model.fit(
        batches, epochs=epochs, validation_data=held_out, callbacks=callbacks, verbose=verbose
    ).history
    best = (np.nanargmax if mode == "max" else np.nanargmin)(history[monitor])
    print(
        f"Best epoch {best + 1} of {len(history[monitor])}: {monitor} {history[monitor][best]:.2f}"
    )
    return history


def report(model, train, test, history, settings, output, importance_samples=0):
    """Measures on the test split; writes the model, its numbers and its pictures; prints a table.

    Args:
        model: trained model.
        train, test: pairs (x, y).
        history: as `fit` returns it.
        settings: dict, what the run was started with.
        output: folder for `model.keras`, `config.json`, `numbers.json`, `history.csv`, pictures.
        importance_samples: int, k of the importance-weighted bound; 0 leaves it out.

    Returns:
        dict, name -> number, as `measure` does.
    """
    output = pathlib.Path(output)
    (x_train, _), (x, y) = train, test
    model.save(output / "model.keras")
    some = np.linspace(0, len(x_train) - 1, min(10_000, len(x_train))).astype(int)
    progress = lambda batches: tqdm.tqdm(batches, desc="importance sampling", leave=False)  # noqa: E731
    numbers = measure(
        model,
        np.asarray(x[:]),
        num_samples=importance_samples,
        train_variance=float(np.var(x_train[some] / 255.0)),
        progress=progress,
    )
    cli.write_json(output / "numbers.json", numbers)
    cli.write_json(output / "config.json", _config(model, settings, x))
    files = [
        (output / "model.keras", "the trained model: keras.models.load_model after import vae_zoo"),
        (output / "history.csv", "every logged term, epoch by epoch"),
        (output / "config.json", "settings, versions, fingerprint of the test images"),
        (output / "numbers.json", "the numbers above"),
        *_pictures(model, x, y, history, output, settings.get("seed", 0)),
    ]
    print()
    cli.table(numbers, files)
    return numbers


def _config(model, settings, x_test):
    return {
        "settings": settings,
        "class": type(model).__name__,
        "parameters": model.count_params(),
        "test_images": data.fingerprint(x_test),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }


def _pictures(model, x, y, history, output, seed):
    shown = np.asarray(x[:20])
    yield (
        plots.reconstructions(
            shown, model.predict(shown, verbose=0), output / "reconstructions.png"
        ),
        "test images, and what the model makes of them",
    )
    lines = model.interpolate(shown[:5], shown[5:10], steps=10)
    yield (
        plots.interpolations(lines, output / "interpolations.png"),
        "straight lines in latent space",
    )
    if isinstance(model, BaseVAE):
        new = model.sample(64, seed=seed)
        yield plots.samples(new, output / "samples.png"), "new images, z from the prior"
    yield plots.curves(history, output / "curves.png"), "every term, training and validation"
    codes = model.encode(x[:5000]).reshape(min(5000, len(x)), -1)
    labels = None if y is None else y[:5000]
    yield (
        plots.latent_scatter(codes, labels, output / "latents.png"),
        "latent space of the test images",
    )
    if model.latent_shape == (2,):
        yield plots.latent_grid(model.decode, output / "latent_grid.png"), "the decoded plane"
