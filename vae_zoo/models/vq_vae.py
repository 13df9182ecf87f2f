"""VQ-VAE: a grid of discrete codes, each the nearest vector of a learned codebook.

van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017,
arXiv:1711.00937. Restarts of unused codes: Dhariwal et al. 2020, arXiv:2005.00341. k-means start:
Zeghidour et al. 2021, arXiv:2107.03312, section III-C. Finite scalars: Mentzer et al. 2023,
arXiv:2309.15505.
Differs from the paper: terms are sums over places and dimensions, as all of the zoo's, so that the
weights of codebook and commitment relate to nats; the networks are this package's.
"""

import math

import keras
import numpy as np
from keras import ops

from vae_zoo import backend, likelihoods, networks, priors
from vae_zoo.base import BaseVAE, serialized
from vae_zoo.quantizers import Codebook, FiniteScalars


@keras.saving.register_keras_serializable("vae_zoo")
class VQVAE(BaseVAE):
    """loss = -log p(x|z_q(x)) + ||sg[z_e(x)] - e||^2 + commitment ||z_e(x) - sg[e]||^2    (eq. 3)

    z_e is the encoder's output, e its nearest vector (eq. 1-2), sg stops the gradient, and
    z_q = z_e + sg[e - z_e], so that the decoder's gradient reaches the encoder as if nothing lay
    between (straight through). The posterior is one code for certain, so the KL from a prior over
    codes is -log p(codes): N log K for N places under the uniform one, less once a prior is fitted.

    Args:
        image_shape: (height, width, channels).
        codes: int, K, size of the codebook.
        code_dim: int, size of a vector.
        filters: ints, channels after each halving: the grid is the image after all of them.
        blocks: int, residual blocks after each halving and doubling.
        activation: a Keras activation, or "gated".
        likelihood: a `Likelihood` or its name, see `VAE`.
        commitment: float, weight of the commitment term (0.25 in the paper).
        averaged: bool, a codebook of moving averages (appendix A.1); it has no codebook term.
        decay, cosine, restart: see `Codebook`.
        levels: None, or ints: `FiniteScalars` of these levels instead of a codebook (there are
            prod(levels) codes of len(levels) numbers, and neither codebook nor commitment term).
        prior: None for uniform codes, or anything with `log_prob` and `sample` of codes.
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *image_shape), uint8 in 0..255 or float in [0, 1].
    Output: float32 of the same shape. Latent: codes, int32 (batch, rows, columns).
    Logs: reconstruction (-log p(x|z_q)), codebook, commitment, kl, elbo (nats per example);
    perplexity and codes_used (share) of all codes of the epoch or of the set evaluated.

    Example:
        model = VQVAE((28, 28, 1), codes=32, code_dim=8, filters=(8, 16))
        model.compile("adam")
        model.fit(images, epochs=2)
        codes = model.encode(images)
    """

    logged = ("reconstruction", "codebook", "commitment", "kl", "elbo")
    latent_dtype = "int32"
    grid_names = ("",)  # the coarsest grid first

    def __init__(
        self,
        image_shape=(28, 28, 1),
        codes=128,
        code_dim=16,
        filters=(32, 64),
        blocks=1,
        activation="relu",
        likelihood="gaussian",
        commitment=0.25,
        averaged=False,
        decay=0.99,
        cosine=False,
        restart=0.03,
        levels=None,
        prior=None,
        **kwargs,
    ):
        if levels is not None:
            new_codebook = lambda: FiniteScalars(levels)  # noqa: E731
            codes, code_dim, commitment = math.prod(levels), len(levels), 0.0
        else:
            new_codebook = lambda: Codebook(codes, code_dim, averaged, decay, cosine, restart)  # noqa: E731
        likelihood = likelihoods.get(likelihood)
        if not 0 <= commitment < float("inf"):
            raise ValueError(f"`commitment` must be >= 0. Received: commitment={commitment}")
        num_parameters = likelihood.num_parameters(networks.check_image_shape(image_shape)[-1])
        shared = {
            "filters": filters,
            "units": None,
            "activation": activation,
            "blocks": blocks,
            "dtype": kwargs.get("dtype"),
        }
        encoded, decoded = self._channels(code_dim, filters)
        super().__init__(
            networks.conv_encoder(image_shape, encoded, heads=("embedding",), **shared),
            networks.conv_decoder(decoded, image_shape, num_parameters, **shared),
            **kwargs,
        )
        grids = self._grid_shapes(*self.decoder.input_shape[1:3])
        self.grid_shapes, self.latent_shape = grids, self._latent(grids)
        self.codebooks = [new_codebook() for _ in grids]
        self.usages = [CodeUsage(codes, i, name) for i, name in enumerate(self.grid_names)]
        self.likelihood, self.commitment = likelihood, commitment
        self.has_learned_prior = prior is not None
        self.prior = priors.get(prior or self._uniform(grids, codes), None)
        self.codes, self.code_dim, self.filters = codes, code_dim, tuple(filters)
        self.blocks, self.activation, self.averaged = blocks, activation, averaged
        self.decay, self.cosine, self.restart, self.levels = decay, cosine, restart, levels

    # A family with several grids writes these four.

    @staticmethod
    def _channels(code_dim, filters):
        """Channels that the encoder returns, and that the decoder takes."""
        return code_dim, code_dim

    @staticmethod
    def _grid_shapes(rows, columns):
        """Shapes of all grids of codes, where the decoder takes rows × columns."""
        return [(rows, columns)]

    def quantized(self, x, training=False):
        """Of each grid: z_e (batch, rows, columns, code_dim) float32, its codes, their vectors."""
        return [self.codebooks[0].quantized(self.encoder(x, training=training))]

    def decoded(self, vectors, training=False):
        """Likelihood parameters of the vectors of each grid."""
        return ops.cast(self.decoder(vectors[0], training=training), "float32")

    def _uniform(self, grids, codes):
        each = [priors.UniformCodes(shape, codes) for shape in grids]
        return each[0] if len(each) == 1 else priors.TopDown(*each)

    @property
    def metrics(self):
        return [self.means, *self.usages]

    @property
    def assigned(self):
        return [variable for codebook in self.codebooks for variable in codebook.state]

    def infer(self, x):
        return self._latent([codes for _, codes, _ in self.quantized(x)])

    def _latent(self, grids):
        """Codes as the user sees them: of one grid an array, of several a tuple."""
        return grids[0] if len(grids) == 1 else tuple(grids)

    def _grids(self, z):
        return [z] if len(self.codebooks) == 1 else list(z)

    def likelihood_parameters(self, z):
        """Likelihood parameters of codes."""
        return self.decoded([c.lookup(codes) for c, codes in zip(self.codebooks, self._grids(z))])

    def generate(self, z):
        return self.likelihood.mean(self.likelihood_parameters(z), self.image_shape[-1])

    def start_codebook(self, x, images=2000, seed=0):
        """Puts the codebooks at the k-means centres of what the encoder makes of images x (n, …):
        before the first step, so that no vector starts far from all outputs."""
        rows = np.linspace(0, len(x) - 1, min(images, len(x))).astype(int)
        x = np.asarray(x[rows])
        for i, codebook in enumerate(self.codebooks):  # a finer grid depends on a coarser one
            z = self.run("embed", self._embed, x)[i]
            codebook.start(z.reshape(-1, codebook.dim), seed)

    def _embed(self, x):
        return tuple(z for z, _, _ in self.quantized(self.images(x)))

    def objective(self, x, y=None, training=False):
        grids = self.quantized(x, training)
        # The decoder's gradient goes straight through to z.
        straight = [z + ops.stop_gradient(e - z) for z, _, e in grids]
        parameters = self.decoded(straight, training)
        reconstruction = -self.likelihood.log_prob(x, parameters)
        codes = self._latent([codes for _, codes, _ in grids])
        kl = -self.prior.log_prob(codes)
        squared = lambda a, b: ops.sum(ops.square(a - b), axis=(1, 2, 3))  # noqa: E731
        outputs = {
            "reconstruction": reconstruction,
            "codebook": sum(squared(ops.stop_gradient(z), e) for z, _, e in grids),
            "commitment": sum(squared(z, ops.stop_gradient(e)) for z, _, e in grids),
            "kl": kl,
            "elbo": -reconstruction - kl,
            "x": x,
            "parameters": parameters,
        }
        for i, (z, codes, _) in enumerate(grids):
            outputs |= {f"z_{i}": z, f"codes_{i}": codes}
        if not training:
            return {**outputs, "loss": -outputs["elbo"]}
        distortion = -self.likelihood.log_prob(x, parameters, self.batch_mean)
        loss = distortion + self.commitment * outputs["commitment"]
        averaged = self.codebooks[0].averaged
        return {**outputs, "loss": loss if averaged else loss + outputs["codebook"]}

    def update_state(self, outputs, weights, training):
        super().update_state(outputs, weights, training)
        if training:
            for i, codebook in enumerate(self.codebooks):
                if codebook.state and (codebook.averaged or codebook.restart):
                    uniform = self.draw((codebook.size,), "uniform", alike=True)
                    codebook.update(outputs[f"z_{i}"], outputs[f"codes_{i}"], weights, uniform)

    def log_weights(self, x, y=None, num_samples=1, training=False):
        """log p(x|z_q) + log p(codes), the same for every sample: the posterior is certain."""
        outputs = self.objective(x, y)
        return ops.repeat(outputs["elbo"][None], num_samples, axis=0)

    def interpolate(self, start, end, steps=10):
        """As `LatentModel.interpolate`; the lines run between embeddings, before the codebook."""
        first, last = (self.run("embed", self._embed, np.asarray(x)) for x in (start, end))

        def decode(z):
            nearest = lambda *z: tuple(c.nearest(part) for c, part in zip(self.codebooks, z))  # noqa: E731
            return self.decode(self._latent(self.run("nearest", nearest, *z)))

        return self._images_between(first, last, steps, decode)

    def code_nlls(self, x):
        """-log p of the codes of images in [0, 1], grid by grid, each given the coarser one."""
        codes = self.infer(x)
        if len(self.codebooks) == 1:
            return [-self.prior.log_prob(codes)]
        return [-log_prob for log_prob in self.prior.log_probs(codes)]

    def code_vectors(self):
        """The vectors of all codes, NumPy (codes, code_dim), of each grid, the coarsest first."""
        every = lambda c: c.lookup(np.arange(c.size, dtype="int32"))  # noqa: E731
        return [ops.convert_to_numpy(every(codebook)) for codebook in self.codebooks]

    def get_config(self):
        config = super().get_config()
        del config["encoder"], config["decoder"]  # built from what follows
        own = ("image_shape", "codes", "code_dim", "filters", "blocks", "activation", "commitment")
        own += ("averaged", "decay", "cosine", "restart", "levels")
        parts = {
            "likelihood": serialized(self.likelihood),
            "prior": serialized(self.prior) if self.has_learned_prior else None,
        }
        return {**config, **{name: getattr(self, name) for name in own}, **parts}


class CodeUsage(keras.metrics.Metric):
    """Perplexity exp(-sum_k p_k log p_k) and share of the codes chosen, over a whole set.

    p_k is the share of places (weighted by their example's weight) at which code k was chosen; a
    mean over batches would be smaller than the perplexity of all of them.

    Args:
        codes: int, size of the codebook.
        grid: int, which of the grids, the coarsest first.
        suffix: str, of what is logged.
    """

    def __init__(self, codes, grid=0, suffix=""):
        super().__init__(name=f"usage{suffix}", dtype="float32")
        self.grid, self.suffix = grid, suffix
        # Equal on all replicas, so that the first one speaks for all.
        self.counts = self.add_variable(
            (codes,), "zeros", aggregation="only_first_replica", name="counts"
        )

    def update_state(self, outputs, weights, accepted=True):
        weights = weights * ops.cast(accepted, "float32")
        codes = outputs[f"codes_{self.grid}"]
        weights = ops.repeat(weights, math.prod(codes.shape[1:]))
        chosen = ops.one_hot(ops.reshape(codes, (-1,)), self.counts.shape[0], dtype="float32")
        self.counts.assign_add(backend.replica_sum(ops.matmul(weights[None], chosen)[0]))

    def result(self):
        p = self.counts / ops.maximum(ops.sum(self.counts), 1e-9)
        entropy = -ops.sum(p * ops.log(ops.maximum(p, 1e-9)))
        used = ops.mean(ops.cast(self.counts > 0, "float32"))
        return {f"perplexity{self.suffix}": ops.exp(entropy), f"codes_used{self.suffix}": used}
