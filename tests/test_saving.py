"""Files: from every engine to every engine, whole or not at all, and nothing hostile gets in."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
import warnings
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import vae_zoo

BACKEND = keras.config.backend()
X = np.random.default_rng(0).random((12, 4, 4, 1), dtype="float32")
ENTRIES = ("dense", "grid", "autoencoder", "float16")


def new(entry):
    keras.utils.set_random_seed(1)
    schedules = keras.optimizers.schedules
    adam = keras.optimizers.Adam(schedules.CosineDecay(0.01, 20))
    if entry == "dense":
        beta = schedules.PolynomialDecay(0.0, 10, end_learning_rate=1.0)
        model = vae_zoo.DenseVAE(
            (4, 4, 1), latent_dim=2, hidden=(8,), likelihood="gaussian", beta=beta, seed=5
        )
    elif entry == "grid":
        model = vae_zoo.ConvVAE((4, 4, 1), 2, latent_grid=True, filters=(4,), seed=5)
    elif entry == "autoencoder":
        model = vae_zoo.Autoencoder((4, 4, 1), latent_dim=2, hidden=(8,), seed=5)
    else:
        model = vae_zoo.DenseVAE((4, 4, 1), 2, hidden=(8,), seed=5, dtype="mixed_float16")
        adam = keras.optimizers.LossScaleOptimizer(adam, initial_scale=64.0)
    model.compile(adam)
    return model


def fit(model):
    model.fit(X, batch_size=4, epochs=2, shuffle=False, verbose=0)


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v), copy=True) for v in variables]


def content(model):
    """What a file must hold: names and arrays."""
    groups = {
        "weights": model.weights,
        "optimizer": model.optimizer.variables,
        "noise": [v for v in model.variables if v.path.endswith("seed_generator_state")],
    }
    found = {f"{k} {i}": a for k, g in groups.items() for i, a in enumerate(arrays(g))}
    found["reconstruction"] = ops.convert_to_numpy(model(ops.convert_to_tensor(X)))
    return found


def continue_elsewhere(folder):
    """What the fresh process does: loads every file, shows what it holds, goes on training."""
    warnings.simplefilter("error", UserWarning)
    for entry in ENTRIES:
        model = keras.models.load_model(f"{folder}/{entry}.keras")
        loaded = content(model)
        if entry == "dense":
            fit(model)
            loaded.update({f"then {key}": value for key, value in content(model).items()})
        elif entry == "float16":
            logs = model.train_on_batch(X[:4], return_dict=True)
            loaded["then loss"] = logs["loss"]
        loaded["then iterations"] = ops.convert_to_numpy(model.optimizer.iterations)
        np.savez(f"{folder}/{entry}_{BACKEND}.npz", **loaded)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a file of each kind, and what the models that were saved hold."""
    folder, held = tmp_path_factory.mktemp("saved"), {}
    for entry in ENTRIES:
        model = new(entry)
        fit(model)
        model.save(folder / f"{entry}.keras")
        held[entry] = content(model)
        if entry == "dense":
            fit(model)
            held["then"] = content(model)
    return folder, held


@pytest.mark.parametrize("other", ["tensorflow", "jax", "torch"])
def test_files_go_on_in_a_fresh_process_of_any_engine(saved, other):
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"pip install 'vae_zoo[{other}]'")
    folder, held = saved
    done = subprocess.run(
        [sys.executable, __file__, folder],
        env={**os.environ, "KERAS_BACKEND": other, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for entry in ENTRIES:
        loaded = dict(np.load(folder / f"{entry}_{other}.npz"))
        more = {"dense": 6, "float16": 1}.get(entry, 0)
        assert loaded["then iterations"] == 6 + more
        assert all(np.isfinite(value).all() for value in loaded.values())
        half = entry == "float16" and other != BACKEND
        for name, value in held[entry].items():
            if name == "reconstruction":
                close = 1e-3 if half else 1e-5
                np.testing.assert_allclose(loaded[name], value, atol=close, err_msg=name)
            else:
                np.testing.assert_array_equal(loaded[name], value, err_msg=f"{entry} {name}")
    if other == BACKEND:
        loaded = np.load(folder / f"dense_{other}.npz")
        for name, value in held["then"].items():
            np.testing.assert_array_equal(loaded[f"then {name}"], value, err_msg=name)


def test_saved_means_what_was_trained(saved):
    folder, held = saved
    model = vae_zoo.load_model(folder / "dense.keras")
    likelihood = model.likelihood
    assert float(ops.convert_to_numpy(likelihood.count)) == pytest.approx(4 * (1 - 0.99**6))
    assert isinstance(model.beta, keras.optimizers.schedules.PolynomialDecay)
    moments = [v for v in model.optimizer.variables if v.path.endswith("velocity")]
    assert len(moments) == len(model.trainable_weights)
    assert all(np.abs(array).max() > 0 for array in arrays(moments))
    half = vae_zoo.load_model(folder / "float16.keras")
    assert isinstance(half.optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(ops.convert_to_numpy(half.optimizer.dynamic_scale)) == 64.0
    assert half.dtype_policy.name == "mixed_float16"


def test_a_model_that_was_never_compiled_is_saved_so(tmp_path):
    model = vae_zoo.Autoencoder((4, 4, 1), latent_dim=2, hidden=(8,))
    model.evaluate(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = vae_zoo.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    np.testing.assert_allclose(loaded.encode(X), model.encode(X), atol=1e-6)


def test_an_exception_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model = new("autoencoder")
    model.save(path)
    before = path.read_bytes()

    def full_disk(store):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model, "save_own_variables", full_disk)
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            model.save(path)
        with pytest.raises(OSError, match="No space left"):
            model.save(tmp_path / "other.keras")
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="exists"):
        model.save(path, overwrite=False)
    with pytest.raises(ValueError, match=r"must end in \.keras"):
        model.save(tmp_path / "model.h5")
    fit(model)
    model.save(path)
    assert path.read_bytes() != before and len(list(tmp_path.iterdir())) == 1


# Files that should not be loaded.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.keras"
    image, z = keras.Input((4, 4, 1)), keras.Input((2,))
    heads = [layers.Dense(2)(layers.Flatten()(image)) for _ in range(2)]
    decoder = keras.Model(z, layers.Reshape((4, 4, 1))(layers.Dense(16, name="last")(z)))
    vae_zoo.VAE(keras.Model(image, heads), decoder).save(path)
    return path


def refused(path, pattern):
    """One line with the path in it, soon."""
    start = time.perf_counter()
    with pytest.raises(ValueError, match=pattern) as caught:
        vae_zoo.load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5


def rewritten(source, path, config):
    """A copy of a `.keras` file with another `config.json` (text or an object; None: without)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as archive:
        for name in old.namelist():
            if name != "config.json":
                archive.writestr(name, old.read(name))
        if config is not None:
            text = config if isinstance(config, str) else json.dumps(config)
            archive.writestr("config.json", text)
    return path


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def test_damaged_files_are_refused(good, tmp_path):
    path = tmp_path / "damaged.keras"
    refused(path, "No file")
    whole = good.read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    shorter = [whole[:n] for n in (1, 100, len(whole) // 2, len(whole) - 1)]
    for content in (b"", noise, *shorter):
        path.write_bytes(content)
        refused(path, "truncated, damaged or no .keras file")
        with pytest.raises(ValueError):
            keras.models.load_model(path)
    with zipfile.ZipFile(good) as archive:
        weights = archive.getinfo("model.weights.h5")
    place = weights.header_offset + len(weights.FileHeader()) + weights.file_size // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(path, "model.weights.h5")
    refused(rewritten(good, path, None), "config.json")
    refused(rewritten(good, path, '{"class_name": '), "damaged")
    refused(rewritten(good, path, "[]"), "must be a dict")
    refused(rewritten(good, path, {}), "cannot be loaded")


def test_foreign_models_are_refused(tmp_path):
    path = tmp_path / "foreign.keras"
    keras.Sequential([keras.Input((2,)), layers.Dense(1)]).save(path)
    refused(path, "holds a Sequential, which is no vae_zoo model")


def test_code_in_a_file_never_runs(good, tmp_path):
    path, marker = tmp_path / "hostile.keras", tmp_path / "marker"
    command = f"touch {marker}"
    code = f"__import__('os').system({command!r})"

    classes = [
        {"module": "os", "class_name": "system", "config": command},
        {"module": "os", "class_name": "system", "config": {"command": command}},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(marker)]}},
        {"module": "builtins", "class_name": "eval", "config": code},
        {"module": "vae_zoo.zoo", "class_name": "pathlib.os.system", "config": command},
        {"module": "vae_zoo", "class_name": "NoSuchVAE", "config": {}},
    ]
    for hostile in classes:
        whole = {"registered_name": None, **hostile}
        part = config_of(good)
        part["config"]["prior"] = whole
        for config in (whole, part):
            rewritten(good, path, config)
            refused(path, "cannot be loaded")
            with pytest.raises((TypeError, ValueError)):
                keras.models.load_model(path)

    lambda_layer = layers.Lambda(eval(f"lambda x: [x, {code}][0]"))
    sequential = keras.Sequential([keras.Input((2,)), lambda_layer])
    marker.unlink(missing_ok=True)  # it ran here, when the layer was built
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequential.save(path)
    refused(path, "cannot be loaded")
    serialized = config_of(path)["config"]["layers"][1]
    whole = config_of(good)
    whole["config"]["decoder"]["config"]["layers"].append(serialized)
    refused(rewritten(good, path, whole), "cannot be loaded")
    assert not marker.exists()


ABSURD = [
    ("DenseVAE", {"latent_dim": 10**9}),
    ("DenseVAE", {"hidden": [10**9]}),
    ("DenseVAE", {"hidden": [60000, 60000]}),
    ("DenseVAE", {"hidden": [1] * 10**5}),
    ("DenseVAE", {"shape": [60000, 60000, 3]}),
    ("DenseVAE", {"shape": [65536, 65536, 1]}),
    ("DenseVAE", {"shape": [16384, 16384, 1], "hidden": [1]}),  # twice, gated
    ("ConvVAE", {"shape": [65536, 65536, 1]}),
    ("ConvVAE", {"filters": [60000, 60000]}),
    ("ConvVAE", {"filters": [60000], "blocks": 1}),
    ("ConvVAE", {"filters": [60000], "latent_grid": True, "latent_dim": 60000}),
    ("ConvVAE", {"units": 10**9}),
    ("ConvVAE", {"units": 65536, "shape": [256, 256, 1]}),
    ("ConvVAE", {"blocks": 10**9}),
    ("Autoencoder", {"latent_dim": 10**30}),
    ("Autoencoder", {"latent_dim": 1e9}),
    ("Autoencoder", {"hidden": [65536, 65536]}),
]


@pytest.mark.parametrize("family, sizes", ABSURD)
def test_absurd_sizes_are_refused(tmp_path, family, sizes):
    path = tmp_path / "absurd.keras"
    small = {"filters": (4,), "units": 2} if family == "ConvVAE" else {"hidden": (2,)}
    getattr(vae_zoo, family)((4, 4, 1), 2, **small).save(path)
    config = config_of(path)
    config["config"].update(sizes)
    path = rewritten(path, tmp_path / "rewritten.keras", config)
    refused(path, "limit")
    with pytest.raises(ValueError, match="limit"):
        keras.models.load_model(path)


def test_absurd_layers_of_a_users_encoder_are_refused(good, tmp_path):
    config = config_of(good)
    dense = next(
        layer
        for layer in config["config"]["encoder"]["config"]["layers"]
        if layer["class_name"] == "Dense"
    )
    dense["config"]["units"] = 10**9
    refused(rewritten(good, tmp_path / "absurd.keras", config), "units=1000000000")


if __name__ == "__main__":
    continue_elsewhere(pathlib.Path(sys.argv[1]))


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path):
    """Keras alone would import an installed TensorFlow on every backend, to seed and to save."""
    code = (
        "import sys, keras; before = set(sys.modules); import vae_zoo;"
        "heavy = {'matplotlib', 'PIL', 'tqdm', 'keras_tuner', 'tensorflow_datasets'};"
        "print(heavy & (set(sys.modules) - before));"
        "keras.utils.set_random_seed(0); m = vae_zoo.DenseVAE((4, 4, 1), 2, (4,));"
        "m.compile(); m.save(sys.argv[1]); vae_zoo.load_model(sys.argv[1]);"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tmp_path / "m.keras"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", str(BACKEND == "tensorflow")]
