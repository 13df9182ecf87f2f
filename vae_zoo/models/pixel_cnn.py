"""Gated PixelCNN: an exact density of images, or of a grid of codes, pixel after pixel.

van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", NeurIPS 2016,
arXiv:1606.05328; van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv:1601.06759 (the chain of
conditionals). Shifted instead of masked convolutions: Salimans et al. 2017, arXiv:1701.05517,
section 2.4.
Differs from the paper: symbols are embedded, residual connections run in both stacks.
"""

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.base import Trainable, noise_source
from vae_zoo.layers import check_sizes


@keras.saving.register_keras_serializable("vae_zoo")
class PixelCNN(Trainable):
    """log p(x) = sum_i log p(x_i | x_1 … x_{i-1}, y), row by row from the top left     (eq. 1)

    A vertical stack sees all rows above, a horizontal one the pixels to the left, so that nothing
    earlier is out of sight (section 2.2); both pass through gates tanh(.) * sigmoid(.)    (eq. 2).

    Args:
        grid_shape: (height, width) of the symbols.
        levels: int, symbols: 2 for black and white pixels, K for the codes of a VQ-VAE.
        filters: int, channels of both stacks (128 in the paper's MNIST runs of others, 16 in 1601).
        blocks: int, gated blocks after the first convolution.
        kernel_size: odd int, of the blocks; the first convolution is 7 wide.
        classes: int, 0 for none: class labels that condition every gate (eq. 4).
        seed, skip_threshold: see `Trainable`.

    Input: symbols, int (batch, height, width), with classes a pair of these and labels (batch,)
    (in `fit` and `evaluate` the labels are `y`); with `levels=2` images (batch, height, width, 1)
    too, uint8 in 0..255 or float in [0, 1], whose grey levels become bits by a draw.
    Output: logits, float32 (batch, height, width, levels).
    Logs: nll, exact (nats per example).

    It plays the role of a prior: `log_prob` and `sample` are those of `priors.py`.

    Example:
        model = PixelCNN((8, 8), filters=8, blocks=1)
        model.compile("adam")
        model.fit(images, epochs=1)
        new = model.sample(2, batch_size=2)
    """

    logged = ("nll",)

    def __init__(
        self,
        grid_shape=(28, 28),
        levels=2,
        filters=32,
        blocks=5,
        kernel_size=3,
        classes=0,
        dtype=None,
        **kwargs,
    ):
        height, width = grid_shape
        check_sizes(grid_shape=tuple(grid_shape), levels=levels, filters=filters)
        if levels < 2 or kernel_size % 2 == 0 or blocks < 0 or classes < 0:
            raise ValueError(
                "`levels` must be 2 or more, `kernel_size` odd, `blocks` and `classes` >= 0. "
                f"Received: levels={levels}, kernel_size={kernel_size}, blocks={blocks}, "
                f"classes={classes}"
            )
        super().__init__(dtype=dtype, **kwargs)
        self.grid_shape, self.levels, self.filters = (height, width), levels, filters
        self.blocks, self.kernel_size, self.classes = blocks, kernel_size, classes
        self.network = _network(
            self.grid_shape, levels, filters, blocks, kernel_size, classes, dtype
        )

    def symbols(self, x):
        """int32 (batch, height, width) of what the class takes.

        Raises:
            ValueError: if the shape or the type is wrong.
        """
        shape, dtype = tuple(x.shape), keras.backend.standardize_dtype(x.dtype)
        if self.levels == 2 and shape[1:] == (*self.grid_shape, 1):
            x = ops.cast(x, "float32") / (255.0 if dtype == "uint8" else 1.0)
            return ops.cast(self.draw(ops.shape(x), "uniform") < x, "int32")[..., 0]
        if shape[1:] != self.grid_shape or not ("int" in dtype or dtype == "bool"):
            raise ValueError(
                f"PixelCNN takes int symbols of shape (batch, *{self.grid_shape}). "
                f"Received: {dtype} {shape}"
            )
        return ops.cast(x, "int32")

    def prepare(self, x):
        return self.symbols(x)

    def call(self, x):
        x, y = x if self.classes else (x, None)
        return self.logits(self.symbols(x), y)

    def logits(self, x, y=None, training=False):
        """float32 (batch, height, width, levels) of symbols: at each place those of the next."""
        if (y is None) == bool(self.classes):
            raise ValueError(
                f"`y` must be {'labels' if self.classes else 'None'}: this PixelCNN has "
                f"{self.classes} classes. Received: y={'None' if y is None else 'labels'}"
            )
        inputs = [x, ops.cast(y, "int32")] if self.classes else x
        return ops.cast(self.network(inputs, training=training), "float32")

    def objective(self, x, y=None, training=False):
        log_probs = ops.log_softmax(self.logits(x, y, training), axis=-1)
        chosen = ops.one_hot(x, self.levels, dtype="float32")
        nll = -ops.sum(chosen * log_probs, axis=(1, 2, 3))
        return {"loss": nll, "nll": nll}

    def log_prob(self, z, condition=None):
        """Exact log p(z|condition) of symbols (..., height, width): (...), nats."""
        z = ops.convert_to_tensor(z)
        lead = tuple(ops.shape(z)[: len(z.shape) - 2])
        flat = ops.cast(ops.reshape(z, (-1, *self.grid_shape)), "int32")
        return -ops.reshape(self.objective(flat, condition)["nll"], lead)

    def sample(self, n, condition=None, seed=None, batch_size=64):
        """n grids of symbols, NumPy int32 (n, height, width), pixel after pixel.

        Args:
            n: int.
            condition: labels (n,) where the model has classes.
            seed: int, a `SeedGenerator` or None.
            batch_size: int, grids at a time.
        """
        if not isinstance(seed, keras.random.SeedGenerator):
            seed = noise_source(seed)
        height, width = self.grid_shape
        step = self._compiled("next_symbol", self._next_symbol)
        parts = []
        for start in range(0, n, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), n - 1)
            labels = () if condition is None else (np.asarray(condition)[rows].astype("int32"),)
            uniform = ops.convert_to_numpy(
                keras.random.uniform((height * width, batch_size), seed=seed)
            )
            x = np.zeros((batch_size, height, width), "int32")
            for place in range(height * width):
                x = step(x, uniform[place], np.int32(place), *labels)
            parts.append(x)
        return np.concatenate(parts)[:n]

    def _next_symbol(self, x, uniform, place, y=None):
        """x with the symbol at `place` (row by row) drawn by inversion of its distribution."""
        height, width = self.grid_shape
        probabilities = ops.softmax(self.logits(x, y), axis=-1)
        here = ops.one_hot(place, height * width, dtype="float32")
        cumulated = ops.cumsum(
            ops.einsum(
                "bpk,p->bk", ops.reshape(probabilities, (-1, height * width, self.levels)), here
            ),
            axis=-1,
        )
        symbol = ops.sum(ops.cast(uniform[:, None] >= cumulated[:, :-1], "int32"), axis=-1)
        mask = ops.reshape(ops.cast(here, "int32"), (1, height, width))
        return x * (1 - mask) + symbol[:, None, None] * mask

    def get_config(self):
        own = ("grid_shape", "levels", "filters", "blocks", "kernel_size", "classes")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _network(grid_shape, levels, filters, blocks, kernel_size, classes, dtype):
    """Keras model: symbols (and labels) -> logits of every place given those before it."""
    symbols = keras.Input(grid_shape, dtype="int32", name="symbols")
    inputs, label = symbols, None
    if classes:
        label = keras.Input((), dtype="int32", name="label")
        inputs = [symbols, label]
    x = layers.Embedding(levels, filters, dtype=dtype)(symbols)
    # What the first stacks must not see is shifted out: the row itself, the pixel itself.
    above = _shifted(_convolved(x, 2 * filters, 7, "vertical", dtype), down=1, dtype=dtype)
    before = _shifted(_convolved(x, 2 * filters, 7, "horizontal", dtype), right=1, dtype=dtype)
    vertical = _gated(above, label, classes, filters, dtype)
    horizontal = _gated(layers.Add(dtype=dtype)([above, before]), label, classes, filters, dtype)
    for _ in range(blocks):
        below = _convolved(vertical, 2 * filters, kernel_size, "vertical", dtype)
        left = _convolved(horizontal, 2 * filters, kernel_size, "horizontal", dtype)
        link = layers.Conv2D(2 * filters, 1, dtype=dtype)(below)
        vertical = layers.Add(dtype=dtype)(
            [vertical, _gated(below, label, classes, filters, dtype)]
        )
        gated = _gated(layers.Add(dtype=dtype)([left, link]), label, classes, filters, dtype)
        horizontal = layers.Add(dtype=dtype)(
            [horizontal, layers.Conv2D(filters, 1, dtype=dtype)(gated)]
        )
    x = layers.Conv2D(filters, 1, activation="relu", dtype=dtype)(ops.relu(horizontal))
    return keras.Model(inputs, layers.Conv2D(levels, 1, dtype="float32", name="logits")(x))


def _convolved(x, filters, size, stack, dtype):
    """Sees its own place, and what is above and beside (vertical) or to the left (horizontal)."""
    half = size // 2
    if stack == "vertical":
        kernel, padding = (half + 1, size), ((half, 0), (half, half))
    else:
        kernel, padding = (1, half + 1), ((0, 0), (half, 0))
    return layers.Conv2D(filters, kernel, dtype=dtype)(
        layers.ZeroPadding2D(padding, dtype=dtype)(x)
    )


def _shifted(x, down=0, right=0, dtype=None):
    x = layers.ZeroPadding2D(((down, 0), (right, 0)), dtype=dtype)(x)
    return layers.Cropping2D(((0, down), (0, right)), dtype=dtype)(x)


def _gated(x, label, classes, filters, dtype):
    """tanh(a) * sigmoid(b) of the two halves, each with a bias of the class where there is one."""
    if classes:
        bias = layers.Embedding(classes, 2 * filters, dtype=dtype)(label)
        x = layers.Add(dtype=dtype)([x, layers.Reshape((1, 1, 2 * filters), dtype=dtype)(bias)])
    a, b = x[..., :filters], x[..., filters:]
    return ops.tanh(a) * ops.sigmoid(b)
