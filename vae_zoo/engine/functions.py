"""Noise that can be told in advance, and functions of a model compiled for NumPy arrays."""

import contextlib
import functools
import threading
from collections import OrderedDict

import keras
import numpy as np

from vae_zoo.engine import backend
from vae_zoo.engine.noise import StatelessNoise, drawn, noise_source
from vae_zoo.engine.saving import SavedModel

REMEMBERED = 64  # compiled functions of one model, at most
CACHES = threading.Lock()


class _Now(threading.local):
    """What holds during one step, which on TensorFlow replicas walk through at once."""

    draw = weights = shares = None


class NoisyModel(SavedModel):
    """A model whose noise all goes through `draw`, and what runs compiled with such noise.

    Args:
        seed: int, of all noise; None draws one.
    """

    loops = False  # True: long loops inside, which a recording (PyTorch) would unroll

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed, self.noise = seed, noise_source(seed)
        # Not by attribute assignment: Keras would track it as the model's own state.
        self.__dict__["_now"] = _Now()

    # === Noise ===

    def draw(self, shape, distribution="normal", alike=False):
        """All noise of all families: float32 of the given shape, N(0, 1) or "uniform" in [0, 1).

        Replicas, each of which sees a part of the batch, draw different noise; `alike=True` is for
        what they decide together.
        """
        if self._now.draw is not None:
            return self._now.draw(shape, distribution, alike)
        return drawn(self.noise, shape, distribution, alike)

    @contextlib.contextmanager
    def drawing(self, draw):
        """Context in which noise is what `draw(shape, distribution, alike)` returns; it nests."""
        before, self._now.draw = self._now.draw, draw
        try:
            yield
        finally:
            self._now.draw = before

    def noise_from(self, seed, counter=0):
        """Context in which `draw` is a function of `seed` and `counter`, and moves no state."""
        source = StatelessNoise(seed, counter, self.noise.state.dtype)
        return self.drawing(functools.partial(drawn, source))

    # === Compiled functions ===

    def compiled_function(self, name, function, noisy=False, loops=False, dealt=False):
        """`backend.compiled(function, self, …)`, remembered by its name and by what it computes."""
        cache = self.__dict__.setdefault("_compiled_functions", OrderedDict())
        key = (name, dealt, _identity(function))
        with CACHES:  # several threads may ask at once
            if key not in cache:
                # With the function: what its identity is made of must live as long.
                loops = loops or self.loops
                cache[key] = backend.compiled(function, self, noisy, loops, dealt), function
                if len(cache) > REMEMBERED:
                    cache.popitem(last=False)
            cache.move_to_end(key)
            return cache[key][0]

    def run(self, name, function, *arrays, batch_size=256, seed=None):
        """Runs `function(*tensors)` compiled, batch by batch, over the first axis of NumPy arrays.

        The last batch is filled up by repetition, so that one shape is compiled and no more; `name`
        is what the compiled function is remembered by. A function that draws needs an int `seed`;
        each batch has noise of its own. Arguments and results may be tuples of arrays.
        """
        flat, tree = keras.tree.flatten(arrays), keras.tree
        places = tree.pack_sequence_as(arrays, list(range(len(flat))))

        def of_flat(*flat):
            return function(*tree.map_structure(lambda place: flat[place], places))

        run = self.compiled_function(name, of_flat, noisy=seed is not None)
        n = len(flat[0])
        if n == 0:
            raise ValueError("At least one example is needed. Received: an empty array")
        results = []
        for start in range(0, n, batch_size):
            rows = np.minimum(np.arange(start, start + min(batch_size, n)), n - 1)
            seeds = () if seed is None else (np.int32(seed), np.int32(start))
            results.append(run(*seeds, *[np.asarray(a[rows]) for a in flat]))
        return tree.map_structure(lambda *parts: np.concatenate(parts)[:n], *results)


def _identity(function):
    """What tells functions apart that are made anew at every call: their code, and what it uses."""
    if isinstance(function, functools.partial):
        return (_identity(function.func), *map(_identity, (function.args, function.keywords)))
    if hasattr(function, "__code__"):
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        owner = id(getattr(function, "__self__", None))
        used = (*cells, *(function.__defaults__ or ()), function.__kwdefaults__)
        return (function.__code__, owner, *map(_identity, used))
    try:
        hash(function)
        return function
    except TypeError:
        return repr(function) if isinstance(function, (tuple, list, dict)) else id(function)
