"""Numbers of a trained model on held-out data, the same code for every family.

`measure` takes arrays, `evaluate` the name of a data set. Each number is a dict with `value`,
`unit`, `protocol` and, where it is a mean over images, `standard_error` (over images).
"""

import math

import keras
import numpy as np
from keras import ops

from vae_zoo import data, metrics, priors
from vae_zoo.base import EVALUATION_SEED, BaseVAE

PROBE_IMAGES = 10_000  # that a probe is fitted to, at most
MIXTURE_COMPONENTS = 10


def evaluate(
    model,
    dataset,
    importance_samples=1000,
    importance_images=None,
    elbo_samples=16,
    classifier=None,
    seed=0,
    progress=None,
):
    """All numbers of a model on the test split of a data set, and controls to read them by.

    Args:
        model: a `BaseVAE` or an `Autoencoder`.
        dataset: as `data.load` takes it. Bernoulli likelihoods see fixed test bits.
        importance_samples, elbo_samples, progress: see `measure`.
        importance_images: int, test images that the importance-weighted bound is taken over, the
            first ones; None for all.
        classifier: None, or a Keras model of images in [0, 1] whose output are features: gives
            `cnn_fid` (see `zoo.classifier`).
        seed: int, of samples, mixtures and the random encoder.

    Returns:
        dict, name -> number: those of `measure`; ssim; kl_per_latent; with a classifier cnn_fid of
        samples from the prior, cnn_fid_gaussian_mixture of samples from a mixture fitted to the
        codes of training images, cnn_fid_floor of training images; with labels probe_accuracy of
        the codes, and of pixels and of the same encoder untrained as controls.
    """
    binary = isinstance(model, BaseVAE) and model.likelihood.binary
    splits = {split: data.load(dataset, split) for split in data.SPLITS}
    (x_train, _), (x_grey, _) = splits["train"], splits["test"]
    x, y = splits["test"]
    x = data.binarize(x) if binary else x
    some = x_train[_spread(len(x_train))]
    numbers = measure(
        model,
        np.asarray(x[:]),
        num_samples=importance_samples,
        num_images=importance_images,
        elbo_samples=elbo_samples,
        train_variance=pixel_variance(x_train),
        progress=progress,
    )
    if min(model.image_shape[:2]) >= 11:
        reconstructions = model.decode(model.encode(x))
        similarity = metrics.ssim(reconstructions, np.asarray(x[:]) / 255.0)
        numbers["ssim"] = _mean(similarity, "", "of the reconstruction at the posterior mean")
    if hasattr(model, "kl_per_latent"):
        kl = model.kl_per_latent(x[:10_000]).ravel()
        numbers["kl_per_latent"] = _number(kl.tolist(), "nats", "mean over images of each latent")
    continuous = model.latent_dtype == "float32"
    if classifier is not None:
        numbers.update(_sample_quality(model, classifier, some, x_grey[:], seed))
    if y is not None and continuous:
        parts = [(x[:PROBE_IMAGES], y[:PROBE_IMAGES]) for x, y in splits.values()]
        if binary:  # what the encoder was made for
            parts = [(data.binarize(x), y) for x, y in parts]
        numbers.update(_probes(model, parts, seed))
    return numbers


def measure(
    model,
    x,
    y=None,
    num_samples=1000,
    num_images=None,
    elbo_samples=16,
    train_variance=None,
    progress=None,
):
    """ELBO, importance-weighted NLL, active units and reconstruction error.

    Args:
        model: a `BaseVAE` or an `Autoencoder`.
        x: held-out images (n, *image_shape); fixed bits where the likelihood is Bernoulli.
        y: labels or None.
        num_samples: int, k of the importance-weighted bound; 0 leaves it out.
        num_images: int, images that it is taken over, the first ones; None for all.
        elbo_samples: int, draws of z per image that the ELBO is averaged over.
        train_variance: variance of all training pixels in [0, 1]; None leaves `relative_mse` out.
        progress: wraps the iterable of batches, `tqdm.tqdm` say.

    Returns:
        dict, name -> number: elbo, rate, distortion, nll_iw<k> (nats); bits_per_dim for 8-bit
        likelihoods; active_units; relative_mse, psnr.
    """
    numbers = {}
    if isinstance(model, BaseVAE):
        numbers.update(_bounds(model, x, y, num_samples, num_images, elbo_samples, progress))
    latents = model.encode(x)
    if model.latent_dtype == "int32":
        numbers.update(_usage(latents, model.codes, numbers["rate"]))
    else:
        protocol = f"of {latents[0].size}: variance of the mean over x > 0.01"
        numbers["active_units"] = _number(metrics.active_units(latents), "units", protocol)
    errors = np.float64(model.run("squared_error", _squared_error(model), x))
    numbers["psnr"] = _mean(metrics.psnr(errors), "dB", "of the reconstruction at the mean")
    if train_variance is not None:
        protocol = "mean squared error / variance of all training pixels"
        numbers["relative_mse"] = _mean(errors / train_variance, "", protocol)
    return numbers


def pixel_variance(x):
    """Variance of the pixels in [0, 1] of uint8 images, of 10,000 spread over them at most."""
    return float(np.var(x[_spread(len(x))] / 255.0))


def _spread(n):
    return np.linspace(0, n - 1, min(10_000, n)).astype(int)


def _bounds(model, x, y, num_samples, num_images, elbo_samples, progress):
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
    bits = lambda nats: nats / (math.log(2) * x[0].size)  # noqa: E731
    eight_bits = type(model.likelihood).__name__ == "DiscretizedLogistic"
    if eight_bits:
        numbers["bits_per_dim"] = _mean(bits(-elbo), "bits/dim", "-ELBO over pixels and channels")
    if num_samples:
        first = [array[:num_images] for array in arrays]
        nll = -model.log_likelihood(*first, num_samples=num_samples, progress=progress)
        protocol = f"{num_samples:,} importance samples, {len(nll):,} images"
        numbers[f"nll_iw{num_samples}"] = _mean(nll, "nats", protocol)
        if eight_bits:
            numbers[f"bits_per_dim_iw{num_samples}"] = _mean(bits(nll), "bits/dim", protocol)
    return numbers


def _usage(codes, size, rate):
    """How a codebook is used over a whole set, and what a code costs under the prior."""
    used, perplexity = metrics.code_usage(codes, size)
    each = math.log(2) * codes[0].size
    bits = {key: rate[key] / each for key in ("value", "standard_error")}
    protocol = f"of {size} codes, over all places of all test images"
    return {
        "codes_used": _number(used, "", "share " + protocol),
        "perplexity": _number(perplexity, "codes", protocol),
        "bits_per_code": {**_number(None, "bits", f"-log2 p(codes) / {codes[0].size}"), **bits},
    }


def _squared_error(model):
    def error(x):  # inside a compiled function: no set of reconstructions is ever held in memory
        images = model.images(x)
        return ops.mean(ops.square(images - model.generate(model.infer(images))), axis=(1, 2, 3))

    return error


def _codes(model, x, seed):
    """What a prior is fitted to: draws z ~ q(z|x) of a VAE, the codes of an autoencoder."""
    if not isinstance(model, BaseVAE):
        return model.encode(x)
    draw = lambda x: model.sample_posterior(model.prepare(x), 1)[0][0]  # noqa: E731
    return model.run("codes", draw, x, seed=seed)


def _sample_quality(model, classifier, x_train, x_test, seed):
    """Fréchet distances of classifier features to those of the grey-level test images."""
    n = len(x_test)
    features = lambda images: classifier.predict(images, batch_size=256, verbose=0)  # noqa: E731
    test = features(x_test / np.float32(255))
    to_test = lambda images: metrics.frechet_distance(features(images), test)  # noqa: E731
    protocol = f"features of {n:,} means of p(x|z) and of {n:,} test images; z from "
    numbers = {}
    if isinstance(model, BaseVAE):
        value = to_test(model.sample(n, seed=seed))
        numbers["cnn_fid"] = _number(value, "", protocol + "the prior")
    codes = _codes(model, x_train, seed) if model.latent_dtype == "float32" else ()
    # A full covariance of many latents would be fitted to noise and take gigabytes.
    if len(codes) and codes[0].size <= 256 and len(codes) > 10 * codes[0].size:
        mixture = priors.GaussianMixture.fit(codes, MIXTURE_COMPONENTS, seed=seed)
        z = ops.convert_to_numpy(mixture.sample(n, seed=seed))
        numbers["cnn_fid_gaussian_mixture"] = _number(
            to_test(model.decode(z)),
            "",
            protocol + f"a mixture of {MIXTURE_COMPONENTS} Gaussians fitted to training codes",
        )
    numbers["cnn_fid_floor"] = _number(
        to_test(x_train[:n] / np.float32(255)), "", f"{min(n, len(x_train)):,} training images"
    )
    return numbers


def _probes(model, parts, seed):
    """Linear probes of codes, and two controls: what pixels and an untrained encoder give."""
    keras.utils.set_random_seed(seed)
    untrained = type(model).from_config(model.get_config())
    extractors = {
        "": ("codes", model.encode),
        "_pixels": ("pixels", lambda x: x / np.float32(255)),
        "_untrained": ("codes of the same encoder, untrained", untrained.encode),
    }
    numbers = {}
    for suffix, (what, extract) in extractors.items():
        accuracy = metrics.probe_accuracy(*((extract(x), y) for x, y in parts))
        n = len(parts[-1][0])
        numbers[f"probe_accuracy{suffix}"] = {
            **_number(accuracy, "", f"logistic regression of {what}, {len(parts[0][0]):,} labels"),
            "standard_error": math.sqrt(accuracy * (1 - accuracy) / n),
        }
    return numbers


def _number(value, unit, protocol):
    return {"value": value, "unit": unit, "protocol": protocol}


def _mean(values, unit, protocol):
    error = float(values.std() / math.sqrt(len(values)))
    return {**_number(float(values.mean()), unit, protocol), "standard_error": error}
