"""Attributes set after a step was compiled: the next step has them, or setting them raises."""

import keras
import numpy as np
import pytest
from families import FAMILIES, conv, dense, images, ladder, vq
from keras import ops
from test_families import filled

import vae_zoo

SHAPE = (8, 6, 1)
X = images(8, SHAPE)


def factors(logs):
    """The beta that the loss was made of, epoch by epoch."""
    both = zip(logs["loss"], logs["reconstruction"], logs["kl"], strict=True)
    return [(loss - reconstruction) / kl for loss, reconstruction, kl in both]


class Setting(keras.callbacks.Callback):
    def __init__(self, name, values, at, of=None):
        super().__init__()
        self.name, self.values, self.at, self.of, self.steps = name, values, at, of, 0

    def on_epoch_begin(self, epoch, logs=None):
        if self.at == "epoch":
            setattr(self.of or self.model, self.name, self.values[epoch])

    def on_train_batch_begin(self, batch, logs=None):
        if self.at == "batch":
            setattr(self.of or self.model, self.name, self.values[self.steps])
            self.steps += 1


def counting(model, monkeypatch):
    """A list that grows whenever `objective` runs in Python: when a step is compiled."""
    runs, objective = [], model.objective

    def counted(*args, **kwargs):
        runs.append(1)
        return objective(*args, **kwargs)

    model.__dict__["objective"] = counted
    return runs


@pytest.mark.parametrize("whose", ["callback's", "closure's"])
@pytest.mark.parametrize("at", ["epoch", "batch"])
def test_beta_set_by_a_callback_is_in_the_loss(at, whose, monkeypatch):
    model = dense()(seed=1, beta=0.0)
    model.compile(keras.optimizers.SGD(0.0), steps_per_execution=1)
    runs = counting(model, monkeypatch)
    model.fit(X, batch_size=8, verbose=0)
    compiled = len(runs)
    values = [3.0, 0.5, 20.0]
    callback = Setting("beta", values, at, model if whose == "closure's" else None)
    logs = model.fit(X, batch_size=8, epochs=3, verbose=0, callbacks=[callback]).history
    assert factors(logs) == pytest.approx(values, rel=1e-3)
    assert model.beta == 20.0 and model.get_config()["beta"] == 20.0
    assert len(runs) == compiled, "compiled anew"


def test_the_value_that_was_set_is_in_the_file(tmp_path):
    model = dense()(seed=1)
    model.compile("sgd")
    model.beta = 4.0
    model.save(tmp_path / "model.keras")
    loaded = vae_zoo.load_model(tmp_path / "model.keras")
    assert loaded.beta == 4.0
    logs = loaded.fit(X, batch_size=8, verbose=0).history
    assert factors(logs) == pytest.approx([4.0], rel=1e-3)


ADJUSTED = {
    "free_bits": (dense(), 0.0, 50.0),
    "num_samples": (dense(), 1, 3),
    "commitment": (vq(), 0.25, 100.0),
    "balance": (ladder(beta=0.5), False, True),
    "beta": (dense(), 1.0, 7.0),
    "skip_threshold": (dense(), None, 1e-6),
}


@pytest.mark.parametrize("name", ADJUSTED)
def test_what_can_be_set_counts_in_the_next_step(name):
    make, old, new = ADJUSTED[name]

    def losses(values):
        # Weights from NumPy: new ones are random, and may leave groups that need no balance.
        model = filled(make(seed=1, **{name: values[0]}))
        model.draw = lambda shape, distribution="normal", alike=False: 0.3 * ops.ones(shape)
        model.compile(keras.optimizers.SGD(0.0))
        made = []
        for value in values:
            setattr(model, name, value)
            logs = model.fit(X, batch_size=8, verbose=0).history
            made.append(np.nan_to_num([logs["loss"][0], logs["skipped"][0]]))
        assert getattr(model, name) == model.get_config()[name] == values[-1]
        return made

    before, after = losses([old, new])
    assert not np.allclose(before, after, rtol=1e-6) or name == "num_samples"
    if name == "skip_threshold":
        assert [before[1], after[1]] == [0, 1]


REFUSED = {
    "beta=-1": (dense(), "beta", -1),
    "beta='high'": (dense(), "beta", "high"),
    "free_bits=nan": (dense(), "free_bits", float("nan")),
    "num_samples`.*Received: 0": (dense(), "num_samples", 0),
    "commitment=-2": (vq(), "commitment", -2),
    "skip_threshold`.*Received: 0": (dense(), "skip_threshold", 0),
    "A schedule of `beta`": (dense(), "beta", vae_zoo.schedules.Sigmoid(3)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_values_are_refused_as_when_a_model_is_built(message):
    make, name, value = REFUSED[message]
    model = make(seed=1)
    before = getattr(model, name)
    with pytest.raises(ValueError, match=message):
        setattr(model, name, value)
    assert getattr(model, name) == before


FIXED = {
    "latent_dim": (dense(), 3),
    "hidden": (dense(), (7,)),
    "shape": (dense(), (8, 8, 1)),
    "likelihood": (dense(), vae_zoo.likelihoods.Gaussian(0.1)),
    "prior": (dense(), vae_zoo.GaussianMixture((2,), 2)),
    "seed": (dense(), 5),
    "filters": (conv(), (9, 9)),
    "latent_grid": (conv(), True),
    "beta": (vq(), 1.0),
    "decay": (vq(averaged=True), 0.5),
    "groups": (ladder(), (2, 2)),
    "blocks": (FAMILIES["pixel_cnn"].make, 3),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_is_built_in_cannot_be_set(name):
    make, value = FIXED[name]
    model = make(seed=1)
    before = getattr(model, name)
    setattr(model, name, before)  # changes nothing
    with pytest.raises(AttributeError, match=f"`{name}` is fixed when.* can be set$"):
        setattr(model, name, value)
    assert getattr(model, name) is before


def test_parts_are_as_they_were_made():
    for part, name in (
        (vae_zoo.likelihoods.Gaussian(), "momentum"),
        (vae_zoo.likelihoods.Laplace(0.5), "scale"),
        (vae_zoo.quantizers.Codebook(4, 2), "decay"),
        (vae_zoo.schedules.Sigmoid(3), "beta"),
        (vae_zoo.schedules.Cyclical(3), "ratio"),
    ):
        with pytest.raises(AttributeError, match=f"`{name}` is fixed"):
            setattr(part, name, 0.125)


def test_a_family_of_ones_own_says_what_can_be_set():
    class Own(vae_zoo.DenseVAE):
        numbers = ("beta", "gamma")
        adjustable = {**vae_zoo.DenseVAE.adjustable, "gamma": float}

        def __init__(self, gamma=1.0, hidden=(5,), **kwargs):
            super().__init__(SHAPE, 2, hidden=hidden, **kwargs)
            self.gamma, self.hidden = gamma, list(hidden)

        def rate(self, kl, beta):
            return self.number("gamma") * super().rate(kl, beta)

    model = Own(seed=1)
    model.compile(keras.optimizers.SGD(0.0))
    for gamma in (1.0, 6.0):
        model.gamma = gamma
        logs = model.fit(X, batch_size=8, verbose=0).history
        assert factors(logs) == pytest.approx([gamma], rel=1e-3)


def test_what_is_frozen_after_a_step_needs_to_be_compiled():
    model = dense()(seed=1)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(X, batch_size=8, verbose=0)
    model.encoder.trainable = False
    for use in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="frozen has changed since `compile`: call it again"):
            use(X)
    before = model.encoder.get_weights()
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(X, batch_size=8, verbose=0)
    for old, new in zip(before, model.encoder.get_weights()):
        np.testing.assert_array_equal(old, new)
