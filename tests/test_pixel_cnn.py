"""An exact density: conditionals that see what came before, all of it and nothing else."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from vae_zoo import PixelCNN
from vae_zoo.domains import Symbols


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def model(shape=(4, 5), levels=3, seed=0, **settings):
    keras.utils.set_random_seed(seed)
    settings = {"filters": 6, "blocks": 2, **settings}
    pixel_cnn = PixelCNN(shape, levels=levels, seed=seed, **settings)
    rng = np.random.default_rng(seed)
    for v in pixel_cnn.trainable_variables:
        v.assign(rng.normal(0, 0.3, v.shape))
    return pixel_cnn


def draws(n, shape=(4, 5), levels=3, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (n, *shape)).astype("int32")


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_conditional_sees_all_that_came_before_and_nothing_else(kernel_size):
    """Changing a symbol changes every later conditional and no earlier one: no blind spot."""
    pixel_cnn, x = model(kernel_size=kernel_size), draws(1)
    changed = np.repeat(x, 20, axis=0)
    for place in range(20):
        changed[place].reshape(-1)[place] = (changed[place].reshape(-1)[place] + 1) % 3
    before = array(pixel_cnn.logits(ops.convert_to_tensor(x))).reshape(20, 3)
    after = array(pixel_cnn.logits(ops.convert_to_tensor(changed))).reshape(20, 20, 3)
    differs = (np.abs(after - before) > 1e-6).any(axis=-1)  # (changed place, seen by)
    later = np.triu(np.ones((20, 20), bool), 1)
    np.testing.assert_array_equal(differs, later)


def test_the_density_sums_to_one():
    pixel_cnn = model((2, 2), levels=3)
    every = np.array(list(itertools.product(range(3), repeat=4)), "int32").reshape(-1, 2, 2)
    assert np.exp(np.float64(array(pixel_cnn.log_prob(every)))).sum() == pytest.approx(1, rel=1e-5)


def test_the_conditionals_of_a_grid_add_up_to_its_log_likelihood():
    pixel_cnn, x = model(), draws(3)
    logits = array(pixel_cnn.logits(ops.convert_to_tensor(x))).astype("float64")
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, x[..., None], axis=-1).sum((1, 2, 3))
    np.testing.assert_allclose(array(pixel_cnn.log_prob(x)), chosen, rtol=1e-5)
    lead = pixel_cnn.log_prob(x.reshape(1, 3, 4, 5))
    np.testing.assert_allclose(array(lead), chosen[None], rtol=1e-5)
    pixel_cnn.compile()
    logs = pixel_cnn.evaluate(x, verbose=0, return_dict=True)
    assert logs["nll"] == pytest.approx(-chosen.mean(), rel=1e-5)


def test_samples_follow_the_density():
    """Frequencies of all 16 grids of 2×2 bits, against their probabilities."""
    pixel_cnn = model((2, 2), levels=2)
    every = np.array(list(itertools.product(range(2), repeat=4)), "int32").reshape(-1, 2, 2)
    p = np.exp(np.float64(array(pixel_cnn.log_prob(every))))
    new = pixel_cnn.sample(4000, seed=1, batch_size=500)
    assert new.shape == (4000, 2, 2) and new.dtype == np.int32
    counts = np.bincount(new.reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
    chi_squared = ((counts - 4000 * p) ** 2 / (4000 * p)).sum()
    assert chi_squared < 37.7  # 99.9 % of 15 degrees of freedom
    np.testing.assert_array_equal(new[:100], pixel_cnn.sample(100, seed=1, batch_size=500)[:100])
    assert not np.array_equal(new[:100], pixel_cnn.sample(100, seed=2, batch_size=500))


@pytest.mark.parametrize("condition", [{}, {"condition": Symbols((2, 3), 3)}])
def test_what_a_block_remembers_is_what_it_would_compute_again(condition):
    """Cached sampling draws what whole images, computed anew for each symbol, would draw."""
    pixel_cnn = model((4, 5), kernel_size=5, **condition)
    y = [np.random.default_rng(4).integers(0, 3, (3, 2, 3)).astype("int32")] if condition else []
    uniform = np.random.default_rng(3).random((3, 4, 5)).astype("float32")
    x = np.zeros((3, 4, 5), "int32")
    for row, column in itertools.product(range(4), range(5)):
        logits = array(pixel_cnn.logits(ops.convert_to_tensor(x), *y))[:, row, column]
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        cumulated = probabilities.cumsum(-1)[:, :-1]
        x[:, row, column] = (uniform[:, row, column, None] >= cumulated).sum(-1)
    new = pixel_cnn.compiled_function("generate", pixel_cnn._generate, loops=True)(uniform, *y)
    np.testing.assert_array_equal(new, x)


def test_a_coarse_grid_conditions_the_places_below_it():
    condition = {"condition": Symbols((2, 1), 3)}
    pixel_cnn, x = model((4, 5), **condition), draws(1)
    y = np.zeros((1, 2, 1), "int32")
    logits = lambda y: array(pixel_cnn.logits(ops.convert_to_tensor(x), y))  # noqa: E731
    one, other = logits(y), logits(y + [[[0], [1]]])
    assert (np.abs(one - other) > 1e-6).any(-1).all()  # its convolutions reach the upper half too
    with pytest.raises(ValueError, match=r"`y` must be int symbols of shape \(batch, \*\(2, 1\)\)"):
        pixel_cnn.log_prob(x, np.zeros(1, "int32"))
    with pytest.raises(ValueError, match=r"symbols of shape \(height, width\)"):
        PixelCNN((4, 5), condition=Symbols((2,), 3))


def test_labels_condition_every_place():
    pixel_cnn, x = model(condition=3), draws(2)
    logits = [array(pixel_cnn.logits(ops.convert_to_tensor(x), np.full(2, y))) for y in range(3)]
    assert (np.abs(logits[0] - logits[1]) > 1e-6).any(-1).all()
    new = pixel_cnn.sample(3, y=[0, 1, 2], seed=0, batch_size=4)
    assert new.shape == (3, 4, 5) and new.max() < 3
    with pytest.raises(ValueError, match="needs labels.*in 0..2. Received: y=None"):
        pixel_cnn.log_prob(x)
    with pytest.raises(ValueError, match="must be None"):
        model().log_prob(x, np.zeros(2, "int32"))


def test_it_learns_and_takes_images_whose_grey_levels_become_bits():
    grey = np.zeros((64, 4, 4, 1), "uint8")
    grey[:, ::2] = 255
    grey[:, 1, 1] = 64  # a quarter of the draws
    pixel_cnn = PixelCNN((4, 4), filters=8, blocks=1, seed=0)
    pixel_cnn.compile(keras.optimizers.Adam(0.03))
    history = pixel_cnn.fit(grey, batch_size=16, epochs=120, verbose=0).history
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert history["nll"][0] > 5 and history["nll"][-1] == pytest.approx(entropy, abs=0.3)
    with pytest.raises(ValueError, match=r"int symbols of shape \(batch, \*\(4, 4\)\).*float32"):
        pixel_cnn(np.zeros((2, 4, 4), "float32"))
