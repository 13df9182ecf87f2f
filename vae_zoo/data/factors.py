"""Whole data sets with the factors that their images were made of, for disentanglement."""

import os

import numpy as np

from vae_zoo import archives, data
from vae_zoo.data.folders import fitted
from vae_zoo.data.shapes import Shapes, side_of


def load(name, image_size=None) -> tuple:
    """A whole data set and its factors of variation.

    Args:
        name: "shapes", or a `.npz` file with `images` (or `x`), `factors` (and `factor_names`), by
            its path or by its name in `$VAE_ZOO_DATA`: "sprites" is one.
        image_size: (height, width) or (height, width, channels), see `vae_zoo.data.load`.

    Returns:
        (x, factors, names): x uint8 (N, height, width, channels) (`Shapes` for "shapes"), factors
        int (N, those), and a tuple of their names.

    Raises:
        ValueError: if the set has no factors, one row an image.
    """
    name = os.fspath(name)
    if name == "shapes":
        x = Shapes(size=side_of(image_size))
        return x, x.factors(), x.factor_names
    path = data.find(name)
    if path and path.is_file():
        with archives.arrays(path) as archive:
            key = next((key for key in ("images", "x") if key in archive.files), None)
            if key and "factors" in archive.files:
                x, found = archive[key], archive["factors"].astype("int32")
                if found.ndim != 2 or len(found) != len(x):
                    raise ValueError(
                        f"`factors` must be (n, factors), a row an image. Received: {path} with "
                        f"{found.shape} for images {x.shape}"
                    )
                names = [f"factor {k}" for k in range(found.shape[1])]
                names = archive["factor_names"] if "factor_names" in archive.files else names
                if image_size:
                    shape = (*image_size, x.shape[-1])[:3]
                    x = np.stack([fitted(image, shape) for image in x])
                return x, found, tuple(map(str, names))
    raise ValueError(
        "`name` must be a data set with factors: shapes, sprites, or a .npz file with `images` and "
        f"`factors`. Received: {name}"
    )
