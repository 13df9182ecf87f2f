"""Images restored with a prior over patches: noise, blur and missing pixels.

Zoran and Weiss, "From Learning Models of Natural Image Patches to Whole Image Restoration", ICCV
2011: half-quadratic splitting of min_x lambda / 2 |A x - y|^2 - EPLL(x), where EPLL(x) = sum_i log
p(R_i x) is the expected patch log-likelihood over all overlapping patches R_i x, and lambda = n /
sigma^2 for patches of n pixels. `descent.py` goes down the gradient of the same instead.
Differs from the paper: the quadratic is normalised by the number of patches that cover a pixel, as
in the authors' code, so that borders, where they are fewer, are not left noisy; colours are
restored as luminance and two differences, each with its own noise.
"""

import numpy as np

from vae_zoo.lab.operators import Identity
from vae_zoo.lab.shrinkage import shrinkage

BETAS = (1, 4, 8, 16, 32)  # of the patches' quadratic, in units of 1 / sigma^2 (section 4)
# Standard deviations of the noise that patches are taken to have, where the operator is another:
# the paper's beta = 50 · 2^j for deblurring, and wider ones before for holes.
LEVELS = tuple(float((50 * 2.0**j) ** -0.5) for j in range(-2, 7))
FAST = {"truncation": 0.1, "stride": 3, "searches": None}
COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.array([[3], [2], [4]])


def restore(
    y,
    prior,
    sigma=None,
    operator=None,
    levels=None,
    stride=1,
    truncation=0.0,
    searches=None,
    fast=False,
    progress=None,
) -> np.ndarray:
    """The image x of which y = A x + noise, most probable under a prior over its patches.

    For each level: every patch of x is replaced by its most probable clean version, its noise being
    N(0, level^2); the average over patches is z; then x minimises |A x - y|^2 / sigma^2 +
    |x - z|^2 / level^2.

    Args:
        y: image (height, width), or with 1 or 3 channels last; uint8, or float in [0, 1] give or
            take the noise.
        prior: a `GaussianMixture` of patches, or a VAE of patches without their mean.
        sigma: float, standard deviation of the noise in units of y's range [0, 1]; None estimates
            it; 0 holds A x = y.
        operator: see `operators.py`; None for A = 1, denoising.
        levels: floats; None takes sigma / sqrt(1, 4, 8, 16, 32), with another operator `LEVELS`.
        stride: int, rows and columns from one patch to the next; the grid moves from level to
            level.
        truncation: float, see `shrinkage.OfMixture`.
        searches: None, or numbers of the levels at which each patch's component is looked for anew;
            at the others it keeps the last.
        fast: True takes `FAST` for the three settings above.
        progress: wraps the iterable of levels, `tqdm.tqdm` say.

    Returns:
        NumPy float32 of the shape of y; it may leave [0, 1] a little.

    Raises:
        ValueError: if the image is none, or smaller than a patch.
    """
    settings = {"stride": stride, "truncation": truncation, "searches": searches}
    settings = FAST if fast else settings
    y = image(y)
    operator = Identity() if operator is None else operator
    sigma = estimated_noise(y) if sigma is None else sigma
    if not 0 <= sigma < np.inf:
        raise ValueError(f"`sigma` must be a float >= 0. Received: sigma={sigma}")
    if levels is None:
        identity = isinstance(operator, Identity)
        levels = sigma / np.sqrt(BETAS) if identity else LEVELS
    if sigma == 0 and isinstance(operator, Identity):
        return y.astype("float32")
    step = shrinkage(prior, settings["truncation"])
    if y.ndim == 2:
        return _restored(y, step, sigma, operator, levels, settings, progress)
    if y.shape[2] == 1:
        return _restored(y[..., 0], step, sigma, operator, levels, settings, progress)[..., None]
    # Of three colours with equal noise, their mean has the least; differences are decorrelated.
    noise = np.linalg.norm(COLOURS, axis=1)
    planes = [
        _restored(plane, step, own * sigma, operator, np.multiply(levels, own), settings, progress)
        for plane, own in zip(np.moveaxis(y @ COLOURS.T, -1, 0), noise)
    ]
    return (np.stack(planes, axis=-1) @ np.linalg.inv(COLOURS).T).astype("float32")


def _restored(y, step, sigma, operator, levels, settings, progress):
    levels = [float(level) for level in levels]
    searches = range(len(levels)) if settings["searches"] is None else settings["searches"]
    x, choice, stride = operator.first(y), None, settings["stride"]
    height, width = step.patch_shape
    if x.shape[0] < height or x.shape[1] < width:
        raise ValueError(f"`y` must be larger than a patch, {height}×{width}. Received: {x.shape}")
    for i, level in enumerate(levels if progress is None else progress(levels)):
        # Where components are kept, so are the places of the patches.
        if i in searches or choice is None:
            offset, choice = _OFFSETS[i % 4], None
        rows, columns = (
            _grid(n - size + 1, stride, o)
            for n, size, o in zip(x.shape, step.patch_shape, np.multiply(offset, stride) // 2)
        )
        patches = cut(x, rows, columns, step.patch_shape)
        patches, choice = step(patches, level, choice)
        z = average(patches, rows, columns, step.patch_shape, x.shape)
        x = operator.closest(y, z, (sigma / level) ** 2)
    return np.float32(x)


_OFFSETS = ((0, 0), (1, 1), (0, 1), (1, 0))  # of the grid, in halves of the stride


def _grid(n, stride, offset):
    """Places 0 … n - 1, `stride` from each other, the first and the last among them."""
    return np.unique([0, *range(offset, n, stride), n - 1])


def cut(x, rows, columns, shape):
    """Patches of an image (height, width) at rows × columns: float32 (n, size), flat."""
    windows = np.lib.stride_tricks.sliding_window_view(np.float32(x), shape)
    return windows[np.ix_(rows, columns)].reshape(-1, shape[0] * shape[1])


def average(patches, rows, columns, shape, size):
    """The image (height, width) of which each pixel is the mean of the patches over it."""
    total, count = summed(patches, rows, columns, shape, size)
    return total / count


def summed(patches, rows, columns, shape, size):
    """Sums of the patches over each pixel, and their number: two float32 (height, width)."""
    patches = patches.reshape(len(rows), len(columns), *shape)
    total, count = np.zeros(size, "float32"), np.zeros(size, "float32")
    for i in range(shape[0]):
        for j in range(shape[1]):
            place = np.ix_(rows + i, columns + j)
            total[place] += patches[:, :, i, j]
            count[place] += 1
    return total, count


def estimated_noise(y, side=8) -> float:
    """Standard deviation of white noise in an image (height, width[, channels]), in its units.

    Patches fill few dimensions, noise all: of the eigenvalues of the patches' covariance the
    smallest ones, as many as scatter evenly about their mean, are the variance of the noise. Chen,
    Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation", ICCV 2015.

    Args:
        side: int, height and width of a patch.
    """
    y = np.float64(y).reshape(*y.shape[:2], -1)
    windows = np.lib.stride_tricks.sliding_window_view(y, (side, side), axis=(0, 1))
    patches = windows.reshape(-1, side * side)
    values = np.maximum(np.linalg.eigvalsh(np.cov(patches.T)), 0)
    for n in range(len(values), 0, -1):
        if np.mean(values[:n]) <= np.median(values[:n]):
            break
    return float(np.sqrt(np.mean(values[:n])))


def image(y):
    y = np.asarray(y)
    if y.ndim not in (2, 3) or (y.ndim == 3 and y.shape[2] not in (1, 3)):
        raise ValueError(
            "`y` must be an image (height, width), or with 1 or 3 channels last. "
            f"Received: shape={y.shape}"
        )
    y = np.float64(y) / 255 if y.dtype == np.uint8 else np.float64(y)
    if not np.isfinite(y).all():
        raise ValueError("`y` must be finite. Received: NaN or infinity")
    return y
