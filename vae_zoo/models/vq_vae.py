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

from vae_zoo.engine.replicas import replica_sum
from vae_zoo.engine.tracking import SetMetric
from vae_zoo.models.kinds import BaseVAE, LatentModel
from vae_zoo.parts import domains, likelihoods, networks, priors
from vae_zoo.parts.bounds import check_weight
from vae_zoo.parts.posteriors import Certain
from vae_zoo.parts.quantizers import Codebook, FiniteScalars


@keras.saving.register_keras_serializable("vae_zoo")
class VQVAE(BaseVAE):
    """loss = -log p(x|z_q(x)) + ||sg[z_e(x)] - e||^2 + commitment ||z_e(x) - sg[e]||^2    (eq. 3)

    z_e is the encoder's output, e its nearest vector (eq. 1-2), sg stops the gradient, and
    z_q = z_e + sg[e - z_e], so that the decoder's gradient reaches the encoder as if nothing lay
    between (straight through). The posterior is one code for certain, so the KL from a prior over
    codes is -log p(codes): N log K for N places under the uniform one, less once a prior is fitted.

    Args:
        shape: (height, width, channels).
        codes: int, K, size of the codebook.
        code_dim: int, size of a vector.
        filters: ints, channels after each halving: the grid is the image after all of them.
        blocks: int, residual blocks after each halving and doubling.
        activation: a Keras activation, or "gated".
        likelihood: a `Likelihood` or its name, see `VAE`.
        commitment: float, weight of the commitment term. The paper's 0.25 stands against a squared
            error; here it stands against nats, of which there are hundreds, and is too weak: the
            encoder's outputs run away from the codes, and the term rises. On digits (the recipe,
            100 epochs) 0.25, 1 and 10 end at an -ELBO of -856, -942 and -965 nats, with a
            codebook term of 895, 174 and 17.
        averaged: bool, a codebook of moving averages (appendix A.1); it has no codebook term.
        decay, cosine, restart: see `Codebook`.
        levels: None, or ints: `FiniteScalars` of these levels instead of a codebook (there are
            prod(levels) codes of len(levels) numbers, and neither codebook nor commitment term).
        shifted: bool, see `FiniteScalars`.
        prior: None for uniform codes, or anything with `log_prob` and `sample` of codes.
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *shape), uint8 in 0..255 or float in [0, 1].
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
    grid_names = ("",)  # the coarsest grid first
    numbers = ("commitment",)
    adjustable = {**LatentModel.adjustable, "commitment": check_weight("commitment")}

    def __init__(
        self,
        shape=(28, 28, 1),
        codes=128,
        code_dim=16,
        filters=(32, 64),
        blocks=1,
        activation="relu",
        likelihood="gaussian",
        commitment=10.0,
        averaged=False,
        decay=0.99,
        cosine=False,
        restart=0.03,
        levels=None,
        prior=None,
        *,
        shifted=False,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        if levels is not None:
            codes, code_dim, commitment = math.prod(levels), len(levels), 0.0
        likelihood = likelihoods.get(likelihood)
        shape = networks.check_shape(shape, images=True)
        networks_of = {"filters": filters, "units": None, "activation": activation}
        networks_of |= {"blocks": blocks, "dtype": dtype}
        encoded, decoded = self._channels(code_dim, filters)
        encoder = networks.conv_encoder(shape, encoded, heads=("embedding",), **networks_of)
        parameters = likelihood.num_parameters(shape[-1])
        decoder = networks.conv_decoder(decoded, shape, parameters, **networks_of)
        grids = [domains.Symbols(grid, codes) for grid in self._grids(*decoder.input_shape[1:3])]
        uniform = [priors.UniformCodes(grid.shape, codes) for grid in grids]
        codebooks = [
            FiniteScalars(levels, shifted)
            if levels
            else Codebook(codes, code_dim, averaged, decay, cosine, restart)
            for _ in grids
        ]
        super().__init__(
            domains.Images(shape),
            _one_or_all(grids),
            likelihood,
            prior or (uniform[0] if len(grids) == 1 else priors.TopDown(*uniform)),
            beta=0.0,  # codes are free while training: eq. 3 has no such term
            parts={"encoder": encoder, "decoder": decoder, "codebooks": codebooks},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape = shape
        self.has_learned_prior = prior is not None
        self.usages = [CodeUsage(codes, i, name) for i, name in enumerate(self.grid_names)]
        self.commitment, self.codes, self.code_dim = commitment, codes, code_dim
        self.filters, self.blocks, self.activation = tuple(filters), blocks, activation
        self.averaged, self.decay, self.cosine = averaged, decay, cosine
        self.restart, self.levels, self.shifted = restart, levels, shifted

    # A family with several grids writes these.

    @staticmethod
    def _channels(code_dim, filters):
        """Channels that the encoder returns, and that the decoder takes."""
        return code_dim, code_dim

    @staticmethod
    def _grids(rows, columns):
        """Shapes of all grids of codes, where the decoder takes rows × columns."""
        return [(rows, columns)]

    def quantized(self, x, training=False):
        """Of each grid: z_e (batch, rows, columns, code_dim) float32, its codes, their vectors."""
        return [self.codebooks[0].quantized(self.encoder(x, training=training))]

    def decoded(self, vectors, training=False):
        """Likelihood parameters of the vectors of each grid."""
        return ops.cast(self.decoder(vectors[0], training=training), "float32")

    @property
    def metrics(self):
        return [self.tracker, *self.usages]

    @property
    def assigned(self):
        return [variable for codebook in self.codebooks for variable in codebook.state]

    def posterior(self, x, y=None, training=False):
        return Certain(_one_or_all([codes for _, codes, _ in self.quantized(x, training)]))

    def likelihood_parameters(self, z, y=None, training=False):
        grids = z if isinstance(z, tuple) else (z,)
        vectors = [c.lookup(codes) for c, codes in zip(self.codebooks, grids)]
        lead = tuple(ops.shape(vectors[0])[:-3])
        flat = self.decoded([ops.reshape(v, (-1, *v.shape[-3:])) for v in vectors], training)
        return ops.reshape(flat, (*lead, *flat.shape[1:]))

    def start_codebook(self, x, images=2000, seed=0):
        """Puts the codebooks at the k-means centres of what the encoder makes of images x (n, …):
        before the first step, so that no vector starts far from all outputs."""
        rows = np.linspace(0, len(x) - 1, min(images, len(x))).astype(int)
        x = self.check_data(x[rows])
        for i, codebook in enumerate(self.codebooks):  # a finer grid depends on a coarser one
            z = self.run("embed", self._embed, x)[i]
            codebook.start(z.reshape(-1, codebook.dim), seed)

    def _embed(self, x):
        return tuple(z for z, _, _ in self.quantized(self.domain.tensor(x)))

    def objective(self, x, y=None, training=False):
        grids = self.quantized(x, training)
        # The decoder's gradient goes straight through to z.
        straight = [z + ops.stop_gradient(e - z) for z, _, e in grids]
        parameters = self.decoded(straight, training)
        kl = -self.prior.log_prob(_one_or_all([codes for _, codes, _ in grids]))
        outputs = self.bound(x, parameters, kl, training)
        outputs["codebook"] = sum(_squared(ops.stop_gradient(z), e) for z, _, e in grids)
        outputs["commitment"] = sum(_squared(z, ops.stop_gradient(e)) for z, _, e in grids)
        for i, (z, codes, _) in enumerate(grids):
            outputs |= {f"z_{i}": z, f"codes_{i}": codes}
        if training:  # eq. 3
            loss = outputs["loss"] + self.number("commitment") * outputs["commitment"]
            averaged = self.codebooks[0].averaged
            outputs["loss"] = loss if averaged else loss + outputs["codebook"]
        return outputs

    def update_state(self, outputs, weights, training):
        super().update_state(outputs, weights, training)
        if training:
            for i, codebook in enumerate(self.codebooks):
                if codebook.state and (codebook.averaged or codebook.restart):
                    uniform = self.draw((codebook.size,), "uniform", alike=True)
                    codebook.update(outputs[f"z_{i}"], outputs[f"codes_{i}"], weights, uniform)

    def terms(self, x, y=None, num_samples=1, training=False):
        once = super().terms(x, y, 1, training)  # the same for every sample
        return tuple(ops.repeat(term, num_samples, axis=0) for term in once)

    def interpolate(self, start, end, steps=10, y=None) -> np.ndarray:
        """As `LatentModel.interpolate`; the lines run between embeddings, before the codebook."""
        first, last = (self.run("embed", self._embed, x) for x in self._ends(start, end))

        def nearest(*z):
            return tuple(c.nearest(part) for c, part in zip(self.codebooks, z))

        def decode(z, y):
            return self.decode(_one_or_all(self.run("nearest", nearest, *z)))

        return self._between(first, last, steps, y, decode)

    def code_nlls(self, x):
        """-log p of the codes of images in [0, 1], grid by grid, each given the coarser one."""
        codes = self.infer(x)
        if len(self.codebooks) == 1:
            return [-self.prior.log_prob(codes)]
        return [-log_prob for log_prob in self.prior.log_probs(codes)]

    def code_vectors(self) -> list:
        """The vectors of all codes, NumPy (codes, code_dim), of each grid, the coarsest first."""
        every = [np.arange(codebook.size, dtype="int32") for codebook in self.codebooks]
        return [ops.convert_to_numpy(c.lookup(codes)) for c, codes in zip(self.codebooks, every)]

    def get_config(self):
        config = super().get_config()
        return config if self.has_learned_prior else {**config, "prior": None}


def _one_or_all(grids):
    """What belongs to each grid as the user sees it: of one grid itself, of several a tuple."""
    return grids[0] if len(grids) == 1 else tuple(grids)


def _squared(a, b):
    return ops.sum(ops.square(a - b), axis=(1, 2, 3))


class CodeUsage(SetMetric):
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
        self.counts = self.add((codes,), "counts")

    def update_state(self, outputs, weights, accepted=True):
        weights = weights * ops.cast(accepted, "float32")
        codes = outputs[f"codes_{self.grid}"]
        weights = ops.repeat(weights, math.prod(codes.shape[1:]))
        chosen = ops.one_hot(ops.reshape(codes, (-1,)), self.counts.shape[0], dtype="float32")
        self.counts.assign_add(replica_sum(ops.matmul(weights[None], chosen)[0]))

    def result(self):
        p = self.counts / ops.maximum(ops.sum(self.counts), 1e-9)
        entropy = -ops.sum(p * ops.log(ops.maximum(p, 1e-9)))
        used = ops.mean(ops.cast(self.counts > 0, "float32"))
        return {f"perplexity{self.suffix}": ops.exp(entropy), f"codes_used{self.suffix}": used}
