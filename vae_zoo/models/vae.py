"""VAE: a Gaussian posterior, a prior and a likelihood around any encoder and decoder.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.
Higgins et al., "beta-VAE", ICLR 2017 (`beta`). Kingma et al., "Improving Variational Inference with
Inverse Autoregressive Flow", NeurIPS 2016, arXiv:1606.04934, appendix C.8 (`free_bits`).
Differs from the papers: log-variances are clipped to [-20, 10], far outside of what training finds,
so that one bad batch cannot overflow.
"""

import math

import keras
from keras import ops

from vae_zoo.engine.saving import restore
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import domains, likelihoods, own_networks
from vae_zoo.parts.bounds import check_samples
from vae_zoo.parts.posteriors import DiagonalGaussian


@keras.saving.register_keras_serializable("vae_zoo")
class VAE(BaseVAE):
    """loss = -E_q log p(x|z) + beta KL(q(z|x) || p(z)), q(z|x) = N(z_mean, exp(z_log_var))  (eq. 3)

    With the standard normal prior the KL is the closed form of appendix B; with any other it is
    estimated from the same samples, log q(z|x) - log p(z).

    Args:
        encoder: Keras model, examples (batch, *shape) -> (z_mean, z_log_var), both
            (batch, *latent_shape): two outputs, a dict of these names, or one output with both
            on its last axis.
        decoder: Keras model, latents -> the likelihood's parameters, (batch, *shape) with
            likelihood.num_parameters(channels) on the last axis: logits for "bernoulli".
        likelihood: a `Likelihood` or its name: "bernoulli" (black and white), "gaussian" (optimal
            variance), "laplace", "discretized_logistic" (8-bit grey or colour).
        beta: float, or a `LearningRateSchedule` of the optimizer's iterations, the weight of the KL
            while training; evaluation has 1. Above 1 it is a beta-VAE, rising to 1 a warm-up.
        prior: None for N(0, I), or anything with `log_prob` and `sample` (see `with_prior`).
        free_bits: float, nats a latent may use before its KL costs anything, on the batch mean:
            sum_j max(free_bits, mean_batch KL_j), while training (lambda in eq. 15; there 0.1-2). A
            prior other than N(0, I) has one KL for all latents, and one floor.
        num_samples: int, draws of z per example (L in eq. 7; 1 there).
        condition: None, a number of classes, or the `Domain` of y, which both networks then take as
            a second input; see `ConditionalVAE`.
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *shape): images uint8 in 0..255 or float in [0, 1], anything else numbers.
    Output: float32 of the same shape, the mean of p(x|z) at z_mean. Latent: z_mean.
    Logs: reconstruction (-E log p(x|z)), kl, elbo (nats per example); beta where it is a schedule.
    """

    adjustable = {**BaseVAE.adjustable, "num_samples": check_samples}

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
        condition=None,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        encoder, decoder = restore(encoder), restore(decoder)
        likelihood, condition = likelihoods.get(likelihood), domains.get(condition)
        shape, latent_shape = own_networks.check(encoder, decoder, likelihood, condition)
        super().__init__(
            domains.of_shape(shape, unit=likelihood.binary),
            domains.Arrays(latent_shape),
            likelihood,
            prior,
            beta,
            free_bits,
            condition,
            parts={"encoder": encoder, "decoder": decoder},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.num_samples = num_samples

    def posterior(self, x, y=None, training=False):
        inputs = x if y is None else [x, y]
        z_mean, z_log_var = own_networks.heads(self.encoder(inputs, training=training))
        z_mean, z_log_var = ops.cast(z_mean, "float32"), ops.cast(z_log_var, "float32")
        return DiagonalGaussian(z_mean, ops.clip(z_log_var, -20.0, 10.0))

    def likelihood_parameters(self, z, y=None, training=False):
        latent = self.latent_domain.shape
        lead = tuple(ops.shape(z))[: len(z.shape) - len(latent)]
        flat = ops.reshape(z, (-1, *latent))
        if y is not None:  # the same for every draw
            flat = [flat, ops.tile(y, (math.prod(lead[:-1]), *[1] * (len(y.shape) - 1)))]
        flat = self.decoder(flat, training=training)
        return ops.reshape(ops.cast(flat, "float32"), (*lead, *self.decoder.output_shape[1:]))

    def objective(self, x, y=None, training=False):
        q = self.posterior(x, y, training)  # q(z|x)
        z = q.sample(self.draw, self.num_samples)  # eq. 10
        parameters = self.likelihood_parameters(z, y, training)  # of p(x|z)
        kl = self.kl(q, z, y)  # appendix B, or estimated from z
        return self.bound(x, parameters, kl, training)  # eq. 3, the mean over z as in eq. 7
