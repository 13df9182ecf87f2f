"""Two devices, and two processes, do what one device does."""

import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import parallel
import pytest
from keras import ops

import vae_zoo
from vae_zoo import data, distribute
from vae_zoo.engine import replicas
from vae_zoo.engine.trainable import Trainable

BACKEND = keras.backend.backend()
HERE = pathlib.Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "dense_vae.py"


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(script, arguments, processes, folder):
    """Starts a script as so many workers, each with its output in a file of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    ports, started = [free_port() for _ in range(2)], []
    for number in range(processes):
        own = {"KERAS_BACKEND": BACKEND, "OMP_NUM_THREADS": "1", "NPROC": "8"}
        own["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
        if BACKEND == "torch":
            own |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes)}
            own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(ports[0])}
        elif processes > 1 and BACKEND == "jax":
            own["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"localhost:{ports[0]}"
            own["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(processes)
            own["KERAS_DISTRIBUTION_PROCESS_ID"] = str(number)
        elif processes > 1:
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            task = {"type": "worker", "index": number}
            own["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        command = [sys.executable, str(script), *map(str, arguments)]
        with open(folder / f"{number}.log", "w") as log:
            process = subprocess.Popen(
                command, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT
            )
        started.append(process)
    return started


def finish(processes, folder, seconds=900):
    """Waits for all, so long that only what hangs takes longer; the exit statuses."""
    try:
        codes = [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for number, code in enumerate(codes):
        if code:
            sys.stdout.write((folder / f"{number}.log").read_text()[-3000:])
    return codes


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    """All cases, trained on two devices: a folder."""
    folder = tmp_path_factory.mktemp("two_devices")
    workers = 2 if BACKEND == "torch" else 1
    devices = 0 if BACKEND == "torch" else 2
    script = HERE / "parallel.py"
    processes = start(script, [folder, devices, *parallel.CASES], workers, folder)
    assert not any(finish(processes, folder))
    return folder


@pytest.fixture(scope="module")
def two_processes(request, tmp_path_factory):
    """Some cases, trained by two processes: a folder."""
    if BACKEND == "torch":  # whose devices are processes
        return request.getfixturevalue("two_devices")
    folder = tmp_path_factory.mktemp("two_processes")
    processes = start(HERE / "parallel.py", [folder, 0, *parallel.SHORT], 2, folder)
    assert not any(finish(processes, folder))
    return folder


@pytest.fixture(scope="module")
def one_device():
    """Function of a case, trained once on one device: what was found."""

    @functools.cache
    def trained(case):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainable, "draw", parallel.quiet)
            return parallel.train(case)[1]

    return trained


def relative_difference(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(a)


def assert_same(one, other, case):
    assert set(one) == set(other)
    for name in [name for name in one if name.startswith("history/")]:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert relative_difference(one["weights"], other["weights"]) <= 1e-5
    assert relative_difference(one["slots"], other["slots"]) <= 1e-4
    if case in parallel.MODELS:
        np.testing.assert_allclose(other["reconstructions"], one["reconstructions"], atol=1e-4)
    if case in parallel.BOUNDED:
        assert one["log_likelihood"].shape == (7,) and np.ptp(one["log_likelihood"]) > 0.3
        np.testing.assert_allclose(other["log_likelihood"], one["log_likelihood"], rtol=1e-4)
    if case == "vq_vae":
        assert (one["codes"] == other["codes"]).all() and len(np.unique(one["codes"])) > 4


@pytest.mark.parametrize("case", [case for case in parallel.CASES if case != "float16"])
def test_two_devices_do_what_one_does(case, two_devices, one_device):
    one, two = one_device(case), np.load(two_devices / f"{case}.npz")
    if case == "skipping":
        assert one["history/skipped"].tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1]  # norm, then NaN
    assert_same(one, {name: two[name] for name in two.files}, case)


def test_overflows_of_float16_are_skipped_together(two_devices, one_device):
    one, two = one_device("float16"), np.load(two_devices / "float16.npz")
    for found in (one, two):
        assert np.isfinite(found["history/loss"]).all() and np.isfinite(found["weights"]).all()
        assert found["history/skipped"][0] >= 1 and found["history/skipped"].sum() <= 4
    # A part of a batch overflows later than the whole: the scales part, the losses hardly.
    np.testing.assert_allclose(two["history/loss"], one["history/loss"], rtol=0.05)
    assert two["history/loss"][-1] < two["history/loss"][0]


def test_replicas_draw_different_noise(two_devices):
    found = np.load(two_devices / "echo.npz")
    for sums in (found["trained"], found["tested"]):
        assert (np.abs(sums) > 1e-4).all()
    assert len(set(found["trained"])) == 3  # and other noise at every step
    trained, tested = parallel.echo()
    assert (np.abs([*trained, tested]) < 1).all() and (np.abs(found["trained"]) < 1).all()


def test_features_are_made_of_every_image(two_devices):
    found, x = np.load(two_devices / "features.npz"), parallel.images()
    expected = (x / np.float32(255)).reshape(len(x), -1) @ found["kernel"]
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)


def test_what_couples_examples_and_what_has_no_labels(two_devices):
    found, expected = np.load(two_devices / "others.npz"), parallel.others()
    assert set(found.files) == set(expected) == {"coupled", "plain", "labelled"}
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=1e-5, err_msg=name)
        assert np.ptp(numbers) > 1e-4


@pytest.mark.skipif(BACKEND != "tensorflow", reason="reads TF_CONFIG on TensorFlow only")
@pytest.mark.parametrize("first", ["chief", "worker"])
def test_a_chief_is_a_worker_and_the_first_of_all(first, monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    cluster = cluster if first == "chief" else {"worker": ["a:1", "b:1"]}
    other = {"type": "worker", "index": 0 if first == "chief" else 1}
    for task, main in (({"type": first, "index": 0}, True), (other, False)):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        assert distribute.is_main() == main and distribute._processes() == 2


def test_what_two_devices_save_one_loads(two_devices):
    model = vae_zoo.load_model(two_devices / "hierarchical_vae.keras")
    two = np.load(two_devices / "hierarchical_vae.npz")
    weights = [ops.convert_to_numpy(v).ravel() for v in model.weights]
    np.testing.assert_array_equal(np.concatenate(weights).astype("float64"), two["weights"])
    made = model.predict(parallel.images()[:7], verbose=0)
    np.testing.assert_allclose(made, two["reconstructions"], atol=1e-5)
    steps = int(ops.convert_to_numpy(model.optimizer.iterations))
    model.fit(parallel.images(), batch_size=parallel.BATCH, verbose=0)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == steps + 3


@pytest.mark.skipif(BACKEND == "torch", reason="its devices are processes anyway")
@pytest.mark.parametrize("case", parallel.SHORT)
def test_two_processes_do_what_one_does(case, two_processes, one_device):
    one = one_device(case)
    for folder in (two_processes, two_processes / "other"):
        found = np.load(folder / f"{case}.npz")
        assert_same(one, {name: found[name] for name in found.files}, case)


def test_models_without_a_seed_begin_alike_in_two_processes(two_processes):
    one, other = (np.load(two_processes / part / "unseeded.npz") for part in ("", "other"))
    assert one["weights"].std() > 0.01 and one["loss"] == other["loss"]
    np.testing.assert_array_equal(one["weights"], other["weights"])


def test_a_search_and_an_evaluation_are_spread_out(tmp_path):
    logs, output, numbers = (tmp_path / name for name in ("logs", "out", "numbers.json"))
    workers, devices = (2, []) if BACKEND == "torch" else (1, ["2"])
    flags = ["--trials", 2, "--epochs", 2, "--output", output, "--distribute", *devices]
    assert not any(finish(start(RECIPE.with_name("tune.py"), flags, workers, logs), logs))
    assert (output / "trials.csv").read_text().count("COMPLETED") == 2
    if workers == 2:  # the second made the same trials, elsewhere and silently
        assert not (logs / "1.log").read_text().strip()
    card = json.loads((output / "best" / "card.json").read_text())

    flags = [output / "best", "--json-file", numbers, "--importance-samples", 100]
    script = RECIPE.with_name("evaluate.py")
    assert not any(finish(start(script, [*flags, "--distribute", *devices], workers, logs), logs))
    found = json.loads(numbers.read_text())["nll_iw100"]
    expected = card["metrics"]["nll_iw100"]
    assert abs(found["value"] - expected["value"]) < 0.2 * expected["standard_error"]


# A recipe that only trains, of which the second worker dies of itself in the third epoch, or not.
TRAINS = f"""
import os, runpy, signal, sys
from vae_zoo import distribute, runs
def die(self, epoch, logs=None):
    if epoch == 2 and not distribute.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
if "broken" in sys.argv[-1]:
    runs.Checkpoint.on_epoch_begin = die
def report(model, train, test, history, settings, importance_samples=0):
    name = "model.keras" if distribute.is_main() else "other.keras"  # none ends before the other
    model.save(os.path.join(settings["output"], name))
runs.report = report
sys.argv[0] = {str(RECIPE)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_worker_that_dies_ends_the_run_and_resuming_goes_on_as_if_it_had_not(tmp_path):
    whole, broken, logs = (tmp_path / name for name in ("whole", "broken", "logs"))
    settings = ["--epochs", 4, "--hidden", "16", "--latent-dim", 3, "--importance-samples", 0]
    settings += ["--batch-size", 100, "--distribute", "--output"]
    script = tmp_path / "trains.py"
    script.write_text(TRAINS)
    assert not any(finish(start(script, [*settings, whole], 2, logs), logs))
    codes = finish(start(script, [*settings, broken], 2, logs), logs)
    assert codes[0] not in (0, -signal.SIGKILL) and codes[1] == -signal.SIGKILL
    assert "A worker of this run was lost" in (logs / "0.log").read_text()
    epochs = (broken / "history.csv").read_text().count("\n") - 1
    assert 0 < epochs < 3 and not (broken / "model.keras").exists()

    resumed = start(RECIPE, [*settings, broken, "--resume"], 2, logs)
    assert not any(finish(resumed, logs))
    assert f"Resuming after epoch {epochs}" in (logs / "0.log").read_text()
    found = {p.name for p in broken.iterdir()} - {"checkpoint.previous.npz"}  # there or not
    assert sorted(found) == sorted(
        ["checkpoint.npz", "config.json", "history.csv", "model.keras", "numbers.json"]
        + [p.name for p in broken.glob("*.png")]
    )
    one, other = (vae_zoo.load_model(folder / "model.keras") for folder in (whole, broken))
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=1e-5, atol=1e-6
        )


# A process of a run that watches the others; it waits, ends as it should, or aborts at once.
WATCHES = """
import ctypes, pathlib, sys, time
from vae_zoo.engine import watch
folder, number, how = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
class Store:
    def key_value_set(self, name, value):
        (folder / "new").write_text(value)
        (folder / "new").rename(folder / "value")
    def blocking_key_value_get(self, name, milliseconds):
        while not (folder / "value").exists():
            time.sleep(0.01)
        return (folder / "value").read_text()
with watch.watching(Store(), "localhost", number, 2):
    print("watching", flush=True)
    sys.stdin.read(1)
    if how == "aborts":
        ctypes.CDLL(None).abort()  # as JAX does, in a thread that Python knows nothing of
"""


@pytest.mark.skipif(BACKEND != "jax", reason="the others have this of their engine")
@pytest.mark.parametrize("lost", [0, 1, None])
def test_a_process_ends_with_one_line_when_another_is_gone(lost, tmp_path):
    processes = []
    for number in (0, 1):
        how = "aborts" if number == 1 and lost == 0 else "ends"
        command = [sys.executable, "-c", WATCHES, str(tmp_path), str(number), how]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, text=True, **pipes))
    try:
        assert all(process.stdout.readline() == "watching\n" for process in processes)
        if lost is None:  # one after the other, as they should
            assert [process.communicate("x")[1] for process in processes] == ["", ""]
            assert not any(process.returncode for process in processes)
            return
        if lost == 0:
            processes[1].stdin.write("x")  # JAX aborts in the same moment
            processes[1].stdin.flush()
        processes[lost].kill()
        status = processes[1 - lost].wait(60)
        said = processes[1 - lost].stderr.read()
        assert said.startswith("A worker of this run was lost (its process has ended). Start")
        assert said.count("\n") == 1 and status == 1
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("n", [7, 8, 21])
def test_a_batch_is_dealt_out_with_weights_of_zero_for_what_fills_it_up(n, monkeypatch):
    x, y = np.arange(n)[:, None].astype("float32"), np.arange(n)
    whole = data.Batches(x, y, batch_size=8, seed=4)
    parts = []
    for process in (0, 1):
        monkeypatch.setattr(replicas, "devices", lambda process=process: (4, 2, process))
        parts.append(data.Batches(x, y, batch_size=8, seed=4))
    for i in range(len(whole)):
        dealt = [part[i] for part in parts]
        assert len(dealt[0][0]) == len(dealt[1][0]) and len(dealt[0][0]) % 2 == 0
        x_dealt, y_dealt, weights = (np.concatenate(column) for column in zip(*dealt))
        np.testing.assert_array_equal(x_dealt[weights > 0], whole[i][0])
        np.testing.assert_array_equal(y_dealt[weights > 0], whole[i][1])
        assert (x_dealt[weights == 0] == whole[i][0][0]).all() and set(weights) <= {0.0, 1.0}


def test_what_cannot_be_spread_out_says_why():
    with pytest.raises(ValueError, match="`devices` must be at least 1. Received: devices=0"):
        with distribute.data_parallel(0):
            pass
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="start with torchrun --nproc-per-node 2"):
            with distribute.data_parallel(2):
                pass
    else:
        with pytest.raises(ValueError, match="before anything is computed|at most 1 here"):
            ops.convert_to_numpy(ops.ones(1) + 1)
            with distribute.data_parallel(3):
                pass
    if BACKEND != "jax":
        with pytest.raises(ValueError, match="JAX only"):
            with distribute.model_parallel():
                pass


MODEL_PARALLEL = """
import sys, numpy as np, parallel
from vae_zoo import distribute
from vae_zoo.engine.trainable import Trainable
Trainable.draw = parallel.quiet
with distribute.model_parallel(2, devices=4):
    model, found = parallel.train("hierarchical_vae")
    kernels = [v for v in model.weights if v.path.endswith("kernel")]
    parts = [len({str(shard.index) for shard in v.value.addressable_shards}) for v in kernels]
    assert parts.count(2) > 0.9 * len(parts), parts
    model.save(sys.argv[1] + "/model.keras")
np.savez(sys.argv[1] + "/found.npz", **found)
"""


@pytest.mark.skipif(BACKEND != "jax", reason="divides models on JAX only")
def test_a_divided_model_does_what_a_whole_one_does(tmp_path, one_device):
    script = tmp_path / "script.py"
    script.write_text(MODEL_PARALLEL)
    assert not any(finish(start(script, [tmp_path], 1, tmp_path), tmp_path))
    found = np.load(tmp_path / "found.npz")
    one = one_device("hierarchical_vae")
    assert_same(one, {name: found[name] for name in found.files}, "hierarchical_vae")
    weights = vae_zoo.load_model(tmp_path / "model.keras").weights
    whole = np.concatenate([ops.convert_to_numpy(v).ravel() for v in weights])
    np.testing.assert_allclose(whole, found["weights"], atol=1e-7)
