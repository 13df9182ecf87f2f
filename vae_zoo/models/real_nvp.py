"""RealNVP: an exact density, normal noise behind a chain of invertible maps.

Dinh, Sohl-Dickstein and Bengio, "Density Estimation Using Real NVP", ICLR 2017, arXiv:1605.08803.
Kingma and Dhariwal, "Glow", NeurIPS 2018, arXiv:1807.03039 (actnorm, invertible linear maps).
As a prior of a VAE: Xu et al., "On the Necessity and Effectiveness of Learning the Prior of
Variational Auto-Encoder", 2019, arXiv:1905.13452.
Differs from the papers: one scale; a fixed rotation in place of Glow's permutation, and the scale
of the actnorm, which comes after it, in place of its diagonal; log-scales lie in (-2, 2).
"""

import math

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.engine.checks import check_count
from vae_zoo.engine.noise import passing_noise
from vae_zoo.models.kinds import Density
from vae_zoo.parts import distributions, domains
from vae_zoo.parts.bounds import summed
from vae_zoo.parts.layers import ResidualCell, check_sizes
from vae_zoo.parts.networks import check_shape

LARGEST_LOG_SCALE = 2.0  # of one coupling: no step can overflow, or lose its inverse to rounding
ALPHA = 1e-6  # keeps pixels from the infinite ends of the logit (section 4.1; 0.05 there, by which
# a part of the density lies outside of [0, 1])


@keras.saving.register_keras_serializable("vae_zoo")
class RealNVP(Density):
    """log p(x) = log N(f(x); 0, I) + log |det df(x)/dx|                                    (eq. 3)

    f is a chain of steps, each of them a linear map of the channels x W + b and an affine coupling,

    y = b * x + (1 - b) * (x * exp(s(b * x)) + t(b * x))                                    (eq. 9)

    whose mask b hides from the network what it moves. So its Jacobian is triangular, its
    log-determinant the sum of (1 - b) * s (eq. 6), and its inverse needs no inverse of s or t
    (eq. 8). W = Q L U diag(exp(a)) has a fixed rotation Q and unit triangular L and U: of its
    log-determinant there is the sum of a (Glow, eq. 11), and a and b are an actnorm.

    Args:
        shape: tuple, of an example: (size,) of vectors, (rows, columns, channels) of grids. Of
            vectors the first half is what the network sees, of grids by turns half of the channels
            and every other place, as on a checkerboard (figure 3).
        couplings: int, steps of the chain.
        units: int, width of the networks of s and t.
        blocks: int, residual cells of each network between its first layer and its last.
        activation: a Keras activation.
        pixels: bool, examples are images of 256 levels: uniform noise makes a density on [0, 1] of
            them, which the chain sees through a logit (section 4.1). -nll is then a lower bound on
            the log-probability of the levels (Theis et al. 2016, arXiv:1511.01844, section 3.1).
        squeezes: int, how often the chain sees 2×2 places as one of four times the channels
            (section 3.6).
        seed, skip_threshold: see `Trainable`.

    Input: numbers (batch, *shape), or images, uint8 in 0..255 or float in [0, 1].
    Output: f(x), float32 of the same size, N(0, I) in the ideal.
    Logs: nll, exact (nats per example).

    It plays the role of a prior: `log_prob` and `sample` are those of `priors.py`. A
    posterior of z = f^-1(z0), with z0 diagonal Gaussian, under a prior N(0, I) is the same model:
    z0 under this prior.

    Example:
        model = RealNVP((28, 28, 1), couplings=2, units=8, pixels=True, squeezes=2)
        model.start_norms(images)
        model.compile("adam")
        model.fit(images, epochs=2)
        new = model.sample(4)
    """

    def __init__(
        self,
        shape=(2,),
        couplings=8,
        units=64,
        blocks=0,
        activation="silu",
        pixels=False,
        squeezes=0,
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        shape = check_shape(shape)
        check_sizes(couplings=couplings, units=units)
        if blocks < 0 or len(shape) not in (1, 3):
            raise ValueError(
                "`blocks` must be >= 0, and `shape` (size,) or (rows, columns, channels). "
                f"Received: blocks={blocks}, shape={shape}"
            )
        *places, channels = shape
        if squeezes and (len(shape) != 3 or any(size % 2**squeezes for size in places)):
            raise ValueError(
                "`squeezes` needs grids whose rows and columns can be halved so often. "
                f"Received: squeezes={squeezes}, shape={shape}"
            )
        super().__init__(
            domains.Images(shape) if pixels else domains.Arrays(shape),
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape, self.couplings, self.units = shape, couplings, units
        self.blocks, self.activation = blocks, activation
        self.pixels, self.squeezes = pixels, squeezes

        self.inner_shape = (*(size >> squeezes for size in places), channels << 2 * squeezes)
        *places, channels = self.inner_shape
        self.places = math.prod(places)
        self.masks = [_mask(self.inner_shape, k) for k in range(couplings)]
        zeros = {"initializer": "zeros", "dtype": "float32"}
        square, row = (couplings, channels, channels), (couplings, channels)
        # L is below the diagonal and U above it: one matrix holds both.
        self.triangles = self.add_weight(shape=square, name="triangles", **zeros)
        self.log_scales = self.add_weight(shape=row, name="log_scales", **zeros)
        self.biases = self.add_weight(shape=row, name="biases", **zeros)
        self.rotations = self.add_weight(shape=square, name="rotations", trainable=False, **zeros)
        # Of any seed the same; in the file nevertheless, since generators change.
        self.rotations.assign(np.linalg.qr(np.random.default_rng(0).normal(size=square))[0])
        self.networks = [self._network(k) for k in range(couplings)]

    def _network(self, k):
        """s and t of one coupling: (batch, …, channels) -> (batch, …, 2 channels), 0 at the start,
        so that a new chain is linear."""
        how = {"activation": self.activation, "dtype": self.dtype_policy}
        x = inputs = keras.Input(self.inner_shape)
        x = layers.Dense(self.units, dtype=self.dtype_policy)(x)
        for _ in range(self.blocks):
            x = ResidualCell(self.units, self.units, self.couplings**-0.5, **how)(x)
        last = {"scale": 0.0, "residual": False, "output_dtype": "float32"}
        x = ResidualCell(2 * self.inner_shape[-1], self.units, **last, **how)(x)
        return keras.Model(inputs, x, name=f"coupling_{k}")

    # === The chain ===

    def normalised(self, x):
        """f(x) (batch, *inner_shape) and log |det df/dx| (batch,) of x float32 (batch, *shape)."""
        x, log_det = self._entered(x)
        log_det = log_det + self.places * ops.sum(self.log_scales)
        for k, (matrix, bias) in enumerate(self._each(self._maps())):
            x = ops.matmul(x, matrix) + bias
            log_scale, shift = self._coupling(k, x)
            x = x * ops.exp(log_scale) + shift  # eq. 9
            log_det = log_det + summed(log_scale)  # eq. 6
        return x, log_det

    def steps(self, z):
        """z (batch, *inner_shape), and what it becomes on its way back, step by step, as a list:
        the last is what `generated` makes x of."""
        steps = [z]
        for k, (matrix, bias) in reversed(list(enumerate(self._each(self._inverse_maps())))):
            log_scale, shift = self._coupling(k, z)
            z = (z - shift) * ops.exp(-log_scale)  # eq. 8
            z = ops.matmul(z - bias, matrix)
            steps.append(z)
        return steps

    def generated(self, z):
        """The inverse: x (batch, *shape) of z = f(x)."""
        x = self.steps(z)[-1]
        factor, (rows, columns, channels) = 2**self.squeezes, (1, 1, *self.shape)[-3:]
        if self.squeezes:
            parts = (-1, rows // factor, columns // factor, factor, factor, channels)
            x = ops.transpose(ops.reshape(x, parts), (0, 1, 3, 2, 4, 5))
            x = ops.reshape(x, (-1, *self.shape))
        return (ops.sigmoid(x) - ALPHA) / (1.0 - 2.0 * ALPHA) if self.pixels else x

    def _entered(self, x):
        """x as the chain sees it (batch, *inner_shape), and the log-determinant of what was done:
        logit(alpha + (1 - 2 alpha) x) of pixels, and nothing but another order of numbers."""
        log_det = 0.0
        if self.pixels:
            x = ALPHA + (1.0 - 2.0 * ALPHA) * x
            slope = math.log(1.0 - 2.0 * ALPHA) - ops.log(x) - ops.log(1.0 - x)
            x, log_det = ops.log(x) - ops.log(1.0 - x), summed(slope)
        if self.squeezes:
            factor, (rows, columns, channels) = 2**self.squeezes, self.shape
            parts = (-1, rows // factor, factor, columns // factor, factor, channels)
            x = ops.transpose(ops.reshape(x, parts), (0, 1, 3, 2, 4, 5))
            x = ops.reshape(x, (-1, *self.inner_shape))
        return x, log_det

    def _coupling(self, k, x):
        """log-scale and shift of each number, 0 of those that the network sees."""
        mask = ops.convert_to_tensor(self.masks[k])
        log_scale, shift = ops.split(self.networks[k](mask * x), 2, axis=-1)
        log_scale = LARGEST_LOG_SCALE * ops.tanh(log_scale / LARGEST_LOG_SCALE)
        return (1.0 - mask) * log_scale, (1.0 - mask) * shift

    def _each(self, matrices):
        """Pairs of matrix and bias, of the first step to the last."""
        return zip(ops.unstack(matrices), ops.unstack(ops.convert_to_tensor(self.biases)))

    def _factors(self):
        """L and U, each (couplings, channels, channels)."""
        triangles, one = ops.convert_to_tensor(self.triangles), ops.eye(self.inner_shape[-1])
        return ops.tril(triangles, -1) + one, ops.triu(triangles, 1) + one

    def _maps(self):
        """W = Q L U diag(exp(a)) of all steps."""
        lower, upper = self._factors()
        rotated = ops.matmul(ops.matmul(self.rotations, lower), upper)
        return rotated * ops.exp(self.log_scales)[:, None]

    def _inverse_maps(self):
        """W^-1 = diag(exp(-a)) U^-1 L^-1 Q^T of all steps."""
        lower, upper = self._factors()
        one = ops.broadcast_to(ops.eye(lower.shape[-1]), lower.shape)
        inverse = ops.matmul(
            ops.solve_triangular(upper, one), ops.solve_triangular(lower, one, lower=True)
        )
        inverse = ops.matmul(inverse, ops.transpose(self.rotations, (0, 2, 1)))
        return ops.exp(-self.log_scales)[:, :, None] * inverse

    def start_norms(self, x):
        """Sets each actnorm so that what leaves it has mean 0 and variance 1 in each channel, of
        examples x (n, *shape), some thousands say: before the first step (Glow, section 3.1)."""
        self.check_data(x)
        x, _ = self._entered(self.prepare(x))
        self.log_scales.assign(ops.zeros(self.log_scales.shape))
        for k in range(self.couplings):
            h = ops.matmul(x, self._maps()[k])
            flat = ops.reshape(h, (-1, h.shape[-1]))
            log_scale = -ops.log(ops.std(flat, axis=0) + 1e-6)
            h, bias = h * ops.exp(log_scale), -ops.mean(flat, axis=0) * ops.exp(log_scale)
            for variable, row in ((self.log_scales, log_scale), (self.biases, bias)):
                rows = ops.convert_to_numpy(variable).copy()
                rows[k] = ops.convert_to_numpy(row)
                variable.assign(rows)
            log_scale, shift = self._coupling(k, h + bias)
            x = (h + bias) * ops.exp(log_scale) + shift

    # === The density ===

    def prepare(self, x):
        """Numbers as the density takes them: pixels in [0, 1), with uniform noise in the width of
        their level."""
        x = self.domain.tensor(x)
        if self.pixels:
            x = (255.0 * x + self.draw(ops.shape(x), "uniform")) / 256.0
        return x

    def call(self, x):
        return self.normalised(self.domain.tensor(x))[0]

    def log_prob(self, x, y=None):
        self.labels(y)
        x = ops.cast(x, "float32")
        lead = tuple(ops.shape(x)[: len(x.shape) - len(self.shape)])
        z, log_det = self.normalised(ops.reshape(x, (-1, *self.shape)))
        normal = summed(distributions.gaussian_log_prob(z, 0.0, 0.0))
        levels = math.log(256.0) * math.prod(self.shape) if self.pixels else 0.0
        return ops.reshape(normal + log_det - levels, lead)  # eq. 3

    def sample(self, n, y=None, seed=None, batch_size=1024) -> np.ndarray:
        """n examples, NumPy float32 (n, *shape), pixels k / 255; `seed` is an int, a
        `SeedGenerator` or None."""
        self.check_labels(y)
        check_count(n)
        z = keras.random.normal((n, *self.inner_shape), dtype="float32", seed=passing_noise(seed))
        z = ops.convert_to_numpy(z)
        x = self.run("generated", self.generated, z, batch_size=batch_size)
        if self.pixels:
            x = np.clip(np.floor(256.0 * x), 0, 255).astype("float32") / 255.0
        return x


def _mask(shape, k):
    """What the network of step k sees, 1, and what it moves, 0: float32 (*shape)."""
    *places, channels = shape
    if places and (k % 2 == 0 or channels == 1):
        board = np.indices(places).sum(axis=0)[..., None] + k // (2 if channels > 1 else 1)
        return np.broadcast_to(board % 2, shape).astype("float32")
    return np.broadcast_to(np.arange(channels) < channels // 2, shape).astype("float32")
