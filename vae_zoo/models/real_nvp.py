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

from vae_zoo.engine.noise import noise_source
from vae_zoo.models.kinds import Density, summed
from vae_zoo.parts import distributions, domains
from vae_zoo.parts.layers import ResidualCell, check_sizes
from vae_zoo.parts.networks import check_shape

LARGEST_LOG_SCALE = 2.0  # of one coupling: no step can overflow, or lose its inverse to rounding


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
        seed, skip_threshold: see `Trainable`.

    Input: numbers (batch, *shape). Output: f(x), float32 of the same shape, N(0, I) in the ideal.
    Logs: nll, exact (nats per example).

    It plays the role of a prior: `log_prob` and `sample` are those of `priors.py`.

    Example:
        model = RealNVP((2,), couplings=6, units=32)
        model.start_norms(points)
        model.compile("adam")
        model.fit(points, epochs=2)
        new = model.sample(100)
    """

    def __init__(
        self,
        shape=(2,),
        couplings=8,
        units=64,
        blocks=0,
        activation="silu",
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
        super().__init__(
            domains.Arrays(shape),
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape, self.couplings, self.units = shape, couplings, units
        self.blocks, self.activation = blocks, activation

        *places, channels = shape
        self.places, self.masks = math.prod(places), [_mask(shape, k) for k in range(couplings)]
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
        """s and t of one coupling: (batch, *shape) -> (batch, *shape[:-1], 2 channels), 0 at the
        start, so that a new chain is linear."""
        how = {"activation": self.activation, "dtype": self.dtype_policy}
        x = inputs = keras.Input(self.shape)
        x = layers.Dense(self.units, dtype=self.dtype_policy)(x)
        for _ in range(self.blocks):
            x = ResidualCell(self.units, self.units, self.couplings**-0.5, **how)(x)
        last = {"scale": 0.0, "residual": False, "output_dtype": "float32"}
        x = ResidualCell(2 * self.shape[-1], self.units, **last, **how)(x)
        return keras.Model(inputs, x, name=f"coupling_{k}")

    # === The chain ===

    def normalised(self, x):
        """f(x) (batch, *shape) and log |det df/dx| (batch,) of x float32 (batch, *shape)."""
        log_det = self.places * ops.sum(self.log_scales)
        for k, (matrix, bias) in enumerate(self._each(self._maps())):
            x = ops.matmul(x, matrix) + bias
            log_scale, shift = self._coupling(k, x)
            x = x * ops.exp(log_scale) + shift  # eq. 9
            log_det = log_det + summed(log_scale)  # eq. 6
        return x, log_det

    def generated(self, z):
        """The inverse: x (batch, *shape) of z = f(x)."""
        for k, (matrix, bias) in reversed(list(enumerate(self._each(self._inverse_maps())))):
            log_scale, shift = self._coupling(k, z)
            z = (z - shift) * ops.exp(-log_scale)  # eq. 8
            z = ops.matmul(z - bias, matrix)
        return z

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
        triangles, one = ops.convert_to_tensor(self.triangles), ops.eye(self.shape[-1])
        return ops.tril(triangles, -1) + one, ops.triu(triangles, 1) + one

    def _maps(self):
        """W = Q L U diag(exp(a)) of all steps."""
        lower, upper = self._factors()
        rotated = ops.matmul(ops.matmul(self.rotations, lower), upper)
        return rotated * ops.exp(self.log_scales)[:, None]

    def _inverse_maps(self):
        """W^-1 = diag(exp(-a)) U^-1 L^-1 Q^T of all steps."""
        lower, upper = self._factors()
        one = ops.broadcast_to(ops.eye(self.shape[-1]), lower.shape)
        inverse = ops.matmul(
            ops.solve_triangular(upper, one), ops.solve_triangular(lower, one, lower=True)
        )
        inverse = ops.matmul(inverse, ops.transpose(self.rotations, (0, 2, 1)))
        return ops.exp(-self.log_scales)[:, :, None] * inverse

    def start_norms(self, x):
        """Sets each actnorm so that what leaves it has mean 0 and variance 1 in each channel, of
        examples x (n, *shape), some thousands say: before the first step (Glow, section 3.1)."""
        self.check_data(x)
        x = self.prepare(x)
        self.log_scales.assign(ops.zeros(self.log_scales.shape))
        for k in range(self.couplings):
            h = ops.matmul(x, self._maps()[k])
            flat = ops.reshape(h, (-1, self.shape[-1]))
            log_scale = -ops.log(ops.std(flat, axis=0) + 1e-6)
            h, bias = h * ops.exp(log_scale), -ops.mean(flat, axis=0) * ops.exp(log_scale)
            for variable, row in ((self.log_scales, log_scale), (self.biases, bias)):
                rows = ops.convert_to_numpy(variable).copy()
                rows[k] = ops.convert_to_numpy(row)
                variable.assign(rows)
            log_scale, shift = self._coupling(k, h + bias)
            x = (h + bias) * ops.exp(log_scale) + shift

    # === The density ===

    def call(self, x):
        return self.normalised(self.domain.tensor(x))[0]

    def log_prob(self, x, y=None):
        self.labels(y)
        x = ops.cast(x, "float32")
        lead = tuple(ops.shape(x)[: len(x.shape) - len(self.shape)])
        z, log_det = self.normalised(ops.reshape(x, (-1, *self.shape)))
        normal = summed(distributions.gaussian_log_prob(z, 0.0, 0.0))
        return ops.reshape(normal + log_det, lead)  # eq. 3

    def sample(self, n, y=None, seed=None, batch_size=1024):
        """n examples, NumPy float32 (n, *shape); `seed` is an int, a `SeedGenerator` or None."""
        self.check_labels(y)
        z = keras.random.normal((n, *self.shape), seed=noise_source(seed))
        z = ops.convert_to_numpy(z)
        return self.run("generated", self.generated, z, batch_size=batch_size) if n else z


def _mask(shape, k):
    """What the network of step k sees, 1, and what it moves, 0: float32 (*shape)."""
    *places, channels = shape
    if places and (k % 2 == 0 or channels == 1):
        board = np.indices(places).sum(axis=0)[..., None] + k // (2 if channels > 1 else 1)
        return np.broadcast_to(board % 2, shape).astype("float32")
    return np.broadcast_to(np.arange(channels) < channels // 2, shape).astype("float32")
