"""Every picture of the zoo: each function writes one PNG and returns its path.

Images are float in [0, 1] (clipped) or uint8, with one channel (grey) or three (RGB), NumPy arrays
throughout.
"""

import math

import numpy as np

from vae_zoo.lab.canvas import (
    INK,
    MARGIN,
    TRAINING,
    VALIDATION,
    enlarged,
    figure_of,
    in_rows,
    rgb,
    save,
    sheet,
    tidy,
)
from vae_zoo.lab.charts import (
    accuracies,
    parallel,
    rate_distortion,
    roc,
    search,
    signal_to_noise,
    variances,
)
from vae_zoo.lab.planes import density, steps

__all__ = [
    "accuracies",
    "code_maps",
    "curves",
    "density",
    "group_rates",
    "image_grid",
    "image_rows",
    "interpolations",
    "latent_grid",
    "latent_scatter",
    "parallel",
    "rate_distortion",
    "reconstructions",
    "roc",
    "samples",
    "search",
    "signal_to_noise",
    "steps",
    "strips",
    "variances",
]

UNITS = {  # of what is logged and is no number of nats
    "beta": "weight",
    "skipped": "updates",
    "perplexity": "codes",
    "accuracy": "share",
    "learning_rate": "per step",
}


# === Images ===


def image_grid(images, path, columns=None, titles=None, caption=None):
    """Images side by side, row by row.

    Args:
        images: (n, height, width) or (n, height, width, channels).
        path: the PNG to write.
        columns: int, images in a row; None makes the grid nearly square.
        titles: n strings, one above each image.
        caption: str, below the grid.
    """
    images = rgb(images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"`titles` must hold one string an image ({len(images)}). "
            f"Received: {len(titles)} titles"
        )
    columns = columns or math.ceil(math.sqrt(len(images)))
    return sheet(in_rows(images, columns), path, caption=caption, titles=titles)


def samples(images, path, caption=None):
    """Images drawn from a model, (n, height, width, channels), in a nearly square grid."""
    return image_grid(images, path, caption=caption)


def reconstructions(originals, reconstructed, path, caption=None):
    """Originals in one row and what the model makes of them in the row below, ten to a row.

    Args:
        originals, reconstructed: (n, height, width, channels) each, of equal shape.
        path: the PNG to write.
        caption: str, below the rows.
    """
    rows = {"original": rgb(originals), "reconstruction": rgb(reconstructed)}
    shapes = [images.shape for images in rows.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`originals` and `reconstructed` must have the same shape. Received: "
            f"{shapes[0][:3]} and {shapes[1][:3]} (images, height, width)"
        )
    return _below_each_other(rows, path, caption)


def strips(rows, path, caption=None):
    """Images in labelled rows, one below the other.

    Args:
        rows: dict, name -> (n, height, width, channels), all of one shape.
        path: the PNG to write.
        caption: str, below the rows.
    """
    return _below_each_other({name: rgb(images) for name, images in rows.items()}, path, caption)


def code_maps(originals, grids, reconstructed, path, caption=None):
    """Originals, the codes at each place as colours, and reconstructions, one below the other.

    Args:
        originals, reconstructed: (n, height, width, channels) each, of equal shape.
        grids: dict, name -> (codes int (n, rows, columns), vectors (K, dim) of the codes). Near
            vectors have near colours: their first three principal components as red, green, blue.
        path: the PNG to write.
        caption: str, below the rows.
    """
    originals = rgb(originals)
    height, width = originals.shape[1:3]
    rows = {"original": originals}
    for name, (codes, vectors) in grids.items():
        places = zip((height, width), codes.shape[1:])
        down, across = (np.arange(size) * n // size for size, n in places)
        rows[name] = rgb(_vector_colours(vectors)[codes][:, down][:, :, across])
    return _below_each_other(rows | {"reconstruction": rgb(reconstructed)}, path, caption)


def _vector_colours(vectors):
    """RGB in [0, 1] of vectors (K, dim): ranks along their first three principal components."""
    vectors = np.asarray(vectors, "float64")
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    ranks = (centred @ directions[:3].T).argsort(0).argsort(0)
    colours = np.zeros((len(vectors), 3))
    colours[:, : ranks.shape[1]] = ranks / max(1, len(vectors) - 1)
    return colours


def _below_each_other(rows, path, caption):
    """Several images of each of n examples below each other, ten examples to a row."""
    columns = min(10, len(next(iter(rows.values()))))
    tiles = np.stack([in_rows(images, columns) for images in rows.values()], axis=1)
    tiles = tiles.reshape(-1, *tiles.shape[2:])  # original, reconstruction, original, …
    return sheet(tiles, path, caption=caption, labels=list(rows))


def image_rows(images, titles, path, caption=None):
    """Rows of images under titles, one a column.

    Args:
        images: (rows, columns, height, width, channels).
        titles: strings, one a column.
        path: the PNG to write.
        caption: str, below the rows.
    """
    images = np.asarray(images)
    rows, columns = images.shape[:2]
    if len(titles) != columns:
        raise ValueError(f"`titles` must hold {columns} strings. Received: {len(titles)}")
    tiles = rgb(images.reshape(-1, *images.shape[2:]))
    return sheet(tiles.reshape(rows, columns, *tiles.shape[1:]), path, caption, titles=titles)


def interpolations(images, path, caption=None):
    """One path between two examples a row, from t = 0 at the left to t = 1 at the right.

    Args:
        images: (rows, steps, height, width, channels), decoded along each path.
        path: the PNG to write.
        caption: str, below the rows.
    """
    images = np.asarray(images)
    if images.ndim != 5:
        raise ValueError(
            "`images` must have the shape (rows, steps, height, width, channels). "
            f"Received: shape={images.shape}"
        )
    titles = [f"{t:.2g}" for t in np.linspace(0.0, 1.0, images.shape[1])]
    return image_rows(images, titles, path, caption)


def latent_grid(decode, path, limit=3.0, steps=20):
    """The images that a two-dimensional latent space decodes to, on a regular grid.

    Args:
        decode: function, z of float32 (steps * steps, 2) -> images (steps * steps, height, width,
            channels). An image's centre stands at its z; z1 grows rightwards and z2 upwards.
        path: the PNG to write.
        limit: float, the grid spans [-limit, limit] on both axes.
        steps: int, 2 or more, images on each axis.
    """
    if steps < 2 or not limit > 0:
        raise ValueError(
            "`steps` must be 2 or more and `limit` positive. "
            f"Received: steps={steps}, limit={limit}"
        )
    values = np.linspace(-limit, limit, steps, dtype="float32")
    z1, z2 = np.meshgrid(values, values[::-1])  # the first row of images is the top one
    images = rgb(decode(np.stack([z1.ravel(), z2.ravel()], axis=1)))
    if len(images) != steps * steps:
        raise ValueError(f"`decode` must return {steps * steps} images. Received: {len(images)}")
    height, width = images.shape[1:3]
    scale = max(1, round(720 / (steps * max(height, width))))
    grid = in_rows(images, steps).swapaxes(1, 2).reshape(steps * height, steps * width, 3)
    grid = enlarged(grid, scale)

    left, below = 60, 50
    page_height, page_width = grid.shape[0] + below + MARGIN, grid.shape[1] + left + MARGIN
    figure = figure_of(page_width, page_height)
    box = (left / page_width, below / page_height)
    axes = figure.add_axes((*box, grid.shape[1] / page_width, grid.shape[0] / page_height))
    edge = limit + limit / (steps - 1)  # half an image beyond the outermost centres
    axes.imshow(grid, extent=(-edge, edge, -edge, edge), aspect="auto", interpolation="nearest")
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    tidy(axes)
    return save(figure, path)


def group_rates(kl, scales, path):
    """The KL of each group of latents as bars, from the top group to the one at the image.

    Args:
        kl: floats, nats.
        scales: ints, the scale of each, from the image up; what the bars are coloured by.
        path: the PNG to write.
    """
    figure = figure_of(160 + 34 * len(kl), 300, layout="constrained")
    axes = figure.subplots()
    colours = [TRAINING if scale % 2 else VALIDATION for scale in scales]
    axes.bar(np.arange(len(kl)), kl, color=colours)
    axes.set_xticks(np.arange(len(kl)), [f"{s}" for s in scales])
    axes.set_xlabel("scale of each group, from the top")
    axes.set_ylabel("KL in nats")
    tidy(axes)
    return save(figure, path)


# === Numbers ===


def curves(history, path, units=None):
    """What was logged, one panel a term: training and validation together, over the epochs.

    Args:
        history: dict, name -> a number an epoch; `val_` names go into the panel of their term, and
            a shorter list is spread evenly up to the last epoch. `skipped` is left out when no step
            was skipped. Numbers that are not finite leave a gap, and the panel says how many.
        path: the PNG to write.
        units: dict, name -> unit, for terms that are neither in nats nor in `UNITS`.
    """
    from matplotlib.ticker import MaxNLocator

    history = {name: np.asarray(values, dtype="float64") for name, values in history.items()}
    terms = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    both = [np.append(history.get(term, []), history.get(f"val_{term}", [])) for term in terms]
    terms = [t for t, v in zip(terms, both, strict=True) if v.size and (t != "skipped" or v.any())]
    if not terms:
        raise ValueError(f"`history` must hold at least one epoch. Received: {list(history)}")

    columns = min(3, len(terms))
    rows = math.ceil(len(terms) / columns)
    figure = figure_of(380 * columns, 280 * rows, layout="constrained")
    epochs = max(len(values) for values in history.values())
    for position, term in enumerate(terms, start=1):
        axes = figure.add_subplot(rows, columns, position)
        gaps = 0
        for name, label, colour in [
            (term, "training", TRAINING),
            (f"val_{term}", "validation", VALIDATION),
        ]:
            values = history.get(name, np.empty(0))
            if values.size:
                at = np.arange(1, len(values) + 1) * (epochs // len(values))
                finite = np.where(np.isfinite(values), values, np.nan)
                # Few epochs are shown as points too: one point alone has no line.
                marker = "o" if np.isfinite(values).sum() <= 20 else None
                axes.plot(at, finite, color=colour, label=label, marker=marker, markersize=3)
                gaps += int(np.isnan(finite).sum())
        axes.set_title(term, fontsize=10, color=INK)
        axes.set(xlabel="epoch", ylabel={**UNITS, **(units or {})}.get(term, "nats"))
        axes.set_xlim(0.5, epochs + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25, linewidth=0.6)
        if gaps:
            where = {"x": 0.5, "y": 0.5, "transform": axes.transAxes, "ha": "center"}
            axes.text(s=f"{gaps} not finite", color="#b00020", fontsize=9, **where)
        if term in history and f"val_{term}" in history:
            axes.legend(fontsize=8, frameon=False)
        tidy(axes)
    return save(figure, path)


def latent_scatter(z, y, path):
    """Latent codes as points, coloured by class.

    Args:
        z: (n, d). d = 2 is drawn as it is; d > 2 by its first two principal components, whose share
            of the variance stands on the axes (by its first two numbers where all points are one);
            d = 1 as a histogram.
        y: (n,) integer labels, or None. Up to 20 classes get a legend, more a colour bar.
        path: the PNG to write.
    """
    z, y = np.asarray(z), None if y is None else np.asarray(y)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"`z` must have the shape (n, d). Received: shape={z.shape}")
    if y is not None and (y.shape != z.shape[:1] or y.dtype.kind not in "iub"):
        raise ValueError(
            f"`y` must be {len(z)} integer labels. Received: shape={y.shape}, dtype={y.dtype}"
        )
    if not np.isfinite(z).all():
        wrong = int((~np.isfinite(z)).sum())
        raise ValueError(f"`z` must be finite. Received: {wrong} numbers that are not")

    labels = np.zeros(1, int) if y is None else np.unique(y)
    colours = [TRAINING] if y is None else _class_colours(labels)
    index = np.zeros(len(z), int) if y is None else np.searchsorted(labels, y)
    figure = figure_of(720, 600, layout="constrained")
    axes = figure.add_subplot()
    if z.shape[1] == 1:
        groups = [z[index == k, 0] for k in range(len(labels))]
        axes.hist(groups, bins=50, stacked=True, color=colours)
        axes.set(xlabel="$z_1$", ylabel="examples")
    else:
        z, names = _plane(z)
        size = float(np.clip(20_000 / len(z), 3, 25))
        # One call in the order of the data: drawn class by class, the last would hide the others.
        axes.scatter(*z.T, c=np.asarray(colours)[index], s=size, alpha=0.7, linewidths=0)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.grid(alpha=0.25, linewidth=0.6)
    if y is not None:
        _class_key(figure, axes, labels, colours)
    tidy(axes)
    return save(figure, path)


def _plane(z):
    """(n, d) -> (n, 2) and the names of the two axes: z itself, or its principal components."""
    if z.shape[1] == 2:
        return z, ("$z_1$", "$z_2$")
    if len(z) < 2 or not np.ptp(z, axis=0).any():  # without a variance to have components of
        return z[:, :2], ("$z_1$", "$z_2$")
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    plane = pca.fit_transform(z)
    first, second = 100 * pca.explained_variance_ratio_
    return plane, (
        f"principal component 1 ({first:.0f} % of the variance)",
        f"principal component 2 ({second:.0f} % of the variance)",
    )


def _class_colours(labels):
    """A colour (hex) for each of the sorted labels: distinct ones up to 20, then a scale."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if len(labels) > 20:
        shares = (labels - labels[0]) / (labels[-1] - labels[0])
        return [to_hex(colour) for colour in colormaps["viridis"](shares)]
    name = "tab10" if len(labels) <= 10 else "tab20"
    return [to_hex(colormaps[name](k)) for k in range(len(labels))]


def _class_key(figure, axes, labels, colours):
    """Say which colour is which label: a legend beside the axes, or a bar for more than 20."""
    if len(labels) <= 20:
        from matplotlib.patches import Patch

        patches = [
            Patch(color=colour, label=str(k)) for k, colour in zip(labels, colours, strict=True)
        ]
        figure.legend(
            handles=patches, title="class", loc="outside right center", frameon=False, fontsize=9
        )
    else:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(labels[0], labels[-1]), "viridis")
        figure.colorbar(scale, ax=axes, label="class")
