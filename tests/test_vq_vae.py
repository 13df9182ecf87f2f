"""What the VQ-VAE's paper promises, and what users of others suffer from: dead codes."""

import keras
import numpy as np
import pytest
from families import images
from keras import ops

from vae_zoo import VQVAE, VQVAE2, PixelCNN
from vae_zoo.domains import Symbols
from vae_zoo.engine import backend
from vae_zoo.priors import TopDown
from vae_zoo.quantizers import Codebook, FiniteScalars

SHAPE = (8, 8, 1)
X = images(24, SHAPE)


def model(seed=0, **settings):
    keras.utils.set_random_seed(seed)
    settings = {"codes": 6, "code_dim": 3, "filters": (4, 4), "blocks": 0, **settings}
    return VQVAE(SHAPE, seed=seed, **settings)


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def filled(codebook, seed=0):
    rng = np.random.default_rng(seed)
    codebook.vectors.assign(rng.normal(size=codebook.vectors.shape))
    return codebook


@pytest.mark.parametrize("cosine", [False, True])
def test_the_nearest_vector_is_the_nearest(cosine):
    codebook = filled(Codebook(7, 3, cosine=cosine))
    z = np.random.default_rng(1).normal(size=(5, 2, 2, 3)).astype("float32")
    compared, vectors = (
        array(codebook.comparable(ops.convert_to_tensor(z))),
        array(codebook.vectors),
    )
    if cosine:
        unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
        z, vectors = unit(z), unit(vectors)
    np.testing.assert_allclose(compared, z, rtol=1e-5)
    distances = np.linalg.norm(z[..., None, :] - vectors, axis=-1)
    codes = codebook.nearest(ops.convert_to_tensor(compared))
    np.testing.assert_array_equal(array(codes), distances.argmin(-1))
    np.testing.assert_allclose(array(codebook.lookup(codes)), vectors[array(codes)], rtol=1e-5)


def test_moving_averages_by_hand():
    """Appendix A.1, and rows of weight 0, NaN among them, do not count."""
    codebook = filled(Codebook(4, 2, averaged=True, decay=0.9, restart=0.0))
    codebook.sums.assign(codebook.vectors)
    rng = np.random.default_rng(2)
    counts, sums = np.ones(4), array(codebook.vectors)
    for _ in range(3):
        z = rng.normal(size=(5, 3, 2)).astype("float32")
        codes = rng.integers(0, 3, (5, 3)).astype("int32")  # the last one is never chosen
        weights = np.array([1, 2, 0, 1, 1], "float32")
        for k in range(4):
            at = (codes == k) * weights[:, None]
            counts[k] = 0.9 * counts[k] + 0.1 * at.sum()
            sums[k] = 0.9 * sums[k] + 0.1 * (at[..., None] * z).sum((0, 1))
        z[2] = np.nan
        codebook.update(*map(ops.convert_to_tensor, (z, codes, weights)), ops.zeros(4))
    smoothed = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    np.testing.assert_allclose(array(codebook.counts), counts, rtol=1e-5)
    np.testing.assert_allclose(array(codebook.vectors), sums / smoothed[:, None], rtol=1e-4)


def test_unused_vectors_go_where_outputs_lie():
    codebook = filled(Codebook(4, 2, restart=0.1))
    codebook.counts.assign([10.0, 0.01, 10.0, 0.01])
    before = array(codebook.vectors)
    z = np.arange(12, dtype="float32").reshape(3, 2, 2)
    weights = np.array([1, 0, 1], "float32")
    codes = np.array([[0, 2], [1, 1], [2, 0]], "int32")
    uniform = np.array([0.1, 0.1, 0.9, 0.9], "float32")
    codebook.update(*map(ops.convert_to_tensor, (z, codes, weights, uniform)))
    after = array(codebook.vectors)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(after[[1, 3]], [z[0, 0], z[2, 1]])  # of rows that have weight
    assert (array(codebook.counts) > 1).all()


@pytest.mark.parametrize("averaged", [False, True])
def test_the_loss_is_the_papers(averaged):
    vae = model(averaged=averaged, commitment=0.7)
    x = vae.domain.tensor(X)
    outputs = {k: array(v) for k, v in vae.objective(x, training=True).items()}
    z, e = outputs["z_0"], array(vae.codebooks[0].lookup(ops.convert_to_tensor(outputs["codes_0"])))
    distance = ((z - e) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(outputs["codebook"], distance, rtol=1e-4)
    distortion = array(-vae.likelihood.log_prob(x, vae.decoded([e]), ops.mean))
    loss = distortion + 0.7 * distance + (0 if averaged else distance)
    np.testing.assert_allclose(outputs["loss"], loss, rtol=1e-4)
    # Four places of six codes under the uniform prior.
    np.testing.assert_allclose(outputs["kl"], np.full(24, 4 * np.log(6)), rtol=1e-5)
    assert vae.codebooks[0].vectors.trainable != averaged


def test_the_bound_is_the_same_for_any_number_of_samples():
    vae = model()
    elbo = array(vae.objective(vae.domain.tensor(X), training=False)["elbo"])
    for k in (1, 7):
        np.testing.assert_allclose(vae.log_likelihood(X, num_samples=k), elbo, rtol=1e-5)


def test_perplexity_and_usage_are_of_the_whole_set():
    vae = model(codes=9)
    vae.compile()
    logs = vae.evaluate(X, batch_size=5, verbose=0, return_dict=True)
    p = np.bincount(vae.encode(X).ravel(), minlength=9) / (24 * 4)
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    assert logs["perplexity"] == pytest.approx(np.exp(entropy), rel=1e-4)
    assert logs["codes_used"] == pytest.approx((p > 0).mean())


@pytest.mark.parametrize("averaged", [False, True])
def test_a_dead_codebook_recovers(averaged):
    vae = model(averaged=averaged, decay=0.8)
    far = 100 + np.arange(18).reshape(6, 3)
    vae.codebooks[0].vectors.assign(far)
    if averaged:
        vae.codebooks[0].sums.assign(far)
    vae.compile(keras.optimizers.Adam(1e-3))
    assert len(np.unique(vae.encode(X))) == 1
    vae.fit(X, batch_size=8, epochs=15, verbose=0)
    assert len(np.unique(vae.encode(X))) >= 5


@pytest.mark.parametrize("averaged", [False, True])
def test_a_nan_batch_leaves_the_codebook(averaged):
    vae = model(averaged=averaged)
    vae.codebooks[0].counts.assign([1, 1, 0, 0, 1, 1])  # some would be restarted
    vae.compile("adam")
    before = [array(v) for v in vae.codebooks[0].variables]
    bad = X / np.float32(255)
    bad[3, 0, 0, 0] = np.nan
    logs = vae.fit(bad, batch_size=24, verbose=0).history
    assert logs["skipped"] == [1] and logs["codes_used"] == [0]
    for a, b in zip(before, vae.codebooks[0].variables):
        np.testing.assert_array_equal(a, array(b))


def test_kmeans_starts_with_every_code_in_use():
    vae = model(codes=5)
    vae.start_codebook(X)
    assert len(np.unique(vae.encode(X))) == 5
    z = array(vae.quantized(vae.domain.tensor(X))[0][0])
    e = array(vae.codebooks[0].lookup(ops.convert_to_tensor(vae.encode(X))))
    assert ((z - e) ** 2).mean() < 0.5 * z.var(axis=(0, 1, 2)).mean()


def test_codes_are_integers_and_decode_again():
    vae = model(likelihood="bernoulli")
    codes = vae.encode(X)
    assert codes.dtype == np.int32 and codes.shape == (24, 2, 2)
    np.testing.assert_allclose(vae.decode(codes), vae.predict(X, verbose=0), atol=1e-6)
    new = vae.sample(5, seed=3)
    assert new.shape == (5, *SHAPE) and not np.array_equal(new, vae.sample(5, seed=4))
    assert vae.interpolate(X[:2], X[2:4], steps=3).shape == (2, 3, *SHAPE)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("levels", [(8, 5), (2, 3, 4), (7,)])
def test_finite_scalars_reach_every_code_and_come_back(levels, shifted):
    scalars, size = FiniteScalars(levels, shifted), int(np.prod(levels))
    codes = np.arange(size, dtype="int32").reshape(1, size)
    vectors = array(scalars.lookup(ops.convert_to_tensor(codes)))
    assert vectors.shape == (1, size, len(levels)) and len(np.unique(vectors[0], axis=0)) == size
    np.testing.assert_array_equal(array(scalars.nearest(ops.convert_to_tensor(vectors))), codes)
    z = 8 * np.random.default_rng(0).normal(size=(5000, len(levels))).astype("float32")
    z[: len(z) // 2] /= 20
    bounded = scalars.comparable(ops.convert_to_tensor(z))
    found = array(scalars.nearest(bounded))
    assert set(found) == set(range(size))
    # Rounding: never further than half the distance of two levels, but a hair at the ends.
    step = 1 / scalars.middle
    error = np.abs(array(bounded) - array(scalars.lookup(ops.convert_to_tensor(found))))
    assert (error <= 0.51 * step).all()


def test_even_levels_lie_at_both_sides_of_zero():
    scalars = FiniteScalars((4, 2, 3))
    vectors = array(scalars.lookup(ops.convert_to_tensor(np.arange(24, dtype="int32"))))
    for i, levels in enumerate([[-1, -1 / 3, 1 / 3, 1], [-1, 1], [-1, 0, 1]]):
        np.testing.assert_allclose(np.unique(vectors[:, i]), levels, atol=1e-6)


@pytest.mark.parametrize("levels", [(1001,), (4096,), (65535,), (65536,)])
def test_many_levels_stay_in_their_range(levels):
    scalars = FiniteScalars(levels)
    z = ops.convert_to_tensor(np.array([[-1e4], [-9.0], [0.1], [9.0], [1e4]], "float32"))
    codes = array(scalars.nearest(scalars.comparable(z)))
    assert codes[0] == 0 and codes[-1] == levels[0] - 1 and (np.diff(codes) >= 0).all()


@pytest.mark.parametrize("levels", [(4, 4, 4, 4), (2,) * 8, (8, 5, 5, 5)])
def test_every_weight_learns_where_all_outputs_are_near_zero(levels):
    """With activations of relu and biases of zero, where a new model starts."""
    vae = model(levels=levels)
    head = vae.encoder.get_layer("embedding")
    head.kernel.assign(1e-3 * array(head.kernel))
    variables, x = vae.trainable_variables, vae.domain.tensor(X)

    def loss():
        outputs = vae.objective(x, training=True)
        return ops.mean(outputs["loss"]), {"loss": outputs["loss"]}

    others = vae.non_trainable_variables
    _, gradients = backend.value_and_gradients(loss, (), variables, others)
    assert all(np.abs(array(gradient)).max() > 0 for gradient in gradients)


def test_a_codebook_of_more_codes_than_places_starts_at_all_of_them():
    vae = model(codes=200)
    vae.start_codebook(X)
    z = array(vae.quantized(vae.domain.tensor(X))[0][0]).reshape(-1, 3)
    np.testing.assert_allclose(array(vae.codebooks[0].vectors)[:96], z, rtol=1e-5)


def test_a_vae_of_finite_scalars_has_one_loss():
    vae = model(levels=(4, 3))
    outputs = vae.objective(vae.domain.tensor(X), training=True)
    x = vae.domain.tensor(X)
    parameters = vae.likelihood_parameters(vae.infer(x))
    distortion = -vae.likelihood.log_prob(x, parameters, ops.mean)
    np.testing.assert_allclose(array(outputs["loss"]), array(distortion), rtol=1e-6)
    assert vae.codes == 12 and not vae.codebooks[0].variables
    with pytest.raises(ValueError, match="2 or more"):
        model(levels=(1, 3))


# === Two grids, and learned priors ===


def pair(seed=0, **settings):
    keras.utils.set_random_seed(seed)
    settings = {"codes": 6, "code_dim": 3, "filters": (4,), "blocks": 0, **settings}
    return VQVAE2(SHAPE, seed=seed, **settings)


def test_the_bottom_grid_depends_on_the_top_codes_and_the_image_on_both():
    vae = pair()
    top, bottom = vae.encode(X)
    assert vae.latent_shape == ((2, 2), (4, 4)) and top.shape == (24, 2, 2)
    assert bottom.shape == (24, 4, 4) and top.dtype == bottom.dtype == np.int32
    np.testing.assert_allclose(vae.decode((top, bottom)), vae.predict(X, verbose=0), atol=1e-6)
    assert not np.allclose(vae.decode(((top + 1) % 6, bottom)), vae.decode((top, bottom)))
    assert not np.allclose(vae.decode((top, (bottom + 1) % 6)), vae.decode((top, bottom)))
    # Whatever the top codes are, the bottom encoder sees them.
    before = vae.quantized(vae.domain.tensor(X))[1][0]
    vae.codebooks[0].vectors.assign(array(vae.codebooks[0].vectors) + 1)
    assert not np.allclose(array(before), array(vae.quantized(vae.domain.tensor(X))[1][0]))
    with pytest.raises(ValueError, match=r"\(\(2, 2\), \(4, 4\)\).*\(24, 2, 2\)"):
        vae.decode(top)


def test_the_loss_of_two_grids_is_the_sum_of_their_terms():
    vae = pair()
    outputs = {k: array(v) for k, v in vae.objective(vae.domain.tensor(X), training=True).items()}
    distance = 0
    for i, codebook in enumerate(vae.codebooks):
        e = array(codebook.lookup(ops.convert_to_tensor(outputs[f"codes_{i}"])))
        distance = distance + ((outputs[f"z_{i}"] - e) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(outputs["codebook"], distance, rtol=1e-4)
    np.testing.assert_allclose(outputs["kl"], np.full(24, 20 * np.log(6)), rtol=1e-5)
    vae.start_codebook(X)
    for i, codebook in enumerate(vae.codebooks):  # each centre is one of its own grid's outputs
        z = array(vae.quantized(vae.domain.tensor(X))[i][0]).reshape(-1, 3)
        nearest = np.abs(z[:, None] - array(codebook.vectors)).max(-1).min(0)
        assert nearest.mean() < np.abs(z - z.mean(0)).mean()
    vae.compile()
    logs = vae.evaluate(X, verbose=0, return_dict=True)
    assert {"perplexity_top", "perplexity_bottom", "codes_used_top"} <= set(logs)


def learned(vae):
    """The model with a prior of its codes that knows nothing yet, but is not uniform."""
    settings = {"levels": 6, "filters": 4, "blocks": 1}
    if isinstance(vae, VQVAE2):
        top = PixelCNN((2, 2), seed=1, **settings)
        condition = {"condition": Symbols((2, 2), 6)}
        return vae.with_prior(TopDown(top, PixelCNN((4, 4), seed=1, **condition, **settings)))
    return vae.with_prior(PixelCNN((2, 2), seed=1, **settings))


@pytest.mark.parametrize("make", [model, pair])
def test_one_file_holds_the_model_and_its_learned_prior(make, tmp_path):
    vae = make()
    trained = learned(vae)
    assert trained.has_learned_prior and not vae.has_learned_prior
    assert len(trained.trainable_variables) == len(vae.trainable_variables)  # the prior is frozen
    codes = vae.encode(X)
    as_tensors = keras.tree.map_structure(ops.convert_to_tensor, codes)
    logs = array(trained.prior.log_prob(as_tensors))
    trained.compile()
    evaluated = trained.evaluate(X, verbose=0, return_dict=True)
    assert evaluated["kl"] == pytest.approx(-logs.mean(), rel=1e-5)
    assert evaluated["reconstruction"] == pytest.approx(
        vae.evaluate(X, verbose=0, return_dict=True)["reconstruction"], rel=1e-5
    )
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(keras.tree.flatten(codes), keras.tree.flatten(loaded.encode(X))):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(array(loaded.prior.log_prob(as_tensors)), logs, rtol=1e-5)
    np.testing.assert_allclose(loaded.sample(3, seed=1), trained.sample(3, seed=1), atol=1e-5)
    assert loaded.sample(3, seed=1).shape == (3, *SHAPE)
    frozen = [array(v) for v in loaded.prior.variables]
    loaded.fit(X, epochs=1, verbose=0)  # goes on training; the prior stays
    for before, after in zip(frozen, loaded.prior.variables):
        np.testing.assert_array_equal(before, array(after))
    assert not loaded.with_prior(None).has_learned_prior
