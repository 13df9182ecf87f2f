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
from vae_zoo import cli, data

RECIPES = pathlib.Path(__file__).parent.parent / "recipes"
PRIOR = ["--prior", "--prior-epochs", "2", "--prior-filters", "4", "--prior-blocks", "1"]
VQ = ["--codes", "8", "--code-dim", "4", "--blocks", "0", *PRIOR]
FLOW = ["--prior-couplings", "2", "--prior-units", "4", "--averaged-epochs", "0.5"]
VAMP = ["--prior-components", "3"]
TINY = {
    "autoencoder": ["--hidden", "16"],
    "dense_vae": ["--hidden", "16", "--latent-dim", "2", "--prior-kind", "vamp", *VAMP],
    "conv_vae": ["--filters", "4,4", "--units", "16", "--prior-kind", "flow", *FLOW],
    "hierarchical_vae": ["--latents", "3,2", "--widths", "16,8", "--prior-kind", "mixture"],
    "vq_vae": ["--filters", "4,4", *VQ],
    "vq_vae_2": ["--filters", "4", *VQ],
    "pixel_cnn": ["--filters", "4", "--blocks", "1", "--conditional"],
    "real_nvp": ["--dataset", "digits", "--couplings", "2", "--units", "4", "--squeezes", "2"],
}
PICTURES = {
    "autoencoder": {"interpolations", "latents", "latent_grid", "reconstructions"},
    "dense_vae": {"interpolations", "latents", "latent_grid", "reconstructions", "samples"},
    "conv_vae": {"interpolations", "latents", "reconstructions", "samples"},
    "vq_vae": {"interpolations", "code_maps", "reconstructions", "samples", "samples_uniform"},
    "pixel_cnn": {"samples"},
    "real_nvp": {"samples"},
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
        "priors",
        "fine_tune",
        "tune",
        "classify",
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
    assert data.fingerprint(x) == config["test_images"]
    if "nll" in numbers:  # an exact density; what it draws to see levels differs a little
        nll = model.evaluate(x, y, verbose=0, return_dict=True)["nll"]
        assert numbers["nll"]["value"] == pytest.approx(
            nll, rel=1e-3 if recipe == "real_nvp" else 1e-5
        )
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


def test_flow_of_the_plane_is_drawn(run, tmp_path):
    settings = ["--points", 200, "--couplings", 2, "--units", 4, "--epochs", 1]
    for toy in ("moons", "circles", "blobs", "spiral"):
        printed = run("real_nvp", "--dataset", toy, *settings, "--output", tmp_path)
        assert {path.stem for path in tmp_path.glob("*.png")} == {"curves", "density", "steps"}
        assert "exact, 100" in printed
    model = vae_zoo.load_model(tmp_path)
    assert model.shape == (2,)


def test_priors_of_one_model_are_compared(run, tmp_path):
    settings = ["--dataset", "digits", "--epochs", 1, "--couplings", 2, "--units", 4]
    settings += ["--importance-samples", 3, "--importance-images", 20, "--pseudo-inputs", 20]
    path = RECIPES.parent / "saved_models/dense_vae_mnist_2d"
    printed = run("priors", path, *settings, "--output", tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    kinds = ("normal", "mixture", "vamp", "flow")
    assert set(numbers) == {f"nll_iw3_{kind}" for kind in kinds}
    model, (x, _) = vae_zoo.load_model(path), data.load("digits", "test")
    nll = -model.log_likelihood(data.binarize(x)[:20], num_samples=3).mean()
    assert numbers["nll_iw3_normal"]["value"] == pytest.approx(nll, rel=1e-5)
    assert (tmp_path / "priors.png").is_file() and "nll_iw3_flow" in printed
    # An autoencoder generates then.
    path = RECIPES.parent / "saved_models/autoencoder_mnist"
    run("priors", path, *settings, "--output", tmp_path / "of_autoencoder")
    assert (tmp_path / "of_autoencoder/priors.png").is_file()


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


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--epoch", "3"], "--epochs"),
        (["--epochs", "3.5"], "3.5"),
        (["--dataset", "no/such/file.npz"], "no/such/file.npz"),
        (["--likelihood", "bernouli"], "bernoulli"),
        (["--beta", "-1"], "beta"),
        (["--latent-dim", "0"], "latent_dim"),
        (["--prior-kind", "flows"], "prior_kind"),
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
