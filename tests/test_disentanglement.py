"""What keeps latents apart: the terms of the losses against exact aggregates, and the metrics
against codes whose values are known."""

import itertools

import keras
import numpy as np
import pytest
from families import conv, images
from keras import ops
from scipy import linalg, special, stats
from test_families import filled, noise_table  # noqa: F401

from vae_zoo import Autoencoder, BetaTCVAE, ConvVAE, FactorVAE, data
from vae_zoo.lab import disentanglement as metrics
from vae_zoo.lab import factor_numbers, factor_pictures

SHAPE = (8, 6, 1)


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def beta_tc(**settings):
    """One whose posteriors lie far from each other."""
    return apart(conv(cls=BetaTCVAE, dataset_size=8, seed=1, **settings)())


def apart(model):
    kernel = filled(model).encoder.get_layer("z_mean").kernel
    kernel.assign(20 * array(kernel))
    return model


def factor(**settings):
    return filled(conv(cls=FactorVAE, discriminator_units=(6,), seed=1, **settings)())


# === Total correlation from a batch ===


@pytest.mark.parametrize("sampling, bias", [("stratified", 0.0), ("weighted", np.log(8))])
def test_of_the_whole_set_the_aggregate_is_exact(sampling, bias):
    """A batch that is the set: q(z) = 1/N sum_n q(z|x_n); the weighted one is too small by N."""
    model, x = beta_tc(sampling=sampling), images(8, SHAPE)
    q = model.posterior(model.domain.tensor(x))
    z = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    joint, each = map(array, model.aggregate(ops.convert_to_tensor(z), q))
    deviations = np.exp(array(q.log_var) / 2)
    log_probs = stats.norm.logpdf(z[:, None], array(q.mean), deviations)  # (z, x, latent)
    exact = special.logsumexp(log_probs.sum(axis=-1), axis=1) - np.log(8)
    np.testing.assert_allclose(joint[:, 0], exact - bias, rtol=1e-4)
    exact = special.logsumexp(log_probs, axis=1) - np.log(8)
    np.testing.assert_allclose(each, exact - bias, rtol=1e-4, atol=1e-4)
    assert np.ptp(joint) > 0.5 and abs(joint[:, 0] - each.sum(axis=1) - bias).max() > 0.05


def test_stratified_sampling_is_unbiased():
    """Over all batches of three that hold an example, every one of eight counts 1/8."""
    model, sums, batches = beta_tc(), np.zeros(8), list(itertools.combinations(range(1, 8), 2))
    for others in batches:
        shares = array(model.shares(ops.ones(3), ops.convert_to_tensor([0])))
        sums[[0, *others]] += shares[0] / len(batches)
    np.testing.assert_allclose(sums, np.full(8, 1 / 8), rtol=1e-5)


@pytest.mark.parametrize("make", [beta_tc, factor])
def test_rows_of_weight_0_never_enter(make, noise_table):  # noqa: F811
    x = images(12, SHAPE)
    weights = np.where(np.arange(12) < 8, 1.0, 0.0).astype("float32")
    found = []
    for part, w in ((x, weights), (x[:8], weights[:8])):
        model = make()
        model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)  # the table needs shapes
        model.fit(
            part, np.zeros(len(part)), sample_weight=w, batch_size=12, shuffle=False, verbose=0
        )
        found.append(np.concatenate([array(v).ravel() for v in model.trainable_variables]))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


def test_the_weight_of_the_total_correlation_is_beta(noise_table):  # noqa: F811
    x, found = images(8, SHAPE), {}
    for beta_tc_ in (1.0, 3.0, 7.0):
        model = beta_tc(beta_tc=beta_tc_)
        model.compile("sgd")
        outputs = model.objective(model.prepare(x), training=True)
        found[beta_tc_] = array(outputs["loss"])
        np.testing.assert_allclose(
            array(model.objective(model.prepare(x))["loss"]), -array(outputs["elbo"]), rtol=1e-5
        )
    plain = apart(conv(seed=1)())
    plain.compile("sgd")
    expected = array(plain.objective(plain.prepare(x), training=True)["loss"])
    np.testing.assert_allclose(found[1.0], expected, rtol=1e-5)
    steps = found[3.0] - found[1.0], found[7.0] - found[3.0]
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-3, atol=1e-3)
    assert np.abs(steps[0]).mean() > 0.01


# === Total correlation from a discriminator ===


def test_permuted_latents_come_from_other_examples():
    model = factor()
    z = np.arange(16, dtype="float32").reshape(8, 2)
    moved = array(model.permuted(ops.convert_to_tensor(z)))
    for j in range(2):  # each column has the same values, of rows one and two places further
        np.testing.assert_array_equal(moved[:, j], np.roll(z[:, j], -1 - j))


def test_no_gradient_crosses_from_one_player_to_the_other(noise_table):  # noqa: F811
    """Whatever gamma, the discriminator learns the same; where it is nearly 0 the VAE learns what
    it learns alone."""
    x, found = images(8, SHAPE), {}
    for gamma in (1e-6, 50.0):
        model = factor(gamma=gamma)
        model.compile(keras.optimizers.SGD(0.01))
        model.train_on_batch(x)
        found[gamma] = [[array(v) for v in player] for player in model.players()]
    plain = filled(conv(seed=1)())
    plain.compile(keras.optimizers.SGD(0.01))
    plain.train_on_batch(x)
    alone = [array(v) for v in plain.trainable_variables]
    (vae, judge), (pressed, same) = found[1e-6], found[50.0]
    assert len(alone) == len(vae) and len(judge) == 4
    for a, b in zip(vae, alone):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(judge, same):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert max(np.abs(a - b).max() for a, b in zip(vae, pressed)) > 1e-3
    start = [array(v) for v in factor().players()[1]]
    assert all(np.abs(a - b).max() > 1e-5 for a, b in zip(judge, start))


def test_settings_of_both_are_named():
    for make, words in (
        (lambda: BetaTCVAE(dataset_size=0), "`dataset_size` must be"),
        (lambda: BetaTCVAE(dataset_size=9, sampling="no"), "`sampling` must be one of"),
        (lambda: FactorVAE(gamma=-1.0), "`gamma` must be >= 0. Received: gamma=-1.0"),
        (lambda: FactorVAE(discriminator_units=(0,)), "`discriminator_units`"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert issubclass(BetaTCVAE, ConvVAE)


# === Metrics ===


def grid(*sizes, copies=1):
    """All combinations of factors, each so often: int (n, factors)."""
    every = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1)
    return np.tile(every.reshape(-1, len(sizes)), (copies, 1))


def perfect(factors, seed=0):
    """One latent for each factor, and one of noise."""
    noise = np.random.default_rng(seed).normal(size=(len(factors), 1))
    return np.concatenate([factors / factors.max(axis=0), noise], axis=1)


def rotated(codes):
    """Every latent has the same share of all four directions."""
    return (codes / codes.std(axis=0)) @ linalg.hadamard(4) / 2


FACTORS = grid(3, 4, 5, copies=40)


def test_mig_of_a_perfect_code_of_noise_and_in_between():
    codes = perfect(FACTORS)
    np.testing.assert_allclose(metrics.mig(codes, FACTORS), 1, atol=0.02)
    information = metrics.mutual_information(codes, FACTORS)
    np.testing.assert_allclose(np.diag(information[:3]), np.log([3, 4, 5]), rtol=1e-6)
    noise = np.random.default_rng(1).normal(size=codes.shape)
    assert abs(metrics.mig(noise, FACTORS)) < 0.01
    assert metrics.mig(rotated(codes), FACTORS) < 0.1
    leaning = codes + 0.3 * rotated(codes)
    assert 0.1 < metrics.mig(leaning, FACTORS) < 0.9
    # Two latents that say the same leave no gap, whatever they say.
    twice = np.concatenate([codes[:, :3], codes[:, :3]], axis=1)
    assert metrics.mig(twice, FACTORS) == pytest.approx(0, abs=1e-9)
    # A constant factor is none.
    constant = np.concatenate([np.zeros((len(FACTORS), 1), int), FACTORS], axis=1)
    assert metrics.mig(codes, constant) == metrics.mig(codes, FACTORS)


def test_mig_with_fewer_bins_than_values_cannot_be_1():
    """32 values in 20 bins of equal width: the exact value, by counting."""
    factors = grid(32, 3)
    codes = perfect(factors)[:, :2]
    counts = np.bincount(np.minimum(np.arange(32) * 20 // 31, 19))
    expected = special.entr(counts / 32).sum() / np.log(32)
    assert metrics.mig(codes, factors) == pytest.approx((expected + 1) / 2, abs=0.01)
    assert 0.8 < expected < 0.9


def test_exact_mig_of_posteriors_that_do_not_touch_and_of_the_prior():
    factors = grid(3, 4, 5)
    mean, narrow = 10.0 * perfect(factors), np.full((60, 4), -8.0)
    mean[:, 3] = 0
    assert metrics.mig_chen(mean, narrow, factors, 300) == pytest.approx(1, abs=0.05)
    collapsed = metrics.mig_chen(0 * mean, 0 * narrow, factors, 300)
    assert abs(collapsed) < 0.05
    # One latent of two overlapping Gaussians, against numerical integration.
    pair = np.array([[0], [1]])
    mean, log_var = np.array([[0.0, 0], [2.0, 0]]), np.zeros((2, 2))
    t = np.linspace(-8, 10, 20001)
    density = (stats.norm.pdf(t) + stats.norm.pdf(t - 2)) / 2
    entropy = np.trapezoid(special.entr(density), t)
    expected = (entropy - 0.5 * np.log(2 * np.pi * np.e)) / np.log(2)
    found = metrics.mig_chen(mean, log_var, pair, 40_000)
    assert found == pytest.approx(expected, abs=0.02) and 0.3 < expected < 0.7


def test_factor_vae_score_of_a_perfect_code_and_of_noise():
    codes, votes = perfect(FACTORS), (600, 600)
    assert metrics.factor_vae_score(codes, FACTORS, votes) == 1
    noise = np.random.default_rng(1).normal(size=codes.shape)
    assert 0.25 < metrics.factor_vae_score(noise, FACTORS, votes) < 0.45  # chance is 1/3
    assert metrics.factor_vae_score(0.01 * codes, FACTORS, votes) == pytest.approx(1 / 3)
    assert metrics.factor_vae_score(rotated(codes), FACTORS, votes) < 0.95


def test_dci_and_sap_fall_from_a_perfect_code_to_a_rotated_one_to_noise():
    order = np.random.default_rng(0).permutation(len(FACTORS))
    parts, found = np.split(order, [1600]), {}
    noise = np.random.default_rng(1).normal(size=(len(FACTORS), 4))
    codes = perfect(FACTORS)
    for name, z in (("perfect", codes), ("rotated", rotated(codes)), ("noise", noise)):
        split = [(z[part], FACTORS[part]) for part in parts]
        how = {"n_estimators": 5, "max_depth": 2}
        found[name] = {**metrics.dci(*split, **how), "sap": metrics.sap(*split)}
    for value in ("dci", "completeness", "informativeness"):
        assert found["perfect"][value] == pytest.approx(1, abs=0.01), value
        assert found["rotated"][value] < 0.9, value
    assert found["perfect"]["dci"] > found["rotated"]["dci"] + 0.1 > found["noise"]["dci"]
    assert found["noise"]["informativeness"] < 0.35
    assert found["perfect"]["sap"] > found["rotated"]["sap"] + 0.1
    assert found["rotated"]["sap"] > found["noise"]["sap"] - 0.02 and found["noise"]["sap"] < 0.05


# === The aggregate posterior ===


def test_parts_of_the_kl_of_two_posteriors_by_integration():
    """Both latents of two examples are -1 and 1 together: one density on a plane."""
    mean, log_var = np.array([[-1.0, -1], [1, 1]]), np.full((2, 2), np.log(0.5))
    t = np.linspace(-8, 8, 801)
    each = stats.norm.pdf(t[:, None], mean[:, 0], np.sqrt(0.5))  # (t, example)
    joint, marginal = each @ each.T / 2, each.mean(axis=1)

    def integral(values):
        return (
            np.trapezoid(np.trapezoid(values, t), t) if values.ndim > 1 else np.trapezoid(values, t)
        )

    entropy, of_one = integral(special.entr(joint)), integral(special.entr(marginal))
    given = np.log(2 * np.pi * np.e * 0.5)  # of both latents
    from_prior = -of_one - integral(marginal * stats.norm.logpdf(t))
    expected = entropy - given, 2 * of_one - entropy, 2 * from_prior
    parts = metrics.decomposition(mean, log_var, num_samples=40_000)
    np.testing.assert_allclose(parts.mean(axis=1), expected, atol=0.02)
    assert min(np.abs(expected)) > 0.05
    kl = 0.5 * (mean**2 + 0.5 - 1 - np.log(0.5)).sum(axis=1).mean()
    np.testing.assert_allclose(parts.mean(axis=1).sum(), kl, atol=0.03)


def test_few_examples_stand_for_a_set_that_they_were_drawn_from():
    """Posteriors that do not touch tell one example of all, seen or not."""
    mean, log_var = 100.0 * np.arange(5)[:, None], np.zeros((5, 1))
    for size in (None, 5, 1000):
        found = metrics.decomposition(mean, log_var, size, num_samples=50)[0]
        np.testing.assert_allclose(found, np.log(size or 5), rtol=1e-6)


# === Of a model ===


class Lazy:
    """Examples that may not be asked for all at once."""

    def __init__(self, x, most):
        self.x, self.most = x, most

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        assert len(rows) <= self.most
        return self.x[rows]


def test_the_numbers_of_a_model_are_those_of_its_codes(monkeypatch):
    monkeypatch.setattr(factor_numbers, "CHUNK", 70)
    model, factors = factor(), grid(1, 3, 2, 5, copies=8)
    x = images(len(factors), SHAPE)
    lazy, names = Lazy(data.binarize(x), 70), ("color", "shape", "scale", "x")
    found = factor_numbers.numbers(model, lazy, factors, names, fast=True)
    assert set(found) == {*factor_numbers.MEASURES, *factor_numbers.PARTS}
    codes = model.encode(data.binarize(x))
    np.testing.assert_allclose(factor_numbers.posteriors(model, lazy)[0], codes, rtol=1e-4)
    assert found["mig_lib"]["value"] == pytest.approx(metrics.mig(codes, factors), abs=0.01)
    kl = model.kl_per_latent(data.binarize(x)).sum()
    parts = [found[name] for name in factor_numbers.PARTS]
    error = sum(part["standard_error"] for part in parts)
    assert sum(part["value"] for part in parts) == pytest.approx(kl, abs=4 * error + 1e-3)
    # One of them alone, and of some images.
    how = {"fast": True, "only": ("mig_lib",), "num_images": 50}
    (alone,) = factor_numbers.numbers(model, lazy, factors, names, **how).items()
    assert alone[0] == "mig_lib" and "of 50 images" in alone[1]["protocol"]
    kernel = model.encoder.get_layer("z_mean").kernel
    kernel.assign(np.nan * array(kernel))
    assert factor_numbers.numbers(model, lazy, factors, names)["sap"]["value"] is None
    with pytest.raises(ValueError, match="one vector of Gaussian latents .* Received: Autoencoder"):
        factor_numbers.posteriors(Autoencoder((8, 6, 1), 2, hidden=(4,)), lazy)


def test_each_row_of_a_traversal_moves_one_latent():
    model, z = factor(), np.array([0.3, -0.7], "float32")
    made = factor_pictures.traversals(model, z, [1, 0], np.array([-1.0, 0.5, 2.0]))
    assert made.shape == (2, 3, *SHAPE)
    expected = model.decode(np.array([[0.3, 2.0], [-1.0, -0.7]], "float32"))
    np.testing.assert_allclose(made[0, 2], expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made[1, 0], expected[1], rtol=1e-4, atol=1e-6)
    shares, names = factor_pictures.shares_of(perfect(FACTORS), FACTORS, ("shape", "x", "y"))
    np.testing.assert_allclose(shares[:3], np.eye(3), atol=0.01)
    assert names == ["shape", "x", "y"] and shares[3].max() < 0.1
