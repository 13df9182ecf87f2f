"""EPLL as one writes it in plain NumPy, batched BLAS throughout: what `benchmark.py` compares with.

Zoran and Weiss 2011, ICCV: the formulas of section 4, and nothing to make them faster.
"""

import numpy as np
from scipy import linalg


def epll(y, weights, covariances, sigma, betas=(1, 4, 8, 16, 32), side=8):
    """Denoises an image by half-quadratic splitting.

    Args:
        y: float image (height, width).
        weights, covariances: of a mixture of zero-mean Gaussians of patches without their mean:
            (K,), (K, side^2, side^2) of rank side^2 - 1.
        sigma: standard deviation of the noise.
        betas: in units of 1 / sigma^2.
        side: of a patch.
    """
    y = np.float32(y)
    x, size = y, side * side
    height, width = (n - side + 1 for n in y.shape)
    for beta in betas:
        noise = sigma**2 / beta
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side))
        patches = windows.reshape(-1, size).T  # (size, n)
        means = patches.mean(axis=0)
        patches = patches - means
        scores = []
        for weight, covariance in zip(weights, covariances):
            root = linalg.cholesky(covariance + noise * np.eye(size), lower=True)
            white = np.float32(linalg.inv(root)) @ patches
            log_det = 2 * np.log(np.diag(root)).sum()
            scores.append(np.log(weight) - 0.5 * log_det - 0.5 * (white**2).sum(axis=0))
        choice = np.argmax(scores, axis=0)
        filtered = np.empty_like(patches)
        for k in np.unique(choice):
            gain = covariances[k] @ linalg.inv(covariances[k] + noise * np.eye(size))
            filtered[:, choice == k] = np.float32(gain) @ patches[:, choice == k]
        filtered = (filtered + means).reshape(side, side, height, width)
        total, count = np.zeros_like(y), np.zeros_like(y)
        for i in range(side):
            for j in range(side):
                total[i : i + height, j : j + width] += filtered[i, j]
                count[i : i + height, j : j + width] += 1
        x = (y + beta * total / count) / (1 + beta)
    return x
