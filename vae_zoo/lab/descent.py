"""Denoising by gradient descent on |x - y|^2 - weight · EPLL(x).

Zoran and Weiss 2011 (see `restoration.py`) minimise lambda / 2 |x - y|^2 - EPLL(x), which has the
same minima at weight = 2 / lambda = 2 sigma^2 / n for patches of n pixels.
"""

import functools

import numpy as np
from keras import ops

from vae_zoo.lab.restoration import BETAS, cut, image, summed
from vae_zoo.models.gaussian_mixture import GaussianMixture

ROWS = 1024  # patches at a time


def smoothed(prior, noise):
    """The density of x + N(0, noise^2 I) for x of a mixture: another mixture.

    Args:
        prior: `GaussianMixture`.
        noise: float, standard deviation in units of x.
    """
    new = GaussianMixture.from_config(prior.get_config())
    new.set_weights(prior.get_weights())
    _, _, values, vectors = prior.spectra()
    precisions = np.einsum("kij,kj,klj->kil", vectors, 1 / (values + noise**2), vectors)
    # P = L L^T with L lower triangular, of the entries in reverse order: F F^T with F upper.
    factors = np.linalg.cholesky(precisions[:, ::-1, ::-1])[:, ::-1, ::-1]
    new.factors.assign(factors.astype("float32"))
    return new


def descend(y, prior, sigma, weight=None, smoothing=None, steps=50, progress=None):
    """Denoises an image, the lecture's way.

    The gradient of EPLL = sum_i log p(R_i x) is sum_i R_i^T s(R_i x) with the score
    s(p) = -sum_k r_k(p) (C_k + smoothing^2 I)^-1 (p - m_k), r the responsibilities.

    Args:
        y: image (height, width), uint8 or float in [0, 1] give or take the noise.
        prior: `GaussianMixture` of patches.
        sigma: float, standard deviation of the noise in units of the range [0, 1].
        weight: float, of EPLL; None takes 2 sigma^2 / n.
        smoothing: float, noise that patches are taken to have, without which the least variances
            would ask for thousands of small steps; None takes sigma / sqrt(32), that of the last
            level of `restore`.
        steps: int.
        progress: wraps the iterable of steps, `tqdm.tqdm` say.

    Returns:
        NumPy float32 (height, width), and the objective at the start and after each step: a list.
    """
    y = image(y)
    if y.ndim != 2 or not sigma > 0 or not isinstance(prior, GaussianMixture):
        raise ValueError(
            "`y` must be (height, width), `sigma` positive, `prior` a GaussianMixture. "
            f"Received: shape={y.shape}, sigma={sigma}, a {type(prior).__name__}"
        )
    shape = prior.shape[:2]
    size = shape[0] * shape[1]
    weight = 2 * sigma**2 / size if weight is None else weight
    smoothing = sigma / np.sqrt(BETAS[-1]) if smoothing is None else smoothing
    density = smoothed(prior, smoothing)
    # No curvature is above 2 + weight · (patches over a pixel) / (least variance).
    rate = 1 / (2 + weight * size / density.spectra()[2].min())
    rows, columns = (np.arange(n - side + 1) for n, side in zip(y.shape, shape))

    def value_and_gradient(x):
        log_probs, scores = scores_of(density, cut(x, rows, columns, shape))
        gradient = 2 * (x - y) - weight * summed(scores, rows, columns, shape, y.shape)[0]
        return float(np.sum((x - y) ** 2) - weight * np.sum(log_probs, dtype="float64")), gradient

    x = y
    value, gradient = value_and_gradient(x)
    values = [value]
    for _ in range(steps) if progress is None else progress(range(steps)):
        x = x - rate * gradient
        value, gradient = value_and_gradient(x)
        values.append(value)
    return np.float32(x), values


def scores_of(prior, patches):
    """log p (n,) and its gradient (n, size) of flat NumPy patches (n, size)."""
    score = functools.partial(_score, prior)
    return prior.run("score", score, patches.reshape(-1, *prior.shape), batch_size=ROWS)


def _score(prior, x):
    c = prior.coordinates(x)
    joint = prior.log_joint(x)
    log_prob = ops.logsumexp(joint, axis=-1)
    r = ops.exp(joint - log_prob[:, None])
    factors, score = ops.triu(ops.convert_to_tensor(prior.factors)), 0.0
    for k in range(prior.components):
        centred = c if prior.means is None else c - ops.convert_to_tensor(prior.means)[k]
        precise = ops.matmul(ops.matmul(centred, factors[k]), ops.transpose(factors[k]))
        score = score - r[:, k : k + 1] * precise
    if prior.basis is not None:
        score = ops.matmul(score, ops.transpose(ops.convert_to_tensor(prior.basis)))
    return log_prob, score
