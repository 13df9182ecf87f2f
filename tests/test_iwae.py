"""Importance-weighted bounds and their gradients, against exact marginals and Monte Carlo."""

import numpy as np
import pytest
from families import FAMILIES
from keras import ops
from scipy import special
from test_families import array, filled
from test_vae import S2, SHAPE, VARIANCE, B, W, exact, images, objective

from vae_zoo import IWAE, HierarchicalVAE, gradients, likelihoods
from vae_zoo.engine import backend


def linear_iwae(k, spread=2.0, shift=0.1, **settings):
    """An IWAE whose log p(x) is known; q has `spread` times the exact variance."""
    settings = {"likelihood": likelihoods.Gaussian(S2), "hidden": (), **settings}
    model = IWAE(SHAPE, latent_dim=2, num_samples=k, seed=1, **settings)
    gain = W / S2 * VARIANCE
    zeros = np.zeros((6, 2))
    heads = [gain, shift - B @ gain, zeros, np.log(VARIANCE * spread)]
    model.encoder.set_weights(heads)
    model.decoder.set_weights([W.T, B])
    return model


def test_one_draw_is_the_monte_carlo_elbo_of_the_same_noise():
    outputs = objective(linear_iwae(1), images())
    np.testing.assert_allclose(outputs["iwae"], outputs["elbo"], rtol=1e-5)
    log_weights = linear_iwae(1).log_likelihood(images(), num_samples=1, seed=0)
    np.testing.assert_allclose(outputs["iwae"], log_weights, rtol=1e-5, atol=1e-4)


def test_the_bound_is_that_of_its_own_weights_and_grows_with_k():
    x, bounds = np.repeat(images(), 20, axis=0), []
    for k in (1, 5, 50):
        model = linear_iwae(k)
        outputs = objective(model, x)
        with model.noise_from(1):
            log_weights = np.float64(array(model.log_weights(x, num_samples=k)))
        expected = special.logsumexp(log_weights, axis=0) - np.log(k)
        np.testing.assert_allclose(outputs["iwae"], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(outputs["elbo"], log_weights.mean(0), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(outputs["loss"], -outputs["elbo"], rtol=1e-6)
        training = objective(model, x, training=True)
        np.testing.assert_allclose(training["loss"], -outputs["iwae"], rtol=1e-5)
        bounds.append(outputs["iwae"].mean())
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] - 0.02 < exact(x).mean()


def of_weights(model, x, draws, seed=0):
    """Of the training loss, of `draws` independent noises: dict, path -> (draws, *shape)."""
    variables = model.trainable_variables

    def once(seed):
        def loss():
            with model.noise_from(seed):
                outputs = model.objective(x, training=True)
            return ops.mean(outputs["loss"]), {"loss": outputs["loss"]}

        return backend.value_and_gradients(loss, (), variables, model.non_trainable_variables)[1]

    found = [[array(g) for g in once(seed + i)] for i in range(draws)]
    return {v.path: np.stack(each) for v, each in zip(variables, zip(*found))}


def test_the_two_gradients_agree_in_expectation_and_the_decoders_at_every_draw():
    """Many copies of one image are as many draws, and cheaper."""
    x = np.repeat(images(1), 4000, axis=0)
    plain, doubly = (
        of_weights(linear_iwae(3, 3.0, 0.4, doubly_reparametrized=flag), x, 6)
        for flag in (False, True)
    )
    for path, mine in doubly.items():
        its = plain[path]
        if "decoder" in path or "parameters" in path:
            np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-3, err_msg=path)
            continue
        error = np.sqrt(its.var(0, ddof=1) / 6 + mine.var(0, ddof=1) / 6)
        scale = np.abs(its.mean(0)).max()
        assert (error < 0.1 * scale).all(), path  # or nothing would be told apart
        assert (np.abs(mine.mean(0) - its.mean(0)) < 6 * error + 0.01 * scale).all(), path
        assert not np.allclose(mine, its, rtol=1e-3), path


def test_estimates_of_the_elbos_gradient_agree_and_differ_in_variance():
    x, copies, model = images(1), 4000, linear_iwae(1)
    kinds = ("plain", "doubly", "reinforce", "baseline")
    found = {kind: gradients.estimates(model, x, 1, kind, copies, seed=2) for kind in kinds}
    variance = np.exp(array(model.posterior(x).log_var)[0])
    # -ELBO = (mean - m)^2 / 2v + (s/v - log s) / 2 + constant, of the exact posterior N(m, v).
    expected = np.stack([0.1 / VARIANCE, (variance / VARIANCE - 1) / 2])
    for kind, each in found.items():
        error = each.std(0, ddof=1) / copies**0.5
        assert (np.abs(each.mean(0) - expected) < 5 * error).all(), kind
    spread = {kind: each.var(0, ddof=1).sum() for kind, each in found.items()}
    assert spread["doubly"] < spread["plain"] < spread["baseline"] < spread["reinforce"]


def test_signal_to_noise_falls_with_k_unless_doubly_reparametrised():
    ratios = gradients.signal_to_noise(linear_iwae(1), images(2), (1, 64), copies=400)
    assert ratios["plain"][1] < 0.5 * ratios["plain"][0]
    doubly = ratios["doubly reparametrised"]
    assert doubly[1] > 2 * doubly[0]


def test_a_bound_without_a_kl_of_its_own_takes_no_weights():
    hierarchy = {"latents": (3, 2), "widths": (5, 4), "num_samples": 3}
    for settings in ({"beta": 0.5}, {"free_bits": 0.1}, {"balance": True}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be"):
            HierarchicalVAE((8, 6, 1), **hierarchy, **settings)
    for name, value in (("beta", 2.0), ("free_bits", 0.1)):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            setattr(linear_iwae(2), name, value)
    for num_samples in (0, -1):
        with pytest.raises(ValueError, match=f"num_samples`.*Received: {num_samples}"):
            HierarchicalVAE((8, 6, 1), **{**hierarchy, "num_samples": num_samples})


def test_a_hierarchy_trains_on_the_bound_of_its_own_weights():
    model = filled(FAMILIES["ladder_importance"].make(seed=1))
    x = model.prepare(FAMILIES["ladder_importance"].x)
    with model.noise_from(3):
        outputs = model.objective(x, training=True)
    with model.noise_from(3):
        log_weights = np.float64(array(model.log_weights(x, num_samples=3)))
    expected = special.logsumexp(log_weights, axis=0) - np.log(3)
    np.testing.assert_allclose(array(outputs["iwae"]), expected, rtol=1e-5)
    np.testing.assert_allclose(array(outputs["loss"]), -expected, rtol=1e-5)
    np.testing.assert_allclose(array(outputs["elbo"]), log_weights.mean(0), rtol=1e-5)
    assert model.monitor == "iwae"
