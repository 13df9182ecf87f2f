"""Loading models: what `keras.models.load_model` does, with errors that say what is wrong."""

import json
import pathlib
import zipfile

import keras

from vae_zoo.base import Trainable
from vae_zoo.networks import LARGEST

SIZES = ("units", "filters", "latent_dim", "hidden", "components", "image_shape", "batch_shape")


def load_model(path, compile=True):
    """A model of the zoo from a `.keras` file, on any backend.

    `keras.models.load_model` after `import vae_zoo` does the same; this one looks first.

    Args:
        path: the file.
        compile: False leaves out the optimizer and its state.

    Returns:
        The model, ready to go on training if it was saved compiled.

    Raises:
        ValueError: in one line, if the file is not there, damaged, foreign, refused (code in a file
            is never run), or asks for layers of absurd size.
    """
    path = pathlib.Path(path)
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
