"""An encoder and a decoder of the user's own: what a pair must be, said at once and in one line."""

import keras
from keras import ops

HEADS = ("z_mean", "z_log_var")
# Layers that a decoder may end in, which leave the range of values as it is.
PASSING = ("reshape", "flatten", "permute", "dropout", "identity", "cropping2_d", "transpose")
BOUNDING = ("sigmoid", "hard_sigmoid", "softmax", "tanh", "hard_tanh", "relu", "relu6", "elu")
BOUNDING += ("softplus", "exponential", "log_sigmoid", "log_softmax", "leaky_relu", "silu", "gelu")


def check(encoder, decoder, likelihood, condition=None):
    """Shapes of an example and of its latents, (height, width, channels) and (latent_dim,) say.

    Args:
        encoder, decoder: what a user passes to `VAE`.
        likelihood: `Likelihood`.
        condition: None, or the `Domain` of what both take as a second input.

    Raises:
        ValueError: if they are no pair of such networks.
    """
    shape, outputs = _shapes("encoder", encoder, "(z_mean, z_log_var)", condition)
    latent_shape, made = _shapes("decoder", decoder, "the parameters of p(x|z)", condition)
    _check_heads(outputs, latent_shape)
    expected = (*shape[:-1], likelihood.num_parameters(shape[-1]))
    name = type(likelihood).__name__
    if made != expected:
        one = isinstance(made, tuple) and all(isinstance(size, int) for size in made)
        raise ValueError(
            f"`decoder` must return (batch, *{expected}) for the {name} likelihood of examples "
            f"{shape}. Received: {(None, *made) if one else made}"
        )
    activation = _last_activation(decoder)
    if likelihood.unbounded and activation in BOUNDING:
        raise ValueError(
            f"`decoder` must end without an activation for the {name} likelihood, which takes "
            f"logits, any number. Received: one that ends in {activation}"
        )
    return shape, latent_shape


def heads(outputs):
    """z_mean and z_log_var of what an encoder returns."""
    if isinstance(outputs, dict):
        return [outputs[name] for name in HEADS]
    return outputs if isinstance(outputs, (list, tuple)) else ops.split(outputs, 2, axis=-1)


def _shapes(role, network, returned, condition=None):
    """Shapes without the batch of the one input, the first where a condition is the second, and of
    the output, or a dict or list of these."""
    wanted = [] if condition is None else [condition.shape]
    try:
        sequential = isinstance(network, keras.Sequential)
        inputs, outputs = network.inputs, network.outputs[0] if sequential else network.output
        if isinstance(inputs, dict) or [tuple(y.shape[1:]) for y in inputs[1:]] != wanted:
            raise TypeError
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape[1:]), outputs)
        shape = tuple(inputs[0].shape[1:])
    except (AttributeError, TypeError, ValueError):  # subclassed, never called, no model at all
        raise ValueError(
            f"`{role}` must be a functional or Sequential Keras model with {_inputs(wanted)}, that "
            f"returns {returned}; of a layer or model m make one by x = keras.Input(shape); "
            f"keras.Model(x, m(x)). Received: {type(network).__name__}"
        ) from None
    for size in keras.tree.flatten([shape, shapes]):
        if size is None:
            raise ValueError(f"`{role}` must have fixed sizes. Received: {shape} -> {shapes}")
    return shape, shapes


def _inputs(wanted):
    if not wanted:
        return "one `keras.Input`"
    return f"two, the second of the condition's shape (batch, *{wanted[0]})"


def _check_heads(outputs, latent_shape):
    wanted = (
        f"`encoder` must return (z_mean, z_log_var), both (batch, *{latent_shape}) as `decoder` "
        "takes them"
    )
    if isinstance(outputs, dict):
        if set(outputs) != set(HEADS):
            raise ValueError(f"{wanted}. Received: outputs {sorted(outputs)}")
        outputs = [outputs[name] for name in HEADS]
    if isinstance(outputs, tuple) and all(isinstance(size, int) for size in outputs):  # of one
        both = (*latent_shape[:-1], 2 * latent_shape[-1])
        if outputs != both:
            raise ValueError(f"{wanted}, or (batch, *{both}). Received: one output {outputs}")
    elif len(outputs) == 3:
        raise ValueError(
            f"{wanted}: z is drawn by the VAE itself, so leave it out by keras.Model("
            f"encoder.inputs, encoder.outputs[:2]). Received: 3 outputs {list(outputs)}"
        )
    elif list(outputs) != [latent_shape] * 2:
        raise ValueError(f"{wanted}. Received: outputs {list(outputs)}")


def _last_activation(network):
    """Name of the activation that a network ends in; None where there is none."""
    for step in reversed(getattr(network, "operations", None) or network.layers):
        name = _name(step)
        if isinstance(step, keras.Model):
            return _last_activation(step)
        activation = getattr(step, "activation", None)
        if callable(activation):
            activation = getattr(activation, "__name__", "")
            if activation != "linear":
                return activation
        if name in BOUNDING:  # a layer or an operation of its own
            return name
        if name not in PASSING and name != "activation":
            return None
    return None


def _name(step):
    """Of a layer or an operation, as Keras names activations."""
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(step).__name__)
    words = words.strip("_")
    return {"re_l_u": "relu", "leaky_re_l_u": "leaky_relu", "e_l_u": "elu"}.get(words, words)
