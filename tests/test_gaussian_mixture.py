"""A Gaussian mixture: its density, its posterior and expectation-maximisation, by oracles."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats
from sklearn import mixture

from vae_zoo import GaussianMixture, data, patches

K = 3


def rows(n=60, size=2, seed=0):
    """Three clusters of different shapes."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, K, n)
    shapes = np.stack([np.eye(size), np.diag(np.linspace(0.2, 2, size)), 0.3 * np.eye(size)])
    x = np.einsum("nij,nj->ni", shapes[which], rng.normal(size=(n, size)))
    return (x + 3.0 * which[:, None] * np.arange(size)).astype("float32")


@pytest.fixture(scope="module")
def digits():
    return patches.drawn(data.load("digits")[0][:200], 400, size=4)


@pytest.fixture(scope="module")
def fitted():
    """A mixture with means, and the parameters of its twin in the usual terms."""
    model = GaussianMixture((2,), K, seed=0)
    model.fit(rows(), epochs=3, verbose=0)
    weights, means, values, vectors = model.spectra()
    covariances = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    return model, weights, means, covariances


@pytest.fixture(scope="module")
def patch_prior(digits):
    model = GaussianMixture((4, 4), K, zero_means=True, remove_dc=True, seed=0)
    model.fit(digits, epochs=3, verbose=0)
    return model


def joint_by_scipy(x, weights, means, covariances):
    normals = [stats.multivariate_normal(m, c).logpdf(x) for m, c in zip(means, covariances)]
    return np.log(weights) + np.stack(normals, axis=1)


# === The density ===


def test_log_prob_and_responsibilities_are_those_of_scipy(fitted):
    model, *parameters = fitted
    x = rows(20, seed=1)
    joint = joint_by_scipy(x, *parameters)
    np.testing.assert_allclose(
        model.log_likelihood(x), np.logaddexp.reduce(joint, axis=1), rtol=1e-4, atol=1e-4
    )
    shares = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    found = model.responsibilities(x)
    np.testing.assert_allclose(found, shares, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    leading = model.log_prob(ops.convert_to_tensor(x.reshape(4, 5, 2)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(leading).ravel(), model.log_likelihood(x), rtol=1e-4, atol=1e-5
    )


def test_without_the_mean_it_is_a_density_of_one_dimension_less(patch_prior, digits):
    model, basis = patch_prior, patch_prior.basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(15), atol=1e-6)
    np.testing.assert_allclose(basis.sum(axis=0), 0, atol=1e-6)
    x = digits[:20]
    weights, means, values, vectors = model.spectra()
    covariances = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    joint = joint_by_scipy(x.reshape(20, 16) @ basis, weights, means, covariances)
    expected = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(model.log_likelihood(x), expected, rtol=1e-4)
    np.testing.assert_allclose(model.log_likelihood(x + 0.5), expected, rtol=1e-3)
    samples = model.sample(50, seed=0)
    assert samples.shape == (50, 4, 4)
    np.testing.assert_allclose(samples.mean(axis=(1, 2)), 0, atol=1e-5)


def test_samples_have_the_moments_of_the_mixture(fitted):
    model, weights, means, covariances = fitted
    x = np.float64(model.sample(40_000, seed=1))
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), second - np.outer(mean, mean), atol=0.12)
    np.testing.assert_array_equal(model.sample(5, seed=3), model.sample(5, seed=3))
    assert not np.allclose(model.sample(5, seed=3), model.sample(5, seed=4))


# === Expectation-maximisation ===


def test_an_iteration_is_that_of_scikit_learn(fitted):
    old, weights, means, covariances = fitted
    x = rows(200, seed=2)
    reference = mixture.GaussianMixture(
        K,
        max_iter=1,
        reg_covar=0.0,
        weights_init=weights / weights.sum(),
        means_init=means,
        precisions_init=np.linalg.inv(covariances),
    )
    with pytest.warns(Warning, match="did not converge"):
        reference.fit(x)
    model = GaussianMixture.from_config(old.get_config())
    model.set_weights(old.get_weights())
    model.fit(x, epochs=1, verbose=0, batch_size=32)
    found, means, values, vectors = model.spectra()
    np.testing.assert_allclose(found, reference.weights_, rtol=1e-4)
    np.testing.assert_allclose(means, reference.means_, rtol=1e-3)
    np.testing.assert_allclose(
        np.einsum("kij,kj,klj->kil", vectors, values, vectors), reference.covariances_, atol=1e-4
    )


@pytest.mark.parametrize("start", ["kmeans", "responsibilities"])
def test_the_likelihood_never_falls(digits, start):
    """Black borders have no variance at all, so the bound on the eigenvalues holds for many."""
    flat = np.round(digits * 4) / 4
    model = GaussianMixture((4, 4), K, zero_means=True, remove_dc=True, floor=3e-3, seed=0)
    history = model.fit(flat, epochs=25, verbose=0, start=start, validation_data=flat).history
    nll = np.array([*history["nll"], history["val_nll"][-1]])
    assert np.diff(nll).max() < 1e-5 and nll[-1] < nll[0] - 1
    np.testing.assert_allclose(history["val_nll"][:-1], history["nll"][1:], rtol=1e-5, atol=1e-5)
    values = model.spectra()[2]
    assert values.min() == pytest.approx(3e-3, rel=1e-3) and (values < 3.01e-3).sum() > K


def test_one_component_has_the_second_moments_with_clipped_eigenvalues(digits):
    model = GaussianMixture((4, 4), 1, zero_means=True, remove_dc=True, floor=0.02, seed=0)
    model.fit(digits, epochs=1, verbose=0)
    c = np.float64(digits.reshape(-1, 16) @ model.basis)
    values, vectors = np.linalg.eigh(c.T @ c / len(c))
    assert (values < 0.02).any() and (values > 0.02).any()
    expected = vectors * np.maximum(values, 0.02) @ vectors.T
    *_, values, vectors = model.spectra()
    np.testing.assert_allclose(vectors[0] * values[0] @ vectors[0].T, expected, atol=1e-5)


def test_the_size_of_a_batch_and_sample_weights(digits):
    def found(x, batch_size, weights=None):
        model = GaussianMixture((4, 4), 2, zero_means=True, remove_dc=True, seed=0)
        model.set_weights(start.get_weights())
        y = None if weights is None else np.zeros(len(x))
        batches = data.Batches(x, y, weights, batch_size, shuffle=False)
        history = model.fit(batches, epochs=2, verbose=0).history
        return [*model.get_weights(), history["nll"]]

    start = GaussianMixture((4, 4), 2, zero_means=True, remove_dc=True, seed=0)
    start.fit(digits, verbose=0)
    whole, parts = found(digits, 400), found(digits, 37)
    ones = np.where(np.arange(500) < 400, 1.0, 0.0).astype("float32")
    weighed = found(np.concatenate([digits, digits[:100] + 1]), 64, ones)
    for a, b, c in zip(whole, parts, weighed):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(c, a, rtol=1e-3, atol=1e-3)


def test_a_fit_goes_on_as_it_would_have_gone_on(digits, tmp_path):
    def new():
        return GaussianMixture((4, 4), K, zero_means=True, remove_dc=True, seed=0)

    whole, part = new(), new()
    expected = whole.fit(digits, epochs=4, verbose=0).history["nll"]
    part.fit(digits, epochs=2, verbose=0)
    part.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.fit(digits, epochs=4, initial_epoch=2, verbose=0).history["nll"] == expected[2:]
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Without `initial_epoch` too: it starts anew only where all components are alike.
    assert part.fit(digits, epochs=1, verbose=0).history["nll"] == expected[2:3]


def test_callbacks_see_a_fit_and_stop_it(digits):
    seen = []
    model = GaussianMixture((4, 4), 2, zero_means=True, remove_dc=True, seed=0)
    see = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs)))
    )
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    model.fit(digits, epochs=9, verbose=0, callbacks=[see, stop], validation_data=digits[:50])
    assert seen == [(e, ["loss", "nll", "val_loss", "val_nll"]) for e in range(len(seen))]
    assert 1 < len(seen) < 9


def test_what_is_wrong_is_one_line(digits):
    for message, wrong in {
        "floor=0": lambda: GaussianMixture((4,), floor=0),
        "components=0": lambda: GaussianMixture((4,), components=0),
        "`shape` must": lambda: GaussianMixture(4),
        r"more than the mean. Received: shape=\(1,\)": lambda: GaussianMixture(
            (1,), remove_dc=True
        ),
        r"`start` must be one of .*'k-means'": lambda: GaussianMixture((4, 4)).fit(
            digits, start="k-means"
        ),
        "500 examples at least. Received: 400": lambda: GaussianMixture((4, 4), 500).fit(
            digits, verbose=0
        ),
        "Received: NaN in it": lambda: GaussianMixture((4, 4), 2).fit(
            digits * np.nan, start="responsibilities", verbose=0
        ),
        r"\(batch, \*\(4, 4\)\). Received: shape": lambda: GaussianMixture((4, 4)).fit(
            digits[:, 1:]
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            wrong()


# === Patches ===


def test_patches_are_cut_from_the_images_and_dequantised():
    images = data.load("digits")[0][:3]
    found = patches.drawn(images, 50, size=5, seed=1, dequantize=False) * 255
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0], (5, 5), axis=(1, 2))
    windows = windows.reshape(-1, 25).astype("float32")
    for patch in found.reshape(50, 25):
        assert np.isclose(windows, patch, atol=1e-3).all(axis=1).any()
    assert len(np.unique(found.reshape(50, 25), axis=0)) > 20
    noisy = patches.drawn(images, 50, size=5, seed=1) * 255
    assert ((noisy >= found - 1e-3) & (noisy <= found + 1)).all() and (noisy - found).std() > 0.25
    for wrong in (images[:, :4], np.repeat(images, 3, axis=3)):
        with pytest.raises(ValueError, match="`images` must be grey, of 5×5"):
            patches.drawn(wrong, 2, size=5)
