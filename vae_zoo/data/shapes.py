"""Binary sprites, drawn when they are asked for.

They follow dSprites (Matthey et al., 2017, "dSprites: Disentanglement testing Sprites dataset")
in the factors, their order and sizes. They differ in the drawing (own outlines), in the positions
(steps of one pixel) and in the 40 orientations, which stop short of a full turn (dSprites repeats
the first as the last).
"""

import functools

import numpy as np


class Shapes:
    """737,280 binary sprites with dSprites' factors, drawn when indexed; a lazy uint8 array.

    `shapes[i]` is (64, 64, 1) for an int, (n, 64, 64, 1) for a slice or an index array; 0 or 255.
    Every sprite fits the image at every position; one step of x or y moves it by one pixel.

    Args:
        indices: None for all, or an int array of places in the full set: a subset.
    """

    factor_names = ("color", "shape", "scale", "orientation", "x", "y")
    factor_sizes = (1, 3, 6, 40, 32, 32)
    dtype = np.dtype("uint8")

    def __init__(self, indices=None):
        full = np.arange(np.prod(self.factor_sizes))
        self.indices = full if indices is None else full[indices]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.render(self.factors(index))

    @property
    def shape(self):
        return (len(self), 64, 64, 1)

    def factors(self, indices=slice(None)):
        """Factors of the images at `indices` of this (sub)set: int (n, 6), or (6,) for one int."""
        return np.stack(np.unravel_index(self.indices[indices], self.factor_sizes), axis=-1)

    def twins(self):
        """A number for each image of this (sub)set, the same for equal images: int (n,), 0 …

        A square looks alike after a quarter of a turn, an ellipse after half of one.
        """
        _, shape, scale, orientation, x, y = self.factors().T
        masters = _masters()
        _, first = np.unique(masters.reshape(-1, 33 * 33), axis=0, return_inverse=True)
        master = first.reshape(masters.shape[:3])[shape, scale, orientation]
        places = (master * self.factor_sizes[4] + x) * self.factor_sizes[5] + y
        return np.unique(places, return_inverse=True)[1]

    def render(self, factors):
        """Images uint8 (…, 64, 64, 1) of factors int (…, 6); out of range is an IndexError."""
        factors = np.asarray(factors)
        _, shape, scale, orientation, x, y = factors.reshape(-1, 6).T
        images = np.zeros((len(x), 64, 64), np.uint8)
        # A view of the 32 x 32 places where a master of 33 x 33 fits, and so no loop over images.
        places = np.lib.stride_tricks.sliding_window_view(
            images, (33, 33), axis=(1, 2), writeable=True
        )
        places[np.arange(len(x)), y, x] = _masters()[shape, scale, orientation]
        return images.reshape(*factors.shape[:-1], 64, 64, 1)


@functools.cache
def _masters():
    """uint8 (shape, scale, orientation, 33, 33): sprites of radius below 16.5 pixels, centred."""
    outlines = (_square, _ellipse, _heart)
    pixels = np.linspace(-16.5, 16.5, 33 * 4, endpoint=False) + 1 / 8  # 4 x 4 points a pixel
    v, u = np.meshgrid(pixels / 16.5, pixels / 16.5, indexing="ij")
    masters = np.zeros((3, 6, 40, 33, 33), np.uint8)
    for i, scale in enumerate(np.linspace(0.5, 1, 6)):
        for j, angle in enumerate(np.arange(40) * (2 * np.pi / 40)):
            a = (u * np.cos(angle) + v * np.sin(angle)) / scale
            b = (v * np.cos(angle) - u * np.sin(angle)) / scale
            for k, outline in enumerate(outlines):
                inside = outline(a, b).reshape(33, 4, 33, 4).mean(axis=(1, 3))
                masters[k, i, j] = np.where(inside >= 0.5, 255, 0)
    return masters


# Outlines within the unit circle, (u, v) to the right and down.


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) < 0.69


def _ellipse(u, v):
    return (u / 0.97) ** 2 + (v / 0.53) ** 2 < 1


def _heart(u, v):
    x, y = 1.3 * u, 0.28 - 1.3 * v
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3
