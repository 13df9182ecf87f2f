"""The zoo: trained models by name, each a folder with its proof.

An entry is `saved_models/<name>/`: `model.keras`, `card.json` (where the model comes from and what
it reaches), `golden.npz` (what it must return, on any backend) and pictures. The listing of the
folder is the registry.
"""

import contextlib
import difflib
import functools
import math
import pathlib
import shutil
import warnings

import keras
import numpy as np
from keras import ops

from vae_zoo import archives, files
from vae_zoo.engine.saving import MOST_WEIGHTS, on_paper, weight_budget
from vae_zoo.engine.trainable import Trainable
from vae_zoo.models.gaussian_mixture import GaussianMixture
from vae_zoo.models.kinds import Density, LatentModel, given
from vae_zoo.models.links import LinkPrediction
from vae_zoo.models.sketch_rnn import SketchRNN

FOLDER = files.bundled("saved_models")
CLASSIFIER = "classifier_"  # entries whose names begin so are what `cnn_fid` takes features from


def names() -> list:
    """Names of the entries, sorted."""
    cards = FOLDER.glob("*/card.json")
    return sorted(p.parent.name for p in cards if not p.parent.name.startswith(CLASSIFIER))


def card(name) -> dict:
    """The card of an entry, a dict: class, config, data set, command, seed, machine, metrics …

    Raises:
        ValueError: in one line, if there is no such entry, or its card is damaged.
    """
    path = FOLDER / str(name) / "card.json"
    if pathlib.Path(str(name)).name != str(name) or not path.is_file():  # a path is no name
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`name` must be one of {names()}. Received: {name!r}{hint}")
    content = files.read_json(path)
    if not isinstance(content.get("sha256"), str):
        raise ValueError(f"{path} must hold the `sha256` of model.keras")
    return content


def load(name) -> keras.Model:
    """The model of an entry, on any backend; it is not compiled.

    Raises:
        ValueError: if there is no such entry, or its file is not the one that the card describes.
    """
    return load_model(checked(name), compile=False)


def classifier(dataset, shape=None) -> keras.Model | None:
    """What `cnn_fid` sees by, for one labelled data set: a Keras model of images in [0, 1] whose
    output are features; None where the zoo has no such entry, or has it for images of another
    shape."""
    name = CLASSIFIER + pathlib.Path(dataset).stem
    if not (FOLDER / name / "card.json").is_file():
        return None
    model = keras.models.load_model(checked(name), compile=False)
    if shape is not None and tuple(model.input_shape[1:]) != tuple(shape):
        return None
    return keras.Model(model.inputs[0], model.get_layer("features").output)


def pictures_of(folder) -> list:
    """Paths of the pictures in a folder, a run's or an entry's, sorted."""
    return sorted(path for kind in ("png", "svg", "gif") for path in folder.glob(f"*.{kind}"))


def checked(name):
    """Path of an entry's file; `ValueError` unless its sha256 is that of the card."""
    expected, path = card(name)["sha256"], FOLDER / name / "model.keras"
    if not path.is_file() or files.sha256(path) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is not that of its card ({expected})")
    return path


def save(model, name, card, pictures=()) -> pathlib.Path:
    """Writes an entry, whole or not at all; one of the same name is replaced.

    Args:
        model: trained model, or a classifier; its weights are rounded, its optimizer is left out.
        name: str, `<family>_<data set>[_<variant>]`, or `classifier_<data set>`.
        card: dict, all of the card but what is known here: name, class, parameters, sha256, config.
        pictures: paths of pictures to put beside it.

    Returns:
        Path of the folder.
    """
    target = FOLDER / name
    with files.replacing(target) as partial:
        partial.mkdir()
        path = partial / "model.keras"
        round_weights(model)
        with _uncompiled(model):
            model.save(path)
        files.compress(path)
        for picture in pictures:
            shutil.copy(picture, partial)
        own = {
            "name": name,
            "class": type(model).__name__,
            "parameters": model.count_params(),
            "sha256": files.sha256(path),
        }
        if isinstance(model, Trainable):
            own["config"] = model.get_config()
            np.savez_compressed(partial / "golden.npz", **golden(model))
        files.write_json(partial / "card.json", {**own, **card, **own})  # these keys come first
    return target


@functools.singledispatch
def round_weights(model):
    """Rounds the float weights of a model in place, see `files.rounded`: it moves the ELBO by less
    than a tenth of its standard error. Integers, counters and seeds stay as they are."""
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(files.rounded(ops.convert_to_numpy(weight)))


@round_weights.register
def _(model: GaussianMixture):
    """Nothing: along the least variances of smooth patches the terms of a product with the factor
    of a precision nearly cancel, and ten bits would not leave what remains."""


@contextlib.contextmanager
def _uncompiled(model):
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


@functools.singledispatch
def golden(model, x=None, y=None) -> dict:
    """What a model returns for four examples: a dict of arrays that any backend must give again.

    `x`, `y` where it takes labels, `latent` (`latent_0` … where there are several groups),
    `reconstruction` and `loss`: latents are posterior means or codes, and the loss is taken there,
    without noise. Of an exact density `x`, `y`, `output` (what `call` returns) and `loss`. `x` and
    `y` are given, or made by the model itself (so that no data set is passed on). `version` is that
    of this list. Of graphs it is one example, and `reconstruction` that of the pairs in `x`.
    """
    raise ValueError(f"A {type(model).__name__} has no examples to be known by")


@golden.register
def _(model: LatentModel, x=None, y=None):
    rng = np.random.default_rng(0)
    labels = _labels(model, y, rng)
    if x is None:
        groups = model.latent_domain
        z = [group.examples(4, rng) for group in keras.tree.flatten([groups])]
        z = tuple(z) if isinstance(groups, tuple) else z[0]
        x = model.domain.from_means(model.decode(z, labels.get("y")), model.sees_bits)
    latent = model.encode(x, **labels)
    loss = _loss(model, x, labels)
    parts = latent if isinstance(latent, tuple) else None
    latents = {f"latent_{i}": part for i, part in enumerate(parts or ())} or {"latent": latent}
    made = model.decode(latent, **labels)
    return {"version": 2, "x": x, **labels, **latents, "reconstruction": made, "loss": loss}


@golden.register
def _(model: LinkPrediction, x=None, y=None):  # one graph, of whose pairs those of the table
    rng = np.random.default_rng(0)
    x = model.domain.examples(1, rng) if x is None else x
    if model.condition is not None and y is None:
        y = np.float32(rng.random((1, *model.condition.shape)) < 0.01)
    labels = {} if y is None else {"y": y}
    made = model.link_probability(x, x[0, :, 0], x[0, :, 1], y)[None]
    latent, loss = model.encode(x, **labels), _loss(model, x, labels)
    return {"version": 2, "x": x, **labels, "latent": latent, "reconstruction": made, "loss": loss}


@golden.register
def _(model: SketchRNN, x=None, y=None):  # each row of what was before it: a drawing would branch
    x = model.domain.examples(4, np.random.default_rng(0)) if x is None else x
    made, loss = ops.convert_to_numpy(model(x)), _loss(model, x, {})
    return {"version": 2, "x": x, "latent": model.encode(x), "reconstruction": made, "loss": loss}


@golden.register
def _(model: Density, x=None, y=None):
    rng = np.random.default_rng(0)
    x = model.domain.examples(4, rng) if x is None else x
    labels = _labels(model, y, rng)
    output = ops.convert_to_numpy(model((x, labels["y"]) if labels else x))
    return {"version": 2, "x": x, **labels, "output": output, "loss": _loss(model, x, labels)}


@golden.register
def _(model: GaussianMixture, x=None, y=None):  # of its own, since its domain knows no scale
    return golden.dispatch(Density)(model, model.sample(4, seed=0) if x is None else x, y)


def _labels(model, y, rng):
    if model.condition is None:
        return {}
    return {"y": model.condition.examples(4, rng) if y is None else y}


def _loss(model, x, labels):
    """At the mean of the posterior: no noise, and no draw, which bits need not."""
    y = model.prepare_labels(labels.get("y"))
    with model.drawing(lambda shape, distribution, alike: ops.zeros(shape, "float32")):
        x = model.domain.tensor(x)
        return ops.convert_to_numpy(model.objective(x, *given(y), training=False)["loss"])


def find(path) -> pathlib.Path:
    """Path of the `.keras` file that a user means: itself, the `model.keras` in a folder (a run),
    or that of an entry by its name, with or without saved_models/ before it, from any folder.

    Raises:
        ValueError: if there is none; it lists entries with near names.
    """
    path = pathlib.Path(path).expanduser()
    entry = FOLDER / path.name
    named = str(path.parent) in (".", FOLDER.name) and (entry / "card.json").is_file()
    choices = [path, path / "model.keras", *([entry / "model.keras"] if named else ())]
    found = next((choice for choice in choices if choice.is_file()), None)
    if found is None:
        near = difflib.get_close_matches(path.name, names(), cutoff=0.5)
        hint = f"; entries of the zoo with near names: {', '.join(near)}" if near else ""
        inside = f"{path} holds no model.keras" if path.is_dir() else f"No file {path}"
        raise ValueError(f"{inside}, and no entry of the zoo has this name{hint}")
    return found


def load_model(path, compile=True, most_weights=MOST_WEIGHTS) -> keras.Model:
    """A model of the zoo from a `.keras` file, on any backend.

    `keras.models.load_model` after `import vae_zoo` does the same; this one looks first.

    Args:
        path: the file, a folder with model.keras in it, or the name of an entry, see `find`.
        compile: False leaves out the optimizer and its state.
        most_weights: int, elements of all weights together above which a file is refused.

    Returns:
        The model, ready to go on training if it was saved compiled.

    Raises:
        ValueError: in one line, if the file is not there, damaged, foreign, refused (code in a file
            is never run), or asks for more weights than it holds.
    """
    path = find(path)
    config, shapes = archives.look(path)
    try:
        elements = sum(math.prod(shape) * count for shape, count in shapes.items())
        budget = min(elements, most_weights), shapes.total()
        with weight_budget(*budget), on_paper():
            planned = keras.saving.deserialize_keras_object({**config, "compile_config": None})
        _check_shapes(planned, shapes)
        with weight_budget(*budget), _of_optimizer(path):
            model = keras.models.load_model(path, compile=compile)
    except Exception as error:  # Keras raises a dozen kinds; each means the same to a user
        raise ValueError(f"{path} cannot be loaded: {files.in_words(error)}") from error
    if not isinstance(model, Trainable):
        raise ValueError(
            f"{path} holds a {type(model).__name__}, which is no vae_zoo model; "
            "keras.models.load_model may load it"
        )
    return model


def _check_shapes(planned, shapes):
    """`ValueError` if a model on paper has weights of a shape that its file holds none of; an
    engine would compile what makes them before it found out."""
    if isinstance(planned, Trainable):
        for shape in {tuple(weight.shape) for weight in planned.weights} - set(shapes):
            raise ValueError(
                f"its config asks for weights of shape {shape}, which it does not hold"
            )


@contextlib.contextmanager
def _of_optimizer(path):
    """Context in which Keras's warning of an optimizer whose state it leaves out says what that
    means."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for warning in told:
        if str(warning.message).startswith("Skipping variable loading for optimizer"):
            message = f"{path} lacks a part of its optimizer's state, all of which starts anew: "
            warnings.warn(f"{message}moments, averages and the count of updates", stacklevel=4)
        else:
            warnings.warn_explicit(warning.message, None, warning.filename, warning.lineno)
