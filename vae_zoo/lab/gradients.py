"""How noisy the estimates of a gradient are: that of q's moments, for one image, draw by draw.

Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", ICML 2018,
arXiv:1802.04537: the signal-to-noise ratio of the encoder's gradient falls as k^-1/2. Tucker et al.
2019, arXiv:1810.04152 (DReG): doubly reparametrised it grows as k^1/2. Williams 1992 (REINFORCE),
as Mnih and Gregor 2014, arXiv:1402.0030, use it for the ELBO.
"""

import numpy as np
from keras import ops

from vae_zoo.engine import backend
from vae_zoo.models.iwae import IWAE
from vae_zoo.parts.bounds import weights_of
from vae_zoo.parts.posteriors import DiagonalGaussian


class FreePosterior(IWAE):
    """An IWAE whose posterior has moments of its own, as many copies of them as there are examples:
    the gradient of the summed loss then holds as many independent estimates of one gradient."""

    def free(self, model, x, copies):
        """The decoder of another model, and its posterior of one example x, prepared."""
        for mine, its in zip(self.decoder.variables, model.decoder.variables):
            mine.assign(its)
        q = model.posterior(x)
        moments = ops.repeat(ops.stack([q.mean, q.log_var]), copies, axis=1)
        self.moments = self.add_weight(moments.shape, name="moments")
        self.moments.assign(moments)
        return self

    def posterior(self, x, y=None, training=False):
        moments = ops.convert_to_tensor(self.moments)
        return DiagonalGaussian(moments[0], moments[1])

    def score_loss(self, x, baseline):
        """Whose gradient is REINFORCE's, -(log w - b) grad log q(z|x), at a z that is held; the
        baseline b is the mean log w of the other copies, or 0."""
        q = self.posterior(x)
        z = ops.stop_gradient(q.sample(self.draw, 1))
        drawn = self.likelihood_parameters(z), self.prior.log_prob(z), q.log_prob(z)
        signal = ops.stop_gradient(weights_of(self.terms_of(x, drawn)))
        if baseline:
            copies = signal.shape[1]
            signal = signal - (ops.sum(signal) - signal) / (copies - 1)
        return -(signal * q.log_prob(z))[0]


def estimates(model, x, k=1, kind="plain", copies=500, seed=0) -> np.ndarray:
    """Estimates of the gradient of the loss -L_k with respect to q's moments, for one example.

    Args:
        model: trained `IWAE`, or a `DenseVAE`.
        x: one example (1, *shape); bits where the likelihood is Bernoulli.
        k: int, draws of the bound; 1 for REINFORCE.
        kind: "plain", "doubly" (reparametrised), "reinforce" or "baseline".
        copies: int, estimates.
        seed: int, of their noise.

    Returns:
        NumPy (copies, 2, latent_dim): those of the mean and of the log-variance.
    """
    same, config = ("shape", "latent_dim", "hidden", "activation", "likelihood"), model.get_config()
    config = {**{name: config[name] for name in same}, "num_samples": k}
    x = model.prepare(x)
    free = FreePosterior(**config, doubly_reparametrized=kind == "doubly").free(model, x, copies)
    x = ops.repeat(x, copies, axis=0)

    def loss():
        with free.noise_from(seed):
            if kind in ("plain", "doubly"):
                each = free.objective(x, training=True)["loss"]
            else:
                each = free.score_loss(x, kind == "baseline")
        return ops.sum(each), {"loss": each}

    others = [v for v in free.variables if v is not free.moments]
    _, (found,) = backend.value_and_gradients(loss, (), [free.moments], others)
    return np.moveaxis(np.float64(ops.convert_to_numpy(found)), 1, 0)


def signal_to_noise(model, images, ks=(1, 2, 5, 10, 20, 50), copies=500, seed=0) -> dict:
    """|mean| / standard deviation of the two gradients of the bound against k.

    Returns:
        dict, "plain" and "doubly reparametrised" -> list, for each k the mean over the moments of
        the latents that are used, and over images.
    """
    kinds = {"plain": "plain", "doubly reparametrised": "doubly"}
    found = {name: [] for name in kinds}
    for name, kind in kinds.items():
        for k in ks:
            ratios = []
            for x in images:
                each = _used(model, x, estimates(model, x[None], k, kind, copies, seed))
                ratios.append((np.abs(each.mean(0)) / each.std(0, ddof=1)).mean())
            found[name].append(float(np.mean(ratios)))
    return found


def variances(model, images, copies=500, seed=0) -> dict:
    """Variance of estimates of the ELBO's gradient: the sum over the moments of the latents that
    are used, mean over images; a dict, by the name of the estimate."""
    kinds = {
        "REINFORCE": "reinforce",
        "with a baseline": "baseline",
        "reparametrised": "plain",
        "by way of z alone": "doubly",
    }
    found = {}
    for name, kind in kinds.items():
        each = [_used(model, x, estimates(model, x[None], 1, kind, copies, seed)) for x in images]
        found[name] = float(np.mean([values.var(0, ddof=1).sum() for values in each]))
    return found


def _used(model, x, gradients, least=0.01):
    """Gradients (copies, moments) of the latents that have a KL."""
    kl = ops.convert_to_numpy(model.latent_kl(model.prepare(x[None])))[0]
    return gradients[:, :, kl > least].reshape(len(gradients), -1)
