"""Priors over latents: whatever has `log_prob(z, y=None)` and `sample(n, y=None, seed=None)`.

A prior is a role: the small ones live here, and a `Density` may play it too, a mixture say. One
that knows its KL from a posterior in closed form says so by `kl(posterior, y=None)`; one that needs
its model has `bind(model)`.
"""

import math
import weakref

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.engine.noise import passing_noise
from vae_zoo.engine.saving import restore, serialized
from vae_zoo.parts import distributions
from vae_zoo.parts.layers import check_sizes
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
        return keras.random.normal((n, *self.latent_shape), dtype="float32", seed=seed)

    def kl(self, posterior, y=None):
        """KL(q || N(0, I)) of each latent: (batch, *latent_shape), nats; None where it has no
        closed form. Kingma and Welling 2014, arXiv:1312.6114, appendix B."""
        return posterior.kl() if isinstance(posterior, DiagonalGaussian) else None

    def get_config(self):
        return {**super().get_config(), "latent_shape": self.latent_shape}


@keras.saving.register_keras_serializable("vae_zoo")
class ConditionalNormal(layers.Layer):
    """p(z|y) = N(mean(y), exp(log_var(y))), trained with the model.

    Sohn, Lee and Yan 2015, "Learning Structured Output Representation using Deep Conditional
    Generative Models", section 3.1.

    Args:
        network: Keras model, y -> (batch, 2 * latent_dim), mean and log-variance on its last axis
            (`networks.prior_network`).
    """

    def __init__(self, network, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.network = restore(network)
        self.built = True

    def moments(self, y):
        """Mean and log-variance, each (batch, latent_dim)."""
        mean, log_var = ops.split(ops.cast(self.network(y), "float32"), 2, axis=-1)
        return mean, ops.clip(log_var, -10.0, 10.0)  # far outside of what training finds

    def log_prob(self, z, y=None):
        """log p(z|y) of z (..., batch, latent_dim): (..., batch), nats."""
        return ops.sum(distributions.gaussian_log_prob(z, *self.moments(y)), axis=-1)

    def sample(self, n, y=None, seed=None):
        """n latents (n, latent_dim), one for each y; `seed` is an int or a `SeedGenerator`."""
        mean, log_var = self.moments(ops.convert_to_tensor(y))
        noise = keras.random.normal((n, mean.shape[-1]), dtype="float32", seed=seed)
        return distributions.gaussian_sample(mean, log_var, noise)

    def kl(self, posterior, y=None):
        """KL(q || p(z|y)) of each latent: (batch, latent_dim), nats."""
        closed = isinstance(posterior, DiagonalGaussian)
        return posterior.kl(*self.moments(y)) if closed else None

    def get_config(self):
        return {**super().get_config(), "network": serialized(self.network)}


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
        seed = passing_noise(seed)
        top = self.top.sample(n, seed=seed)
        return top, self.bottom.sample(n, y=top, seed=seed)

    def get_config(self):
        return {
            **super().get_config(),
            "top": serialized(self.top),
            "bottom": serialized(self.bottom),
        }


@keras.saving.register_keras_serializable("vae_zoo")
class VampPrior(layers.Layer):
    """p(z) = 1/K sum_k q(z|u_k): the posterior of K pseudo-inputs u_k, trained with the model.

    Tomczak and Welling 2018, arXiv:1705.07120, eq. 9. Original code: jmtomczak/vae_vampprior (MIT),
    read, not copied. Differs from it: pseudo-inputs of images are kept in (0, 1) by a sigmoid
    instead of a clip, which has no gradient outside.

    The prior belongs to the model that it is given to, whose encoder it reads: it holds a weak
    reference that Keras does not track, so that each is saved once. q must be a diagonal Gaussian.

    Args:
        shape: tuple, of an example.
        components: int, K (500 in the paper).
        unit: bool, examples lie in [0, 1], as images do.
    """

    def __init__(self, shape, components=500, unit=True, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        check_sizes(shape=shape, components=components)
        self.shape, self.components, self.unit = tuple(shape), components, unit
        self.pseudo_inputs = self.add_weight(
            (components, *self.shape), initializer="random_normal", name="pseudo_inputs"
        )
        self.built = True

    def bind(self, model):
        """Makes q(z|u) that of this model.

        Raises:
            ValueError: if the model takes labels, or examples of another shape.
        """
        if model.condition is not None:
            raise ValueError(
                "A VampPrior has no labels for its pseudo-inputs; the model takes some"
            )
        if model.domain.shape != self.shape:
            raise ValueError(
                f"The pseudo-inputs must have the shape of an example, {model.domain.shape}. "
                f"Received: shape={self.shape}"
            )
        self.__dict__["_model"] = weakref.ref(model)  # not an attribute that Keras would track

    def start(self, x, seed=0):
        """Puts the pseudo-inputs at examples, drawn from x (n, *shape), before the first step."""
        rows = np.random.default_rng(seed).choice(len(x), self.components, len(x) < self.components)
        u = np.asarray(x[np.sort(rows)])
        u = u / 255.0 if u.dtype == "uint8" else u
        if self.unit:  # the inverse of the sigmoid, away from its ends
            u = np.clip(u, 0.02, 0.98)
            u = np.log(u / (1.0 - u))
        self.pseudo_inputs.assign(u)

    def mixture(self):
        """Means and log-variances of the components, each (K, *latent_shape)."""
        model = self.__dict__.get("_model", lambda: None)()
        if model is None:
            raise ValueError("A VampPrior needs its model: pass it to one as `prior`")
        u = ops.convert_to_tensor(self.pseudo_inputs)
        q = model.posterior(ops.sigmoid(u) if self.unit else u)
        if not isinstance(q, DiagonalGaussian):
            raise ValueError(
                f"A VampPrior needs a diagonal Gaussian posterior. Received: {type(q).__name__}"
            )
        return q.mean, q.log_var

    def log_prob(self, z, y=None):
        """log p(z) of z (..., *latent_shape): (...), nats. The squares of all differences are two
        matrix products: (z - m)^2 / v = z^2 / v - 2 z m / v + m^2 / v."""
        mean, log_var = self.mixture()
        lead = tuple(ops.shape(z)[: len(z.shape) - len(mean.shape) + 1])
        mean, log_var, z = (
            ops.reshape(t, (-1, math.prod(mean.shape[1:]))) for t in (mean, log_var, z)
        )
        precision = ops.exp(-log_var)
        own = ops.sum(distributions.gaussian_log_prob(0.0, mean, log_var), axis=-1)
        log_probs = ops.matmul(z, ops.transpose(mean * precision)) + own
        log_probs = log_probs - 0.5 * ops.matmul(ops.square(z), ops.transpose(precision))
        log_prob = ops.logsumexp(log_probs, axis=-1) - math.log(self.components)
        return ops.reshape(log_prob, lead)

    def sample(self, n, y=None, seed=None):
        """n latents (n, *latent_shape), float32; `seed` is an int or a `SeedGenerator`."""
        seed = passing_noise(seed)
        mean, log_var = self.mixture()
        which = keras.random.randint((n,), 0, self.components, "int32", seed=seed)
        mean, log_var = (ops.take(t, which, axis=0) for t in (mean, log_var))
        return distributions.gaussian_sample(
            mean, log_var, keras.random.normal(ops.shape(mean), dtype="float32", seed=seed)
        )

    def kl(self, posterior, y=None):
        """KL of each latent where there is one component, and so a closed form; else None."""
        if self.components > 1 or not isinstance(posterior, DiagonalGaussian):
            return None
        return posterior.kl(*self.mixture())

    def get_config(self):
        config = {"shape": self.shape, "components": self.components, "unit": self.unit}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("vae_zoo")
class SecondStage(layers.Layer):
    """p(z) = E_{u ~ N(0, I)} p(z|u): a second VAE, whose data are latents of the first.

    Dai and Wipf 2019, arXiv:1903.05789, section 4. What the first stage's posteriors look like
    together need not be N(0, I), but it fills the whole space of latents, where a VAE can fit it.

    Args:
        vae: VAE of latents, with a prior and a Gaussian likelihood, or its serialised form.
    """

    def __init__(self, vae, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.vae = restore(vae)
        self.latent_shape = self.vae.domain.shape
        self.built = True

    def log_prob(self, z, y=None):
        """An estimate of log p(z) of z (..., *latent_shape) by one draw u ~ q(u|z): (...), nats.

        log p(z|u) + log p(u) - log q(u|z), of which the exponential has the mean p(z): on average
        it is a lower bound, and so is every bound on log p(x) that is made with it.
        """
        lead = tuple(ops.shape(z)[: len(z.shape) - len(self.latent_shape)])
        flat = ops.reshape(z, (-1, *self.latent_shape))
        return ops.reshape(self.vae.log_weights(flat)[0], lead)

    def sample(self, n, y=None, seed=None):
        """n latents (n, *latent_shape), float32; `seed` is an int or a `SeedGenerator`."""
        seed = passing_noise(seed)

        def draw(shape, distribution="normal"):
            return getattr(keras.random, distribution)(shape, dtype="float32", seed=seed)

        parameters = self.vae.likelihood_parameters(self.vae.prior.sample(n, seed=seed))
        return self.vae.likelihood.sample(parameters, self.latent_shape[-1], draw)

    def get_config(self):
        return {**super().get_config(), "vae": serialized(self.vae)}


def get(identifier, latent_shape, model=None):
    """A prior from None (the standard normal), its serialised form or itself, bound to its model
    where it needs one."""
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
    if callable(getattr(identifier, "bind", None)):
        identifier.bind(model)
    return identifier


def kl(prior, posterior, z, y=None):
    """KL(q(z|x) || p(z|y)) in nats.

    Args:
        prior: whatever plays the role; its `kl(posterior)` is asked first, where it has one. Of a
            hierarchy's group a `DiagonalGaussian`, what the groups above it say.
        posterior: see `posteriors.py`.
        z: draws from it, (n, batch, *latent_shape).
        y: labels or None.

    Returns:
        (batch, ...) of each latent, or (batch,) where it is estimated: the mean of
        log q(z|x) - log p(z|y) over the draws.
    """
    if isinstance(prior, DiagonalGaussian):  # on the path of a hierarchy
        return posterior.kl(prior.mean, prior.log_var)
    labels = () if y is None else (y,)
    closed = getattr(prior, "kl", None)
    exact = None if closed is None else closed(posterior, *labels)
    if exact is not None:
        return exact
    return ops.mean(posterior.log_prob(z) - prior.log_prob(z, *labels), axis=0)
