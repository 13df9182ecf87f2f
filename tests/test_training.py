"""The one training step on the engine that runs: what a batch may change, and what it may not."""

import itertools
import pathlib
import signal
import traceback
from functools import cache, partial

import keras
import numpy as np
import pytest
from keras import layers, ops

import vae_zoo
from vae_zoo import data
from vae_zoo.engine import adam as adam_of_engine
from vae_zoo.engine import backend, interrupts

BACKEND = keras.config.backend()
X = np.random.default_rng(0).random((16, 4, 4, 1), dtype="float32")
Y = np.arange(16) % 3
BAD = X.copy()
BAD[5] = np.nan  # in the second of four batches


def tiny(**kwargs):
    keras.utils.set_random_seed(3)
    settings = {"latent_dim": 2, "hidden": (8,), "seed": 3, "likelihood": normal()}
    return vae_zoo.DenseVAE((4, 4, 1), **{**settings, **kwargs})


def normal(variance=1.0):
    return vae_zoo.likelihoods.Gaussian(variance)


def custom(
    dropout=0.0, dropout_seed=None, normalise=False, regularizer=None, likelihood=None, **kwargs
):
    """A VAE around an encoder of the user's own."""
    keras.utils.set_random_seed(3)
    x = image = keras.Input((4, 4, 1))
    x = layers.Dense(8, kernel_regularizer=regularizer)(layers.Flatten()(x))
    if normalise:
        x = layers.BatchNormalization()(x)
    x = layers.Dropout(dropout, seed=dropout_seed)(ops.tanh(x))
    encoder = keras.Model(image, [layers.Dense(2)(x), layers.Dense(2)(x)])
    z = keras.Input((2,))
    decoder = keras.Model(z, layers.Reshape((4, 4, 1))(layers.Dense(16)(z)))
    return vae_zoo.VAE(encoder, decoder, likelihood or normal(), seed=3, **kwargs)


def without_noise(model):
    model.draw = lambda shape, distribution="normal", alike=False: 0.3 * ops.ones(shape)
    return model


def weights(model):
    return np.concatenate([ops.convert_to_numpy(w).ravel() for w in model.trainable_weights])


def state(model):
    """Every variable of the model and its optimizer, metrics and noise included."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    groups = (model.variables, model.optimizer.variables, model.metrics_variables)
    variables = {id(v): v for group in groups for v in group}.values()
    return {
        f"{i} {v.path}": np.array(ops.convert_to_numpy(v), copy=True)
        for i, v in enumerate(variables)
    }


def changed(before, after):
    assert before.keys() == after.keys()
    different = [key for key in before if not np.array_equal(before[key], after[key])]
    return sorted({key.split("/")[-1] for key in different})


def iterations(model):
    return int(ops.convert_to_numpy(model.optimizer.iterations))


def fit(model, x=X, y=None, batch_size=4, **kwargs):
    """The epochs' logs; batches in the order of `x`."""
    settings = {"verbose": 0, "shuffle": False, **kwargs}
    return model.fit(x, y, batch_size=batch_size, **settings).history


def step(model, *batch):
    """The logs of one training step on one batch."""
    return {k: float(v) for k, v in model.train_on_batch(*batch, return_dict=True).items()}


def gradient(model, *batch):
    """Of a fresh, uncompiled model, from one step of plain gradient descent."""
    model.compile(keras.optimizers.SGD(1.0))
    before = weights(model)
    step(model, *batch)
    return before - weights(model)


@cache
def plain_gradient():
    return gradient(without_noise(tiny()), X)


# Refused updates.


@pytest.mark.parametrize("threshold, eager", [(1e6, False), (None, True)])
def test_nan_image_changes_nothing_but_the_noise_and_the_count(threshold, eager):
    if eager and BACKEND == "jax":
        pytest.skip("compiles every operation by itself, which takes long")
    model = custom(0.5, normalise=True, likelihood="gaussian", skip_threshold=threshold)
    model.compile("adam", run_eagerly=eager)
    step(model, X)
    model.reset_metrics()  # a step on a single batch begins with that
    before = state(model)
    assert step(model, BAD)["skipped"] == 1
    assert changed(before, state(model)) == ["seed_generator_state", "skipped"]
    before = state(model)
    logs = step(model, X)
    everything = {"kernel", "bias", "iteration", "gamma", "moving_variance", "squared_error"}
    assert everything <= set(changed(before, state(model)))
    assert logs["skipped"] == 0 and np.isfinite(logs["loss"])


@pytest.mark.skipif(BACKEND != "torch", reason="the other engines have one path only")
def test_nan_image_changes_nothing_where_the_device_decides(monkeypatch):
    model = custom(normalise=True, likelihood="gaussian")
    model.compile("adam")
    step(model, X)
    monkeypatch.setattr(backend, "_is_on_host", lambda tensor: False)
    model.reset_metrics()
    before = state(model)
    step(model, BAD)
    assert changed(before, state(model)) == ["seed_generator_state", "skipped"]
    step(model, X)
    assert iterations(model) == 2
    on_device = weights(model)

    monkeypatch.undo()
    model = custom(normalise=True, likelihood="gaussian")
    model.compile("adam")
    for batch in (X, BAD, X):
        step(model, batch)
    np.testing.assert_array_equal(weights(model), on_device)


def test_variables_come_back_where_the_condition_is_false():
    variable = keras.Variable([1.0, 2.0])
    for accept, expected in ((True, [5.0, 6.0]), (False, [5.0, 6.0])):
        with backend.unchanged_unless(None, [variable]) as context:
            variable.assign([5.0, 6.0] if accept else [np.nan, 7.0])
            context.accept = ops.convert_to_tensor(accept)
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), expected)


def test_fit_passes_over_a_nan_batch():
    expected = without_noise(tiny(likelihood="gaussian"))
    expected.compile("adam")
    without = fit(expected, np.delete(BAD, range(4, 8), axis=0), epochs=2)
    assert without["skipped"] == [0, 0]
    for threshold in (None, 1e6):
        model = without_noise(tiny(likelihood="gaussian", skip_threshold=threshold))
        model.compile("adam")
        logs = fit(model, BAD, epochs=2)
        assert logs["skipped"] == [1, 1] and iterations(model) == 2 * 4 - 2
        for name in ("loss", "reconstruction", "kl", "elbo"):
            np.testing.assert_allclose(logs[name], without[name], rtol=1e-5)
        np.testing.assert_allclose(weights(model), weights(expected), atol=1e-6)


def test_gradient_above_the_threshold_is_skipped():
    norm = np.linalg.norm(plain_gradient())
    for factor, skipped in ((0.99, 1), (1.01, 0)):
        model = without_noise(tiny(skip_threshold=float(factor * norm)))
        # The norm before clipping counts.
        model.compile(keras.optimizers.Adam(global_clipnorm=1e-3))
        before = state(model)
        assert step(model, X)["skipped"] == skipped
        assert iterations(model) == 1 - skipped
        if skipped:
            assert set(changed(before, state(model))) <= {"skipped", "seed_generator_state"}
        else:
            assert "kernel" in changed(before, state(model))


@pytest.mark.parametrize("steps_of_an_epoch", [1, 80])
def test_endless_skipping_ends_in_an_error(steps_of_an_epoch):
    model = tiny()
    model.compile("adam")
    before = weights(model)
    with pytest.raises(RuntimeError, match="updates were all skipped.*NaN"):
        fit(model, np.full((steps_of_an_epoch, 4, 4, 1), np.nan), batch_size=1, epochs=60)
    np.testing.assert_array_equal(weights(model), before)
    assert fit(model, batch_size=1)["skipped"] == [0]  # the model is still good
    assert (weights(model) != before).any()


def test_an_epoch_that_ends_in_skips_after_good_updates_is_no_error():
    model = tiny()
    model.compile("adam")
    x = np.concatenate([X[:1], np.full((70, 4, 4, 1), np.nan)])
    assert fit(model, x, batch_size=1, epochs=2)["skipped"] == [70, 70]


def test_an_exception_in_fit_reaches_the_user_and_leaves_a_usable_model():
    def stop(batch, logs):
        raise KeyboardInterrupt

    model = tiny()
    model.compile(keras.optimizers.Adam(use_ema=True))
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=keras.callbacks.LambdaCallback(on_train_batch_end=stop))
    assert np.isfinite(fit(model)["loss"]).all()


@pytest.fixture
def handling():
    """The handler of SIGINT and SIGTERM within a test."""

    def handler(number, frame):
        raise KeyboardInterrupt(number)

    before = [(n, signal.signal(n, handler)) for n in (signal.SIGINT, signal.SIGTERM)]
    yield handler
    for number, other in before:
        signal.signal(number, other)


@pytest.mark.parametrize("method, step", [("fit", "train"), ("evaluate", "test")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_within_a_step_waits_for_its_end(method, step, number, handling):
    model = tiny()
    model.compile("adam")
    getattr(model, method)(X, batch_size=4, verbose=0)
    whole = getattr(model, f"{step}_function")

    def interrupted(*args):
        outputs = whole(*args)
        signal.raise_signal(number)
        return outputs

    setattr(model, f"{step}_function", interrupted)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(X, batch_size=4, verbose=0)
    setattr(model, f"{step}_function", whole)
    assert signal.getsignal(number) == handling
    assert np.isfinite(fit(model)["loss"]).all() and np.isfinite(weights(model)).all()


def test_a_second_interruption_does_not_wait_nor_does_one_after_the_last_step(handling):
    with pytest.raises(KeyboardInterrupt), interrupts.interruptible([]):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one waited")
    with pytest.raises(KeyboardInterrupt), interrupts.interruptible([]):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_an_error_between_two_batches_leaves_the_weights(method):
    def batches():
        yield (X[:4],)
        yield (X[4:8],)
        raise OSError("the disk is gone")

    model = tiny()
    model.compile("adam")
    before = weights(model)
    with pytest.raises(Exception, match="the disk is gone"):
        getattr(model, method)(batches(), verbose=0)
    np.testing.assert_array_equal(weights(model), before)


# The optimizer.


def test_clipping_scales_the_gradient_to_the_norm():
    g = plain_gradient()
    norm = np.linalg.norm(g)
    for clip in (0.25 * norm, 4 * norm):
        model = without_noise(tiny())
        model.compile(keras.optimizers.SGD(0.1, global_clipnorm=float(clip)))
        before = weights(model)
        step(model, X)
        expected = before - 0.1 * g * min(1, clip / norm)
        np.testing.assert_allclose(weights(model), expected, atol=1e-6)


def test_accumulated_gradients_are_the_gradient_of_the_larger_batch():
    g = plain_gradient()
    model = without_noise(tiny())
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    before = weights(model)
    step(model, X[:8])
    np.testing.assert_array_equal(weights(model), before)
    assert step(model, BAD[:8])["skipped"] == 1  # counts for nothing
    np.testing.assert_array_equal(weights(model), before)
    step(model, X[8:])
    np.testing.assert_allclose(weights(model), before - 0.1 * g, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_validation_and_final_weights_are_the_averages(dtype):
    averages = []

    def remember(epoch, logs):
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        values = [ops.convert_to_numpy(v) for v in optimizer._model_variables_moving_average]
        averages.append([np.array(value, copy=True) for value in values])

    model = tiny(dtype=dtype)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8))
    for _ in range(2):  # JAX must not give one buffer away twice
        logs = fit(
            model,
            epochs=2,
            validation_data=(X,),
            callbacks=[
                keras.callbacks.SwapEMAWeights(),
                keras.callbacks.LambdaCallback(on_epoch_end=remember),
            ],
        )
        for weight, average in zip(model.trainable_weights, averages[-1]):
            np.testing.assert_allclose(ops.convert_to_numpy(weight), average, atol=1e-7)
    assert len(averages) == 4
    for average, loss in zip(averages[-2:], logs["val_loss"]):
        for weight, value in zip(model.trainable_weights, average):
            weight.assign(value)
        np.testing.assert_allclose(
            model.evaluate(X, batch_size=4, verbose=0, return_dict=True)["loss"],
            loss,
            rtol=1e-5 if dtype == "float32" else 1e-3,
        )


# Mixed precision.


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_in_float32_terms(dtype):
    model = tiny(dtype=dtype, likelihood="gaussian")
    model.compile(keras.optimizers.Adam(0.01))
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (dtype == "mixed_float16")
    logs = fit(model, epochs=10)
    assert np.mean(logs["loss"][-2:]) < logs["loss"][0] - 1
    if scaled:  # it finds its scale: each overflow halves it
        scale = float(ops.convert_to_numpy(model.optimizer.dynamic_scale))
        assert scale == 2.0 ** (15 - sum(logs["skipped"])) and sum(logs["skipped"]) < 5
        assert iterations(model) == 40 - sum(logs["skipped"])
    else:
        assert sum(logs["skipped"]) == 0
    for weight in model.weights:
        assert weight.dtype == "float32" or weight.path.endswith("seed_generator_state")
    for training in (True, False):
        outputs = model.objective(model.prepare(X), training=training)
        for name in ("loss", *model.logged):
            assert keras.backend.standardize_dtype(outputs[name].dtype) == "float32"
    dense = next(w for w in model.encoder.layers if isinstance(w, layers.Dense))
    assert dense.compute_dtype == dtype.removeprefix("mixed_")


@pytest.mark.parametrize("threshold", [None, 1e6])
def test_overflow_halves_the_loss_scale_and_leaves_the_weights(threshold):
    model = tiny(dtype="mixed_float16", likelihood="gaussian", skip_threshold=threshold)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=256.0))
    step(model, X)
    model.reset_metrics()
    before = state(model)
    assert step(model, BAD)["skipped"] == 1
    allowed = {"dynamic_scale", "step_counter", "seed_generator_state", "skipped"}
    assert set(changed(before, state(model))) == allowed
    assert float(ops.convert_to_numpy(model.optimizer.dynamic_scale)) == 128
    assert iterations(model) == 1


def test_threshold_is_held_against_the_unscaled_gradient():
    norm = np.linalg.norm(plain_gradient())
    for factor, skipped in ((0.9, 1), (1.1, 0)):
        model = without_noise(tiny(dtype="mixed_float16", skip_threshold=float(factor * norm)))
        model.compile(
            keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=256.0)
        )
        before = state(model)
        assert step(model, X)["skipped"] == skipped
        if skipped:  # it is no overflow: the scale stays too
            assert set(changed(before, state(model))) <= {"skipped", "seed_generator_state"}
        assert iterations(model) == 1 - skipped


# What Keras's fit and evaluate offer.


def test_beta_follows_the_optimizers_updates():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 4, end_learning_rate=1.0)
    model = tiny(beta=schedule)
    model.compile("adam")
    logs = fit(model, BAD, epochs=2, validation_data=(X,))
    # Updates 0, 1, 2 of the first epoch, 3 and the end of the schedule in the second.
    np.testing.assert_allclose(logs["beta"], [0.25, np.mean([0.75, 1, 1])], rtol=1e-6)
    assert logs["val_beta"] == [1, 1]
    np.testing.assert_allclose(logs["val_loss"], -np.array(logs["val_elbo"]), rtol=1e-6)
    assert "val_skipped" not in logs


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs a step as it is")
def test_ways_to_compile_give_the_same_weights():
    @cache
    def trained(noise, **settings):
        model = tiny() if noise else without_noise(tiny())
        model.compile("adam", **settings)
        logs = fit(model, epochs=2)
        return np.append(weights(model), logs["loss"])

    def same(noise, **settings):
        expected = trained(noise)
        np.testing.assert_allclose(trained(noise, **settings), expected, rtol=1e-4, atol=1e-5)

    if BACKEND == "jax":
        same(True, jit_compile=False)
        same(True, steps_per_execution=2)
    else:
        same(False, jit_compile=True)  # XLA draws other numbers than TensorFlow
        same(True, steps_per_execution=2)


@pytest.mark.skipif(BACKEND != "torch", reason="works elsewhere")
def test_several_steps_per_execution_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="steps_per_execution"):
        model.compile("adam", steps_per_execution=2)
        fit(model)


def test_single_batches_are_what_fit_and_evaluate_run():
    by_fit, by_batch = without_noise(tiny()), without_noise(tiny())
    by_fit.compile("adam")
    by_batch.compile("adam")
    logs = fit(by_fit)
    batches = [X[start : start + 4] for start in range(0, 16, 4)]
    trained = [step(by_batch, batch)["loss"] for batch in batches]
    np.testing.assert_allclose(weights(by_batch), weights(by_fit), atol=1e-6)
    np.testing.assert_allclose(np.mean(trained), logs["loss"][0], rtol=1e-5)
    tested = [by_batch.test_on_batch(batch, return_dict=True) for batch in batches]
    evaluated = by_fit.evaluate(X, batch_size=4, verbose=0, return_dict=True)
    assert evaluated.keys() == tested[0].keys() == {"loss", "reconstruction", "kl", "elbo"}
    for name, value in evaluated.items():
        np.testing.assert_allclose(np.mean([logs[name] for logs in tested]), value, rtol=1e-5)


def test_sample_weights_count_examples():
    whole = without_noise(tiny())
    whole.compile(keras.optimizers.SGD(0.1))
    expected = step(whole, np.concatenate([X[:3], X[:3], X[3:10]]))
    counted = without_noise(tiny())
    counted.compile(keras.optimizers.SGD(0.1))
    w = np.array([2] * 3 + [1] * 7 + [0] * 6)
    logs = step(counted, X, Y, w)
    np.testing.assert_allclose(weights(counted), weights(whole), atol=1e-6)
    assert logs == pytest.approx(expected, rel=1e-5)
    by_fit = without_noise(tiny())
    by_fit.compile(keras.optimizers.SGD(0.1))
    fit(by_fit, X, Y, batch_size=16, sample_weight=w)
    np.testing.assert_allclose(weights(by_fit), weights(whole), atol=1e-6)
    evaluated = by_fit.evaluate(X, Y, 16, 0, w, return_dict=True)
    expected = by_fit.evaluate(np.concatenate([X[:3], X[:10]]), verbose=0, return_dict=True)
    assert evaluated == pytest.approx(expected, rel=1e-5)


def test_what_is_in_a_row_of_weight_zero_does_not_matter():
    x, w = X / np.float32(255), np.array([1, 2] * 6 + [0] * 4)
    bad = np.where(w.reshape(-1, 1, 1, 1) > 0, x, np.nan)
    models = [without_noise(tiny()) for _ in range(2)]
    for model in models:
        model.compile(keras.optimizers.SGD(0.1))
    expected, logs = (step(model, data, Y, w) for model, data in zip(models, (x, bad)))
    assert logs == pytest.approx(expected, rel=1e-6) and logs["skipped"] == 0
    np.testing.assert_allclose(*map(weights, models), atol=1e-7)
    evaluated = [m.test_on_batch(d, Y, w, return_dict=True) for m, d in zip(models, (x, bad))]
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-6)


def test_sample_weights_without_labels_are_refused():
    model = tiny()
    model.compile("adam")
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="`sample_weight` needs `y`"):
            method(X, sample_weight=np.ones(16))


def test_regularisers_cost_in_training_only():
    model = without_noise(custom(regularizer=keras.regularizers.L2(0.1)))
    model.compile(keras.optimizers.SGD(0.0))
    kernel = ops.convert_to_numpy(model.encoder.trainable_weights[0])
    evaluated = model.test_on_batch(X, return_dict=True)
    trained = step(model, X)
    penalty = 0.1 * np.square(kernel).sum()
    assert penalty > 0.5
    np.testing.assert_allclose(trained["loss"] - evaluated["loss"], penalty, rtol=1e-4)
    np.testing.assert_allclose(evaluated["loss"], -trained["elbo"], rtol=1e-5)
    plain = gradient(without_noise(custom()), X)
    regular = gradient(without_noise(custom(regularizer=keras.regularizers.L2(0.1))), X)
    difference = (regular - plain)[: kernel.size].reshape(kernel.shape)
    np.testing.assert_allclose(difference, 0.2 * kernel, atol=1e-5)


def test_part_of_the_data_validates():
    model = tiny()
    model.compile("adam")
    logs = fit(model, validation_split=0.25)
    assert iterations(model) == 3
    evaluated = model.evaluate(X[12:], batch_size=4, verbose=0, return_dict=True)
    for name, value in evaluated.items():
        np.testing.assert_allclose(logs[f"val_{name}"], [value], rtol=1e-5)


def test_every_kind_of_data_trains_alike():
    grey = (X * 255).astype("uint8")
    x = grey.astype("float32") / 255

    def batches(*columns):
        while True:
            for start in range(0, 16, 4):
                yield tuple(column[start : start + 4] for column in columns)

    sources = {
        "float32": x,
        "float64": grey / 255,
        "labels": (x, Y),
        "uint8": grey,
        "dataset": data.Batches(x, batch_size=4, shuffle=False),
        "labelled dataset": data.Batches(x, Y, batch_size=4, shuffle=False),
        "generator": batches(x),
        "labelled generator": batches(x, Y),
    }
    if BACKEND == "tensorflow":
        import tensorflow as tf

        sources["tf.data"] = tf.data.Dataset.from_tensor_slices(x).batch(4)
        sources["labelled tf.data"] = tf.data.Dataset.from_tensor_slices((x, Y)).batch(4)
    if BACKEND == "torch":
        import torch

        tensors = torch.utils.data.TensorDataset(torch.from_numpy(x))
        labelled = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(Y))
        sources["loader"] = torch.utils.data.DataLoader(tensors, 4)
        sources["labelled loader"] = torch.utils.data.DataLoader(labelled, 4)
    model = without_noise(tiny())
    model.compile(keras.optimizers.SGD(0.1))
    start = model.get_weights()
    for name, source in sources.items():
        model.set_weights(start)
        source = source if isinstance(source, tuple) else (source,)
        size = 4 if isinstance(source[0], np.ndarray) else None
        fit(model, *source, batch_size=size, steps_per_epoch=4)
        if name == "float32":
            expected = weights(model)
        np.testing.assert_allclose(weights(model), expected, atol=1e-6, err_msg=name)


def test_bits_are_bits_in_every_type():
    bits = X > 0.5
    model = tiny(likelihood="bernoulli")
    for x in (bits, bits.astype("float32"), bits.astype("uint8") * 255):
        prepared = ops.convert_to_numpy(model.prepare(ops.convert_to_tensor(x)))
        assert prepared.dtype == "float32"
        np.testing.assert_array_equal(prepared, bits)


def test_evaluating_needs_no_compilation_and_fitting_does():
    model = tiny()
    logs = model.evaluate(X, verbose=0, return_dict=True)
    assert not model.compiled
    assert logs == model.evaluate(X, verbose=0, return_dict=True)
    with pytest.raises(ValueError, match="call `compile\\(\\)`"):
        fit(model)
    model.compile("adam")
    assert logs == pytest.approx(model.evaluate(X, verbose=0, return_dict=True), rel=1e-6)
    fit(model)
    assert iterations(model) == 4


def test_fitting_a_model_that_was_never_compiled_is_an_error():
    with pytest.raises(ValueError, match="call `compile\\(\\)`"):
        fit(tiny())


# Noise.


def test_layers_of_the_users_encoder_know_that_it_trains():
    model = without_noise(custom(0.5, normalise=True))
    model.compile(keras.optimizers.SGD(0.0))
    before = state(model)
    assert len({step(model, X)["loss"] for _ in range(3)}) == 3  # dropout
    assert {"moving_mean", "moving_variance"} <= set(changed(before, state(model)))
    before = state(model)
    losses = []
    for _ in range(2):
        losses.append(float(model.test_on_batch(X, return_dict=True)["loss"]))
    assert losses[0] == losses[1]
    assert set(changed(before, state(model))) <= {"totals", "weight", "skipped"}


def test_noise_of_near_seeds_and_counters_has_nothing_in_common():
    """Nor have the draws of one objective: on PyTorch Keras draws by the sum of its two seeds."""
    model, rows = tiny(), []
    for seed, counter in itertools.product((0, 1, 2), (0, 1, 64)):
        with model.noise_from(seed, counter):
            rows += [ops.convert_to_numpy(model.draw((4000,))) for _ in range(4)]
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 6 / 4000**0.5


def test_noise_is_new_at_every_step_and_repeatable_in_evaluation():
    model = tiny()
    model.compile(keras.optimizers.SGD(0.0))
    assert len({step(model, X)["reconstruction"] for _ in range(3)}) == 3
    evaluate = partial(model.evaluate, batch_size=16, verbose=0, return_dict=True)
    once = evaluate(X)
    assert evaluate(X) == once
    twice = evaluate(np.concatenate([X, X]))
    assert abs(twice["loss"] - once["loss"]) > 1e-4  # the second batch has noise of its own
    np.testing.assert_allclose(twice["kl"], once["kl"], rtol=1e-5)  # which the KL does not use


# === Speed changes nothing ===


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda **kwargs: keras.optimizers.Adam(**kwargs),
        lambda **kwargs: keras.optimizers.AdamW(weight_decay=0.1, **kwargs),
        lambda **kwargs: keras.optimizers.Adam(
            gradient_accumulation_steps=2, use_ema=True, ema_momentum=0.5, clipnorm=0.1, **kwargs
        ),
    ],
    ids=["adam", "adamw", "accumulating"],
)
def test_fused_adam_is_keras_adam(optimizer, amsgrad):
    """Weights and slots after 20 steps, at an epsilon that matters."""

    def trained(accelerate):
        rng = np.random.default_rng(0)
        variables = [
            keras.Variable(rng.normal(size=size), dtype="float32")
            for size in ((3, 3, 4, 5), (30, 20), (20,))
        ]
        rate = keras.optimizers.schedules.CosineDecay(1e-3, 30)
        adam = optimizer(learning_rate=rate, epsilon=1e-3, amsgrad=amsgrad)
        adam.build(variables)
        if accelerate:
            adam_of_engine.accelerate(adam)
        for _ in range(20):
            # As a convolution's lies in memory: in another order than its weights.
            transposed = lambda x: ops.transpose(x, tuple(range(len(x.shape)))[::-1])  # noqa: E731
            gradients = [
                transposed(ops.convert_to_tensor(rng.normal(size=v.shape[::-1]), "float32"))
                for v in variables
            ]
            accept = ops.convert_to_tensor(True)
            backend.apply_gradients(adam, gradients, variables, accept)
        return [np.array(ops.convert_to_numpy(v)) for v in (*variables, *adam.variables)]

    for fused, own in zip(trained(True), trained(False)):
        np.testing.assert_allclose(fused, own, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="recordings are PyTorch's")
def test_a_recorded_step_is_the_eager_one():
    def trained(eager, batch_size):
        model = tiny()
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=eager)
        fit(model, batch_size=batch_size, epochs=3)
        played = [] if eager else list(model._recordings.players.values())
        assert all(played) and len(played) == (0 if eager else 1 + (len(X) % batch_size > 0))
        return state(model)

    for batch_size in (4, 6):
        recorded, eager = trained(False, batch_size), trained(True, batch_size)
        for a, b in zip(recorded.values(), eager.values()):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("seed", [None, 7])
def test_dropout_drops_anew_at_every_step(seed):
    """With a seed it reads a number on the host, and so PyTorch cannot record it."""
    model = without_noise(custom(dropout=0.5, dropout_seed=seed))
    model.compile(keras.optimizers.SGD(0.0))
    losses = [fit(model, batch_size=16)["loss"][0] for _ in range(3)]
    assert len(set(losses)) == 3
    if BACKEND == "torch":
        (player,) = model._recordings.players.values()
        assert (player is None) == (seed is not None)


def test_several_steps_an_execution_never_read_past_the_end():
    """On TensorFlow eight steps run as one; where the user counts steps, it is one by one."""
    model, seen = tiny(), []

    def batches():
        while True:
            seen.append(1)
            yield (X[:4],)

    model.compile("adam")
    model.fit(batches(), steps_per_epoch=3, epochs=2, verbose=0, shuffle=False)
    assert iterations(model) == 6
    assert model.predict(batches(), steps=2, verbose=0).shape == (8, 4, 4, 1)
    model.compile("adam")
    fit(model, batch_size=1)
    assert iterations(model) == len(X)


def test_ten_frames_of_ours_from_fit_to_the_objective(monkeypatch):
    """What a user reads of an error in an objective of their own."""
    package = str(pathlib.Path(vae_zoo.__file__).parent)
    seen = []

    class Deep(vae_zoo.DenseVAE):
        def objective(self, *args, **kwargs):
            files = [frame.filename for frame in traceback.extract_stack()]
            seen.append(sum(file.startswith(package) for file in files) + 1)  # this one too
            return super().objective(*args, **kwargs)

    deep = Deep((4, 4, 1), 2, (4,), seed=0)
    deep.compile("adam")
    deep.fit(np.zeros((8, 4, 4, 1), "uint8"), batch_size=4, verbose=0)
    assert seen and max(seen) <= 10, seen
