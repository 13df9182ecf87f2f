"""A part of each image as the condition of the rest: the task of Sohn, Lee and Yan 2015, section
5.1."""

import numpy as np


def given_part(x, quadrants) -> np.ndarray:
    """Images of which all but the quarters that are given is black.

    Args:
        x: uint8 (n, height, width, channels).
        quadrants: int, how many quarters: 1 the lower left, 2 the left half, 3 all but the upper
            right.

    Returns:
        uint8 of the shape of x.
    """
    row, column = (size // 2 for size in x.shape[1:3])
    known = np.zeros(x.shape[1:3], bool)
    known[row:, :column] = True
    known[:row, :column] = quadrants > 1
    known[row:, column:] = quadrants > 2
    return np.where(known[..., None], x, 0).astype(x.dtype)
