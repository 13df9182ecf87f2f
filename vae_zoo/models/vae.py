"""VAE: a Gaussian posterior, a prior and a likelihood around any encoder and decoder.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.
Higgins et al., "beta-VAE", ICLR 2017 (`beta`). Kingma et al., "Improving Variational Inference with
Inverse Autoregressive Flow", NeurIPS 2016, arXiv:1606.04934, appendix C.8 (`free_bits`).
Differs from the papers: log-variances are clipped to [-20, 10], far outside of what training finds,
so that one bad batch cannot overflow.
"""

import keras
import numpy as np
from keras import ops

from vae_zoo import distributions, likelihoods, priors
from vae_zoo.base import BaseVAE, kl_weights, serialized


@keras.saving.register_keras_serializable("vae_zoo")
class VAE(BaseVAE):
    """loss = -E_q log p(x|z) + beta KL(q(z|x) || p(z)), q(z|x) = N(z_mean, exp(z_log_var))  (eq. 3)

    With the standard normal prior the KL is the closed form of appendix B; with any other it is
    estimated from the same samples, log q(z|x) - log p(z).

    Args:
        encoder: Keras model, images -> (z_mean, z_log_var), both (batch, *latent_shape).
        decoder: Keras model, latents -> the likelihood's parameters, (batch, height, width,
            likelihood.num_parameters(channels)).
        likelihood: a `Likelihood` or its name: "bernoulli" (black and white), "gaussian" (optimal
            variance), "laplace", "discretized_logistic" (8-bit grey or colour).
        beta: float, or a `LearningRateSchedule` of the optimizer's iterations, the weight of the KL
            while training; evaluation has 1. Above 1 it is a beta-VAE, rising to 1 a warm-up.
        prior: None for N(0, I), or anything with `log_prob` and `sample` (see `with_prior`).
        free_bits: float, nats a latent may use before its KL costs anything, on the batch mean:
            sum_j max(free_bits, mean_batch KL_j), while training (lambda in eq. 15; there 0.1-2). A
            prior other than N(0, I) has one KL for all latents, and one floor.
        num_samples: int, draws of z per example (L in eq. 7; 1 there).
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *image_shape), uint8 in 0..255 or float in [0, 1].
    Output: float32 of the same shape, the mean of p(x|z) at z_mean. Latent: z_mean.
    Logs: reconstruction (-E log p(x|z)), kl, elbo (nats per example); beta where it is a schedule.

    A child with an objective of its own returns `x` and `parameters` too while training: what a
    likelihood with an optimal variance is fitted to.
    """

    logged = ("reconstruction", "kl", "elbo")

    def __init__(
        self,
        encoder,
        decoder,
        likelihood="bernoulli",
        *,
        beta=1.0,
        prior=None,
        free_bits=0.0,
        num_samples=1,
        **kwargs,
    ):
        beta = kl_weights(beta, free_bits)
        if num_samples < 1:
            raise ValueError(f"`num_samples` must be at least 1. Received: {num_samples}")
        logged = (*self.logged, "beta") if callable(beta) else self.logged
        super().__init__(encoder, decoder, logged=logged, **kwargs)
        self.likelihood = likelihoods.get(likelihood)
        self.prior = priors.get(prior, self.latent_shape)
        self.beta, self.free_bits, self.num_samples = beta, free_bits, num_samples
        expected = self.likelihood.num_parameters(self.image_shape[-1])
        if self.decoder.output_shape[1:] != (*self.image_shape[:2], expected):
            raise ValueError(
                f"`decoder` must return (batch, *{(*self.image_shape[:2], expected)}) for the "
                f"{type(self.likelihood).__name__} likelihood of images {self.image_shape}. "
                f"Received: {self.decoder.output_shape}"
            )

    def posterior(self, x, training=False):
        """q(z|x) = N(z_mean, exp(z_log_var)): two float32 tensors (batch, *latent_shape)."""
        z_mean, z_log_var = self.encoder(x, training=training)
        z_mean, z_log_var = ops.cast(z_mean, "float32"), ops.cast(z_log_var, "float32")
        return z_mean, ops.clip(z_log_var, -20.0, 10.0)

    def infer(self, x):
        return self.posterior(x)[0]

    def generate(self, z):
        return self.likelihood.mean(self.likelihood_parameters(z), self.image_shape[-1])

    def likelihood_parameters(self, z, training=False):
        """Likelihood parameters of latents (..., *latent_shape), any number of leading axes."""
        lead = tuple(ops.shape(z))[: len(z.shape) - len(self.latent_shape)]
        flat = self.decoder(ops.reshape(z, (-1, *self.latent_shape)), training=training)
        return ops.reshape(ops.cast(flat, "float32"), (*lead, *self.decoder.output_shape[1:]))

    def sample_posterior(self, x, num_samples, training=False):
        """z = z_mean + exp(z_log_var / 2) * noise (eq. 10): (num_samples, batch, *latent_shape),
        and the moments it was drawn from."""
        z_mean, z_log_var = self.posterior(x, training)
        noise = self.draw((num_samples, *ops.shape(z_mean)))
        return distributions.gaussian_sample(z_mean, z_log_var, noise), z_mean, z_log_var

    def log_posterior(self, z, z_mean, z_log_var):
        """log q(z|x), summed over latents: (num_samples, batch)."""
        return self._sum_latents(distributions.gaussian_log_prob(z, z_mean, z_log_var))

    def kl(self, z, z_mean, z_log_var):
        """KL(q(z|x) || p(z)): (batch, *latent_shape) in closed form, else (batch,) estimated."""
        if isinstance(self.prior, priors.StandardNormal):
            return distributions.gaussian_kl(z_mean, z_log_var)  # appendix B
        return ops.mean(self.log_posterior(z, z_mean, z_log_var) - self.prior.log_prob(z), axis=0)

    def kl_per_latent(self, x, batch_size=256):
        """Mean over images of the KL of each latent, of images as `encode` takes them: NumPy
        (*latent_shape), nats. From N(0, 1), whatever the prior."""

        def kl(x):
            return distributions.gaussian_kl(*self.posterior(self.images(x)))

        return np.mean(self.run("kl_per_latent", kl, x, batch_size=batch_size), axis=0)

    def objective(self, x, y=None, training=False):
        z, z_mean, z_log_var = self.sample_posterior(x, self.num_samples, training)
        parameters = self.likelihood_parameters(z, training)
        # One sample, averaged over `num_samples` (eq. 7).
        reconstruction = -ops.mean(self.likelihood.log_prob(x, parameters), axis=0)
        kl_per_latent = self.kl(z, z_mean, z_log_var)
        latent_axes = tuple(range(1, len(kl_per_latent.shape)))
        kl = ops.sum(kl_per_latent, axis=latent_axes)
        outputs = {"reconstruction": reconstruction, "kl": kl, "elbo": -reconstruction - kl}
        if not training:
            return {**outputs, "loss": -outputs["elbo"], "beta": ops.ones_like(kl)}
        distortion, rate = reconstruction, kl
        if self.likelihood.fitted:  # the variance that fits this batch
            log_prob = self.likelihood.log_prob(x, parameters, self.batch_mean)
            distortion = -ops.mean(log_prob, axis=0)
        if self.free_bits:  # max(batch mean, free bits), example by example
            used = self.batch_mean(kl_per_latent) > self.free_bits
            rate = ops.sum(ops.where(used, kl_per_latent, self.free_bits), axis=latent_axes)
        beta = self.beta(self.optimizer.iterations) if callable(self.beta) else self.beta
        beta = ops.cast(beta, "float32") * ops.ones_like(kl)
        outputs.update(loss=distortion + beta * rate, beta=beta, x=x, parameters=parameters)
        return outputs

    def log_weights(self, x, y=None, num_samples=1, training=False):
        z, z_mean, z_log_var = self.sample_posterior(x, num_samples, training)
        parameters = self.likelihood_parameters(z, training)
        fitting = self.batch_mean if training else None
        log_joint = self.likelihood.log_prob(x, parameters, fitting) + self.prior.log_prob(z)
        return log_joint - self.log_posterior(z, z_mean, z_log_var)

    def _sum_latents(self, values):
        return ops.sum(values, axis=tuple(range(-len(self.latent_shape), 0)))

    def get_config(self):
        config = {
            "likelihood": serialized(self.likelihood),
            "beta": serialized(self.beta) if callable(self.beta) else self.beta,
            "prior": serialized(self.prior),
            "free_bits": self.free_bits,
            "num_samples": self.num_samples,
        }
        return {**super().get_config(), **config}
