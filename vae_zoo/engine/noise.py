"""Where noise comes from: saved generators, stateless ones, and one of its own for each replica."""

import functools

import keras
import numpy as np
from keras import ops

from vae_zoo.engine.replicas import replica


def noise_source(seed):
    """A `SeedGenerator` whose stream is its own, and whose state is saved; `seed` is an int, None
    to draw one (as `keras.utils.set_random_seed` says), or a generator, which is returned as it is.

    On PyTorch Keras seeds a draw by the sum of seed and counter, so that near seeds would give
    shifted copies of one stream: they are spread.
    """
    return (
        seed
        if isinstance(seed, keras.random.SeedGenerator)
        else keras.random.SeedGenerator(_spread(seed))
    )


def passing_noise(seed):
    """What draws the same numbers as `noise_source(seed)`, for one call: it holds no variable,
    which TensorFlow would keep for ever."""
    return seed if isinstance(seed, keras.random.SeedGenerator) else _PassingNoise(_spread(seed))


def _spread(seed):
    seed = np.random.randint(2**31 - 1) if seed is None else seed
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 2)


@functools.cache
def _seed_dtype():
    return keras.random.SeedGenerator(0).state.dtype


class _PassingNoise(keras.random.SeedGenerator):
    def __init__(self, seed):
        self.seed, self.draws = seed, 0

    def next(self, ordered=True):
        state = ops.convert_to_tensor(np.array([self.seed, self.draws]), _seed_dtype())
        self.draws += 1
        return state


def drawn(source, shape, distribution, alike):
    """float32 noise of a `SeedGenerator`; replicas draw different noise unless it is `alike`."""
    number, count = replica()
    if count > 1 and not alike:  # all replicas move its state alike, and get different numbers
        source = _NoiseOfReplica(source, number)
    return getattr(keras.random, distribution)(shape, dtype="float32", seed=source)


class StatelessNoise(keras.random.SeedGenerator):
    """Seeds that are functions of (seed, counter, number of draws so far); holds no variable.

    They are spread, as those of `noise_source` are: the sum that PyTorch seeds a draw by says
    nothing of its neighbours' then.
    """

    def __init__(self, seed, counter, dtype):
        self.base = mixed(ops.cast(seed, "int32"), ops.cast(counter, "int32"))
        self.draws, self.dtype = 0, dtype

    def next(self, ordered=True):
        self.draws += 1
        parts = mixed(self.base, self.draws), mixed(self.base, -self.draws)
        return ops.stack([ops.cast(ops.bitwise_and(p, 2**31 - 1), self.dtype) for p in parts])


def mixed(a, b):
    """int32 of two of them, by which near pairs are told apart in all bits: the last step of
    MurmurHash3 (Appleby 2011), whose constants these are, modulo 2^32."""
    h = a * -1640531527 + b
    for shift, factor in ((16, -2048144789), (13, -1028477387), (16, 1)):
        upper = ops.bitwise_and(ops.right_shift(h, shift), 2 ** (32 - shift) - 1)
        h = ops.bitwise_xor(h, upper) * factor
    return h


class _NoiseOfReplica(keras.random.SeedGenerator):
    def __init__(self, source, number):  # holds no variable
        self.source, self.number = source, number

    def next(self, ordered=True):
        state = self.source.next(ordered)
        return ops.stack([state[0] + ops.cast(self.number, state.dtype) * 101_390_237, state[1]])
