"""Training images that differ a little each time they are seen; `folders` hands it on."""

import numpy as np


def augmented(images, rng):
    """Half of the images mirrored, all moved by up to a sixteenth, their edges repeated.

    Args:
        images: uint8 (n, height, width, channels).
        rng: `np.random.Generator`.
    """
    n, height, width, _ = images.shape
    images = np.where(rng.random(n)[:, None, None, None] < 0.5, images[:, :, ::-1], images)
    down, right = (
        np.clip(np.arange(size) + rng.integers(-reach, reach + 1, (n, 1)), 0, size - 1)
        for size, reach in ((height, height // 16), (width, width // 16))
    )
    return images[np.arange(n)[:, None, None], down[:, :, None], right[:, None, :]]
