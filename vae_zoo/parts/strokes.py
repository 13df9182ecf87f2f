"""Sketches: what one is, its density row by row, and the decoder that draws it.

A sketch is a table of rows (dx, dy, down, lifted, end): an offset from the point before and, one of
three, what the pen does next. After the last point all rows are ends. Ha and Eck 2018,
arXiv:1704.03477, section 3.2.
"""

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.parts.domains import Domain
from vae_zoo.parts.layers import check_sizes
from vae_zoo.parts.likelihoods import Likelihood
from vae_zoo.parts.recurrent import LSTM, last, reversed_rows

START = (0.0, 0.0, 1.0, 0.0, 0.0)  # what is before the first row
END = (0.0, 0.0, 0.0, 0.0, 1.0)


@keras.saving.register_keras_serializable("vae_zoo")
class Strokes(Domain):
    """Sketches in stroke-5, float (rows, 5), of at most `points` points and an end.

    Args:
        points: int, N_max.
    """

    plural = "sketches"

    def __init__(self, points):
        super().__init__((points + 1, 5))
        self.points = points

    def __str__(self):
        return (
            f"sketches of shape (batch, rows, 5), 2 to {self.points + 1} rows of dx, dy and one of "
            "down, lifted, end"
        )

    def is_shape(self, shape):
        rows = shape[1] if len(shape) == 3 else 0
        return len(shape) == 3 and shape[2] == 5 and (rows is None or 2 <= rows <= self.points + 1)

    def is_type(self, dtype):
        return "float" in dtype

    def check_values(self, x, what="`x`"):
        pen = x[..., 2:]
        wrong = {
            "an offset that is not finite": ~np.isfinite(x).all(axis=(1, 2)),
            "a pen state that is not one of three": ~(
                np.isin(pen, (0, 1)).all(axis=2) & (pen.sum(axis=2) == 1)
            ).all(axis=1),
            "no point": x[:, 0, 4] != 0,
            "no end": x[:, -1, 4] != 1,
            "a point after its end": (np.diff(x[..., 4], axis=1) < 0).any(axis=1),
        }
        for fault, of in wrong.items():
            if of.any():
                raise ValueError(f"{what}: sketch {np.argmax(of)} has {fault}. It must be {self}")

    def tensor(self, x):
        self.check(x)
        return ops.cast(x, "float32")

    def examples(self, n, rng):
        x = np.zeros((n, *self.shape), "float32")
        x[..., 4] = 1
        for sketch in x:
            length = rng.integers(1, self.points + 1)
            sketch[:length, :2] = rng.normal(size=(length, 2))
            lifted = rng.random(length) < 0.2
            sketch[:length, 2:] = np.stack([~lifted, lifted, lifted & False], axis=1)
        return x

    def pictures(self, x, size=64):
        """Drawn in black on white, each as large as fits: (..., size, size, 1)."""
        x = np.asarray(x)
        flat = [drawn(sketch, size) for sketch in x.reshape(-1, *x.shape[-2:])]
        return np.stack(flat).reshape(*x.shape[:-2], size, size, 1)

    def get_config(self):
        return {"points": self.points}


def lines(sketch):
    """The strokes of a sketch (rows, 5): a list of NumPy (points, 2), in its own units."""
    ends = sketch[:, 4] > 0.5
    sketch = sketch[: np.argmax(ends) if ends.any() else len(sketch)]
    places = np.cumsum(sketch[:, :2], axis=0)
    cuts = np.flatnonzero(sketch[:, 3] > 0.5) + 1
    return [part for part in np.split(places, cuts) if len(part)]


def framed(strokes, size, margin=0.06):
    """Strokes moved and scaled into a square of `size`, their shape kept."""
    points = np.concatenate(strokes) if strokes else np.zeros((1, 2))
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (1 - 2 * margin) * size / max(*(high - low), 1e-6)
    return [(part - (low + high) / 2) * scale + size / 2 for part in strokes]


def drawn(sketch, size):
    """A sketch (rows, 5) as an image (size, size, 1), float in [0, 1], black on white."""
    from PIL import Image, ImageDraw

    large = 4 * size  # drawn large and made smaller: lines are smooth then
    image = Image.new("L", (large, large), 255)
    pen = ImageDraw.Draw(image)
    finite = np.where(np.isfinite(sketch), sketch, 0)
    for part in framed(lines(finite), large):
        points = [tuple(point) for point in (part if len(part) > 1 else np.repeat(part, 2, axis=0))]
        pen.line(points, fill=0, width=6, joint="curve")
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, "float32")[..., None] / 255


def lengths(x):
    """Points of sketches, without the end: tensor int32 (batch,)."""
    return ops.sum(ops.cast(x[..., 4] < 0.5, "int32"), axis=-1)


# === Likelihood ===


@keras.saving.register_keras_serializable("vae_zoo")
class StrokeMixture(Likelihood):
    """p(row) = sum_j Pi_j N(dx, dy; mu_j, sigma_j, rho_j) * q(pen)                        (eq. 3)

    Bivariate Gaussians of offsets, of the points alone; the state of the pen of these and of the
    first end (the paper has it of all rows, the end again and again).

    Args:
        components: int, M (20 in the paper).
    """

    unbounded = True

    def __init__(self, components=20, **kwargs):
        super().__init__(**kwargs)
        check_sizes(components=components)
        self.components = components

    def num_parameters(self, channels=5):
        return 6 * self.components + 3

    def log_prob(self, x, parameters, batch_mean=None):
        """log p of sketches (batch, rows, 5), nats per sketch: (..., batch)."""
        offsets, pens = self.log_probs(x, parameters)
        return ops.sum(offsets, axis=-1) + ops.sum(pens, axis=-1)

    def log_probs(self, x, parameters):
        """Of the offset, and of the pen, of each row: two tensors (..., batch, rows), 0 where a
        term does not count."""
        weights, means, log_scales, rho, pen = self.split(parameters)
        normal = bivariate_log_prob(x[..., None, :2], means, log_scales, rho)
        offsets = ops.logsumexp(weights + normal, axis=-1)
        point = ops.cast(x[..., 4] < 0.5, "float32")
        # An end counts where a point is before it.
        counts = ops.concatenate([ops.ones_like(point[..., :1]), point[..., :-1]], axis=-1)
        return offsets * point, ops.sum(pen * x[..., 2:], axis=-1) * counts

    def split(self, parameters):
        """Of a decoder's output (eq. 5, 6): log Pi (..., M), mu and log sigma (..., M, 2), rho
        (..., M), log q (..., 3)."""
        m = self.components
        lead = tuple(ops.shape(parameters)[:-1])
        means, log_scales = (
            ops.reshape(parameters[..., k * m : (k + 2) * m], (*lead, m, 2)) for k in (1, 3)
        )
        weights = ops.log_softmax(parameters[..., :m], axis=-1)
        rho = 0.999 * ops.tanh(parameters[..., 5 * m : 6 * m])
        pen = ops.log_softmax(parameters[..., 6 * m :], axis=-1)
        return weights, means, ops.clip(log_scales, -9.0, 9.0), rho, pen

    def mean(self, parameters, channels=5):
        """The mean offset and the probabilities of the pen: (..., 5)."""
        weights, means, _, _, pen = self.split(parameters)
        offset = ops.sum(ops.exp(weights)[..., None] * means, axis=-2)
        return ops.concatenate([offset, ops.exp(pen)], axis=-1)

    def draw_row(self, parameters, temperature, uniform, normal, first):
        """One row x ~ p, (batch, 5), with logits / temperature and variances * temperature (eq. 8);
        at temperature 0 the mean of the likeliest component and the likeliest state of the pen.

        Args:
            parameters: (batch, 6 M + 3).
            temperature: float32 ().
            uniform, normal: noise (batch, 2).
            first: bool (); no sketch ends before its first point.
        """
        weights, means, log_scales, rho, pen = self.split(parameters)
        pen = pen - ops.where(first, 1e9, 0.0) * ops.convert_to_tensor([0.0, 0.0, 1.0])
        component = ops.one_hot(_chosen(weights, temperature, uniform[:, 0]), weights.shape[-1])
        pick = component[..., None]
        mean, scale = (
            ops.sum(pick * t, axis=-2) for t in (means, ops.exp(log_scales) * temperature**0.5)
        )
        rho = ops.sum(component * rho, axis=-1)
        across = rho * normal[:, 0] + ops.sqrt(1.0 - rho * rho) * normal[:, 1]
        offset = mean + scale * ops.stack([normal[:, 0], across], axis=-1)
        pen = ops.one_hot(_chosen(pen, temperature, uniform[:, 1]), 3)
        return ops.concatenate([offset * (1.0 - pen[:, 2:]), pen], axis=-1)

    def get_config(self):
        return {**super().get_config(), "components": self.components}


def _chosen(logits, temperature, uniform):
    """Places drawn from softmax(logits / temperature), by the inverse of the distribution; the
    largest at temperature 0. Tensors (batch, n), (), (batch,) -> int (batch,)."""
    best = ops.max(logits, axis=-1, keepdims=True)
    p = ops.softmax((logits - best) / ops.maximum(temperature, 1e-4), axis=-1)
    below = ops.cast(ops.cumsum(p, axis=-1) < uniform[:, None], "int32")
    place = ops.minimum(ops.sum(below, axis=-1), logits.shape[-1] - 1)
    return ops.where(temperature > 0, place, ops.argmax(logits, axis=-1))


def bivariate_log_prob(x, mean, log_scale, rho):
    """log N of two numbers with correlation rho (Graves 2013, arXiv:1308.0850, eq. 24-25), nats.

    Args:
        x, mean, log_scale: (..., 2); rho: (...), in (-1, 1).
    """
    d = (x - mean) * ops.exp(-log_scale)
    rest = 1.0 - rho * rho
    distance = ops.sum(d * d, axis=-1) - 2.0 * rho * d[..., 0] * d[..., 1]
    constant = ops.sum(log_scale, axis=-1) + 0.5 * ops.log(rest) + float(np.log(2 * np.pi))
    return -0.5 * distance / rest - constant


# === Networks ===


@keras.saving.register_keras_serializable("vae_zoo")
class StrokeEncoder(layers.Layer):
    """The last states of an LSTM forwards and of one backwards, and of these mean and log-variance
    of z (eq. 1, 2).

    Args:
        units, latent_dim: ints; normalized, dropout: see `LSTM`.
    """

    def __init__(self, units, latent_dim, normalized=False, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.forwards = LSTM(5, units, normalized, dropout, dtype="float32")
        self.backwards = LSTM(5, units, normalized, dropout, dtype="float32")
        small = keras.initializers.RandomNormal(stddev=0.001)
        self.heads = layers.Dense(2 * latent_dim, kernel_initializer=small, dtype="float32")
        self.heads.build((None, 2 * units))
        self.built = True

    def call(self, x, draw=None):
        n = lengths(x)
        both = [
            last(cell(sequence, draw=draw), n)
            for cell, sequence in ((self.forwards, x), (self.backwards, reversed_rows(x, n)))
        ]
        return ops.split(self.heads(ops.concatenate(both, axis=-1)), 2, axis=-1)


@keras.saving.register_keras_serializable("vae_zoo")
class StrokeDecoder(layers.Layer):
    """An LSTM that sees the row before and z, where there is one, and gives the parameters of the
    next row; its first state is tanh of a linear map of z (eq. 3, 4), or zero.

    Args:
        units, num_parameters: ints.
        latent_dim: int; 0 without z.
        normalized, dropout: see `LSTM`.
    """

    def __init__(
        self, units, num_parameters, latent_dim=0, normalized=False, dropout=0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.latent_dim = latent_dim
        self.cell = LSTM(5 + latent_dim, units, normalized, dropout, dtype="float32")
        self.output_layer = layers.Dense(num_parameters, dtype="float32")
        self.output_layer.build((None, units))
        self.start = None
        if latent_dim:
            self.start = layers.Dense(2 * units, activation="tanh", dtype="float32")
            self.start.build((None, latent_dim))
        self.built = True

    def state(self, z, batch):
        if self.start is None:
            return ops.zeros((batch, self.cell.units)), ops.zeros((batch, self.cell.units))
        h, c = ops.split(self.start(z), 2, axis=-1)
        return h, c

    def call(self, x, z=None, draw=None):
        """Parameters of each row, given those before it: (batch, rows, num_parameters)."""
        batch, rows = ops.shape(x)[0], x.shape[1]
        start = ops.tile(ops.convert_to_tensor(START, "float32"), (batch, 1, 1))
        before = ops.concatenate([start, x[:, :-1]], axis=1)
        if z is not None:
            before = ops.concatenate([before, ops.repeat(z[:, None], rows, axis=1)], axis=-1)
        h, c = self.state(z, batch)
        return self.output_layer(self.cell(before, h, c, draw=draw))

    def generate(self, likelihood, draw, begun, kept, temperature, z=None):
        """Sketches, row by row; a scan.

        Args:
            likelihood: `StrokeMixture`.
            draw: function of a shape and a distribution, the noise.
            begun: float32 (batch, rows, 5), whose first `kept` rows, int (batch,), are taken as
                they are; all others are drawn. The last row is an end.
            temperature: float32 ().
            z: (batch, latent_dim), or None.

        Returns:
            float32 (batch, rows, 5).
        """
        batch, rows = ops.shape(begun)[0], begun.shape[1]
        shape = (rows - 1, batch, 2)
        end = ops.convert_to_tensor(END, "float32")[None]

        def step(state, xs):
            before, h, c = state
            given, t, uniform, normal = xs
            seen = before if z is None else ops.concatenate([before, z], axis=-1)
            h, c = self.cell.step(ops.matmul(seen, self.cell.kernel), h, c)
            noise = uniform, normal
            row = likelihood.draw_row(self.output_layer(h), temperature, *noise, t == 0)
            row = ops.where((t < kept)[:, None], given, row)
            row = ops.where(before[:, 4:] > 0.5, end, row)
            return (row, h, c), (row, h, c)  # TensorFlow wants both alike

        first = ops.tile(ops.convert_to_tensor(START, "float32"), (batch, 1))
        xs = ops.swapaxes(begun, 0, 1)[:-1], ops.arange(rows - 1, dtype="int32")
        xs = (*xs, draw(shape, "uniform"), draw(shape, "normal"))
        _, (made, *_) = ops.scan(step, (first, *self.state(z, batch)), xs)
        ends = ops.tile(end, (batch, 1))[:, None]
        return ops.concatenate([ops.swapaxes(made, 0, 1), ends], axis=1)
