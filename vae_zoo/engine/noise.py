"""Where noise comes from: saved generators, stateless ones, and one of its own for each replica."""

import keras
import numpy as np
from keras import ops

from vae_zoo.engine.replicas import replica


def noise_source(seed):
    """A `SeedGenerator` whose stream is its own; `seed` is an int, None to draw one (as
    `keras.utils.set_random_seed` says), or such a generator, which is returned as it is.

    On PyTorch Keras seeds a draw by the sum of seed and counter, so that near seeds would give
    shifted copies of one stream: they are spread.
    """
    if isinstance(seed, keras.random.SeedGenerator):
        return seed
    seed = np.random.randint(2**31 - 1) if seed is None else seed
    return keras.random.SeedGenerator(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 2))


def drawn(source, shape, distribution, alike):
    """float32 noise of a `SeedGenerator`; replicas draw different noise unless it is `alike`."""
    number, count = replica()
    if count > 1 and not alike:  # all replicas move its state alike, and get different numbers
        source = _NoiseOfReplica(source, number)
    return getattr(keras.random, distribution)(shape, dtype="float32", seed=source)


class StatelessNoise(keras.random.SeedGenerator):
    """Seeds that are functions of (seed, counter, number of draws so far); holds no variable."""

    def __init__(self, seed, counter, dtype):
        # 4096 draws of one objective before two counters meet.
        self.base = [ops.cast(seed, dtype), ops.cast(ops.cast(counter, "int32") * 4096, dtype)]
        self.draws, self.dtype = 0, dtype

    def next(self, ordered=True):
        self.draws += 1
        return ops.stack([self.base[0], self.base[1] + ops.cast(self.draws, self.dtype)])


class _NoiseOfReplica(keras.random.SeedGenerator):
    def __init__(self, source, number):  # holds no variable
        self.source, self.number = source, number

    def next(self, ordered=True):
        state = self.source.next(ordered)
        return ops.stack([state[0] + ops.cast(self.number, state.dtype) * 101_390_237, state[1]])
