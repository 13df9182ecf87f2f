"""Hierarchical VAE: groups of latents on several scales, inferred on the way down.

Sønderby, Raiko, Maaløe, Sønderby and Winther, "Ladder Variational Autoencoders", NeurIPS 2016,
arXiv:1602.02282 (LVAE: inference shares the path of generation). Vahdat and Kautz, "NVAE", NeurIPS
2020, arXiv:2007.03898 (posterior relative to the prior, KL balancing; original code: NVlabs/NVAE,
utils.py, read, not copied). Child, "Very Deep VAEs", ICLR 2021, arXiv:2011.10650 (cells, scaled by
depth; updates skipped).
Differs from the papers: no batch normalisation, and no spectral one; posterior and prior meet in
differences (NVAE) and not by precision weighting (LVAE); the features of a scale serve all of its
groups.
"""

import math

import keras
import numpy as np
from keras import ops

from vae_zoo import distributions, likelihoods, networks
from vae_zoo.base import EVALUATION_SEED, BaseVAE, kl_weights, serialized
from vae_zoo.layers import Enlarge, LatentGroup, built, check_sizes, check_widths


@keras.saving.register_keras_serializable("vae_zoo")
class HierarchicalVAE(BaseVAE):
    """loss = -E_q log p(x|z) + beta sum_l KL(q(z_l|x, z_>l) || p(z_l|z_>l)), l = L … 1

    A bottom-up encoder makes features of the image on every scale. The top-down path starts from a
    learned constant; each group of latents on its way has a prior made of what came down, and a
    posterior made of that and of the features of its scale (LVAE, section 2.1),

    p(z_l|z_>l) = N(mu, sigma^2),  q(z_l|x, z_>l) = N(mu + dmu, (sigma dsigma)^2)   (NVAE, sec. 3.2)

    and what is drawn from one of them joins the path. Generation walks the same path.

    The scales are three tuples, from the image up, one entry a scale, each half the size of the one
    before it:

    Args:
        image_shape: (height, width, channels).
        latents: ints, size of a group (LVAE: 64, 32, 16, 8, 4), or its channels at each place.
        widths: ints, of the path and the features (LVAE: 512, 256, 128, 64, 32).
        groups: ints, groups of latents on a scale, or an int for all (LVAE: 1; NVAE: 10).
        network: "dense" or "conv". Convolutional scales are grids: 28×28 and three scales make
            groups of 14×14, 7×7 and 4×4 places.
        blocks: int, residual cells after each scale's first layer in the encoder.
        activation: a Keras activation.
        likelihood: a `Likelihood` or its name, see `VAE`.
        beta: float or schedule, see `VAE`.
        free_bits: float, nats that each group may use before its KL costs anything, on the batch
            mean, while training (Kingma et al. 2016, arXiv:1606.04934, eq. 15).
        balance: bool, weigh the KL of each group by its share of all of them while beta is below 1,
            so that no group is left unused (NVAE, appendix A).
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *image_shape), uint8 in 0..255 or float in [0, 1].
    Output: float32 of the same shape. Latent: a tuple of posterior means, a group an array, the
    top one first: (batch, latents) or (batch, rows, columns, latents).
    Logs: reconstruction, kl, elbo (nats per example); kl_1 … kl_S of each scale, from the image up;
    beta where it is a schedule.

    Example:
        model = HierarchicalVAE((28, 28, 1), latents=(16, 8), widths=(64, 32))
        model.compile("adam")
        model.fit(images, epochs=2)
        top, *rest = model.encode(images)
        similar = model.sample(len(images), fixed=(top,))
    """

    logged = ("reconstruction", "kl", "elbo")

    def __init__(
        self,
        image_shape=(28, 28, 1),
        latents=(64, 32, 16, 8, 4),
        widths=(512, 256, 128, 64, 32),
        groups=1,
        network="dense",
        blocks=1,
        activation="silu",
        likelihood="bernoulli",
        *,
        beta=1.0,
        free_bits=0.0,
        balance=False,
        dtype=None,
        **kwargs,
    ):
        networks.check_image_shape(image_shape)
        check_widths(1, latents=latents, widths=widths)
        groups = (groups,) * len(latents) if isinstance(groups, int) else tuple(groups)
        check_sizes(groups=groups)
        if not len(latents) == len(widths) == len(groups):
            raise ValueError(
                "`latents`, `widths` and `groups` must have one entry a scale. "
                f"Received: latents={latents}, widths={widths}, groups={groups}"
            )
        if network not in ("dense", "conv"):
            raise ValueError(f"`network` must be dense or conv. Received: network={network!r}")
        beta = kl_weights(beta, free_bits)
        likelihood = likelihoods.get(likelihood)
        shared = {"network": network, "blocks": blocks, "activation": activation, "dtype": dtype}
        scales = range(1, len(latents) + 1)
        logged = (*self.logged, *(f"kl_{s}" for s in scales), *(["beta"] if callable(beta) else []))
        num_parameters = likelihood.num_parameters(image_shape[-1])
        super().__init__(
            networks.ladder_encoder(image_shape, widths, **shared),
            networks.ladder_decoder(image_shape, widths[0], num_parameters, **shared),
            logged=logged,
            dtype=dtype,
            **kwargs,
        )
        self.likelihood, self.beta = likelihood, beta
        self.latents, self.widths, self.groups = tuple(latents), tuple(widths), groups
        self.network, self.blocks, self.activation = network, blocks, activation
        self.free_bits, self.balance = free_bits, balance

        # The path, from the top.
        shapes = [tuple(features.shape[1:]) for features in self.encoder.outputs]
        self.start = self.add_weight(
            shape=shapes[-1], initializer="zeros", dtype="float32", name="start"
        )
        self.scales, self.ladder = [], []
        for scale in reversed(scales):
            shape, latent_dim = shapes[scale - 1], latents[scale - 1]
            for _ in range(groups[scale - 1]):
                group = LatentGroup(latent_dim, activation, depth=sum(groups), dtype=dtype)
                self.ladder.append(built(group, shape))
                self.scales.append(scale)
        self.ascents = [
            built(Enlarge(shape, dtype=dtype), above)
            for shape, above in zip(shapes[-2::-1], shapes[:0:-1])
        ]
        self.latent_shape = tuple(
            (*shapes[scale - 1][:-1], latents[scale - 1]) for scale in self.scales
        )

    # === The path ===

    def walk(self, choose, n):
        """Down the path: `choose(i, h, mean, log_var)` gives the latents of group i, from what came
        down and the moments of their prior. Returns what arrives at the image."""
        h = ops.cast(self.start, self.compute_dtype)
        h = ops.broadcast_to(h, (n, *self.start.shape))
        enlarge = iter(self.ascents)
        for i, group in enumerate(self.ladder):
            if i and self.scales[i] != self.scales[i - 1]:
                h = next(enlarge)(h)
            h = group.join(h, choose(i, h, *group.prior(h)))
        return h

    def features(self, x, training=False):
        """What the encoder makes of images on every scale, from the image up: a list."""
        return keras.tree.flatten(self.encoder(x, training=training))

    def posterior(self, i, h, features, mean, log_var):
        """Moments of q(z_i|x, z_>i), relative to those of the prior."""
        d_mean, d_log_var = self.ladder[i].posterior(h, features[self.scales[i] - 1])
        return mean + d_mean, ops.clip(log_var + d_log_var, *LatentGroup.log_var_range)

    def infer(self, x):
        features, means = self.features(x), []

        def choose(i, h, mean, log_var):
            means.append(self.posterior(i, h, features, mean, log_var)[0])
            return means[-1]

        self.walk(choose, ops.shape(x)[0])
        return tuple(means)

    def likelihood_parameters(self, z):
        h = self.walk(lambda i, *_: z[i], ops.shape(z[0])[0])
        return ops.cast(self.decoder(h), "float32")

    def generate(self, z):
        return self.likelihood.mean(self.likelihood_parameters(z), self.image_shape[-1])

    # === The bound ===

    def descend(self, x, training=False):
        """One draw of all groups from the posterior.

        Returns:
            likelihood parameters; the KL of each latent, a list of (batch, …) a group, from the
            top.
        """
        features, kls = self.features(x, training), []

        def choose(i, h, mean, log_var):
            q_mean, q_log_var = self.posterior(i, h, features, mean, log_var)
            kls.append(distributions.gaussian_kl(q_mean, q_log_var, mean, log_var))
            return distributions.gaussian_sample(q_mean, q_log_var, self.draw(ops.shape(mean)))

        h = self.walk(choose, ops.shape(x)[0])
        return ops.cast(self.decoder(h, training=training), "float32"), kls

    def objective(self, x, y=None, training=False):
        parameters, kls = self.descend(x, training)
        reconstruction = -self.likelihood.log_prob(x, parameters)
        kls = ops.stack([_summed(kl) for kl in kls])  # (groups, batch)
        kl = ops.sum(kls, axis=0)
        outputs = {"reconstruction": reconstruction, "kl": kl, "elbo": -reconstruction - kl}
        for scale in range(1, len(self.latents) + 1):
            here = [i for i, s in enumerate(self.scales) if s == scale]
            outputs[f"kl_{scale}"] = ops.sum(kls[here[0] : here[-1] + 1], axis=0)
        if not training:
            return {**outputs, "loss": -outputs["elbo"], "beta": ops.ones_like(kl)}
        distortion = reconstruction
        if self.likelihood.fitted:
            distortion = -self.likelihood.log_prob(x, parameters, self.batch_mean)
        beta = self.beta(self.optimizer.iterations) if callable(self.beta) else self.beta
        beta = ops.cast(beta, "float32")
        if self.free_bits or self.balance:
            means = self.batch_mean(ops.transpose(kls))[:, None]  # one a group
        if self.free_bits:  # max(batch mean, free bits), example by example
            kls = ops.where(means > self.free_bits, kls, self.free_bits)
        if self.balance:
            kls = self._balanced(means, beta) * kls
        loss = distortion + beta * ops.sum(kls, axis=0)
        outputs.update(loss=loss, beta=beta * ops.ones_like(kl), x=x, parameters=parameters)
        return outputs

    def _balanced(self, means, beta):
        """gamma_l, in proportion to KL_l and against the group's size, of mean 1; all 1 once beta
        is (NVAE, appendix A; the constant against zeros is its code's)."""
        sizes = [math.prod(shape) for shape in self.latent_shape]
        sizes = [[size / self.groups[s - 1]] for size, s in zip(sizes, self.scales)]
        shares = (means + 0.01) / ops.convert_to_tensor(sizes, "float32")
        return ops.where(beta < 1.0, shares / ops.mean(shares), 1.0)

    def log_weights(self, x, y=None, num_samples=1, training=False):
        repeat = lambda t: ops.tile(t, (num_samples, *[1] * (len(t.shape) - 1)))  # noqa: E731
        features = [repeat(f) for f in self.features(x, training)]
        ratios = []

        def choose(i, h, mean, log_var):
            q_mean, q_log_var = self.posterior(i, h, features, mean, log_var)
            z = distributions.gaussian_sample(q_mean, q_log_var, self.draw(ops.shape(mean)))
            log_prob = distributions.gaussian_log_prob
            ratios.append(_summed(log_prob(z, mean, log_var) - log_prob(z, q_mean, q_log_var)))
            return z

        h = self.walk(choose, ops.shape(features[0])[0])
        parameters = ops.cast(self.decoder(h, training=training), "float32")
        parameters = ops.reshape(parameters, (num_samples, -1, *parameters.shape[1:]))
        fitting = self.batch_mean if training else None
        ratio = ops.reshape(sum(ratios), (num_samples, -1))
        return self.likelihood.log_prob(x, parameters, fitting) + ratio

    def kl_per_latent(self, x, batch_size=256):
        """Mean over images of the KL of each latent: a tuple of NumPy arrays, a group each, from
        the top; nats. Images as `encode` takes them."""

        def kl(x):
            return tuple(self.descend(self.images(x))[1])

        kls = self.run("kl_per_latent", kl, x, batch_size=batch_size, seed=EVALUATION_SEED)
        return tuple(np.mean(kl, axis=0) for kl in kls)

    # === Generation ===

    def sample_latents(self, n, seed=0, temperature=1.0, fixed=()):
        """Latents of all groups from the prior: a tuple of NumPy arrays (n, …), the top one first.

        Args:
            n: int.
            seed: int.
            temperature: float, or one a group: what the standard deviations are multiplied by; 0
                takes the means.
            fixed: latents of the groups at the top, as `encode` returns them, (n, …) or (1, …)
                each; the others are drawn given these.

        Raises:
            ValueError: if a shape is wrong.
        """
        count = len(self.ladder)
        temperature = np.asarray(temperature, "float32")
        if temperature.shape not in ((), (count,)) or (temperature < 0).any():
            raise ValueError(
                f"`temperature` must be one number >= 0, or {count}. Received: {temperature}"
            )
        fixed = [np.asarray(z, "float32") for z in fixed]
        if [z.shape[1:] for z in fixed] != list(self.latent_shape[: len(fixed)]) or any(
            len(z) not in (1, n) for z in fixed
        ):
            raise ValueError(
                f"`fixed` must hold {n} latents, or one, of each of the groups from the top, of "
                f"shapes {self.latent_shape}. Received: {[z.shape for z in fixed]}"
            )

        def draw(temperature, *fixed):
            latents = []

            def choose(i, h, mean, log_var):
                if i < len(fixed):
                    z = fixed[i]
                else:
                    spread = temperature[:, i, *[None] * (len(mean.shape) - 1)]
                    z = mean + spread * ops.exp(0.5 * log_var) * self.draw(ops.shape(mean))
                latents.append(z)
                return z

            self.walk(choose, ops.shape(temperature)[0])
            return tuple(latents)

        temperature = np.broadcast_to(temperature, (n, count))
        fixed = [np.broadcast_to(z, (n, *z.shape[1:])) for z in fixed]
        return self.run(f"latents_given_{len(fixed)}", draw, temperature, *fixed, seed=seed)

    def with_prior(self, prior):
        """Raises `ValueError`: the path is the prior, and was trained as such."""
        raise ValueError("The prior of a HierarchicalVAE is its own top-down path")

    def get_config(self):
        config = super().get_config()
        del config["encoder"], config["decoder"]  # built from what follows
        own = ("image_shape", "latents", "widths", "groups", "network", "blocks", "activation")
        own += ("free_bits", "balance")
        parts = {
            "likelihood": serialized(self.likelihood),
            "beta": serialized(self.beta) if callable(self.beta) else self.beta,
        }
        return {**config, **{name: getattr(self, name) for name in own}, **parts}


def _summed(terms):
    """Over all but the batch."""
    return ops.sum(terms, axis=tuple(range(1, len(terms.shape))))
