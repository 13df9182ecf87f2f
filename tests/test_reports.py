"""What a run ends with, whatever its images are: numbers that are JSON, and pictures."""

import json
import math

import keras
import numpy as np
import pytest
from PIL import Image

import vae_zoo
from vae_zoo import data, files, runs
from vae_zoo.evaluate import evaluate, measure
from vae_zoo.lab.pictures import pictures, shown
from vae_zoo.lab.plots import latent_scatter

RNG = np.random.default_rng(0)
MAKE = {
    "autoencoder": lambda shape: vae_zoo.Autoencoder(shape, latent_dim=2, hidden=(4,)),
    "dense_vae": lambda shape: vae_zoo.DenseVAE(shape, 3, hidden=(4,), likelihood="gaussian"),
    "hierarchical_vae": lambda shape: vae_zoo.HierarchicalVAE(
        shape, (3, 2), (5, 4), likelihood="gaussian"
    ),
    "vq_vae": lambda shape: vae_zoo.VQVAE(shape, codes=4, code_dim=2, filters=(3,), blocks=0),
}
SHEETS = {
    "autoencoder": {"latents", "latent_grid", "reconstructions"},
    "dense_vae": {"samples", "latents", "reconstructions"},
    "hierarchical_vae": {"samples", "latents", "reconstructions", "rates", "groups", "fixed_top"},
    "vq_vae": {"samples", "reconstructions", "code_maps"},
}


@pytest.fixture(scope="module")
def models():
    """Untrained models, one a family and shape."""
    made = {}

    def model(name, shape):
        keras.utils.set_random_seed(0)
        return made.setdefault((name, shape), MAKE[name](shape))

    return model


def report(model, x, y, output):
    """The numbers of a model, as they come back from their file, and the names of its pictures."""
    files.write_json(output / "numbers.json", measure(model, x, num_samples=2, x_train=x))
    numbers = strict(output / "numbers.json")
    drawn = {path.stem for path, _ in pictures(model, x, y, output, 0)}
    assert drawn == {path.stem for path in output.glob("*.png")}
    return numbers, drawn


def test_what_is_drawn_is_of_all_classes_of_a_sorted_set():
    y = np.repeat(np.arange(10), 1000)
    x, labels = shown(y[:, None], y)
    assert len(x) == 5000 and (x[:, 0] == labels).all() and len(np.unique(labels[:20])) > 5
    assert shown(y[:3], None)[1] is None


def strict(path):
    def refuse(name):
        raise AssertionError(f"{path} holds {name}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("name", ["autoencoder", "dense_vae", "vq_vae"])
def test_one_image_is_enough_to_report(name, models, tmp_path):
    x, y = RNG.integers(0, 256, (1, 8, 6, 1), np.uint8), np.zeros(1, int)
    numbers, drawn = report(models(name, (8, 6, 1)), x, y, tmp_path)
    assert drawn == SHEETS[name]  # there are too few for lines between them
    assert np.isfinite(numbers["psnr"]["value"])


@pytest.mark.parametrize(
    "name, channels", [(name, 2) for name in MAKE] + [("dense_vae", 4), ("vq_vae", 5)]
)
def test_channels_that_make_no_colours_stand_side_by_side(name, channels, models, tmp_path):
    n = 1 if name == "hierarchical_vae" else 5  # which takes seconds: both at once
    x = RNG.integers(0, 256, (n, 8, 6, channels), np.uint8)
    _, drawn = report(models(name, (8, 6, channels)), x, None, tmp_path)
    assert drawn == SHEETS[name] | ({"interpolations"} if n == 5 else set())
    grey = models(name, (8, 6, channels)).domain.pictures(x)
    assert grey.shape == (n, 8, 6 * channels, 1)
    for channel in range(channels):
        part = grey[:, :, 6 * channel : 6 * (channel + 1), 0]
        np.testing.assert_allclose(part, x[..., channel] / 255, atol=1e-6)


@pytest.mark.parametrize("name, level", [("autoencoder", 0), ("dense_vae", 7), ("vq_vae", 128)])
def test_equal_images_have_a_report_too(name, level, models, tmp_path):
    x = np.full((5, 8, 6, 1), level, np.uint8)
    numbers, drawn = report(models(name, (8, 6, 1)), x, None, tmp_path)
    assert drawn == SHEETS[name] | {"interpolations"}
    assert numbers["relative_mse"]["value"] is None
    assert "all equal" in numbers["relative_mse"]["protocol"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN
@pytest.mark.parametrize("name", ["autoencoder", "dense_vae"])
def test_a_model_that_has_diverged_keeps_its_report(name, tmp_path):
    model = MAKE[name]((8, 6, 1))
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, np.nan))
    x, y = RNG.integers(0, 256, (5, 8, 6, 1), np.uint8), np.arange(5)
    numbers, drawn = report(model, x, y, tmp_path)
    assert numbers["psnr"]["value"] is None and "reconstructions" in drawn


def test_a_diverged_run_ends_with_its_history(tmp_path, capsys):
    x = np.full((8, 8, 6, 1), 0.5, "float32")
    model = MAKE["dense_vae"]((8, 6, 1))
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, np.nan))
    model.compile(keras.optimizers.SGD(0.0))
    settings = {"epochs": 2, "batch_size": 8, "seed": 0, "patience": 5, "output": tmp_path}
    history = runs.fit(model, (x, None), (x, None), **settings)
    assert np.isnan(history["val_elbo"]).all() and len(history["val_elbo"]) == 2
    assert "No epoch of 2 has a val ELBO that is a number" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [[7], [0]])
def test_one_class_has_nothing_to_probe(labels, models, tmp_path):
    x = RNG.integers(0, 256, (60, 8, 6, 1), np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=np.resize(labels, 60))
    numbers = evaluate(models("dense_vae", (8, 6, 1)), tmp_path / "set.npz", 2, elbo_samples=1)
    assert "elbo" in numbers and "probe_accuracy" not in numbers
    np.savez(tmp_path / "set.npz", x=x, y=np.resize([3, 7], 60))
    numbers = evaluate(models("dense_vae", (8, 6, 1)), tmp_path / "set.npz", 2, elbo_samples=1)
    assert "probe_accuracy" in numbers


def test_more_codes_than_encoder_outputs_can_start(models):
    model = vae_zoo.VQVAE((8, 6, 1), codes=50, code_dim=2, filters=(3,), blocks=0)
    model.start_codebook(RNG.integers(0, 256, (2, 8, 6, 1), np.uint8))  # of 12 places each
    vectors = np.asarray(model.code_vectors()[0])
    assert vectors.shape == (50, 2) and len(np.unique(vectors, axis=0)) <= 24


@pytest.mark.parametrize("z", [np.zeros((1, 5)), np.ones((7, 5)), np.zeros((1, 1))])
def test_points_without_a_variance_are_drawn(z, tmp_path):
    with Image.open(latent_scatter(z, None, tmp_path / "z.png")) as picture:
        assert picture.size[0] > 100


def test_json_has_no_nan(tmp_path):
    content = {"a": math.nan, "b": [np.float32("inf"), np.array([1.0, -np.inf])], "c": (0.5, None)}
    files.write_json(tmp_path / "x.json", content)
    assert strict(tmp_path / "x.json") == {"a": None, "b": [None, [1.0, None]], "c": [0.5, None]}


def test_what_looks_like_channels_first_is_said(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 3, 8, 8), np.uint8))
    with pytest.warns(UserWarning, match="images of 8 channels.*numpy.moveaxis"):
        assert data.load(tmp_path / "x.npz")[0].shape[1:] == (3, 8, 8)
