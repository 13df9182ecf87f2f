"""An exact density that is invertible: its Jacobian, its integral, its inverse; and as a prior."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats
from sklearn import datasets

import vae_zoo
from vae_zoo import RealNVP, priors
from vae_zoo.engine import backend


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def flow(shape, couplings=4, units=8, spread=0.3, **settings):
    model = RealNVP(shape, couplings, units, seed=0, **settings)
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, spread, variable.shape))
    return model


def normals(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


SHAPES = [(3,), (2, 2, 2), (2, 3, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_log_determinant_is_that_of_the_jacobian(shape):
    model = flow(shape, couplings=3, blocks=1)
    x = keras.Variable(normals(1, *shape))

    def row(i):  # of the Jacobian, and the log-determinant
        def function():
            z, log_det = model.normalised(ops.convert_to_tensor(x))
            return ops.reshape(z, (-1,))[i], {"log_det": log_det}

        outputs, (gradient,) = backend.value_and_gradients(function, (), [x], model.variables)
        return array(gradient).ravel(), array(outputs["log_det"])

    rows = [row(i) for i in range(np.prod(shape))]
    jacobian = np.stack([gradient for gradient, _ in rows]).astype("float64")
    expected = np.linalg.slogdet(jacobian)[1]
    assert abs(expected) > 0.2  # not that of a map that keeps volumes
    np.testing.assert_allclose(rows[0][1], expected, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_of_the_output_depends_on_every_one_of_the_input(shape):
    model, x = flow(shape, couplings=6), normals(1, *shape)
    size = x.size
    near = x + 0.1 * np.eye(size, dtype="float32").reshape(size, *shape)
    moved = np.abs(array(model(near)) - array(model(x))).reshape(size, size)
    assert (moved > 1e-6).all()


@pytest.mark.parametrize("shape, couplings", [((40,), 20), ((4, 4, 6), 12), ((5, 3, 1), 8)])
def test_samples_are_inverted(shape, couplings):
    model = flow(shape, couplings, spread=0.03)
    for network in model.networks:  # of a coupling that moves what it moves by its own size
        network.trainable_variables[-1].assign(0.3 * normals(2 * shape[-1]))
    x = model.sample(300, seed=1)
    z = model.predict(x, verbose=0)
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
    assert stats.kstest(x.ravel(), "norm").pvalue < 1e-6
    again = model.run("generated", model.generated, z)
    np.testing.assert_allclose(again, x, atol=1e-4)
    np.testing.assert_array_equal(x, model.sample(300, seed=1))
    other = model.sample(300, seed=2).reshape(300, -1)
    assert not np.isclose(x.reshape(300, -1), other).all(axis=-1).any()


def moons(n, seed):
    return 3.0 + 5.0 * datasets.make_moons(n, noise=0.1, random_state=seed)[0].astype("float32")


@pytest.fixture(scope="module")
def of_moons():
    keras.utils.set_random_seed(0)
    model, x = RealNVP((2,), couplings=6, units=32, activation="tanh", seed=0), moons(2000, 0)
    model.start_norms(x)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 300)))
    model.fit(x, batch_size=100, epochs=15, verbose=0)
    return model


def test_density_of_two_moons_integrates_to_one_and_is_near_the_truth(of_moons):
    sides = np.linspace(-12.0, 22.0, 341, dtype="float32")
    grid = np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2)
    log_prob = of_moons.log_likelihood(grid, batch_size=len(grid))
    assert np.exp(log_prob).sum() * (sides[1] - sides[0]) ** 2 == pytest.approx(1, abs=0.01)
    # Noise of 0.1 across two half circles of length pi each; and the best normal density.
    x = moons(1000, 1)
    nll = -of_moons.log_likelihood(x).mean()
    truth = np.log(2 * np.pi) + 0.5 * np.log(2 * np.pi * np.e * 0.1**2) + 2 * np.log(5.0)
    normal = stats.multivariate_normal(x.mean(0), np.cov(x.T)).entropy()
    assert truth - 0.05 < nll < normal - 0.3
    again = of_moons.run("generated", of_moons.generated, of_moons.predict(x, verbose=0))
    np.testing.assert_allclose(again, x, atol=1e-4)


def test_samples_follow_the_density(of_moons):
    """A histogram of samples against the density at the middles of its cells."""
    x = of_moons.sample(20_000, seed=1)
    edges = np.linspace(-6.0, 14.0, 81)
    counts = np.histogram2d(*x.T, bins=(edges[::2], edges[::2]))[0]
    middles = (edges[1:] + edges[:-1]) / 2  # four of them a cell
    grid = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(of_moons.log_likelihood(grid.astype("float32"), batch_size=len(grid)))
    expected = density.reshape(40, 2, 40, 2).sum(axis=(1, 3)) * (edges[1] - edges[0]) ** 2
    assert np.abs(counts / 20_000 - expected).sum() < 0.17


def test_pixels_are_dequantised_and_their_levels_add_up_to_one():
    """Over all pairs of levels of two pixels: the mean of p(x + u) over u in [0, 1)."""
    model = flow((1, 2, 1), couplings=2, pixels=True, spread=0.2)
    fine = (np.arange(512, dtype="float32") + 0.5) / 512  # two points a level
    grid = np.stack(np.meshgrid(fine, fine), axis=-1).reshape(-1, 1, 2, 1)
    log_prob = array(model.log_prob(grid))
    assert np.exp(np.float64(log_prob)).mean() * 256**2 == pytest.approx(1, abs=1e-3)
    x = model.sample(50, seed=1)
    np.testing.assert_allclose(x * 255, np.round(x * 255), atol=1e-4)
    noisy = array(model.prepare((x * 255).astype("uint8"))) * 256
    np.testing.assert_array_equal(np.floor(noisy), np.round(x * 255))
    assert np.ptp(noisy - np.floor(noisy)) > 0.5


def test_squeezing_puts_four_places_into_one_and_back():
    model = flow((4, 4, 1), couplings=1, squeezes=1)
    x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    inner = array(model._entered(x)[0])
    assert inner.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(inner[0, 0, 1], [2, 3, 6, 7])
    z = model.predict(x, verbose=0)
    np.testing.assert_allclose(model.run("generated", model.generated, z), x, atol=1e-4)


def test_norms_start_where_the_data_are():
    x = np.float32([[4.0, -2.0, 0.5]]) + np.float32([[0.1, 30.0, 2.0]]) * normals(500, 3)
    model = RealNVP((3,), couplings=3, units=8, seed=0)
    model.start_norms(x)
    z = model.predict(x, verbose=0)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-2)
    images = RealNVP((3, 4, 2), couplings=3, units=8, seed=0)
    images.start_norms(5.0 + normals(50, 3, 4, 2))
    z = images.predict(5.0 + normals(50, 3, 4, 2), verbose=0).reshape(-1, 2)
    np.testing.assert_allclose([z.mean(axis=0), z.std(axis=0)], [[0, 0], [1, 1]], atol=1e-2)


# === As a prior ===


def vae(prior=None):
    return vae_zoo.DenseVAE((8, 6, 1), 3, (5,), prior=prior, seed=1)


IMAGES = (normals(40, 8, 6, 1) > 0).astype("float32")


def test_a_flow_that_does_nothing_is_the_standard_normal():
    """Rotations alone; what is left is the noise of an estimate of the KL."""
    closed = vae()
    flowing = closed.with_prior(RealNVP((3,), couplings=3, units=4, seed=0))
    settings = {"num_samples": 20, "seed": 3}
    both = [model.log_likelihood(IMAGES, **settings) for model in (closed, flowing)]
    np.testing.assert_allclose(*both, rtol=1e-5)
    kl = [np.sum(model.kl_per_latent(IMAGES)) for model in (closed, flowing)]
    assert abs(kl[0] - kl[1]) < 4 * np.sqrt(3.0 / len(IMAGES))  # of log q - log p a draw


def test_model_and_prior_are_one_file(tmp_path):
    model = vae(RealNVP((3,), couplings=2, units=4, seed=0))
    model.compile("adam")
    model.fit(IMAGES, epochs=2, batch_size=20, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.prior.trainable and loaded.prior.trainable_variables
    new = model.sample_latents(5, seed=2)
    assert new.shape == (5, 3) and new.dtype == np.float32
    np.testing.assert_array_equal(new, loaded.sample_latents(5, seed=2))
    np.testing.assert_array_equal(new, model.prior.sample(5, seed=2))
    likelihoods = [m.log_likelihood(IMAGES[:4], num_samples=5) for m in (model, loaded)]
    np.testing.assert_allclose(*likelihoods, rtol=1e-6)
    # Given to another model it is a copy, and frozen.
    other = vae().with_prior(model.prior)
    assert other.prior is not model.prior and not other.prior.trainable_variables
    np.testing.assert_array_equal(new, other.sample_latents(5, seed=2))


def test_a_learned_prior_is_nearer_to_the_posteriors_than_the_normal_one():
    """Latents around two points far from each other."""
    z = np.concatenate([normals(300, 3) * 0.2 + 3.0, normals(300, 3, seed=5) * 0.2 - 3.0])
    flow = RealNVP((3,), couplings=4, units=16, seed=0)
    flow.start_norms(z)
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(z, batch_size=100, epochs=15, verbose=0)
    mixture = vae_zoo.GaussianMixture.fitted(z, components=2)
    log_probs = {
        "flow": flow.log_likelihood(z).mean(),
        "mixture": array(mixture.log_prob(z)).mean(),
        "normal": array(priors.StandardNormal((3,)).log_prob(z)).mean(),
    }
    assert log_probs["mixture"] - 2.0 < log_probs["flow"] < log_probs["mixture"] + 0.1
    assert log_probs["normal"] < log_probs["flow"] - 5


def test_wrong_settings_are_named():
    for message, settings in {
        "couplings=0": {"couplings": 0},
        r"shape=\(2, 3\)": {"shape": (2, 3)},
        "blocks=-1": {"blocks": -1},
        "units=True": {"units": True},
        "squeezes=1": {"shape": (3, 4, 1), "squeezes": 1},
    }.items():
        with pytest.raises(ValueError, match=message):
            RealNVP(**settings)
    with pytest.raises(ValueError, match="takes no labels"):
        RealNVP((2,), 1, 2).sample(3, y=1)
    with pytest.raises(ValueError, match=r"shape=\(4, 3\)"):
        RealNVP((2,), 1, 2).fit(normals(4, 3))
