"""Numbers of images, latents and features: NumPy in, NumPy or a float out, no model.

SSIM: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
Structural Similarity", IEEE TIP 2004. Fréchet distance: Heusel et al. 2017, arXiv:1706.08500, eq. 6
(there of Inception features; here of whatever features are given, so values compare only within
one extractor). Active units: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519, section 5.1.
"""

import numpy as np


def active_units(latents) -> tuple:
    """Latents whose mean varies with the image, Var_x E[z|x] > 0.01, and all of them: two ints.

    Of a prior that is the same for all images; the mean of one that is not carries the latents'
    along.

    Args:
        latents: posterior means (n, ...).
    """
    variances = np.var(latents, axis=0)
    return int(np.sum(variances > 0.01)), variances.size


def code_usage(codes, size) -> tuple:
    """Share of `size` codes that occur, and perplexity exp(-sum_k p_k log p_k): two floats."""
    p = np.bincount(np.ravel(codes), minlength=size) / np.size(codes)
    return float(np.mean(p > 0)), float(np.exp(-np.sum(p[p > 0] * np.log(p[p > 0]))))


def psnr(squared_errors) -> np.ndarray:
    """Peak signal-to-noise ratio, -10 log10 MSE, in dB, of mean squared errors of [0, 1] images."""
    return -10 * np.log10(np.maximum(squared_errors, 1e-12))


def ssim(x, y) -> np.ndarray:
    """Structural similarity of pairs of images, 1 where they are equal: float64 (n,).

    ((2 m_x m_y + c1) (2 s_xy + c2)) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2))    (eq. 13)

    with local moments under an 11×11 Gaussian window of width 1.5, c1 = 0.01^2, c2 = 0.03^2, the
    mean over the places where the window fits, and over channels.

    Args:
        x, y: float images (n, height, width, channels) in [0, 1], 11 pixels high and wide at least.

    Raises:
        ValueError: if an image is smaller than the window.
    """
    from scipy.ndimage import gaussian_filter

    if min(x.shape[1:3]) < 11:
        raise ValueError(f"SSIM needs images of at least 11×11 pixels. Received: {x.shape}")
    results = []
    for start in range(0, len(x), 500):
        a, b = (np.float64(part[start : start + 500]) for part in (x, y))
        # truncate: five pixels to each side.

        def local(t):
            return gaussian_filter(t, (0, 1.5, 1.5, 0), truncate=3.4)[:, 5:-5, 5:-5]

        mean_a, mean_b = local(a), local(b)
        var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
        covariance = local(a * b) - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        results.append(similarity.mean(axis=(1, 2, 3)))
    return np.concatenate(results)


def frechet_distance(x, y) -> float:
    """Squared Fréchet distance of Gaussians fitted to two sets of features (n, d) and (m, d).

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))    (eq. 6)

    The trace of the root is a sum of roots of the eigenvalues of C_x^(1/2) C_y C_x^(1/2), which is
    symmetric. NaN of a single example, or of features that are not finite.
    """
    x, y = np.float64(x), np.float64(y)
    if min(len(x), len(y)) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(cov_x)
    root_x = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    values = np.linalg.eigvalsh(root_x @ cov_y @ root_x)
    root = np.sqrt(np.maximum(values, 0)).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(shift + np.trace(cov_x) + np.trace(cov_y) - 2 * root)


def link_prediction(linked, scores) -> tuple:
    """How well scores tell linked pairs of nodes from others: the area under the ROC curve, and the
    average precision, floats.

    Args:
        linked: bools (n,), some of each kind.
        scores: (n,).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    areas = roc_auc_score(linked, scores), average_precision_score(linked, scores)
    return tuple(map(float, areas))


def probe_accuracy(splits) -> float:
    """Share of test labels that a linear classifier of standardised features gets right.

    Multinomial logistic regression (scikit-learn), its L2 penalty chosen on the validation split.

    Args:
        splits: iterable of three pairs (features (n, ...), labels (n,)), of training, validation
            and test images; one at a time is asked for and let go.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler, scaled = None, []
    for x, y in splits:
        x = np.reshape(x, (len(x), -1))
        scaler = scaler or StandardScaler().fit(x)
        scaled.append((scaler.transform(x), y))
    (x, y), held, (x_test, y_test) = scaled
    probes = [
        LogisticRegression(C=c, tol=1e-3, max_iter=200).fit(x, y) for c in (0.003, 0.03, 0.3, 3.0)
    ]
    best = max(probes, key=lambda probe: probe.score(*held))
    return float(best.score(x_test, y_test))
