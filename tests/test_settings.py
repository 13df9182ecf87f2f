"""Global settings of Keras, as keras.json holds them, do not reach into models and files."""

import contextlib

import keras
import numpy as np
import pytest
from families import FAMILIES
from keras import ops

import vae_zoo
from vae_zoo import zoo

SETTINGS = {
    "image_data_format": "channels_first",
    "floatx": "float16",
    "epsilon": 1e-2,
    "dtype_policy": "mixed_bfloat16",
}
NAMES = ("conv_flat", "autoencoder_conv", "ladder_dense", "vq_vae_averaged", "vae_custom")
NAMES += ("dense_discretized_logistic", "dense_mixture_prior", "pixel_cnn_grid")


@contextlib.contextmanager
def settings(**changed):
    """Context with other global settings."""
    before = {name: getattr(keras.config, name)() for name in SETTINGS}
    for name, value in changed.items():
        getattr(keras.config, f"set_{name}")(value)
    try:
        yield
    finally:
        for name, value in before.items():
            getattr(keras.config, f"set_{name}")(value)


def computed(model, family):
    """What a model computes: losses, latents, samples."""
    x, y = family.x, family.y
    numbers = model.evaluate(x, y, verbose=0, return_dict=True)
    labels = {} if y is None else {"y": y}
    arrays = [np.float64([numbers[name] for name in sorted(numbers)])]
    if hasattr(model, "encode"):
        latents = model.encode(x, **labels)
        arrays += [model.decode(latents, **labels), *keras.tree.flatten(latents)]
    else:
        arrays += [model.log_likelihood(x, y), ops.convert_to_numpy(model((x, y)))]
    if hasattr(model, "sample"):
        arrays.append(model.sample(3, y=None if y is None else y[:3], seed=1))
    return [np.asarray(array) for array in arrays]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Paths and what the models in them compute, made under the usual settings when asked for."""
    folder, made = tmp_path_factory.mktemp("saved"), {}

    def of(name):
        if name not in made:
            keras.utils.set_random_seed(1)
            model = FAMILIES[name].make(seed=1)
            model.save(folder / f"{name}.keras")
            made[name] = folder / f"{name}.keras", computed(model, FAMILIES[name])
        return made[name]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_computes_does_not_depend_on_settings(name, saved):
    path, expected = saved(name)
    with settings(**SETTINGS):
        loaded = vae_zoo.load_model(path)
        result = computed(loaded, FAMILIES[name])
    for mine, its in zip(result, expected, strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)


def test_models_are_built_the_same():
    for name in ("conv_grid", "vq_vae", "vq_vae_2", "ladder_conv", "pixel_cnn"):
        shapes = [v.shape for v in FAMILIES[name].make(seed=1).weights]
        with settings(image_data_format="channels_first"):
            assert [v.shape for v in FAMILIES[name].make(seed=1).weights] == shapes, name


def test_entries_load_whatever_the_settings_are():
    with settings(**SETTINGS):
        model = zoo.load("conv_vae_mnist")
        golden = np.load(zoo.FOLDER / "conv_vae_mnist" / "golden.npz")
        np.testing.assert_allclose(model.encode(golden["x"]), golden["latent"], atol=1e-4)
