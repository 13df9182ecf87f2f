"""Each recipe as a user runs it, with tiny settings, and what a user can get wrong."""

import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import vae_zoo
from vae_zoo import cli, data, patches

RECIPES = pathlib.Path(__file__).parent.parent / "recipes"
PRIOR = ["--prior", "--prior-epochs", "2", "--prior-filters", "4", "--prior-blocks", "1"]
VQ = ["--codes", "8", "--code-dim", "4", "--blocks", "0", *PRIOR]
TINY = {
    "autoencoder": ["--hidden", "16"],
    "dense_vae": ["--hidden", "16", "--latent-dim", "2"],
    "conv_vae": ["--filters", "4,4", "--units", "16"],
    "hierarchical_vae": ["--latents", "3,2", "--widths", "16,8"],
    "vq_vae": ["--filters", "4,4", *VQ],
    "vq_vae_2": ["--filters", "4", *VQ],
    "pixel_cnn": ["--filters", "4", "--blocks", "1", "--conditional"],
    "gaussian_mixture": ["--number", "500", "--components", "3"],
}
PICTURES = {
    "autoencoder": {"interpolations", "latents", "latent_grid", "reconstructions"},
    "dense_vae": {"interpolations", "latents", "latent_grid", "reconstructions", "samples"},
    "conv_vae": {"interpolations", "latents", "reconstructions", "samples"},
    "vq_vae": {"interpolations", "code_maps", "reconstructions", "samples", "samples_uniform"},
    "pixel_cnn": {"samples"},
    "gaussian_mixture": {"components"},
}
PICTURES["hierarchical_vae"] = PICTURES["conv_vae"] | {"groups", "fixed_top", "rates"}
PICTURES["vq_vae_2"] = PICTURES["vq_vae"]
BOUNDS = ("dense_vae", "conv_vae", "hierarchical_vae")


@pytest.fixture
def run(monkeypatch, capsys):
    """Function of a recipe and its arguments: what it printed. The script runs as `python` runs it:
    one in a process of its own, which takes its time to start, the others in this one."""

    def run(recipe, *arguments):
        command = [str(RECIPES / f"{recipe}.py"), *map(str, arguments)]
        if recipe == "dense_vae":
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
            own = {"capture_output": True, "text": True, "timeout": 900}
            done = subprocess.run([sys.executable, *command], env=environment, **own)
            assert done.returncode == 0, done.stderr
            return done.stdout
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_recipe_is_tried():
    assert {path.stem for path in RECIPES.glob("*.py")} == {
        *TINY,
        "evaluate",
        "fine_tune",
        "tune",
        "classify",
        "denoise",
    }


@pytest.mark.parametrize("recipe", TINY)
@pytest.mark.filterwarnings("ignore:Posterior collapse")  # of tiny models
def test_recipe_trains_measures_and_draws(recipe, run, tmp_path):
    output = tmp_path / "run"
    samples = ["--importance-samples", 3] if recipe in BOUNDS else []
    printed = run(recipe, "--epochs", 2, "--output", output, *samples, *TINY[recipe])
    assert "1,297 train, 200 validation, 300 test" in printed
    for name in ("model.keras", "history.csv", "config.json", "numbers.json"):
        assert str(output / name) in printed
    model = vae_zoo.load_model(output / "model.keras")
    assert {path.stem for path in output.glob("*.png")} == PICTURES[recipe] | {"curves"}
    for path in output.glob("*.png"):
        assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 1  # drawn on
    header, *epochs = (output / "history.csv").read_text().split()
    assert len(epochs) == 2 and "val_loss" in header
    config = json.loads((output / "config.json").read_text())
    assert config["settings"]["epochs"] == 2 and config["backend"] == keras.backend.backend()

    # The numbers are those of the model that was saved, on the images that are named.
    numbers = json.loads((output / "numbers.json").read_text())
    x, y = data.load("digits", "test")
    x = data.binarize(x) if samples or recipe == "pixel_cnn" else x
    if recipe == "gaussian_mixture":
        x, y = patches.drawn(x, 50), None
    assert data.fingerprint(x) == config["test_images"]
    if recipe in ("pixel_cnn", "gaussian_mixture"):
        nll = model.evaluate(x, y, verbose=0, return_dict=True)["nll"]
        assert numbers["nll"]["value"] == pytest.approx(nll, rel=1e-5)
        return
    error = np.mean((model.predict(x, verbose=0) - x / 255.0) ** 2)
    train = data.load("digits")[0] / 255.0
    assert numbers["relative_mse"]["value"] == pytest.approx(error / train.var(), rel=1e-4)
    if samples:
        elbo = model.evaluate(x, verbose=0, return_dict=True)["elbo"]
        assert numbers["elbo"]["value"] == pytest.approx(elbo, rel=0.01)
        assert numbers["nll_iw3"]["value"] < -numbers["elbo"]["value"]
    if recipe.startswith("vq_vae"):  # of the learned prior, on both splits
        kl = model.evaluate(x, verbose=0, return_dict=True)["kl"]
        grids = keras.tree.flatten([model.latent_domain])
        places = sum(np.prod(grid.shape) for grid in grids)
        bits = kl / np.log(2) / places
        assert numbers["bits_per_code"]["value"] == pytest.approx(bits, rel=1e-4)
        assert 0 < bits < 3.3 and numbers["bits_per_code_train"]["value"] < 3.3


def test_evaluate_knows_what_a_run_was_trained_on(tmp_path, capsys):
    evaluate = runpy.run_path(str(RECIPES / "evaluate.py"))["evaluate_model"]
    model = vae_zoo.DenseVAE(latent_dim=2, hidden=(4,), seed=0)
    model.save(tmp_path / "model.keras")
    settings = ["--importance-samples", "2", "--importance-images", "10", "--elbo-samples", "1"]
    with pytest.raises(SystemExit):
        cli.run(evaluate, [str(tmp_path / "model.keras"), *settings])
    assert "pass --dataset" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"settings": {"dataset": "digits"}}))
    file = tmp_path / "numbers.json"
    numbers = cli.run(evaluate, [str(tmp_path), *settings, "--json-file", str(file)])
    assert json.loads(file.read_text()) == numbers
    printed = capsys.readouterr().out
    assert "2 importance samples, 10 images" in printed and "probe_accuracy_pixels" in printed
    with pytest.raises(SystemExit):
        cli.run(evaluate, ["no/such/model.keras", "--dataset", "digits"])
    assert "No file no/such/model.keras" in capsys.readouterr().err


def test_classify_learns_from_few_labels(tmp_path, capsys):
    classify = runpy.run_path(str(RECIPES / "classify.py"))["classify"]
    settings = ["--checkpoint", str(RECIPES.parent / "saved_models/dense_vae_mnist")]
    settings += ["--labels", "2,20", "--draws", "2", "--steps", "60", "--output", str(tmp_path)]
    numbers = cli.run(classify, settings)
    value = {name: number["value"] for name, number in numbers.items()}
    assert len(value) == 6 and (tmp_path / "accuracies.png").is_file()
    for way in ("probe", "fine-tuned", "scratch"):  # ten classes; more labels are better
        assert max(0.5, value[f"{way}, 2 a class"]) < value[f"{way}, 20 a class"] < 1
    draws = json.loads((tmp_path / "numbers.json").read_text())["accuracies"]["probe"]["20"]
    assert len(draws) == 2 and value["probe, 20 a class"] == pytest.approx(np.mean(draws))
    for wrong, words in (
        (["--labels", "5000"], "images of its rarest class"),
        (["--checkpoint", str(RECIPES.parent / "saved_models/vq_vae_mnist")], "z_mean"),
        (["--checkpoint", str(RECIPES.parent / "saved_models/pixel_cnn_mnist")], "z_mean"),
        (["--dataset", "frey_faces"], "no labels|must be a path"),
    ):
        with pytest.raises(SystemExit):
            cli.run(classify, [*settings, *wrong])
        assert re.search(words, capsys.readouterr().err)


@pytest.fixture(scope="module")
def patch_prior(tmp_path_factory):
    """File of a small mixture of the photograph's own patches."""
    _photograph = runpy.run_path(str(RECIPES / "denoise.py"))["_photograph"]
    model = vae_zoo.GaussianMixture((8, 8), 5, zero_means=True, remove_dc=True, seed=0)
    model.fit(patches.drawn([_photograph()], 3000), epochs=8, verbose=0)
    path = tmp_path_factory.mktemp("prior") / "model.keras"
    model.save(path)
    return path


def test_denoise_restores_a_picture_of_the_users_own(patch_prior, tmp_path, capsys):
    recipe = runpy.run_path(str(RECIPES / "denoise.py"))
    settings = ["--checkpoint", str(patch_prior), "--output", str(tmp_path / "out")]
    numbers = cli.run(recipe["denoise"], settings)
    assert numbers["psnr"]["value"] > numbers["psnr_noisy"]["value"] + 4
    assert numbers["ssim"]["value"] > numbers["ssim_noisy"]["value"]
    assert str(tmp_path / "out" / "comparison.png") in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "denoised.png") as picture:
        pixels = np.asarray(picture)
    clean = recipe["_photograph"]()[..., 0]
    psnr = -10 * np.log10(np.mean((pixels / 255 - clean / 255) ** 2))
    assert psnr == pytest.approx(numbers["psnr"]["value"], abs=1e-3)

    # In colour, with noise that nobody told of, in another format.
    rng = np.random.default_rng(0)
    colour = np.repeat(clean[90:150, 260:310, None], 3, axis=2) + rng.normal(0, 20, (60, 50, 3))
    Image.fromarray(np.clip(colour, 0, 255).astype("uint8")).save(tmp_path / "mine.bmp")
    cli.run(recipe["denoise"], [*settings, "--image", str(tmp_path / "mine.bmp")])
    estimate = re.search(r"Noise of ([\d.]+) grey levels, as estimated", capsys.readouterr().out)
    assert float(estimate[1]) == pytest.approx(20, rel=0.15)
    with Image.open(tmp_path / "out" / "denoised.png") as picture:
        assert picture.size == (50, 60) and picture.mode == "RGB"


def test_denoise_measures_a_folder_and_goes_on(patch_prior, tmp_path, capsys):
    recipe = runpy.run_path(str(RECIPES / "denoise.py"))
    clean = recipe["_photograph"]()[..., 0]
    for i in range(3):
        Image.fromarray(clean[i * 50 : i * 50 + 40, :45]).save(tmp_path / f"{i}.png")
    output = tmp_path / "out"
    settings = ["--checkpoint", str(patch_prior), "--benchmark", str(tmp_path), "--output"]
    numbers = cli.run(recipe["denoise"], [*settings, str(output), "--sigma", "15"])
    rows = json.loads((output / "benchmark.json").read_text())["images"]
    assert list(rows) == ["0.png", "1.png", "2.png"]
    assert numbers["psnr"]["value"] == pytest.approx(np.mean([row[0] for row in rows.values()]))
    assert 24.6 < numbers["psnr"]["value"] - 0.5 and numbers["seconds"]["value"] > 0
    # The first by hand: noise neither clipped nor rounded, the output rounded.
    y = clean[:40, :45] / 255 + np.random.default_rng(0).normal(0, 15, (40, 45, 1))[..., 0] / 255
    x = vae_zoo.restoration.restore(y, vae_zoo.load_model(patch_prior), 15 / 255, fast=True)
    error = np.mean((np.round(np.clip(255 * x, 0, 255)) - clean[:40, :45]) ** 2)
    assert rows["0.png"][0] == pytest.approx(20 * np.log10(255) - 10 * np.log10(error), abs=0.01)
    # What is there is not measured again.
    kept = json.loads((output / "benchmark.json").read_text())
    kept["images"]["1.png"] = [99.0, 1.0, 0.0]
    (output / "benchmark.json").write_text(json.dumps(kept))
    again = cli.run(recipe["denoise"], [*settings, str(output), "--sigma", "15", "--resume"])
    assert again["psnr"]["value"] > numbers["psnr"]["value"] + 10
    for wrong, words in (
        (["--sigma", "20", "--resume"], "is of other settings"),
        (["--sigma", "-3"], "--sigma must be in 0..255. Received: -3"),
        (["--benchmark", str(output)], "must be a folder of images"),
        (["--benchmark", str(tmp_path / "no")], "must be a folder of images"),
        (["--checkpoint", "no"], "No file no"),
    ):
        with pytest.raises(SystemExit):
            cli.run(recipe["denoise"], [*settings, str(output), *wrong])
        assert words in capsys.readouterr().err
    for image, words in (("no.png", "No such file"), (__file__, "is no sound image")):
        with pytest.raises(SystemExit):
            cli.run(recipe["denoise"], [*settings[:2], "--image", image])
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--epoch", "3"], "--epochs"),
        (["--epochs", "3.5"], "3.5"),
        (["--dataset", "no/such/file.npz"], "no/such/file.npz"),
        (["--likelihood", "bernouli"], "bernoulli"),
        (["--beta", "-1"], "beta"),
        (["--latent-dim", "0"], "latent_dim"),
    ],
)
def test_mistakes_end_in_one_line(arguments, word, tmp_path, capsys):
    dense_vae = runpy.run_path(str(RECIPES / "dense_vae.py"))["dense_vae"]
    with pytest.raises(SystemExit) as exit:
        cli.run(dense_vae, [*arguments, "--output", str(tmp_path / "run")])
    lines = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and len(lines) == 1 and word in lines[0]
    assert not (tmp_path / "run").exists()  # refused before anything was written


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_missing_backend_names_the_extra(backend):
    code = f"import sys; sys.modules[{backend!r}] = None; import vae_zoo"
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"pip install 'vae_zoo[{backend}]'" in done.stderr
