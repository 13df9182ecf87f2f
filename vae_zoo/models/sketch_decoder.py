"""Sketch-RNN without an encoder: an exact density of sketches, stroke after stroke.

Ha and Eck, "A Neural Representation of Sketch Drawings", ICLR 2018, arXiv:1704.03477, section 3.3
("unconditional generation"). Original code: magenta/models/sketch_rnn (Apache-2.0), read, not
copied. Differs from the paper as `sketch_rnn.py` does.
"""

import keras
import numpy as np

from vae_zoo.engine.checks import check_count
from vae_zoo.models.drawing import Drawing
from vae_zoo.models.kinds import Density
from vae_zoo.parts import strokes


@keras.saving.register_keras_serializable("vae_zoo")
class SketchDecoder(Drawing, Density):
    """log p(x) = sum_i log p(dx_i, dy_i | before) + log q(pen_i | before)             (eq. 3, 9)

    An LSTM sees the row before; its output are the parameters of `strokes.StrokeMixture`.

    Args:
        points: int, N_max, the most that a sketch has.
        units: int, of the LSTM (512 in the original code, a HyperLSTM of 2048 in the paper).
        components: int, M, Gaussians of the mixture (20 in the paper).
        normalized: True normalises the gates of the cells; they then run in a loop, not by the
            engine's kernel.
        dropout: float, recurrent dropout while training (0.1 in the paper).
        seed, skip_threshold: see `Trainable`.

    Input: float (batch, rows, 5), see `strokes.Strokes`.
    Output: the same of each row given those before it: mean offset, probabilities of the pen.
    Logs: nll, exact (nats per sketch).

    Example:
        model = SketchDecoder(points=24, units=8, components=2)
        model.compile("adam")
        model.fit(sketches, epochs=1)
        new = model.sample(2, temperature=0.5)
    """

    loops = True

    def __init__(
        self,
        points=250,
        units=256,
        components=20,
        normalized=False,
        dropout=0.0,
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        super().__init__(
            strokes.Strokes(points),
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.likelihood = strokes.StrokeMixture(components)
        size = self.likelihood.num_parameters()
        self.decoder = strokes.StrokeDecoder(
            units, size, normalized=normalized, dropout=dropout, dtype="float32"
        )
        self.points, self.units, self.components = points, units, components
        self.normalized, self.dropout = normalized, dropout

    def log_prob(self, x, y=None):
        return self.likelihood.log_prob(x, self.decoder(x))

    def call(self, x):
        x = self.domain.tensor(x)
        return self.likelihood.mean(self.decoder(x))

    def objective(self, x, y=None, training=False):
        parameters = self.decoder(x, draw=self.draw if training else None)
        nll = -self.likelihood.log_prob(x, parameters)
        return {"loss": nll, "nll": nll}

    def sample(self, n, y=None, seed=None, temperature=1.0) -> np.ndarray:
        """n new sketches, NumPy (n, points + 1, 5); args as of `complete`."""
        self.check_labels(y)
        check_count(n)
        return self.complete(np.zeros((n, 0, 5)), temperature, seed)

    def complete(self, begun, temperature=1.0, seed=None) -> np.ndarray:
        """Sketches that go on as others begin.

        Args:
            begun: (n, rows, 5), the first rows of sketches, without an end; rows may be 0.
            temperature: float >= 0; of logits, and of variances. 1 draws from the density, 0 takes
                the likeliest row each time.
            seed: int, a `SeedGenerator`, or None to draw one.

        Returns:
            NumPy float32 (n, points + 1, 5).
        """
        return self._drawn(begun, temperature, seed)
