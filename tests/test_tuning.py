"""Searches: what is varied, what is sought, and that nothing is lost on the way."""

import json
import math
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import vae_zoo
from vae_zoo import cli, tuning

BACKEND = keras.backend.backend()
pytestmark = [  # of KerasTuner's own
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
]
RECIPE = pathlib.Path(__file__).parent.parent / "recipes" / "tune.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A .npz of forty images of 8×6, of three classes."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    levels = np.random.default_rng(0).integers(-80, 336, (40, 8, 6, 1))
    np.savez(path, x=np.clip(levels, 0, 255).astype("uint8"), y=np.arange(40) % 3)
    return str(path)


@pytest.fixture
def untrained(monkeypatch):
    """Trials are measured as they begin: what is tested is what comes of the numbers."""
    monkeypatch.setattr(vae_zoo.DenseVAE, "fit", lambda self, *args, **kwargs: None)


def searched(tmp_path, family, dataset, trials=2, kind="random", **settings):
    lines = []
    search = tuning.Search(
        family, dataset, epochs=2, batch_size=16, progress=lines.append, **settings
    )
    tuner = search.tuner(kind, trials, tmp_path)
    tuner.search(epochs=2, verbose=0)
    return search, tuner, lines


@pytest.mark.parametrize("family", tuning.FAMILIES)
def test_every_family_has_a_space_around_the_recipes_default(family, tiny):
    search = tuning.Search(family, tiny, epochs=1, batch_size=16, progress=[].append)
    hp = tuning.keras_tuner.HyperParameters()
    model = search.build(hp)
    assert isinstance(model, keras.Model) and len(hp.values) >= 3
    held_out = vae_zoo.data.Batches(*search.validation, batch_size=16, shuffle=False)
    numbers = search.measured(model, held_out)
    assert math.isfinite(numbers["val_loss"])


def test_the_best_trial_is_kept_as_it_was_measured(tmp_path, tiny):
    search, tuner, lines = searched(tmp_path, "dense_vae", tiny, trials=3)
    rows = tuning.table(tuner)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 3 == ["COMPLETED"] * len(lines)
    assert rows[0]["val_elbo"] == max(row["val_elbo"] for row in rows)
    model = tuner.load_model(tuner.oracle.get_trial(rows[0]["trial"]))
    held_out = vae_zoo.data.Batches(*search.validation, batch_size=16, shuffle=False)
    again = search.measured(model, held_out)
    assert again["val_elbo"] == pytest.approx(rows[0]["val_elbo"], rel=1e-5)
    assert rows[0]["val_elbo"] == pytest.approx(-rows[0]["rate"] - rows[0]["distortion"], rel=1e-5)


def test_factors_say_which_beta_is_good(tmp_path, tiny, untrained):
    factors = np.stack(np.unravel_index(np.arange(60), (3, 4, 5)), axis=1)
    x = np.zeros((60, 4, 4, 1), "uint8")
    x[np.arange(60), factors[:, 0], factors[:, 1], 0] = 40 * factors[:, 2] + 55
    np.savez(tmp_path / "x.npz", images=x, factors=factors)
    how = {"objective": "mig_lib", "likelihood": "gaussian"}
    search, tuner, _ = searched(tmp_path, "dense_vae", str(tmp_path / "x.npz"), **how)
    for row in tuning.table(tuner):
        model = tuner.load_model(tuner.oracle.get_trial(row["trial"]))
        expected = vae_zoo.disentanglement.mig(model.encode(x), factors)
        assert row["mig_lib"] == pytest.approx(expected, abs=1e-3) and row["beta"] > 0
    for family, dataset, words in (
        ("dense_vae", tiny, "must be a data set with factors"),
        ("vq_vae", str(tmp_path / "x.npz"), "mig_lib needs one vector of latents, unlike vq_vae"),
    ):
        with pytest.raises(ValueError, match=words):
            tuning.Search(family, dataset, objective="mig_lib")


def test_beta_is_searched_only_where_one_is_not_best_by_construction(tiny):
    space = {}
    for objective, target in (("val_elbo", None), ("rate_at_distortion", 20.0)):
        hp = tuning.keras_tuner.HyperParameters()
        tuning.Search("dense_vae", tiny, objective, target, progress=[].append).build(hp)
        space[objective] = set(hp.values)
    assert space["rate_at_distortion"] - space["val_elbo"] == {"beta"}


def test_the_rate_is_sought_at_a_distortion():
    judge = tuning.OBJECTIVES["rate_at_distortion"]
    search = type("Search", (), {"target_distortion": 80.0})
    value = lambda rate, distortion: judge.value(  # noqa: E731
        search, None, {"rate": rate, "distortion": distortion}
    )
    assert value(20.0, 79.0) == 20.0 < value(25.0, 60.0) < value(20.0, 80.5) == 70.0


def test_a_rate_out_of_reach_of_its_distortion_is_still_told_as_it_is(tmp_path, tiny, untrained):
    settings = {"objective": "rate_at_distortion", "target_distortion": 1.0}
    _, tuner, _ = searched(tmp_path, "dense_vae", tiny, **settings)
    for row in tuning.table(tuner):
        excess = 100 * (row["distortion"] - 1.0)
        assert row["rate_at_distortion"] == pytest.approx(row["rate"] + excess, rel=1e-6)


def test_objectives_plug_in_by_name(tmp_path, tiny, untrained, monkeypatch):
    latents = tuning.Objective("min", lambda search, model, numbers: model.latent_shape[0])
    monkeypatch.setitem(tuning.OBJECTIVES, "latents", latents)
    _, tuner, _ = searched(tmp_path, "dense_vae", tiny, 3, objective="latents")
    rows = tuning.table(tuner)
    assert [row["latents"] for row in rows] == sorted(row["latent_dim"] for row in rows)
    assert all("beta" in row for row in rows)


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(
    tmp_path, tiny, untrained, monkeypatch
):
    measured, calls = tuning.Search.measured, []

    def sometimes_nan(self, model, held_out):
        calls.append(1)
        numbers = measured(self, model, held_out)
        if len(calls) == 2:
            raise MemoryError("no memory is left")
        return numbers | ({"val_elbo": math.nan} if len(calls) < 4 else {})

    monkeypatch.setattr(tuning.Search, "measured", sometimes_nan)
    _, tuner, lines = searched(tmp_path, "dense_vae", tiny, trials=4)
    rows = tuning.table(tuner)
    assert [row["status"] for row in rows] == ["COMPLETED"] + ["FAILED"] * 3
    assert sum("trial failed: val_elbo is nan" in line for line in lines) == 2
    assert sum("no memory is left" in line for line in lines) == 1


def test_hyperband_trains_the_best_to_the_end_within_the_number_of_trials(tmp_path, tiny):
    search = tuning.Search("dense_vae", tiny, epochs=3, batch_size=16, progress=[].append)
    tuner = search.tuner("hyperband", 4, tmp_path)
    tuner.search(epochs=3, verbose=0)
    trials = tuner.oracle.trials.values()
    epochs = [trial.hyperparameters.values["tuner/epochs"] for trial in trials]
    assert epochs == [1, 1, 1, 3] and len(tuning.table(tuner)) == 4


@pytest.mark.parametrize("epochs, trials", [(30, 12), (30, 30), (30, 2), (100, 60), (5, 5)])
def test_hyperbands_first_bracket_fits(epochs, trials):
    oracle = tuning.keras_tuner.oracles.HyperbandOracle(
        "loss", max_epochs=epochs, factor=tuning._factor(epochs, trials)
    )
    bracket = range(oracle._get_num_brackets())
    assert 1 < sum(oracle._get_size(bracket[-1], i) for i in bracket) <= trials
    assert oracle._get_epochs(bracket[-1], bracket[-1]) == epochs


def test_a_trial_that_goes_on_finds_its_learning_rate_where_it_was(tiny):
    search = tuning.Search("dense_vae", tiny, epochs=9, batch_size=16, progress=[].append)
    rates = []
    for first in (0, 3):
        hp = tuning.keras_tuner.HyperParameters()
        hp.values |= {"tuner/epochs": 9, "tuner/initial_epoch": first}
        optimizer = search.build(hp).optimizer
        optimizer.iterations.assign(3 * 2)  # three epochs, as the first trial's file has it
        rates.append(float(optimizer.learning_rate))
    assert rates[0] == rates[1] < 1e-3


def test_a_lost_worker_ends_the_search(tmp_path, tiny, monkeypatch):
    def fit(*args, **kwargs):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(vae_zoo.DenseVAE, "fit", fit)
    monkeypatch.setattr(tuning.distribute, "lost", lambda error: True)
    with pytest.raises(tuning.keras_tuner.errors.FatalError, match="Connection closed"):
        searched(tmp_path, "dense_vae", tiny)


@pytest.mark.parametrize("objective, stops", [("val_elbo", 1), ("rate_at_distortion", 0)])
def test_only_a_search_at_beta_one_stops_at_the_best_bound(objective, stops, tiny, monkeypatch):
    seen = []
    spy = lambda self, *args, callbacks, **kwargs: seen.extend(callbacks)  # noqa: E731
    monkeypatch.setattr(vae_zoo.DenseVAE, "fit", spy)
    target = 20.0 if stops == 0 else None
    search = tuning.Search("dense_vae", tiny, objective, target, epochs=1, progress=[].append)
    search.default()
    assert sum(isinstance(c, keras.callbacks.EarlyStopping) for c in seen) == stops


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "gan"}, "`family` must be one of .* Received: 'gan'"),
        ({"objective": "fid"}, "`objective` must be one of .* Received: 'fid'"),
        ({"family": "pixel_cnn", "objective": "cnn_fid"}, "The objective of pixel_cnn must be"),
        ({"objective": "rate_at_distortion"}, "rate_at_distortion and a target distortion"),
        ({"target_distortion": 9.0}, "rate_at_distortion and a target distortion"),
        ({"objective": "cnn_fid"}, "needs a classifier, and the zoo has none for digits"),
    ],
)
def test_a_search_that_cannot_be_says_why(settings, message):
    with pytest.raises(ValueError, match=message):
        tuning.Search(**settings)


def arguments(dataset, output):
    return ["--dataset", dataset, "--epochs", "2", "--batch-size", "16", "--output", str(output)]


def start(dataset, output, *flags, log, script=(RECIPE,), **environment):
    own = {"KERAS_BACKEND": BACKEND, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *map(str, script), *arguments(dataset, output), *flags]
    with open(log, "w") as file:
        return subprocess.Popen(
            command, env=os.environ | own | environment, stdout=file, stderr=subprocess.STDOUT
        )


def trials(output):
    return [json.loads(p.read_text()) for p in output.glob("trials/trial_*/trial.json")]


def wait_for(condition, process, seconds=900):  # so long that only what hangs takes longer
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)


def test_a_search_that_is_killed_goes_on_and_ends_with_a_model(tmp_path, tiny, capsys):
    output, log = tmp_path / "out", tmp_path / "log.txt"
    flags = ["--tuner", "random", "--trials"]
    process = start(tiny, output, *flags, "99", log=log)
    wait_for(lambda: "val_elbo -" in log.read_text(), process)
    # KerasTuner has written down that the first trial is over once it has begun the second.
    wait_for(lambda: len(trials(output)) > 1, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {t["trial_id"]: t for t in trials(output) if t["status"] == "COMPLETED"}
    assert finished and not (output / "best").exists()

    total = str(len(finished) + 2)  # the one that was broken off, and a new one
    assert start(tiny, output, *flags, total, log=log).wait(900) == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert f"{len(finished)} finished trials were there already" in text
    assert "β is not searched" in text and "the recipe's default" in text
    after = {t["trial_id"]: t for t in trials(output)}
    assert len(after) == int(total)
    assert all(after[name] == trial for name, trial in finished.items())
    files = {path.name for path in output.iterdir()}
    assert {"trials.csv", "search.png", "parallel.png", "rate_distortion.png"} <= files
    model = vae_zoo.load_model(output / "best")
    card = json.loads((output / "best" / "card.json").read_text())
    assert model.latent_shape == (card["hyperparameters"]["latent_dim"],)
    assert card["objective"]["best"] == max(t["score"] for t in after.values())

    tune = runpy.run_path(str(RECIPE))["tune"]
    for folder, wrong, words in (
        (output, ["--seed", "1"], "holds a search with other settings"),
        (tmp_path / "new", ["--tuner", "rndom"], "must be one of"),
    ):
        with pytest.raises(SystemExit) as exit:
            cli.run(tune, [*arguments(tiny, folder), *flags, total, *wrong])
        assert exit.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new" / "search.json").exists()


# A worker waits in its first trial until the other has begun one.
TOGETHER = """
import pathlib, runpy, sys, time
from vae_zoo import tuning
fit, folder = tuning.Search.fit, pathlib.Path(sys.argv[1])
def fit_together(*args, **kwargs):
    while len(list(folder.glob("trials/trial_*/trial.json"))) < 2:
        time.sleep(0.05)
    return fit(*args, **kwargs)
tuning.Search.fit = fit_together
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_kill_between_a_trial_and_the_list_of_trials_loses_neither(tmp_path, tiny, untrained):
    searched(tmp_path, "dense_vae", tiny, 3)
    first, second, third = (tmp_path / "trials" / f"trial_{i}" / "trial.json" for i in range(3))
    drawn = json.loads(third.read_text())
    third.write_text(json.dumps(drawn | {"status": "RUNNING", "score": None}))
    listed = tmp_path / "trials" / "oracle.json"
    state = json.loads(listed.read_text())  # as it was when the second was over, the third begun
    state |= {"ongoing_trials": {"tuner0": "1"}, "start_order": ["0", "1"], "end_order": ["0"]}
    listed.write_text(json.dumps(state))
    before = first.read_text(), second.read_text()

    _, tuner, lines = searched(tmp_path, "dense_vae", tiny, 3)
    assert len(lines) == 1 and (first.read_text(), second.read_text()) == before
    assert [t.status for t in tuner.oracle.trials.values()] == ["COMPLETED"] * 3
    assert tuner.oracle.end_order == ["0", "1", "2"]


def test_two_workers_search_together(tmp_path, tiny):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    flags, output, script = ["--trials", "4", "--tuner", "random"], tmp_path / "out", tmp_path / "s"
    script.write_text(TOGETHER)
    processes = {
        name: start(
            *(tiny, output, *flags),
            log=tmp_path / f"{name}.txt",
            script=(script, output, RECIPE),
            **shared,
            KERASTUNER_TUNER_ID=name,
        )
        for name in ("chief", "tuner0", "tuner1")
    }
    try:
        for name, process in processes.items():
            assert process.wait(900) == 0, (tmp_path / f"{name}.txt").read_text()[-3000:]
    finally:
        for process in processes.values():
            process.kill()
    done = [(tmp_path / f"tuner{i}.txt").read_text().count("val_elbo -") for i in (0, 1)]
    assert min(done) >= 1 and sum(done) == 4
    assert len(trials(output)) == 4 and (output / "best" / "model.keras").exists()
