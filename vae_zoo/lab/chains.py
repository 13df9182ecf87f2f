"""Markov chains of sketches, for models to stand beside.

They are measured as the models are: nats of offsets with noise (see `data.strokes.load`), of the
points, and of the states of the pen, up to and including the end. Without the noise offsets lie on
a lattice, where a mixture's density has no bound: numbers of that kind do not compare.
"""

import numpy as np
from scipy import special

from vae_zoo.lab.measure import by_points, mean
from vae_zoo.models.gaussian_mixture import GaussianMixture

MOST = 60_000  # offsets that a mixture is fitted to


def markov_numbers(train, test, seed=0) -> dict:
    """What Markov chains of order 0 and 1 reach on sketches (n, rows, 5): a dict, name -> number.

    Order 0 draws each offset from a mixture of 20 Gaussians and the pen by its frequencies. Order 1
    knows offset and pen of the row before: for each of the two states of the pen a mixture of 60
    Gaussians of both offsets, of which the conditional is taken, and frequencies of its own.
    """
    numbers = {}
    for order in (0, 1):
        offsets, pens = markov(train, test, order, seed)
        what = f"a Markov chain of order {order} fitted to the training sketches"
        for name, value in by_points(test, -(offsets + pens), "").items():
            numbers[f"{name}_markov_{order}"] = {**value, "protocol": what}
        # As others count: the pen of all rows of the padding too.
        padded = _padded_pens(train, test, order)
        numbers[f"l_r_markov_{order}_padded"] = mean(
            -(offsets + padded) / (test.shape[1] - 1), "nats", f"{what}, the pen of all N_max rows"
        )
    return numbers


def markov(train, test, order, seed=0):
    """log p of test sketches under a Markov chain of `order` 0 or 1: of their offsets, and of the
    states of their pens, NumPy (n,), nats. See `markov_numbers`."""
    (before, now, _), (before_test, now_test, of_test) = _steps(train), _steps(test)
    counts = np.ones((3, 3))  # of the pen, given that before; one of each to begin with
    np.add.at(counts, (_state(before), _state(now)), 1)
    counts = counts.sum(axis=0, keepdims=True) if order == 0 else counts
    table = np.log(counts / counts.sum(axis=1, keepdims=True))
    state = _state(before_test) * (order > 0)
    pens = np.bincount(of_test, table[state, _state(now_test)], minlength=len(test))

    points, test_points = _state(now) < 2, _state(now_test) < 2
    log_probs = np.zeros(len(now_test))
    for lifted in (0, 1) if order else (None,):
        mine, its = points, test_points
        if order:
            mine = points & (before[:, 3] == lifted)
            its = test_points & (before_test[:, 3] == lifted)
        pairs, test_pairs = (
            np.concatenate([a[:, :2], b[:, :2]], axis=1)[keep]
            for a, b, keep in ((before, now, mine), (before_test, now_test, its))
        )
        some = np.random.default_rng(seed).permutation(len(pairs))[:MOST]
        if order == 0:
            fitted = GaussianMixture.fitted(pairs[some, 2:], 20, seed)
            log_probs[its] = fitted.log_likelihood(test_pairs[:, 2:], batch_size=4096)
        elif its.any():
            components = int(np.clip(len(some) // 20, 1, 60))
            fitted = GaussianMixture.fitted(pairs[some], components, seed)
            log_probs[its] = _conditional(fitted, test_pairs)
    offsets = np.bincount(of_test, log_probs, minlength=len(test))
    return offsets, pens


def _padded_pens(train, test, order):
    """log p of the pen in all of N_max rows, ends after ends among them: by unigrams."""
    states = np.argmax(train[:, :-1, 2:], axis=-1).ravel()
    table = np.log(np.bincount(states, minlength=3) / len(states))
    return table[np.argmax(test[:, :-1, 2:], axis=-1)].sum(axis=1)


def _steps(x):
    """All rows that count, the first end of each sketch among them, with the row before: two arrays
    (steps, 5), and the sketch of each (steps,)."""
    start = np.tile(np.float32([0, 0, 1, 0, 0]), (len(x), 1, 1))
    before = np.concatenate([start, x[:, :-1]], axis=1)
    counts = before[..., 4] < 0.5
    return before[counts], x[counts], np.nonzero(counts)[0]


def _state(rows):
    return np.argmax(rows[:, 2:], axis=1)


def _conditional(mixture, pairs):
    """log p(second | first) of pairs (n, 4), by a mixture of both: NumPy (n,)."""
    weights, means, values, vectors = mixture.spectra()
    covariances = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    first = [
        np.log(w) + _normal_log_prob(pairs[:, :2], m[:2], c[:2, :2])
        for w, m, c in zip(weights, means, covariances)
    ]
    both = mixture.log_likelihood(pairs.astype("float32"), batch_size=4096)
    return both - special.logsumexp(first, axis=0)


def _normal_log_prob(x, mean, covariance):
    d = x - mean
    distance = np.einsum("ni,ij,nj->n", d, np.linalg.inv(covariance), d)
    return -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])
