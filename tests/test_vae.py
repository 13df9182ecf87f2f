"""The mathematics of the VAE against oracles: exact marginals, scipy, scikit-learn, Monte Carlo."""

import functools
import json

import keras
import numpy as np
import pytest
from families import FAMILIES, dense
from keras import layers, ops
from scipy import special, stats
from sklearn import mixture
from test_families import array, filled, table

from vae_zoo import VAE, GaussianMixture, data, likelihoods, priors, schedules
from vae_zoo.engine.trainable import Trainable
from vae_zoo.evaluate import measure
from vae_zoo.metrics import active_units

# The linear Gaussian VAE: x = W z + b + s noise. The columns of W are orthogonal, so that the
# posterior is a Gaussian with independent entries, which the encoder can be.
SHAPE, S2 = (2, 3, 1), 0.01
W = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))[0] * [0.15, 0.05]
B = np.linspace(0.3, 0.7, 6)
VARIANCE = 1 / (1 + (W**2).sum(0) / S2)  # of the exact posterior


def linear_vae(spread=1.0, shift=0.0, **kwargs):
    """A VAE whose log p(x) is known; q has `spread` times the exact variance, its mean shifted."""
    image, latent = keras.Input(SHAPE), keras.Input((2,))
    flat = layers.Flatten()(image)
    encoder = keras.Model(image, [layers.Dense(2, name="mean")(flat), layers.Dense(2)(flat)])
    decoder = keras.Model(latent, layers.Reshape(SHAPE)(layers.Dense(6)(latent)))
    model = VAE(encoder, decoder, likelihoods.Gaussian(S2), **kwargs)
    gain = W / S2 * VARIANCE
    encoder.set_weights([gain, shift - B @ gain, np.zeros((6, 2)), np.log(VARIANCE * spread)])
    decoder.set_weights([W.T, B])
    return model


@functools.cache
def linear(spread=1.0, shift=0.0):  # kept, with what they compiled: no test changes them
    return linear_vae(spread, shift)


@functools.cache
def images(n=40):
    rng = np.random.default_rng(1)
    x = B + rng.normal(size=(n, 2)) @ W.T + rng.normal(size=(n, 6)) * S2**0.5
    return x.clip(0, 1).astype("float32").reshape(n, *SHAPE)


def exact(x):
    return stats.multivariate_normal(B, W @ W.T + S2 * np.eye(6)).logpdf(x.reshape(-1, 6))


def objective(model, x, training=False, seed=1):
    with model.noise_from(seed):
        outputs = model.objective(model.prepare(x), training=training)
    return {key: array(value) for key, value in outputs.items()}


def fitted_mixture(z):
    prior = GaussianMixture(z.shape[1:], components=2, floor=1e-4, seed=0)
    prior.fit(z, epochs=20, verbose=0)
    return prior


def one_normal():
    """N(0, I) as a mixture: the KL is then estimated."""
    return GaussianMixture((2,), components=1)


# === Bounds ===


def test_with_the_exact_posterior_one_sample_gives_the_exact_marginal():
    x = images()
    np.testing.assert_allclose(linear().log_likelihood(x, num_samples=1), exact(x), atol=1e-3)
    elbo = objective(linear_vae(num_samples=1000), x)["elbo"]
    np.testing.assert_allclose(elbo, exact(x), atol=5 * 1.5 / 1000**0.5)


def test_importance_samples_close_the_gap_to_the_exact_marginal():
    x, model = np.repeat(images(), 20, axis=0), linear(2.0, 0.1)
    gaps = [np.mean(exact(x) - model.log_likelihood(x, num_samples=k)) for k in (1, 10, 100)]
    assert gaps[1] < gaps[0] / 3 and abs(gaps[2]) < gaps[1] / 2 and gaps[1] > 0
    bound = model.log_likelihood(x, num_samples=2000)
    np.testing.assert_allclose(bound, exact(x), atol=0.15)
    assert abs(np.mean(bound - exact(x))) < 0.01


def test_closed_form_bound_is_the_mean_log_weight():
    x, k = images(8), 4000
    model = linear_vae(2.0, 0.1, num_samples=k)
    with model.noise_from(1):
        log_weights = array(model.log_weights(model.prepare(x), num_samples=k))
    assert log_weights.shape == (k, 8)
    # The same noise is in the reconstruction, so that what is left is the KL's own.
    elbo = objective(model, x)["elbo"]
    np.testing.assert_array_less(
        np.abs(elbo - log_weights.mean(0)), 5 * log_weights.std(0) / k**0.5
    )
    q = model.posterior(x)
    z_mean, z_log_var = array(q.mean), array(q.log_var)
    expected = (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).sum(1) / 2
    np.testing.assert_allclose(objective(model, x)["kl"], expected, rtol=1e-4)


def test_one_importance_sample_is_the_monte_carlo_bound_of_the_same_noise():
    x, model = images(), linear(2.0, 0.1).with_prior(one_normal())
    elbo = objective(model, x, seed=6)["elbo"]
    np.testing.assert_allclose(
        model.log_likelihood(x, num_samples=1, seed=5), elbo, rtol=1e-5, atol=1e-4
    )


def test_seventy_samples_are_a_chunk_of_fifty_and_one_of_twenty():
    x, model = images(8), linear(2.0, 0.1)
    parts = []
    for counter, size in enumerate((50, 20)):
        with model.noise_from(4, counter):
            parts.append(array(model.log_weights(ops.convert_to_tensor(x), num_samples=size)))
    expected = special.logsumexp(np.concatenate(parts), axis=0) - np.log(70)
    bound = model.log_likelihood(x, num_samples=70, seed=3)
    np.testing.assert_allclose(bound, expected, rtol=1e-5, atol=1e-4)
    assert not np.isclose(model.log_likelihood(x, num_samples=70, seed=7), bound).all()


def test_effective_samples_tell_what_a_bound_rests_on():
    x, model = images(6), linear(2.0, 0.1)
    with model.noise_from(4, 0):
        w = np.exp(np.float64(array(model.log_weights(ops.convert_to_tensor(x), num_samples=40))))
    bound, effective = model.importance(x, num_samples=40, seed=3)
    np.testing.assert_allclose(effective, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-3)
    np.testing.assert_array_equal(bound, model.log_likelihood(x, num_samples=40, seed=3))
    exactly = linear().importance(x, num_samples=70)[1]  # equal weights: the posterior is exact
    np.testing.assert_allclose(exactly, 70, rtol=1e-3)


def test_filling_up_the_last_batch_changes_no_number(monkeypatch):
    monkeypatch.setattr(Trainable, "draw", lambda self, *args, **how: table(*args, **how))
    model, x = linear_vae(2.0, 0.1), images(7)
    bound = model.log_likelihood(x, num_samples=3, batch_size=4)
    assert bound.shape == (7,)
    for rows in (slice(0, 4), slice(4, 7)):
        alone = model.log_likelihood(x[rows], num_samples=3, batch_size=4)
        np.testing.assert_allclose(bound[rows], alone, rtol=1e-5)
    np.testing.assert_allclose(model.encode(x, batch_size=4), array(model.infer(x)), atol=1e-6)


def test_evaluate_means_over_all_batches_the_last_smaller(monkeypatch):
    monkeypatch.setattr(Trainable, "draw", lambda self, *args, **how: table(*args, **how))
    model, x = linear_vae(2.0, 0.1), images(7)
    expected = np.concatenate(
        [objective(model, x[rows])["elbo"] for rows in np.split(range(7), [4])]
    )
    logs = model.evaluate(x, batch_size=4, verbose=0, return_dict=True)
    assert logs["elbo"] == pytest.approx(expected.mean(), rel=1e-5)


# === Training loss ===


@pytest.mark.parametrize("samples", [1, 3])
def test_beta_weighs_the_kl_while_training_only(samples):
    schedule = schedules.warm_up(10, beta=4.0)
    model, x = linear_vae(2.0, 0.1, beta=schedule, num_samples=samples), images(8)
    model.compile("sgd")
    for step, beta in ((0, 0.0), (5, 2.0), (10, 4.0), (30, 4.0)):
        model.optimizer.iterations.assign(step)
        outputs = objective(model, x, training=True)
        np.testing.assert_allclose(outputs["beta"], beta, rtol=1e-6)
        expected = outputs["reconstruction"] + beta * outputs["kl"]
        np.testing.assert_allclose(outputs["loss"], expected, rtol=1e-5)
        outputs = objective(model, x)
        expected = outputs["reconstruction"] + outputs["kl"]
        np.testing.assert_allclose(outputs["loss"], expected, rtol=1e-5)
    constant = objective(linear_vae(2.0, 0.1, beta=0.5, num_samples=samples), x, training=True)
    np.testing.assert_allclose(
        constant["loss"], constant["reconstruction"] + 0.5 * constant["kl"], rtol=1e-5
    )


def test_beta_moves_with_the_updates_of_fit():
    model = linear_vae(beta=schedules.warm_up(10))
    model.compile(keras.optimizers.SGD(1e-6))
    history = model.fit(images(), batch_size=8, verbose=0).history
    assert history["beta"][0] == pytest.approx(np.mean([0.0, 0.1, 0.2, 0.3, 0.4]))


def test_free_bits_are_a_floor_on_the_batch_mean_of_each_latent():
    x, plain = images(8), linear(2.0, 0.1)
    q = plain.posterior(x)
    z_mean, z_log_var = array(q.mean), array(q.log_var)
    kl = (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var) / 2
    rates = kl.mean(0)
    floor = float(rates.mean())  # one latent above it, one below
    model = linear_vae(2.0, 0.1, free_bits=floor, beta=3.0)
    outputs = objective(model, x, training=True)
    expected = outputs["reconstruction"].mean() + 3 * np.maximum(rates, floor).sum()
    np.testing.assert_allclose(outputs["loss"].mean(), expected, rtol=1e-5)
    each = outputs["reconstruction"] + 3 * np.where(rates > floor, kl, floor).sum(1)
    np.testing.assert_allclose(outputs["loss"], each, rtol=1e-5)
    assert np.maximum(rates, floor).sum() > 1.05 * rates.sum()
    np.testing.assert_allclose(outputs["elbo"], objective(plain, x)["elbo"], rtol=1e-5)


def test_log_variances_are_clipped():
    model = linear_vae()
    for bias, expected in ((-1e9, -20.0), (1e9, 10.0)):
        model.encoder.layers[-1].bias.assign([bias, bias])
        np.testing.assert_allclose(array(model.posterior(images(8)).log_var), expected)


# === Likelihoods ===

RNG = np.random.default_rng(3)
X = RNG.integers(0, 256, (4, 3, 2, 1)).astype("float32") / np.float32(255)
PARAMETERS = RNG.normal(0.5, 1, (2, *X.shape)).astype("float32")
SETTINGS = {
    "bernoulli": (
        likelihoods.Bernoulli,
        lambda x, p: stats.bernoulli(special.expit(p)).logpmf(x),
    ),
    "gaussian_fixed": (
        functools.partial(likelihoods.Gaussian, 0.3),
        lambda x, p: stats.norm(p, 0.3**0.5).logpdf(x),
    ),
    "gaussian_learned": (
        functools.partial(likelihoods.Gaussian, "learned"),
        lambda x, p: stats.norm(p, np.exp(0.35)).logpdf(x),
    ),
    "laplace_fixed": (
        functools.partial(likelihoods.Laplace, 0.3),
        lambda x, p: stats.laplace(p, 0.3).logpdf(x),
    ),
    "laplace_learned": (likelihoods.Laplace, lambda x, p: stats.laplace(p, np.exp(0.7)).logpdf(x)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_likelihoods_are_scipys_sums(name):
    make, log_prob = SETTINGS[name]
    layer = make()
    for weight in layer.trainable_variables:
        weight.assign(0.7)
    x = (X > 0.5).astype("float32") if layer.binary else X
    for batch_mean in (None, ops.mean):
        result = array(layer.log_prob(x, PARAMETERS, batch_mean))
        np.testing.assert_allclose(result, log_prob(x, PARAMETERS).sum((2, 3, 4)), rtol=1e-5)


def test_optimal_variance_fits_the_batch_in_training_and_is_saved_for_evaluation():
    layer = likelihoods.Gaussian(momentum=0.9)
    errors = (X - PARAMETERS) ** 2

    def expected(variance):
        return stats.norm(PARAMETERS, variance**0.5).logpdf(X).sum((2, 3, 4))

    result = array(layer.log_prob(X, PARAMETERS, ops.mean))
    np.testing.assert_allclose(result, expected(errors.mean()), rtol=1e-5)
    np.testing.assert_allclose(array(layer.log_prob(X, PARAMETERS)), expected(1.0), rtol=1e-5)
    # A weighted mean over examples, later steps counting more; a refused example may hold NaN.
    weights = np.float32([[1, 2, 0, 0.5], [0, 1, 1, 1]])
    x = X.copy()
    x[2] = np.nan
    layer.update(layer.error(x, PARAMETERS), ops.convert_to_tensor(weights[0]))
    layer.update(layer.error(X, PARAMETERS), ops.convert_to_tensor(weights[1]))
    weights *= [[0.9], [1.0]]
    variance = (weights * errors.mean((0, 2, 3, 4))).sum() / weights.sum()
    np.testing.assert_allclose(array(layer.log_prob(X, PARAMETERS)), expected(variance), rtol=1e-5)


def test_discretized_logistic_is_a_probability():
    layer = likelihoods.DiscretizedLogistic(components=2)
    parameters = RNG.normal(0, 1, (1, 1, 2, layer.num_parameters(1))).astype("float32")
    levels = np.arange(256, dtype="float32").reshape(256, 1, 1, 1) / np.float32(255)
    both = [np.concatenate(pair, axis=2) for pair in ((levels, levels), (levels, levels[::-1]))]
    log_probs = [array(layer.log_prob(levels, parameters[:, :, i : i + 1])) for i in (0, 1)]
    for log_prob in log_probs:
        assert special.logsumexp(log_prob) == pytest.approx(0, abs=1e-4)
    # Pixels are summed over.
    for x, second in zip(both, (log_probs[1], log_probs[1][::-1])):
        np.testing.assert_allclose(
            array(layer.log_prob(x, parameters)), log_probs[0] + second, rtol=1e-4
        )


@pytest.mark.parametrize(
    "likelihood, mean, variance",
    [
        ("bernoulli", special.expit(0.3), special.expit(0.3) * special.expit(-0.3)),
        (likelihoods.Gaussian(0.2), 0.3, 0.2),
        (likelihoods.Gaussian("learned"), 0.3, 1.0),
        (likelihoods.Laplace(0.4), 0.3, 2 * 0.4**2),
    ],
)
def test_sampled_pixels_have_the_moments_of_the_likelihood(likelihood, mean, variance):
    image, latent = keras.Input(SHAPE), keras.Input((2,))
    flat = layers.Flatten()(image)
    encoder = keras.Model(image, [layers.Dense(2)(flat), layers.Dense(2)(flat)])
    decoder = keras.Model(latent, layers.Reshape(SHAPE)(layers.Dense(6)(latent)))
    model = VAE(encoder, decoder, likelihood)
    decoder.set_weights([np.zeros((2, 6)), np.full(6, 0.3)])
    pixels = model.sample(1500, seed=1, pixels=True, batch_size=500)
    np.testing.assert_array_equal(pixels, model.sample(1500, 1, pixels=True, batch_size=500))
    assert not np.isclose(pixels[:500].mean(0), pixels[500:1000].mean(0)).all()
    values = pixels.ravel().astype("float64")
    assert values.mean() == pytest.approx(mean, abs=5 * (variance / values.size) ** 0.5)
    assert values.var() == pytest.approx(variance, rel=0.1)
    np.testing.assert_allclose(model.sample(5, seed=1), mean, rtol=1e-5)


def test_samples_come_from_the_prior():
    model = linear()
    z = (model.sample(2000, seed=1).reshape(-1, 6) - B) @ np.linalg.pinv(W).T
    np.testing.assert_allclose(z.mean(0), 0, atol=5 / 2000**0.5)
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.15)
    np.testing.assert_array_equal(model.sample(5, seed=1), model.sample(5, seed=1))
    assert not np.isclose(model.sample(5, seed=1), model.sample(5, seed=2)).all()
    assert not np.isclose(model.sample(5), model.sample(5)).all()


# === Schedules ===


@pytest.mark.parametrize(
    "schedule, formula",
    [
        (schedules.warm_up(8, beta=2.0), lambda t: 2.0 * np.minimum(t / 8, 1)),
        (
            schedules.Cyclical(6, beta=2.0, ratio=0.5),
            lambda t: 2.0 * np.minimum((t % 6) / 3, 1),
        ),
        (schedules.Sigmoid(9, 2.0, beta=3.0), lambda t: 3 * special.expit((t - 9) / 2)),
        (schedules.Sigmoid(12), lambda t: special.expit((t - 12) / 2)),
    ],
)
def test_schedules_are_their_formulas_also_after_json(schedule, formula):
    text = json.dumps(keras.saving.serialize_keras_object(schedule))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    for beta in (schedule, copy):
        step = keras.Variable(0, dtype="int32", trainable=False)
        values = []
        for t in range(20):
            step.assign(t)
            values.append(float(beta(step)))
        np.testing.assert_allclose(values, formula(np.arange(20)), rtol=1e-5, atol=1e-6)


def test_no_warm_up_is_the_weight_itself():
    assert schedules.warm_up(0, beta=2.0) == 2.0


# === Priors ===


def test_mixture_is_scikit_learns():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2)) @ [[1.0, 0.8], [0.0, 0.5]] + 3 * rng.integers(0, 2, (400, 1))
    prior = GaussianMixture((2,), components=2, seed=1)
    prior.fit(z.astype("float32"), epochs=100, verbose=0)
    reference = mixture.GaussianMixture(2, random_state=1, reg_covar=0, tol=1e-7, max_iter=200)
    reference.fit(z.astype("float32").astype("float64"))
    log_prob = array(prior.log_prob(z[None].astype("float32")))
    np.testing.assert_allclose(log_prob[0], reference.score_samples(z), rtol=1e-3, atol=1e-3)
    samples = array(prior.sample(4000, seed=1))
    np.testing.assert_allclose(samples.mean(0), z.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(z.T), atol=0.25)
    np.testing.assert_array_equal(samples, array(prior.sample(4000, seed=1)))


def test_mixture_of_a_grid_of_latents():
    z = np.random.default_rng(0).normal(size=(50, 2, 1, 2)).astype("float32")
    prior = fitted_mixture(z)
    flat = fitted_mixture(z.reshape(50, 4))
    expected = array(flat.log_prob(z.reshape(50, 4)))
    np.testing.assert_allclose(array(prior.log_prob(z)), expected, rtol=1e-5)
    samples = array(flat.sample(3, seed=1)).reshape(3, 2, 1, 2)
    np.testing.assert_allclose(array(prior.sample(3, seed=1)), samples, rtol=1e-5)


def test_estimated_kl_of_the_same_prior_is_near_the_closed_form():
    x, k = images(8), 4000
    closed = linear_vae(2.0, 0.1, num_samples=k)
    estimated = closed.with_prior(one_normal())
    a, b = (objective(model, x) for model in (closed, estimated))
    np.testing.assert_allclose(a["reconstruction"], b["reconstruction"], rtol=1e-5)
    assert 0 < np.abs(a["kl"] - b["kl"]).max() < 0.1


def test_with_prior_is_a_new_model_in_one_file(tmp_path):
    family = FAMILIES["dense_gaussian_optimal"]
    old = filled(family.make(seed=1))
    old.likelihood.squared_error.assign(0.3)
    old.likelihood.count.assign(0.9)
    z = np.random.default_rng(0).normal(2, 0.1, (50, 2)).astype("float32")
    new = old.with_prior(fitted_mixture(z))
    assert isinstance(old.prior, priors.StandardNormal)
    assert len(new.trainable_variables) == len(old.trainable_variables)
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    a, b, c = (objective(model, family.x) for model in (old, new, loaded))
    np.testing.assert_allclose(a["reconstruction"], b["reconstruction"], rtol=1e-5)
    assert not np.isclose(a["kl"], b["kl"]).any()
    for key, value in b.items():
        np.testing.assert_allclose(c[key], value, rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(loaded.sample(3, seed=1), new.sample(3, seed=1), atol=1e-5)
    np.testing.assert_allclose(array(new.prior.sample(50, seed=1)).mean(0), 2, atol=0.1)


# === Use and evaluation ===


def test_interpolations_begin_and_end_at_reconstructions():
    model, x = linear(), images(6)
    lines = model.interpolate(x[:3], x[3:], steps=4)
    assert lines.shape == (3, 4, *SHAPE)
    reconstructions = array(model(x))
    np.testing.assert_allclose(lines[:, 0], reconstructions[:3], atol=1e-6)
    np.testing.assert_allclose(lines[:, -1], reconstructions[3:], atol=1e-6)
    thirds = (2 * reconstructions[:3] + reconstructions[3:]) / 3  # the decoder is linear
    np.testing.assert_allclose(lines[:, 1], thirds, atol=1e-6)


def test_measure_a_vae():
    model, x = linear(2.0, 0.1), images()
    numbers = measure(model, x, num_samples=100, elbo_samples=64)
    assert set(numbers) == {
        *("elbo", "rate", "distortion", "nll_iw100", "active_units", "psnr", "relative_mse")
    }
    value = {key: number["value"] for key, number in numbers.items()}
    assert value["elbo"] == pytest.approx(-value["rate"] - value["distortion"], rel=1e-5)
    assert value["elbo"] < -value["nll_iw100"] < np.mean(exact(x)) + 0.05
    np.testing.assert_allclose(-value["nll_iw100"], np.mean(exact(x)), atol=0.05)
    # The gap between the bound and log p(x) is KL(q || exact posterior), known here.
    gap = np.sum(2.0 - 1 - np.log(2.0) + 0.1**2 / VARIANCE) / 2
    assert np.mean(exact(x)) - value["elbo"] == pytest.approx(gap, abs=0.15)
    z = model.encode(x)
    assert value["active_units"] == np.sum(z.var(0) > 0.01)
    errors = ((model.decode(z) - x) ** 2).mean((1, 2, 3))
    assert value["relative_mse"] == pytest.approx(errors.mean() / np.var(x), rel=1e-4)
    assert value["psnr"] == pytest.approx((-10 * np.log10(errors)).mean(), rel=1e-4)
    error = numbers["nll_iw100"]["standard_error"]
    assert error == pytest.approx(exact(x).std() / len(x) ** 0.5, rel=0.1)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_relative_error_of_a_constant_is_one(likelihood):
    """The variance is that of what the model sees: of bits, not of the grey levels they are drawn
    from."""
    model = dense(likelihood=likelihood)(seed=1)
    grey = np.random.default_rng(0).integers(60, 120, (4000, 8, 6, 1)).astype("uint8")
    mean = grey.mean() / 255
    for variable in model.decoder.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    bias = model.decoder.trainable_variables[-1]
    value = np.log(mean / (1 - mean)) if likelihood == "bernoulli" else mean
    bias.assign(np.full(bias.shape, value))
    x = data.binarize(grey) if likelihood == "bernoulli" else grey
    number = measure(model, x, num_samples=0, elbo_samples=1)["relative_mse"]
    assert number["value"] == pytest.approx(1, abs=1e-3)
    assert ("bits" if likelihood == "bernoulli" else "pixels") in number["protocol"]


def test_importance_samples_are_of_images_spread_over_all():
    model, x = linear(2.0, 0.1), images()
    number = measure(model, x, num_samples=5, num_images=4, elbo_samples=1)["nll_iw5"]
    some = x[[0, 13, 26, 39]]
    assert number["value"] == pytest.approx(-model.log_likelihood(some, num_samples=5).mean())
    assert number["images"] == 4 and 1 < number["effective_samples"] < 5


def test_measure_counts_active_units_bits_and_uint8():
    family = FAMILIES["dense_discretized_logistic"]
    model = filled(family.make(seed=1))
    for variable in model.encoder.variables:
        if "z_mean" in variable.path:
            values = array(variable).copy()
            values[..., 0] = 0  # a latent that says nothing of x
            variable.assign(values * 5)
    numbers = measure(model, family.x, num_samples=0, elbo_samples=1)
    assert numbers["active_units"]["value"] == 1
    bits = -numbers["elbo"]["value"] / np.log(2) / 48
    assert numbers["bits_per_dim"]["value"] == pytest.approx(bits, rel=1e-5)
    assert not any(name.startswith("nll") for name in numbers)


def test_a_unit_is_active_above_a_variance_of_a_hundredth():
    z = np.array([[0.0, 0.0, 5.0], [0.19, 0.21, 5.0]])  # variances 0.009, 0.011, 0
    assert active_units(z) == (1, 3)


def test_measure_an_autoencoder():
    family = FAMILIES["autoencoder_dense"]
    assert set(measure(family.make(), family.x)) == {"active_units", "psnr", "relative_mse"}


@pytest.mark.parametrize("name, size", [("conv_grid", 10), ("conv_flat", 50)])
def test_grids_of_latents_are_taken_ten_images_at_a_time(name, size, monkeypatch):
    """Layers of fifty samples of each image are held in memory."""
    family, seen = FAMILIES[name], []
    model = family.make(seed=1)
    log_weights = model.log_weights

    def watched(x, *args):
        seen.append(int(x.shape[0]))
        return log_weights(x, *args)

    monkeypatch.setitem(model.__dict__, "log_weights", watched)
    model.log_likelihood(np.concatenate([family.x] * 8), num_samples=2)
    assert set(seen) == {size}
