"""Numbers of a trained model on arrays, by the kind of the model and the domains of its data.

Each number is a dict with `value`, `unit`, `protocol` and, where they say something,
`standard_error` (over examples), `samples` (draws of z) and `images` (examples it is taken over).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from vae_zoo.engine.trainable import EVALUATION_SEED, Trainable
from vae_zoo.lab import metrics
from vae_zoo.models.graph_vae import GraphVAE
from vae_zoo.models.hierarchical_vae import HierarchicalVAE
from vae_zoo.models.kinds import BaseVAE, Density, LatentModel
from vae_zoo.models.links import LinkPrediction
from vae_zoo.models.sketch_decoder import SketchDecoder
from vae_zoo.models.sketch_rnn import SketchRNN
from vae_zoo.models.vq_vae import VQVAE
from vae_zoo.parts import domains, graphs
from vae_zoo.parts.likelihoods import DiscretizedLogistic


def number(value, unit, protocol, **fields):
    return {"value": value, "unit": unit, "protocol": protocol, **fields}


def mean(values, unit, protocol, **fields):
    """A mean over examples, its standard error, and what it is the mean of."""
    values = np.float64(values)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    fields = {"images": len(values), **fields, "values": values}
    return number(float(values.mean()), unit, protocol, standard_error=error, **fields)


def without_values(numbers):
    """Numbers as files hold them: without those of single examples."""
    return {
        name: {key: field for key, field in number.items() if key != "values"}
        for name, number in numbers.items()
    }


@dataclasses.dataclass
class How:
    """What `measure` was asked for; see there."""

    num_samples: int = 1000
    num_images: int | None = None
    elbo_samples: int = 16
    x_train: Any = None
    progress: Callable | None = None


def measure(
    model,
    x,
    y=None,
    num_samples=1000,
    num_images=None,
    elbo_samples=16,
    x_train=None,
    progress=None,
    values=False,
) -> dict:
    """ELBO, importance-weighted NLL, active units and reconstruction error.

    Beside an importance-weighted number stands `effective_samples`, the median over examples of
    (sum w)^2 / sum w^2 of its weights: near 1 the bound rests on one draw, and is loose.

    Args:
        model: of any kind.
        x: held-out examples (n, *shape); fixed bits where the likelihood is Bernoulli.
        y: labels, where the model takes some.
        num_samples: int, k of the importance-weighted bound; 0 leaves it out.
        num_images: int, examples that it is taken over, spread over all; None for all.
        elbo_samples: int, draws of z per example that the ELBO is averaged over.
        x_train: training examples; None leaves out what is measured by them.
        progress: wraps the iterable of batches, `tqdm.tqdm` say.
        values: bool, keep those of each example that a number is the mean of, as its `values`, to
            compare two models example by example.

    Returns:
        dict, name -> number: elbo, rate, distortion, nll_iw<k> (nats); bits_per_dim for 8-bit
        likelihoods; active_units; relative_mse, psnr; of graphs link_auc, link_ap; of sketches
        l_r and nll_per_point. Of codes instead of active_units: codes_used, perplexity and, of a
        VQ-VAE, bits_per_code, of training images too. Of an exact density: nll. Of any other model
        the terms that its objective logs.
    """
    how = How(num_samples, num_images, elbo_samples, x_train, progress)
    numbers = numbers_of(model, np.asarray(x[:]), None if y is None else np.asarray(y), how)
    return numbers if values else without_values(numbers)


@functools.singledispatch
def numbers_of(model, x, y, how):
    """The numbers of a kind of model: a dict, as `measure` returns it."""
    raise ValueError(f"A {type(model).__name__} is no model of vae_zoo")


@numbers_of.register
def _(model: Trainable, x, y, how):
    names = model.tracker.names
    values = model.run("terms", _terms(model, names), *_pair(x, y), seed=EVALUATION_SEED)
    protocol = f"of the objective, {len(x):,} examples"
    return {name: mean(column, "", protocol) for name, column in zip(names, values.T)}


@numbers_of.register
def _(model: Density, x, y, how):
    return _exact(model, -model.log_likelihood(x, y))


def _exact(model, nll):
    return {"nll": mean(nll, "nats", f"exact, {len(nll):,} {model.domain.plural}")}


@numbers_of.register
def _(model: LatentModel, x, y, how):
    numbers = latent_use(model, x, y)
    errors = model.run("squared_error", _squared_error(model), *_pair(x, y), seed=EVALUATION_SEED)
    errors = np.float64(errors)
    if isinstance(model.domain, domains.Images):
        numbers["psnr"] = mean(metrics.psnr(errors), "dB", "of the reconstruction at the mean")
    # By the variance of what the model sees, of bits where it sees bits: a constant scores 1.
    seen = model.run("prepare", model.prepare, x[spread(len(x))], seed=EVALUATION_SEED)
    what = f"{'bits' if model.sees_bits else 'pixels'} of {len(seen):,} of these images"
    protocol = f"mean squared error / variance of the {what}"
    if seen.min() < seen.max():
        numbers["relative_mse"] = mean(errors / np.var(seen), "", protocol)
    else:
        numbers["relative_mse"] = number(None, "", f"{protocol}, which are all equal")
    return numbers


@numbers_of.register
def _(model: BaseVAE, x, y, how):
    return _bounds(model, x, y, how) | numbers_of.dispatch(LatentModel)(model, x, y, how)


@numbers_of.register
def _(model: VQVAE, x, y, how):
    numbers = numbers_of.dispatch(BaseVAE)(model, x, y, how)
    numbers |= _bits_per_code(model, x, "", "test")
    if how.x_train is not None:
        some = np.asarray(how.x_train[spread(len(how.x_train))])
        numbers |= _bits_per_code(model, some, "_train", "training")
    return numbers


@numbers_of.register
def _(model: LinkPrediction, x, y, how):
    linked, scores = held_out_links(model, x, y)
    numbers = latent_use(model, x, y)
    if 0 < linked.sum() < len(linked):
        what = f"{linked.sum():,} held-out links and {(~linked).sum():,} pairs without one"
        area, precision = metrics.link_prediction(linked, scores)
        numbers["link_auc"] = number(area, "", f"area under the ROC curve, {what}")
        numbers["link_ap"] = number(precision, "", f"average precision, {what}")
    return numbers


@numbers_of.register
def _(model: GraphVAE, x, y, how):
    numbers = _bounds(model, x, y, dataclasses.replace(how, num_samples=0))
    protocol = f"mean of {how.elbo_samples} samples, over all pairs i < j of the graph"
    numbers["elbo"]["protocol"] = protocol
    return numbers | numbers_of.dispatch(LinkPrediction)(model, x, y, how)


@numbers_of.register
def _(model: SketchDecoder, x, y, how):
    nll = -model.log_likelihood(x)
    return _exact(model, nll) | by_points(x, nll, "")


@numbers_of.register
def _(model: SketchRNN, x, y, how):
    numbers = _bounds(model, x, y, how)
    distortion, rate = (numbers[name]["values"] for name in ("distortion", "rate"))
    of_rate = "KL(q(z|x) || p(z)) / N_max, which l_r leaves out"
    numbers |= by_points(x, distortion, " given z")
    numbers["l_kl"] = mean(rate / (x.shape[1] - 1), "nats", of_rate)
    return numbers | latent_use(model, x)


def by_points(x, nll, given=""):
    """Of sketches (n, rows, 5) and their nats (n,): `l_r`, the sum divided by N_max, and what a row
    costs; a dict, name -> number."""
    points = x.shape[1] - 1
    each = nll / (np.sum(x[..., 4] < 0.5, axis=1) + 1)
    return {
        "l_r": mean(nll / points, "nats", f"-log p(x{given}) / N_max, N_max = {points}"),
        "nll_per_point": mean(each, "nats", f"-log p(x{given}) / rows, the end counted"),
    }


def held_out_links(model, x, y=None):
    """Of the pairs that tables of graphs hold out whether they are linked, bools (n,), and what a
    model that is not shown them says, log odds (n,)."""
    linked, scores = [], []
    for row, table in enumerate(x):
        held = table[np.isin(table[:, 2], (graphs.HELD_OUT, graphs.UNLINKED))]
        own = slice(row, row + 1)
        linked.append(held[:, 2] == graphs.HELD_OUT)
        features = None if y is None else y[own]
        scores.append(model.link_scores(x[own], held[:, 0], held[:, 1], features))
    return np.concatenate(linked), np.concatenate(scores)


@functools.singledispatch
def active_units(model, x, y=None):
    """Latents that say something of x, in each group from the top: a list of pairs of ints, how
    many and of how many; and by what that was told, a str.

    Burda et al. 2016, arXiv:1509.00519, section 5.1. In a hierarchy the mean of a latent moves with
    its prior's, which another latent may have moved: there the KL tells.
    """
    return [metrics.active_units(model.encode(x, y))], "variance of the mean over x > 0.01"


@active_units.register
def _(model: HierarchicalVAE, x, y=None):
    active = [group > 0.01 for group in model.kl_per_latent(x, y)]
    return [(int(group.sum()), group.size) for group in active], "KL > 0.01 nats, the mean over x"


@active_units.register
def _(model: LinkPrediction, x, y=None):
    of_nodes = model.encode(x, y).reshape(-1, model.latent_dim)
    return [metrics.active_units(of_nodes)], "variance of the mean over nodes > 0.01"


def latent_use(model, x, y=None):
    """How many of a model's latents say something: active units; of codes how many are used."""
    if domains.all_numbers(model.latent_domain):
        groups, how = active_units(model, x, y)
        active, size = np.sum(groups, axis=0).tolist()
        return {"active_units": number(active, "units", f"of {size}: {how}")}
    latents, numbers, groups = model.encode(x, y), {}, keras.tree.flatten([model.latent_domain])
    several = {2: ("_top", "_bottom")}.get(len(groups), map("_{}".format, range(len(groups))))
    names = [""] if len(groups) == 1 else several
    for name, group, codes in zip(names, groups, keras.tree.flatten([latents])):
        used, perplexity = metrics.code_usage(codes, group.levels)
        protocol = f"of {group.levels} codes, over all places of all test images"
        numbers[f"codes_used{name}"] = number(used, "", "share " + protocol)
        numbers[f"perplexity{name}"] = number(perplexity, "codes", protocol)
    return numbers


def _pair(x, y):
    return (x,) if y is None else (x, y)


def spread(n, most=10_000):
    """Places of `most` of n examples at most, as far apart as can be: the first ones of a set that
    is sorted by class would be of a few classes."""
    return np.linspace(0, n - 1, min(most or n, n)).round().astype(int)


def _terms(model, names):
    """Function of a batch: what the objective returns under these names, (batch, names)."""

    def terms(x, y=None):
        y = model.prepare_labels(y)
        outputs = model.objective(model.prepare(x), y, training=False)
        return ops.stack([outputs[name] for name in names], axis=1)

    return terms


def _bounds(model, x, y, how):
    terms, arrays = _terms(model, ("elbo", "kl", "reconstruction")), _pair(x, y)
    draws = [
        model.run("terms", terms, *arrays, seed=EVALUATION_SEED + i)
        for i in range(how.elbo_samples)
    ]
    elbo, rate, distortion = np.mean(draws, axis=0, dtype="float64").T
    drawn = {"samples": how.elbo_samples}
    what = model.domain.plural
    protocol = f"mean of {how.elbo_samples} samples, {len(x):,} {what}"
    numbers = {
        "elbo": mean(elbo, "nats", protocol, **drawn),
        "rate": mean(rate, "nats", "KL(q(z|x) || p(z))", **drawn),
        "distortion": mean(distortion, "nats", "-E log p(x|z)", **drawn),
    }
    per_dim = math.log(2) * x[0].size
    eight_bits = isinstance(model.likelihood, DiscretizedLogistic)
    if eight_bits:
        protocol = "-ELBO over pixels and channels"
        numbers["bits_per_dim"] = mean(-elbo / per_dim, "bits/dim", protocol, **drawn)
    # Codes are certain: k makes no difference.
    if how.num_samples and domains.all_numbers(model.latent_domain):
        k, some = how.num_samples, spread(len(x), how.num_images)
        drawn = [array[some] for array in arrays]
        bound, effective = model.importance(*drawn, num_samples=k, progress=how.progress)
        nll, protocol = -bound, f"{k:,} importance samples, {len(some):,} {what}"
        fields = {"samples": k, "effective_samples": float(np.median(effective))}
        numbers[f"nll{_given(model)}_iw{k}"] = mean(nll, "nats", protocol, **fields)
        if eight_bits:
            bits = mean(nll / per_dim, "bits/dim", protocol, **fields)
            numbers[f"bits_per_dim_iw{k}"] = bits
    return numbers


def _given(model):
    """What the name of a conditional model's likelihood says: it is no p(x)."""
    return "" if model.condition is None else "_given_y"


def _bits_per_code(model, x, suffix, what):
    """What a code costs under the prior, of all grids together and of each."""
    nlls = model.run("code_nlls", lambda x: tuple(model.code_nlls(model.domain.tensor(x))), x)
    places = [math.prod(grid.shape) for grid in keras.tree.flatten([model.latent_domain])]
    names = ["", *model.grid_names] if len(places) > 1 else [""]
    both = [sum(nlls), *nlls] if len(places) > 1 else nlls
    sizes = [sum(places), *places] if len(places) > 1 else places
    return {
        f"bits_per_code{name}{suffix}": mean(
            np.float64(nll) / (math.log(2) * size),
            "bits",
            f"-log2 p(codes) / {size}, {len(x):,} {what} images",
        )
        for name, nll, size in zip(names, both, sizes)
    }


def _squared_error(model):
    def error(x, *y):  # inside a compiled function: no set of reconstructions is held in memory
        x, y = model.prepare(x), tuple(map(model.prepare_labels, y))
        errors = ops.square(x - model.generate(model.infer(x, *y), *y))
        return ops.mean(errors, axis=tuple(range(1, len(x.shape))))

    return error
