"""How far latents keep the factors of variation apart.

All of these read codes, posterior means float (n, latents), and factors int (n, factors), NumPy, of
examples drawn from the whole set. Codes of metrics differ by factors, so a number names its own:
MIG-lib, and DCI and SAP, are those of Locatello et al. 2019 (disentanglement_lib),
arXiv:1811.12359; MIG-chen is that of Chen et al. 2018, arXiv:1802.04942. A factor of one value says
nothing and is left out.
"""

import numpy as np
from scipy import special
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.svm import LinearSVC

BINS = 20


def varying(factors):
    """Factors of more than one value, each numbered from 0: int (n, those)."""
    columns = [np.unique(column, return_inverse=True)[1] for column in np.asarray(factors).T]
    return np.stack([column for column in columns if column.any()], axis=1)


def mutual_information(codes, factors, bins=BINS) -> np.ndarray:
    """I(bin of z_j; v_k) in nats: (latents, factors); each latent has `bins` bins of equal width
    over its range."""
    factors, found = varying(factors), []
    for z in np.asarray(codes).T:
        edges = np.histogram_bin_edges(z, bins)
        binned = np.digitize(z, edges[1:-1])
        found.append([_information(binned, v) for v in factors.T])
    return np.array(found)


def _information(a, b):
    """Mutual information of two columns of ints >= 0, nats."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    return _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0)) - _entropy(joint.ravel())


def _entropy(counts):
    return float(special.entr(counts / counts.sum()).sum())


def mig(codes, factors, bins=BINS) -> float:
    """MIG-lib, the mutual information gap: the mean over factors of (I_1 - I_2) / H(v), for the two
    latents that say most of a factor. 1 is perfect; a factor of more values than bins cannot reach
    it. Chen et al. 2018, eq. 6, of histograms of the means, as in disentanglement_lib."""
    factors = varying(factors)
    return _gap(mutual_information(codes, factors, bins), factors)


def _gap(information, factors):
    second, first = np.sort(information, axis=0)[-2:]
    return float(np.mean((first - second) / entropies(factors)))


def entropies(factors):
    """H(v_k) in nats of factors as `varying` returns them: (factors,)."""
    return np.array([_entropy(np.bincount(v)) for v in factors.T])


def mig_chen(mean, log_var, factors, num_samples=1000, seed=0, progress=None) -> float:
    """MIG-chen: as `mig`, of the samples z ~ q(z|x) and their exact densities.

    I(z_j; v_k) = H(z_j) - H(z_j|v_k), where q(z_j) is the mean of q(z_j|x_n) over all n examples,
    and q(z_j|v_k) over those that have the value. Chen et al. 2018, section 4.1 and appendix B;
    they leave out the shape, whose values have no order.

    Args:
        mean, log_var: float (n, latents), of the posteriors.
        factors: int (n, factors), each combination of values equally often, as in a whole grid.
        num_samples: int, draws that an entropy is the mean over.
        progress: wraps the iterable of factors, `tqdm.tqdm` say.
    """
    factors, rng = varying(factors), np.random.default_rng(seed)
    mean, deviation = np.float64(mean), np.exp(np.float64(log_var) / 2)
    whole = _entropies(mean, deviation, num_samples, rng)
    information = []
    for v in factors.T if progress is None else progress(factors.T):
        values, counts = np.unique(v, return_counts=True)
        given = [
            _entropies(mean[v == value], deviation[v == value], num_samples // len(values) + 1, rng)
            for value in values
        ]
        information.append(whole - np.average(given, axis=0, weights=counts))
    return _gap(np.array(information).T, factors)


def _entropies(mean, deviation, num_samples, rng):
    """-E log q(z_j) of z_j ~ q, the mean of n Gaussians: (latents,), nats."""
    rows = rng.integers(0, len(mean), num_samples)
    z = mean[rows] + deviation[rows] * rng.normal(size=(num_samples, mean.shape[1]))
    found = []
    for j in range(mean.shape[1]):
        log_probs = []
        for part in np.array_split(z[:, j], max(1, num_samples * len(mean) // 10**7)):  # memory
            error = (part[:, None] - mean[:, j]) / deviation[:, j]
            densities = -0.5 * error**2 - np.log(deviation[:, j])
            log_probs.append(special.logsumexp(densities, axis=1))
        log_probs = np.concatenate(log_probs) - np.log(len(mean)) - 0.5 * np.log(2 * np.pi)
        found.append(-log_probs.mean())
    return np.array(found)


def decomposition(mean, log_var, size=None, num_samples=1000, seed=0, progress=None) -> np.ndarray:
    """The three parts of the mean KL(q(z|x) || N(0, I)), of the aggregate posterior q(z).

    E KL = I(z; x) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || N(0, 1))

    Chen et al. 2018, eq. 2. q(z) is the mean of q(z|x_n) over all examples; of n out of `size`, the
    one that made z counts 1 / size and the others share the rest (appendix C.2), which is unbiased.

    Args:
        mean, log_var: float (n, latents), of the posteriors.
        size: int, examples of the set that these were drawn from; None where they are all.
        num_samples: int, draws z ~ q(z) that the parts are means over.
        progress: wraps the iterable of portions of these, `tqdm.tqdm` say.

    Returns:
        three float (num_samples,), nats, to take the means of: index-code mutual information, total
        correlation and dimension-wise KL.
    """
    rng, n, found = np.random.default_rng(seed), len(mean), []
    mean, deviation = np.float64(mean), np.exp(np.float64(log_var) / 2)
    rows = rng.integers(0, n, num_samples)
    z = mean[rows] + deviation[rows] * rng.normal(size=(num_samples, mean.shape[1]))
    own_share = 1 / (size or n)
    count = min(num_samples, 1 + num_samples * mean.size // 10**6)  # bounded memory
    portions, constant = np.array_split(np.arange(num_samples), count), 0.5 * np.log(2 * np.pi)
    for part in portions if progress is None else progress(portions):
        error = (z[part, None] - mean) / deviation
        each = -0.5 * error**2 - (np.log(deviation) + constant)
        own = np.arange(n) == rows[part, None]
        log_shares = np.log(np.where(own, own_share, (1 - own_share) / max(1, n - 1)))
        given = each.sum(axis=-1)
        log_q = special.logsumexp(log_shares + given, axis=1)
        log_q_each = special.logsumexp(log_shares[..., None] + each, axis=1).sum(axis=1)
        log_prior = np.sum(-0.5 * z[part] ** 2 - constant, axis=1)
        found.append([given[own] - log_q, log_q - log_q_each, log_q_each - log_prior])
    return np.concatenate(found, axis=1)


def factor_vae_score(codes, factors, votes=(10_000, 5_000), size=64, least=0.05, seed=0) -> float:
    """The share of right votes: of `size` examples that agree in one factor the latent of least
    variance, relative to that over all, votes for the factor; the majority over the first votes
    decides, and the second are counted. Kim and Mnih 2018, arXiv:1802.05983, section 4.

    Args:
        votes: ints, to decide by and to count.
        least: float, latents of less variance have no vote. Noise scores about one over the number
            of factors, not 0; so does a code without any latent left.
    """
    factors, rng = varying(factors), np.random.default_rng(seed)
    spread = np.var(codes, axis=0)
    active = np.flatnonzero(spread > least)
    if not len(active):
        return 1.0 / factors.shape[1]
    places = [[np.flatnonzero(v == value) for value in np.unique(v)] for v in factors.T]
    table = np.zeros((2, len(active), factors.shape[1]), int)
    for part, n in enumerate(votes):
        for k in rng.integers(0, factors.shape[1], n):
            of_value = places[k][rng.integers(len(places[k]))]
            alike = codes[of_value[rng.integers(0, len(of_value), size)]][:, active]
            table[part, np.argmin(np.var(alike, axis=0) / spread[active]), k] += 1
    winners = table[0].argmax(axis=1)
    return float(table[1][np.arange(len(active)), winners].sum() / votes[1])


def dci(train, test, seed=0, progress=None, **trees) -> dict:
    """Disentanglement, completeness and informativeness: three numbers in [0, 1].

    R_jk is how much gradient-boosted trees that predict factor k look at latent j. A latent is as
    disentangled as its row of R is far from even, 1 - H(R_j / sum) / log(factors), a factor as
    complete as its column is; means weighed by the sums of R. Informativeness is the accuracy on
    `test`. Eastwood and Williams 2018, "A Framework for the Quantitative Evaluation of Disentangled
    Representations"; trees as in disentanglement_lib.

    Args:
        train, test: pairs (codes, factors); 10,000 and 5,000 examples there.
        progress: wraps the iterable of factors, `tqdm.tqdm` say.
        **trees: settings of scikit-learn's `GradientBoostingClassifier`.
    """
    parts = varying(np.concatenate([train[1], test[1]]))
    train, test = (train[0], parts[: len(train[1])]), (test[0], parts[len(train[1]) :])
    importances, accuracies, factors = [], [], range(parts.shape[1])
    for k in factors if progress is None else progress(factors):
        classifier = GradientBoostingClassifier(random_state=seed, **trees)
        classifier.fit(train[0], train[1][:, k])
        importances.append(np.abs(classifier.feature_importances_))
        accuracies.append(classifier.score(test[0], test[1][:, k]))
    r = np.array(importances).T + 1e-11
    return {
        "dci": _concentration(r),
        "completeness": _concentration(r.T),
        "informativeness": float(np.mean(accuracies)),
    }


def _concentration(r):
    """The mean over rows of 1 - H(row / sum) / log(columns), weighed by the sums of the rows."""
    shares = r / r.sum(axis=1, keepdims=True)
    evenness = special.entr(shares).sum(axis=1) / np.log(r.shape[1])
    return float(np.average(1 - evenness, weights=r.sum(axis=1)))


def sap(train, test, seed=0) -> float:
    """Separated attribute predictability: the mean over factors of the gap between the two latents
    that a linear classifier, of one latent, predicts the factor best from (accuracy on `test`).
    Kumar et al. 2018 (DIP-VAE), arXiv:1711.00848, section 3; as in disentanglement_lib a support
    vector machine with C = 0.01 and balanced classes.

    Args:
        train, test: pairs (codes, factors); 10,000 and 5,000 examples there.
    """
    parts = varying(np.concatenate([train[1], test[1]]))
    train, test = (train[0], parts[: len(train[1])]), (test[0], parts[len(train[1]) :])
    gaps = []
    for k in range(parts.shape[1]):
        scores = []
        for j in range(train[0].shape[1]):
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
            machine.fit(train[0][:, [j]], train[1][:, k])
            scores.append(machine.score(test[0][:, [j]], test[1][:, k]))
        second, first = np.sort(scores)[-2:]
        gaps.append(first - second)
    return float(np.mean(gaps))
