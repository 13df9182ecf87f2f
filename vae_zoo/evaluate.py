"""Numbers of a trained model on held-out data, the same code for every family.

Each number is a dict with `value`, `unit`, `protocol` and, where it is a mean over images,
`standard_error` (over images).
"""

import math

import numpy as np
from keras import ops

from vae_zoo.base import EVALUATION_SEED, BaseVAE


def measure(
    model, x, y=None, num_samples=1000, elbo_samples=16, train_variance=None, progress=None
):
    """ELBO, importance-weighted NLL, active units and reconstruction error.

    Args:
        model: a `BaseVAE` or an `Autoencoder`.
        x: held-out images (n, *image_shape); fixed bits where the likelihood is Bernoulli.
        y: labels or None.
        num_samples: int, k of the importance-weighted bound; 0 leaves it out.
        elbo_samples: int, draws of z per image that the ELBO is averaged over.
        train_variance: variance of all training pixels in [0, 1]; None leaves `relative_mse` out.
        progress: wraps the iterable of batches, `tqdm.tqdm` say.

    Returns:
        dict, name -> number: elbo, rate, distortion, nll_iw<k> (nats); bits_per_dim for 8-bit
        likelihoods; active_units; relative_mse, psnr.
    """
    numbers = {}
    if isinstance(model, BaseVAE):
        numbers.update(_bounds(model, x, y, num_samples, elbo_samples, progress))
    latents = model.encode(x)
    numbers["active_units"] = _number(
        active_units(latents), "units", f"of {latents[0].size}: variance of the mean over x > 0.01"
    )
    errors = np.float64(model.run("squared_error", _squared_error(model), x))
    psnr = -10 * np.log10(np.maximum(errors, 1e-12))
    numbers["psnr"] = _mean(psnr, "dB", "of the reconstruction at the posterior mean")
    if train_variance is not None:
        protocol = "mean squared error / variance of all training pixels"
        numbers["relative_mse"] = _mean(errors / train_variance, "", protocol)
    return numbers


def active_units(latents):
    """Latents whose mean varies with the image: Var_x E[z|x] > 0.01 (Burda et al. 2016,
    arXiv:1509.00519, section 5.1). `latents` are posterior means (n, ...); returns an int."""
    return int(np.sum(latents.reshape(len(latents), -1).var(axis=0) > 0.01))


def _bounds(model, x, y, num_samples, elbo_samples, progress):
    def terms(x, y=None):
        outputs = model.objective(model.prepare(x), y, training=False)
        return ops.stack([outputs[k] for k in ("elbo", "kl", "reconstruction")], axis=1)

    x = np.asarray(x)
    arrays = (x,) if y is None else (x, np.asarray(y))
    draws = [
        model.run("terms", terms, *arrays, seed=EVALUATION_SEED + i) for i in range(elbo_samples)
    ]
    elbo, rate, distortion = np.mean(draws, axis=0, dtype="float64").T
    protocol = f"mean of {elbo_samples} samples, {len(x):,} images"
    numbers = {
        "elbo": _mean(elbo, "nats", protocol),
        "rate": _mean(rate, "nats", "KL(q(z|x) || p(z))"),
        "distortion": _mean(distortion, "nats", "-E log p(x|z)"),
    }
    if type(model.likelihood).__name__ == "DiscretizedLogistic":
        bits = -elbo / (math.log(2) * x[0].size)
        numbers["bits_per_dim"] = _mean(bits, "bits/dim", "-ELBO over all pixels and channels")
    if num_samples:
        nll = -model.log_likelihood(x, y, num_samples=num_samples, progress=progress)
        protocol = f"{num_samples:,} importance samples, {len(x):,} images"
        numbers[f"nll_iw{num_samples}"] = _mean(nll, "nats", protocol)
    return numbers


def _squared_error(model):
    def error(x):  # inside a compiled function: no set of reconstructions is ever held in memory
        images = model.images(x)
        return ops.mean(ops.square(images - model.generate(model.infer(images))), axis=(1, 2, 3))

    return error


def _number(value, unit, protocol):
    return {"value": value, "unit": unit, "protocol": protocol}


def _mean(values, unit, protocol):
    error = float(values.std() / math.sqrt(len(values)))
    return {**_number(float(values.mean()), unit, protocol), "standard_error": error}
