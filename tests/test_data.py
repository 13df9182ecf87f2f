import itertools
import os
import pathlib
import time
import warnings

import keras
import numpy as np
import pytest
from PIL import Image

import vae_zoo
from vae_zoo import data
from vae_zoo.data import SPLITS, Batches, Shapes, binarize, factors, fingerprint, load
from vae_zoo.data.shapes import _masters as masters_of_shapes
from vae_zoo.engine import backend

BACKEND = keras.config.backend()

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path_factory):
    """No data but what a test makes, and no network, whatever the machine has."""
    empty = str(tmp_path_factory.mktemp("empty"))
    for variable in ("VAE_ZOO_DATA", "VAE_ZOO_CACHE", "TFDS_DATA_DIR"):
        monkeypatch.setenv(variable, empty)
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)


def splits(name, seed=0):
    return {split: load(name, split, seed) for split in SPLITS}


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text
    return True


def numbered(n):
    """Images that say their own number, so that a split shows what it holds."""
    x = np.zeros((n, 4, 5, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(n) % 256, np.arange(n) // 256
    return x


def numbers(x):
    return x[:, 0, 0, 0].astype(int) + 256 * x[:, 0, 1, 0].astype(int)


# Embedded sets.


def test_digits_are_split_by_class_and_by_seed():
    parts = splits("digits")
    assert [parts[s][0].shape for s in SPLITS] == [(n, 28, 28, 1) for n in (1297, 200, 300)]
    images = np.concatenate([parts[s][0] for s in SPLITS])
    everything = sorted(image.tobytes() for image in images)
    assert len(set(everything)) == 1797  # so no image is in two splits
    x, y = parts["test"]
    assert x.min() == 0 and x.max() == 255
    assert np.bincount(y, minlength=10).min() >= 29 and np.bincount(y).max() <= 31
    assert fingerprint(load("digits", "test")[0]) == fingerprint(x)
    other = splits("digits", seed=1)
    assert fingerprint(other["test"][0]) != fingerprint(x)
    assert sorted(i.tobytes() for s in SPLITS for i in other[s][0]) == everything


def test_digits_keep_their_labels():
    (x, y), (x_test, y_test) = load("digits"), load("digits", "test")
    x, x_test = (a.reshape(len(a), -1).astype(float) for a in (x, x_test))
    distances = (x**2).sum(1) - 2 * x_test @ x.T  # + const: nearest neighbour
    assert (y[distances.argmin(1)] == y_test).mean() > 0.95


def test_shapes_split_covers_all_sprites_once():
    parts = splits("shapes")
    indices = [parts[s][0].indices for s in SPLITS]
    assert [len(i) for i in indices] == [589_822, 73_819, 73_639]
    assert np.array_equal(np.sort(np.concatenate(indices)), np.arange(737_280))
    assert np.array_equal(load("shapes", "test")[0].indices, indices[2])
    assert not np.array_equal(load("shapes", "test", seed=1)[0].indices, indices[2])
    x, y = parts["test"]
    assert np.array_equal(y, x.factors()[:, 1])
    assert np.array_equal(x[5:8], Shapes()[indices[2][5:8]])
    assert np.array_equal(x.factors([3, 9]), Shapes().factors(indices[2][[3, 9]]))


def test_no_image_of_shapes_is_in_two_splits():
    """A square looks the same after a quarter of a turn."""
    twins = Shapes(np.arange(1024 * 3 * 6 * 40))
    same = twins.twins()
    images = [Shapes().factors(i) for i in np.flatnonzero(same == same[70_000])]
    assert len(images) == 4 and len({tuple(i[[1, 2, 4, 5]]) for i in images}) == 1
    assert len(np.unique(Shapes().render(images), axis=0)) == 1
    in_splits = [set(same[load("shapes", split)[0].indices]) for split in SPLITS]
    assert sum(map(len, in_splits)) == len(set.union(*in_splits)) == same.max() + 1 == 430_080


@pytest.mark.parametrize("key", ["groups", "character"])
@pytest.mark.parametrize("tested", [True, False])
def test_examples_of_one_group_are_in_one_split(key, tested, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300, 4, 4, 1)).astype("uint8")
    groups = 7 * (np.arange(300) // 10)
    arrays = {"images": x, key: groups} | ({"is_test": groups > 160} if tested else {})
    np.savez(tmp_path / "set.npz", **arrays)
    of = {image.tobytes(): group for image, group in zip(x, groups)}
    found = [{of[i.tobytes()] for i in load(tmp_path / "set.npz", s)[0]} for s in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) == 30 and min(map(len, found)) >= 3


def test_shapes_move_by_a_pixel_a_step_and_are_never_cut():
    corner = Shapes().render([[0, k, 5, o, 0, 0] for k in range(3) for o in range(40)])
    for x, y in [(31, 0), (0, 31), (31, 31), (7, 19)]:
        moved = Shapes().render([[0, k, 5, o, x, y] for k in range(3) for o in range(40)])
        assert np.array_equal(np.roll(corner, (y, x), axis=(1, 2)), moved)  # area is kept
    column = Shapes().render([[0, 2, 3, 7, x, 11] for x in range(32)])[..., 0] / 255
    centroids = (column.sum(1) * np.arange(64)).sum(1) / column.sum((1, 2))
    np.testing.assert_allclose(np.diff(centroids), 1, atol=1e-9)
    # A master is 33 pixels wide: an outline that passed 16.5 from its centre would be cut by it.
    masters = masters_of_shapes() > 0
    reach = np.hypot(*np.indices((33, 33)) - 16)[None, None, None] * masters
    assert 15 < reach.max() <= 16.5


def test_shapes_of_another_size_are_drawn_in_it():
    """At 32×32 sixteen positions an axis of the same shapes, black and white."""
    x, y = load("shapes", "test", image_size=(32, 32))
    assert x.shape[1:] == (32, 32, 1) and x.factor_sizes == (1, 3, 6, 40, 16, 16)
    whole = Shapes(size=32)
    assert len(whole) == 184_320 and np.array_equal(np.unique(x[:50]), [0, 255])
    small = whole.render([[0, k, 5, 7, i, 3] for k in range(3) for i in range(16)])
    large = Shapes().render([[0, k, 5, 7, 2 * i, 6] for k in range(3) for i in range(16)])
    halved = large.reshape(48, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(halved - small[..., 0]).mean() < 0.2 * halved.mean()  # a wrong shape: more than 1
    moved = np.diff((small[:16, :, :, 0] / 255).sum(axis=1) @ np.arange(32))
    np.testing.assert_allclose(moved / (small[0] / 255).sum(), 1, atol=1e-9)
    for wrong in ((32, 30), (32, 32, 3), (14, 14), (33, 33)):
        with pytest.raises(ValueError, match="square|must be even"):
            load("shapes", "test", image_size=wrong)


def test_factors_come_with_the_whole_set(tmp_path):
    x, found, names = factors.load("shapes", (32, 32))
    assert len(x) == len(found) == 184_320 and names[3] == "orientation"
    assert np.array_equal(x[5:8], x.render(found[5:8]))
    images, of = np.zeros((6, 8, 8, 1), "uint8"), np.arange(12).reshape(6, 2)
    np.savez(tmp_path / "set.npz", images=images, factors=of, factor_names=["hat", "coat"])
    x, found, names = factors.load(tmp_path / "set.npz", (4, 4))
    assert x.shape == (6, 4, 4, 1) and np.array_equal(found, of) and names == ("hat", "coat")
    np.savez(tmp_path / "set.npz", images=images, factors=of[:5])
    with pytest.raises(ValueError, match="a row an image"):
        factors.load(tmp_path / "set.npz")
    for name in ("digits", "no_such_set"):
        with pytest.raises(ValueError, match="must be a data set with factors"):
            factors.load(name)


def test_shapes_masters_have_the_factors_and_symmetries_of_their_shapes():
    masters = (masters_of_shapes() > 0).reshape(3, 6, 40, -1)
    for shape, turns in [(0, 4), (1, 2), (2, 1)]:  # square, ellipse, heart
        period = 40 // turns
        assert np.array_equal(masters[shape], np.roll(masters[shape], period, axis=1))
        assert len(np.unique(masters[shape].reshape(240, -1), axis=0)) == 6 * period
    area = masters.sum(-1).mean(-1)  # grows with the square of the scale
    np.testing.assert_allclose(area / area[:, -1:], [np.linspace(0.5, 1, 6) ** 2] * 3, rtol=0.03)


def test_shapes_index_like_an_array():
    x = Shapes(np.arange(100_000, 100_040))
    assert x.shape == (40, 64, 64, 1) and x[0].shape == (64, 64, 1)
    assert np.array_equal(x[-1], x[:][39]) and np.array_equal(x[np.array([4, 2])], x[:][[4, 2]])
    assert np.array_equal(np.unique(x[:]), [0, 255])
    order = list(itertools.product(*map(range, Shapes().factor_sizes)))[100_000:100_040]
    assert np.array_equal(x.factors(), order)
    with pytest.raises(IndexError):
        x[40]


# Bits and fingerprints.


def test_binarize_draws_with_the_probability_of_the_grey_level():
    x = np.repeat(np.arange(256, dtype=np.uint8), 4000).reshape(256, 4000)
    bits = binarize(x)
    assert set(np.unique(bits)) == {0, 255}
    assert not bits[0].any() and bits[255].all()
    p = np.arange(256) / 255
    z = ((bits / 255).mean(1) - p)[1:-1] / np.sqrt(p * (1 - p) / 4000)[1:-1]
    assert abs(z).max() < 4.5 and 0.8 < z.std() < 1.2
    assert np.array_equal(bits, binarize(x)) and not np.array_equal(bits, binarize(x, seed=1))
    assert np.array_equal(bits, binarize(bits))
    with pytest.raises(ValueError, match="`x` must be uint8. Received: dtype=float32"):
        binarize(x.astype("float32"))


def test_test_bits_of_digits_are_those_of_the_cards():
    bits = binarize(load("digits", "test")[0])
    assert fingerprint(bits) == "3d6a01074e7cb40c"


def test_fingerprint_sees_every_byte_and_the_shape():
    x = RNG.integers(0, 256, (5000, 2, 2, 1), np.uint8)
    other = x.copy()
    other[4999, 1, 1, 0] ^= 1
    prints = {fingerprint(a) for a in (x, other, x.reshape(5000, 4, 1, 1), x[:4096])}
    assert len(prints) == 4
    assert fingerprint(np.asfortranarray(x)) == fingerprint(x)
    lazy = Shapes(np.arange(20))
    assert fingerprint(lazy) == fingerprint(lazy[:])


# Batches.


def test_an_epoch_of_so_many_steps_is_followed_by_others():
    batches = Batches(np.arange(20), batch_size=4, seed=3, steps=2)
    assert len(batches) == 2 and len(Batches(np.arange(20), batch_size=4, steps=9)) == 5
    for epoch in range(2):
        batches.epoch = epoch
        order = np.random.default_rng([3, epoch]).permutation(20)[:8]
        np.testing.assert_array_equal(np.concatenate([batches[0], batches[1]]), order)


def orders(n, seed, epochs):
    return [np.random.default_rng([seed, e]).permutation(n) for e in epochs]


def expected_weight(weight, y, order, batch_size):
    """SGD(0.25) on mean((w - y)^2): the last weight tells the order of all batches."""
    for start in range(0, len(y), batch_size):
        weight += 0.5 * (y[order[start : start + batch_size]].mean() - weight)
    return weight


# NumPy 2 says so wherever Keras 3.15 turns a variable into an array.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("batch_size", [3, 10])
def test_fit_reads_epoch_e_in_order_e(batch_size):
    y = RNG.normal(size=10).astype("float32")
    x = np.ones((10, 1), "float32")
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.25), "mse", metrics=["mae"])
    batches = Batches(x, y, batch_size=batch_size, seed=5)
    held = Batches(x, y, batch_size=4, shuffle=False)
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()[0].item())
    )
    arguments = {"shuffle": False, "verbose": 0, "callbacks": [record]}
    model.fit(batches, epochs=2, validation_data=held, **arguments)
    assert batches.epoch == 2
    model.fit(batches, epochs=1, **arguments)
    batches.epoch = 7  # resumed
    model.fit(batches, epochs=1, validation_data=held, **arguments)
    assert batches.epoch == 8
    weight, expected = 0.0, []
    for order in orders(10, 5, [0, 1, 2, 7]):
        weight = expected_weight(weight, y, order, batch_size)
        expected.append(weight)
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_batches_hold_every_example_once_and_keep_rows_together():
    x, y, w = np.arange(10) * 10, np.arange(10), np.arange(10) / 10
    batches = Batches(x, y, w, batch_size=4, seed=3)
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    order = np.random.default_rng([3, 0]).permutation(10)
    for column, source in zip(columns, (x, y, w), strict=True):
        assert np.array_equal(column, source[order])
    assert [len(batch) for batch in Batches(x, batch_size=4)] == [4, 4, 2]
    assert np.array_equal(np.concatenate(list(Batches(x, batch_size=4, shuffle=False))), x)


def test_batches_read_lazy_shapes():
    x, y = load("shapes", "test")
    images, labels = Batches(x, y, batch_size=16)[1]
    order = np.random.default_rng([0, 0]).permutation(len(x))[16:32]
    assert np.array_equal(images, x[order]) and np.array_equal(labels, y[order])
    assert np.array_equal(Batches(x, batch_size=16, shuffle=False)[2], x[32:48])


def test_batches_refuse_what_keras_would_drop():
    x = np.zeros((4, 1))
    with pytest.raises(ValueError, match="`sample_weight` must come with `y`"):
        Batches(x, sample_weight=np.ones(4))
    with pytest.raises(ValueError, match=r"must match. Received: lengths \[4, 3\]"):
        Batches(x, np.ones(3))
    with pytest.raises(ValueError, match="`batch_size` must be positive. Received: batch_size=0"):
        Batches(x, batch_size=0)


# Files.


def test_npz_with_splits_cuts_validation_from_train(tmp_path):
    x, y = numbered(700), np.arange(700)
    path = tmp_path / "set.npz"
    np.savez(path, x_train=x[:600], y_train=y[:600, None], x_test=x[600:], y_test=y[600:])
    parts = splits(path)
    assert [len(parts[s][0]) for s in SPLITS] == [500, 100, 100]
    for x_split, y_split in parts.values():
        assert np.array_equal(numbers(x_split), y_split) and y_split.dtype == np.int32
    assert np.array_equal(np.sort(np.concatenate([parts[s][1] for s in SPLITS])), y)
    assert np.array_equal(parts["test"][1], y[600:])
    assert np.array_equal(load(path, "validation")[1], parts["validation"][1])
    assert not np.array_equal(load(path, "validation", seed=1)[1], parts["validation"][1])


def test_npz_with_three_splits_is_kept(tmp_path):
    x = numbered(30)
    np.savez(tmp_path / "set.npz", x_train=x[:20], x_validation=x[20:24], x_test=x[24:])
    parts = splits(tmp_path / "set.npz")
    assert [numbers(parts[s][0])[0] for s in SPLITS] == [0, 20, 24]
    assert [len(parts[s][0]) for s in SPLITS] == [20, 4, 6]
    assert parts["train"][1] is None


def test_unlabelled_npz_is_split_by_runs_of_neighbours(tmp_path):
    np.savez(tmp_path / "film.npz", x=numbered(1000))
    parts = splits(tmp_path / "film.npz")
    assert [len(parts[s][0]) for s in SPLITS] == [800, 100, 100]
    test = np.sort(numbers(parts["test"][0]))
    everything = np.concatenate([numbers(parts[s][0]) for s in SPLITS])
    assert np.array_equal(np.sort(everything), np.arange(1000))
    # Four runs of 25 at the most: few test frames have a neighbour elsewhere.
    assert (np.diff(test) > 1).sum() <= 3 and (test % 25 == 0).sum() == 4
    other = np.sort(numbers(load(tmp_path / "film.npz", "test", seed=1)[0]))
    assert not np.array_equal(test, other)


def test_labelled_npz_is_split_one_by_one(tmp_path):
    np.savez(tmp_path / "set.npz", images=numbered(1000), labels=np.arange(1000))
    parts = splits(tmp_path / "set.npz")
    assert [len(parts[s][0]) for s in SPLITS] == [800, 100, 100]
    assert np.array_equal(np.sort(np.concatenate([parts[s][1] for s in SPLITS])), np.arange(1000))
    assert all(np.array_equal(numbers(x), y) for x, y in parts.values())
    assert (np.diff(np.sort(parts["test"][1])) > 1).sum() > 50


def test_npz_with_is_test(tmp_path):
    is_test = np.arange(240) % 6 == 0
    np.savez(tmp_path / "set.npz", images=numbered(240), is_test=is_test)
    parts = splits(tmp_path / "set.npz")
    assert np.array_equal(numbers(parts["test"][0]), np.flatnonzero(is_test))
    rest = np.concatenate([numbers(parts[s][0]) for s in ("train", "validation")])
    assert np.array_equal(np.sort(rest), np.flatnonzero(~is_test))
    assert 25 <= len(parts["validation"][0]) <= 33


def test_npz_by_name_and_as_floats(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_ZOO_DATA", str(tmp_path))
    grey = numbered(50)[..., 0]
    np.savez(tmp_path / "greys.npz", x_train=grey / 255, x_test=(grey / 255).astype("float32"))
    assert np.array_equal(load("greys", "test")[0], grey[..., None])


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"x": np.zeros((20, 4, 4), np.int16)}, ["int16", "(20, 4, 4)"]),
        ({"x": np.zeros((20, 16), np.uint8)}, ["uint8", "(20, 16)"]),
        ({"x": np.full((20, 4, 4), 7.5)}, ["[0, 1]", "7.5"]),
        ({"x": np.full((20, 4, 4), np.nan)}, ["[0, 1]", "nan"]),
        ({"pictures": np.zeros((20, 4, 4), np.uint8)}, ["x_train", "['pictures']"]),
        ({"x_train": np.zeros((20, 4, 4), np.uint8)}, ["`split` must be one of ['train']", "test"]),
        ({"x": np.zeros((20, 4, 4), np.uint8), "y": np.zeros(19, int)}, ["`y`", "(19,)"]),
        ({"x": np.zeros((20, 4, 4), np.uint8), "is_test": np.ones(3, bool)}, ["`is_test`", "(3,)"]),
        ({"x": np.zeros((5, 4, 4), np.uint8)}, ["every split", "test"]),
    ],
)
def test_npz_errors_say_what_was_found(tmp_path, arrays, words):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError) as error:
        load(tmp_path / "set.npz", "test")
    assert one_line(error, *words)


def test_damaged_npz(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=RNG.integers(0, 256, (99, 8, 8, 1), np.uint8))
    good = path.read_bytes()
    middle = len(good) // 2
    damages = [b"", b"not a zip", good[:middle], good[:middle] + bytes(40) + good[middle + 40 :]]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(ValueError) as error:
            load(path)
        assert one_line(error, "truncated, damaged or no .npz file", path)


# Folders of images.


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_flat_folder(tmp_path):
    for i, image in enumerate(numbered(50)[..., 0]):
        write(tmp_path / f"{i:03}.png", image)
    parts = splits(tmp_path)
    assert [parts[s][0].shape for s in SPLITS] == [(n, 4, 5, 1) for n in (40, 5, 5)]
    everything = np.concatenate([numbers(parts[s][0]) for s in SPLITS])
    assert np.array_equal(np.sort(everything), np.arange(50)) and parts["test"][1] is None
    assert not np.array_equal(load(tmp_path, "test", seed=1)[0], parts["test"][0])


@pytest.mark.parametrize("top", ["", "train"])
def test_class_folders_are_labels(tmp_path, monkeypatch, top):
    monkeypatch.setenv("VAE_ZOO_DATA", str(tmp_path))
    for i, image in enumerate(numbered(60)[..., 0]):
        write(tmp_path / "things" / top / ["cat", "ant", "bee"][i % 3] / f"deep/{i:03}.png", image)
    parts = splits("things")
    assert [len(parts[s][0]) for s in SPLITS] == [48, 6, 6]
    for x, y in parts.values():
        assert np.array_equal(y, np.array([2, 0, 1])[numbers(x) % 3])


def test_folder_with_splits(tmp_path):
    x = numbered(40)[..., 0]
    for i in range(40):
        split = "train" if i < 30 else "test"
        write(tmp_path / split / "ba"[i % 2] / f"{i}.png", x[i])
    parts = splits(tmp_path)
    assert [len(parts[s][0]) for s in SPLITS] == [25, 5, 10]
    assert sorted(numbers(parts["test"][0])) == list(range(30, 40))
    assert all(np.array_equal(y, 1 - numbers(x) % 2) for x, y in parts.values())
    write(tmp_path / "val" / "b" / "0.png", x[0])
    assert numbers(load(tmp_path, "validation")[0]) == [0] and len(load(tmp_path)[0]) == 30


def test_a_class_may_be_called_train(tmp_path):
    for i, image in enumerate(numbered(20)[..., 0]):
        write(tmp_path / ["car", "train"][i % 2] / f"{i}.png", image)
    x, y = load(tmp_path)
    assert len(x) == 16 and np.array_equal(y, numbers(x) % 2)


def test_folder_turns_to_rgb_if_one_image_has_colour(tmp_path):
    for i, image in enumerate(numbered(12)[..., 0]):
        write(tmp_path / f"{i:02}.png", image)
    colour = RNG.integers(0, 256, (4, 5, 3), np.uint8)
    for i, suffix in enumerate(["bmp", "webp", "jpg", "png"]):
        write(tmp_path / f"colour{i}.{suffix}", colour)
    parts = splits(tmp_path)
    images = np.concatenate([parts[s][0] for s in SPLITS])
    assert images.shape == (16, 4, 5, 3)
    assert sum(np.array_equal(image, colour) for image in images) >= 2  # BMP and PNG are exact
    assert sum((image == image[..., :1]).all() for image in images) == 12


def test_mixed_sizes_name_two_files(tmp_path):
    write(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    write(tmp_path / "b.png", np.zeros((6, 7), np.uint8))
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    assert one_line(error, "a.png (4, 5)", "b.png (6, 7)", "resize")


def test_unreadable_images_are_skipped_with_one_warning(tmp_path):
    for i, image in enumerate(numbered(20)[..., 0]):
        write(tmp_path / ["a", "b"][i % 2] / f"{i:02}.png", image)
    (tmp_path / "a" / "00.png").write_bytes(b"broken")
    cut = (tmp_path / "b" / "03.png").read_bytes()[:-30]
    (tmp_path / "b" / "03.png").write_bytes(cut)
    (tmp_path / "b" / "05.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="Skipped 3 unreadable images, first .*00.png") as caught:
        x, y = load(tmp_path)
    assert len(caught) == 1 and len(x) == 14
    assert np.array_equal(y, numbers(x) % 2)  # labels stay with their images
    with pytest.raises(ValueError) as error:
        load(os.environ["VAE_ZOO_DATA"])
    assert one_line(error, "must hold PNG, JPEG, WebP, GIF, TIFF, BMP or PNM images")


def told(folder):
    """The images and labels of all splits, and the one line that says what was not read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        parts = splits(folder)
    lines = {str(warning.message) for warning in caught}
    assert len(lines) < 2 and not any("\n" in line for line in lines)
    return parts, "".join(lines)


def test_what_nobody_put_there_is_no_class(tmp_path):
    for i, image in enumerate(numbered(40)[..., 0]):
        write(tmp_path / "ba"[i % 2] / f"{i:02}.png", image)
        write(tmp_path / "b" / ".cache" / f"{i:02}.png", image)
        write(tmp_path / "__MACOSX" / "b" / f"{i:02}.png", image)
    (tmp_path / "0 empty").mkdir()
    (tmp_path / "a.png").mkdir()  # a folder, whatever it is called
    parts, line = told(tmp_path)
    assert sum(len(x) for x, _ in parts.values()) == 40 and line == ""
    assert all(np.array_equal(y, 1 - numbers(x) % 2) for x, y in parts.values())


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    for i, image in enumerate(numbered(30)[..., 0]):
        write(tmp_path / "elsewhere" / f"{i:02}.png", image)
    (tmp_path / "set" / "all").mkdir(parents=True)
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "all" / "one.png").symlink_to(tmp_path / "elsewhere" / "00.png")
    (tmp_path / "set" / "all" / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "set" / "all" / "pipe.png")  # to open it would take forever
    parts, line = told(tmp_path / "set")
    assert sorted(np.bincount(np.concatenate([y for _, y in parts.values()]))) == [1, 30]
    assert "a link to nothing), first all/lost.png" in line and "Read 31 images." in line
    assert "no regular file), first all/pipe.png" in line
    assert "a link to a folder around it), first linked/back" in line


def test_gif_tiff_and_others_are_read_or_named(tmp_path):
    kinds = ("gif", "tif", "TIFF", "jfif", "pgm")
    for i in range(30):
        write(tmp_path / f"{i:02}.{kinds[i % 5]}", np.full((8, 8), 8 * i, np.uint8))
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (240, 10, 20)]
    frames[0].save(tmp_path / "30.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "31.tiff", save_all=True, append_images=frames[1:])
    Image.new("P", (8, 8), 0).save(tmp_path / "32.gif", transparency=0)
    for name in ("a.heic", "b.svg", "c.txt"):
        (tmp_path / name).write_text("")
    parts, line = told(tmp_path)
    found = np.concatenate([x for x, _ in parts.values()])
    expected = [*range(0, 240, 8), 240, 240, 255]
    np.testing.assert_allclose(np.sort(found.mean(axis=(1, 2, 3))), expected, atol=1.5)
    assert "3 files (not PNG, JPEG, WebP, GIF, TIFF, BMP or PNM), first a.heic" in line
    assert "Read 33 images." in line


@pytest.mark.parametrize("names", [("Train", "valid", "TEST"), ("training", "val", "testing")])
def test_folders_of_splits_by_their_usual_names(tmp_path, names):
    for i, image in enumerate(numbered(30)[..., 0]):
        write(tmp_path / "set" / names[i % 3] / f"{i:02}.png", image)
    write(tmp_path / "set" / "stray.png", image)
    parts, line = told(tmp_path)
    assert [sorted(numbers(x) % 3) for x, _ in parts.values()] == [[k] * 10 for k in range(3)]
    assert "1 file (beside the folders of the splits), first set/stray.png" in line


def test_one_folder_is_no_class(tmp_path):
    for i, image in enumerate(numbered(30)[..., 0]):
        write(tmp_path / "faces" / "img" / f"{i:02}.png", image)
    assert load(tmp_path)[1] is None
    write(tmp_path / "faces" / "other" / "30.png", image)
    assert set(load(tmp_path)[1]) <= {0, 1}


def test_a_folder_of_mixed_sizes_is_brought_to_one(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    for i in range(60):
        image = np.full((8 + i % 5, 9 + i % 7), 4 * i, np.uint8)
        write(tmp_path / "set" / ["cat", "ant"][i % 2] / f"{i:02}.png", image)
    (tmp_path / "set" / "cat" / "04.png").write_bytes(b"broken")
    seen = []
    with pytest.warns(UserWarning, match="Skipped 1 unreadable image, first .*04.png .*Read 59"):
        parts = {
            s: load(tmp_path / "set", s, 0, (6, 5), lambda rows, total: seen.append(total) or rows)
            for s in SPLITS
        }
    assert seen == [60]  # read once, for all splits
    assert [len(x) for x, _ in parts.values()] in ([47, 6, 6], [48, 5, 6], [48, 6, 5])
    levels = np.concatenate([x[:, 0, 0, 0] for x, _ in parts.values()])
    assert sorted(levels) == [4 * i for i in range(60) if i != 4]
    for x, y in parts.values():
        assert isinstance(x, np.memmap) and x.shape[1:] == (6, 5, 1)
        assert (x == x[:, :1, :1]).all() and np.array_equal(y, 1 - x[:, 0, 0, 0] // 4 % 2)
    write(tmp_path / "set" / "cat" / "04.png", np.zeros((9, 9, 3), np.uint8))
    assert load(tmp_path / "set", "test", image_size=(6, 5))[0].shape[1:] == (6, 5, 3)  # colour
    assert load(tmp_path / "set", "test", image_size=(6, 5, 1))[0].shape[1:] == (6, 5, 1)


def test_splits_of_photos_need_not_all_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    for i in range(24):
        image = np.full((8, 8 + i), 4 * i, np.uint8)
        write(tmp_path / "set" / ("val", "test")[i % 2] / f"{i:02}.png", image)
    for k, split in enumerate(SPLITS[1:]):
        x, y = load(tmp_path / "set", split, image_size=(4, 4))
        assert sorted(x[:, 0, 0, 0] // 4 % 2) == [k] * 12 and y is None
    with pytest.raises(ValueError, match="`split` must be one of"):
        load(tmp_path / "set", "train", image_size=(4, 4))


def test_arrays_are_resized_too(tmp_path):
    assert load("digits", "test", image_size=(14, 10))[0].shape == (300, 14, 10, 1)
    assert load("digits", "test", image_size=(14, 10, 3))[0].shape == (300, 14, 10, 3)
    np.savez(tmp_path / "set.npz", x=np.zeros((30, 8, 8, 2), np.uint8))
    with pytest.raises(ValueError, match="`image_size` is for images with 1 or 3 channels"):
        load(tmp_path / "set.npz", "test", image_size=(4, 4))


# Names, and TensorFlow Datasets.


@pytest.mark.parametrize(
    "name, words",
    [
        ("x.npy", ["a .npy file", "numpy.savez"]),
        ("x.csv", ["a .csv file", "numpy.savez"]),
        ("x.tar.gz", ["a .gz file", "unpack it"]),
        ("x.JPG", ["a .JPG file", "pass the folder"]),
        ("x", ["a file without a suffix"]),
    ],
)
def test_a_file_of_another_kind_says_so(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(ValueError) as error:
        load(tmp_path / name)
    assert one_line(error, tmp_path / name, "a .npz file or a folder of images", *words)


def test_an_archive_of_objects_names_itself(tmp_path):
    np.savez(tmp_path / "o.npz", x=np.array([None, 1], dtype=object))
    with pytest.raises(ValueError) as error:
        load(tmp_path / "o.npz")
    assert one_line(error, "must hold arrays of numbers", tmp_path / "o.npz", "with x")


def test_wrong_splits_and_missing_paths():
    with pytest.raises(ValueError, match="`split` must be one of .*'validation'.* split='valid'"):
        load("digits", "valid")
    for name in ("missing.npz", "./missing", "/missing/folder", ""):
        with pytest.raises(FileNotFoundError) as error:
            load(name)
        assert one_line(error, "`name` must be", repr(name))


def test_offline_ends_in_one_line_within_seconds(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    start = time.monotonic()
    for name in ("cifar10", "no_such_set"):
        with pytest.raises(ValueError) as error:
            load(name)
        assert one_line(error, name, "no network", os.environ["TFDS_DATA_DIR"])
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load("digit")
    assert time.monotonic() - start < 15


def test_without_tensorflow_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        load("cifar10")
    assert one_line(error, "cifar10", "pip install 'vae_zoo[tensorflow]'")


def test_cached_set_needs_no_tensorflow(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    x = numbered(30)
    cache = pathlib.Path(os.environ["VAE_ZOO_CACHE"]) / "emnist-letters.npz"
    np.savez(cache, x_train=x[:20], x_validation=x[20:25], x_test=x[25:])
    assert np.array_equal(load("emnist/letters", "test")[0], x[25:])
    cache.unlink()


TFDS = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "nowhere")


@pytest.mark.skipif(not (TFDS / "mnist").is_dir(), reason="TFDS_DATA_DIR has no mnist")
def test_mnist_is_read_once_in_another_process(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(TFDS))
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path))
    parts = splits("mnist")
    assert [parts[s][0].shape for s in SPLITS] == [(n, 28, 28, 1) for n in (50_000, 10_000, 10_000)]
    assert parts["train"][1][:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    assert np.bincount(parts["test"][1])[:4].tolist() == [980, 1135, 1032, 1010]
    train = np.concatenate([parts[s][1] for s in ("train", "validation")])
    assert np.bincount(train)[:4].tolist() == [5923, 6742, 5958, 6131]
    pixels = [parts[s][0].sum(dtype=np.int64) for s in ("train", "validation")]
    assert round(sum(pixels) / (60_000 * 784), 3) == 33.318
    assert [path.name for path in tmp_path.iterdir()] == ["mnist.npz"]
    monkeypatch.setattr("subprocess.run", None)
    assert fingerprint(load("mnist", "test")[0]) == fingerprint(parts["test"][0])


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its datasets copy ahead")
def test_batches_live_on_an_accelerator_where_they_fit(monkeypatch):
    """Tried with the CPU in the accelerator's place."""
    if BACKEND == "jax":
        import jax

        device, kind = jax.devices()[0], jax.Array
    else:
        import torch

        device, kind = "cpu", torch.Tensor
    x, y = np.arange(60, dtype="uint8").reshape(20, 3, 1, 1), np.arange(20)
    plain = data.Batches(x, y, batch_size=6, seed=3)
    monkeypatch.setattr(backend, "accelerator", lambda: (device, 8 * x.nbytes))
    moved = data.Batches(x, y, batch_size=6, seed=3)
    assert isinstance(moved.columns[0], kind) and isinstance(moved.columns[1], np.ndarray)
    for i in range(4):
        for a, b in zip(plain[i], moved[i]):
            np.testing.assert_array_equal(a, np.asarray(b))
    model = vae_zoo.DenseVAE((3, 1, 1), latent_dim=2, hidden=(4,), seed=0)
    model.compile("adam")
    model.fit(moved, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 8
