"""Priors over latents: whatever has `log_prob(z, y=None)` and `sample(n, y=None, seed=None)`.

A prior is a role: the small ones live here, and a `Density` may play it too, a mixture say. One
that knows its KL from a posterior in closed form says so by `kl(posterior, y=None)`.
"""

import math

import keras
from keras import layers, ops

from vae_zoo.engine.noise import noise_source
from vae_zoo.engine.saving import restore, serialized
from vae_zoo.parts import distributions
from vae_zoo.parts.posteriors import DiagonalGaussian


@keras.saving.register_keras_serializable("vae_zoo")
class StandardNormal(layers.Layer):
    """p(z) = N(0, I).

    Args:
        latent_shape: tuple, shape of one example's latents.
    """

    def __init__(self, latent_shape, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.latent_shape = tuple(latent_shape)
        self.built = True

    def log_prob(self, z, y=None):
        """log p(z) of z (..., *latent_shape): (...), nats."""
        axes = tuple(range(-len(self.latent_shape), 0))
        return ops.sum(distributions.gaussian_log_prob(z, 0.0, 0.0), axis=axes)

    def sample(self, n, y=None, seed=None):
        """n latents (n, *latent_shape), float32; `seed` is an int or a `SeedGenerator`."""
        return keras.random.normal((n, *self.latent_shape), seed=seed)

    def kl(self, posterior, y=None):
        """KL(q || N(0, I)) of each latent: (batch, *latent_shape), nats; None where it has no
        closed form. Kingma and Welling 2014, arXiv:1312.6114, appendix B."""
        return posterior.kl() if isinstance(posterior, DiagonalGaussian) else None

    def get_config(self):
        return {**super().get_config(), "latent_shape": self.latent_shape}


@keras.saving.register_keras_serializable("vae_zoo")
class UniformCodes(layers.Layer):
    """p(codes) = 1 / K^N: what a VQ-VAE samples from before a prior is fitted to its codes.

    Args:
        latent_shape: tuple, shape of one example's codes, N of them.
        codes: int, K.
    """

    def __init__(self, latent_shape, codes, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.latent_shape, self.codes = tuple(latent_shape), codes
        self.built = True

    def log_prob(self, z, y=None):
        """-N log K of codes (..., *latent_shape): (...), nats."""
        lead = tuple(ops.shape(z)[: len(z.shape) - len(self.latent_shape)])
        return ops.full(lead, -math.prod(self.latent_shape) * math.log(self.codes), "float32")

    def sample(self, n, y=None, seed=None):
        """n grids of codes (n, *latent_shape), int32; `seed` is an int or a `SeedGenerator`."""
        return keras.random.randint((n, *self.latent_shape), 0, self.codes, "int32", seed=seed)

    def get_config(self):
        config = {"latent_shape": self.latent_shape, "codes": self.codes}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("vae_zoo")
class TopDown(layers.Layer):
    """p(top, bottom) = p(top) p(bottom|top): two grids of codes, the finer one given the coarser.

    Razavi, van den Oord and Vinyals 2019, arXiv:1906.00446, section 3.2.

    Args:
        top, bottom: priors of codes, each a Keras object or its serialised form.
    """

    def __init__(self, top, bottom, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.top, self.bottom = restore(top), restore(bottom)
        self.built = True

    def log_prob(self, z, y=None):
        """log p(top, bottom) of a pair of codes (..., *latent_shape): (...), nats."""
        return sum(self.log_probs(z))

    def log_probs(self, z):
        """log p(top) and log p(bottom|top), each (...), nats."""
        top, bottom = z
        return self.top.log_prob(top), self.bottom.log_prob(bottom, top)

    def sample(self, n, y=None, seed=None):
        """A pair of n grids of codes, int32; `seed` is an int or a `SeedGenerator`."""
        seed = noise_source(seed)
        top = self.top.sample(n, seed=seed)
        return top, self.bottom.sample(n, y=top, seed=seed)

    def get_config(self):
        return {
            **super().get_config(),
            "top": serialized(self.top),
            "bottom": serialized(self.bottom),
        }


def get(identifier, latent_shape):
    """A prior from None (the standard normal), its serialised form or itself."""
    if identifier is None:
        return StandardNormal(latent_shape)
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    for method in ("log_prob", "sample"):
        if not callable(getattr(identifier, method, None)):
            raise ValueError(f"`prior` must have `log_prob` and `sample`. Received: {identifier!r}")
    if getattr(identifier, "trainable", True) is False:
        for variable in identifier.variables:  # a config freezes a layer, not what it makes later
            variable.trainable = False
    return identifier


def kl(prior, posterior, z, y=None):
    """KL(q(z|x) || p(z|y)) in nats.

    Args:
        prior: whatever plays the role; its `kl(posterior)` is asked first, where it has one.
        posterior: see `posteriors.py`.
        z: draws from it, (n, batch, *latent_shape).
        y: labels or None.

    Returns:
        (batch, ...) of each latent, or (batch,) where it is estimated: the mean of
        log q(z|x) - log p(z|y) over the draws.
    """
    labels = () if y is None else (y,)
    closed = getattr(prior, "kl", None)
    exact = None if closed is None else closed(posterior, *labels)
    if exact is not None:
        return exact
    return ops.mean(posterior.log_prob(z) - prior.log_prob(z, *labels), axis=0)
