"""What a model can do, said by its class: `Density`, `LatentModel`, `BaseVAE`.

    Trainable           objective, the step, noise, saving (engine/trainable.py)
    ├─ Density          exact log_prob(x, y), sample(n, y, seed)
    └─ LatentModel      encode, decode, reconstruct, interpolate
       └─ BaseVAE       terms, log_weights, log_likelihood, prior, sample

What depends on the kind of a model is a method here, or a table by class beside the code that needs
it; what depends on the kind of its data asks its domains.
"""

import math

import keras
import numpy as np
from keras import ops

from vae_zoo.engine import backend
from vae_zoo.engine.checks import check_count
from vae_zoo.engine.noise import passing_noise
from vae_zoo.engine.saving import restore
from vae_zoo.engine.trainable import EVALUATION_SEED, Trainable
from vae_zoo.models.latent_model import Density, LatentModel, each, given
from vae_zoo.parts import importance, likelihoods, priors
from vae_zoo.parts.bounds import (
    check_beta,
    check_importance,
    check_weight,
    over_draws,
    summed,
    weights_of,
)

__all__ = ["BaseVAE", "Density", "LatentModel", "Trainable", "each", "given"]


class BaseVAE(LatentModel):
    """A `LatentModel` with a likelihood p(x|z), a prior p(z) and a bound on log p(x).

    loss = -E_q log p(x|z) + beta KL(q(z|x) || p(z))

    Families write `posterior(x)`, `likelihood_parameters(z)` and `objective`, which returns
    "reconstruction", "kl" and "elbo" = -reconstruction - kl, as `bound` does; with `training=False`
    its loss is -elbo, whatever it trains on. A tighter bound is a term of its own, and `monitor`
    may name it.

    Args:
        domain, latent_domain, condition, parts: see `LatentModel`.
        likelihood: `Likelihood`.
        prior: None for N(0, I), or anything with `log_prob` and `sample` (see `with_prior`); of
            several groups of latents a family sets `self.prior` itself.
        beta: float, or a `LearningRateSchedule` of the optimizer's iterations, the weight of the KL
            while training; evaluation has 1. Above 1 it is a beta-VAE, rising to 1 a warm-up. A
            callback may set it too: nothing is compiled anew.
        free_bits: float, nats that each entry of what `bound` is given as KL may use before it
            costs anything, on the batch mean, while training.
        logged, seed, skip_threshold: see `Trainable`.
    """

    logged = ("reconstruction", "kl", "elbo")
    monitor = "elbo"
    numbers = ("beta",)
    adjustable = {
        **LatentModel.adjustable,
        "beta": check_beta,
        "free_bits": check_weight("free_bits"),
    }

    def __init__(
        self,
        domain,
        latent_domain,
        likelihood="bernoulli",
        prior=None,
        beta=1.0,
        free_bits=0.0,
        condition=None,
        parts=None,
        logged=None,
        **kwargs,
    ):
        beta = restore(beta)
        check_beta(beta)
        logged = (
            *(self.logged if logged is None else logged),
            *(["beta"] if callable(beta) else []),
        )
        super().__init__(domain, latent_domain, condition, parts, logged=logged, **kwargs)
        self.likelihood = likelihoods.get(likelihood)
        if not isinstance(latent_domain, tuple) or prior is not None:
            self.prior = priors.get(prior, self.latent_shape, self)
        self.beta, self.free_bits = beta, free_bits

    def adjusting(self, name, value):
        if name == "beta" and callable(value) and "beta" not in self.logged:
            raise ValueError("A schedule of `beta`, which is logged, comes when a model is built")
        if "iwae" in self.logged:
            check_importance(name, value)
        super().adjusting(name, value)

    @property
    def sees_bits(self):
        return self.likelihood.binary

    def prepare(self, x):
        """Examples as the likelihood sees them: grey levels become bits for a Bernoulli one."""
        may_be_nan = "float" in keras.backend.standardize_dtype(x.dtype)
        x = self.domain.tensor(x)
        if not self.likelihood.binary:
            return x
        bits = ops.cast(self.draw(ops.shape(x), "uniform") < x, "float32")  # of 0/1 data the same
        return bits + 0.0 * x if may_be_nan else bits  # NaN stays, and its update is skipped

    # === The bound ===

    def posterior(self, x, y=None, training=False):
        """q(z|x, y), an object with `mean`, `sample(draw, num_samples)` and `log_prob(z)`; see
        `parts/posteriors.py`. `x` and `y` as `prepare` and `prepare_labels` return them."""
        raise NotImplementedError

    def likelihood_parameters(self, z, y=None, training=False):
        """What the likelihood makes a distribution of x of, float32 (..., batch, *shape, of the
        last axis `likelihood.num_parameters`), of latents with any number of leading axes."""
        raise NotImplementedError

    def infer(self, x, y=None):
        return self.posterior(x, y).mean

    def generate(self, z, y=None):
        parameters = self.likelihood_parameters(z, y)
        return self.likelihood.mean(parameters, self.domain.shape[-1])

    def kl(self, posterior, z, y=None):
        """KL(q(z|x) || p(z)) of each latent, (batch, ...), in closed form where the prior knows it;
        else (batch,), estimated by the mean of log q(z|x) - log p(z) over draws z (n, batch, …)."""
        return priors.kl(self.prior, posterior, z, y)

    def bound(self, x, parameters, kl, training):
        """What `objective` returns.

        Args:
            x: as `prepare` returns it.
            parameters: of p(x|z), (..., batch, ...); the mean is taken over leading axes.
            kl: float32 (batch, ...), of each latent, or group of latents.
            training: bool.
        """
        reconstruction = -over_draws(self.likelihood.log_prob(x, parameters))
        total = summed(kl)
        outputs = {"reconstruction": reconstruction, "kl": total, "elbo": -reconstruction - total}
        if not training:
            return {**outputs, "loss": -outputs["elbo"], "beta": ops.ones_like(total)}
        distortion = reconstruction
        if self.likelihood.fitted:  # by the variance that fits this batch
            outputs["error"] = self.likelihood.error(x, parameters)
            fitting = self.likelihood.log_prob(x, parameters, self.batch_mean)
            distortion = -over_draws(fitting)
        scheduled = callable(self.beta)
        beta = self.beta(self.optimizer.iterations) if scheduled else self.number("beta")
        beta = ops.cast(beta, "float32")
        loss = distortion + beta * self.rate(kl, beta)
        return {**outputs, "loss": loss, "beta": beta * ops.ones_like(total)}

    def importance_bound(self, x, drawn, training):
        """What `objective` returns of the importance-weighted bound, which is "iwae" there:

        L_k = log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), i = 1 … k

        Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519, eq. 8. The other terms are those of
        the ELBO, the mean of the same log-weights.

        Args:
            x: as `prepare` returns it.
            drawn: as `drawn` returns it, of k draws.
            training: bool.
        """
        log_likelihood, log_prior, log_posterior = terms = self.terms_of(x, drawn)
        reconstruction = -ops.mean(log_likelihood, axis=0)
        kl = ops.mean(log_posterior - log_prior, axis=0)
        outputs = {"reconstruction": reconstruction, "kl": kl, "elbo": -reconstruction - kl}
        log_weights = weights_of(terms)
        if training and self.likelihood.fitted:
            outputs["error"] = self.likelihood.error(x, drawn[0])
            log_weights = weights_of(self.terms_of(x, drawn, training))
        bound = ops.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])
        return {**outputs, "iwae": bound, "loss": -bound if training else -outputs["elbo"]}

    def rate(self, kl, beta):
        """What the KL costs while training: sum_j max(mean over the batch of KL_j, free bits),
        example by example: (batch,). Kingma et al. 2016, arXiv:1606.04934, eq. 15."""
        if self.free_bits:
            kl = ops.where(self.batch_mean(kl) > self.free_bits, kl, self.free_bits)
        return summed(kl)

    def update_state(self, outputs, weights, training):
        """Fits a likelihood's variance."""
        if training and self.likelihood.fitted:
            self.likelihood.update(outputs["error"], weights)

    def drawn(self, x, y=None, num_samples=1, training=False):
        """What `terms` are made of: the parameters of p(x|z), (num_samples, batch, ...), and
        log p(z) and log q(z|x), (num_samples, batch), of draws z ~ q(z|x). Args as of `terms`."""
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, num_samples)
        parameters = self.likelihood_parameters(z, y, training)
        return parameters, self.prior.log_prob(z, *given(y)), q.log_prob(z)

    def terms(self, x, y=None, num_samples=1, training=False):
        """log p(x|z), log p(z) and log q(z|x) of `num_samples` reparametrised draws z ~ q(z|x).

        Args:
            x: as `prepare` returns it.
            y: as `prepare_labels` does.
            num_samples: int.
            training: True where they are part of a training loss (dropout, a variance being
                fitted).

        Returns:
            three tensors, float32 (num_samples, batch), nats, of one pass with one noise.
        """
        return self.terms_of(x, self.drawn(x, y, num_samples, training), training)

    def terms_of(self, x, drawn, training=False):
        """`terms` of what `drawn` returned."""
        parameters, *log_probs = drawn
        fitting = self.batch_mean if training else None
        return self.likelihood.log_prob(x, parameters, fitting), *log_probs

    def log_weights(self, x, y=None, num_samples=1, training=False):
        """log p(x, z) - log q(z|x) of `num_samples` draws: float32 (num_samples, batch), nats; args
        as of `terms`. Their mean is the ELBO, the log of the mean of their exponentials a tighter
        bound."""
        return weights_of(self.terms(x, y, num_samples, training))

    def log_likelihood(
        self, x, y=None, num_samples=1000, batch_size=None, seed=0, progress=None
    ) -> np.ndarray:
        """Importance-weighted bound on log p(x), which grows to log p(x) with `num_samples` = k.

        L_k = log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x)

        Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519, eq. 8. Computed in chunks of 50
        samples; the log-sum-exp is taken in float32 within a chunk, in float64 over chunks. Within
        `vae_zoo.distribute.data_parallel` devices share the images, and all processes must call it.

        Args:
            x: examples (n, *shape); grey levels become bits once where the likelihood is Bernoulli
                (fixed test bits are better: they can be named).
            y: labels, where the model takes some.
            num_samples: int, k.
            batch_size: int, examples at a time on each device; None takes 50, and 10 where latents
                are grids, since layers of 50 samples of each are held in memory.
            seed: int; equal seeds give equal numbers.
            progress: wraps the iterable of batches, `tqdm.tqdm` say.

        Returns:
            NumPy float64 (n,), nats.
        """
        return self.importance(x, y, num_samples, batch_size, seed, progress)[0]

    def importance(
        self, x, y=None, num_samples=1000, batch_size=None, seed=0, progress=None
    ) -> tuple:
        """`log_likelihood`, and what it rests on: the effective number of samples of the weights
        w_i = p(x, z_i) / q(z_i|x), (sum_i w_i)^2 / sum_i w_i^2, from 1 to `num_samples`.

        Args: see `log_likelihood`.

        Returns:
            two NumPy float64 (n,): the bound in nats, and the number.
        """
        arrays = self._arrays(x, y)
        return importance.weigh(self, arrays, num_samples, batch_size, seed, progress)

    def latent_kl(self, x, y=None):
        """KL(q(z|x) || p(z)) of each latent, as a family's `objective` has it: (batch, ...) or a
        tuple of such, a group each."""
        q = self.posterior(x, y)
        return self.kl(q, q.sample(self.draw, 1), y)

    def kl_per_latent(self, x, y=None, batch_size=256) -> np.ndarray | tuple:
        """Mean over examples of the KL of each latent from the model's own prior: NumPy
        (*latent_shape), nats; a tuple of such where there are several groups. Where the prior does
        not take the latents apart, one number for all of them: NumPy (). Examples as `encode` takes
        them."""

        def kl(x, *y):
            return self.latent_kl(self.domain.tensor(x), *map(self.prepare_labels, y))

        arrays = self._arrays(x, y)
        kls = self.run("kl_per_latent", kl, *arrays, batch_size=batch_size, seed=EVALUATION_SEED)
        return each(lambda kl: np.mean(kl, axis=0), kls)

    def draws(self, x, y=None, seed=0, batch_size=256) -> np.ndarray | tuple:
        """One draw z ~ q(z|x) of each example: NumPy (n, *latent_shape), or a tuple of such."""

        def draw(x, *y):
            return self.posterior(self.prepare(x), *map(self.prepare_labels, y)).sample(self.draw)

        return self.run("draws", draw, *self._arrays(x, y), batch_size=batch_size, seed=seed)

    # === Generation ===

    def sample_latents(self, n, seed=0, y=None) -> np.ndarray | tuple:
        """n latents from the prior, as `encode` returns them: NumPy (n, *latent_shape)."""
        check_count(n)
        y = given(self.prepare_labels(self._repeated(y, n)))
        return each(ops.convert_to_numpy, self.prior.sample(n, *y, seed=passing_noise(seed)))

    def sample(
        self, n=None, seed=None, pixels=False, batch_size=256, y=None, **of_latents
    ) -> np.ndarray:
        """New examples: z ~ p(z), then the mean of p(x|z).

        Args:
            n: int; of a model with labels it may be left out where `y` has one an example.
            seed: int; None draws one.
            pixels: True draws x ~ p(x|z) instead of taking its mean.
            batch_size: int, examples at a time.
            y: one label, or n of them, where the model takes labels.
            **of_latents: what the family's `sample_latents` takes.

        Returns:
            NumPy float32 (n, *shape) in data space.
        """
        if n is None and y is None:
            self.check_labels(y)  # which says where they are needed
        n = len(y) if n is None and np.ndim(y) else n
        check_count(n)
        y = self._repeated(y, n)
        seed = int(np.random.randint(2**31 - 1) if seed is None else seed % (2**31 - 1))
        labels = {} if y is None else {"y": y}
        z = self.sample_latents(n, seed, **labels, **of_latents)
        if not pixels:
            return self.decode(z, y, batch_size)

        def draw_pixels(z, *y):
            parameters = self.likelihood_parameters(z, *map(self.prepare_labels, y))
            return self.likelihood.sample(parameters, self.domain.shape[-1], self.draw)

        arrays = (z, *given(y))
        return self.run("pixels", draw_pixels, *arrays, batch_size=batch_size, seed=seed)

    def with_prior(self, prior) -> keras.Model:
        """A new model, equal but for its prior; one `.keras` file holds both.

        Args:
            prior: anything with `log_prob(z)` and `sample(n, seed=…)`, serialisable by Keras; None
                for the family's own. The new model has a copy of it, whose weights are frozen.
        """
        if prior is not None:
            copy = type(prior).from_config(prior.get_config())
            _assign_all(copy, prior)
            copy.trainable, prior = False, copy
        new = type(self).from_config({**self.get_config(), "prior": prior})
        of_priors = {id(v) for model in (self, new) for v in getattr(model.prior, "variables", ())}
        _assign_all(new, self, leave_out=of_priors)
        backend.own_buffers(new.variables)  # or training the one would take them from the other
        return new


def _assign_all(new, old, leave_out=()):
    """Gives one object's variables the values of another's."""
    pairs = [[v for v in part.variables if id(v) not in leave_out] for part in (new, old)]
    for variable, value in zip(*pairs, strict=True):
        variable.assign(value)
