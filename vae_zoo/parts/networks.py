"""Encoders and decoders: shape in, built Keras model out.

An encoder maps images (batch, height, width, channels) to one or more heads of one shape, such as
`z_mean` and `z_log_var`; a decoder maps latents to likelihood parameters (batch, height, width,
`num_parameters`). Heads compute in float32 under any precision policy, since densities need it.
Both take what a condition says as a second input where there is one: see `_given`.
"""

import math
from functools import partial

import keras
from keras import layers, ops

from vae_zoo.parts.domains import Symbols
from vae_zoo.parts.layers import (
    Conv2D,
    Cropping2D,
    Flatten,
    PixelShuffle,
    ResidualBlock,
    ResidualCell,
    check_sizes,
    check_widths,
)


def check_shape(shape, images=False):
    """The shape of an example as a tuple; `ValueError` if it is none, or not that of an image."""
    if not isinstance(shape, (tuple, list)) or not shape or (images and len(shape) != 3):
        wanted = "(height, width, channels)" if images else "a tuple of ints"
        raise ValueError(f"`shape` must be {wanted}. Received: shape={shape!r}")
    check_sizes(shape=shape)
    return tuple(shape)


def check_network(network):
    """Raises `ValueError` unless it names a kind of networks."""
    if network not in ("dense", "conv"):
        raise ValueError(f"`network` must be dense or conv. Received: network={network!r}")


def _float_input(shape, name):
    """Whatever Keras's floats are by default."""
    return keras.Input(shape, dtype="float32", name=name)


def _input(shape):
    return _float_input(shape, "image" if len(shape) == 3 else "x")


def _given(condition, width, dtype, role, image_shape=None, halvings=0, padded=False):
    """The input of a condition, and its features at the scales of a network: a dict, places ->
    (batch, *places, width), of which () are those of the whole; two times None without one.

    A class has an embedding, a grid of symbols one at each place. An image as large as the example
    goes through convolutions of its own; any other array, and any of dense networks, is seen
    through a dense layer.

    Args:
        condition: None, or the `Domain` of y.
        width: int.
        dtype: precision policy of the layers.
        role: str, of the network in the model, by which its layers are told from another's.
        image_shape: (height, width, channels) of the example of a convolutional network.
        halvings: int, of its size, one a scale.
        padded: True of a decoder, whose largest scale is cropped in the end: y gets its size first.
    """
    if condition is None:
        return None, None
    y = features = keras.Input(condition.shape, dtype=condition.dtype, name="condition")
    if isinstance(condition, Symbols):
        embedding = layers.Embedding(condition.levels, width, dtype=dtype, name=f"{role}_embedding")
        features = embedding(y)
    if not condition.shape:
        return y, {(): features}
    scales = {}
    is_image = len(features.shape) == 4 and halvings
    if is_image and tuple(features.shape[1:3]) == tuple(image_shape[:2]):
        features = _padded(features, 2**halvings) if padded else features
        same = {"kernel_size": 3, "padding": "same", "activation": "relu", "dtype": dtype}
        for _ in range(halvings):
            features = Conv2D(width, strides=2, **same)(features)
            scales[tuple(features.shape[1:3])] = features
    features = Flatten(dtype=dtype)(features)
    dense = layers.Dense(width, activation="relu", dtype=dtype, name=f"{role}_features")
    return y, {**scales, (): dense(features)}


def _nonlinear(layer, units, activation, dtype, given=None, **kwargs):
    """`activation(layer(units)(x))`; "gated" multiplies by a sigmoid gate of its own. Features of a
    condition, `given`, are added before, by a matrix of their own: at each place those of the
    place, or, where there are none, those of the whole.

    Gated units: Dauphin et al. 2017, arXiv:1612.08083, eq. 1, as in the VAEs of Tomczak and
    Welling 2018, arXiv:1705.07120.
    """
    if activation != "gated" and given is None:
        return layer(units, activation=activation, dtype=dtype, **kwargs)
    width = 2 * units if activation == "gated" else units
    linear = layer(width, dtype=dtype, **kwargs)
    nonlinear = ops.glu if activation == "gated" else keras.activations.get(activation)
    if given is None:
        return lambda x: nonlinear(linear(x))
    shift = layers.Dense(width, use_bias=False, dtype=dtype)

    def shifted(x):
        places = tuple(linear.compute_output_shape(x.shape)[1:-1])
        if places and places in given:
            return nonlinear(linear(x) + shift(given[places]))
        of_whole = ops.reshape(shift(given[()]), (-1, *[1] * len(places), width))
        return nonlinear(linear(x) + of_whole)

    return shifted


def _model(inputs, y, outputs, name):
    """Of one input, or of two where a condition is the second."""
    inputs = inputs if y is None else [inputs, y]
    return keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs, name=name)


def mlp_encoder(
    shape,
    latent_dim,
    hidden,
    activation,
    heads=("z_mean", "z_log_var"),
    condition=None,
    label_dim=32,
    dtype=None,
):
    """Fully connected encoder: examples (batch, *shape) -> one (batch, latent_dim) tensor a head.

    Args:
        shape: tuple, of an example.
        latent_dim: int.
        hidden: ints, widths of the hidden layers, from the example on.
        activation: a Keras activation, or "gated".
        heads: names of the outputs.
        condition: None, or the `Domain` of y, which every hidden layer then sees.
        label_dim: int, features that a condition has.
        dtype: precision policy of the layers.
    """
    check_sizes(latent_dim=latent_dim)
    check_widths(0, hidden=hidden)
    inputs = _input(check_shape(shape))
    y, given = _given(condition, label_dim, dtype, "encoder")
    x = Flatten(dtype=dtype)(inputs)
    for units in hidden:
        x = _nonlinear(layers.Dense, units, activation, dtype, given)(x)
    outputs = [layers.Dense(latent_dim, dtype="float32", name=head)(x) for head in heads]
    return _model(inputs, y, outputs, "encoder")


def mlp_decoder(
    latent_dim,
    shape,
    num_parameters,
    hidden,
    activation,
    condition=None,
    label_dim=32,
    dtype=None,
):
    """Fully connected decoder: (batch, latent_dim) -> (batch, *shape[:-1], num_parameters).

    Args as of `mlp_encoder`; `hidden` is given from the example on too: one tuple serves both.
    """
    *places, _ = check_shape(shape)
    check_sizes(latent_dim=latent_dim, num_parameters=num_parameters)
    check_widths(0, hidden=hidden)
    inputs = _float_input((latent_dim,), "latent")
    y, given = _given(condition, label_dim, dtype, "decoder")
    x = inputs
    for units in reversed(hidden):
        x = _nonlinear(layers.Dense, units, activation, dtype, given)(x)
    units = math.prod(places) * num_parameters
    x = layers.Dense(units, dtype="float32", name="parameters")(x)
    x = layers.Reshape((*places, num_parameters), dtype="float32")(x)
    return _model(inputs, y, [x], "decoder")


def grid_shape(image_shape, filters):
    """(height, width) at the bottom of a tower that halves the size once a stage, rounding up."""
    height, width, _ = check_shape(image_shape, images=True)
    for _ in filters:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def conv_encoder(
    image_shape,
    latent_dim,
    filters,
    units,
    activation,
    blocks=0,
    heads=("z_mean", "z_log_var"),
    condition=None,
    label_dim=32,
    dtype=None,
):
    """Convolutional encoder; any image size works, since every stage halves it rounding up.

    Args:
        image_shape: (height, width, channels).
        latent_dim: int, size of a flat latent, or channels of a grid of latents.
        filters: ints, channels after each halving, from the image on.
        units: int, width of the dense layer before a flat latent; None for a grid of latents,
            (batch, *grid_shape, latent_dim).
        activation: a Keras activation, or "gated".
        blocks: int, residual blocks after each halving.
        heads: names of the outputs.
        condition, label_dim: see `mlp_encoder`; every stage sees it.
        dtype: precision policy of the layers.
    """
    check_sizes(latent_dim=latent_dim, units=units or 1)
    check_widths(1, filters=filters)
    x = inputs = _input(check_shape(image_shape, images=True))
    y, given = _given(condition, label_dim, dtype, "encoder", image_shape, len(filters))
    halving = {"kernel_size": 3, "strides": 2, "padding": "same"}
    for channels in filters:
        x = _nonlinear(Conv2D, channels, activation, dtype, given, **halving)(x)
        x = _residual(x, blocks, activation, dtype)
    if units is None:
        head = partial(Conv2D, latent_dim, kernel_size=1, dtype="float32")
    else:
        x = Flatten(dtype=dtype)(x)
        x = _nonlinear(layers.Dense, units, activation, dtype, given)(x)
        head = partial(layers.Dense, latent_dim, dtype="float32")
    return _model(inputs, y, [head(name=name)(x) for name in heads], "encoder")


def conv_decoder(
    latent_dim,
    image_shape,
    num_parameters,
    filters,
    units,
    activation,
    blocks=0,
    condition=None,
    label_dim=32,
    dtype=None,
):
    """Convolutional decoder, the mirror of `conv_encoder`; cropped to the true image size.

    Args as of `conv_encoder`, `filters` from the image on too. Returns a model from
    (batch, latent_dim), or (batch, *grid_shape, latent_dim) where `units` is None, to
    (batch, height, width, num_parameters).
    """
    check_sizes(latent_dim=latent_dim, units=units or 1, num_parameters=num_parameters)
    check_widths(1, filters=filters)
    rows, columns = grid_shape(image_shape, filters)
    same = {"kernel_size": 3, "padding": "same"}
    halvings = len(filters)
    y, given = _given(condition, label_dim, dtype, "decoder", image_shape, halvings, padded=True)
    if units is None:
        x = inputs = _float_input((rows, columns, latent_dim), "latent")
        x = _nonlinear(Conv2D, filters[-1], activation, dtype, given, **same)(x)
    else:
        inputs = _float_input((latent_dim,), "latent")
        x = _nonlinear(layers.Dense, units, activation, dtype, given)(inputs)
        x = _nonlinear(layers.Dense, rows * columns * filters[-1], activation, dtype, given)(x)
        x = layers.Reshape((rows, columns, filters[-1]), dtype=dtype)(x)
    x = _residual(x, blocks, activation, dtype)
    for channels in reversed(filters[:-1]):
        x = _nonlinear(Conv2D, 4 * channels, activation, dtype, given, **same)(x)
        x = PixelShuffle(dtype=dtype)(x)
        x = _residual(x, blocks, activation, dtype)
    if given and tuple(x.shape[1:3]) in given:  # what is given of an image, once more
        x = ops.concatenate([x, given[tuple(x.shape[1:3])]], axis=-1)
    x = Conv2D(4 * num_parameters, dtype="float32", name="parameters", **same)(x)
    x = PixelShuffle(dtype="float32")(x)
    return _model(inputs, y, [_cropped(x, image_shape)], "decoder")


def prior_network(condition, latent_dim, width=64):
    """From a condition to the moments of p(z|y): y -> (batch, 2 * latent_dim), mean and
    log-variance, all zero at first, so that a new prior is N(0, I).

    Args:
        condition: `Domain` of y.
        latent_dim: int.
        width: int, features that it has on the way.
    """
    check_sizes(latent_dim=latent_dim)
    y, given = _given(condition, width, "float32", "prior")
    moments = layers.Dense(2 * latent_dim, kernel_initializer="zeros", dtype="float32")(given[()])
    return keras.Model(y, moments, name="moments")


def ladder_encoder(shape, widths, network, blocks, activation, dtype=None):
    """Bottom-up path of a hierarchy: examples -> features of every scale, from the example up.

    Args:
        shape: tuple, of an example: (height, width, channels) of a convolutional one.
        widths: ints, of the features of each scale.
        network: "dense", features (batch, width), or "conv", (batch, rows, columns, width), every
            scale half the size of the one before.
        blocks: int, residual cells a scale.
        activation: a Keras activation.
        dtype: precision policy of the layers.
    """
    check_widths(1, widths=widths)
    x = inputs = _input(check_shape(shape, images=network == "conv"))
    layer, halving = layers.Dense, {}
    if network == "conv":
        layer, halving = Conv2D, {"kernel_size": 3, "strides": 2, "padding": "same"}
    else:
        x = Flatten(dtype=dtype)(x)
    features = []
    for width in widths:
        x = layer(width, dtype=dtype, **halving)(x)
        x = _cells(x, blocks, blocks * len(widths), activation, dtype)
        features.append(x)
    return keras.Model(inputs, features, name="encoder")


def ladder_decoder(shape, width, num_parameters, network, blocks, activation, dtype=None):
    """From the largest scale of a hierarchy to likelihood parameters
    (batch, *shape[:-1], num_parameters). Args as of `ladder_encoder`."""
    *image, _ = check_shape(shape, images=network == "conv")
    places = grid_shape(shape, [width]) if network == "conv" else ()
    inputs = _float_input((*places, width), "path")
    x = _cells(inputs, blocks, blocks, activation, dtype)
    x = layers.Activation(activation, dtype=dtype)(x)
    head = {"dtype": "float32", "name": "parameters"}
    if network == "conv":
        x = Conv2D(4 * num_parameters, kernel_size=3, padding="same", **head)(x)
        x = _cropped(PixelShuffle(dtype="float32")(x), shape)
    else:
        x = layers.Dense(math.prod(image) * num_parameters, **head)(x)
        x = layers.Reshape((*image, num_parameters), dtype="float32")(x)
    return keras.Model(inputs, x, name="decoder")


def _cells(x, blocks, depth, activation, dtype):
    """Residual cells, each of which starts scaled by the depth of the network it is in."""
    _check_blocks(blocks)
    width = x.shape[-1]
    hidden = max(1, width // 2) if len(x.shape) == 4 else width
    for _ in range(blocks):
        x = ResidualCell(width, hidden, depth**-0.5, activation, dtype=dtype)(x)
    return x


def _padded(x, multiple):
    """With zeros around it, so that its size is a multiple, and `_cropped` takes them away."""
    extra = [-size % multiple for size in x.shape[1:3]]
    if not any(extra):
        return x
    return ops.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in extra), (0, 0)])


def _cropped(x, image_shape):
    """The middle of what is larger than the image."""
    extra = (x.shape[1] - image_shape[0], x.shape[2] - image_shape[1])
    if not any(extra):
        return x
    crops = tuple((n // 2, n - n // 2) for n in extra)
    return Cropping2D(crops, dtype="float32")(x)


def _check_blocks(blocks):
    if blocks < 0:
        raise ValueError(f"`blocks` must be >= 0. Received: blocks={blocks}")


def _residual(x, blocks, activation, dtype):
    _check_blocks(blocks)
    for _ in range(blocks):
        x = ResidualBlock("relu" if activation == "gated" else activation, dtype=dtype)(x)
    return x
