"""What the hierarchy promises: one path for both directions, bounds that are bounds, groups that
can be held, and the papers' weights of groups."""

import math

import keras
import numpy as np
import pytest
from families import SHAPE, images, ladder
from keras import ops
from scipy import stats
from test_families import array, filled

from vae_zoo import GaussianMixture, HierarchicalVAE, priors, runs, schedules
from vae_zoo.evaluate import measure
from vae_zoo.lab.measure import active_units

CONV = {"network": "conv", "groups": (2, 1)}


def model(**settings):
    """Weights from NumPy, so that every group matters."""
    return filled(ladder(**settings)(seed=1))


def objective(model, x, training=False, seed=3):
    with model.noise_from(seed):
        outputs = model.objective(model.prepare(x), training=training)
    return {key: array(value) for key, value in outputs.items()}


# === The path ===


@pytest.mark.parametrize("settings", [{}, CONV])
def test_groups_lie_on_scales_of_half_the_size_each(settings):
    vae = model(**settings)
    latents = vae.encode(images(2, SHAPE))
    assert tuple(z.shape[1:] for z in latents) == vae.latent_shape
    assert vae.latent_shape == (((2,), (3,)) if not settings else ((2, 2, 2), (4, 3, 3), (4, 3, 3)))


@pytest.mark.parametrize("settings", [{}, CONV])
def test_encoding_and_decoding_walk_the_same_path(settings):
    vae, x = model(**settings), images(3, SHAPE)
    latents = vae.encode(x)
    np.testing.assert_allclose(vae.decode(latents), vae.predict(x, verbose=0), atol=1e-6)
    # What a group lower down is inferred to be depends on the one above.
    other = (latents[0] + 1.0, *latents[1:])
    assert np.abs(vae.decode(other) - vae.decode(latents)).max() > 1e-3


def test_a_new_path_draws_from_normals():
    """The prior starts at N(0, I), and the image does not depend on the groups too much."""
    vae = HierarchicalVAE(SHAPE, latents=(3, 2), widths=(5, 4), seed=1)
    top, bottom = vae.sample_latents(4000, seed=2)
    for z in (top, bottom):
        assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    vae = HierarchicalVAE(SHAPE, latents=(3,), widths=(64,), groups=16, seed=1)
    features = array(vae.walk(lambda i, h, p: vae.draw(ops.shape(p.mean)), 500))
    assert 0.2 < features.std() < 3.0  # sixteen groups, each scaled by a quarter


# === A prior of the top group ===


def test_a_normal_prior_of_the_top_group_is_that_of_a_new_path(tmp_path):
    settings = {"latents": (3, 2), "widths": (5, 4), "seed": 1}
    path, x = HierarchicalVAE(SHAPE, **settings), images(4, SHAPE)
    normal = path.with_prior(priors.StandardNormal((2,)))
    for a, b in zip(path.kl_per_latent(x), normal.kl_per_latent(x)):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    bounds = [vae.log_likelihood(x, num_samples=5) for vae in (path, normal)]
    np.testing.assert_allclose(*bounds, rtol=1e-6)


def test_a_prior_of_the_top_group_says_where_it_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    far = GaussianMixture.fitted(rng.normal(5.0, 0.3, (200, 2)).astype("float32"), 1)
    path, x = model(), images(4, SHAPE)
    vae = path.with_prior(far)
    top, bottom = vae.sample_latents(500, seed=2)
    np.testing.assert_allclose(top.mean(axis=0), 5.0, atol=0.1)
    # Below it the path goes on from what was drawn.
    np.testing.assert_array_equal(bottom, path.sample_latents(500, seed=2, fixed=(top,))[1])
    z = tuple(ops.convert_to_tensor(part) for part in (top, bottom))
    there, before = (array(m.prior.log_prob(z)) for m in (vae, path))
    own = array(path.ladder[0].prior(ops.broadcast_to(path.start, (1, 4))))
    own = stats.norm.logpdf(top, own[0], np.exp(own[1] / 2)).sum(axis=1)
    np.testing.assert_allclose(there - before, array(far.log_prob(top)) - own, rtol=1e-3)
    kls = vae.kl_per_latent(x)
    assert kls[0].shape == () and kls[1].shape == (3,)
    assert (
        vae.log_likelihood(x, num_samples=3).mean() < path.log_likelihood(x, num_samples=3).mean()
    )
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.sample(3, seed=1), vae.sample(3, seed=1), atol=1e-6)
    again = loaded.with_prior(None)
    np.testing.assert_allclose(again.sample(3, seed=1), path.sample(3, seed=1), atol=1e-6)


# === Bounds ===


def test_one_importance_sample_is_the_bound_of_the_same_noise_in_the_mean():
    """log w averages to the ELBO: the closed-form KL of each group given those above is right."""
    vae, x = model(groups=(1, 2)), images(4, SHAPE)
    bits = vae.prepare(ops.convert_to_tensor(x))
    k = 3000
    with vae.noise_from(1):
        log_weights = array(vae.log_weights(bits, num_samples=k))
    assert log_weights.shape == (k, 4)
    repeated = np.repeat(array(bits), k, axis=0)
    elbo = objective(vae, repeated)["elbo"].reshape(4, k)
    error = (log_weights.var(0) / k + elbo.var(1) / k) ** 0.5
    np.testing.assert_array_less(np.abs(log_weights.mean(0) - elbo.mean(1)), 5 * error)


def test_bounds_grow_with_the_number_of_samples():
    vae, x = model(), np.repeat(images(6, SHAPE) > 127, 300, axis=0)  # the same bits, much noise
    bounds = [vae.log_likelihood(x, num_samples=k).mean() for k in (1, 5, 50)]
    assert bounds[0] + 0.05 < bounds[1] and bounds[1] + 0.01 < bounds[2]


def test_the_density_of_binary_images_sums_to_one():
    """All 64 images of six bits, by importance sampling: what the bound converges to."""
    shape = (2, 3, 1)
    vae = model(shape=shape, latents=(2, 1), widths=(4, 3))
    x = np.array(np.meshgrid(*[[0.0, 1.0]] * 6)).reshape(6, -1).T.reshape(-1, *shape)
    log_p = vae.log_likelihood(x.astype("float32"), num_samples=3000)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=0.02)


def test_kl_per_group_is_the_rate():
    vae, x = model(**CONV), images(8, SHAPE)
    kl = vae.kl_per_latent(x)
    assert tuple(group.shape for group in kl) == vae.latent_shape
    with vae.noise_from(1_000_003, 0):
        expected = vae.objective(vae.domain.tensor(x))
    assert sum(group.sum() for group in kl) == pytest.approx(array(expected["kl"]).mean(), rel=1e-4)
    scale_1 = kl[1].sum() + kl[2].sum()  # the two groups nearest to the image
    assert scale_1 == pytest.approx(array(expected["kl_1"]).mean(), rel=1e-4)


def with_a_dead_top():
    """A hierarchy whose top posterior is its prior, below which the path still moves."""
    vae = HierarchicalVAE(SHAPE, latents=(3, 2), widths=(5, 4), seed=1)
    filled(vae)
    for variable in vae.ladder[0].posterior_cell.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    return vae


def test_a_group_is_active_by_its_kl_and_not_by_its_priors_mean():
    vae, x = with_a_dead_top(), images(64, SHAPE)
    (top, of_top), (bottom, of_bottom) = active_units(vae, x)[0]
    assert (top, of_top, of_bottom) == (0, 2, 3) and bottom > 0
    kl = vae.kl_per_latent(x)
    assert bottom == (kl[1] > 0.01).sum()
    number = measure(vae, x, num_samples=0, elbo_samples=1)["active_units"]
    assert number["value"] == bottom and "of 5: KL > 0.01" in number["protocol"]


def test_a_dead_top_is_noticed(capsys):
    notice = runs.NoticeCollapse(images(64, SHAPE), 1)
    notice.set_model(with_a_dead_top())
    notice.on_epoch_end(0)
    said = " ".join(capsys.readouterr().out.split())
    assert "none in group 1 of 2 from the top" in said and "free bits" in said
    alive = runs.NoticeCollapse(images(64, SHAPE), 1)
    alive.set_model(model())
    alive.on_epoch_end(0)
    assert capsys.readouterr().out == ""


# === Weights of groups while training ===


def rates(vae, x):
    """The mean KL of each group, from the top, of the noise that `objective` draws too."""
    with vae.noise_from(3):
        kls = vae.latent_kl(vae.prepare(x))
    return np.array([array(kl).sum() / len(x) for kl in kls])


def test_free_bits_are_a_floor_under_each_group():
    vae, x = model(**CONV, likelihood="laplace"), images(8, SHAPE)
    kl = rates(vae, x)
    floor = float(np.median(kl))
    vae.free_bits = floor
    outputs = objective(vae, x, training=True)
    expected = outputs["reconstruction"].mean() + np.maximum(kl, floor).sum()
    assert outputs["loss"].mean() == pytest.approx(expected, rel=1e-5)
    assert objective(vae, x)["loss"].mean() == pytest.approx(-outputs["elbo"].mean(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_balance_weighs_groups_until_the_warm_up_is_over(beta):
    """NVAE's coefficients, recomputed: KL over size of the group, of mean one."""
    vae, x = model(**CONV, likelihood="laplace", balance=True, beta=beta), images(8, SHAPE)
    kl = rates(vae, x)
    shares = (kl + 0.01) / np.array([2 * 2 * 2, 4 * 3 * 3 / 2, 4 * 3 * 3 / 2])
    weights = shares / shares.mean() if beta < 1 else np.ones(3)
    outputs = objective(vae, x, training=True)
    expected = outputs["reconstruction"].mean() + beta * (weights * kl).sum()
    assert outputs["loss"].mean() == pytest.approx(expected, rel=1e-5)


def test_half_precision_trains_the_path_and_keeps_the_moments_whole():
    beta = schedules.warm_up(20)
    vae = ladder(**CONV, balance=True, beta=lambda: beta)(seed=1, dtype="mixed_bfloat16")
    vae.compile(keras.optimizers.Adam(1e-2))
    x = images(8, SHAPE)
    history = vae.fit(np.concatenate([x] * 10), batch_size=8, epochs=5, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["skipped"] == [0] * 5
    assert history["elbo"][-1] > history["elbo"][0]
    mean, log_var = vae.ladder[0].prior(ops.zeros((1, 2, 2, 4), "bfloat16"))
    assert {keras.backend.standardize_dtype(t.dtype) for t in (mean, log_var)} == {"float32"}


# === Generation ===


def test_groups_that_are_held_stay_and_the_others_follow():
    vae, x = model(**CONV), images(5, SHAPE)
    latents = vae.encode(x)
    drawn = vae.sample_latents(5, seed=1, fixed=latents[:2])
    for held, z in zip(latents[:2], drawn):
        np.testing.assert_array_equal(z, held)
    assert not np.isclose(drawn[2], latents[2]).any()
    np.testing.assert_allclose(vae.sample(5, seed=1, fixed=latents), vae.decode(latents), atol=1e-6)
    one = tuple(z[:1] for z in latents)
    repeated = np.repeat(vae.decode(one), 3, axis=0)
    np.testing.assert_allclose(vae.sample(3, seed=1, fixed=one), repeated, atol=1e-6)


def test_temperature_scales_the_draws_of_each_group():
    vae = model(**CONV)
    cold, other = (vae.sample_latents(4, seed=seed, temperature=0.0) for seed in (1, 2))
    for a, b in zip(cold, other):
        np.testing.assert_array_equal(a, b)  # the means, whatever the seed
    warm = vae.sample_latents(4, seed=1)
    half = vae.sample_latents(4, seed=1, temperature=(0.5, 0.0, 0.0))
    np.testing.assert_allclose(half[0] - cold[0], 0.5 * (warm[0] - cold[0]), atol=1e-5)
    assert vae.sample(4, seed=1, pixels=True).max() == 1.0


def test_seeds_name_samples():
    vae = model()
    a, b, c = (vae.sample(300, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.isclose(a, c).all()
    assert not np.isclose(a[:44], a[256:]).all()  # each batch has noise of its own


@pytest.mark.parametrize(
    "message, use",
    {
        r"one entry a scale.*groups=\(1,\)": lambda: ladder(groups=(1,))(),
        "network='conv2d'": lambda: ladder(network="conv2d")(),
        "latents.*Received: latents=3": lambda: ladder(latents=3)(),
        r"groups=\(0, 1\)": lambda: ladder(groups=(0, 1))(),
        "beta=-1": lambda: ladder(beta=-1)(),
        "free_bits=-1": lambda: ladder(free_bits=-1)(),
        "blocks=-1": lambda: ladder(blocks=-1)(),
        "`temperature`.*-1": lambda: model().sample(2, temperature=-1.0),
        r"`temperature`.*or 2\. Received": lambda: model().sample(2, temperature=(1.0,) * 3),
        r"`fixed`.*\(\(2,\), \(3,\)\).*\[\(2, 3\)\]": lambda: model().sample(
            2, fixed=[np.zeros((2, 3))]
        ),
        r"`fixed` must hold 4 latents, or one.*\[\(3, 2\)\]": lambda: model().sample(
            4, fixed=[np.zeros((3, 2))]
        ),
    }.items(),
)
def test_mistakes_are_named(message, use):
    with pytest.raises(ValueError, match=message):
        use()


def test_colour_images_of_any_size_and_one_scale():
    vae = HierarchicalVAE((9, 7, 3), latents=(2,), widths=(4,), network="conv", seed=0,
                          likelihood="discretized_logistic")  # fmt: skip
    vae.compile(keras.optimizers.SGD(1e-5))
    x = images(2, (9, 7, 3))
    assert np.isfinite(vae.train_on_batch(x, return_dict=True)["loss"])
    assert vae.predict(x, verbose=0).shape == x.shape and vae.latent_shape == ((5, 4, 2),)
    assert math.isfinite(vae.log_likelihood(x, num_samples=2).sum())
