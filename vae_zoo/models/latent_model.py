"""Two kinds of models: an exact density, and an encoder with a decoder; see `kinds.py`."""

import keras
import numpy as np

from vae_zoo.engine import checks
from vae_zoo.engine.trainable import EVALUATION_SEED, Trainable
from vae_zoo.parts import domains


def each(function, *latents):
    """`function` of arrays, or of each of the groups of latents that tuples hold."""
    if not isinstance(latents[0], tuple):
        return function(*latents)
    return tuple(function(*group) for group in zip(*latents, strict=True))


def given(y):
    """Labels as a last argument, or none."""
    return () if y is None else (y,)


class _WithData(Trainable):
    """What the kinds share: x of a domain, and y where a condition says so."""

    def __init__(self, domain, condition=None, **kwargs):
        super().__init__(**kwargs)
        self.domain, self.condition = domain, domains.get(condition)

    def prepare_labels(self, y):
        if self.condition is None:  # of a labelled data set, which need not be stripped of them
            return None
        if y is None:
            self.check_labels(y)
        self.condition.check(y, "`y`")
        return self.condition.tensor(y)

    def labels(self, y):
        """Labels of a call of its own, not of a data set: superfluous ones are a `ValueError`."""
        if self.condition is None and y is not None:
            self.check_labels(y)
        return self.prepare_labels(y)

    def _arrays(self, x, y):
        """Checked NumPy arrays (x,), or (x, y) where labels are taken."""
        x = self.check_data(x if hasattr(x, "__array__") or not hasattr(x, "shape") else x[:])
        y = self.check_labels(y)
        if y is not None and len(y) != len(x):
            raise ValueError(f"`y` must have {len(x)} labels. Received: {len(y)}")
        return (x, *given(y))

    def _repeated(self, y, n):
        """Labels of n examples, from n of them or one."""
        if y is not None and self.condition is not None:
            one = np.ndim(y) == len(self.condition.shape)
            y = np.asarray(y)[None] if one else y
        y = self.check_labels(y)
        if y is None or len(y) == n:
            return y
        if len(y) != 1:
            raise ValueError(f"`y` must be one label, or {n}. Received: {len(y)}")
        return np.repeat(y, n, axis=0)


class Density(_WithData):
    """A `Trainable` with an exact density: `log_prob` and `sample`; it plays the role of a prior.

    Families write these two, and `call`.

    Args:
        domain: `Domain` of x.
        condition: None, a number of classes, or the `Domain` of y.
        seed, skip_threshold: see `Trainable`.
    """

    logged = ("nll",)

    def log_prob(self, x, y=None):
        """Exact log p(x|y) of tensors (..., *shape), as `prepare` returns them: (...), nats."""
        raise NotImplementedError

    def sample(self, n, y=None, seed=None) -> np.ndarray:
        """n examples, NumPy (n, *shape); `seed` is an int, a `SeedGenerator` or None."""
        raise NotImplementedError

    def objective(self, x, y=None, training=False):
        nll = -self.log_prob(x, y)
        return {"loss": nll, "nll": nll}

    def log_likelihood(self, x, y=None, batch_size=256, seed=EVALUATION_SEED) -> np.ndarray:
        """Exact log p(x|y) of NumPy examples: float64 (n,), nats. Where grey levels become bits
        they are drawn by `seed`."""

        def log_prob(x, *y):
            return self.log_prob(self.prepare(x), *map(self.prepare_labels, y))

        arrays = self._arrays(x, y)
        return np.float64(self.run("log_prob", log_prob, *arrays, batch_size=batch_size, seed=seed))


class LatentModel(_WithData):
    """A `Trainable` that encodes examples to latents, and decodes them.

    `infer(x)` and `generate(z)` are what families write: latents of examples and examples of
    latents, as tensors, inside a graph. `encode`, `decode`, `reconstruct` and `interpolate` run
    them over NumPy arrays of any length, compiled, batch by batch. Where the model takes labels y
    all of them do, by the keyword `y`.

    Args:
        domain: `Domain` of x.
        latent_domain: `Domain` of z, or a tuple of such, of several groups of latents.
        condition: None, a number of classes, or the `Domain` of y.
        parts: dict, attribute -> layers, set in this order, which is that of the variables.
        seed, skip_threshold, logged: see `Trainable`.
    """

    def __init__(self, domain, latent_domain, condition=None, parts=None, **kwargs):
        super().__init__(domain, condition, **kwargs)
        self.latent_domain = latent_domain
        for name, layers in (parts or {}).items():
            setattr(self, name, layers)

    @property
    def latent_shape(self):
        """Shape of one example's latents; of several groups a tuple of shapes."""
        return each(lambda group: group.shape, self.latent_domain)

    def infer(self, x, y=None):
        """Examples, float32 tensors as `domain.tensor` returns them -> latents."""
        raise NotImplementedError

    def generate(self, z, y=None):
        """Latents -> examples (batch, *shape) in data space."""
        raise NotImplementedError

    def call(self, x):
        x, y = x if self.condition is not None else (x, None)
        y = self.prepare_labels(y)
        return self.generate(self.infer(self.domain.tensor(x), y), y)

    def encode(self, x, y=None, batch_size=256) -> np.ndarray | tuple:
        """Latents of examples: NumPy (n, *shape) -> NumPy (n, *latent_shape), the posterior means
        where the posterior has one; a tuple of such arrays where there are several groups."""

        def infer(x, *y):
            return self.infer(self.domain.tensor(x), *map(self.prepare_labels, y))

        return self.run("infer", infer, *self._arrays(x, y), batch_size=batch_size)

    def decode(self, z, y=None, batch_size=256) -> np.ndarray:
        """Examples of latents, as `encode` returns them: NumPy (n, *shape); of a `BaseVAE` these
        are means of p(x|z). Those of a Gaussian or Laplace likelihood may leave [0, 1]: pictures
        are clipped to it.

        Raises:
            ValueError: if a shape or a type is wrong.
        """
        z = each(lambda group: np.asarray(checks.array_of(group)), z)
        if isinstance(z, tuple) != isinstance(self.latent_domain, tuple) or (
            isinstance(z, tuple) and len(z) != len(self.latent_domain)
        ):
            raise ValueError(
                f"{type(self).__name__} takes latents of shape {self.latent_shape}, n of them. "
                f"Received: shape={each(np.shape, z)}"
            )
        each(lambda group, z: group.check(z, "Latents"), self.latent_domain, z)
        each(lambda group, z: group.check_values(z, "Latents"), self.latent_domain, z)
        y = self._repeated(y, len(keras.tree.flatten(z)[0]))

        def generate(z, *y):
            z = each(lambda group, z: group.tensor(z), self.latent_domain, z)
            return self.generate(z, *map(self.prepare_labels, y))

        return self.run("generate", generate, z, *given(y), batch_size=batch_size)

    def reconstruct(self, x, y=None, batch_size=256) -> np.ndarray:
        """`decode` of `encode`: NumPy (n, *shape)."""
        return self.decode(self.encode(x, y, batch_size), y, batch_size)

    def interpolate(self, start, end, steps=10, y=None) -> np.ndarray:
        """Examples on the straight lines between the latents of two sets of examples.

        Args:
            start, end: examples (n, *shape).
            steps: int, examples on a line, both ends included.
            y: labels (n,) of both, where the model takes some.

        Returns:
            NumPy (n, steps, *shape).
        """
        start, end = self._ends(start, end)
        y = self._repeated(y, len(start))
        return self._between(self.encode(start, y), self.encode(end, y), steps, y, self.decode)

    def _ends(self, start, end):
        """Both ends of lines, checked, NumPy."""
        start, end = self.check_data(start, "`start`"), self.check_data(end, "`end`")
        if len(start) != len(end):
            raise ValueError(
                "`start` and `end` must hold equally many examples. "
                f"Received: {len(start)} and {len(end)}"
            )
        return start, end

    def _between(self, first, last, steps, y, decode):
        """What `decode` makes of the straight lines between NumPy points (n, ...), or between
        tuples of such."""

        def lines(first, last):
            point = first.shape[1:]
            t = np.linspace(0, 1, steps, dtype="float32").reshape(1, steps, *[1] * len(point))
            return ((1 - t) * first[:, None] + t * last[:, None]).reshape(-1, *point)

        y = None if y is None else np.repeat(y, steps, axis=0)
        made = decode(each(lines, first, last), y)
        return made.reshape(-1, steps, *made.shape[1:])
