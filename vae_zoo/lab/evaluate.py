"""Numbers of a trained model on held-out data, the same code for every family.

`measure` takes arrays, `evaluate` the name of a data set. Each number is a dict with `value`,
`unit`, `protocol` and, where they say something, `standard_error` (over examples), `samples` (draws
of z) and `images` (examples that it was taken over). What there is to measure is told by the kind
of a model and by the domains of its data and latents.
"""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from vae_zoo import data
from vae_zoo.data import factors as data_factors
from vae_zoo.lab import chains, console, factor_numbers, metrics
from vae_zoo.lab.measure import mean, measure, number, spread, without_values
from vae_zoo.models.gaussian_mixture import GaussianMixture
from vae_zoo.models.hierarchical_vae import HierarchicalVAE
from vae_zoo.models.kinds import BaseVAE, Density, LatentModel
from vae_zoo.models.links import LinkPrediction
from vae_zoo.models.sketch_decoder import SketchDecoder
from vae_zoo.models.sketch_rnn import SketchRNN
from vae_zoo.models.vq_vae import VQVAE
from vae_zoo.parts import domains

__all__ = ["evaluate", "features", "labels_of", "latents", "measure"]

MOST_IMAGES = 10_000  # that a probe is fitted to, and a KL per latent taken over
MIXTURE_COMPONENTS = 10


@dataclasses.dataclass
class Found:
    """What `evaluate` has read, for what it measures beside `measure`.

    Args:
        splits: dict, split -> (x, y), as the data set has them.
        x, y: test examples as the model sees them, and all their labels.
        some: up to 10,000 training examples.
        classifier, seed: see `evaluate`.
    """

    splits: dict
    x: Any
    y: Any
    some: Any
    classifier: Any
    seed: int

    @functools.cached_property
    def quality(self):
        """`Quality` by the data set's own images, for all samples that are means."""
        return Quality(self)


def evaluate(
    model,
    dataset,
    importance_samples=1000,
    importance_images=None,
    elbo_samples=16,
    classifier=None,
    seed=0,
    progress=None,
    image_size=None,
    quadrants=None,
    with_factors=False,
) -> dict:
    """All numbers of a model on the test split of a data set, and controls to read them by.

    Args:
        model: of any kind.
        dataset: as `data.load` takes it. Where the model is of bits it sees fixed test bits.
        importance_samples, elbo_samples, progress: see `measure`.
        importance_images: int, test images that the importance-weighted bound is taken over, spread
            over all; None for all.
        classifier: None, or a Keras model of images in [0, 1] whose output are features: gives
            `cnn_fid` (see `zoo.classifier`).
        seed: int, of samples, mixtures and the random encoder.
        image_size: what images are brought to, see `data.load`.
        quadrants: int, of a model of images given a part of them: see `data.given_part`.
        with_factors: bool, look for the data set's factors of variation in the latents, by the
            code of each source: minutes; see `factor_numbers`.

    Returns:
        dict, name -> number: those of `measure`; ssim; kl_per_latent, of a hierarchy kl_per_group;
        of a vector of latents the parts of the KL of the aggregate posterior of test images;
        with a classifier cnn_fid of samples from the prior, cnn_fid_gaussian_mixture of samples
        from a mixture fitted to the codes of training images, cnn_fid_uniform of uniform codes
        where a prior over codes was learned, cnn_fid_floor of validation images; of a model of
        classes generative_accuracy, by argmax_y p(x|y), and cnn_fid_by_class; with labels
        probe_accuracy of the codes, and of pixels and of the same encoder untrained as controls; of
        a hierarchy, with both, identity_kept: of new images below groups held from test images.
    """
    whole = data_factors.load(dataset, image_size) if with_factors else None
    splits = {split: data.load(dataset, split, image_size=image_size) for split in data.SPLITS}
    (x_train, _), (x, y) = splits["train"], splits["test"]
    x = data.binarize(x) if model.sees_bits else x
    y = data.given_part(np.asarray(x[:]), quadrants) if quadrants else y
    some = x_train[spread(len(x_train))]
    numbers = measure(
        model,
        x,
        labels_of(model, y),
        num_samples=importance_samples,
        num_images=importance_images,
        elbo_samples=elbo_samples,
        x_train=some,
        progress=progress,
    )
    numbers |= without_values(beside(model, Found(splits, x, y, some, classifier, seed)))
    if whole:
        how = {"seed": seed, "progress": console.progress}
        numbers |= factor_numbers.numbers(model, *whole, **how)
    return numbers


def labels_of(model, y):
    """The labels of a data set that a model takes: all, or none."""
    takes_none = isinstance(model, (Density, LatentModel)) and model.condition is None
    return None if takes_none else y


@functools.singledispatch
def beside(model, found):
    """What a kind of model is measured by beside `measure`: a dict, name -> number."""
    return {}


@beside.register
def _(model: Density, found):
    if found.classifier is None or model.domain.pictures(found.x[:1]) is None:
        return {}
    held_out = found.splits["validation"][0]  # a density draws bits, as test images are
    quality = Quality(found, found.x, data.binarize(held_out) if model.sees_bits else held_out)
    n = quality.n
    labels = None if model.condition is None else np.arange(n) % model.condition.levels
    new = model.domain.pictures(model.sample(n, y=labels, seed=found.seed))
    protocol = f"features of {n:,} samples and of {n:,} test images, both black and white"
    return {"cnn_fid": number(quality.of(new), "", protocol)} | quality.floor


@beside.register
def _(model: LatentModel, found):
    return _similarity(model, found) | _mixture_quality(model, found) | _probes(model, found)


@beside.register
def _(model: BaseVAE, found):
    numbers = _similarity(model, found)
    if domains.all_numbers(model.latent_domain):
        x, y = _some(found.x, labels_of(model, found.y))
        kl = model.kl_per_latent(x, y)
        protocol = "mean over images of each latent"
        numbers["kl_per_latent"] = number(np.ravel(kl).tolist(), "nats", protocol)
    if factor_numbers.takes(model):
        numbers |= factor_numbers.aggregate(model, found.x, seed=found.seed)
    return (
        numbers
        | _prior_quality(model, found)
        | _mixture_quality(model, found)
        | _of_classes(model, found)
        | _probes(model, found)
    )


@beside.register
def _(model: LinkPrediction, found):
    return {}  # its features are no images, and its labels no classes


@beside.register(SketchDecoder)
@beside.register(SketchRNN)
def _(model, found):
    return chains.markov_numbers(found.splits["train"][0], found.x, found.seed)


@beside.register
def _(model: VQVAE, found):
    numbers = _similarity(model, found) | _prior_quality(model, found)
    if found.classifier is not None and model.has_learned_prior:
        quality = found.quality
        value = quality.of(model.with_prior(None).sample(quality.n, seed=found.seed))
        uniform = number(value, "", quality.protocol + "uniform codes")
        numbers["cnn_fid_uniform"] = uniform
    return numbers


@beside.register
def _(model: HierarchicalVAE, found):
    x, _ = _some(found.x, None)
    groups = [float(group.sum()) for group in model.kl_per_latent(x)]
    protocol = "mean over images of each group, from the top"
    numbers = _similarity(model, found)
    numbers["kl_per_group"] = number(groups, "nats", protocol)
    # No mixture: what lies below the top depends on what was drawn there.
    numbers |= _prior_quality(model, found)
    if found.y is not None and found.classifier is not None:
        numbers["identity_kept"] = _identity(model, found)
    return numbers | _probes(model, found)


def _similarity(model, found):
    if not isinstance(model.domain, domains.Images) or min(model.domain.shape[:2]) < 11:
        return {}
    made = model.reconstruct(found.x[:], labels_of(model, found.y))
    similarity = metrics.ssim(model.domain.pictures(made), np.asarray(found.x[:]) / 255.0)
    return {"ssim": mean(similarity, "", "of the reconstruction at the posterior mean")}


def features(classifier, images) -> np.ndarray:
    """What a classifier (see `zoo.classifier`) makes of uint8 images, or float ones in [0, 1]."""
    images = images / np.float32(255) if images.dtype == "uint8" else np.clip(images, 0, 1)
    parts = np.split(images, range(256, len(images), 256))
    return np.concatenate([ops.convert_to_numpy(classifier(p, training=False)) for p in parts])


def _identity(model, found, images=1000):
    """How many new images have the class of the test image from which their top groups are, for
    one group held, two, and so on."""
    parts = [_some(x, y) for x, y in found.splits.values()]
    known = [(features(found.classifier, x), y) for x, y in parts[:2]]
    x, y = _some(*parts[-1], most=images)
    groups = model.encode(data.binarize(x) if model.sees_bits else x)
    kept = []
    for held in range(1, len(groups) + 1):
        new = model.sample(len(x), seed=found.seed, fixed=groups[:held])
        kept.append(metrics.probe_accuracy([*known, (features(found.classifier, new), y)]))
    protocol = f"right by a linear classifier of features, {len(x):,} images a number of groups"
    return number(kept, "", protocol)


class Quality:
    """Fréchet distances of classifier features to those of test images.

    Args:
        found: see `beside`.
        x_test, x_held_out: uint8 test and validation images; None for those of the data set, in
            grey levels: a VAE shows means.
    """

    def __init__(self, found, x_test=None, x_held_out=None):
        self.classifier = found.classifier
        x_test = found.splits["test"][0] if x_test is None else x_test
        self.held_out = found.splits["validation"][0] if x_held_out is None else x_held_out
        self.n, self.test = len(x_test), features(found.classifier, x_test[:])
        self.protocol = (
            f"features of {self.n:,} means of p(x|z) and of {self.n:,} test images; z from "
        )

    def of(self, images):
        """Of images (n, height, width, channels), to the test images: float."""
        return metrics.frechet_distance(features(self.classifier, images), self.test)

    @functools.cached_property
    def floor(self):
        """What `of` gives of validation images, which the classifier was not trained on: a number
        by its name, a dict."""
        some = spread(len(self.held_out), self.n)
        value = self.of(self.held_out[some])
        return {"cnn_fid_floor": number(value, "", f"{len(some):,} validation images")}


def _prior_quality(model, found):
    if found.classifier is None:
        return {}
    quality = found.quality
    y = labels_of(model, found.y)  # as often as in the test split
    value = quality.of(model.sample(quality.n, y=y, seed=found.seed))
    return {"cnn_fid": number(value, "", quality.protocol + "the prior")} | quality.floor


def _of_classes(model, found, images=2000, samples=100):
    """What a model of p(x|y) tells of the classes: its samples of each, and a classifier by Bayes'
    rule, all classes as likely: argmax_y p(x|y)."""
    classes = domains.classes(model.condition)
    if classes is None:
        return {}
    numbers = {}
    if found.classifier is not None:
        y = np.asarray(found.y)
        new = features(found.classifier, model.sample(y=y, seed=found.seed))
        held = found.quality.test
        values = [metrics.frechet_distance(new[y == c], held[y == c]) for c in range(classes)]
        protocol = "of each class: features of as many samples as test images, to these"
        numbers["cnn_fid_by_class"] = number(values, "", protocol)
    x, y = _some(found.x, np.asarray(found.y), images)
    bounds = [
        model.log_likelihood(x, np.full(len(x), c), num_samples=samples) for c in range(classes)
    ]
    right = np.argmax(bounds, axis=0) == y
    protocol = f"argmax_y p(x|y), {samples} importance samples a class, {len(x):,} images"
    return numbers | {"generative_accuracy": mean(right, "", protocol)}


def _mixture_quality(model, found):
    """Of samples from a mixture of Gaussians fitted to the latents of training images."""
    if found.classifier is None or model.condition is not None:
        return {}
    codes = latents(model, found.some, found.seed)
    # A full covariance of many latents would be fitted to noise and take gigabytes.
    if codes[0].size > 256 or len(codes) <= 10 * codes[0].size or not np.isfinite(codes).all():
        return {}
    quality = found.quality
    mixture = GaussianMixture.fitted(codes, MIXTURE_COMPONENTS, found.seed)
    z = mixture.sample(quality.n, seed=found.seed)
    protocol = f"a mixture of {MIXTURE_COMPONENTS} Gaussians fitted to training codes"
    value = quality.of(model.decode(z))
    mixture = number(value, "", quality.protocol + protocol)
    return {"cnn_fid_gaussian_mixture": mixture} | quality.floor


def latents(model, x, seed=0) -> np.ndarray:
    """What a prior is fitted to: draws z ~ q(z|x) of a VAE, of a hierarchy its top group's; the
    codes of an autoencoder."""
    z = model.draws(x, seed=seed) if isinstance(model, BaseVAE) else model.encode(x)
    return z[0] if isinstance(z, tuple) else z


def _probes(model, found):
    """Linear probes of codes, and two controls: what pixels and an untrained encoder give."""
    if found.y is None or model.condition is not None:  # which is told the class
        return {}
    parts = [_some(x, y) for x, y in found.splits.values()]
    if len(np.unique(parts[0][1])) < 2:
        return {}  # there is nothing to tell apart
    if model.sees_bits:  # what the encoder was made for
        parts = [(data.binarize(x), y) for x, y in parts]
    keras.utils.set_random_seed(found.seed)
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
        n = len(parts[-1][0])
        protocol = f"logistic regression of {what}, {len(parts[0][0]):,} labels"
        columns = [(extract(x), y) for x, y in parts]
        if not all(np.isfinite(features).all() for features, _ in columns):
            numbers[f"probe_accuracy{suffix}"] = number(None, "", f"{protocol}: not finite")
            continue
        accuracy = metrics.probe_accuracy(columns)
        error = math.sqrt(accuracy * (1 - accuracy) / n)
        numbers[f"probe_accuracy{suffix}"] = number(accuracy, "", protocol, standard_error=error)
    return numbers


def _some(x, y, most=MOST_IMAGES):
    """Examples and labels of at most so many, spread over all."""
    rows = spread(len(x), most)
    return x[rows], None if y is None else y[rows]


def _flat(latents):
    """Latents, of all groups where there are several, as one vector an image."""
    parts = keras.tree.flatten(latents)
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
