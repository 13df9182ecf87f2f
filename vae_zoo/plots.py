"""Every picture of the zoo: each function writes one PNG and returns its path.

Images are float in [0, 1] (clipped) or uint8, with one channel (grey) or three (RGB), NumPy arrays
throughout. A pixel of an image becomes a square of whole pixels of the picture, never smoothed, and
NaN is magenta: nothing that a model gets wrong is hidden by the drawing. Figures are made without
pyplot, so no window, no display and no global state is involved.
"""

import io
import math
import textwrap
from pathlib import Path

import numpy as np

from vae_zoo.cli import write_bytes

DPI = 100
TILE = 84  # pixels, about: the longer side of an image in a grid
GAP, GROUP_GAP, MARGIN = 3, 12, 10  # pixels between images, between groups of rows, around all
CHARACTER, LINE = 7, 15  # pixels, about: width and height of a letter of 8 points
NAN_COLOUR = (255, 0, 255)
INK, TRAINING, VALIDATION = "#333333", "#1f5fa8", "#e07b00"
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
    images = _rgb(images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"`titles` must hold one string an image ({len(images)}). "
            f"Received: {len(titles)} titles"
        )
    columns = columns or math.ceil(math.sqrt(len(images)))
    return _sheet(_in_rows(images, columns), path, caption=caption, titles=titles)


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
    rows = {"original": _rgb(originals), "reconstruction": _rgb(reconstructed)}
    shapes = [images.shape for images in rows.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`originals` and `reconstructed` must have the same shape. Received: "
            f"{shapes[0][:3]} and {shapes[1][:3]} (images, height, width)"
        )
    return _below_each_other(rows, path, caption)


def code_maps(originals, grids, reconstructed, path, caption=None):
    """Originals, the codes at each place as colours, and reconstructions, one below the other.

    Args:
        originals, reconstructed: (n, height, width, channels) each, of equal shape.
        grids: dict, name -> (codes int (n, rows, columns), vectors (K, dim) of the codes). Near
            vectors have near colours: their first three principal components as red, green, blue.
        path: the PNG to write.
        caption: str, below the rows.
    """
    originals = _rgb(originals)
    height, width = originals.shape[1:3]
    rows = {"original": originals}
    for name, (codes, vectors) in grids.items():
        places = zip((height, width), codes.shape[1:])
        down, across = (np.arange(size) * n // size for size, n in places)
        rows[name] = _rgb(_vector_colours(vectors)[codes][:, down][:, :, across])
    return _below_each_other(rows | {"reconstruction": _rgb(reconstructed)}, path, caption)


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
    tiles = np.stack([_in_rows(images, columns) for images in rows.values()], axis=1)
    tiles = tiles.reshape(-1, *tiles.shape[2:])  # original, reconstruction, original, …
    return _sheet(tiles, path, caption=caption, labels=list(rows))


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
    tiles = _rgb(images.reshape(-1, *images.shape[2:]))
    return _sheet(tiles.reshape(rows, columns, *tiles.shape[1:]), path, caption, titles=titles)


def group_rates(kl, scales, path):
    """The KL of each group of latents as bars, from the top group to the one at the image.

    Args:
        kl: floats, nats.
        scales: ints, the scale of each, from the image up; what the bars are coloured by.
        path: the PNG to write.
    """
    figure = _figure(160 + 34 * len(kl), 300, layout="constrained")
    axes = figure.subplots()
    colours = [TRAINING if scale % 2 else VALIDATION for scale in scales]
    axes.bar(np.arange(len(kl)), kl, color=colours)
    axes.set_xticks(np.arange(len(kl)), [f"{s}" for s in scales])
    axes.set_xlabel("scale of each group, from the top")
    axes.set_ylabel("KL in nats")
    _tidy(axes)
    return _save(figure, path)


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
    images = _rgb(decode(np.stack([z1.ravel(), z2.ravel()], axis=1)))
    if len(images) != steps * steps:
        raise ValueError(f"`decode` must return {steps * steps} images. Received: {len(images)}")
    height, width = images.shape[1:3]
    scale = max(1, round(720 / (steps * max(height, width))))
    grid = _in_rows(images, steps).swapaxes(1, 2).reshape(steps * height, steps * width, 3)
    grid = _enlarged(grid, scale)

    left, below = 60, 50
    page_height, page_width = grid.shape[0] + below + MARGIN, grid.shape[1] + left + MARGIN
    figure = _figure(page_width, page_height)
    box = (left / page_width, below / page_height)
    axes = figure.add_axes((*box, grid.shape[1] / page_width, grid.shape[0] / page_height))
    edge = limit + limit / (steps - 1)  # half an image beyond the outermost centres
    axes.imshow(grid, extent=(-edge, edge, -edge, edge), aspect="auto", interpolation="nearest")
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    _tidy(axes)
    return _save(figure, path)


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
    figure = _figure(380 * columns, 280 * rows, layout="constrained")
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
        _tidy(axes)
    return _save(figure, path)


def accuracies(values, path):
    """Accuracy over the number of labels a class, one line a way of learning, its spread shaded.

    Args:
        values: dict, way -> {number of labels: accuracies of several draws}.
        path: the PNG to write.
    """
    figure = _figure(560, 380, layout="constrained")
    axes = figure.subplots()
    for way, by_labels in values.items():
        labels = sorted(by_labels)
        means = np.array([np.mean(by_labels[n]) for n in labels])
        spreads = np.array([np.std(by_labels[n]) for n in labels])
        (line,) = axes.plot(labels, means, marker="o", markersize=4, label=way)
        axes.fill_between(
            labels, means - spreads, means + spreads, color=line.get_color(), alpha=0.2
        )
    axes.set_xscale("log")
    axes.set_xticks(labels, [f"{n:,}" for n in labels])
    axes.minorticks_off()
    axes.set(xlabel="labels a class", ylabel="accuracy")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(fontsize=8, frameon=False, loc="lower right")  # where more labels are not
    _tidy(axes)
    return _save(figure, path)


def rate_distortion(rows, path):
    """Rate and distortion of trials, by their β where it differs, with the Pareto front: no trial
    has less of both.

    Args:
        rows: dicts with "rate" and "distortion" (nats), and "beta" or none; others are left out.
        path: the PNG to write.
    """
    rows = [row for row in rows if row.get("rate") is not None]
    rate, distortion = (np.array([row[name] for row in rows]) for name in ("rate", "distortion"))
    front = [i for i in np.argsort(rate) if (distortion[rate < rate[i]] > distortion[i]).all()]
    figure = _figure(520, 400, layout="constrained")
    axes = figure.subplots()
    axes.plot(rate[front], distortion[front], color=VALIDATION, label="Pareto front", zorder=1)
    beta = [row.get("beta") for row in rows]
    if None in beta:
        axes.scatter(rate, distortion, s=22, color=TRAINING, zorder=2)
    else:
        points = axes.scatter(rate, distortion, s=22, c=np.log10(beta), cmap="viridis", zorder=2)
        figure.colorbar(points, label="log10 β")
    axes.set(xlabel="rate, nats", ylabel="distortion, nats")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(fontsize=8, frameon=False)
    _tidy(axes)
    return _save(figure, path)


def search(rows, names, objective, path):
    """The objective of trials over each of their settings, a panel each.

    Args:
        rows: dicts of settings and numbers, as `tuning.table` returns them; those without the
            objective are left out.
        names: of the settings.
        objective: the name of the number on the vertical axis.
        path: the PNG to write.
    """
    rows = [row for row in rows if row.get(objective) is not None]
    columns = min(3, len(names))
    figure = _figure(300 * columns, 260 * math.ceil(len(names) / columns), layout="constrained")
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(math.ceil(len(names) / columns), columns, position)
        values = np.array([row[name] for row in rows], "float64")
        axes.scatter(values, [row[objective] for row in rows], s=18, color=TRAINING)
        if _spans_magnitudes(values):
            axes.set_xscale("log")
            ticks = np.geomspace(values.min(), values.max(), 4)
            axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(xlabel=name, ylabel=objective)
        axes.grid(alpha=0.25, linewidth=0.6)
        _tidy(axes)
    return _save(figure, path)


def parallel(rows, names, objective, path):
    """Parallel coordinates: a line a trial through its settings and its objective, the best dark.

    Args:
        rows, names, objective, path: see `search`; rows come best first.
    """
    rows = [row for row in rows if row.get(objective) is not None]
    names = [*names, objective]
    table = np.array([[row[name] for name in names] for row in rows], "float64")
    scaled = np.empty_like(table)
    for column, values in enumerate(table.T):
        if _spans_magnitudes(values):
            values = np.log(values)
        scaled[:, column] = (values - values.min()) / (np.ptp(values) or 1.0)
    figure = _figure(130 * len(names) + 80, 360, layout="constrained")
    axes = figure.subplots()
    for rank, line in reversed(list(enumerate(scaled))):
        shade = rank / max(1, len(rows) - 1)
        axes.plot(line, color=str(0.1 + 0.75 * shade), linewidth=2.0 - 1.4 * shade)
    ends = [
        f"{name}\n{low:.3g} to {high:.3g}"
        for name, low, high in zip(names, table.min(axis=0), table.max(axis=0))
    ]
    axes.set_xticks(range(len(names)), ends)
    axes.set_yticks([])
    axes.grid(alpha=0.4, axis="x")
    _tidy(axes)
    return _save(figure, path)


def _spans_magnitudes(values):
    """Whether values are better read on a logarithmic axis."""
    return values.min() > 0 and values.max() > 8 * values.min()


def latent_scatter(z, y, path):
    """Latent codes as points, coloured by class.

    Args:
        z: (n, d). d = 2 is drawn as it is; d > 2 by its first two principal components, whose share
            of the variance stands on the axes; d = 1 as a histogram.
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
    figure = _figure(720, 600, layout="constrained")
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
    _tidy(axes)
    return _save(figure, path)


def _plane(z):
    """(n, d) -> (n, 2) and the names of the two axes: z itself, or its principal components."""
    if z.shape[1] == 2:
        return z, ("$z_1$", "$z_2$")
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


# === Pixels ===


def _rgb(images):
    """(n, height, width[, 1 or 3]) of float in [0, 1], bool or uint8 -> uint8 (n, h, w, 3)."""
    images = np.asarray(images)
    shape, kind = images.shape, images.dtype
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "Images must have the shape (n, height, width) or (n, height, width, channels) with 1 "
            f"or 3 channels. Received: shape={shape}"
        )
    if kind.kind not in "fb" and kind != np.uint8:
        raise ValueError(f"Images must be float in [0, 1] or uint8. Received: dtype={kind}")
    undefined = np.isnan(images).any(axis=-1)
    if kind != np.uint8:
        images = np.nan_to_num(images.astype("float32"))
        images = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype("uint8")
    images = np.repeat(images, 3 // images.shape[3], axis=3)
    images[undefined] = NAN_COLOUR
    return images


def _in_rows(images, columns):
    """(n, height, width, 3) -> (rows, columns, height, width, 3), white where there is no image."""
    rows = -(-len(images) // columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), 255, "uint8")
    return np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:])


def _enlarged(image, scale):
    """Each pixel of (height, width, 3) as a square of scale x scale."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _sheet(tiles, path, caption=None, titles=None, labels=()):
    """Draw tiles of uint8 (rows, columns, height, width, 3) pixel by pixel, and the words around.

    `titles` stand above the tiles, in order, as far as they reach; `labels` stand at the left of
    the rows, over and over, with some space between one set of labels and the next.
    """
    rows, columns, height, width, _ = tiles.shape
    scale = max(1, round(TILE / max(height, width)))
    height, width = height * scale, width * scale
    titles = [] if titles is None else [str(title) for title in titles]
    left = MARGIN + max((CHARACTER * len(label) + GAP for label in labels), default=0)
    page_width = left + columns * (width + GAP) - GAP + MARGIN
    page_width = max(page_width, 40 * CHARACTER) if caption else page_width
    lines = textwrap.wrap(caption or "", (page_width - 2 * MARGIN) // CHARACTER)

    words = []  # (x, y of the centre, text, horizontal alignment), in pixels from the top left
    places = []  # (y, x) of each tile's corner
    y = MARGIN
    for row in range(rows):
        row_titles = titles[row * columns : (row + 1) * columns]
        y += LINE if row_titles else 0
        for column in range(columns):
            places.append((y, left + column * (width + GAP)))
        for title, (_, x) in zip(row_titles, places[-columns:], strict=False):
            words.append((x + width / 2, y - LINE / 2 - 1, title, "center"))
        if labels:
            label = labels[row % len(labels)]
            words.append((left - 2 * GAP, y + height / 2, label, "right"))
        y += height + (GROUP_GAP if labels and (row + 1) % len(labels) == 0 else GAP)
    bottom = places[-1][0] + height + MARGIN
    for number, line in enumerate(lines):
        words.append((MARGIN, bottom + LINE * (number + 0.5), line, "left"))
    page_height = bottom + (LINE * len(lines) + MARGIN if lines else 0)

    page = np.full((page_height, page_width, 3), 255, "uint8")
    for tile, (y, x) in zip(tiles.reshape(-1, *tiles.shape[2:]), places, strict=True):
        page[y : y + height, x : x + width] = _enlarged(tile, scale)
    figure = _figure(page_width, page_height)
    figure.figimage(page)
    style = {"fontsize": 8, "color": INK, "va": "center", "parse_math": False}
    for x, y, text, align in words:
        figure.text(x / page_width, 1 - y / page_height, text, ha=align, **style)
    return _save(figure, path)


def _figure(width, height, **kwargs):
    """An empty figure of width x height pixels."""
    from matplotlib.figure import Figure

    # The tenth of a pixel keeps rounding from making the picture one pixel smaller.
    return Figure(figsize=((width + 0.1) / DPI, (height + 0.1) / DPI), dpi=DPI, **kwargs)


def _tidy(axes):
    """Small, grey letters; no frame at the top and the right."""
    axes.tick_params(labelsize=8, colors=INK)
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure, path):
    """Write the PNG, small, whole or not at all; equal figures give equal bytes."""
    from PIL import Image

    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    image = Image.open(drawn).convert("RGB")
    if colours := image.getcolors(256):  # without loss
        image = image.quantize(len(colours), dither=Image.Dither.NONE)
    image.save(picture, "PNG", optimize=True)
    write_bytes(path, picture.getvalue())
    return Path(path)
