"""Expectation-maximisation of a Gaussian mixture: distances on the device, and, in NumPy float64,
the start and the M-step.

Bishop, "Pattern Recognition and Machine Learning", 2006, section 9.2.
"""

import numpy as np
from keras import ops
from scipy import linalg

STARTS = ("kmeans", "responsibilities")
LEAST = 1e-30  # share of a component that has no examples, so that its logarithm is finite
COLUMNS = 512  # of a matrix product whose results are still in the cache when they are squared


def squared_norms(x, roots, shifts=None):
    """|x_n A_k - s_k|^2 of tensors x (n, size), roots A (K, size, rank) and shifts s (K, rank), or
    None for none: (n, K). Several k are one matrix product."""
    count, size, rank = roots.shape
    group, parts = max(1, COLUMNS // rank), []
    for start in range(0, count, group):
        own = roots[start : start + group]
        white = ops.matmul(x, ops.reshape(ops.transpose(own, (1, 0, 2)), (size, -1)))
        white = ops.reshape(white, (-1, own.shape[0], rank))
        if shifts is not None:
            white = white - shifts[start : start + group]
        parts.append(ops.sum(white * white, axis=-1))
    return ops.concatenate(parts, axis=-1)


def first_labels(x, components, start, seed):
    """A component for each of examples (n, size), int (n,): clusters, or a fair draw.

    Raises:
        ValueError: if there are fewer examples than components.
    """
    if len(x) < components:
        raise ValueError(f"`x` must have {components} examples at least. Received: {len(x)}")
    if start == "kmeans":
        from sklearn.cluster import KMeans

        return KMeans(components, n_init=1, random_state=seed).fit(x).labels_
    return np.random.default_rng(seed).permutation(len(x)) % components


def sums_of_labels(x, labels, components):
    """What an E-step sums up, see `m_step`, where each example belongs to one component alone."""
    i, j = np.triu_indices(x.shape[1])
    own = [np.float64(x[labels == k]) for k in range(components)]
    firsts = np.stack([c.sum(axis=0) for c in own])
    return np.float64([len(c) for c in own]), firsts, np.stack([(c.T @ c)[i, j] for c in own])


def m_step(counts, firsts, seconds, means, factors, floor, zero_means):
    """What maximises the expected log-likelihood over all covariances C >= floor I.

    A component without examples keeps its mean and its covariance.

    Args:
        counts, firsts, seconds: sums over the examples of r_nk (K,), of r_nk x_n (K, size) and of
            the upper triangles of r_nk x_n x_n^T (K, size (size + 1) / 2).
        means, factors: of before, (K, size) and (K, size, size).
        floor: float, the least eigenvalue of a covariance.
        zero_means: True holds the means at zero.

    Returns:
        log weights (eq. 9.22), means (eq. 9.17), and upper-triangular factors of the precisions,
        C_k^-1 = F_k F_k^T (eq. 9.19).

    Raises:
        ValueError: if a sum is not finite.
    """
    if not np.isfinite(seconds).all():
        raise ValueError("`x` must be finite. Received: examples with NaN or infinity")
    size = firsts.shape[1]
    i, j = np.triu_indices(size)
    means, factors = means.copy(), factors.copy()
    for k in np.flatnonzero(counts > 1e-10 * counts.sum()):
        second = np.zeros((size, size))
        second[i, j] = second[j, i] = seconds[k] / counts[k]
        if not zero_means:
            means[k] = firsts[k] / counts[k]
            second -= np.outer(means[k], means[k])
        # Of all C >= floor I the likeliest has the same eigenvectors, and clipped eigenvalues.
        values, vectors = np.linalg.eigh(second)
        roots = np.sqrt(np.maximum(values, floor))
        # C = L L^T by a QR factorisation of its root, and F = L^-T.
        lower = np.linalg.qr((vectors * roots).T, mode="r").T
        lower *= np.sign(np.diag(lower))
        factors[k] = linalg.solve_triangular(lower, np.eye(size), lower=True).T
    return np.log(np.maximum(counts / counts.sum(), LEAST)), means, factors


def by_scikit_learn(x, components, seed):
    """Log-weights, means and upper-triangular factors of the precisions of a mixture with full
    covariances, fitted to x (n, size)."""
    from sklearn import mixture

    fit = mixture.GaussianMixture(components, random_state=seed, reg_covar=1e-4).fit(np.float64(x))
    return np.log(fit.weights_), fit.means_, fit.precisions_cholesky_


def known(shape):
    """A shape of a tensor whose batch TensorFlow may not have fixed, for `reshape`."""
    return tuple(-1 if n is None else n for n in shape)
