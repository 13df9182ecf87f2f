"""Small patches of images, drawn at random or all of them."""

import numpy as np

LEVELS = 255


def drawn(images, n, size=8, seed=0, dequantize=True) -> np.ndarray:
    """n patches at random places of random images: float32 (n, size, size) in [0, 1].

    Args:
        images: uint8 (N, height, width, 1), or a list of such images of any sizes.
        n: int.
        size: int, height and width of a patch, in pixels.
        seed: int.
        dequantize: True adds uniform noise of one grey level, U(0, 1) / 255, which makes a density
            of what has 256 values.

    Raises:
        ValueError: if an image is in colour, or smaller than a patch.
    """
    images = [np.asarray(image) for image in images]
    for image in images:
        if image.ndim != 3 or image.shape[2] != 1 or min(image.shape[:2]) < size:
            raise ValueError(
                f"`images` must be grey, of {size}×{size} pixels at least. "
                f"Received: an image of shape {image.shape}"
            )
    rng = np.random.default_rng(seed)
    heights, widths = np.array([image.shape[:2] for image in images]).T
    places = (heights - size + 1) * (widths - size + 1)  # all equally likely
    which = np.searchsorted(np.cumsum(places), rng.integers(0, places.sum(), n), side="right")
    rows = rng.integers(0, heights[which] - size + 1)
    columns = rng.integers(0, widths[which] - size + 1)
    patches = np.empty((n, size, size), "float32")
    for i, (image, row, column) in enumerate(zip(which, rows, columns)):
        patches[i] = images[image][row : row + size, column : column + size, 0]
    if dequantize:
        patches += rng.random(patches.shape, dtype="float32")
    return patches / np.float32(LEVELS)
