"""Priors against what they should be: formulas, other libraries, and each other."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special, stats

from vae_zoo import VAE, ConvVAE, DenseVAE, load_model
from vae_zoo.likelihoods import Gaussian
from vae_zoo.priors import SecondStage, VampPrior

SHAPE = (4, 3, 1)


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def images(n, seed=0):
    return np.random.default_rng(seed).random((n, *SHAPE)).astype("float32")


def model(prior=None, latent_dim=3, **settings):
    keras.utils.set_random_seed(1)
    return DenseVAE(SHAPE, latent_dim, (8,), prior=prior, seed=1, **settings)


def vamp(components=4, scale=2.0):
    prior = VampPrior(SHAPE, components)
    prior.pseudo_inputs.assign(
        scale * np.random.default_rng(2).normal(size=prior.pseudo_inputs.shape)
    )
    return prior


def moments(vae, x):
    q = vae.posterior(ops.convert_to_tensor(x))
    return array(q.mean), array(q.log_var)


def test_vamp_prior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    vae = model(vamp())
    mean, log_var = moments(vae, special.expit(array(vae.prior.pseudo_inputs)))
    assert np.ptp(mean, axis=0).min() > 0.1
    z = np.random.default_rng(3).normal(0, 2, (2, 5, 3)).astype("float32")
    each = stats.norm.logpdf(z[..., None, :], mean, np.exp(log_var / 2)).sum(axis=-1)
    expected = special.logsumexp(each, axis=-1) - np.log(4)
    np.testing.assert_allclose(array(vae.prior.log_prob(z)), expected, rtol=1e-4)
    new = vae.sample_latents(20_000, seed=1)
    within = np.exp(log_var).mean(axis=0) + mean.var(axis=0)
    np.testing.assert_allclose(new.mean(axis=0), mean.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(new.var(axis=0), within, rtol=0.05)
    np.testing.assert_array_equal(new, vae.sample_latents(20_000, seed=1))


def test_vamp_prior_with_one_pseudo_input_at_the_prior_gives_the_plain_kl():
    """Without biases a black image is encoded to N(0, I)."""
    prior = VampPrior(SHAPE, 1)
    prior.pseudo_inputs.assign(np.full((1, *SHAPE), -100.0))
    plain, vae = model(), model(prior)
    x = images(6)
    expected = plain.kl_per_latent(x)
    assert expected.shape == (3,) and expected.sum() > 0.1
    np.testing.assert_allclose(vae.kl_per_latent(x), expected, rtol=1e-5)
    bounds = [m.log_likelihood(x, num_samples=7) for m in (plain, vae)]
    np.testing.assert_allclose(*bounds, rtol=1e-5)


def test_vamp_prior_reads_the_encoder_of_the_model_that_has_it():
    old = model(vamp())
    new = old.with_prior(old.prior)
    z = np.random.default_rng(3).normal(size=(5, 3)).astype("float32")
    before = array(old.prior.log_prob(z))
    np.testing.assert_array_equal(array(new.prior.log_prob(z)), before)
    assert not new.prior.trainable_variables
    for variable in new.encoder.trainable_variables:
        variable.assign(variable + 0.5)
    assert not np.isclose(array(new.prior.log_prob(z)), before).any()
    np.testing.assert_array_equal(array(old.prior.log_prob(z)), before)


def test_vamp_prior_does_not_keep_its_model_alive():
    vae = model(vamp())
    reference = weakref.ref(vae)
    del vae
    gc.collect()
    assert reference() is None


def test_vamp_prior_of_a_grid_starts_from_examples(tmp_path):
    x = (images(9) * 255).astype("uint8")
    prior = VampPrior(SHAPE, 5)
    prior.start(x, seed=4)
    u = special.expit(array(prior.pseudo_inputs)) * 255
    distances = np.abs(u[:, None] - np.clip(x, 5.1, 249.9)[None]).max(axis=(2, 3, 4))
    assert distances.min(axis=1).max() < 0.1
    assert len(set(distances.argmin(axis=1))) == 5
    vae = ConvVAE(SHAPE, 2, True, (3,), prior=prior, seed=1)
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    new = vae.sample_latents(3, seed=1)
    assert new.shape == (3, 2, 2, 2)
    np.testing.assert_allclose(new, loaded.sample_latents(3, seed=1), rtol=1e-5)
    bounds = [m.log_likelihood(x, num_samples=3) for m in (vae, loaded)]
    np.testing.assert_allclose(*bounds, rtol=1e-5)


def test_wrong_uses_of_a_vamp_prior_are_named():
    with pytest.raises(ValueError, match="needs its model"):
        vamp().log_prob(np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"shape=\(4, 3, 1\)"):
        DenseVAE((5, 3, 1), 2, (4,), prior=vamp())
    with pytest.raises(ValueError, match="components=0"):
        VampPrior(SHAPE, 0)


def test_a_second_stage_is_the_marginal_of_its_vae(tmp_path):
    """z = W u + b + noise, W with orthogonal columns: the posterior is known, and diagonal, so that
    one draw gives log p(z) exactly."""
    w, b, v = (
        np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * [2, 1, 0.5],
        [1, 0, -1],
        0.3,
    )
    precision = 1 + (w**2).sum(axis=0) / v
    z, u = keras.Input((3,)), keras.Input((3,))
    mean, log_var = keras.layers.Dense(3), keras.layers.Dense(3)
    encoder, output = keras.Model(z, [mean(z), log_var(z)]), keras.layers.Dense(3)
    decoder = keras.Model(u, output(u))
    mean.set_weights([w / v / precision, -(b @ w) / v / precision])
    log_var.set_weights([np.zeros((3, 3)), -np.log(precision)])
    output.set_weights([w.T, np.array(b)])
    prior = SecondStage(VAE(encoder, decoder, likelihood=Gaussian(v), seed=1))
    covariance = w @ w.T + v * np.eye(3)
    z = np.random.default_rng(1).normal(0, 2, (2, 5, 3)).astype("float32")
    expected = stats.multivariate_normal(b, covariance).logpdf(z)
    np.testing.assert_allclose(array(prior.log_prob(z)), expected, rtol=1e-4)
    new = array(prior.sample(20_000, seed=3))
    np.testing.assert_allclose(new.mean(axis=0), b, atol=0.05)
    np.testing.assert_allclose(np.cov(new.T), covariance, atol=0.12)

    first = model().with_prior(prior)
    assert not prior_weights_that_train(first)
    first.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.sample(4, seed=2), first.sample(4, seed=2))
    x = images(3)
    np.testing.assert_array_equal(again.log_likelihood(x, num_samples=3),
                                  first.log_likelihood(x, num_samples=3))  # fmt: skip


def prior_weights_that_train(model):
    own = {id(variable) for variable in model.prior.variables}
    return [variable.path for variable in model.trainable_variables if id(variable) in own]
