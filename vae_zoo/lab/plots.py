"""Every picture of the zoo: each function draws one.

Written to a `path` it is a PNG, or a PDF or an SVG where the suffix says so, and the path comes
back; without one a Matplotlib figure does, which a notebook shows. Images are float in [0, 1]
(clipped) or uint8, with one channel (grey) or three (RGB), NumPy arrays throughout.
"""

import math

import numpy as np

from vae_zoo.lab.canvas import (
    MARGIN,
    TRAINING,
    VALIDATION,
    Picture,
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
from vae_zoo.lab.clouds import latent_scatter
from vae_zoo.lab.curves import curves
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


def image_grid(images, path=None, columns=None, titles=None, caption=None) -> Picture:
    """Images side by side, row by row.

    Args:
        images: (n, height, width) or (n, height, width, channels).
        path: of the picture, or None; see `plots`.
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


def samples(images, path=None, caption=None) -> Picture:
    """Images drawn from a model, (n, height, width, channels), in a nearly square grid."""
    return image_grid(images, path, caption=caption)


def reconstructions(originals, reconstructed, path=None, caption=None) -> Picture:
    """Originals in one row and what the model makes of them in the row below, ten to a row.

    Args:
        originals, reconstructed: (n, height, width, channels) each, of equal shape.
        path: of the picture, or None; see `plots`.
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


def strips(rows, path=None, caption=None) -> Picture:
    """Images in labelled rows, one below the other.

    Args:
        rows: dict, name -> (n, height, width, channels), all of one shape.
        path: of the picture, or None; see `plots`.
        caption: str, below the rows.
    """
    return _below_each_other({name: rgb(images) for name, images in rows.items()}, path, caption)


def code_maps(originals, grids, reconstructed, path=None, caption=None) -> Picture:
    """Originals, the codes at each place as colours, and reconstructions, one below the other.

    Args:
        originals, reconstructed: (n, height, width, channels) each, of equal shape.
        grids: dict, name -> (codes int (n, rows, columns), vectors (K, dim) of the codes). Near
            vectors have near colours: their first three principal components as red, green, blue.
        path: of the picture, or None; see `plots`.
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


def image_rows(images, titles, path=None, caption=None) -> Picture:
    """Rows of images under titles, one a column.

    Args:
        images: (rows, columns, height, width, channels).
        titles: strings, one a column.
        path: of the picture, or None; see `plots`.
        caption: str, below the rows.
    """
    images = np.asarray(images)
    rows, columns = images.shape[:2]
    if len(titles) != columns:
        raise ValueError(f"`titles` must hold {columns} strings. Received: {len(titles)}")
    tiles = rgb(images.reshape(-1, *images.shape[2:]))
    return sheet(tiles.reshape(rows, columns, *tiles.shape[1:]), path, caption, titles=titles)


def interpolations(images, path=None, caption=None) -> Picture:
    """One path between two examples a row, from t = 0 at the left to t = 1 at the right.

    Args:
        images: (rows, steps, height, width, channels), decoded along each path.
        path: of the picture, or None; see `plots`.
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


def latent_grid(decode, path=None, limit=3.0, steps=20) -> Picture:
    """The images that a two-dimensional latent space decodes to, on a regular grid.

    Args:
        decode: function, z of float32 (steps * steps, 2) -> images (steps * steps, height, width,
            channels). An image's centre stands at its z; z1 grows rightwards and z2 upwards.
        path: of the picture, or None; see `plots`.
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


def group_rates(kl, scales, path=None) -> Picture:
    """The KL of each group of latents as bars, from the top group to the one at the image.

    Args:
        kl: floats, nats.
        scales: ints, the scale of each, from the image up; what the bars are coloured by.
        path: of the picture, or None; see `plots`.
    """
    figure = figure_of(max(340, 160 + 34 * len(kl)), 300, layout="constrained")
    axes = figure.subplots()
    colours = [TRAINING if scale % 2 else VALIDATION for scale in scales]
    axes.bar(np.arange(len(kl)), kl, color=colours)
    axes.set_xticks(np.arange(len(kl)), [f"{s}" for s in scales])
    axes.set_xlabel("scale of each group, from the top")
    axes.set_ylabel("KL in nats")
    tidy(axes)
    return save(figure, path)
