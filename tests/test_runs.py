"""A run that is interrupted and resumed ends as one that never was."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

from vae_zoo import DenseVAE, data, likelihoods, runs, schedules


@pytest.fixture(scope="module")
def splits():
    return [(data.load("digits", split)[0][:100, ::4, ::4], None) for split in data.SPLITS[:2]]


def model(variance="optimal", optimizer=None):
    keras.utils.set_random_seed(5)
    beta = schedules.warm_up(6, 1.0)
    likelihood = likelihoods.Gaussian(variance)
    vae = DenseVAE((7, 7, 1), 2, hidden=(8,), likelihood=likelihood, beta=beta, seed=5)
    vae.compile(optimizer or keras.optimizers.Adam(runs.decayed(1e-2, 5, 100, 40)))
    return vae


def fit(vae, splits, output, epochs=5, patience=50, **kwargs):
    return runs.fit(vae, *splits, epochs, 40, 5, patience, output, **kwargs)


def variables(vae):
    groups = [*vae.weights, *vae.optimizer.variables, vae.noise.state]
    return [np.array(ops.convert_to_numpy(v)) for v in groups]


def interrupted(splits, output, monkeypatch, at_step):
    """A run killed in the middle of an epoch."""
    vae, steps = model(), []

    def killed(*arguments):
        steps.append(1)
        if len(steps) == at_step:
            raise KeyboardInterrupt
        return read(*arguments)

    read = data.Batches.__getitem__
    with monkeypatch.context() as patch:
        patch.setattr(data.Batches, "__getitem__", killed)
        with pytest.raises(BaseException):  # noqa: B017 (TensorFlow wraps what a dataset raises)
            fit(vae, splits, output)


@pytest.mark.parametrize("at_step", [3, 25])
def test_resumed_equals_uninterrupted(splits, tmp_path, monkeypatch, at_step):
    whole = model()
    history = fit(whole, splits, tmp_path / "whole")
    interrupted(splits, tmp_path / "killed", monkeypatch, at_step)
    for _ in "interrupted", "finished":  # to resume what is finished changes nothing
        resumed = model()
        resumed_history = fit(resumed, splits, tmp_path / "killed", resume=True)
        assert resumed_history == history and len(history["loss"]) == 5
        for a, b in zip(variables(whole), variables(resumed)):
            np.testing.assert_array_equal(a, b)
    tables = [(tmp_path / run / "history.csv").read_text() for run in ("whole", "killed")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [float(row["val_elbo"]) for row in rows] == history["val_elbo"]


def test_early_stopping_goes_on_counting(splits, tmp_path):
    """Epochs without a gain before the resume count after it: one gain, the first, then four."""
    fit(model(1.0, keras.optimizers.SGD(0.0)), splits, tmp_path, epochs=3, patience=4)
    vae = model(1.0, keras.optimizers.SGD(0.0))
    history = fit(vae, splits, tmp_path, epochs=50, patience=4, resume=True)
    assert len(history["loss"]) == 5


def test_a_full_disk_leaves_the_last_checkpoint(splits, tmp_path, monkeypatch):
    vae = model()
    fit(vae, splits, tmp_path, epochs=1)
    before = (tmp_path / "checkpoint.npz").read_bytes()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        fit(vae, splits, tmp_path, epochs=2)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_another_model_is_refused(splits, tmp_path):
    fit(model(), splits, tmp_path, epochs=1)
    other = DenseVAE((7, 7, 1), 3, hidden=(8,), likelihood="gaussian")
    other.compile()
    with pytest.raises(ValueError, match="another model"):
        fit(other, splits, tmp_path, resume=True)
