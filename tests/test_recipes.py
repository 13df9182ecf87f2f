"""Each recipe as a user runs it, with tiny settings, and what a user can get wrong."""

import inspect
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
from vae_zoo import cli, data, files, patches
from vae_zoo.lab.pictures import NAMES

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
    "iwae": ["--hidden", "16", "--latent-dim", "2", "--num-samples", "3", "--no-gradients"],
    "conditional_vae": ["--hidden", "16", "--latent-dim", "2", "--prior-kind", "learned"],
    "vq_vae": ["--filters", "4,4", *VQ],
    "vq_vae_2": ["--filters", "4", *VQ],
    "pixel_cnn": ["--filters", "4", "--blocks", "1", "--conditional"],
    "gaussian_mixture": ["--number", "500", "--components", "3"],
    "patch_vae": ["--number", "500", "--hidden", "8", "--latent-dim", "3"],
    "real_nvp": ["--dataset", "digits", "--couplings", "2", "--units", "4", "--squeezes", "2"],
}
PICTURES = {
    "autoencoder": {"interpolations", "latents", "latent_grid", "reconstructions"},
    "dense_vae": {"interpolations", "latents", "latent_grid", "reconstructions", "samples"},
    "conv_vae": {"interpolations", "latents", "reconstructions", "samples"},
    "vq_vae": {"interpolations", "code_maps", "reconstructions", "samples", "samples_uniform"},
    "pixel_cnn": {"samples"},
    "gaussian_mixture": {"components"},
    "patch_vae": {"latents"},
    "real_nvp": {"samples"},
}
PICTURES["hierarchical_vae"] = PICTURES["conv_vae"] | {"groups", "fixed_top", "rates"}
PICTURES["iwae"] = PICTURES["dense_vae"]
PICTURES["conditional_vae"] = PICTURES["conv_vae"] | {"classes", "swapped_classes"}
PICTURES["vq_vae_2"] = PICTURES["vq_vae"]
BOUNDS = ("dense_vae", "conv_vae", "hierarchical_vae", "iwae", "conditional_vae")
PATCHES = ("gaussian_mixture", "patch_vae")


def functions():
    """The function of each recipe, by the recipe's name."""
    found = {}
    for path in sorted(RECIPES.glob("*.py")):
        names = runpy.run_path(str(path))
        own = [f for f in names.values() if getattr(f, "__module__", "") == names["__name__"]]
        (found[path.stem],) = [f for f in own if f.__code__.co_filename == str(path) and f.__doc__
                               and "Args:" in f.__doc__]  # fmt: skip
    return found


FUNCTIONS = functions()


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
        "denoise",
        "graph_vae",
        "sketch_rnn",
        "disentangle",
    }


def test_the_graph_recipe_predicts_links(run, tmp_path):
    output = tmp_path / "run"
    printed = run("graph_vae", "--epochs", 3, "--parts", 2, "--output", output)
    assert "communities: 200 nodes, 880 links" in printed and "the last, is kept" in printed
    assert {path.stem for path in output.glob("*.png")} == {"curves", "latents", "roc"}
    numbers = json.loads((output / "numbers.json").read_text())
    x, y = data.load("communities", "test")
    model = vae_zoo.load_model(output / "model.keras")
    found = vae_zoo.evaluate.measure(model, x, y)
    assert numbers["link_auc"]["value"] == found["link_auc"]["value"]
    first, second = numbers["link_auc_parts"]["values"]
    assert first == found["link_auc"]["value"] != second
    assert numbers["link_auc_parts"]["value"] == pytest.approx((first + second) / 2)
    assert data.fingerprint(x) == json.loads((output / "config.json").read_text())["test_images"]


@pytest.mark.parametrize("kind", ["normal", "mixture", "decoder"])
def test_the_sketch_recipe_draws_and_fits_markov_chains(kind, run, tmp_path, monkeypatch):
    monkeypatch.setattr(vae_zoo.chains, "MOST", 500)  # offsets that these are fitted to
    output, sizes = tmp_path / "run", ["--units", 8, "--encoder-units", 4, "--latent-dim", 2]
    conditional = kind != "decoder"
    how = ["--prior-kind", kind] if conditional else ["--no-conditional"]
    printed = run("sketch_rnn", "--epochs", 1, "--output", output, *sizes, *how)
    assert "scribbles: 1,000, 100, 100 sketches, 24 points" in printed
    pictures = {"curves", "samples", "completions"}
    pictures |= (
        {"reconstructions", "interpolations", "latents", "latent_grid"} if conditional else set()
    )
    assert {path.stem for path in output.glob("*.png")} == pictures
    (svg,) = output.glob("*.svg")
    assert svg.read_text().count("<polyline") > 20
    numbers = json.loads((output / "numbers.json").read_text())
    x, _ = data.load("scribbles", "test")
    model = vae_zoo.load_model(output / "model.keras")
    logs = model.evaluate(x, verbose=0, return_dict=True)
    nll = logs["reconstruction"] if conditional else logs["nll"]
    assert numbers["l_r"]["value"] == pytest.approx(nll / 24, rel=0.01)
    if conditional:
        noise = 0 if kind == "normal" else 0.002  # the KL to a mixture is drawn
        assert numbers["l_kl"]["value"] == pytest.approx(logs["kl"] / 24, rel=1e-3, abs=noise)
        assert (type(model.prior) is vae_zoo.GaussianMixture) == (kind == "mixture")
    assert numbers["l_r_markov_1"]["value"] < numbers["l_r_markov_0"]["value"]


@pytest.mark.parametrize("recipe", TINY)
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
    if recipe in PATCHES:
        x, y = patches.drawn(x, 50), None
    elif samples or recipe == "pixel_cnn":
        x = data.binarize(x)
    if recipe == "patch_vae":  # the mixture does that itself
        x = x - x.mean(axis=(1, 2), keepdims=True)
    assert data.fingerprint(x) == config["test_images"]
    if "nll" in numbers:  # an exact density; what it draws to see levels differs a little
        nll = model.evaluate(x, y, verbose=0, return_dict=True)["nll"]
        assert numbers["nll"]["value"] == pytest.approx(
            nll, rel=3e-3 if recipe == "real_nvp" else 1e-5
        )
        return
    y = None if model.condition is None else y
    inputs = x if y is None else (x, y)
    levels = x / 255.0 if x.dtype == np.uint8 else x
    error = np.mean((model.predict(inputs, verbose=0) - levels) ** 2)
    assert numbers["relative_mse"]["value"] == pytest.approx(error / np.var(levels), rel=1e-4)
    if samples:
        elbo = model.evaluate(x, y, verbose=0, return_dict=True)["elbo"]
        assert numbers["elbo"]["value"] == pytest.approx(elbo, rel=0.01)
        name = "nll_iw3" if y is None else "nll_given_y_iw3"
        assert numbers[name]["value"] < -numbers["elbo"]["value"]
    if recipe.startswith("vq_vae"):  # of the learned prior, on both splits
        kl = model.evaluate(x, verbose=0, return_dict=True)["kl"]
        grids = keras.tree.flatten([model.latent_domain])
        places = sum(np.prod(grid.shape) for grid in grids)
        bits = kl / np.log(2) / places
        assert numbers["bits_per_code"]["value"] == pytest.approx(bits, rel=1e-4)
        assert 0 < bits < 3.3 and numbers["bits_per_code_train"]["value"] < 3.3


@pytest.fixture(scope="module")
def with_factors(tmp_path_factory):
    """A .npz of 300 images of 8×6 with three factors."""
    shape = 1, 2, 3, 5
    factors = np.stack(np.unravel_index(np.arange(300) % 30, shape), axis=1)
    images = np.zeros((300, 8, 6, 1), "uint8")
    images[np.arange(300), factors[:, 3], factors[:, 2] + 3 * factors[:, 1]] = 255
    path = tmp_path_factory.mktemp("data") / "factors.npz"
    names = np.array(["color", "shape", "x", "y"])
    np.savez(path, images=images, factors=factors, factor_names=names)
    return path


@pytest.mark.filterwarnings("ignore:Posterior collapse")  # of tiny models
def test_families_are_compared_by_their_latents_and_go_on(
    with_factors, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(vae_zoo.runs, "pictures", lambda *arguments: ())  # of every VAE
    output, families = tmp_path / "all", ("beta_tc_vae", "factor_vae")
    settings = ["--dataset", with_factors, "--image-size", "8,6", "--latent-dim", 2, "--seeds", 1]
    settings += ["--filters", 4, "--units", 4, "--discriminator-units", 4]
    settings += ["--steps", 6, "--steps-per-epoch", 3]
    both = [*settings, "--families", ",".join(families), "--output", output]
    printed = run("disentangle", *both)
    assert "242 train, 29 validation, 29 test" in printed and "one seed" in printed
    found = json.loads((output / "numbers.json").read_text())
    rows = (output / "runs.csv").read_text().splitlines()
    assert set(found) == set(families) and len(rows) == 3 and "mig_lib" in rows[0]
    assert (output / "rate_distortion.png").is_file()
    folders = [output / f"{family}_1" for family in families]
    for family, folder in zip(families, folders):
        pictures = {path.name for path in folder.iterdir()}
        assert {"traversals.png", "traversals.gif", "mutual_information.png"} <= pictures
        numbers = json.loads((folder / "numbers.json").read_text())
        assert found[family]["mig_lib"]["median"] == numbers["mig_lib"]["value"]
        assert "without shape" in numbers["mig_chen"]["protocol"]
        assert len((folder / "history.csv").read_text().split()) == 3  # two epochs of three steps

    # Killed after the first epoch of the second run: that one goes on, the other is left alone.
    done, part = folders
    weights = vae_zoo.load_model(part).get_weights()
    (part / "config.json").unlink()
    os.replace(part / "checkpoint.previous.npz", part / "checkpoint.npz")
    before = (done / "model.keras").stat().st_mtime_ns
    assert "Resuming after epoch 1" in run("disentangle", *both, "--resume")
    assert (done / "model.keras").stat().st_mtime_ns == before
    for old, new in zip(weights, vae_zoo.load_model(part).get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(SystemExit):
        run("disentangle", *both, "--gamma", 3)
    assert "holds a run with gamma=35.0" in capsys.readouterr().err
    for wrong in ("vae,gan", ""):
        with pytest.raises(SystemExit):
            run("disentangle", "--families", wrong, "--output", output)
        error = capsys.readouterr().err
        assert f"beta_tc_vae, factor_vae. Received: {wrong}".strip() in error

    # The run of one family becomes an entry, and its command is of that run alone.
    tools = RECIPES.parent / "tools"
    monkeypatch.setattr(vae_zoo.zoo, "FOLDER", tmp_path / "zoo")
    add_entry = runpy.run_path(str(tools / "add_entry.py"))["add_entry"]
    add_entry(part, "factor_vae_tiny", importance_samples=0)
    card = vae_zoo.zoo.card("factor_vae_tiny")
    assert {"mig_lib", "sap", "total_correlation"} <= set(card["metrics"])
    assert "100 a class" in card["metrics"]["dci_disentanglement"]["protocol"]
    command_of = runpy.run_path(str(tools / "reproduce.py"))["command_of"]
    _, recipe, arguments = command_of(card)
    assert recipe.stem == "disentangle" and "--families=factor_vae" in arguments
    assert (tmp_path / "zoo/factor_vae_tiny/traversals.gif").is_file()
    # Other seeds beside it, where their numbers were taken alike.
    config = json.loads((part / "config.json").read_text())
    config["settings"]["seed"] = 2
    (part / "config.json").write_text(json.dumps(config))
    runpy.run_path(str(tools / "add_seeds.py"))["add_seeds"]("factor_vae_tiny", (str(part),))
    metrics = vae_zoo.zoo.card("factor_vae_tiny")["metrics"]
    assert metrics["mig_lib"]["seeds"].keys() == {"1", "2"}
    assert "seeds" not in metrics["dci_disentanglement"]


PHOTOS = {  # a recipe that takes images of any size, its settings, and what its model has
    "autoencoder": (["--hidden", "8"], (9, 8, 3)),
    "conv_vae": (["--filters", "3", "--units", "8", "--likelihood", "gaussian"], (9, 8, 3)),
    "pixel_cnn": (["--filters", "4", "--blocks", "0"], (9, 8)),
}


@pytest.mark.parametrize("recipe", PHOTOS)
@pytest.mark.filterwarnings("ignore:Skipped 1 file")
def test_a_folder_of_photos_of_any_size(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    rng, settings, shape = np.random.default_rng(0), *PHOTOS[recipe]
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i in range(40):
        pixels = rng.integers(0, 256, (9 + i % 3, 8 + i % 5, (3, 4)[i % 2]), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / ("", "more")[i % 2] / f"{i}.png")
    (tmp_path / "photos" / "notes.txt").write_text("")
    arguments = ["--dataset", tmp_path / "photos", "--output", tmp_path / "run", "--epochs", 1]
    arguments = [*map(str, arguments), *settings, "--batch-size", "32"]
    with pytest.raises(SystemExit):  # nothing says to which size
        cli.run(FUNCTIONS[recipe], arguments)
    assert "--image-size height,width" in capsys.readouterr().err
    cli.run(FUNCTIONS[recipe], [*arguments, "--image-size", "9,8"])
    printed = capsys.readouterr().out
    assert "32 train, 4 validation, 4 test" in printed
    assert ("is not black and white" in " ".join(printed.split())) == (recipe == "pixel_cnn")
    assert vae_zoo.load_model(tmp_path / "run").domain.shape == shape
    if recipe == "conv_vae":  # a run knows the size
        few = ["--importance-samples", "2", "--elbo-samples", "1"]
        numbers = cli.run(FUNCTIONS["evaluate"], [str(tmp_path / "run"), *few])
        assert numbers["psnr"]["images"] == 4


def test_every_image_recipe_takes_a_size_and_replaces_nothing_silently():
    for recipe in (*TINY, "classify", "disentangle", "fine_tune", "tune"):
        parameters = inspect.signature(FUNCTIONS[recipe]).parameters
        assert {"image_size", "overwrite"} <= set(parameters), recipe
    assert "image_size" in inspect.signature(FUNCTIONS["evaluate"]).parameters


def test_a_run_never_replaces_another_silently(tmp_path, capsys):
    dense_vae, output = FUNCTIONS["dense_vae"], tmp_path / "run"
    x = np.random.default_rng(0).integers(0, 2, (60, 4, 4), np.uint8) * 255
    np.savez(tmp_path / "x.npz", x=x)
    tiny = ["--dataset", str(tmp_path / "x.npz"), "--output", str(output)]
    tiny += ["--hidden", "4", "--epochs", "1", "--importance-samples", "0"]

    def run(*arguments):
        cli.run(dense_vae, [*tiny, *arguments])
        return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}

    def refused(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            run(*arguments)
        assert exit.value.code == 2
        return capsys.readouterr().err

    first = run("--latent-dim", "2")
    assert "latent_grid.png" in first and {f"{n}.png" for n in NAMES} >= {
        name for name in first if name.endswith(".png")
    }
    (output / "notes.png").write_text("the user's own")
    error = refused("--latent-dim", "3", "--dataset", "no_such_set")  # before data are read
    assert "x.npz, latent_dim=2: choose another --output" in error
    assert "pass one of them" in refused("--overwrite", "--resume", "--latent-dim", "2")
    (output / "config.json").unlink()  # killed before its end
    assert "latent_dim=2" in refused("--latent-dim", "3")
    for name, content in first.items():
        assert name == "config.json" or (output / name).read_bytes() == content

    again = run("--latent-dim", "2")  # the same settings give the same run
    assert "same settings, which this one replaces" in capsys.readouterr().out
    assert again["history.csv"] == first["history.csv"]
    other = run("--latent-dim", "3", "--overwrite")
    assert "latent_grid.png" not in other and other["notes.png"] == b"the user's own"
    assert vae_zoo.load_model(output).latent_shape == (3,)


def test_what_is_no_folder_is_refused_before_data_are_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.keras").write_text("")
    for place, words in (
        ("file", "--output must be a folder"),
        ("file/run", "--output must be a folder"),
        ("other", "holds other results"),
    ):
        with pytest.raises(SystemExit):
            cli.run(FUNCTIONS["conv_vae"], ["--dataset", "?", "--output", str(tmp_path / place)])
        assert words in capsys.readouterr().err


def test_flow_of_the_plane_is_drawn(run, tmp_path):
    settings = ["--points", 200, "--couplings", 2, "--units", 4, "--epochs", 1]
    for toy in ("moons", "circles", "blobs", "spiral"):
        printed = run("real_nvp", "--dataset", toy, *settings, "--output", tmp_path / toy)
        pictures = {path.stem for path in (tmp_path / toy).glob("*.png")}
        assert pictures == {"curves", "density", "steps"} and "exact, 100" in printed
    model = vae_zoo.load_model(tmp_path / "spiral")
    assert model.shape == (2,)


def test_priors_of_one_model_are_compared(run, tmp_path):
    settings = ["--dataset", "digits", "--epochs", 1, "--couplings", 2, "--units", 4]
    settings += ["--importance-samples", 3, "--importance-images", 20, "--pseudo-inputs", 20]
    path = RECIPES.parent / "saved_models/dense_vae_mnist_2d"
    printed = run("priors", path, *settings, "--output", tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    kinds = ("normal", "mixture", "vamp", "flow", "two_stage")
    assert set(numbers) == {f"nll_iw3_{kind}" for kind in kinds}
    model, (x, _) = vae_zoo.load_model(path), data.load("digits", "test")
    some = data.binarize(x)[np.linspace(0, len(x) - 1, 20).round().astype(int)]
    nll = -model.log_likelihood(some, num_samples=3).mean()
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


def test_a_part_of_an_image_as_the_condition_is_known_to_the_evaluation(tmp_path, capsys):
    output, few = str(tmp_path / "run"), ["--importance-samples", "2", "--elbo-samples", "2"]
    settings = ["--quadrants", "2", "--hidden", "8", "--latent-dim", "2", "--epochs", "1"]
    reported = cli.run(FUNCTIONS["conditional_vae"], [*settings, *few[:2], "--output", output])
    assert (tmp_path / "run" / "completions.png").is_file()
    numbers = cli.run(FUNCTIONS["evaluate"], [output, *few])
    nll = numbers["nll_given_y_iw2"]
    assert nll["images"] == reported["nll_given_y_iw2"]["images"]
    assert nll["value"] == pytest.approx(reported["nll_given_y_iw2"]["value"], rel=1e-4)
    other = cli.run(FUNCTIONS["evaluate"], [output, *few, "--quadrants", "1"])
    assert abs(other["elbo"]["value"] - numbers["elbo"]["value"]) > 1e-3


def test_classify_learns_from_few_labels(tmp_path, capsys):
    classify = runpy.run_path(str(RECIPES / "classify.py"))["classify"]
    settings = ["--checkpoint", str(RECIPES.parent / "saved_models/dense_vae_mnist")]
    settings += ["--labels", "2,20", "--draws", "2", "--steps", "24", "--output", str(tmp_path)]
    settings += ["--encoder-learning-rates", "1e-3"]
    numbers = cli.run(classify, settings)
    value = {name: number["value"] for name, number in numbers.items()}
    assert len(value) == 12 and (tmp_path / "accuracies.png").is_file()
    for way in ("probe", "fine-tuned", "scratch"):  # ten classes; more labels are better
        few, more = (value[f"{way}, {n} a class, by as many"] for n in (2, 20))
        assert max(0.4, few) < more < 1
    accuracies = json.loads((tmp_path / "numbers.json").read_text())["accuracies"]
    for chosen, by_way in accuracies.items():
        name, draws = f"probe, 2 a class, {chosen}", by_way["probe"]["2"]
        assert len(draws) == 2 and value[name] == pytest.approx(np.mean(draws))
        deviation = numbers[name]["standard_deviation"]
        assert deviation == pytest.approx(np.std(draws, ddof=1))
    # Two labels a class choose no better, and 200 are not what "as many" saw.
    assert value["probe, 2 a class, by as many"] <= value["probe, 2 a class, by all"] + 0.02
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


def test_denoise_undoes_a_blur_and_fills_holes_in(patch_prior, tmp_path, capsys):
    recipe = runpy.run_path(str(RECIPES / "denoise.py"))
    settings = ["--checkpoint", str(patch_prior), "--output", str(tmp_path / "out")]
    numbers = cli.run(recipe["denoise"], [*settings, "--blur", "1.6"])
    assert numbers["psnr"]["value"] > numbers["psnr_blurred"]["value"] + 1
    numbers = cli.run(recipe["denoise"], [*settings, "--missing", "0.5"])
    assert numbers["psnr"]["value"] > numbers["psnr_holes"]["value"] + 15
    assert "Noise of 2.0 grey levels\n" in (printed := capsys.readouterr().out)
    assert "Noise of 0.0 grey levels\n" in printed

    # A picture of the user's own, with a scratch: all else stays as it is.
    clean = recipe["_photograph"]()[100:160, 100:170, 0]
    holes = np.zeros(clean.shape, "uint8")
    holes[20:23, 5:60] = 255
    Image.fromarray(np.maximum(clean, holes)).save(tmp_path / "mine.png")
    Image.fromarray(holes).save(tmp_path / "holes.png")
    own = ["--image", str(tmp_path / "mine.png"), "--mask", str(tmp_path / "holes.png")]
    cli.run(recipe["denoise"], [*settings, *own])
    with Image.open(tmp_path / "out" / "denoised.png") as picture:
        filled = np.asarray(picture).astype(int)
    np.testing.assert_array_equal(filled[holes == 0], clean[holes == 0])
    grey = np.abs(clean.mean() - clean)[holes > 0].mean()
    assert np.abs(filled - clean)[holes > 0].mean() < 0.5 * grey
    cli.run(recipe["denoise"], [*settings, *own[:2], "--blur", "1"])
    with Image.open(tmp_path / "out" / "denoised.png") as picture:
        assert picture.size == (70, 60)
    Image.fromarray(holes[1:]).save(tmp_path / "holes.png")
    for wrong, words in (
        (own, "--mask must be as large as --image, 60×70 pixels. Received: 59×70"),
        (own[2:], "--mask goes with an --image, --missing with none"),
        ([*own[:2], "--missing", "0.5"], "--mask goes with an --image, --missing with none"),
        (["--missing", "0.5", "--blur", "1"], "not both at once"),
        (["--missing", "1"], "--missing must be 0 or more, and less than 1"),
        (["--blur", "0"], "--blur must be more than 0"),
        (["--blur", "90"], "kernel"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.run(recipe["denoise"], [*settings, *wrong])
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


def test_denoise_measures_a_folder_and_goes_on(patch_prior, tmp_path, capsys, monkeypatch):
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
        (["--sigma", "-3"], "--sigma must be 0 to 255. Received: sigma=-3.0"),
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
    monkeypatch.setattr(files, "lock", lambda *_: "process 7")
    with pytest.raises(SystemExit):
        cli.run(recipe["denoise"], settings[:2])
    assert "is in use by another run (process 7)" in capsys.readouterr().err


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


def test_sketches_have_priors_of_vectors_and_decoders_none(tmp_path, capsys):
    sketch_rnn = runpy.run_path(str(RECIPES / "sketch_rnn.py"))["sketch_rnn"]
    for arguments in (["--prior-kind", "vamp"], ["--prior-kind", "mixture", "--no-conditional"]):
        with pytest.raises(SystemExit):
            cli.run(sketch_rnn, [*arguments, "--output", str(tmp_path / "run")])
        (line,) = capsys.readouterr().err.splitlines()
        assert "`prior_kind` must be normal" in line and not (tmp_path / "run").exists()


FREE = {"target_distortion"}  # numbers that may be anything
WRONG = {  # flag -> values that cannot be
    "epochs": ["0", "-3"],
    "batch_size": ["0"],
    "learning_rate": ["0", "-1"],
    "old_learning_rate": ["0"],
    "encoder_learning_rates": ["1e-3,-1", ""],
    "importance_samples": ["-5"],
    "importance_images": ["0"],
    "seed": ["-1", "2147483648"],
    "trials": ["0", "-3"],
    "image_size": ["0,0", "8", "8,8,2", "8,8,3,1", "-8,8"],
    "latent_dim": ["0"],
    "filters": ["0"],
    "levels": ["8,1", ""],
    "blocks": ["-1"],
    "kernel_size": ["4", "1"],
    "patience": ["-1"],
    "skip_threshold": ["0"],
    "schedule": ["step"],
    "precision": ["float8"],
    "likelihood": ["bernouli"],
    "freeze": ["all"],
    "tuner": ["grid"],
    "distribute": ["-1"],
}


@pytest.mark.parametrize("recipe", FUNCTIONS)
def test_every_number_has_a_range_and_is_refused_by_name(recipe, capsys, monkeypatch):
    def read(*arguments, **keywords):
        raise AssertionError("data were read, or a folder made, before a flag was refused")

    for name in ("mkdir", "open"):
        monkeypatch.setattr(pathlib.Path, name, read)
    monkeypatch.setattr(data, "load", read)
    function = FUNCTIONS[recipe]
    parameters = inspect.signature(function).parameters
    place = ["somewhere"] * ("path" in parameters)
    for name, parameter in [*parameters.items(), ("distribute", None)]:
        default = parameter and parameter.default
        number = not isinstance(default, bool) and isinstance(
            default[0] if isinstance(default, tuple) else default, (int, float)
        )
        assert not number or name in cli.RANGES or name in FREE, name
        for value in WRONG.get(name, ()):
            flag = f"--{name.replace('_', '-')}"
            with pytest.raises(SystemExit) as exit:
                cli.run(function, [*place, f"{flag}={value}"], distribute=True)
            (line,) = capsys.readouterr().err.splitlines()
            assert exit.value.code == 2 and f"error: {flag} must " in line
            assert (value.split(",")[-1] in line) and "traceback" not in line.lower()
    with pytest.raises(SystemExit):
        cli.run(function, ["--help"], distribute=True)


@pytest.mark.parametrize("wrong", [["--latents", "3"], ["--groups", "1,1,1,1"]])
def test_scales_that_do_not_fit_are_refused_before_data_are_read(wrong, capsys):
    with pytest.raises(SystemExit):
        cli.run(FUNCTIONS["hierarchical_vae"], [*wrong, "--dataset", "no_such_set"])
    assert "--latents and --widths must have a number for each scale" in capsys.readouterr().err


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
