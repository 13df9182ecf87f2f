"""Which pictures a trained model has, by its kind and by what its data are."""

import functools

import keras
import numpy as np

from vae_zoo.lab import plots, svg
from vae_zoo.lab.measure import held_out_links, spread
from vae_zoo.models.conditional_vae import ConditionalVAE
from vae_zoo.models.hierarchical_vae import HierarchicalVAE
from vae_zoo.models.kinds import BaseVAE, Density, LatentModel
from vae_zoo.models.links import LinkPrediction
from vae_zoo.models.real_nvp import RealNVP
from vae_zoo.models.sketch_decoder import SketchDecoder
from vae_zoo.models.sketch_rnn import SketchRNN
from vae_zoo.models.vq_vae import VQVAE
from vae_zoo.parts import domains

# Of all pictures that a run draws, `plots.curves` included.
NAMES = ("curves", "samples", "samples_uniform", "reconstructions", "interpolations", "latents")
NAMES += ("latent_grid", "code_maps", "groups", "fixed_top", "rates", "roc")
NAMES += ("traversals", "mutual_information")
NAMES += ("classes", "swapped_classes", "completions", "signal_to_noise", "reinforce")
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # that sketches are drawn at
CLASSES = 8  # columns of a sheet of samples by class


def shown(x, y, most=5000):
    """Examples to draw, and their labels or None: spread over all and mixed, as a set may be sorted
    by class."""
    rows = np.random.default_rng(0).permutation(spread(len(x), most))
    return np.asarray(x[rows]), None if y is None else np.asarray(y[rows])


@functools.singledispatch
def pictures(model, x, y, output, seed):
    """Draws all pictures of a model, into the folder `output`.

    Args:
        model: trained model.
        x, y: test examples, and their labels or None; see `shown`.
        output: path of a folder.
        seed: int, of samples.

    Yields:
        path, what it shows.
    """
    return ()


@pictures.register
def _(model: Density, x, y, output, seed):
    yield from samples(model, output / "samples.png", seed)
    if model.domain.shape == (2,) and model.condition is None:
        n = min(len(x), 2000)
        new, path = model.sample(n, seed=seed), output / "density.png"
        yield plots.density(x[:n], new, model.log_likelihood, path), "data, density and samples"


@pictures.register
def _(model: RealNVP, x, y, output, seed):
    yield from pictures.dispatch(Density)(model, x, y, output, seed)
    if model.domain.shape == (2,):
        z = np.random.default_rng(seed).normal(size=(2000, 2)).astype("float32")
        points = model.run("steps", lambda z: tuple(model.steps(z)), z)
        yield plots.steps(points, output / "steps.png"), "noise on its way through the couplings"


@pictures.register
def _(model: LatentModel, x, y, output, seed):
    yield from between_and_again(model, x, y, output)
    yield from latent_space(model, x, y, output)


@pictures.register
def _(model: BaseVAE, x, y, output, seed):
    yield from samples(model, output / "samples.png", seed)
    yield from between_and_again(model, x, y, output)
    yield from latent_space(model, x, y, output)


@pictures.register
def _(model: LinkPrediction, x, y, output, seed):
    z = model.encode(x, y if model.condition is not None else None)[0]
    path, near = output / "latents.png", {"embedding": "tsne"}
    yield _drawn(plots.latent_scatter, z, None, path, "latents of the nodes", **near)
    linked, scores = held_out_links(model, x, y if model.condition is not None else None)
    if 0 < linked.sum() < len(linked):
        yield plots.roc(linked, scores, output / "roc.png"), "held-out links told from other pairs"


@pictures.register
def _(model: ConditionalVAE, x, y, output, seed):
    yield from pictures.dispatch(BaseVAE)(model, x, y, output, seed)
    if model.domain.pictures(np.asarray(x[:1])) is None:
        return
    if domains.classes(model.condition) is None:
        yield from completions(model, np.asarray(x[:10]), np.asarray(y[:10]), output, seed)
    else:
        yield from by_class(model, np.asarray(x), np.asarray(y), output, seed)


@pictures.register
def _(model: VQVAE, x, y, output, seed):
    yield from samples(model, output / "samples.png", seed)
    if model.has_learned_prior:
        what = "the same without the learned prior, from uniform codes"
        path = output / "samples_uniform.png"
        yield from samples(model.with_prior(None), path, seed, what)
    yield from between_and_again(model, x, y, output)
    shown, labels = _some(model, x, y, 20)
    codes = keras.tree.flatten(model.encode(shown, labels))
    grids = zip(model.grid_names, codes, model.code_vectors())
    grids = {f"codes{name}": (grid, vectors) for name, grid, vectors in grids}
    original = model.domain.pictures(shown)
    if original is None:
        return
    made = model.domain.pictures(model.reconstruct(shown, labels))
    what = "the code at each place as a colour, near ones for near vectors"
    yield _drawn(plots.code_maps, original, grids, made, output / "code_maps.png", what)


@pictures.register
def _(model: HierarchicalVAE, x, y, output, seed):
    yield from pictures.dispatch(BaseVAE)(model, x, y, output, seed)
    kl = [float(group.sum()) for group in model.kl_per_latent(np.asarray(x[:10]))]
    yield plots.group_rates(kl, model.scales, output / "rates.png"), "the KL of each group"
    if model.domain.pictures(model.decode(model.sample_latents(1))) is not None:
        yield from _groups(model, np.asarray(x[:10]), output, seed)


@pictures.register
def _(model: SketchDecoder, x, y, output, seed):
    yield from samples(model, output / "samples.png", seed, "new sketches, at temperature 1")
    yield from _completions(model, x, output, seed)
    new = [model.sample(8, seed=seed, temperature=t) for t in TEMPERATURES]
    yield svg.write_svg(np.stack(new), output / "samples.svg"), _at("new sketches, row by row at")


@pictures.register
def _(model: SketchRNN, x, y, output, seed):
    draw = model.domain.pictures
    new = model.sample(64, seed=seed)
    what = "new sketches, at temperature 0.4"
    yield _drawn(plots.samples, draw(new), output / "samples.png", what)
    some = np.asarray(x[:10])
    again = [model.reconstruct(some, temperature=t, seed=seed) for t in TEMPERATURES]
    rows = np.stack([some, *again], axis=1)
    titles = ["original", *map(str, TEMPERATURES)]
    what = "test sketches, and the model's, by temperature"
    yield _drawn(plots.image_rows, draw(rows), titles, output / "reconstructions.png", what)
    yield svg.write_svg(rows, output / "reconstructions.svg"), "the same, to be scaled"
    half = len(some) // 2
    between = model.interpolate(some[:half], some[half : 2 * half], steps=8)
    path, what = output / "interpolations.png", "straight lines in latent space"
    yield _drawn(plots.interpolations, draw(between), path, what)
    yield from _completions(model, x, output, seed)
    yield from latent_space(model, x, y, output)


def _completions(model, x, output, seed, each=6):
    """What a third of a test sketch is completed to."""
    rows = []
    for row, sketch in enumerate(np.asarray(x[:8])):
        third = max(1, int(np.sum(sketch[:, 4] < 0.5)) // 3)
        begun = np.repeat(sketch[None, :third], each, axis=0)
        made = model.complete(begun, temperature=0.4, seed=seed + 2 * row)  # z takes one, noise one
        alone = np.zeros_like(sketch)
        alone[:third], alone[third:, 4] = sketch[:third], 1
        rows.append(np.concatenate([sketch[None], alone[None], made]))
    titles = ["original", "begun", *["completed"] * each]
    drawn = model.domain.pictures(np.stack(rows))
    what = "a third of a test sketch, and what may follow, at temperature 0.4"
    yield _drawn(plots.image_rows, drawn, titles, output / "completions.png", what)


def _drawn(draw, *arguments, **how):
    """A picture with its caption, and the caption: what comes back of `draw(…, path, caption)`."""
    *arguments, caption = arguments
    return draw(*arguments, caption=f"{caption[0].upper()}{caption[1:]}.", **how), caption


def _at(what):
    return f"{what} temperature {', '.join(map(str, TEMPERATURES))}"


def samples(model, path, seed, what="new images"):
    """A sheet of 64 new images, a class a column where the model takes labels."""
    classes = domains.classes(model.condition)
    if model.condition is not None and classes is None:
        return  # a condition that is no class: what it looks like depends on what is given
    y = None if classes is None else np.arange(64) % CLASSES % classes
    new = model.domain.pictures(model.sample(64, y=y, seed=seed))
    if new is not None:
        yield _drawn(plots.samples, new, path, what)


def by_class(model, x, y, output, seed, most=10):
    """Rows of one class, and rows of one latent."""
    classes = min(most, domains.classes(model.condition))
    new = model.sample(seed=seed, y=np.repeat(np.arange(classes), most))
    rows = model.domain.pictures(new).reshape(classes, most, *new.shape[1:])
    what = "one class a row, another latent a column"
    yield _drawn(plots.image_rows, rows, [""] * most, output / "classes.png", what)
    # An image of each class, as far as there are some.
    first = [np.flatnonzero(y == c)[:1] for c in range(classes)]
    chosen = np.concatenate([*first, np.arange(len(x))])
    chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])][:most]
    swapped = model.swap(x[chosen], y[chosen])[:, :classes]
    rows = np.concatenate([model.domain.pictures(x[chosen])[:, None], swapped], axis=1)
    titles = ["original", *map(str, range(classes))]
    what = "the latent of the image at the left in every class"
    yield _drawn(plots.image_rows, rows, titles, output / "swapped_classes.png", what)


def completions(model, x, y, output, seed, draws=8):
    """What is given, the whole, and wholes that are drawn."""
    new = model.sample(seed=seed, y=np.repeat(y, draws, axis=0))
    new = model.domain.pictures(new).reshape(len(y), draws, *x.shape[1:])
    parts = (model.domain.pictures(part)[:, None] for part in (y, x))
    rows = np.concatenate([*parts, new], axis=1)
    titles = ["given", "original", *["drawn"] * draws]
    what = "what is given, the whole image, and others drawn"
    yield _drawn(plots.image_rows, rows, titles, output / "completions.png", what)


def _some(model, x, y, n):
    return np.asarray(x[:n]), None if model.condition is None else y[:n]


def between_and_again(model, x, y, output):
    """Reconstructions, and straight lines in latent space."""
    shown, labels = _some(model, x, y, 20)
    made = model.reconstruct(shown, labels)
    pairs = model.domain.pictures(shown), model.domain.pictures(made)
    if pairs[0] is None:
        return
    what = "test images, and what the model makes of them"
    yield _drawn(plots.reconstructions, *pairs, output / "reconstructions.png", what)
    half = len(shown) // 4
    if half:
        first = None if labels is None else labels[:half]
        lines = model.interpolate(shown[:half], shown[half : 2 * half], steps=10, y=first)
        lines, what = model.domain.pictures(lines), "straight lines in latent space"
        yield _drawn(plots.interpolations, lines, output / "interpolations.png", what)


def latent_space(model, x, y, output):
    """The latents of test examples, of the top group where there are several; where they are two
    numbers, what the plane decodes to."""
    codes = keras.tree.flatten(model.encode(*_some(model, x, y, 5000)))[0]
    labels = None if np.ndim(y) != 1 else y[:5000]  # which are colours
    codes = codes.reshape(len(codes), -1)
    finite = np.isfinite(codes).all(axis=1)
    if not finite.any():  # of a model that has diverged
        return
    codes, labels = codes[finite], None if labels is None else labels[finite]
    left_out = int((~finite).sum())
    not_finite = f", {left_out:,} of which are not finite and left out" if left_out else ""
    what = f"latent space of the test {model.domain.plural}{not_finite}"
    path, near = output / "latents.png", {"embedding": "tsne"}
    yield _drawn(plots.latent_scatter, codes, labels, path, what, **near)
    if model.latent_shape == (2,) and model.condition is None:
        # Where a prior says where codes lie; an autoencoder's lie where they happen to.
        limit = 3.0 if isinstance(model, BaseVAE) else float(np.abs(codes).max()) or 1.0
        if model.domain.pictures(model.decode(codes[:1])) is not None:

            def decoded(z):
                return model.domain.pictures(model.decode(z))

            path = plots.latent_grid(decoded, output / "latent_grid.png", limit)
            yield path, "the decoded plane"


def _groups(model, images, output, seed):
    """What each group of latents adds, and what stays where the groups at the top are held."""
    groups = len(model.ladder)
    latents, originals = model.encode(images), model.domain.pictures(images)
    counts = np.unique(np.linspace(0, groups, min(groups + 1, 11)).astype(int))

    def means_below(count):
        fixed = latents[:count]
        means = model.sample(len(images), seed=seed, temperature=0.0, fixed=fixed)
        return model.domain.pictures(means)

    rows = np.stack([originals, *map(means_below, counts)], axis=1)
    titles = ["original", *(f"{count} of {groups}" for count in counts)]
    what = "groups at the top from the image, all below at their prior's mean"
    yield _drawn(plots.image_rows, rows, titles, output / "groups.png", what)

    # The top scale's groups of one image, eight times; all below drawn anew.
    top = sum(scale == model.scales[0] for scale in model.scales)
    held = [[np.repeat(z[i : i + 1], 8, axis=0) for z in latents[:top]] for i in range(8)]
    new = [model.sample(8, seed=seed, fixed=fixed) for fixed in held[: len(images)]]
    new = map(model.domain.pictures, new)
    rows = np.stack([np.concatenate([originals[i : i + 1], x]) for i, x in enumerate(new)])
    titles, what = ["original", *["drawn"] * 8], "the top scale of the image at the left, all "
    what += "below drawn from the prior"
    yield _drawn(plots.image_rows, rows, titles, output / "fixed_top.png", what)
