"""Sketch-RNN: a VAE of sketches, read by a bidirectional LSTM and drawn by another.

Ha and Eck, "A Neural Representation of Sketch Drawings", ICLR 2018, arXiv:1704.03477.
Original code: magenta/models/sketch_rnn (Apache-2.0), read, not copied.
Differs from the paper: nats are summed over points and latents, not averaged, so that the loss is
a bound; the state of the pen counts up to the first end, not over all padding; of a scale of 1 /
N_max in the reconstruction alone, as the paper has it, `beta` = N_max / N_z w_KL makes the same.
"""

import keras
import numpy as np
from keras import ops

from vae_zoo.models.drawing import Drawing
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import domains, strokes
from vae_zoo.parts.posteriors import DiagonalGaussian


@keras.saving.register_keras_serializable("vae_zoo")
class SketchRNN(Drawing, BaseVAE):
    """loss = -E_q log p(x|z) + beta max(KL(q(z|x) || N(0, I)), free_bits)            (eq. 9-11)

    p(x|z) = prod_i p(dx_i, dy_i | z, before) q(pen_i | z, before), `strokes.StrokeMixture`. The
    paper's annealing (eq. 11) is a schedule of beta, `schedules.Approach`; its floor KL_min is
    `free_bits`, of all latents together, on the mean of the batch.

    Args:
        points: int, N_max, the most that a sketch has.
        latent_dim: int, N_z (128 in the paper).
        units: int, of the decoder's LSTM (512 in the original code).
        encoder_units: int, of each of the encoder's (256 in the original code, 512 in the paper).
        components: int, M, Gaussians of the mixture (20 in the paper).
        normalized, dropout: see `SketchDecoder`.
        beta, prior: see `BaseVAE`.
        free_bits: float, nats that the KL of a sketch may use before it costs anything, while
            training (0.20 a latent in the paper: 25.6).
        seed, skip_threshold: see `Trainable`.

    Input: float (batch, rows, 5), see `strokes.Strokes`.
    Output: the same of each row given z_mean and those before it: mean offset, probabilities of the
    pen. Latent: z_mean (batch, latent_dim).
    Logs: reconstruction (-E log p(x|z)), kl, elbo (nats per sketch); beta where it is a schedule.

    Example:
        model = SketchRNN(points=24, latent_dim=2, units=8, encoder_units=8, components=2)
        model.compile("adam")
        model.fit(sketches, epochs=1)
        again = model.reconstruct(sketches, temperature=0.3)
    """

    loops = True

    def __init__(
        self,
        points=250,
        latent_dim=128,
        units=512,
        encoder_units=256,
        components=20,
        normalized=False,
        dropout=0.0,
        *,
        beta=1.0,
        prior=None,
        free_bits=0.0,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        likelihood = strokes.StrokeMixture(components)
        cells = {"normalized": normalized, "dropout": dropout, "dtype": "float32"}
        encoder = strokes.StrokeEncoder(encoder_units, latent_dim, **cells)
        decoder = strokes.StrokeDecoder(units, likelihood.num_parameters(), latent_dim, **cells)
        super().__init__(
            strokes.Strokes(points),
            domains.Arrays((latent_dim,)),
            likelihood,
            prior,
            beta,
            free_bits,
            parts={"encoder": encoder, "decoder": decoder},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.points, self.latent_dim, self.units = points, latent_dim, units
        self.encoder_units, self.components = encoder_units, components
        self.normalized, self.dropout = normalized, dropout

    def posterior(self, x, y=None, training=False):
        mean, log_var = self.encoder(x, draw=self.draw if training else None)
        return DiagonalGaussian(mean, ops.clip(log_var, -20.0, 10.0))

    def rows(self, x, z, training=False):
        """Parameters of p(row | z, rows before) of latents (n, batch, latent_dim)."""
        n, batch, _ = ops.shape(z)
        many = ops.tile(x, (n, 1, 1))
        draw = self.draw if training else None
        made = self.decoder(many, ops.reshape(z, (-1, self.latent_dim)), draw=draw)
        return ops.reshape(made, (n, batch, *made.shape[1:]))

    def objective(self, x, y=None, training=False):
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, 1)
        kl = self.kl(q, z, y)
        kl = ops.sum(ops.reshape(kl, (ops.shape(kl)[0], -1)), axis=-1, keepdims=True)
        return self.bound(x, self.rows(x, z, training), kl, training)

    def terms(self, x, y=None, num_samples=1, training=False):
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, num_samples)
        log_likelihood = self.likelihood.log_prob(x, self.rows(x, z, training))
        return log_likelihood, self.prior.log_prob(z), q.log_prob(z)

    def call(self, x):
        x = self.domain.tensor(x)
        return self.likelihood.mean(self.rows(x, self.infer(x)[None])[0])

    # === Drawing ===

    def decode(self, z, y=None, batch_size=64, temperature=0.0, seed=0) -> np.ndarray:
        """Sketches of latents, NumPy (n, points + 1, 5); the likeliest row each time, or drawn at a
        temperature."""
        z = np.asarray(z)
        self.latent_domain.check(z, "Latents")
        self.labels(y)
        nothing = np.zeros((len(z), 0, 5))
        return self._drawn(nothing, temperature, seed, np.float32(z), batch_size)

    def reconstruct(self, x, y=None, batch_size=64, temperature=0.0, seed=0) -> np.ndarray:
        """`decode` of `encode`."""
        return self.decode(self.encode(x, y), None, batch_size, temperature, seed)

    def sample(
        self, n, seed=None, pixels=False, batch_size=64, y=None, temperature=0.4
    ) -> np.ndarray:
        """New sketches, z from the prior: NumPy (n, points + 1, 5). `pixels=True` draws from p(x|z)
        as it is, which is temperature 1."""
        self.labels(y)
        seed = int(np.random.randint(2**31 - 1) if seed is None else seed)
        z = self.sample_latents(n, seed)
        return self.decode(z, None, batch_size, 1.0 if pixels else temperature, seed + 1)

    def complete(self, begun, temperature=0.4, seed=None, z=None) -> np.ndarray:
        """Sketches that go on as others begin; args as of `SketchDecoder.complete`.

        Args:
            z: latents (n, latent_dim), of whole sketches say; None draws them from the prior.
        """
        seed = int(np.random.randint(2**31 - 1) if seed is None else seed)
        z = self.sample_latents(len(begun), seed) if z is None else np.float32(z)
        return self._drawn(begun, temperature, seed + 1, z)
