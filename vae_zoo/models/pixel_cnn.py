"""Gated PixelCNN: an exact density of images, or of a grid of codes, pixel after pixel.

van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", NeurIPS 2016,
arXiv:1606.05328; van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv:1601.06759 (the chain of
conditionals). Shifted instead of masked convolutions: Salimans et al. 2017, arXiv:1701.05517,
section 2.4.
Differs from the paper: symbols are embedded, residual connections run in both stacks, and the rows
of the vertical stack are shifted once, before the first block.
"""

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.engine.checks import check_count
from vae_zoo.engine.noise import passing_noise
from vae_zoo.models.kinds import Density, given
from vae_zoo.parts import domains
from vae_zoo.parts.layers import GatedBlock, ResidualBlock, built, check_sizes

FIRST_KERNEL = 7  # of the first block (section 5 of arXiv:1601.06759)


@keras.saving.register_keras_serializable("vae_zoo")
class PixelCNN(Density):
    """log p(x|y) = sum_i log p(x_i | x_1 … x_{i-1}, y), row by row from the top left   (eq. 1, 3)

    A vertical stack sees all rows above, a horizontal one the pixels to the left, so that nothing
    earlier is out of sight (section 2.2); both pass through gates tanh(.) * sigmoid(.)    (eq. 2).

    Args:
        shape: (height, width) of the symbols.
        levels: int, symbols: 2 for black and white pixels, K for the codes of a VQ-VAE.
        filters: int, channels of both stacks (128 in the paper's MNIST runs of others, 16 in 1601).
        blocks: int, gated blocks after the first.
        kernel_size: odd int of 3 or more, of the blocks; the first is 7 wide.
        condition: None, or what every gate sees: a number of classes, whose label is y (eq. 4), or
            `domains.Symbols` of a coarser grid (height, width), each place of which is what several
            places see (eq. 5).
        seed, skip_threshold: see `Trainable`.

    Input: symbols, int (batch, height, width), with a condition a pair of these and y; with
    `levels=2` images (batch, height, width, 1) too, uint8 in 0..255 or float in [0, 1], whose grey
    levels become bits by a draw.
    Output: logits, float32 (batch, height, width, levels).
    Logs: nll, exact (nats per example).

    It plays the role of a prior: `log_prob` and `sample` are those of `priors.py`.

    Example:
        model = PixelCNN((8, 8), filters=8, blocks=1)
        model.compile("adam")
        model.fit(images, epochs=1)
        new = model.sample(2, batch_size=2)
    """

    def __init__(
        self,
        shape=(28, 28),
        levels=2,
        filters=32,
        blocks=5,
        kernel_size=3,
        condition=None,
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        shape, condition = tuple(shape), domains.get(condition)
        check_sizes(shape=shape, levels=levels, filters=filters)
        if levels < 2 or kernel_size < 3 or kernel_size % 2 == 0 or blocks < 0:
            raise ValueError(
                "`levels` must be 2 or more, `kernel_size` odd and 3 or more, `blocks` >= 0. "
                f"Received: levels={levels}, kernel_size={kernel_size}, blocks={blocks}"
            )
        if condition and not (
            isinstance(condition, domains.Symbols) and len(condition.shape) in (0, 2)
        ):
            raise ValueError(
                "`condition` must be a number of classes, or symbols of shape (height, width). "
                f"Received: {condition}"
            )
        domain = domains.Bits(shape) if levels == 2 else domains.Symbols(shape, levels)
        super().__init__(
            domain,
            condition,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape, self.levels, self.filters = shape, levels, filters
        self.blocks, self.kernel_size = blocks, kernel_size

        # No wider than a one-hot vector: the first block is the widest of all.
        self.embedding = built(layers.Embedding(levels, min(levels, filters), dtype=dtype), ())
        self.stacks = [GatedBlock(filters, FIRST_KERNEL, condition is not None, False, dtype=dtype)]
        self.stacks += [
            GatedBlock(filters, kernel_size, condition is not None, dtype=dtype)
            for _ in range(blocks)
        ]
        for i, block in enumerate(self.stacks):
            built(block, (*shape, filters if i else self.embedding.output_dim))
        self.condition_layers = []
        if condition:
            self.condition_layers = [layers.Embedding(condition.levels, filters, dtype=dtype)]
            if condition.shape:
                self.condition_layers += [ResidualBlock(dtype=dtype) for _ in range(2)]
            for layer in self.condition_layers:
                built(layer, (*(condition.shape or (1, 1)), filters))
        self.head = [
            built(layers.Dense(filters, activation="relu", dtype=dtype), (filters,)),
            built(layers.Dense(levels, dtype="float32", name="logits"), (filters,)),
        ]

    # === The network ===

    @property
    def sees_bits(self):
        return isinstance(self.domain, domains.Bits)

    def prepare(self, x):
        """int32 symbols (batch, height, width) of what the class takes."""
        x = self.domain.tensor(x)
        if keras.backend.standardize_dtype(x.dtype) == "float32":  # grey levels
            x = ops.cast(self.draw(ops.shape(x), "uniform") < x, "int32")
        return x

    def call(self, x):
        x, y = x if self.condition is not None else (x, None)
        return self.logits(self.prepare(x), *given(self.prepare_labels(y)))

    def logits(self, x, y=None, training=False):
        """float32 (batch, height, width, levels) of symbols: at each place those of the next."""
        symbols = self.embedding(x)
        # What the first stacks must not see is shifted out: the row itself, the pixel itself.
        above = ops.pad(symbols, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        before = ops.pad(symbols, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
        batch, (height, width) = ops.shape(x)[0], self.shape
        rows, columns = self._outside(batch, columns=width), self._outside(batch, rows=height)
        links, _ = self._vertical(above, rows, self.seen(y))
        return self._horizontal(before, columns, links)[0]

    def seen(self, y):
        """What the gates see of a condition: (batch, 1, 1, filters), or a vector for each place."""
        if self.condition is None:
            return None
        features = ops.reshape(ops.cast(y, "int32"), (-1, *(self.condition.shape or (1, 1))))
        for layer in self.condition_layers:
            features = layer(features)
        for axis, (size, coarse) in enumerate(zip(self.shape, self.condition.shape), 1):
            features = ops.repeat(features, -(-size // coarse), axis=axis)
        height, width = self.shape
        return features[:, :height, :width]

    def _outside(self, batch, rows=None, columns=None):
        """What each block sees outside the image: the rows above, or the columns to the left."""
        return tuple(
            ops.zeros((batch, rows or b.reach, columns or b.reach, b.channels), self.compute_dtype)
            for b in self.stacks
        )

    def _vertical(self, x, before, condition):
        """Rows x (batch, rows, width, …) through the vertical stack, which goes on from `before`.

        Returns what the horizontal stack takes from each block, and the new `before`.
        """
        links, last = [], []
        for block, rows in zip(self.stacks, before):
            x, link, rows = block.vertical(x, rows, condition)
            links.append(link)
            last.append(rows)
        return links, tuple(last)

    def _horizontal(self, x, before, links):
        """Columns x (batch, rows, columns, …) through the horizontal stack, to logits."""
        last = []
        for block, columns, link in zip(self.stacks, before, links):
            x, columns = block.horizontal(x, columns, link)
            last.append(columns)
        x = ops.relu(x)
        for layer in self.head:
            x = layer(x)
        return x, tuple(last)

    def log_prob(self, x, y=None):
        x, y = ops.convert_to_tensor(x), self.labels(y)
        lead = tuple(ops.shape(x)[: len(x.shape) - 2])
        flat = ops.cast(ops.reshape(x, (-1, *self.shape)), "int32")
        log_probs = ops.log_softmax(self.logits(flat, *given(y)), axis=-1)
        chosen = ops.one_hot(flat, self.levels, dtype="float32")
        return ops.reshape(ops.sum(chosen * log_probs, axis=(1, 2, 3)), lead)

    # === Sampling ===

    def sample(self, n, y=None, seed=None, batch_size=64) -> np.ndarray:
        """n grids of symbols, NumPy int32 (n, height, width), pixel after pixel.

        A new pixel costs its own way through the horizontal stack, and a new row its own through
        the vertical one: each block remembers as many inputs as its kernel reaches back
        (Ramachandran et al. 2017, arXiv:1704.06001).

        Args:
            n: int.
            y: one label, or n of them, where the model takes some.
            seed: int, a `SeedGenerator` or None.
            batch_size: int, grids at a time.
        """
        check_count(n)
        seed = passing_noise(seed)
        y = self._repeated(y, n)
        generate = self.compiled_function("generate", self._generate, loops=True)
        parts = []
        for start in range(0, n, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), n - 1)
            labels = () if y is None else (y[rows].astype("int32"),)
            uniform = keras.random.uniform((batch_size, *self.shape), dtype="float32", seed=seed)
            parts.append(generate(ops.convert_to_numpy(uniform), *labels))
        return np.concatenate(parts)[:n]

    def _generate(self, uniform, y=None):
        """Symbols drawn by inversion of their distributions at uniform (batch, height, width)."""
        batch, (height, width) = ops.shape(uniform)[0], self.shape
        no_rows, no_columns = self._outside(batch, columns=width), self._outside(batch, rows=1)
        start = ops.zeros((batch, 1, width, self.stacks[0].channels), self.compute_dtype)
        features = self.seen(y)

        def next_row(row, carry):
            symbols, above, rows = carry
            here = features
            if self.condition is not None and self.condition.shape:
                here = ops.take(features, row, axis=1)[:, None]
            links, rows = self._vertical(above, rows, here)

            def next_symbol(column, carry):
                symbols, before, columns = carry
                link = [ops.take(link, column, axis=2)[:, :, None] for link in links]
                logits, columns = self._horizontal(before, columns, link)
                u = ops.take(ops.take(uniform, row, axis=1), column, axis=1)
                symbol = _inverted(logits[:, 0, 0], u)
                symbols = ops.slice_update(symbols, (0, row, column), symbol[:, None, None])
                return symbols, self.embedding(symbol[:, None, None]), columns

            first = (symbols, start[:, :, :1], no_columns)
            symbols, *_ = ops.fori_loop(0, width, next_symbol, first)
            return symbols, self.embedding(ops.take(symbols, row, axis=1)[:, None]), rows

        first = (ops.zeros((batch, height, width), "int32"), start, no_rows)
        return ops.fori_loop(0, height, next_row, first)[0]


def _inverted(logits, uniform):
    """Symbols int32 (batch,), drawn from logits (batch, levels) by uniform (batch,)."""
    cumulated = ops.cumsum(ops.softmax(logits, axis=-1), axis=-1)
    return ops.sum(ops.cast(uniform[:, None] >= cumulated[:, :-1], "int32"), axis=-1)
