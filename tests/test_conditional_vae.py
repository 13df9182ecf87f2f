"""The conditional VAE: its bound against exact conditional likelihoods, and what its labels do."""

import keras
import numpy as np
import pytest
from families import FAMILIES, images
from keras import layers
from scipy import stats
from test_families import array, filled
from test_vae import S2, SHAPE, B, W

from vae_zoo import VAE, ConditionalVAE, likelihoods, networks, priors
from vae_zoo.domains import Symbols
from vae_zoo.evaluate import measure

# x = W z + b + a_y + s noise, z ~ N(m_y, v_y): all Gaussian, for each of three classes.
SHIFTS = np.random.default_rng(5).normal(0, 0.05, (3, 6))
MEANS = np.array([[0.0, 0.0], [0.5, -1.0], [-2.0, 0.3]])
LOG_VARIANCES = np.log([[1.0, 1.0], [0.5, 2.0], [0.25, 0.8]])


def of_prior(learned):
    """Means and variances of p(z|y)."""
    return (MEANS, np.exp(LOG_VARIANCES)) if learned else (0 * MEANS, 1 + 0 * MEANS)


def linear(learned=True, spread=1.0):
    """A VAE of labels whose log p(x|y) is known; q has `spread` times the exact variance."""
    x, y, z, also_y = (
        keras.Input(SHAPE),
        *(
            keras.Input(shape, dtype=dtype)
            for shape, dtype in (((), "int32"), ((2,), "float32"), ((), "int32"))
        ),
    )
    # q's moments are affine in x with constants of the class.
    flat, own = layers.Flatten()(x), layers.Embedding(3, 14)(y)
    gains = layers.Dense(2, use_bias=False)  # of the class with v_y = 1; others by scale
    mean = gains(flat) * own[:, :2] + own[:, 2:4]
    encoder = keras.Model([x, y], [mean, own[:, 4:6]])
    shifted = layers.Dense(6)(z) + layers.Embedding(3, 6)(also_y)
    decoder = keras.Model([z, also_y], layers.Reshape(SHAPE)(shifted))
    prior = priors.ConditionalNormal(networks.prior_network(Symbols((), 3), 2, 4))
    prior = prior if learned else None
    model = VAE(encoder, decoder, likelihoods.Gaussian(S2), condition=3, prior=prior)
    means, prior_variance = of_prior(learned)
    # The columns of W are orthogonal, so that the exact posterior is a diagonal Gaussian:
    # 1/v = 1/v_y + w^2/s^2, mean = v (W^T (x - b - a_y)/s^2 + m_y/v_y).
    variance = 1 / (1 / prior_variance + (W**2).sum(0) / S2)
    constant = variance * (means / prior_variance - (B + SHIFTS) @ W / S2)
    table = np.zeros((3, 14))
    table[:, :2], table[:, 2:4], table[:, 4:6] = variance, constant, np.log(variance * spread)
    encoder.set_weights(_ordered(encoder, {(6, 2): W / S2, (3, 14): table}))
    decoder.set_weights(_ordered(decoder, {(2, 6): W.T, (6,): B, (3, 6): SHIFTS}))
    if learned:
        features = np.eye(3, 4)
        moments = np.concatenate([MEANS, LOG_VARIANCES], axis=1)
        kernel = np.concatenate([moments, np.zeros((1, 4))])
        prior.network.set_weights([features, kernel, np.zeros(4)])
    return model


def _ordered(network, by_shape):
    return [by_shape[tuple(weight.shape)] for weight in network.weights]


def data_of(n=30, learned=True):
    rng = np.random.default_rng(1)
    y = np.arange(n) % 3
    means, spread = (MEANS[y], np.exp(LOG_VARIANCES[y] / 2)) if learned else (0.0, 1.0)
    z = means + spread * rng.normal(size=(n, 2))
    x = B + SHIFTS[y] + z @ W.T + rng.normal(size=(n, 6)) * S2**0.5
    return x.clip(0, 1).astype("float32").reshape(n, *SHAPE), y


def exact(x, y, learned=True):
    means, variances = of_prior(learned)
    return np.array([
        stats.multivariate_normal(
            B + SHIFTS[c] + W @ means[c], (W * variances[c]) @ W.T + S2 * np.eye(6)
        ).logpdf(row)
        for row, c in zip(x.reshape(-1, 6), y)
    ])  # fmt: skip


@pytest.mark.parametrize("learned", [True, False])
def test_the_bound_reaches_the_exact_conditional_likelihood(learned):
    (x, y), model = data_of(learned=learned), linear(learned)
    bound = model.log_likelihood(x, y, num_samples=1)  # one draw: the posterior is exact
    np.testing.assert_allclose(bound, exact(x, y, learned), atol=2e-3)
    other = model.log_likelihood(x, (y + 1) % 3, num_samples=1)
    np.testing.assert_allclose(other, exact(x, (y + 1) % 3, learned), atol=5e-3)
    wide = linear(learned, spread=2.0)
    numbers = measure(wide, x, y, num_samples=500, elbo_samples=64)
    value = numbers["nll_given_y_iw500"]["value"]
    assert -value == pytest.approx(exact(x, y, learned).mean(), abs=0.03)
    # The gap of the ELBO is KL(q || exact posterior), the same for all.
    gap = 2 * (2.0 - 1 - np.log(2.0)) / 2
    assert -value - numbers["elbo"]["value"] == pytest.approx(gap, abs=0.1)


def test_a_learned_prior_has_its_moments_its_samples_and_its_kl():
    model = linear()
    y = np.repeat([0, 1, 2], 3000)
    z = model.sample_latents(len(y), seed=1, y=y).reshape(3, 3000, 2)
    np.testing.assert_allclose(z.mean(1), MEANS, atol=5 * 1.5 / 3000**0.5)
    np.testing.assert_allclose(z.var(1), np.exp(LOG_VARIANCES), rtol=0.15)
    x, y = data_of(6)
    x, labels = model.prepare(x), model.prepare_labels(y)
    q = model.posterior(x, labels)
    mean, variance = array(q.mean), np.exp(array(q.log_var))
    ratio = variance / np.exp(LOG_VARIANCES[y])
    distance = (mean - MEANS[y]) ** 2 / np.exp(LOG_VARIANCES[y])
    expected = (ratio - 1 - np.log(ratio) + distance) / 2
    kl = array(model.latent_kl(x, labels))
    np.testing.assert_allclose(kl, expected, rtol=1e-3, atol=1e-5)
    drawn = model.prior.log_prob(q.mean[None], labels)
    scipys = stats.norm(MEANS[y], np.exp(LOG_VARIANCES[y] / 2)).logpdf(mean).sum(1)
    np.testing.assert_allclose(array(drawn)[0], scipys, rtol=1e-3)


def conditional(name="conditional_dense", seed=1):
    return filled(FAMILIES[name].make(seed=seed))


@pytest.mark.parametrize("name", ["conditional_dense", "conditional_conv"])
def test_one_class_many_latents_and_one_latent_every_class(name):
    model, family = conditional(name), FAMILIES[name]
    same = model.sample(5, y=2, seed=3)
    np.testing.assert_allclose(same, model.sample(y=[2] * 5, seed=3), atol=1e-6)
    assert not np.allclose(same[0], same[1]) and not np.allclose(same, model.sample(5, y=1, seed=3))
    swapped = model.swap(family.x, family.y)
    assert swapped.shape == (8, 3, *model.shape)
    z = model.encode(family.x, family.y)
    for c in range(3):
        np.testing.assert_allclose(swapped[:, c], model.decode(z, [c] * 8), atol=1e-6)
    own = swapped[np.arange(8), family.y]
    np.testing.assert_allclose(own, model.reconstruct(family.x, family.y), atol=1e-6)
    assert not np.allclose(z, model.encode(family.x, (family.y + 1) % 3))


def test_every_hidden_layer_sees_the_condition():
    """Two layers and a decoder of three stages: as many matrices that take the embedding."""
    for network, encoder, decoder in (("dense", 2, 2), ("conv", 4, 4)):
        model = ConditionalVAE(
            (8, 6, 1), 3, network, 2, hidden=(5, 6), filters=(3, 4, 2), units=5, label_dim=7
        )
        for part, layers_seen in ((model.encoder, encoder), (model.decoder, decoder)):
            of_label = [v for v in part.weights if tuple(v.shape)[0] == 7 and len(v.shape) == 2]
            assert len(of_label) == layers_seen, (network, part.name)


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_a_part_of_an_image_as_condition(network):
    model, x = ConditionalVAE((8, 6, 1), "image", network, 2, (5,), (3, 4)), images(4, (8, 6, 1))
    given = np.where(np.arange(8)[:, None, None] < 4, x, 0)
    whole = model.sample(3, y=given[0], seed=1)  # one condition for all
    assert whole.shape == (3, 8, 6, 1) and not np.allclose(whole[0], whole[1])
    as_floats = model.sample(y=given / np.float32(255), seed=1)
    np.testing.assert_allclose(as_floats, model.sample(y=given, seed=1), atol=1e-5)
    with pytest.raises(ValueError, match="no classes to swap"):
        model.swap(x, given)


@pytest.mark.parametrize("size", [(16, 24), (13, 18)])
@pytest.mark.parametrize("condition", ["image", "symbols"])
def test_convolutions_see_a_condition_place_by_place(size, condition):
    """A pixel of y moves what is made around it; where that is not far from the pixel, nothing else
    carries it there but the features of the whole, which are silent here."""
    y = np.zeros((2, *size, 1), "uint8")
    y[1, 3, 5] = 255
    if condition == "symbols":
        y, condition = (y[..., 0] > 0).astype("int32"), Symbols(size, 2)
    model = ConditionalVAE((*size, 1), condition, "conv", 2, (5,), (3, 4), 5, label_dim=6, seed=0)
    for part, role in ((model.encoder, "encoder"), (model.decoder, "decoder")):
        features = part.get_layer(f"{role}_features")
        features.set_weights([np.zeros(w.shape) for w in features.get_weights()])
    made = model.decode(np.zeros((2, 2)), y)
    moved = np.argwhere(np.abs(made[1] - made[0])[..., 0] > 1e-6)
    assert len(moved) and np.abs(moved - (3, 5)).max() <= 9
    centre = np.average(moved, axis=0)
    assert np.abs(centre - (3, 5)).max() < 4
    assert not np.allclose(*model.encode(np.zeros((2, *size, 1)), y))


def test_a_condition_of_another_size_is_seen_as_a_whole():
    model = ConditionalVAE((8, 6, 1), Symbols((3, 2), 5), "conv", 2, (5,), (3, 4), 5)
    y = np.arange(12).reshape(2, 3, 2) % 5
    assert model.sample(y=y).shape == (2, 8, 6, 1)


X = images(8, (8, 6, 1))
WRONG = {
    r"`y` must be int symbols of shape \(batch,\) in 0..2. Received: values in \[0, 3\]": np.arange(
        8
    )
    % 4,
    r"values in \[-1, 1\]": np.arange(8) % 3 - 1,
    "dtype=float32": np.zeros(8, "float32"),
    "needs labels": None,
    r"shape=\(8, 1\)": np.zeros((8, 1), "int32"),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_labels_are_named(message):
    model, y = conditional(), WRONG[message]
    model.compile("sgd")
    for use in (model.fit, model.evaluate, model.encode, model.log_likelihood):
        with pytest.raises(ValueError, match=message):
            use(X, y)
    if y is not None:
        with pytest.raises(ValueError, match=message):
            model.sample(y=y)


def test_superfluous_labels_and_wrong_conditions_are_named():
    plain = FAMILIES["dense_bernoulli"].make(seed=1)
    for use in (lambda: plain.encode(X, np.zeros(8, int)), lambda: plain.sample(3, y=1)):
        with pytest.raises(ValueError, match="takes no labels"):
            use()
    model = conditional("conditional_image")
    for wrong in (X[:, 1:], X[..., 0], X.astype("int32")):
        with pytest.raises(ValueError, match="`y` must be images of shape"):
            model.encode(X, wrong)
    with pytest.raises(ValueError, match="`y` must have 8 labels. Received: 7"):
        conditional().encode(X, np.zeros(7, int))
    with pytest.raises(ValueError, match="Received: None"):
        ConditionalVAE((8, 6, 1), None)
    with pytest.raises(ValueError, match="two, the second of the condition's shape"):
        VAE(plain.encoder, plain.decoder, condition=3)
