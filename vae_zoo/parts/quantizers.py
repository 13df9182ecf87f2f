"""Quantisers: from vectors to codes and back, learned (a codebook) or not (finite scalars)."""

import math

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.engine.replicas import replica, replica_sum
from vae_zoo.engine.saving import Settled
from vae_zoo.parts.layers import check_sizes, check_widths

MOST_CODES = 2**16  # of finite scalars, which are counted one by one


@keras.saving.register_keras_serializable("vae_zoo")
class Codebook(Settled, layers.Layer):
    """K vectors e_1 … e_K, and which of them is nearest: k = argmin_j ||z - e_j||.

    van den Oord, Vinyals and Kavukcuoglu 2017 (VQ-VAE), arXiv:1711.00937, eq. 1-2. Learned by the
    gradient of the codebook term, or as moving averages of what is assigned to each vector
    (appendix A.1). A vector that is hardly ever chosen is put where an encoder output lies
    (Dhariwal et al. 2020, arXiv:2005.00341, section 3.1). Computes in float32 always.

    Args:
        size: int, K (512 in the paper).
        dim: int, size of a vector (64 there).
        averaged: bool, moving averages in place of gradients.
        decay: float, of the moving averages, per step (0.99 in the paper).
        cosine: bool, compare directions only (Yu et al. 2022, arXiv:2110.04627, section 3.2).
        restart: float, a vector chosen for less than this share of its fair share 1/K of all
            places (a moving average) is moved; 0 never moves one.
    """

    def __init__(self, size, dim, averaged=False, decay=0.99, cosine=False, restart=0.03, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_sizes(size=size, dim=dim)
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be in (0, 1). Received: decay={decay}")
        if not 0 <= restart < 1:
            raise ValueError(f"`restart` must be in [0, 1). Received: restart={restart}")
        self.size, self.dim, self.averaged = size, dim, averaged
        self.decay, self.cosine, self.restart = decay, cosine, restart
        self.vectors = self.add_weight(
            shape=(size, dim),
            initializer=keras.initializers.RandomNormal(stddev=dim**-0.5),
            trainable=not averaged,
            name="vectors",
        )
        # Start at one: from zero the first unused vectors would be thrown far away.
        self.counts = self.add_weight(
            shape=(size,), initializer="ones", trainable=False, name="counts"
        )
        if averaged:
            self.sums = self.add_weight(
                shape=(size, dim), initializer="zeros", trainable=False, name="sums"
            )
            self.sums.assign(ops.convert_to_numpy(self.vectors))  # an array of its own
        self.built = True

    def comparable(self, z):
        """float32 encoder outputs as they are compared: of length 1 where directions are."""
        z = ops.cast(z, "float32")
        return ops.normalize(z, axis=-1, epsilon=1e-7) if self.cosine else z

    def nearest(self, z):
        """int32 (...) of comparable z (..., dim)."""
        flat = ops.reshape(z, (-1, self.dim))
        vectors = self.comparable(self.vectors)
        # ||z - e||^2 without ||z||^2, which is the same for all.
        distances = ops.sum(ops.square(vectors), axis=1) - 2 * flat @ ops.transpose(vectors)
        return ops.reshape(ops.cast(ops.argmin(distances, axis=1), "int32"), ops.shape(z)[:-1])

    def lookup(self, codes):
        """float32 (..., dim) of codes (...)."""
        return ops.take(self.comparable(self.vectors), codes, axis=0)

    def quantized(self, z):
        """Comparable z, its codes and their vectors, of encoder outputs (..., dim)."""
        z = self.comparable(z)
        codes = self.nearest(z)
        return z, codes, self.lookup(codes)

    def update(self, z, codes, weights, uniform):
        """Moves averages, and vectors that are out of use (`state` lists what it assigns).

        Args:
            z: encoder outputs (batch, ..., dim).
            codes: int32 (batch, ...), their nearest vectors.
            weights: float32 (batch,); rows of weight 0 do not count.
            uniform: float32 (size,) in [0, 1), which outputs restarted vectors are put to.
        """
        places = math.prod(codes.shape[1:])
        flat, weights = ops.reshape(z, (-1, self.dim)), ops.repeat(weights, places)
        # What has no weight may be NaN, which 0 would not silence.
        flat = ops.where(weights[:, None] > 0, flat, 0.0)
        chosen = ops.one_hot(ops.reshape(codes, (-1,)), self.size, dtype="float32")
        chosen = ops.where(weights[:, None] > 0, chosen * weights[:, None], 0.0)
        counts = self._average(self.counts, replica_sum(ops.sum(chosen, axis=0)))
        vectors = ops.convert_to_tensor(self.vectors)
        if self.averaged:
            sums = self._average(self.sums, replica_sum(ops.transpose(chosen) @ flat))
            total = ops.sum(counts)  # Laplace smoothing: no division by a count near zero
            smoothed = (counts + 1e-5) / (total + self.size * 1e-5) * total
            vectors = sums / smoothed[:, None]
        if self.restart:
            dead = counts < self.restart * ops.mean(counts)
            vectors = ops.where(dead[:, None], _chosen_rows(flat, weights, uniform), vectors)
            counts = ops.where(dead, ops.mean(counts), counts)
            self.counts.assign(counts)
            if self.averaged:
                self.sums.assign(ops.where(dead[:, None], vectors * counts[:, None], sums))
        self.vectors.assign(vectors)

    @property
    def state(self):
        return [self.vectors, self.counts, *([self.sums] if self.averaged else [])]

    def start(self, z, seed=0):
        """Puts the vectors at the k-means centres of encoder outputs z (n, dim), NumPy; where there
        are fewer outputs than vectors, at all of them, and at some twice."""
        from sklearn.cluster import MiniBatchKMeans

        if len(z) > self.size:
            means = MiniBatchKMeans(self.size, n_init=1, batch_size=4096, random_state=seed).fit(z)
            centres = means.cluster_centers_
        else:  # each is a centre, some of them more than once
            centres = np.resize(z, (self.size, z.shape[1]))
        for variable in self.state:
            value = np.ones(self.size) if variable is self.counts else centres
            variable.assign(value.astype("float32"))

    def _average(self, variable, value):
        variable.assign(self.decay * variable + (1 - self.decay) * value)
        return ops.convert_to_tensor(variable)

    def get_config(self):
        own = ("size", "dim", "averaged", "decay", "cosine", "restart")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _chosen_rows(rows, weights, uniform):
    """A row of (n, dim) for each number in [0, 1), drawn by weights (n,) from the rows of all
    replicas as they lie one after the other."""
    (number, replicas), own = replica(), ops.sum(weights)
    ends = ops.cumsum(replica_sum(ops.one_hot(number, replicas, dtype="float32") * own))
    place = uniform * ends[-1]
    owner = ops.minimum(ops.searchsorted(ends, place, side="right"), replicas - 1)
    place = place - (ops.take(ends, number) - own)
    row = ops.searchsorted(ops.cumsum(weights), place, side="right")
    row = ops.clip(ops.cast(row, "int32"), 0, ops.shape(rows)[0] - 1)
    # The replica in whose part the number falls says what it has there, the others zero.
    here = ops.cast(owner, "int32") == number
    return replica_sum(ops.where(here[:, None], ops.take(rows, row, axis=0), 0.0))


@keras.saving.register_keras_serializable("vae_zoo")
class FiniteScalars(layers.Layer):
    """Codes without a codebook: each of a few bounded numbers, rounded to one of its levels.

    Mentzer et al. 2023 (FSQ), arXiv:2309.15505, section 3 and appendix A.1. Has the methods of
    `Codebook`, but nothing to learn and nothing that could die. L levels lie evenly in [-1, 1], an
    even number of them at both sides of 0: the paper shifts these by half of one, so that an output
    of 0 is the code 0, from which a new decoder with activations of relu gets no gradient.

    Args:
        levels: ints of 2 or more, levels of each number: (8, 5, 5, 5) makes 1,000 codes.
        shifted: bool, the paper's shift.
    """

    averaged, restart, state = True, 0.0, ()  # no codebook term, and nothing to move

    def __init__(self, levels, shifted=False, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_widths(1, levels=levels)
        if min(levels) < 2 or math.prod(levels) > MOST_CODES:
            raise ValueError(
                f"`levels` must be 2 or more each, and {MOST_CODES} codes in all at most. "
                f"Received: levels={levels}"
            )
        self.levels, self.dim, self.size = tuple(levels), len(levels), math.prod(levels)
        self.shifted, counts = shifted, np.array(levels, "float32")
        self.strides = np.cumprod([1, *levels[:-1]]).astype("int32")
        # Codes are digits 0 … L - 1; digit d is the number d / middle - 1.
        self.middle = np.floor(counts / 2) if shifted else (counts - 1) / 2
        # A little beyond the first level and the last, so that both are reached.
        self.reach = (counts - 1) / 2 + np.minimum(5e-4 * (counts - 1), 0.4)
        self.built = True

    def comparable(self, z):
        """Encoder outputs bounded to the levels' range, on the scale where levels are 1 / middle
        apart: float32 (..., dim)."""
        offset = self.middle - (np.array(self.levels, "float32") - 1) / 2  # 0 unless shifted
        shift, reach, offset, middle = (
            ops.convert_to_tensor(constant, "float32")
            for constant in (np.arctanh(offset / self.reach), self.reach, offset, self.middle)
        )
        return (ops.tanh(ops.cast(z, "float32") + shift) * reach - offset) / middle

    def nearest(self, z):
        """int32 (...) of comparable z (..., dim)."""
        middle, strides = ops.convert_to_tensor(self.middle), ops.convert_to_tensor(self.strides)
        return ops.sum(ops.cast(ops.round(z * middle + middle), "int32") * strides, axis=-1)

    def lookup(self, codes):
        """float32 (..., dim) of codes (...)."""
        levels = ops.convert_to_tensor(np.array(self.levels, "int32"))
        digits = ops.floor_divide(codes[..., None], ops.convert_to_tensor(self.strides)) % levels
        return ops.cast(digits, "float32") / ops.convert_to_tensor(self.middle) - 1.0

    quantized = Codebook.quantized

    def start(self, z, seed=0):
        """Nothing to start."""

    def get_config(self):
        return {**super().get_config(), "levels": self.levels, "shifted": self.shifted}
