"""Families of a user's own: what subclasses a kind works wherever the kind does.

None of these classes is known to the package: numbers, pictures, golden files, search and
fine-tuning find what to do by their kinds, and by the domains of their data.
"""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from parallel import Coupled

import vae_zoo
from vae_zoo import data, domains, plots, runs, transfer, zoo
from vae_zoo.evaluate import evaluate, measure
from vae_zoo.kinds import BaseVAE, Density, LatentModel, Trainable
from vae_zoo.lab.pictures import pictures
from vae_zoo.posteriors import DiagonalGaussian

register = keras.saving.register_keras_serializable("tests")


def network(inputs, outputs, name):
    x = keras.Input((inputs,))
    return keras.Model(x, layers.Dense(outputs)(layers.Dense(12, "tanh")(x)), name=name)


@register
class LabelledVAE(BaseVAE):
    """p(x|z, y): the label, one of several classes, enters encoder and decoder."""

    def __init__(
        self,
        shape=(28, 28, 1),
        classes=10,
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        size = int(np.prod(shape))
        parts = {"encoder": network(size + classes, 4, "encoder")}
        parts["decoder"] = network(2 + classes, size, "decoder")
        super().__init__(
            domains.of_shape(shape, unit=True),
            domains.Arrays((2,)),
            condition=classes,
            parts=parts,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape, self.classes = tuple(shape), classes

    def posterior(self, x, y=None, training=False):
        flat = ops.reshape(x, (-1, int(np.prod(self.shape))))
        both = ops.concatenate([flat, ops.one_hot(y, self.classes, dtype="float32")], axis=-1)
        return DiagonalGaussian(*ops.split(ops.cast(self.encoder(both), "float32"), 2, axis=-1))

    def likelihood_parameters(self, z, y=None, training=False):
        lead = tuple(ops.shape(z)[:-1])
        label = ops.broadcast_to(
            ops.one_hot(y, self.classes, dtype="float32"), (*lead, self.classes)
        )
        both = ops.reshape(ops.concatenate([z, label], axis=-1), (-1, 2 + self.classes))
        return ops.reshape(ops.cast(self.decoder(both), "float32"), (*lead, *self.shape))

    def objective(self, x, y=None, training=False):
        q = self.posterior(x, y, training)
        parameters = self.likelihood_parameters(q.sample(self.draw, 1), y)
        return self.bound(x, parameters, q.kl(), training)


@register
class SequenceVAE(BaseVAE):
    """A toy of sequences: rows (steps, 2) of numbers, read and written by recurrent cells."""

    def __init__(self, steps=6, **kwargs):
        x = keras.Input((steps, 2))
        encoder = keras.Model(x, layers.Dense(4)(layers.GRU(5)(x)))
        z = keras.Input((2,))
        h = layers.GRU(5, return_sequences=True)(layers.RepeatVector(steps)(z))
        parts = {"encoder": encoder, "decoder": keras.Model(z, layers.Dense(2)(h))}
        latents = domains.Arrays((2,))
        super().__init__(domains.Arrays((steps, 2)), latents, "gaussian", parts=parts, **kwargs)
        self.steps = steps

    def posterior(self, x, y=None, training=False):
        return DiagonalGaussian(*ops.split(self.encoder(x), 2, axis=-1))

    def likelihood_parameters(self, z, y=None, training=False):
        flat = self.decoder(ops.reshape(z, (-1, 2)))
        return ops.reshape(flat, (*ops.shape(z)[:-1], self.steps, 2))

    def objective(self, x, y=None, training=False):
        q = self.posterior(x)
        z = q.sample(self.draw, 1)
        return self.bound(x, self.likelihood_parameters(z), self.kl(q, z), training)


@register
class Normal(Density):
    """Rows of independent normals, of one mean a label where there are some."""

    def __init__(self, size=3, classes=None, **kwargs):
        super().__init__(domains.Arrays((size,)), classes, **kwargs)
        self.size, self.classes = size, classes
        self.mean = self.add_weight(shape=(classes or 1, size), name="mean")

    def log_prob(self, x, y=None):
        mean = ops.take(self.mean, 0 if y is None else y, axis=0)
        return ops.sum(-0.5 * ops.square(x - mean) - 0.5 * np.log(2 * np.pi), axis=-1)

    def call(self, x):
        return x[0] if isinstance(x, tuple) else x

    def sample(self, n, y=None, seed=None):
        rng, mean = np.random.default_rng(seed), ops.convert_to_numpy(self.mean)
        y = self._repeated(y, n)
        return (mean[0 if y is None else y] + rng.normal(size=(n, self.size))).astype("float32")


@register
class Halves(LatentModel):
    """Every second column; no weights but one, no networks."""

    def __init__(self, **kwargs):
        super().__init__(domains.Arrays((4,)), domains.Arrays((2,)), **kwargs)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def infer(self, x, y=None):
        return x[:, ::2] * self.scale

    def generate(self, z, y=None):
        return ops.repeat(z, 2, axis=1)

    def objective(self, x, y=None, training=False):
        return {"loss": ops.sum(ops.square(x - self.generate(self.infer(x))), axis=1)}


def digits(n=40):
    x, y = data.load("digits")
    return x[:n], y[:n]


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


TOYS = {
    "labelled": (lambda: LabelledVAE(seed=1), digits),
    "sequences": (lambda: SequenceVAE(seed=1), lambda: (rows(40, 6, 2), None)),
    "density": (lambda: Normal(seed=1), lambda: (rows(40, 3), None)),
    "labelled_density": (
        lambda: Normal(classes=2, seed=1),
        lambda: (rows(40, 3), np.arange(40) % 2),
    ),
    "latent_model": (lambda: Halves(seed=1), lambda: (rows(40, 4), None)),
    "table": (
        lambda: vae_zoo.DenseVAE((5,), 2, (6,), likelihood="gaussian", seed=1),
        lambda: (rows(40, 5), None),
    ),
    "bits_of_a_table": (
        lambda: vae_zoo.DenseVAE((5,), 2, (6,), seed=1),
        lambda: ((rows(40, 5) > 1).astype("float32"), None),  # mostly zeros: something to learn
    ),
}


@pytest.mark.parametrize("name", TOYS)
def test_a_family_of_ones_own_trains_measures_draws_and_comes_back(name, tmp_path):
    make, examples = TOYS[name]
    keras.utils.set_random_seed(1)
    model, (x, y) = make(), examples()
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(x, y, batch_size=20, epochs=8, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]

    bits = data.binarize(x) if model.sees_bits and x.dtype == "uint8" else x
    numbers = measure(model, bits, y, num_samples=3, elbo_samples=2, x_train=x)
    assert {number["images"] for number in numbers.values() if "images" in number} == {40}
    kind = next(kind for kind in (BaseVAE, Density, LatentModel) if isinstance(model, kind))
    bound = "nll_iw3" if model.condition is None else "nll_given_y_iw3"
    wanted = {BaseVAE: {"elbo", bound, "active_units"}, Density: {"nll"}}
    assert wanted.get(kind, {"active_units", "relative_mse"}) <= set(numbers)

    drawn = [path.name for path, _ in pictures(model, bits, y, tmp_path, 0)]
    if isinstance(model, LatentModel):
        assert "latents.png" in drawn
        assert model.reconstruct(x, y).shape == x.shape
        assert model.interpolate(x[:2], x[2:4], 5, None if y is None else y[:2]).shape == (
            *(2, 5),
            *x.shape[1:],
        )
    if name == "labelled":
        assert {"samples.png", "reconstructions.png", "interpolations.png"} <= set(drawn)

    model.save(tmp_path / "model.keras")
    again = vae_zoo.load_model(tmp_path / "model.keras")
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    golden = zoo.golden(model)
    assert golden["version"] == 2 and ("y" in golden) == (y is not None)
    for key, value in zoo.golden(again, golden["x"], golden.get("y")).items():
        np.testing.assert_allclose(value, golden[key], atol=1e-5, err_msg=key)


def test_labels_go_all_the_way(tmp_path):
    model, (x, y) = LabelledVAE(seed=1), digits(20)
    model.compile(keras.optimizers.Adam(0.01))
    batches = data.Batches(x, y, batch_size=10, shuffle=False)
    model.fit(batches, epochs=2, validation_data=(x, y), verbose=0, shuffle=False)
    # The label counts everywhere.
    other = (y + 1) % 10
    z = model.encode(x, y=y)
    for one, changed in (
        (z, model.encode(x, y=other)),
        (model.decode(z, y=y), model.decode(z, y=other)),
        (model.reconstruct(x, y=y), model.reconstruct(x, y=other)),
        (model.sample(20, y=3, seed=1), model.sample(20, y=4, seed=1)),
        (model.log_likelihood(x, y, 2), model.log_likelihood(x, other, 2)),
        (model.kl_per_latent(x, y=y), model.kl_per_latent(x, y=other)),
        (model.predict((x, y), verbose=0), model.predict((x, other), verbose=0)),
    ):
        assert one.shape == changed.shape and not np.allclose(one, changed)
    # A data set hands its labels on to `call`.
    predicted = model.predict(batches, verbose=0)
    np.testing.assert_allclose(predicted, model.predict((x, y), verbose=0), atol=1e-6)
    np.testing.assert_allclose(predicted, model.reconstruct(x, y=y), atol=1e-5)
    # One label for all, or one each.
    np.testing.assert_allclose(
        model.sample(3, y=2, seed=1), model.sample(y=[2, 2, 2], seed=1), atol=1e-6
    )
    numbers = evaluate(model, "digits", importance_samples=2, importance_images=10, elbo_samples=1)
    assert {"nll_given_y_iw2", "ssim", "kl_per_latent"} <= set(
        numbers
    ) and "probe_accuracy" not in numbers


@pytest.mark.parametrize(
    "message, use",
    {
        "needs labels.*in 0..9. Received: y=None": lambda m, x, y: m.encode(x),
        "needs labels: `y` must be": lambda m, x, y: m.sample(),
        "needs labels": lambda m, x, y: m.fit(x, verbose=0),
        "needs labels.*Received": lambda m, x, y: m.evaluate(x, verbose=0),
        r"`y` must be.*values in \[0, 10\]": lambda m, x, y: m.encode(x, y=np.append(y[1:], 10)),
        r"values in \[-1": lambda m, x, y: m.fit(x, np.append(y[1:], -1), verbose=0),
        "`y` must be.*dtype=float32": lambda m, x, y: m.log_likelihood(x, y.astype("float32")),
        r"`y` must be.*shape=\(20, 1\)": lambda m, x, y: m.reconstruct(x, y=y[:, None]),
        "must have 20 labels. Received: 19": lambda m, x, y: m.encode(x, y=y[:-1]),
        "must be one label, or 4. Received: 2": lambda m, x, y: m.sample(4, y=[1, 2]),
    }.items(),
)
def test_wrong_labels_are_one_line(message, use):
    model, (x, y) = LabelledVAE(seed=1), digits(20)
    model.compile("sgd")
    with pytest.raises(ValueError, match=message) as error:
        use(model, x, y)
    assert "\n" not in str(error.value)


def test_superfluous_labels_are_refused_where_they_are_meant():
    """Of a data set they are passed over: a labelled one trains any model as it is."""
    model = vae_zoo.DenseVAE((28, 28, 1), 2, (4,), seed=1)
    x, y = digits(20)
    for use in (model.encode, model.reconstruct, model.log_likelihood, model.kl_per_latent):
        with pytest.raises(ValueError, match="takes no labels: `y` must be None"):
            use(x, y=y)
    with pytest.raises(ValueError, match="takes no labels"):
        model.sample(20, y=3)
    model.compile("sgd")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


def test_any_other_trainable_is_measured_by_what_it_logs():
    x, y = digits(40)
    classifier = transfer.Classifier(
        keras.Sequential([keras.Input(x.shape[1:]), layers.Flatten(), layers.Dense(10)]), seed=0
    )
    classifier.compile("adam")
    classifier.fit(x, y, epochs=2, verbose=0)
    numbers = measure(classifier, x, y)
    logs = classifier.evaluate(x, y, verbose=0, return_dict=True)
    assert {name: number["value"] for name, number in numbers.items()} == pytest.approx(logs)
    assert evaluate(classifier, "digits")["accuracy"]["images"] == 300
    with pytest.raises(ValueError, match="A Classifier has no examples"):
        zoo.golden(classifier)


def test_a_run_of_a_family_of_ones_own_is_a_run(tmp_path, capsys):
    """`runs.fit` and `runs.report`, as recipes use them, and then fine-tuning to another size."""
    x, y = digits(40)
    model = LabelledVAE(seed=1)
    model.compile("adam")
    settings = {"epochs": 2, "batch_size": 20, "seed": 0, "patience": 5, "output": tmp_path}
    history = runs.fit(model, (x, y), (x, y), **settings)
    assert "val_elbo" in history and runs.monitored(model) == ("val_elbo", "max")
    runs.report(model, (x, y), (x, y), history, {**settings, "output": str(tmp_path)}, 2)
    assert (tmp_path / "samples.png").is_file() and "nll_given_y_iw2" in capsys.readouterr().out
    larger, fresh = transfer.adapted(model, shape=(30, 28, 1))
    assert larger.domain.shape == (30, 28, 1) and fresh
    plots.samples(larger.sample(4, y=1), tmp_path / "larger.png")


@pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning")  # KerasTuner's
@pytest.mark.filterwarnings("ignore:getName:DeprecationWarning")
def test_a_search_over_a_family_of_ones_own(tmp_path):
    tuning = pytest.importorskip("vae_zoo.tuning")
    logged = []

    def space(hp, shape, seed):
        return LabelledVAE(shape, seed=hp.Int("start", 1, 3) + seed)

    search = tuning.Search(space, epochs=1, progress=logged.append)
    assert search.objective == "val_elbo" and not search.with_beta
    assert set(np.unique(search.validation[0])) == {0, 255}  # as the model sees them
    tuner = search.tuner("random", 2, tmp_path)
    tuner.search(epochs=1, verbose=0)
    rows = tuning.table(tuner)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 2 and len(logged) == 2


# === Objectives that couple examples, and players ===


def test_a_coupled_objective_sees_the_weights():
    """Rows of weight 0 count for nothing: as if they were not there."""
    x = rows(12, 3)
    weights = np.where(np.arange(12) < 8, 1.0, 0.0).astype("float32")
    found = []
    for part, w in ((x, weights), (x[:8], weights[:8])):
        keras.utils.set_random_seed(3)
        model = Coupled(seed=1)
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(part, np.zeros(len(part)), sample_weight=w, batch_size=12, epochs=3, verbose=0)
        found.append(ops.convert_to_numpy(model.dense.kernel))
    np.testing.assert_allclose(*found, rtol=1e-5)


@register
class TwoPlayers(Trainable):
    """One moves towards x, the other towards the one; each has its own gradient and flag."""

    logged = ("first", "second")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.leader = self.add_weight(shape=(2,), initializer="zeros", name="leader")
        self.follower = self.add_weight(shape=(2,), initializer="zeros", name="follower")

    def players(self):
        return [[self.leader], [self.follower]]

    def objective(self, x, y=None, training=False):
        with self.without_training([self.follower]):
            first = ops.sum(ops.square(x - self.leader - 0.1 * self.follower), axis=1)
            noise = self.draw((2,))  # moves on, inside too
        second = ops.sum(ops.square(ops.stop_gradient(self.leader) - self.follower + 0 * noise))
        second = second + ops.where(x[:, 0] > 50, 1e30 * self.follower[0], 0.0) * 1e30
        return {"loss": first + second, "first": first, "second": first * 0 + 1}


def two_players():
    keras.utils.set_random_seed(1)
    model = TwoPlayers(seed=1)
    rates = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    rates[model.follower.path] = keras.optimizers.SGD(0.2)
    model.compile(keras.optimizers.MultiOptimizer(rates))
    return model


def test_players_have_their_own_gradients_and_a_spike_of_one_leaves_the_other():
    model = two_players()
    x = np.full((4, 2), 1.0, "float32")
    model.train_on_batch(x)
    leader, follower = (ops.convert_to_numpy(v) for v in (model.leader, model.follower))
    # 2 * 0.1 * (1 - 0); the follower's own term alone moves it, and it was at its optimum.
    np.testing.assert_allclose(leader, [0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(follower, [0.0, 0.0])
    model.train_on_batch(x)
    np.testing.assert_allclose(ops.convert_to_numpy(model.follower), [0.08, 0.08], rtol=1e-5)
    before = [ops.convert_to_numpy(v) for v in (model.leader, model.follower)]
    spike = x.copy()
    spike[0, 0] = 60.0  # the follower's gradient overflows, the leader's does not
    logs = model.train_on_batch(spike, return_dict=True)
    assert logs["skipped"] == 1
    assert not np.allclose(ops.convert_to_numpy(model.leader), before[0])
    np.testing.assert_array_equal(ops.convert_to_numpy(model.follower), before[1])
    iterations = [int(ops.convert_to_numpy(o.iterations)) for o in model.optimizer.optimizers]
    assert (
        sorted(iterations) == [2, 3] and int(ops.convert_to_numpy(model.optimizer.iterations)) == 3
    )


def test_players_need_an_optimizer_each():
    model = TwoPlayers(seed=1)
    with pytest.raises(ValueError, match="2 players need keras.optimizers.MultiOptimizer"):
        model.compile("adam")
    one = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    one["no such path"] = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="not those of one player"):
        model.compile(keras.optimizers.MultiOptimizer(one))


def test_noise_is_overridden_inside_of_an_override():
    model = Coupled(seed=1)
    with model.drawing(lambda *_: ops.ones(())), model.noise_from(3):
        inner = float(model.draw((1,))[0])
        with model.drawing(lambda *_: ops.zeros(())):
            assert float(model.draw((1,))) == 0
        with model.noise_from(3):
            assert float(model.draw((1,))[0]) == inner
    with model.noise_from(3):
        assert float(model.draw((1,))[0]) == inner


def test_two_functions_of_one_name_are_two():
    model, x = Coupled(seed=1), rows(4, 3)
    sums = [model.run("same", lambda x, k=k: x * k, x).sum() for k in (1.0, 2.0)]
    assert sums[1] == pytest.approx(2 * sums[0], rel=1e-5)
    scale = 3.0
    assert model.run("same", lambda x: x * scale, x).sum() == pytest.approx(3 * sums[0], rel=1e-5)
    scale = 4.0
    assert model.run("same", lambda x: x * scale, x).sum() == pytest.approx(4 * sums[0], rel=1e-5)


def test_signatures_say_what_users_get():
    methods = ("encode", "decode", "reconstruct", "interpolate", "sample", "log_likelihood")
    families = [
        v for v in vars(vae_zoo).values() if isinstance(v, type) and issubclass(v, Trainable)
    ]
    assert len(families) > 15
    for family in families:
        for method in (getattr(family, name) for name in methods if hasattr(family, name)):
            assert inspect.signature(method).return_annotation is not inspect.Signature.empty, (
                method
            )
    for function in (vae_zoo.load_model, vae_zoo.data.load, vae_zoo.evaluate.measure):
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty
