"""Binary sprites, drawn when they are asked for.

They follow dSprites (Matthey et al., 2017, "dSprites: Disentanglement testing Sprites dataset")
in the factors, their order and sizes. They differ in the drawing (own outlines), in the positions
(steps of one pixel) and in the 40 orientations, which stop short of a full turn (dSprites repeats
the first as the last).
"""

import functools

import numpy as np


class Shapes:
    """Binary sprites with dSprites' factors, drawn when indexed; a lazy uint8 array.

    `shapes[i]` is (size, size, 1) for an int, (n, size, size, 1) for a slice or an index array; 0
    or 255. Every sprite fits the image at every position; one step of x or y moves it by one pixel.
    There are 737,280 of 64×64, with 32 positions an axis, and 184,320 of 32×32, with 16.

    Args:
        indices: None for all, or an int array of places in the full set: a subset.
        size: int, height and width, even and at least 16; outlines are drawn anew for it.
    """

    factor_names = ("color", "shape", "scale", "orientation", "x", "y")
    dtype = np.dtype("uint8")

    def __init__(self, indices=None, size=64):
        if size < 16 or size % 2:
            raise ValueError(f"`size` must be even and at least 16. Received: size={size}")
        self.size, self.factor_sizes = size, (1, 3, 6, 40, size // 2, size // 2)
        full = np.arange(np.prod(self.factor_sizes))
        self.indices = full if indices is None else full[indices]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.render(self.factors(index))

    @property
    def shape(self):
        return (len(self), self.size, self.size, 1)

    def factors(self, indices=slice(None)):
        """Factors of the images at `indices` of this (sub)set: int (n, 6), or (6,) for one int."""
        return np.stack(np.unravel_index(self.indices[indices], self.factor_sizes), axis=-1)

    def twins(self):
        """A number for each image of this (sub)set, the same for equal images: int (n,), 0 …

        A square looks alike after a quarter of a turn, an ellipse after half of one.
        """
        _, shape, scale, orientation, x, y = self.factors().T
        masters = _masters(self.size // 2 + 1)
        flat = masters.reshape(-1, masters[0, 0, 0].size)
        _, first = np.unique(flat, axis=0, return_inverse=True)
        master = first.reshape(masters.shape[:3])[shape, scale, orientation]
        places = (master * self.factor_sizes[4] + x) * self.factor_sizes[5] + y
        return np.unique(places, return_inverse=True)[1]

    def render(self, factors):
        """Images uint8 (…, size, size, 1) of factors int (…, 6); out of range is an IndexError."""
        factors = np.asarray(factors)
        _, shape, scale, orientation, x, y = factors.reshape(-1, 6).T
        side = self.size // 2 + 1
        images = np.zeros((len(x), self.size, self.size), np.uint8)
        # A view of the places where a master fits, and so no loop over images.
        places = np.lib.stride_tricks.sliding_window_view(
            images, (side, side), axis=(1, 2), writeable=True
        )
        places[np.arange(len(x)), y, x] = _masters(side)[shape, scale, orientation]
        return images.reshape(*factors.shape[:-1], self.size, self.size, 1)


def side_of(image_size):
    """The size of shapes that are asked for as (height, width) or (height, width, 1); None is 64.

    Raises:
        ValueError: if it is no square.
    """
    height, width, *channels = image_size or (64, 64)
    if height != width or channels not in ([], [1]):
        asked = ",".join(map(str, image_size))
        raise ValueError(f"`image_size` of shapes must be a square, 32,32 say. Received: {asked}")
    return int(height)


@functools.cache
def _masters(side=33):
    """uint8 (shape, scale, orientation, side, side): sprites of radius below side / 2 pixels,
    centred."""
    outlines = (_square, _ellipse, _heart)
    pixels = np.linspace(-1, 1, side * 4, endpoint=False) + 1 / (4 * side)  # 4 x 4 points a pixel
    v, u = np.meshgrid(pixels, pixels, indexing="ij")
    masters = np.zeros((3, 6, 40, side, side), np.uint8)
    for i, scale in enumerate(np.linspace(0.5, 1, 6)):
        for j, angle in enumerate(np.arange(40) * (2 * np.pi / 40)):
            a = (u * np.cos(angle) + v * np.sin(angle)) / scale
            b = (v * np.cos(angle) - u * np.sin(angle)) / scale
            for k, outline in enumerate(outlines):
                inside = outline(a, b).reshape(side, 4, side, 4).mean(axis=(1, 3))
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
