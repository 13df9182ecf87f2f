"""Metrics against oracles; the evaluator on models whose numbers are known."""

import re

import keras
import numpy as np
import pytest
from scipy import linalg, ndimage

from vae_zoo import VQVAE, Autoencoder, DenseVAE, HierarchicalVAE, PixelCNN, data, metrics, runs
from vae_zoo import evaluate as evaluation
from vae_zoo.evaluate import evaluate

rng = np.random.default_rng(0)


def test_ssim_of_a_pair_by_hand():
    """Local moments by explicit sums over each 11×11 window."""
    x, y = rng.random((2, 1, 14, 13, 1))
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for i in range(4):
        for j in range(3):
            a, b = (t[0, i : i + 11, j : j + 11, 0] for t in (x, y))
            m_a, m_b = (window * a).sum(), (window * b).sum()
            s_a, s_b = ((window * (t - m) ** 2).sum() for t, m in ((a, m_a), (b, m_b)))
            s_ab = (window * (a - m_a) * (b - m_b)).sum()
            top = (2 * m_a * m_b + 1e-4) * (2 * s_ab + 9e-4)
            values.append(top / ((m_a**2 + m_b**2 + 1e-4) * (s_a + s_b + 9e-4)))
    np.testing.assert_allclose(metrics.ssim(x, y), [np.mean(values)], rtol=1e-6)


def test_ssim_is_one_for_equal_images_and_falls_with_noise():
    x = ndimage.gaussian_filter(rng.random((600, 16, 16, 3)), (0, 2, 2, 0))
    x = (x - x.min()) / (x.max() - x.min())
    noise = rng.normal(size=x.shape)
    values = [metrics.ssim(x, x + s * noise) for s in (0, 0.05, 0.2)]
    np.testing.assert_allclose(values[0], np.ones(600))
    assert (values[0] > values[1]).all() and (values[1] > values[2]).all()
    with pytest.raises(ValueError, match="11×11"):
        metrics.ssim(x[:, :10], x[:, :10])


def test_frechet_distance_of_known_gaussians():
    mean, a = np.array([1.0, 0.0, -2.0]), rng.normal(size=(3, 3))
    x = rng.normal(size=(200_000, 3))
    y = rng.normal(size=(200_000, 3)) @ a + mean
    covariance = a.T @ a
    exact = mean @ mean + np.trace(np.eye(3) + covariance - 2 * linalg.sqrtm(covariance).real)
    assert metrics.frechet_distance(x, y) == pytest.approx(exact, rel=0.02)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_a_probe_reads_labels_that_are_there_and_no_others():
    y = rng.integers(0, 4, 1200)
    codes = np.eye(4)[y] @ rng.normal(size=(4, 6)) + 0.1 * rng.normal(size=(1200, 6))
    noise = rng.normal(size=(1200, 2, 3))
    parts = lambda x: [(x[a:b], y[a:b]) for a, b in ((0, 400), (400, 800), (800, 1200))]  # noqa: E731
    assert metrics.probe_accuracy(parts(codes)) > 0.98
    assert metrics.probe_accuracy(parts(noise)) < 0.4


def test_psnr():
    np.testing.assert_allclose(metrics.psnr(np.array([1.0, 0.01, 0.0])), [0, 20, 120])


def test_usage_of_codes():
    codes = np.array([[0, 1], [1, 1]])
    used, perplexity = metrics.code_usage(codes, 4)
    assert used == 0.5
    assert perplexity == pytest.approx(np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))))


@pytest.fixture(scope="module")
def numbers():
    """Models trained for a moment, on all that is measured of digits."""
    x, y = data.load("digits")
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 1))
    h = keras.layers.Flatten()(image)
    classifier = keras.Model(image, keras.layers.Dense(10)(h))
    results = {}
    models = {
        "vae": DenseVAE(latent_dim=4, hidden=(64,), seed=0),
        "autoencoder": Autoencoder(latent_dim=4, hidden=(64,), seed=0),
        "hierarchical_vae": HierarchicalVAE(latents=(8, 4), widths=(64, 32), seed=0),
        "vq_vae": VQVAE((28, 28, 1), codes=8, filters=(4, 8), blocks=0, seed=0),
        "pixel_cnn": PixelCNN(filters=4, blocks=0, seed=0),
    }
    for name, model in models.items():
        model.compile(keras.optimizers.Adam(3e-3))
        model.fit(x, epochs=8, batch_size=64, verbose=0)
        if name == "vq_vae":
            prior = PixelCNN(model.latent_shape, levels=8, filters=8, blocks=1, seed=0)
            prior.compile(keras.optimizers.Adam(3e-3))
            prior.fit(model.encode(x), epochs=8, batch_size=64, verbose=0)
            model = model.with_prior(prior)
        results[name] = evaluate(
            model,
            "digits",
            importance_samples=5,
            importance_images=20,
            elbo_samples=2,
            classifier=classifier,
        )
    return results


def test_evaluate_measures_all_of_a_vae(numbers):
    value = {name: number["value"] for name, number in numbers["vae"].items()}
    assert set(value) == {
        *("elbo", "rate", "distortion", "nll_iw5", "active_units", "psnr", "relative_mse", "ssim"),
        *("kl_per_latent", "cnn_fid", "cnn_fid_gaussian_mixture", "cnn_fid_floor"),
        *("probe_accuracy", "probe_accuracy_pixels", "probe_accuracy_untrained"),
        *("index_code_mi", "total_correlation", "dimension_wise_kl"),
    }
    assert "20 images" in numbers["vae"]["nll_iw5"]["protocol"]
    parts = value["index_code_mi"] + value["total_correlation"] + value["dimension_wise_kl"]
    assert parts == pytest.approx(value["rate"], rel=0.1)  # by 1,000 draws
    assert sum(value["kl_per_latent"]) == pytest.approx(value["rate"], rel=1e-4)
    # Training images are nearest to test images, samples from a fitted mixture next.
    assert value["cnn_fid_floor"] < value["cnn_fid_gaussian_mixture"] < value["cnn_fid"] * 1.5
    assert value["cnn_fid_floor"] < 0.1 * value["cnn_fid"]
    assert 0.3 < value["probe_accuracy"] < value["probe_accuracy_pixels"] > 0.8
    assert 0 < value["ssim"] < 1


def test_evaluate_measures_the_groups_of_a_hierarchy(numbers):
    value = {name: number["value"] for name, number in numbers["hierarchical_vae"].items()}
    assert sum(value["kl_per_group"]) == pytest.approx(value["rate"], rel=0.05)  # other noise
    assert len(value["kl_per_group"]) == len(value["identity_kept"]) == 2
    assert "kl_per_latent" not in value and 0 < min(value["identity_kept"])


def test_identity_is_kept_where_the_held_groups_say_which():
    """A hierarchy whose lower group is the image, and whose top group says nothing."""

    class Telling:
        sees_bits = False

        def encode(self, x):
            return x[:, :1], x / 255.0

        def sample(self, n, seed, fixed):
            return fixed[1] if len(fixed) == 2 else np.zeros((n, 28, 28, 1))

    image = keras.Input((28, 28, 1))
    pixels = keras.Model(image, keras.layers.Flatten()(image))
    splits = {split: data.load("digits", split) for split in data.SPLITS}
    found = evaluation.Found(splits, None, None, None, pixels, seed=0)
    alone, both = evaluation._identity(Telling(), found)["value"]
    assert alone < 0.2 and both > 0.9


def test_evaluate_measures_an_autoencoder(numbers):
    value = {name: number["value"] for name, number in numbers["autoencoder"].items()}
    assert "elbo" not in value and "cnn_fid" not in value and "kl_per_latent" not in value
    assert value["cnn_fid_gaussian_mixture"] > value["cnn_fid_floor"]
    assert value["relative_mse"] < 1


def test_evaluate_measures_codes_and_their_prior(numbers):
    value = {name: number["value"] for name, number in numbers["vq_vae"].items()}
    assert value["rate"] / np.log(2) / 49 == pytest.approx(value["bits_per_code"], rel=1e-5)
    assert value["bits_per_code"] < np.log2(value["perplexity"])  # it knows more than how often
    assert 0 < value["bits_per_code_train"] < 3 and 0 < value["codes_used"] <= 1
    assert value["cnn_fid"] < value["cnn_fid_uniform"]
    assert "probe_accuracy" not in value and "active_units" not in value


def test_evaluate_measures_an_exact_density(numbers):
    (train, _), (x, _) = (data.load("digits", split) for split in ("train", "test"))
    p = np.clip(train.mean(0) / 255, 1e-3, 1 - 1e-3)  # of each pixel, whatever its neighbours are
    x = data.binarize(x) / 255
    alone = -(x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2, 3)).mean()
    value = {name: number["value"] for name, number in numbers["pixel_cnn"].items()}
    assert set(value) == {"nll", "cnn_fid", "cnn_fid_floor"}
    assert 0 < value["nll"] < 0.9 * alone and value["cnn_fid_floor"] < value["cnn_fid"]


def collapse(beta, epochs, tmp_path):
    (x, _), (x_held, _) = (data.load("digits", split) for split in ("train", "validation"))
    keras.utils.set_random_seed(0)
    model = DenseVAE(latent_dim=8, hidden=(64,), beta=beta, seed=0)
    model.compile(keras.optimizers.Adam(2e-3))
    settings = {"batch_size": 64, "seed": 0, "patience": 99, "output": tmp_path / str(beta)}
    held = (data.binarize(x_held), None)
    return runs.fit(model, (x, None), held, epochs=epochs, **settings)


@pytest.mark.parametrize("epochs, when", [(6, 6), (40, 20)])
def test_posterior_collapse_is_noticed(epochs, when, tmp_path, capsys):
    """At the end of a short run, at the second look of a long one, and once."""
    collapse(50.0, epochs, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(f"0 of 8 latents are active after epoch {when};.*Lower beta.*free bits", said)
    assert said.count("collapse") == 1


def test_latents_that_wake_up_late_are_no_collapse(capsys):
    class Waking:
        looks = iter([1, 2, 2, 12])

        def encode(self, x, y=None):
            z = np.zeros((4, 30))
            z[:2, : next(self.looks)] = 1
            return z

        def kl_per_latent(self, x):
            return np.zeros(30)

    notice = runs.NoticeCollapse(None, 100)
    notice.set_model(Waking())
    for epoch in range(20):  # looks at 10 and 20, each with more
        notice.on_epoch_end(epoch)
    assert capsys.readouterr().out == ""
    for epoch in range(20, 40):
        notice.on_epoch_end(epoch)
    assert "2 of 30 latents are active after epoch 30" in capsys.readouterr().out


def test_nothing_is_said_of_a_good_model(tmp_path, capsys):
    collapse(1.0, 10, tmp_path)
    assert "collapse" not in capsys.readouterr().out
