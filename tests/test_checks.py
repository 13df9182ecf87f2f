"""What a user passes is checked at every entrance, by whatever way it comes."""

import gc
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import vae_zoo
from vae_zoo import data
from vae_zoo.engine import noise

SHAPE = (4, 4, 1)
X = np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype("float32")  # 0..255, as floats
GOOD = X / np.float32(255)
RANGE = r"float images must lie in \[0, 1\] \(divide by 255, or pass uint8\)"
MODELS = {}


def model(kind="dense"):
    """One of each, run eagerly: what is refused need not be compiled."""
    if kind not in MODELS:
        if kind == "dense":
            made = vae_zoo.DenseVAE(SHAPE, 2, (4,), likelihood="gaussian", seed=0)
        elif kind == "bits":
            made = vae_zoo.DenseVAE(SHAPE, 2, (4,), seed=0)
        elif kind == "codes":
            made = vae_zoo.VQVAE(SHAPE, codes=4, code_dim=2, filters=(3,), blocks=0)
        else:
            made = vae_zoo.PixelCNN((4, 3), 3, 4, 1, condition=2)
        # On JAX compiling every operation by itself takes longer.
        made.compile("sgd", run_eagerly=keras.config.backend() != "jax")
        MODELS[kind] = made
    return MODELS[kind]


def generator(*columns, size=4):
    for start in range(0, len(columns[0]), size):
        yield tuple(column[start : start + size] for column in columns)


class Own(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (X[4 * index : 4 * index + 4],)


def tf_data(*columns):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("pip install 'vae_zoo[tensorflow]'")
    if keras.config.backend() == "torch":
        pytest.skip("PyTorch and TensorFlow in one process may crash")
    import tensorflow as tf

    columns = columns[0] if len(columns) == 1 else columns
    return tf.data.Dataset.from_tensor_slices(columns).batch(4)


def loader(*columns, **kwargs):
    torch = pytest.importorskip("torch", reason="pip install 'vae_zoo[torch]'")
    if keras.config.backend() == "tensorflow":
        pytest.skip("PyTorch and TensorFlow in one process may crash")
    tensors = torch.utils.data.TensorDataset(*map(torch.from_numpy, columns))
    return torch.utils.data.DataLoader(tensors, 4, **kwargs)


SOURCES = {
    "array": lambda x: x,
    "tensor": ops.convert_to_tensor,
    "generator": lambda x: generator(x),
    "Batches": lambda x: data.Batches(x, batch_size=4),
    "PyDataset": lambda x: Own(),
    "labelled Batches": lambda x: data.Batches(x, np.zeros(8), batch_size=4),
    "tf.data": tf_data,
    "DataLoader": loader,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("use", ["fit", "evaluate", "predict", "validation_data"])
def test_a_wrong_range_is_refused_from_every_source(source, use):
    made = SOURCES[source](X)
    with pytest.raises(ValueError, match=RANGE):
        if use != "validation_data":
            getattr(model(), use)(made, verbose=0)
        else:
            held_out = made if source not in ("array", "tensor") else (made,)
            model().fit(GOOD, verbose=0, validation_data=held_out)


SINGLE = {
    "train_on_batch": lambda vae, x: vae.train_on_batch(x),
    "test_on_batch": lambda vae, x: vae.test_on_batch(x),
    "predict_on_batch": lambda vae, x: vae.predict_on_batch(x),
    "call": lambda vae, x: vae(x),
    "encode": lambda vae, x: vae.encode(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "interpolate from": lambda vae, x: vae.interpolate(x, GOOD),
    "interpolate to": lambda vae, x: vae.interpolate(GOOD, x),
    "log_likelihood": lambda vae, x: vae.log_likelihood(x, num_samples=1),
    "kl_per_latent": lambda vae, x: vae.kl_per_latent(x),
    "draws": lambda vae, x: vae.draws(x),
}


@pytest.mark.parametrize("use", SINGLE)
def test_a_wrong_range_is_refused_at_every_entrance(use):
    for x in (X, 2 * GOOD - 1):
        for made in (x, ops.convert_to_tensor(x)):
            if use == "call" and made is not x:
                continue  # a step's own way
            with pytest.raises(ValueError, match=RANGE):
                SINGLE[use](model(), made)


def test_codes_have_the_same_doors():
    vae = model("codes")
    for use in (lambda: vae.start_codebook(X), lambda: vae.interpolate(X, X)):
        with pytest.raises(ValueError, match=RANGE):
            use()
    for codes in (np.full((2, 2, 2), 4), np.full((2, 2, 2), -1)):
        with pytest.raises(ValueError, match="Latents must be int symbols.* 0..3. Received"):
            vae.decode(codes)
    with pytest.raises(ValueError, match="equally many examples. Received: 8 and 3"):
        vae.interpolate(GOOD, GOOD[:3])


STRUCTURES = {
    "a dict, of .'image', 'label'.": lambda: {"image": X, "label": np.zeros(8)},
    "a list of 2": lambda: [GOOD, GOOD],
    "a tuple of 3": lambda: (GOOD, GOOD, GOOD),
    "a str": lambda: "photos",
    "a PosixPath": lambda: pathlib.PurePosixPath.__new__(pathlib.PosixPath, "photos"),
    "a NoneType": lambda: None,
    "dtype=int64": lambda: X.astype("int64"),
    r"shape=\(4, 4, 1\)": lambda: GOOD[0],
    "a ndarray of shape": lambda: np.array([GOOD[0], GOOD[0, :2]], dtype=object),
    "empty array": lambda: GOOD[:0],
}


@pytest.mark.parametrize("use", ["fit", "evaluate", "predict", "train_on_batch", "encode"])
@pytest.mark.parametrize("received", STRUCTURES)
def test_other_structures_get_a_line_that_says_what_is_taken(use, received):
    with pytest.raises(ValueError, match=received) as error:
        getattr(model(), use)(STRUCTURES[received]())
    assert "images of shape (batch, *(4, 4, 1))" in str(error.value) or "empty" in received
    assert "\n" not in str(error.value)


def test_batches_of_other_structures_too():
    for batch, received in (
        ({"image": GOOD}, "a dict, of .'image'."),
        (({"image": GOOD}, np.zeros(8)), "a dict, of .'image'."),
        ((GOOD, GOOD, GOOD, GOOD), "Received: a tuple of 4"),
    ):
        with pytest.raises(ValueError, match=received):
            model().fit((b for b in [batch]), verbose=0)
    for wrong in (model().encode, model().log_likelihood):
        with pytest.raises(ValueError, match="must be images.*a generator"):
            wrong(generator(GOOD))


def test_nan_never_becomes_a_bit():
    x = GOOD.copy()
    x[0, 0, 0, 0] = np.nan
    for use in ("fit", "evaluate", "encode"):
        with pytest.raises(ValueError, match="NaN in it"):
            getattr(model("bits"), use)(x)
    # Of a stream the first batch is looked at; a later one is skipped, and counted.
    logs = model("bits").fit(data.Batches(x[::-1], batch_size=4, shuffle=False), verbose=0).history
    assert logs["skipped"] == [1] and np.isfinite(logs["loss"]).all()


@pytest.mark.parametrize("kind", ["dense", "bits", "codes"])
def test_nan_is_seen_once_whatever_the_likelihood(kind):
    x = np.repeat(GOOD, 2, axis=0)
    x[-1, 0, 0, 0] = np.nan
    for use in ("evaluate", "encode", "predict", "log_likelihood", "reconstruct"):
        with pytest.raises(ValueError, match="NaN in it"):
            getattr(model(kind), use)(x)
    stream = data.Batches(x, batch_size=4, shuffle=False)
    logs = model(kind).fit(stream, verbose=0).history  # and of a stream a step is skipped
    assert logs["skipped"] == [1] and np.isfinite(logs["loss"]).all()


def test_numbers_that_make_no_sense_are_one_line():
    drawn = vae_zoo.SketchDecoder(points=3, units=2, components=1)
    for wrong in (-1, 0, 1.5, True, "two", None):
        for made in (model(), model("codes"), vae_zoo.RealNVP((2,), 2, 3), drawn):
            with pytest.raises(
                ValueError, match=f"`n` must be a positive int. Received: n={wrong!r}"
            ):
                made.sample(wrong)
    with pytest.raises(ValueError, match="takes no labels"):
        drawn.sample(1, y=[0])
    with pytest.raises(ValueError, match="At least one example is needed"):
        model().log_likelihood(GOOD[:0])
    rates = [np.nan, np.inf, -1.0, keras.optimizers.schedules.CosineDecay(np.nan, 5)]
    for rate in rates:
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))
        for optimizer in (keras.optimizers.Adam(rate), scaled):
            with pytest.raises(ValueError, match="learning rate must be finite, 0 or more"):
                vae_zoo.DenseVAE(SHAPE, 2, (4,)).compile(optimizer)


def test_samples_leave_nothing_behind():
    made = vae_zoo.DenseVAE(SHAPE, 2, (4,), seed=0)
    first = made.sample(2, seed=5)

    def variables():
        return sum(issubclass(type(found), keras.Variable) for found in gc.get_objects())

    gc.collect()  # what other tests have left
    before = variables()
    for _ in range(20):
        again = made.sample(2, seed=5)
    gc.collect()
    assert variables() == before
    np.testing.assert_array_equal(first, again)
    for seed in range(80):  # one function a seed would be too many
        made.sample(2, seed=seed)
    assert len(made._compiled_functions) < 5


def test_passing_noise_is_that_of_a_generator():
    for seed in (0, 7):
        kept, passing = noise.noise_source(seed), noise.passing_noise(seed)
        for _ in range(3):
            one, other = (keras.random.normal((3,), seed=source) for source in (kept, passing))
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)))


def test_labels_are_checked_as_data_are():
    cnn = model("labels")
    x, y = np.zeros((4, 4, 3), "int32"), np.int32([0, 1, 2, 1])
    wrong = r"`y` must be int symbols of shape \(batch,\) in 0..1. Received: values in \[0, 2\]"
    for use in (
        lambda: cnn.fit(x, y, verbose=0),
        lambda: cnn.fit(ops.convert_to_tensor(x), ops.convert_to_tensor(y), verbose=0),
        lambda: cnn.fit(generator(x, y), verbose=0),
        lambda: cnn.fit(data.Batches(x, y), verbose=0),
        lambda: cnn.evaluate(x, y, verbose=0),
        lambda: cnn.train_on_batch(x, y),
        lambda: cnn.predict((x, y), verbose=0),
        lambda: cnn.predict(data.Batches(x, y), verbose=0),
        lambda: cnn((x, y)),
        lambda: cnn.log_likelihood(x, y),
        lambda: cnn.sample(4, y),
    ):
        with pytest.raises(ValueError, match=wrong):
            use()
    for use in (cnn.fit, cnn.predict, cnn.train_on_batch, cnn.log_likelihood):
        with pytest.raises(ValueError, match="needs labels.*Received: y=None"):
            use(x)


def test_a_stream_loses_nothing():
    seen = []

    def batches():
        for i in range(4):
            seen.append(i)
            yield (GOOD[i : i + 1],)

    logs = model().fit(batches(), steps_per_epoch=4, verbose=0).history
    assert seen == [0, 1, 2, 3] and np.isfinite(logs["loss"]).all()


def test_a_loader_keeps_its_order():
    torch = pytest.importorskip("torch", reason="pip install 'vae_zoo[torch]'")
    orders = []
    for look in (False, True):
        torch.manual_seed(1)
        batches = loader(GOOD, shuffle=True)
        if look:
            vae_zoo.engine.checks.looked_at(batches, lambda batch: None)
        orders.append([np.asarray(x) for (x,) in batches])
    np.testing.assert_array_equal(*orders)


def test_tf_data_that_says_no_shape_is_given_one():
    tf_data(GOOD)  # or skip
    import tensorflow as tf

    kinds = {
        "no rank": {"output_types": (tf.float32, tf.int32)},
        "no size": {
            "output_signature": (
                tf.TensorSpec((None, None, None), tf.float32),
                tf.TensorSpec((), tf.int32),
            )
        },
    }
    reads = []

    def examples():
        reads.append(0)
        return zip(GOOD, range(8))

    for kind in kinds.values():
        stream = tf.data.Dataset.from_generator(examples, **kind).batch(4)
        reads.clear()
        logs = model().fit(stream, steps_per_epoch=2, verbose=0).history
        assert np.isfinite(logs["loss"]).all() and len(reads) == 1
        wrong = tf.data.Dataset.from_generator(lambda: zip(X, range(8)), **kind).batch(4)
        with pytest.raises(ValueError, match=RANGE):
            model().fit(wrong, verbose=0)
    with pytest.raises(ValueError, match=r"Received: shape=\(4, 4, 1\)"):  # nobody made batches
        model().fit(tf.data.Dataset.from_tensor_slices(GOOD), verbose=0)
    with pytest.raises(ValueError, match="must be images.*a dict, of .'image'"):
        model().fit(tf.data.Dataset.from_tensor_slices({"image": GOOD}).batch(4), verbose=0)
    ragged = tf.data.Dataset.from_tensors(tf.ragged.constant([[1.0], [2.0, 3.0]]))
    with pytest.raises(ValueError, match="dense tensors. Received: RaggedTensorSpec"):
        model().fit(ragged, verbose=0)


def test_what_turns_into_an_array_is_one():
    class Held:
        shape, dtype = GOOD.shape, GOOD.dtype

        def __init__(self, x):
            self.x = x

        def __array__(self, dtype=None, copy=None):
            return self.x

    np.testing.assert_array_equal(model().encode(Held(GOOD)), model().encode(GOOD))
    for x in (GOOD, ops.convert_to_tensor(GOOD)):
        z = model().encode(x)
        np.testing.assert_array_equal(model().decode(ops.convert_to_tensor(z)), model().decode(z))
    with pytest.raises(ValueError, match=RANGE):
        model().encode(Held(X))
