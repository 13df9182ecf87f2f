"""Layers that two families or more use, and what every layer's sizes must be."""

from functools import partial

import keras
from keras import layers, ops

# Images are channels-last here, whatever keras.json says.
Conv2D, Cropping2D, Flatten = (
    partial(layer, data_format="channels_last")
    for layer in (layers.Conv2D, layers.Cropping2D, layers.Flatten)
)


def check_sizes(**sizes):
    """Raises `ValueError` unless every value is a positive int, or a tuple of them."""
    for name, value in sizes.items():
        for size in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value!r}")


def check_widths(at_least, **widths):
    """Raises `ValueError` unless every value is a tuple of `at_least` positive ints."""
    for name, value in widths.items():
        if not isinstance(value, (tuple, list)) or len(value) < at_least:
            raise ValueError(
                f"`{name}` must be a tuple of at least {at_least} ints. Received: {name}={value!r}"
            )
    check_sizes(**widths)


def built(layer, shape):
    """The layer, with its weights, for examples of this shape."""
    layer.build((None, *shape))
    return layer


@keras.saving.register_keras_serializable("vae_zoo")
class ResidualBlock(layers.Layer):
    """x + conv(f(conv(f(x)))), 3×3, the pre-activation form of He et al. 2016, arXiv:1603.05027.

    The last convolution starts at zero, so that a new block changes nothing. Shape in = shape out.
    """

    def __init__(self, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        conv = partial(Conv2D, input_shape[-1], 3, padding="same", dtype=self.dtype_policy)
        self.first, self.second = conv(), conv(kernel_initializer="zeros")
        self.first.build(input_shape)
        self.second.build(input_shape)
        self.built = True

    def call(self, x):
        return x + self.second(self.activation(self.first(self.activation(x))))

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}


@keras.saving.register_keras_serializable("vae_zoo")
class ResidualCell(layers.Layer):
    """Activations before each of two dense layers, or of 1×1, 3×3, 3×3 and 1×1 convolutions.

    Of vectors (batch, …) or of grids (batch, rows, columns, …): the bottleneck of Child 2021
    (VDVAE), arXiv:2011.10650, figure 3, without normalisation.

    Args:
        units: int, size of the output.
        hidden: int, size between.
        scale: float, that the weights of the last layer start multiplied by; 0 starts at zero.
        activation: a Keras activation.
        residual: bool, add the input to the output.
        output_dtype: precision policy of the last layer, None for that of all.
    """

    def __init__(
        self,
        units,
        hidden,
        scale=1.0,
        activation="silu",
        residual=True,
        output_dtype=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_sizes(units=units, hidden=hidden)
        self.units, self.hidden, self.scale = units, hidden, scale
        self.activation = keras.activations.get(activation)
        self.residual, self.output_dtype = residual, output_dtype

    def build(self, input_shape):
        policy, grid = self.dtype_policy, len(input_shape) == 4
        last = "zeros"
        if self.scale:
            last = keras.initializers.VarianceScaling(self.scale**2, "fan_avg", "uniform")
        self.steps = [layers.Dense(self.hidden, dtype=policy)]
        if grid:
            conv = partial(Conv2D, self.hidden, 3, padding="same", dtype=policy)
            self.steps += [conv(), conv()]
        last = layers.Dense(self.units, kernel_initializer=last, dtype=self.output_dtype or policy)
        self.steps.append(last)
        shape = tuple(input_shape[1:])
        for step in self.steps:
            built(step, shape)
            shape = (*shape[:-1], self.hidden)
        self.built = True

    def call(self, x):
        y = x
        for step in self.steps:
            y = step(self.activation(y))
        return x + y if self.residual else y

    def get_config(self):
        own = ("units", "hidden", "scale", "residual", "output_dtype")
        activation = keras.activations.serialize(self.activation)
        config = {**super().get_config(), "activation": activation}
        return {**config, **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("vae_zoo")
class LatentGroup(layers.Layer):
    """One group of latents on the top-down path of a hierarchy: its prior, its posterior relative
    to it, and how it joins the path.

    Args:
        latents: int, size or channels of the group.
        activation: a Keras activation.
        depth: int, groups of the whole path: what a group adds to it starts scaled by depth^-1/2
            (VDVAE, section 3.2).
    """

    log_var_range = (-10.0, 10.0)  # far outside of what training finds

    def __init__(self, latents, activation="silu", depth=1, **kwargs):
        super().__init__(**kwargs)
        self.latents, self.activation, self.depth = latents, activation, depth

    def build(self, input_shape):
        *places, width = input_shape[1:]
        shared = {"activation": self.activation, "dtype": self.dtype_policy}
        scale = self.depth**-0.5
        # Moments in float32 under any policy: densities need it. A new prior is N(0, I).
        moments = {**shared, "residual": False, "output_dtype": "float32"}
        head, hidden = 2 * self.latents, max(1, width // 2) if places else width
        self.prior_cell = built(ResidualCell(head, hidden, 0.0, **moments), (*places, width))
        self.posterior_cell = built(ResidualCell(head, hidden, **moments), (*places, 2 * width))
        self.projection = layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(scale**2),
            dtype=self.dtype_policy,
        )
        built(self.projection, (*places, self.latents))
        self.cell = built(ResidualCell(width, hidden, scale, **shared), (*places, width))
        self.built = True

    def prior(self, h):
        """Mean and log-variance of p(z|h), float32."""
        mean, log_var = ops.split(self.prior_cell(h), 2, axis=-1)
        return mean, ops.clip(log_var, *self.log_var_range)

    def posterior(self, h, features):
        """What q's mean and log-variance differ by, float32."""
        return ops.split(self.posterior_cell(ops.concatenate([h, features], axis=-1)), 2, axis=-1)

    def join(self, h, z):
        """The path after the group: h and z -> h of the same shape."""
        return self.cell(h + self.projection(z))

    def get_config(self):
        own = ("latents", "activation", "depth")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("vae_zoo")
class PixelShuffle(layers.Layer):
    """(batch, h, w, 4c) -> (batch, 2h, 2w, c): four channels of a place become a 2×2 patch.

    Shi et al. 2016, arXiv:1609.05158, eq. 4. A convolution before it doubles the resolution as a
    transposed convolution does; on a CPU it is as fast on TensorFlow and PyTorch, and three times
    as fast on JAX.
    """

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height, width, 2, 2, channels // 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels // 4))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, 2 * height, 2 * width, channels // 4


@keras.saving.register_keras_serializable("vae_zoo")
class Enlarge(layers.Layer):
    """From a vector to another, or from a grid to one of twice the places, cropped to `shape`.

    Args:
        shape: (width,) or (rows, columns, width) of the output.
    """

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape_after = tuple(shape)

    def build(self, input_shape):
        *grid, width = self.shape_after
        dense = layers.Dense(4 * width if grid else width, dtype=self.dtype_policy)
        self.dense = built(dense, tuple(input_shape[1:]))
        self.shuffle = PixelShuffle(dtype=self.dtype_policy)
        self.built = True

    def call(self, x):
        *grid, _ = self.shape_after
        if not grid:
            return self.dense(x)
        return self.shuffle(self.dense(x))[:, : grid[0], : grid[1]]

    def get_config(self):
        return {**super().get_config(), "shape": self.shape_after}


@keras.saving.register_keras_serializable("vae_zoo")
class GatedBlock(layers.Layer):
    """One layer of both stacks of a gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328,
    figure 2), of a whole image or of its next pixel.

    Each stack takes what comes next and the last inputs before it, `reach` of them, and returns
    such inputs for the next call: an image is one call, with nothing before it.

    Args:
        filters: int, channels of both stacks.
        kernel_size: odd int.
        conditional: bool, the gates see a condition.
        residual: bool, add the input to the output in both stacks.
    """

    def __init__(self, filters, kernel_size, conditional=False, residual=True, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size
        self.conditional, self.residual = conditional, residual
        self.reach = kernel_size // 2

    def build(self, input_shape):
        _, height, width, self.channels = input_shape
        policy, size, double = self.dtype_policy, self.kernel_size, 2 * self.filters
        shape = (None, height + self.reach, width + 2 * self.reach, self.channels)
        self.above = Conv2D(double, (self.reach + 1, size), dtype=policy)
        self.left = Conv2D(double, (1, self.reach + 1), dtype=policy)
        self.above.build(shape)
        self.left.build(shape)
        self.link = built(layers.Dense(double, dtype=policy), (double,))
        self.out = built(layers.Dense(self.filters, dtype=policy), (self.filters,))
        if self.conditional:  # the matrix V of eq. 4, which reaches both gates
            dense = layers.Dense(double, use_bias=False, dtype=policy)
            self.condition = built(dense, (self.filters,))
        self.built = True

    def vertical(self, x, before, condition=None):
        """Rows x and `reach` rows before them -> rows, link to the horizontal stack, last rows."""
        window = ops.concatenate([before, x], axis=1)
        sides = (self.reach, self.reach)
        seen = self.above(ops.pad(window, ((0, 0), (0, 0), sides, (0, 0))))
        if self.conditional:
            seen = seen + self.condition(condition)
        new = _gated(seen)
        return x + new if self.residual else new, self.link(seen), window[:, -self.reach :]

    def horizontal(self, x, before, link):
        """Columns x and `reach` columns before them -> columns, last columns."""
        window = ops.concatenate([before, x], axis=2)
        new = self.out(_gated(self.left(window) + link))
        return x + new if self.residual else new, window[:, :, -self.reach :]

    def get_config(self):
        own = ("filters", "kernel_size", "conditional", "residual")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _gated(x):
    """tanh(a) * sigmoid(b) of the two halves of the channels (eq. 2)."""
    a, b = ops.split(x, 2, axis=-1)
    return ops.tanh(a) * ops.sigmoid(b)
