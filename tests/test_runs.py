"""A run that is interrupted and resumed ends as one that never was."""

import csv
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from vae_zoo import DenseVAE, data, likelihoods, runs, schedules
from vae_zoo.lab.checkpoint import settings_of


@pytest.fixture(scope="module")
def splits():
    return [(data.load("digits", split)[0][:100, ::4, ::4], None) for split in data.SPLITS[:2]]


IMAGES = data.load("digits")[0][:100, ::4, ::4]


def model(variance="optimal", optimizer=None, prior="normal"):
    keras.utils.set_random_seed(5)
    prior = runs.prior(prior, (2,), IMAGES, components=3, couplings=2, units=4, seed=5)
    beta = schedules.warm_up(6, 1.0)
    likelihood = likelihoods.Gaussian(variance)
    vae = DenseVAE((7, 7, 1), 2, hidden=(8,), likelihood=likelihood, beta=beta, prior=prior, seed=5)
    vae.compile(optimizer or keras.optimizers.Adam(runs.scheduled(1e-2, "cosine", 5, 100, 40)))
    return vae


def fit(vae, splits, output, epochs=5, patience=50, **settings):
    settings = {"batch_size": 40, "seed": 5, "patience": patience, "output": output, **settings}
    return runs.fit(vae, *splits, epochs=epochs, **settings)


def variables(vae):
    groups = [*vae.weights, *vae.optimizer.variables, vae.noise.state]
    return [np.array(ops.convert_to_numpy(v)) for v in groups]


def averaging():
    return keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9)


def interrupted(splits, output, monkeypatch, at_step, **settings):
    """A run killed in the middle of an epoch."""
    vae, steps = model(**settings), []

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


def test_a_warm_up_longer_than_the_training_is_noticed(splits, tmp_path, capsys):
    fit(model(), splits, tmp_path / "a", epochs=1, warmup_epochs=4)
    assert "warm-up of 4 epochs is longer than the training of 1" in capsys.readouterr().out
    fit(model(), splits, tmp_path / "b", epochs=1, warmup_epochs=1)
    assert "warm-up" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "at_step, optimizer, prior",
    [(3, None, "normal"), (25, None, "vamp"), (25, averaging, "flow")],
)
def test_resumed_equals_uninterrupted(splits, tmp_path, monkeypatch, at_step, optimizer, prior):
    def new():
        return {"optimizer": optimizer and optimizer(), "prior": prior}

    whole = model(**new())
    history = fit(whole, splits, tmp_path / "whole")
    interrupted(splits, tmp_path / "killed", monkeypatch, at_step, **new())
    for _ in "interrupted", "finished":  # to resume what is finished changes nothing
        resumed = model(**new())
        resumed_history = fit(resumed, splits, tmp_path / "killed", resume=True)
        assert resumed_history == history and len(history["loss"]) == 5
        for a, b in zip(variables(whole), variables(resumed)):
            np.testing.assert_array_equal(a, b)
    tables = [(tmp_path / run / "history.csv").read_text() for run in ("whole", "killed")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [float(row["val_elbo"]) for row in rows] == history["val_elbo"]


def test_early_stopping_goes_on_counting(splits, tmp_path, monkeypatch):
    """Epochs without a gain before the resume count after it: one gain, the first, then four."""

    class Kill(Exception):
        pass

    def kill(epoch, logs):
        if epoch == 3:
            raise Kill

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(runs.Checkpoint, "on_epoch_begin", lambda self, *a: kill(*a), raising=False)
        fit(model(1.0, keras.optimizers.SGD(0.0)), splits, tmp_path, epochs=50, patience=4)
    vae = model(1.0, keras.optimizers.SGD(0.0))
    history = fit(vae, splits, tmp_path, epochs=50, patience=4, resume=True)
    assert len(history["loss"]) == 5


def test_averaged_weights_are_validated_and_kept(splits, tmp_path):
    vae, plain = model(optimizer=averaging()), model(optimizer=keras.optimizers.Adam(1e-2))
    history = fit(vae, splits, tmp_path / "averaged", epochs=1)
    fit(plain, splits, tmp_path / "plain", epochs=1)
    held_out = data.Batches(*splits[1], batch_size=40, shuffle=False)
    kept, last = (m.evaluate(held_out, verbose=0, return_dict=True)["elbo"] for m in (vae, plain))
    assert history["val_elbo"] == [pytest.approx(kept, rel=1e-6)]
    assert not np.isclose(kept, last, rtol=1e-3)  # the averages lag behind the weights


def test_two_runs_in_one_folder_are_one_too_many(tmp_path):
    output = tmp_path / "run"
    settings = {"output": str(output), "overwrite": True}
    code = "import sys, time; from vae_zoo import files; print(files.lock(*sys.argv[1:]), flush=1)"
    command = [sys.executable, "-c", f"{code}; time.sleep(600)", str(output), "process 7"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "None\n"
        for more in ({}, {"overwrite": False, "resume": True}, {"overwrite": False}):
            with pytest.raises(ValueError, match=r"in use by another run \(process 7\): wait"):
                runs.claim({**settings, **more})
    finally:
        other.kill()
        other.communicate()
    for name in (".model.{}.keras", ".checkpoint.{}.npz", ".notes.{}.txt", ".images-ab.{}.u8"):
        (output / name.format(other.pid)).write_text("half")
    (output / f".model.{os.getpid()}.keras").write_text("being written")
    runs.claim(settings)  # gone with its process, and what it has left with it
    assert str(os.getpid()) in (output / ".lock").read_text()
    kept = {".lock", f".model.{os.getpid()}.keras", f".notes.{other.pid}.txt"}
    assert {path.name for path in output.iterdir()} == kept
    runs.claim(settings)  # of one process as often as it likes


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


def test_a_damaged_checkpoint_is_one_line_and_the_one_before_is_offered(splits, tmp_path):
    path, before = tmp_path / "checkpoint.npz", tmp_path / "checkpoint.previous.npz"
    fit(model(), splits, tmp_path, epochs=1)
    assert not before.exists()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [
        0,
        30,
        len(whole) // 2,
        len(whole) - 66,
        len(whole) - 1,
        *rng.integers(0, len(whole), 20),
    ]
    damaged = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in places]
    # The last of them NumPy would advise to unpickle.
    for content in (*damaged, whole[:-1], whole[:99], b"", b"PK", pickle.dumps([1, 2, 3])):
        path.write_bytes(content)
        for read in (runs.seconds_of, settings_of):
            with pytest.raises(ValueError) as caught:
                read(tmp_path)
            said = str(caught.value)
            assert said.startswith(f"{path} is damaged (") and "\n" not in said
            assert said.endswith("): --overwrite starts anew") and "pickle=True" not in said
    path.write_bytes(whole)
    kept = model()
    fit(kept, splits, tmp_path, epochs=2)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"mv {before} {path} goes back to the epoch before"):
        fit(model(), splits, tmp_path, epochs=2, resume=True)
    before.replace(path)
    resumed = model()
    fit(resumed, splits, tmp_path, epochs=2, resume=True)
    for a, b in zip(variables(kept), variables(resumed)):
        np.testing.assert_array_equal(a, b)
    path.write_bytes(path.read_bytes()[:-64][:-2] + bytes(2))  # as before there was a checksum
    assert settings_of(tmp_path)["epochs"] == 2


def test_a_checkpoint_of_another_model_is_refused(splits, tmp_path):
    fit(model(), splits, tmp_path, epochs=1)
    other = DenseVAE((7, 7, 1), 3, hidden=(8,), likelihood="gaussian")
    other.compile()
    with pytest.raises(ValueError, match="another model"):
        fit(other, splits, tmp_path, epochs=1, resume=True)


def test_a_checkpoint_of_other_settings_is_refused(splits, tmp_path):
    fit(model(), splits, tmp_path, epochs=1, warmup_epochs=2, importance_samples=7)
    with pytest.raises(ValueError, match="of a run with warmup_epochs=2, epochs=1: resume with"):
        fit(model(), splits, tmp_path, epochs=3, warmup_epochs=1, resume=True)
    again = {"warmup_epochs": 2, "importance_samples": 0, "resume": True}
    assert len(fit(model(), splits, tmp_path, epochs=1, **again)["loss"]) == 1


@pytest.mark.parametrize(
    "schedule, half",
    [("cosine", 0.505), ("linear", 0.505), ("exponential", 0.1), ("constant", 1.0)],
)
def test_learning_rates_fall_to_a_hundredth(schedule, half):
    rate = runs.scheduled(0.5, schedule, epochs=10, n=130, batch_size=64)  # 30 steps
    at = lambda step: float(rate(step)) if callable(rate) else rate  # noqa: E731
    end = 1.0 if schedule == "constant" else 0.01
    np.testing.assert_allclose([at(0), at(15), at(30)], [0.5, 0.5 * half, 0.5 * end], rtol=1e-5)
    if schedule != "exponential" and callable(rate):
        assert at(40) == at(30)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="cosine, linear, exponential or constant.*step"):
        runs.scheduled(0.5, "step", 1, 1, 1)


def test_tensorboard_has_every_term(splits, tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    history = fit(model(), splits, tmp_path, epochs=2, tensorboard=True)
    written = {}
    for file in (tmp_path / "tensorboard").iterdir():
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                written.setdefault(value.tag, []).append(value.tensor.float_val[0])
    assert written["elbo/train"] == pytest.approx(history["elbo"], rel=1e-6)
    assert written["elbo/validation"] == pytest.approx(history["val_elbo"], rel=1e-6)
    assert len(written) == len(history)
