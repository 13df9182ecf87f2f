"""LSTM cells over sequences: plain ones by the engine's kernel, others by a compiled loop.

Hochreiter and Schmidhuber 1997; layer normalisation: Ba, Kiros and Hinton 2016, arXiv:1607.06450;
recurrent dropout: Semeniuta, Severyn and Barth 2016, arXiv:1603.05118.
"""

import keras
from keras import layers, ops

from vae_zoo.engine import recurrence
from vae_zoo.parts.layers import check_sizes


@keras.saving.register_keras_serializable("vae_zoo")
class LSTM(layers.Layer):
    """i, f, g, o = x W + h U + b
    c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')

    Args:
        inputs, units: ints.
        normalized: True normalises each of the four gates, and c' where h' is made of it, over
            units, with a gain and a shift of its own.
        dropout: float, share of tanh(g) that is left out, anew at each row, while training.
    """

    def __init__(self, inputs, units, normalized=False, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_sizes(inputs=inputs, units=units)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        self.inputs, self.units = inputs, units
        self.normalized, self.rate = normalized, dropout
        self.kernel = self.add_weight((inputs, 4 * units), name="kernel")
        self.recurrent = self.add_weight((units, 4 * units), "orthogonal", name="recurrent")
        self.bias = self.add_weight((4 * units,), "zeros", name="bias")
        ones = ops.ones((units,))  # what is known is kept at first
        self.bias.assign(ops.concatenate([0 * ones, ones, 0 * ones, 0 * ones]))
        if normalized:
            gain = keras.initializers.Constant(0.1)
            self.gains = self.add_weight((5, units), gain, name="gains")
            self.shift = self.add_weight((units,), "zeros", name="shift")
        self.built = True

    def step(self, projected, h, c, mask=None):
        """One row. `projected` is x W, (batch, 4 units); `mask` what tanh(g) is multiplied with."""
        gates = projected + ops.matmul(h, self.recurrent)
        if self.normalized:
            gates = ops.reshape(gates, (-1, 4, self.units))
            gates = _normalized(gates) * 10.0 * self.gains[:4]
            gates = ops.reshape(gates, (-1, 4 * self.units))
        i, f, g, o = ops.split(gates + self.bias, 4, axis=-1)
        g = ops.tanh(g) if mask is None else ops.tanh(g) * mask
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * g
        seen = _normalized(c) * 10.0 * self.gains[4] + self.shift if self.normalized else c
        return ops.sigmoid(o) * ops.tanh(seen), c

    def call(self, x, h=None, c=None, draw=None):
        """h of all rows: (batch, rows, units).

        Args:
            x: float32 (batch, rows, inputs).
            h, c: float32 (batch, units) before the first row; None for zeros.
            draw: function of a shape and "uniform", the noise of dropout; None for no dropout.
        """
        batch, rows = ops.shape(x)[:2]
        h, c = (ops.zeros((batch, self.units)) if s is None else s for s in (h, c))
        dropping = draw is not None and self.rate > 0
        if recurrence.FUSED and not self.normalized and not dropping:
            weights = (ops.convert_to_tensor(w) for w in (self.kernel, self.recurrent, self.bias))
            return recurrence.fused_lstm(x, h, c, *weights)
        xs = [ops.swapaxes(ops.matmul(x, self.kernel), 0, 1)]
        if dropping:
            kept = draw((rows, batch, self.units), "uniform") >= self.rate
            xs.append(ops.cast(kept, "float32") / (1.0 - self.rate))

        def step(state, xs):
            state = self.step(xs[0], *state, *xs[1:])
            return state, state  # TensorFlow wants both alike

        _, (made, _) = ops.scan(step, (h, c), tuple(xs))
        return ops.swapaxes(made, 0, 1)


def _normalized(x):
    """x without its mean over units, of variance 1."""
    x = x - ops.mean(x, axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)


def last(x, lengths):
    """The row of each sequence before its end: (batch, rows, units) -> (batch, units)."""
    places = ops.reshape(ops.maximum(lengths - 1, 0), (-1, 1, 1))
    return ops.take_along_axis(x, places, axis=1)[:, 0]


def reversed_rows(x, lengths):
    """Sequences backwards, each within its length; what comes after stays where it is."""
    t = ops.arange(x.shape[1], dtype="int32")[None]
    n = ops.cast(lengths, "int32")[:, None]
    return ops.take_along_axis(x, ops.where(t < n, n - 1 - t, t)[..., None], axis=1)
