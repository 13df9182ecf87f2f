"""What the latents of a VAE say of the factors of its data: all numbers of `disentanglement`.

Each number is a dict as `measure` has it, and its name says whose code it is of.
"""

import numpy as np

from vae_zoo import data
from vae_zoo.lab import disentanglement
from vae_zoo.lab.measure import mean, number
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import domains, priors

NAMES = ("mig_lib", "mig_chen", "factor_vae_score", "dci_disentanglement", "dci_completeness")
NAMES += ("dci_informativeness", "sap")
PARTS = ("index_code_mi", "total_correlation", "dimension_wise_kl")
CHUNK = 4096  # images that are decoded and encoded at a time
UNORDERED = "shape"  # the factor that MIG-chen leaves out


def takes(model):
    """Whether a model has what is measured here: one vector of latents, a Gaussian each."""
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


def decomposed(model, x, num_images=10_000, num_samples=1000, seed=0, progress=None):
    """Index-code mutual information, total correlation and, under N(0, I), dimension-wise KL of the
    aggregate posterior over a set of examples: a dict, name -> number, nats.

    Args:
        model, x: see `posteriors`.
        num_images: int, examples that stand for the set; None for all.
        num_samples: int, draws z ~ q(z).
    """
    rows = _drawn(len(x), num_images, seed)
    moments = posteriors(model, x, rows, progress)
    return _parts(model, moments, len(x), num_samples, seed, progress)


def _parts(model, moments, size, num_samples, seed, progress):
    found = disentanglement.decomposition(*moments, size, num_samples, seed, progress)
    n = len(moments[0])
    protocol = f"of q(z), {n:,} posteriors for {size:,} images, {num_samples:,} draws"
    fields = {"images": n, "samples": num_samples}
    parts = {name: mean(part, "nats", protocol, **fields) for name, part in zip(PARTS, found)}
    if not isinstance(model.prior, priors.StandardNormal):
        parts.pop("dimension_wise_kl")
    return {name: {k: v for k, v in p.items() if k != "values"} for name, p in parts.items()}


def numbers(model, x, factors, names, num_images=None, fast=False, seed=0, progress=None):
    """All disentanglement numbers of a model on a set with factors.

    MIG-lib, the FactorVAE score, DCI and SAP are of posterior means, MIG-chen of the posteriors;
    see `disentanglement`. MIG-chen leaves out the shape.

    Args:
        model, x: see `posteriors`; the whole set, x of N examples.
        factors: int (N, factors).
        names: of the factors.
        num_images: int, examples drawn from the set; None for all. MIG-lib is of 10,000 of them,
            DCI and SAP are of 10,000 and 5,000.
        fast: bool, 2,000 and 1,000 examples and 10 trees a class for DCI and SAP, and fewer draws.
        seed: int, of what is drawn.
        progress: function of a description that returns what wraps an iterable,
            `console.progress`.

    Returns:
        dict, name -> number: those of `NAMES` and of `PARTS`.
    """
    bar = progress or (lambda description: None)
    rows = _drawn(len(x), num_images, seed)
    moments = posteriors(model, x, rows, bar("latents"))
    codes, factors = moments[0], np.asarray(factors)[rows]
    what = f"{len(rows):,} of {len(x):,} images"
    if not np.isfinite(moments).all():
        return {name: number(None, "", "latents that are not finite") for name in NAMES}
    draws = 200 if fast else 1000
    sizes = (2_000, 1_000) if fast else (10_000, 5_000)
    first = min(sizes[0], 2 * len(codes) // 3)
    probes = [slice(first), slice(first, first + min(sizes[1], len(codes) // 3))]
    probes = [(codes[part], factors[part]) for part in probes]
    trees = 10 if fast else 100
    ordered = [k for k, name in enumerate(names) if name != UNORDERED]

    some = slice(10_000)
    lib = f"20 bins, means of {len(codes[some]):,} images"
    chen = f"exact, {draws:,} draws, {what}"
    chen += f"; without {UNORDERED}" if len(ordered) < len(names) else ""
    votes = f"10,000 and 5,000 votes of 64 images, {what}"
    sample = " and ".join(f"{len(codes):,}" for codes, _ in probes) + " images"
    dci = disentanglement.dci(*probes, seed, bar("trees"), n_estimators=trees)
    found = {
        "mig_lib": number(disentanglement.mig(codes[some], factors[some]), "", lib),
        "mig_chen": number(
            disentanglement.mig_chen(*moments, factors[:, ordered], draws, seed, bar("entropies")),
            "",
            chen,
        ),
        "factor_vae_score": number(
            disentanglement.factor_vae_score(codes, factors, seed=seed), "", votes
        ),
        **{
            f"dci_{name}": number(dci[key], "", f"{trees} trees a class, {sample}")
            for name, key in (
                ("disentanglement", "dci"),
                ("completeness", "completeness"),
                ("informativeness", "informativeness"),
            )
        },
        "sap": number(disentanglement.sap(*probes, seed), "", f"linear, {sample}"),
    }
    return found | _parts(model, moments, len(x), draws, seed, bar("aggregate posterior"))


def _drawn(n, most, seed):
    """Places of some of n examples, all where they are to be, in an order by chance."""
    return np.random.default_rng(seed).permutation(n)[:most]
