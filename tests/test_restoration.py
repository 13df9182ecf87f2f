"""Restoring images with a prior over patches: against closed forms, and what must not change."""

import math
import pathlib
import runpy

import keras
import numpy as np
import pytest

from vae_zoo import DenseVAE, GaussianMixture, patches, restoration
from vae_zoo.lab import descent, operators
from vae_zoo.lab.shrinkage import shrinkage
from vae_zoo.restoration import restore

SIGMA = 0.1
TOOLS = pathlib.Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def picture():
    """A smooth picture with an edge, grey, 36×29."""
    y, x = np.mgrid[:36, :29] / 36
    return 0.5 + 0.3 * np.sin(6 * x + 3 * y) * (x > 0.4) - 0.2 * (y > 0.6)


@pytest.fixture(scope="module")
def noisy(picture):
    return picture + np.random.default_rng(0).normal(0, SIGMA, picture.shape)


def mixture(picture, components=4, **settings):
    images = np.round(255 * np.stack([picture, picture[::-1], picture[:, ::-1]]))[..., None]
    keywords = {"zero_means": True, "remove_dc": True, "floor": 1e-4, "seed": 0, **settings}
    model = GaussianMixture((5, 5), components, **keywords)
    model.fit(patches.drawn(images.astype("uint8"), 1500, size=5), epochs=5, verbose=0)
    return model


@pytest.fixture(scope="module")
def prior(picture):
    return mixture(picture)


def mean_square(a):
    return float(np.mean(np.square(a)))


# === Patches ===


def test_one_component_gives_the_wiener_filter(picture):
    prior = mixture(picture, 1, zero_means=False, remove_dc=False)
    x = np.random.default_rng(1).normal(0.5, 0.3, (70, 25)).astype("float32")
    _, means, values, vectors = prior.spectra()
    covariance = vectors[0] * values[0] @ vectors[0].T
    gain = covariance @ np.linalg.inv(covariance + SIGMA**2 * np.eye(25))
    z, choice = shrinkage(prior)(x, SIGMA)
    np.testing.assert_allclose(z, means + (x - means) @ gain.T, atol=1e-4)
    assert (choice == 0).all()


@pytest.mark.parametrize("settings", [{}, {"zero_means": False, "remove_dc": False}])
@pytest.mark.parametrize("level", [0.02, 0.2])
def test_a_patch_has_its_likeliest_component_and_its_filter(picture, settings, level):
    from scipy import stats

    prior = mixture(picture, 5, **settings)
    x = np.random.default_rng(1).normal(0.5, 0.2, (90, 25)).astype("float32")
    x[:40] = patches.drawn((255 * picture[None, ..., None]).astype("uint8"), 40, 5).reshape(40, 25)
    weights, means, values, vectors = prior.spectra()
    basis = np.eye(25) if prior.basis is None else np.float64(prior.basis)
    c, expected = x @ basis, []
    covariances = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    noisy = covariances + level**2 * np.eye(len(basis.T))
    joint = [np.log(w) + stats.multivariate_normal(m, s).logpdf(c) for w, m, s in
             zip(weights, means, noisy)]  # fmt: skip
    best = np.argmax(joint, axis=0)
    for k, row in zip(best, c):
        expected.append(means[k] + covariances[k] @ np.linalg.solve(noisy[k], row - means[k]))
    expected = x + (expected - c) @ basis.T  # the mean grey stays, where it is removed
    exact, choice = shrinkage(prior)(x, level)
    assert len(set(best)) > 2
    np.testing.assert_array_equal(choice, best)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    # The tail of the spectrum as its mean: another search, nearly always with the same result.
    _, truncated = shrinkage(prior, truncation=0.3)(x, level)
    assert (truncated == best).mean() > 0.9
    # What was chosen is used again.
    other = np.roll(choice, 1)
    assert not np.allclose(shrinkage(prior)(x, level, other)[0], exact, atol=1e-3)


def test_every_level_has_a_search_of_its_own(prior, picture):
    """Ranks, and so the number of arrays, differ from level to level."""
    x = patches.drawn((255 * picture[None, ..., None]).astype("uint8"), 60, 5).reshape(60, 25)
    step, levels = shrinkage(prior, truncation=0.5), (0.5, 0.1, 0.003)
    arrays = {(prior.spectra()[2] > 0.5 * level**2).sum(axis=1).max() for level in levels}
    assert len(arrays) == 3
    found = [step(x, level)[1] for level in levels]
    for level, choice in zip(levels[::-1], found[::-1]):
        np.testing.assert_array_equal(step(x, level)[1], choice)
        assert (shrinkage(prior)(x, level)[1] == choice).mean() > 0.7


def test_a_flat_tail_is_exact_where_the_tail_is_flat():
    prior = GaussianMixture((5, 5), 2, seed=0)
    rng = np.random.default_rng(0)
    directions = [np.linalg.qr(rng.normal(size=(25, 25)))[0] for _ in range(2)]
    deviations = np.where(np.arange(25) < 6, 1.0, 0.01)
    # A QR factorisation makes each root triangular: F F^T is what counts.
    roots = [np.linalg.qr((d / deviations)[::-1].T, mode="r").T[::-1, ::-1] for d in directions]
    prior.factors.assign(np.stack(roots).astype("float32"))
    prior.means.assign(rng.normal(size=(2, 25)).astype("float32"))
    x = rng.normal(size=(200, 25)).astype("float32")
    _, exact = shrinkage(prior)(x, 0.1)
    _, flat = shrinkage(prior, truncation=0.5)(x, 0.1)
    np.testing.assert_array_equal(flat, exact)
    assert 0.2 < exact.mean() < 0.8


# === The quadratic, and what operators do ===


def operator_list(shape):
    kernel = np.random.default_rng(2).random((3, 5))
    kernel /= kernel.sum()
    known = np.random.default_rng(3).random(shape) < 0.6
    blurs = [operators.Blur(kernel, periodic) for periodic in (True, False)]
    return [operators.Identity(), operators.Mask(known), *blurs]


def as_matrix(function, shape):
    columns = [function(unit.reshape(shape)).ravel() for unit in np.eye(math.prod(shape))]
    return np.stack(columns, axis=1)


def test_the_quadratic_is_solved_exactly():
    shape = (9, 8)
    y, z = np.random.default_rng(0).random((2, *shape))
    for operator in operator_list(shape):
        y_of, a = operator.forward(y), as_matrix(operator.forward, shape)
        assert operator.within(y).shape == y_of.shape
        np.testing.assert_allclose(as_matrix(operator.adjoint, y_of.shape), a.T, atol=1e-12)
        right = a.T @ y_of.ravel() + 0.3 * z.ravel()
        expected = np.linalg.solve(a.T @ a + 0.3 * np.eye(72), right).reshape(shape)
        exact = y_of.shape == shape  # without what lies beyond the borders it goes step by step
        closest = operator.closest(y_of, z, 0.3)
        np.testing.assert_allclose(closest, expected, atol=1e-9 if exact else 1e-6)
        # By conjugate gradients, as an operator of the user's own is.
        found = operators.Operator.closest(operator, y_of, z, 0.3)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_step_is_the_paper_s(noisy, prior):
    """One level, all patches: z is the average of the patches' filters, and x the mean of y and z
    in the ratio of their precisions."""
    level = SIGMA / 2
    windows = np.lib.stride_tricks.sliding_window_view(np.float32(noisy), (5, 5))
    filtered, _ = shrinkage(prior)(windows.reshape(-1, 25), level)
    total, count = np.zeros((2, *noisy.shape))
    for patch, (i, j) in zip(filtered.reshape(-1, 5, 5), np.ndindex(windows.shape[:2])):
        total[i : i + 5, j : j + 5] += patch
        count[i : i + 5, j : j + 5] += 1
    expected = (noisy / SIGMA**2 + total / count / level**2) / (1 / SIGMA**2 + 1 / level**2)
    found = restore(noisy, prior, SIGMA, levels=[level])
    np.testing.assert_allclose(found, expected, atol=1e-5)


# === Whole images ===


def test_plain_numpy_gives_the_same(noisy, prior):
    epll = runpy.run_path(str(TOOLS / "epll_numpy.py"))["epll"]
    weights, _, values, vectors = prior.spectra()
    vectors = prior.basis @ vectors
    covariances = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    expected = epll(noisy, weights, covariances, SIGMA, side=5)
    np.testing.assert_allclose(restore(noisy, prior, SIGMA), expected, atol=1e-3)


def test_noise_is_removed_and_the_fast_setting_is_close(picture, noisy, prior):
    exact = restore(noisy, prior, SIGMA)
    assert mean_square(exact - picture) < 0.25 * SIGMA**2
    # Hard edges and borders are what it loses most on: 1 dB of this picture at most.
    for settings in ({"fast": True}, {"searches": (0, 2)}):
        fast = restore(noisy, prior, SIGMA, **settings)
        assert mean_square(fast - exact) > 0
        assert mean_square(fast - picture) < 10**0.1 * mean_square(exact - picture)


def test_colours_have_noise_of_their_own(picture, prior):
    clean = np.stack([picture, picture, 0.9 * picture + 0.02], axis=-1)
    y = clean + np.random.default_rng(1).normal(0, SIGMA, clean.shape)
    found = restore(y, prior, SIGMA)
    assert found.shape == y.shape and found.dtype == "float32"
    # The mean of three colours has a third of the variance of their noise.
    luminance = restore(y.mean(axis=-1), prior, SIGMA / np.sqrt(3))
    np.testing.assert_allclose(found.mean(axis=-1), luminance, atol=1e-5)
    difference = restore(y[..., 0] / 2 - y[..., 2] / 2, prior, SIGMA / np.sqrt(2))
    np.testing.assert_allclose(found[..., 0] / 2 - found[..., 2] / 2, difference, atol=1e-5)
    one = restore(y[..., :1], prior, SIGMA)
    planes = [one[..., 0], *(restore(y[..., i], prior, SIGMA) for i in (1, 2))]
    assert mean_square(found - clean) < mean_square(np.stack(planes, axis=-1) - clean)


def test_without_noise_known_pixels_stay_and_holes_are_filled(picture, prior):
    known = np.random.default_rng(4).random(picture.shape) < 0.5
    mask = operators.Mask(known)
    found = restore(mask.forward(picture), prior, 0.0, mask)
    np.testing.assert_array_equal(found[known], np.float32(picture)[known])
    holes = mean_square((found - picture)[~known])
    assert holes < 0.7 * mean_square((mask.first(mask.forward(picture)) - picture)[~known])
    np.testing.assert_array_equal(restore(picture, prior, 0.0), np.float32(picture))
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        restore(picture, prior, 0.0, operators.Blur(np.ones((3, 3)) / 9))


def test_a_blurred_image_gets_its_edges_back(picture, prior):
    blur = operators.Blur(np.ones((1, 5)) / 5)
    rng = np.random.default_rng(5)
    y = blur.forward(picture) + rng.normal(0, 0.005, picture.shape)
    assert mean_square(restore(y, prior, 0.005, blur) - picture) < 0.3 * mean_square(y - picture)


def test_a_photograph_s_blur_comes_from_beyond_its_borders_too(picture, prior):
    from scipy import signal

    kernel = operators.gaussian_kernel(1.2)
    assert kernel.shape == (9, 9) and kernel.sum() == pytest.approx(1)
    spread = np.sqrt((kernel.sum(axis=0) * np.arange(-4, 5) ** 2).sum())
    assert spread == pytest.approx(1.2, abs=0.05)
    blur = operators.Blur(kernel, periodic=False)
    np.testing.assert_allclose(
        blur.forward(picture), signal.convolve2d(picture, kernel, "valid"), atol=1e-12
    )
    noise = np.random.default_rng(5).normal(0, 0.005, picture.shape)
    y, seen = blur.forward(picture) + blur.within(noise), blur.within(picture)
    found = restore(y, prior, 0.005, blur)
    assert found.shape == picture.shape
    error = mean_square(blur.within(found) - seen)
    assert error < 0.3 * mean_square(y - seen)
    # Taken to go on periodically, the image gets waves at its borders.
    assert error < 0.5 * mean_square(restore(y, prior, 0.005, operators.Blur(kernel)) - seen)


def test_the_noise_is_estimated(picture, noisy, prior):
    assert restoration.estimated_noise(noisy) == pytest.approx(SIGMA, rel=0.15)
    found = restore(noisy, prior)
    assert mean_square(found - picture) < 0.3 * SIGMA**2
    assert restoration.estimated_noise(picture) < 0.01
    eight_bits = np.clip(np.round(255 * noisy), 0, 255).astype("uint8")
    np.testing.assert_allclose(restore(eight_bits, prior, SIGMA), restore(noisy, prior, SIGMA),
                               atol=0.15)  # fmt: skip


def test_a_vae_plays_the_prior_by_the_same_interface(picture, noisy):
    vae = DenseVAE((5, 5), 6, (32,), likelihood="gaussian", seed=0)
    images = np.round(255 * np.stack([picture, picture[::-1]]))[..., None].astype("uint8")
    x = patches.drawn(images, 2000, size=5)
    x = x - x.mean(axis=(1, 2), keepdims=True)
    vae.compile(keras.optimizers.Adam(3e-3))
    vae.fit(x, batch_size=100, epochs=8, verbose=0)
    found = restore(noisy, vae, SIGMA)
    assert mean_square(found - picture) < 0.5 * SIGMA**2


def test_what_cannot_be_restored_is_one_line(picture, prior):
    for message, wrong in {
        r"shape=\(36, 29, 2\)": lambda: restore(np.stack([picture] * 2, -1), prior, 0.1),
        "larger than a patch, 5×5": lambda: restore(picture[:4], prior, 0.1),
        "NaN or infinity": lambda: restore(picture * np.nan, prior, 0.1),
        "sigma=-1": lambda: restore(picture, prior, -1),
        "A PixelCNN is no prior": lambda: restore(picture, pixel_cnn(), 0.1),
        r"grey patches. Received: examples of shape \(3,\)": lambda: restore(
            picture, GaussianMixture((3,), 2), 0.1
        ),
        "odd sides": lambda: operators.Blur(np.ones((2, 3))),
        "0 known": lambda: operators.Mask(np.zeros((3, 3))),
        "a GaussianMixture. Received: .* a PixelCNN": lambda: descent.descend(
            picture, pixel_cnn(), 0.1
        ),
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            wrong()
        assert "\n" not in str(error.value)


def pixel_cnn():
    from vae_zoo import PixelCNN

    return PixelCNN((5, 5), filters=2, blocks=0)


# === Gradient descent ===


def test_the_score_is_the_gradient_of_the_density(picture, prior):
    x = np.random.default_rng(1).normal(0.5, 0.1, (3, 25)).astype("float32")
    soft = descent.smoothed(prior, 0.1)
    log_prob, score = descent.scores_of(soft, x)
    np.testing.assert_allclose(log_prob, soft.log_likelihood(x.reshape(-1, 5, 5)), rtol=1e-5)
    step = 0.01
    for i in (0, 7, 24):
        moved = [x + sign * step * np.eye(25, dtype="float32")[i] for sign in (1, -1)]
        up, down = (soft.log_likelihood(m.reshape(-1, 5, 5)) for m in moved)
        np.testing.assert_allclose(score[:, i], (up - down) / (2 * step), rtol=0.02, atol=0.05)


def test_a_smoothed_mixture_is_that_of_noisy_patches(prior):
    soft = descent.smoothed(prior, 0.2)
    for old, new in zip(prior.spectra()[:3], soft.spectra()[:3]):
        noise = 0.04 * (old.ndim == 2 and old.shape[1] == 24 and bool(old.any()))
        np.testing.assert_allclose(new, old + noise, rtol=1e-3, atol=1e-6)


def test_descent_lowers_its_objective_to_where_splitting_ends(picture, noisy, prior):
    found, values = descent.descend(noisy, prior, SIGMA, steps=40)
    assert (np.diff(values) < 1e-3).all() and values[-1] < values[0] - 1
    split = restore(noisy, prior, SIGMA)
    assert mean_square(found - picture) < 0.3 * SIGMA**2
    assert mean_square(found - split) < 0.3 * mean_square(split - picture) + 0.03 * SIGMA**2
    # lambda / 2 |x - y|^2 - EPLL is half of lambda times the same, where weight = 2 / lambda.
    again, _ = descent.descend(noisy, prior, SIGMA, weight=2 / (25 / SIGMA**2), steps=40)
    np.testing.assert_allclose(again, found, atol=1e-6)
