"""A trained model for other images: the same architecture, and its weights wherever they fit."""

import keras
import numpy as np
from keras import ops

from vae_zoo.engine.saving import serialized
from vae_zoo.engine.trainable import Trainable
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import domains, likelihoods


def fits(likelihood, images):
    """Whether a likelihood is one of such images: bits are of what is black and white, nearly.

    Args:
        likelihood: `Likelihood`.
        images: uint8 (n, ...), a few hundred; a Bernoulli likelihood fits where levels are less
            than 25 of 255 from black or white on average (MNIST: 8, photographs: 60 or more).
    """
    return not likelihood.binary or black_and_white(images)


def black_and_white(images):
    """Whether the levels of uint8 images are less than 25 from 0 or 255, on average."""
    images = np.asarray(images, "int32")
    return np.minimum(images, 255 - images).mean() < 25


def check(model):
    """Raises `ValueError` where a model cannot be `adapted`."""
    if not isinstance(model, BaseVAE) or "shape" not in model.get_config():
        raise ValueError(
            f"A {type(model).__name__} cannot be built for other images: only a VAE of the zoo, "
            "which knows the shape of its images, can"
        )
    if model.condition is not None and domains.classes(model.condition) is None:
        raise ValueError(f"Only classes come with other images. The condition is {model.condition}")


def adapted(model, shape=None, likelihood=None, condition=None) -> tuple:
    """A new model with the weights of a trained one, for another image shape, likelihood, or number
    of classes.

    Args:
        model: `BaseVAE` whose config has `shape`.
        shape: (height, width, channels), None for the model's.
        likelihood: a `Likelihood` or its name, None for a copy of the model's.
        condition: int, number of classes of a conditional model, None for that of the model.

    Returns:
        The new model, not compiled, and the list of its trainable variables that are new, since no
        weight of the old one has their shape: input and output layers, as a rule.

    Raises:
        ValueError: if the model has networks of its user's own, or no other shape can be built.
    """
    check(model)
    config = model.get_config()
    config.pop("frozen", None)  # what is new must learn, and what was frozen may have other parts
    if callable(model.beta):  # the warm-up is over, a cycle at its top
        top = vars(model.beta).get("beta")
        config["beta"] = float(ops.convert_to_numpy(model.beta(10**9)) if top is None else top)
    if shape is not None:
        config["shape"] = tuple(shape)
    if likelihood is not None:
        config["likelihood"] = serialized(likelihoods.get(likelihood))
    if condition is not None:
        config["condition"] = condition
    new = type(model).from_config(config)
    pairs = list(zip(_networks(new), _networks(model), strict=True))
    for part in ("likelihood", "prior") if likelihood is None else ("prior",):
        pairs += zip(*(_variables(getattr(m, part, None)) for m in (new, model)), strict=True)
    fresh = []
    for mine, its in pairs:
        if mine.shape == its.shape:
            mine.assign(ops.convert_to_numpy(its))
        elif mine.trainable:
            fresh.append(mine)
    return new, fresh


class Classifier(Trainable):
    """p(y|x) of a network's logits, trained as the models of the zoo are.

    -log p(y|x) = logsumexp_c f_c(x) - f_y(x)

    Args:
        network: Keras model, float32 images in [0, 1] (batch, ...) -> logits f (batch, classes).

    Input: uint8 images in 0..255.
    """

    logged = ("accuracy",)

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network

    def prepare(self, x):
        return ops.cast(x, "float32") / 255.0

    def call(self, x):
        return ops.cast(self.network(self.prepare(x)), "float32")

    def objective(self, x, y=None, training=False):
        logits = ops.cast(self.network(x, training=training), "float32")
        right = ops.cast(ops.argmax(logits, axis=1) == ops.cast(y, "int32"), "float32")
        loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        return {"loss": loss, "accuracy": right}


def _networks(model):
    """All variables of a model but those of likelihood, prior, metrics and noise."""
    parts = (model.likelihood, model.prior, model.noise)
    own = {id(v) for part in parts for v in _variables(part)}
    own |= {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in own]


def _variables(part):
    if isinstance(part, keras.random.SeedGenerator):
        return [part.state]
    return getattr(part, "variables", ())


def optimizer(model, fresh, new_rate, old_rate):
    """Adam at `new_rate` for the variables in `fresh`, at the lower `old_rate` for all others; both
    are floats or schedules."""
    if not fresh:
        return keras.optimizers.Adam(old_rate)
    rates = keras.optimizers.OptimizerMap(keras.optimizers.Adam(old_rate))
    quick = keras.optimizers.Adam(new_rate)
    trained = [v.path for v in model.trainable_variables]
    for variable in fresh:
        if trained.count(variable.path) != 1:  # or it would be taken for another
            raise ValueError(f"{variable.path} names {trained.count(variable.path)} weights")
        rates[variable.path] = quick
    return keras.optimizers.MultiOptimizer(rates)
