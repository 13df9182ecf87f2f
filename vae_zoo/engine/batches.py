"""Batches in an order that can be told in advance, dealt out to whatever devices there are."""

import functools

import keras
import numpy as np
from keras import ops

from vae_zoo.engine import backend, replicas


class Batches(keras.utils.PyDataset):
    """Batches in an order that is a function of (seed, epoch) alone, so that runs resume exactly.

    Epoch e is read in the order `np.random.default_rng([seed, e]).permutation(n)`. `epoch` goes on
    counting from one `fit` to the next; set it to resume. Pass `shuffle=False` to `fit` with it:
    Keras otherwise deals the batches (not the examples) anew from Python's global generator. On an
    accelerator the whole arrays are moved there once, if they fit.
    Reading by `evaluate` counts as an epoch too: evaluate on a `Batches(…, shuffle=False)`.

    Within `distribute.data_parallel` a batch is dealt out to all devices: filled up to a number
    that they can share evenly, by repeating its first example with weight 0, of which this process
    gets its part. `batch_size` stays that of all devices together.

    Args:
        x: array or array-like with `__len__` and indexing by slices and index arrays.
        y: None or labels, of the length of `x`.
        sample_weight: None or weights, of the length of `x`; they need `y`, since Keras would
            take them for labels or drop them.
        batch_size: int, examples a batch; the last batch of an epoch holds the rest.
        seed: int, not negative.
        shuffle: bool; False keeps the order of `x`.
        augment: None, or a function of a batch of `x` and a NumPy generator, which is a function of
            (seed, epoch, number of the batch, number of the process): `folders.augmented` say.
        steps: None, or an int: an epoch ends after so many batches, and the next has others.

    Output: `x[i]`, `(x[i], y[i])` or `(x[i], y[i], sample_weight[i])`, dtypes unchanged.
    Example:
        batches = Batches(x, y, batch_size=64)
        model.fit(batches, epochs=3, shuffle=False)  # orders 0, 1, 2
    """

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        batch_size=128,
        seed=0,
        shuffle=True,
        augment=None,
        steps=None,
    ):
        super().__init__()
        if y is None and sample_weight is not None:
            raise ValueError("`sample_weight` must come with `y`. Received: y=None")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: {batch_size=}")
        columns = (x, y, sample_weight)
        self.columns = [column for column in columns if column is not None]
        self.devices, self.processes, self.process = replicas.devices()
        if self.devices > 1:
            ones = np.ones(len(x), "float32")
            # Of no width, so that they stay none: Keras wants a column before the weights.
            y = np.zeros((len(x), 0), "int32") if y is None else y
            self.columns = [x, y, ones if sample_weight is None else sample_weight]
        elif augment is None:
            self.columns = [backend.on_device(column) for column in self.columns]
        lengths = [len(column) for column in self.columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"`x`, `y`, `sample_weight` must match. Received: lengths {lengths}")
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.augment, self.steps = augment, steps
        self.epoch = 0
        self._new_adapter = False

    def __len__(self):
        batches = -(-len(self.columns[0]) // self.batch_size)
        return batches if self.steps is None else min(self.steps, batches)

    def __getitem__(self, index):
        n = len(self.columns[0])
        rows = slice(index * self.batch_size, min((index + 1) * self.batch_size, n))
        if self.shuffle:
            rows = _order(n, self.seed, self.epoch)[rows].copy()
        if self.devices > 1:
            batch = self._part(rows if self.shuffle else np.arange(rows.start, rows.stop))
        else:
            batch = [column[rows] for column in self.columns]
        if self.augment:
            rng = np.random.default_rng([self.seed, self.epoch, index, self.process])
            batch[0] = self.augment(batch[0], rng)
        return tuple(batch) if len(batch) > 1 else batch[0]

    def _part(self, rows):
        """This process's part of a batch: [x, y, weights]."""
        size = -(-len(rows) // self.devices) * self.devices
        part = np.arange(size).reshape(self.processes, -1)[self.process]
        counts = part < len(rows)
        rows = rows[np.where(counts, part, 0)]
        x, y, weights = (column[rows] for column in self.columns)
        return [x, y, np.where(counts, weights, 0).astype("float32")]

    # `fit` ends an "epoch" before its first one, to drop the batch that it built the model with.
    # Keras reads `workers` when it makes an adapter, and then only: that tells the two ends apart.
    @property
    def workers(self):
        self._new_adapter = True
        return super().workers

    def on_epoch_end(self):
        self.epoch += not self._new_adapter
        self._new_adapter = False


@functools.lru_cache(maxsize=4)
def _order(n, seed, epoch):
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.setflags(write=False)
    return order


def counted(rows, weights):
    """Rows (batch, ...) with zeros in place of floats of weight 0: they may be NaN, which a weight
    alone would not silence. None stays None."""
    if rows is None or "float" not in keras.backend.standardize_dtype(rows.dtype):
        return rows
    counts = ops.reshape(weights > 0, (-1, *[1] * (len(rows.shape) - 1)))
    return ops.where(counts, rows, ops.zeros_like(rows))
