"""What the latents of a VAE say of the factors of its data: all numbers of `disentanglement`.

Each number is a dict as `measure` has it, and its name says whose code it is of.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from vae_zoo import data
from vae_zoo.lab import disentanglement
from vae_zoo.lab.measure import mean, number, without_values
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import domains, priors

PARTS = ("index_code_mi", "total_correlation", "dimension_wise_kl")
CHUNK = 4096  # images that are drawn and encoded at a time
UNORDERED = "shape"  # the factor that MIG-chen leaves out


def takes(model):
    """Whether a model has what is measured here: one vector of Gaussian latents, and no labels."""
    if not isinstance(model, BaseVAE) or model.condition is not None:
        return False
    latents = model.latent_domain
    one_group = not isinstance(latents, tuple) and domains.all_numbers(latents)
    return one_group and len(latents.shape) == 1


def posteriors(model, x, rows=None, progress=None):
    """Mean and log-variance of q(z|x) of some examples, however large the set is.

    Args:
        model: VAE of a vector of latents.
        x: uint8 (N, *shape), or lazy as `data.Shapes` is. Where the model sees bits, grey levels
            become fixed ones.
        rows: ints (n,), places of the examples; None for all.
        progress: wraps the iterable of portions, `tqdm.tqdm` say.

    Returns:
        two float32 (n, latents).

    Raises:
        ValueError: if the model has no such posterior.
    """
    if not takes(model):
        raise ValueError(
            "Factors are looked for in one vector of Gaussian latents of a VAE without labels. "
            f"Received: {type(model).__name__}"
        )

    def moments(images):
        q = model.posterior(model.domain.tensor(images))
        return q.mean, q.log_var

    rows = np.arange(len(x)) if rows is None else rows
    portions, found = np.array_split(rows, -(-len(rows) // CHUNK)), []
    for part in portions if progress is None else progress(portions):
        images = np.asarray(x[part])
        images = data.binarize(images) if model.sees_bits else images
        found.append(model.run("moments", moments, images))
    return tuple(map(np.concatenate, zip(*found)))


def drawn(n, most, seed=0):
    """Places of `most` of n examples, of all for None, in an order by chance."""
    return np.random.default_rng(seed).permutation(n)[:most]


# === The aggregate posterior ===


def aggregate(model, x, num_images=10_000, num_samples=1000, seed=0, progress=None):
    """Parts of the KL of the aggregate posterior over a set, see `disentanglement.decomposition`.

    Args:
        model, x: see `posteriors`.
        num_images: int, examples that stand for the set; None for all.
        num_samples: int, draws z ~ q(z).
        seed: int, of what is drawn.
        progress: function of a description that returns what wraps an iterable,
            `console.progress`.

    Returns:
        dict, name -> number (nats): index_code_mi, total_correlation and, where the prior is
        N(0, I), dimension_wise_kl.
    """
    bar = progress or _no_bar
    moments = posteriors(model, x, drawn(len(x), num_images, seed), bar("latents"))
    return _parts(model, moments, len(x), num_samples, seed, bar)


def _parts(model, moments, size, num_samples, seed, bar):
    if not np.isfinite(moments).all():
        return {}
    how = {"num_samples": num_samples, "seed": seed, "progress": bar("aggregate posterior")}
    found, n = disentanglement.decomposition(*moments, size, **how), len(moments[0])
    of_whole = "" if n == size else f" for {size:,}"
    protocol = f"of q(z), {n:,} images{of_whole}, {num_samples:,} draws"
    fields = {"images": n, "samples": num_samples}
    numbers = {name: mean(part, "nats", protocol, **fields) for name, part in zip(PARTS, found)}
    if not isinstance(model.prior, priors.StandardNormal):
        numbers.pop("dimension_wise_kl")
    return without_values(numbers)


def _no_bar(description):
    return None


# === The factors ===


@dataclasses.dataclass
class Codes:
    """What is measured; see `numbers`.

    Args:
        mean, log_var: float (n, latents), in an order by chance.
        factors: int (n, factors).
        names: of these.
        size: int, examples of the whole set.
        fast, seed, bar: see `numbers`.
    """

    mean: np.ndarray
    log_var: np.ndarray
    factors: np.ndarray
    names: tuple
    size: int
    fast: bool
    seed: int
    bar: Callable

    @property
    def images(self):
        return f"{len(self.mean):,} of {self.size:,} images"

    @property
    def draws(self):
        return 200 if self.fast else 1000

    @property
    def parts(self):
        """Examples to learn from, and to test on: two pairs of codes and factors, and words."""
        sizes, n = (2_000, 1_000) if self.fast else (10_000, 5_000), len(self.mean)
        first = min(sizes[0], 2 * n // 3)
        rows = [slice(first), slice(first, first + min(sizes[1], n // 3))]
        pairs = [(self.mean[part], self.factors[part]) for part in rows]
        return pairs, " and ".join(f"{len(codes):,}" for codes, _ in pairs) + " images"

    @functools.cached_property
    def dci(self):
        pairs, words = self.parts
        trees = 10 if self.fast else 100
        bar = self.bar("trees")
        found = disentanglement.dci(*pairs, self.seed, bar, n_estimators=trees)
        return found, f"gradient-boosted trees, {trees} a class, {words}"


def _mig_lib(codes, most=10_000):
    mean, factors = codes.mean[:most], codes.factors[:most]
    protocol = f"means of {len(mean):,} images in 20 bins"
    return number(disentanglement.mig(mean, factors), "", protocol)


def _mig_chen(codes):
    ordered = [k for k, name in enumerate(codes.names) if name != UNORDERED]
    without = f", without {UNORDERED}" if len(ordered) < len(codes.names) else ""
    how = codes.draws, codes.seed, codes.bar("entropies")
    value = disentanglement.mig_chen(codes.mean, codes.log_var, codes.factors[:, ordered], *how)
    return number(value, "", f"exact densities, {codes.draws:,} draws, {codes.images}{without}")


def _factor_vae_score(codes):
    value = disentanglement.factor_vae_score(codes.mean, codes.factors, seed=codes.seed)
    return number(value, "", f"10,000 and 5,000 votes of 64 images, {codes.images}")


def _sap(codes):
    pairs, words = codes.parts
    return number(disentanglement.sap(*pairs, codes.seed), "", f"support vectors, {words}")


def _dci(name):
    return lambda codes: number(codes.dci[0][name], "", codes.dci[1])


MEASURES = {
    "mig_lib": _mig_lib,
    "mig_chen": _mig_chen,
    "factor_vae_score": _factor_vae_score,
    "dci_disentanglement": _dci("dci"),
    "dci_completeness": _dci("completeness"),
    "dci_informativeness": _dci("informativeness"),
    "sap": _sap,
}


def numbers(
    model, x, factors, names, num_images=None, fast=False, seed=0, progress=None, only=None
):
    """All disentanglement numbers of a model on a set with factors, see `disentanglement`.

    MIG-lib, the FactorVAE score, DCI and SAP are of posterior means, MIG-chen of the posteriors; it
    leaves out the shape.

    Args:
        model, x: see `posteriors`; x is the whole set, N examples.
        factors: int (N, factors).
        names: of the factors.
        num_images: int, examples drawn from the set; None for all. MIG-lib is of 10,000 of them,
            DCI and SAP are of 10,000 and 5,000.
        fast: bool, 2,000 and 1,000 examples and 10 trees a class for DCI and SAP, fewer draws for
            MIG-chen: seconds in the place of minutes, and numbers to compare with each other only.
        seed: int, of what is drawn.
        progress: function of a description that returns what wraps an iterable,
            `console.progress`.
        only: names in `MEASURES`; None for all, and those of `aggregate`.

    Returns:
        dict, name -> number; value None where latents are not finite.
    """
    bar, rows = progress or _no_bar, drawn(len(x), num_images, seed)
    moments = posteriors(model, x, rows, bar("latents"))
    if not np.isfinite(moments).all():
        return {name: number(None, "", "of latents not finite") for name in only or MEASURES}
    codes = Codes(*moments, np.asarray(factors)[rows], names, len(x), fast, seed, bar)
    found = {name: MEASURES[name](codes) for name in only or MEASURES}
    return found if only else found | _parts(model, moments, len(x), codes.draws, seed, bar)
