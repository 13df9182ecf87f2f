"""The zoo: trained models by name, each a folder with its proof.

An entry is `saved_models/<name>/`: `model.keras`, `card.json` (where the model comes from and what
it reaches), `golden.npz` (what it must return, on any backend) and pictures. The listing of the
folder is the registry.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import zipfile

import keras
import numpy as np
from keras import ops

from vae_zoo import backend, cli
from vae_zoo.base import BaseVAE, LatentModel, Trainable
from vae_zoo.layers import LARGEST

# Beside the package in a checkout, inside of it where a wheel was installed.
FOLDERS = [pathlib.Path(__file__).parents[i] / "saved_models" for i in (0, 1)]
FOLDER = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[1])
CLASSIFIER = "classifier_"  # entries whose names begin so are what `cnn_fid` takes features from

SIZES = (
    "latents",
    "widths",
    "groups",
    "units",
    "filters",
    "latent_dim",
    "hidden",
    "components",
    "image_shape",
    "batch_shape",
)


def names():
    """Names of the entries, sorted."""
    cards = FOLDER.glob("*/card.json")
    return sorted(p.parent.name for p in cards if not p.parent.name.startswith(CLASSIFIER))


def card(name):
    """The card of an entry, a dict: class, config, data set, command, seed, machine, metrics …

    Raises:
        ValueError: if there is no such entry.
    """
    path = FOLDER / name / "card.json"
    if not path.is_file():
        raise ValueError(f"`name` must be one of {names()}. Received: {name!r}")
    return json.loads(path.read_text())


def load(name):
    """The model of an entry, on any backend; it is not compiled.

    Raises:
        ValueError: if there is no such entry, or its file is not the one that the card describes.
    """
    return load_model(_checked(name), compile=False)


def classifier(dataset):
    """What `cnn_fid` sees by, for one labelled data set: a Keras model of images in [0, 1] whose
    output are features; None where the zoo has no such entry."""
    name = CLASSIFIER + pathlib.Path(dataset).stem
    if not (FOLDER / name / "card.json").is_file():
        return None
    model = keras.models.load_model(_checked(name), compile=False)
    return keras.Model(model.inputs, model.get_layer("features").output)


def _checked(name):
    """Path of an entry's model, whose sha256 is that of its card."""
    expected, path = card(name)["sha256"], FOLDER / name / "model.keras"
    if not path.is_file() or sha256(path) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is not that of its card ({expected})")
    return path


def sha256(path):
    """Hex digest of a file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def save(model, name, card, pictures=()):
    """Writes an entry, whole or not at all; one of the same name is replaced.

    Args:
        model: trained model; it is saved without its optimizer.
        name: str, `<family>_<data set>[_<variant>]`.
        card: dict, all of the card but what is known here: class, config, parameters, sha256.
        pictures: paths of pictures to put beside it.

    Returns:
        Path of the folder.
    """
    target, partial = FOLDER / name, FOLDER / f".{name}.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        with _uncompiled(model):
            model.save(partial / "model.keras")
        np.savez_compressed(partial / "golden.npz", **golden(model))
        for picture in pictures:
            shutil.copy(picture, partial)
        own = {
            "name": name,
            "class": type(model).__name__,
            "parameters": model.count_params(),
            "sha256": sha256(partial / "model.keras"),
        }
        cli.write_json(partial / "card.json", {**own, **card})
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def put_in_place(partial, target):
    """Gives the folder `partial` the name `target`; what had it goes only then."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _uncompiled(model):
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def golden(model, x=None):
    """What a model returns for four examples: a dict of arrays that any backend must give again.

    `x`, `latent` (`latent_0` … where there are several groups), `reconstruction` and `loss`:
    latents are posterior means or codes, and the loss is taken there, without noise. Of an exact
    density `x`, `y` where it has a condition, `logits` and `loss`. `x` is given, or made by the
    model itself (so that no data set is passed on).
    """
    if not isinstance(model, LatentModel):
        return _golden_of_exact(model)
    rng = np.random.default_rng(0)
    if x is None:
        if model.latent_dtype == "int32":
            draw = lambda shape: rng.integers(0, model.codes, (4, *shape))  # noqa: E731
        else:
            draw = lambda shape: rng.normal(size=(4, *shape))  # noqa: E731
        groups = isinstance(model.latent_shape[0], tuple)
        z = tuple(map(draw, model.latent_shape)) if groups else draw(model.latent_shape)
        x = np.round(model.decode(z) * 255)
        if isinstance(model, BaseVAE) and model.likelihood.binary:
            x = np.where(x > 127, 255, 0)
        x = x.astype("uint8")
    latent = model.encode(x)
    with backend.drawing(model, lambda shape, distribution="normal": ops.zeros(shape)):
        # No batch statistics and no draw: what `prepare` draws leaves bits as they are.
        loss = model.objective(model.images(x), training=False)["loss"]
    if isinstance(latent, tuple):
        latents = {f"latent_{i}": group for i, group in enumerate(latent)}
    else:
        latents = {"latent": latent}
    made = {"reconstruction": model.decode(latent), "loss": ops.convert_to_numpy(loss)}
    return {"x": x, **latents, **made}


def _golden_of_exact(model):
    rng, parts = np.random.default_rng(0), {}
    parts["x"] = rng.integers(0, model.levels, (4, *model.grid_shape)).astype("int32")
    if model.condition_levels:
        y = rng.integers(0, model.condition_levels, (4, *model.condition_shape))
        parts["y"] = y.astype("int32")
    given = [ops.convert_to_tensor(array) for array in parts.values()]
    results = {"logits": model.logits(*given), "loss": model.objective(*given)["loss"]}
    return parts | {name: ops.convert_to_numpy(value) for name, value in results.items()}


def load_model(path, compile=True):
    """A model of the zoo from a `.keras` file, on any backend.

    `keras.models.load_model` after `import vae_zoo` does the same; this one looks first.

    Args:
        path: the file, or a folder with model.keras in it: a run, an entry of the zoo.
        compile: False leaves out the optimizer and its state.

    Returns:
        The model, ready to go on training if it was saved compiled.

    Raises:
        ValueError: in one line, if the file is not there, damaged, foreign, refused (code in a file
            is never run), or asks for layers of absurd size.
    """
    path = pathlib.Path(path)
    path = path / "model.keras" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"No file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated, damaged or no .keras file ({error})") from error
    if damaged:
        raise ValueError(f"{path} is damaged: {damaged} in it does not match its checksum")
    _check_sizes(config, path)
    try:
        model = keras.models.load_model(path, compile=compile)
    except Exception as error:  # Keras raises a dozen kinds; each means the same to a user
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(model, Trainable):
        raise ValueError(
            f"{path} holds a {type(model).__name__}, which is no vae_zoo model; "
            "keras.models.load_model may load it"
        )
    return model


def _check_sizes(config, path, key=""):
    """Walks a model's config; raises `ValueError` at a layer size that no model of the zoo has."""
    if isinstance(config, dict):
        for name, value in config.items():
            _check_sizes(value, path, name)
    elif isinstance(config, list):
        for value in config:
            _check_sizes(value, path, key)
    elif key in SIZES and isinstance(config, (int, float)) and config > LARGEST:
        raise ValueError(f"{path} asks for {key}={config}, above the limit of {LARGEST}")
