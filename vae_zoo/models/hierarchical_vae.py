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

from vae_zoo.engine.noise import passing_noise
from vae_zoo.engine.saving import serialized
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import domains, likelihoods, networks, priors
from vae_zoo.parts.bounds import check_samples, summed
from vae_zoo.parts.layers import Enlarge, LatentGroup, built, check_sizes, check_widths
from vae_zoo.parts.posteriors import DiagonalGaussian, Path, PathPosterior


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
        shape: tuple, of an example: (height, width, channels) of images.
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
        num_samples: None, or int k of -log 1/k sum_i p(x, z_i) / q(z_i|x), the loss in its place,
            with no KL to weigh (IWAE, Burda et al. 2016, arXiv:1509.00519, eq. 8).
        prior: None, or a prior of the top group, in the place of its p(z_L); below it the path
            stays the prior. `with_prior` means the same.
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *shape), uint8 in 0..255 or float in [0, 1].
    Output: float32 of the same shape. Latent: a tuple of posterior means, a group an array, the
    top one first: (batch, latents) or (batch, rows, columns, latents).
    Logs: reconstruction, kl, elbo (nats per example); kl_1 … kl_S of each scale, from the image up,
    or iwae, that bound; beta where it is a schedule.

    Example:
        model = HierarchicalVAE((28, 28, 1), latents=(16, 8), widths=(64, 32))
        model.compile("adam")
        model.fit(images, epochs=2)
        top, *rest = model.encode(images)
        similar = model.sample(len(images), fixed=(top,))
    """

    logged = ("reconstruction", "kl", "elbo")
    adjustable = {**BaseVAE.adjustable, "balance": bool}

    def __init__(
        self,
        shape=(28, 28, 1),
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
        num_samples=None,
        prior=None,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        shape = networks.check_shape(shape, images=network == "conv")
        check_widths(1, latents=latents, widths=widths)
        groups = (groups,) * len(latents) if isinstance(groups, int) else tuple(groups)
        check_sizes(groups=groups)
        if not len(latents) == len(widths) == len(groups):
            raise ValueError(
                "`latents`, `widths` and `groups` must have one entry a scale. "
                f"Received: latents={latents}, widths={widths}, groups={groups}"
            )
        networks.check_network(network)
        check_samples(1 if num_samples is None else num_samples)
        own = ["iwae"] if num_samples else [f"kl_{s}" for s in range(1, len(latents) + 1)]
        likelihood = likelihoods.get(likelihood)
        shared = {"network": network, "blocks": blocks, "activation": activation, "dtype": dtype}
        num_parameters = likelihood.num_parameters(shape[-1])
        encoder = networks.ladder_encoder(shape, widths, **shared)
        decoder = networks.ladder_decoder(shape, widths[0], num_parameters, **shared)
        features = [tuple(output.shape[1:]) for output in encoder.outputs]  # from the image up
        on_scale = [s for s in range(len(latents), 0, -1) for _ in range(groups[s - 1])]
        super().__init__(
            domains.of_shape(shape, unit=likelihood.binary),
            tuple(domains.Arrays((*features[s - 1][:-1], latents[s - 1])) for s in on_scale),
            likelihood,
            beta=beta,
            free_bits=free_bits,
            logged=(*self.logged, *own),
            parts={"encoder": encoder, "decoder": decoder},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape = shape
        self.latents, self.widths, self.groups = tuple(latents), tuple(widths), groups
        self.network, self.blocks, self.activation = network, blocks, activation
        self.balance, self.num_samples, self.scales = balance, num_samples, on_scale
        self.monitor = "iwae" if num_samples else self.monitor
        self.top_prior = None if prior is None else priors.get(prior, self.latent_shape[0], self)
        self.prior = Path(self)

        # The path, from the top.
        self.start = self.add_weight(features[-1], "zeros", "float32", name="start")
        self.ladder = []
        for scale in on_scale:
            group = LatentGroup(latents[scale - 1], activation, depth=sum(groups), dtype=dtype)
            self.ladder.append(built(group, features[scale - 1]))
        self.ascents = [
            built(Enlarge(shape, dtype=dtype), above)
            for shape, above in zip(features[-2::-1], features[:0:-1])
        ]

    # === The path ===

    def walk(self, choose, n):
        """Down the path: `choose(i, h, p)` gives the latents of group i, from what came down and
        their prior, a `DiagonalGaussian`. Returns what arrives at the example."""
        h = ops.cast(self.start, self.compute_dtype)
        h = ops.broadcast_to(h, (n, *self.start.shape))
        enlarge = iter(self.ascents)
        for i, group in enumerate(self.ladder):
            if i and self.scales[i] != self.scales[i - 1]:
                h = next(enlarge)(h)
            h = group.join(h, choose(i, h, DiagonalGaussian(*group.prior(h))))
        return h

    def prior_of(self, i, p):  # the prior of group i, where what came down says `p`
        return p if i or self.top_prior is None else self.top_prior

    def descend(self, x, choose, num_samples=1, training=False):
        """Down the path by the posterior; `choose(i, q)` gives the latents of group i.

        Returns:
            likelihood parameters (num_samples * batch, …); a list of (q, p, z), a group each, from
            the top: posterior, prior and latents given those above.
        """
        features = keras.tree.flatten(self.encoder(x, training=training))  # from the image up
        features = [ops.tile(f, (num_samples, *[1] * (len(f.shape) - 1))) for f in features]
        steps = []

        def chosen(i, h, p):
            d_mean, d_log_var = self.ladder[i].posterior(h, features[self.scales[i] - 1])
            log_var = ops.clip(p.log_var + d_log_var, *LatentGroup.log_var_range)
            q = DiagonalGaussian(p.mean + d_mean, log_var)
            steps.append((q, self.prior_of(i, p), choose(i, q)))
            return steps[-1][-1]

        h = self.walk(chosen, ops.shape(features[0])[0])
        return ops.cast(self.decoder(h, training=training), "float32"), steps

    def posterior(self, x, y=None, training=False):
        return PathPosterior(self, x, training)

    def likelihood_parameters(self, z, y=None, training=False):
        lead = tuple(ops.shape(z[0])[: len(z[0].shape) - len(self.latent_shape[0])])
        z = [ops.reshape(group, (-1, *shape)) for group, shape in zip(z, self.latent_shape)]
        h = self.walk(lambda i, *_: z[i], ops.shape(z[0])[0])
        flat = ops.cast(self.decoder(h, training=training), "float32")
        return ops.reshape(flat, (*lead, *flat.shape[1:]))

    # === The bound ===

    def objective(self, x, y=None, training=False):
        if self.num_samples is not None:
            return self.importance_bound(x, self.drawn(x, y, self.num_samples, training), training)
        parameters, steps = self.descend(x, lambda i, q: q.sample(self.draw), training=training)
        kls = ops.stack([summed(priors.kl(p, q, z[None])) for q, p, z in steps], axis=1)
        outputs = self.bound(x, parameters, kls, training)  # of each group: (batch, groups)
        for scale in range(1, len(self.latents) + 1):
            here = [i for i, s in enumerate(self.scales) if s == scale]
            outputs[f"kl_{scale}"] = ops.sum(kls[:, here[0] : here[-1] + 1], axis=1)
        return outputs

    def rate(self, kl, beta):
        """The KL of all groups, each above its free bits, and balanced: (batch,)."""
        if self.free_bits or self.balance:
            means = self.batch_mean(kl)
        if self.free_bits:  # max(batch mean, free bits), example by example
            kl = ops.where(means > self.free_bits, kl, self.free_bits)
        if self.balance:
            kl = self._balanced(means, beta) * kl
        return ops.sum(kl, axis=1)

    def _balanced(self, means, beta):
        """gamma_l, in proportion to KL_l and against the group's size, of mean 1; all 1 once beta
        is (NVAE, appendix A; the constant against zeros is its code's)."""
        sizes = [math.prod(shape) for shape in self.latent_shape]
        sizes = [size / self.groups[s - 1] for size, s in zip(sizes, self.scales)]
        shares = (means + 0.01) / ops.convert_to_tensor(sizes, "float32")
        return ops.where(beta < 1.0, shares / ops.mean(shares), 1.0)

    def drawn(self, x, y=None, num_samples=1, training=False):
        def draw(shape):  # as many draws of each example
            noise = self.draw((num_samples, shape[0] // num_samples, *shape[1:]))
            return ops.reshape(noise, (-1, *shape[1:]))

        parameters, steps = self.descend(x, lambda i, q: q.sample(draw), num_samples, training)
        flat = [parameters, sum(p.log_prob(z) for _, p, z in steps)]
        flat.append(sum(q.log_prob(z) for q, _, z in steps))
        return tuple(ops.reshape(t, (num_samples, -1, *t.shape[1:])) for t in flat)

    def latent_kl(self, x, y=None):
        _, steps = self.descend(x, lambda i, q: q.sample(self.draw))
        return tuple(priors.kl(p, q, z[None]) for q, p, z in steps)

    # === Generation ===

    def sample_latents(self, n, seed=0, y=None, temperature=1.0, fixed=()) -> tuple:
        """Latents of all groups from the prior: a tuple of NumPy arrays (n, …), the top one first.

        Args:
            n: int.
            seed: int.
            temperature: float, or one a group: what the standard deviations are multiplied by; 0
                takes the means. A prior of the top group of its own has none.
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
        if self.top_prior is not None and not fixed:
            fixed = [ops.convert_to_numpy(self.top_prior.sample(n, seed=passing_noise(seed)))]
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

            def choose(i, h, p):
                if i < len(fixed):
                    z = fixed[i]
                else:
                    spread = temperature[:, i, *[None] * (len(p.mean.shape) - 1)]
                    noise = self.draw(ops.shape(p.mean))
                    z = p.mean + spread * ops.exp(0.5 * p.log_var) * noise
                latents.append(z)
                return z

            self.walk(choose, ops.shape(temperature)[0])
            return tuple(latents)

        temperature = np.broadcast_to(temperature, (n, count))
        fixed = [np.broadcast_to(z, (n, *z.shape[1:])) for z in fixed]
        return self.run("latents", draw, temperature, *fixed, seed=seed)

    def get_config(self):
        return {**super().get_config(), "prior": serialized(self.top_prior)}
