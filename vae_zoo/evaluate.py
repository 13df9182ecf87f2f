"""Numbers of a trained model on held-out data, the same code for every family.

`measure` takes arrays, `evaluate` the name of a data set. Each number is a dict with `value`,
`unit`, `protocol` and, where it is a mean over images, `standard_error` (over images).
"""

import math

import keras
import numpy as np
from keras import ops

from vae_zoo import data, metrics, priors
from vae_zoo.base import EVALUATION_SEED, BaseVAE, LatentModel

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
        model: a `BaseVAE`, an `Autoencoder`, or a model with an exact density (`PixelCNN`).
        dataset: as `data.load` takes it. Where the model is of bits it sees fixed test bits.
        importance_samples, elbo_samples, progress: see `measure`.
        importance_images: int, test images that the importance-weighted bound is taken over, the
            first ones; None for all.
        classifier: None, or a Keras model of images in [0, 1] whose output are features: gives
            `cnn_fid` (see `zoo.classifier`).
        seed: int, of samples, mixtures and the random encoder.

    Returns:
        dict, name -> number: those of `measure`; ssim; kl_per_latent, of a hierarchy kl_per_group;
        with a classifier cnn_fid of samples from the prior, cnn_fid_gaussian_mixture of samples
        from a mixture fitted to the codes of training images, cnn_fid_uniform of uniform codes
        where a prior over codes was learned, cnn_fid_floor of training images; with labels
        probe_accuracy of the codes, and of pixels and of the same encoder untrained as controls; of
        a hierarchy, with both, identity_kept: of new images below groups held from test images.
    """
    latent = isinstance(model, LatentModel)
    exact_labels = not latent and model.condition_levels
    binary = sees_bits(model)
    splits = {split: data.load(dataset, split) for split in data.SPLITS}
    (x_train, _), (x_grey, _) = splits["train"], splits["test"]
    x, y = splits["test"]
    x = data.binarize(x) if binary else x
    some = x_train[_spread(len(x_train))]
    numbers = measure(
        model,
        np.asarray(x[:]),
        y if exact_labels else None,
        num_samples=importance_samples,
        num_images=importance_images,
        elbo_samples=elbo_samples,
        x_train=some,
        progress=progress,
    )
    if latent and min(model.image_shape[:2]) >= 11:
        reconstructions = model.decode(model.encode(x))
        similarity = metrics.ssim(reconstructions, np.asarray(x[:]) / 255.0)
        numbers["ssim"] = _mean(similarity, "", "of the reconstruction at the posterior mean")
    if hasattr(model, "kl_per_latent"):
        kl = model.kl_per_latent(x[:10_000])
        if isinstance(kl, tuple):
            groups = [float(group.sum()) for group in kl]
            protocol = "mean over images of each group, from the top"
            numbers["kl_per_group"] = _number(groups, "nats", protocol)
        else:
            protocol = "mean over images of each latent"
            numbers["kl_per_latent"] = _number(kl.ravel().tolist(), "nats", protocol)
    if classifier is not None:
        test = x if not latent else x_grey  # an exact density draws bits, a VAE shows means
        train = data.binarize(some) if not latent else some
        numbers.update(_sample_quality(model, classifier, train, test[:], seed))
    if y is not None and latent and model.latent_dtype == "float32":
        parts = [(x[:PROBE_IMAGES], y[:PROBE_IMAGES]) for x, y in splits.values()]
        if classifier is not None and isinstance(model.latent_shape[0], tuple):
            numbers["identity_kept"] = _identity(model, classifier, parts, binary, seed)
        if binary:  # what the encoder was made for
            parts = [(data.binarize(x), y) for x, y in parts]
        numbers.update(_probes(model, parts, seed))
    return numbers


def features(classifier, images):
    """What a classifier (see `zoo.classifier`) makes of uint8 images, or float ones in [0, 1]."""
    images = images / np.float32(255) if images.dtype == "uint8" else images
    parts = np.split(images, range(256, len(images), 256))
    return np.concatenate([ops.convert_to_numpy(classifier(p, training=False)) for p in parts])


def _identity(model, classifier, parts, binary, seed, images=1000):
    """How many new images have the class of the test image from which their top groups are, for
    one group held, two, and so on."""
    known = [(features(classifier, x), y) for x, y in parts[:2]]
    x, y = (column[:images] for column in parts[-1])
    groups = model.encode(data.binarize(x) if binary else x)
    kept = []
    for held in range(1, len(groups) + 1):
        new = model.sample(len(x), seed=seed, fixed=groups[:held])
        kept.append(metrics.probe_accuracy([*known, (features(classifier, new), y)]))
    protocol = f"right by a linear classifier of features, {len(x):,} images a number of groups"
    return _number(kept, "", protocol)


def sees_bits(model):
    """Whether a model is of black and white images, and so is measured on fixed bits."""
    if isinstance(model, BaseVAE):
        return model.likelihood.binary
    return not isinstance(model, LatentModel)


def measure(
    model,
    x,
    y=None,
    num_samples=1000,
    num_images=None,
    elbo_samples=16,
    x_train=None,
    progress=None,
):
    """ELBO, importance-weighted NLL, active units and reconstruction error.

    Args:
        model: as of `evaluate`.
        x: held-out images (n, *image_shape); fixed bits where the likelihood is Bernoulli.
        y: labels or None.
        num_samples: int, k of the importance-weighted bound; 0 leaves it out.
        num_images: int, images that it is taken over, the first ones; None for all.
        elbo_samples: int, draws of z per image that the ELBO is averaged over.
        x_train: training images; None leaves out what is measured by them.
        progress: wraps the iterable of batches, `tqdm.tqdm` say.

    Returns:
        dict, name -> number: elbo, rate, distortion, nll_iw<k> (nats); bits_per_dim for 8-bit
        likelihoods; active_units; relative_mse, psnr. Of codes instead of active_units: codes_used,
        perplexity, and bits_per_code, of training images too. Of an exact density: nll.
    """
    if not isinstance(model, LatentModel):
        return _exact(model, x, y)
    numbers = {}
    if isinstance(model, BaseVAE):
        numbers.update(_bounds(model, x, y, num_samples, num_images, elbo_samples, progress))
    latents = model.encode(x)
    some = None if x_train is None else np.asarray(x_train[_spread(len(x_train))])
    if model.latent_dtype == "int32":
        numbers.update(_usage(model, latents))
        numbers.update(_bits_per_code(model, x, "", "test"))
        if x_train is not None:
            numbers.update(_bits_per_code(model, some, "_train", "training"))
    else:
        active, size = metrics.active_units(latents)
        protocol = f"of {size}: variance of the mean over x > 0.01"
        numbers["active_units"] = _number(active, "units", protocol)
    errors = np.float64(model.run("squared_error", _squared_error(model), x))
    numbers["psnr"] = _mean(metrics.psnr(errors), "dB", "of the reconstruction at the mean")
    if x_train is not None:
        protocol = f"mean squared error / variance of the pixels of {len(some):,} training images"
        variance = np.var(some / 255.0)
        numbers["relative_mse"] = _mean(errors / variance, "", protocol)
    return numbers


def _exact(model, x, y):
    """What a model with an exact density has: -log p(x), without a bound."""
    nll = lambda x, y=None: model.objective(model.prepare(x), y)["nll"]  # noqa: E731
    arrays = [np.asarray(x)] + ([] if y is None else [np.asarray(y)])
    values = np.float64(model.run("nll", nll, *arrays, seed=EVALUATION_SEED))
    protocol = f"exact, {len(values):,} images"
    return {"nll": _mean(values, "nats", protocol)}


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
    if num_samples and model.latent_dtype != "int32":  # codes are certain: k makes no difference
        first = [array[:num_images] for array in arrays]
        nll = -model.log_likelihood(*first, num_samples=num_samples, progress=progress)
        protocol = f"{num_samples:,} importance samples, {len(nll):,} images"
        numbers[f"nll_iw{num_samples}"] = _mean(nll, "nats", protocol)
        if eight_bits:
            numbers[f"bits_per_dim_iw{num_samples}"] = _mean(bits(nll), "bits/dim", protocol)
    return numbers


def _usage(model, latents):
    """How the codebook of each grid is used over a whole set."""
    numbers = {}
    for name, codes in zip(model.grid_names, keras.tree.flatten(latents)):
        used, perplexity = metrics.code_usage(codes, model.codes)
        protocol = f"of {model.codes} codes, over all places of all test images"
        numbers[f"codes_used{name}"] = _number(used, "", "share " + protocol)
        numbers[f"perplexity{name}"] = _number(perplexity, "codes", protocol)
    return numbers


def _bits_per_code(model, x, suffix, what):
    """What a code costs under the prior, of all grids together and of each."""
    nlls = model.run("code_nlls", lambda x: tuple(model.code_nlls(model.images(x))), x)
    places = [math.prod(shape) for shape in model.grid_shapes]
    names = ["", *model.grid_names] if len(places) > 1 else [""]
    both = [sum(nlls), *nlls] if len(places) > 1 else nlls
    sizes = [sum(places), *places] if len(places) > 1 else places
    return {
        f"bits_per_code{name}{suffix}": _mean(
            np.float64(nll) / (math.log(2) * size),
            "bits",
            f"-log2 p(codes) / {size}, {len(x):,} {what} images",
        )
        for name, nll, size in zip(names, both, sizes)
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
    test = features(classifier, x_test)
    to_test = lambda images: metrics.frechet_distance(features(classifier, images), test)  # noqa: E731
    protocol = f"features of {n:,} means of p(x|z) and of {n:,} test images; z from "
    numbers = {}
    if not isinstance(model, LatentModel):
        labels = model.condition_levels and np.arange(n) % model.condition_levels
        new = model.sample(n, labels if model.condition_levels else None, seed=seed)[..., None]
        protocol = f"features of {n:,} samples and of {n:,} test images, both black and white"
        numbers["cnn_fid"] = _number(to_test(np.float32(new)), "", protocol)
    elif isinstance(model, BaseVAE):
        value = to_test(model.sample(n, seed=seed))
        numbers["cnn_fid"] = _number(value, "", protocol + "the prior")
    if getattr(model, "has_learned_prior", False):
        value = to_test(model.with_prior(None).sample(n, seed=seed))
        numbers["cnn_fid_uniform"] = _number(value, "", protocol + "uniform codes")
    # A hierarchy has a learned prior; what lies below the top depends on what was drawn there.
    continuous = getattr(model, "latent_dtype", None) == "float32"
    continuous = continuous and not isinstance(model.latent_shape[0], tuple)
    codes = _codes(model, x_train, seed) if continuous else ()
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
        to_test(x_train[:n]), "", f"{min(n, len(x_train)):,} training images"
    )
    return numbers


def _probes(model, parts, seed):
    """Linear probes of codes, and two controls: what pixels and an untrained encoder give."""
    keras.utils.set_random_seed(seed)
    untrained = type(model).from_config(model.get_config())
    extractors = {
        "": ("codes", lambda x: _flat(model.encode(x))),
        "_pixels": ("pixels", lambda x: x / np.float32(255)),
        "_untrained": (
            "codes of the same encoder, untrained",
            lambda x: _flat(untrained.encode(x)),
        ),
    }
    numbers = {}
    for suffix, (what, extract) in extractors.items():
        accuracy = metrics.probe_accuracy((extract(x), y) for x, y in parts)
        n = len(parts[-1][0])
        numbers[f"probe_accuracy{suffix}"] = {
            **_number(accuracy, "", f"logistic regression of {what}, {len(parts[0][0]):,} labels"),
            "standard_error": math.sqrt(accuracy * (1 - accuracy) / n),
        }
    return numbers


def _flat(latents):
    """Latents, of all groups where there are several, as one vector an image."""
    parts = keras.tree.flatten(latents)
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _number(value, unit, protocol):
    return {"value": value, "unit": unit, "protocol": protocol}


def _mean(values, unit, protocol):
    error = float(values.std() / math.sqrt(len(values)))
    return {**_number(float(values.mean()), unit, protocol), "standard_error": error}
