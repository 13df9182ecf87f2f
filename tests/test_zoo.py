"""Entries: what a card promises holds on this backend, and damage is noticed."""

import io
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

import vae_zoo
from vae_zoo import DenseVAE, data, files, zoo
from vae_zoo.data.places import LICENCES
from vae_zoo.lab import canvas
from vae_zoo.lab.evaluate import measure

ROOT = pathlib.Path(__file__).parent.parent
ENTRIES = zoo.names()


def golden_of(name):
    with np.load(zoo.FOLDER / name / "golden.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_returns_what_its_golden_file_says(name):
    expected = golden_of(name)
    model = zoo.load(name)
    found = zoo.golden(model, expected["x"], expected.get("y"))
    assert set(found) == set(expected)
    for key, value in found.items():
        exact = np.asarray(value).dtype.kind == "i"
        tolerance = {"rtol": 1e-5} if key == "loss" else {"rtol": 0, "atol": 0 if exact else 1e-4}
        np.testing.assert_allclose(value, expected[key], **tolerance, err_msg=key)
    by_keras = keras.models.load_model(zoo.FOLDER / name / "model.keras")
    for old, new in zip(model.get_weights(), by_keras.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_says_where_its_model_comes_from(name):
    card = zoo.card(name)
    model = zoo.load(name)
    assert card["name"] == name and card["class"] == type(model).__name__
    assert card["config"] == json.loads(json.dumps(model.get_config()))
    if "classifier_sha256" in card:
        classifier = zoo.card(zoo.CLASSIFIER + card["dataset"])
        assert card["classifier_sha256"] == classifier["sha256"]
    assert card["command"].split()[1:2] == ["python"] and card["data_licence"] != "unknown"
    assert {"backend", "keras", "machine", "epochs", "minutes", "seed"} <= set(card["training"])
    assert {"backend", "machine", "test_images"} <= set(card["evaluation"])
    for metric, number in card["metrics"].items():
        assert {"value", "unit", "protocol"} <= set(number), metric
        assert np.isfinite(number["value"]).all(), metric
        if "anchor" in number:
            fields = {"value", "source", "differs", "samples", "compared"}
            assert set(number["anchor"]) == fields, metric
            if number["anchor"]["compared"]:  # by a gap, which has an error
                assert number["standard_error"] > 0, metric
        if metric in ("elbo", "nll") or "_iw" in metric:
            one = card["class"] == "GraphVAE"  # a graph is one example
            assert (number["images"] > 1) != one, metric
            assert ("samples" in number) == (metric != "nll"), metric


def test_the_classifier_of_a_data_set_takes_images_without_a_warning():
    classifier, x = zoo.classifier("mnist", (28, 28, 1)), np.zeros((2, 28, 28, 1), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a list of one input was expected
        assert classifier(x, training=False).shape == (2, 64)
    assert zoo.classifier("mnist", (32, 32, 1)) is None and zoo.classifier("digits") is None


def test_a_run_becomes_an_entry_with_the_numbers_of_other_seeds(tmp_path, monkeypatch, capsys):
    recipe = runpy.run_path(str(ROOT / "recipes" / "dense_vae.py"))["dense_vae"]
    add_entry = runpy.run_path(str(ROOT / "tools" / "add_entry.py"))["add_entry"]
    runs = [tmp_path / name for name in ("dense_vae_digits", "seed_1", "wider")]
    for run, settings in zip(runs, ({}, {"seed": 1}, {"seed": 2, "hidden": (9,)})):
        recipe(epochs=1, importance_samples=0, output=str(run), **{"hidden": (8,), **settings})
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    add_seeds = runpy.run_path(str(ROOT / "tools" / "add_seeds.py"))["add_seeds"]
    add_entry(runs[0], importance_samples=2, importance_images=30)
    add_seeds("dense_vae_digits", (str(runs[1]),))
    assert zoo.card("dense_vae_digits")["metrics"]["nll_iw2"]["seeds"].keys() == {"0", "1"}
    seeds = zoo.card("dense_vae_digits")["metrics"]["elbo"]["seeds"]
    assert set(seeds) == {"0", "1"}
    for run, value in zip(runs, seeds.values()):
        numbers = json.loads((run / "numbers.json").read_text())
        assert value == pytest.approx(numbers["elbo"]["value"], rel=1e-5)
    with pytest.raises(ValueError, match=r"wider differs .* in more than the seed: \['hidden'\]"):
        add_seeds("dense_vae_digits", (str(runs[2]),))
    # Measured anew it has the same numbers, and those of the other seeds still.
    before = zoo.card("dense_vae_digits")["metrics"]
    monkeypatch.syspath_prepend(ROOT / "tools")
    runpy.run_path(str(ROOT / "tools" / "measure_anew.py"))["measure_anew"](("dense_vae_digits",))
    after = zoo.card("dense_vae_digits")["metrics"]
    assert {k: n["value"] for k, n in after.items()} == {k: n["value"] for k, n in before.items()}
    assert after["elbo"]["seeds"] == seeds and after["nll_iw2"]["effective_samples"] > 1
    # Two models are compared image by image: one is itself, and a damaged one is told from it.
    reproduce = runpy.run_path(str(ROOT / "tools" / "reproduce.py"))
    compare, compare_parts = reproduce["compare"], reproduce["compare_parts"]
    of_parts = {"link_auc_parts": {"value": 0.9, "standard_error": 0.01}}
    for value, equal in ((0.93, True), (0.95, False)):  # of two errors of 0.01, three times
        again = {"link_auc_parts": {"value": value, "standard_error": 0.01}}
        assert compare_parts({"metrics": of_parts}, again, 3.0) == equal
    model, damaged = (zoo.load("dense_vae_digits") for _ in range(2))
    card = {**zoo.card("dense_vae_digits"), "metrics": after}
    assert compare(card, model, model, 3.0)
    kernel = damaged.decoder.trainable_variables[0]
    kernel.assign(1.3 * keras.ops.convert_to_numpy(kernel))
    for number in card["metrics"].values():
        number.pop("seeds", None)
    assert not compare(card, model, damaged, 3.0)
    assert "nll_iw2" in capsys.readouterr().out
    results_table = runpy.run_path(str(ROOT / "tools" / "results_table.py"))["results_table"]
    pages = tmp_path / "pages"
    (pages / "saved_models").mkdir(parents=True)
    readme = pages / "saved_models" / "README.md"
    for page in (pages / "README.md", readme):
        page.write_text("<!-- results -->\n<!-- /results -->\n")
    results_table(str(pages))
    assert "; 30 images) |" in readme.read_text()  # samples; effective samples; images
    assert f" -elbo of seeds 0, 1: {-seeds['0']:.2f}, {-seeds['1']:.2f}." in readme.read_text()


def test_a_run_of_a_patch_mixture_becomes_an_entry(tmp_path, monkeypatch, capsys):
    recipe = runpy.run_path(str(ROOT / "recipes" / "gaussian_mixture.py"))["gaussian_mixture"]
    add_entry = runpy.run_path(str(ROOT / "tools" / "add_entry.py"))["add_entry"]
    for components, run in ((2, "gmm_patches_digits"), (1, "one")):
        recipe(number=300, components=components, epochs=2, output=str(tmp_path / run))
    x = data.load("digits", "test")[0]
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.fromarray(x[i, : 20 + i, :, 0]).save(tmp_path / "images" / f"{i}.png")
    measured = {"settings": {"sigma": 25, "fast": True}, "numbers": {}}
    measured["numbers"]["psnr"] = {"value": 28.0, "unit": "dB", "protocol": "2 images"}
    files.write_json(tmp_path / "denoised" / "benchmark.json", measured)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    images, denoised, one = (str(tmp_path / name) for name in ("images", "denoised", "one"))
    more = {"images": images, "denoising": (denoised,), "fewer": (one,)}
    add_entry(tmp_path / "gmm_patches_digits", **more)
    card, model = zoo.card("gmm_patches_digits"), zoo.load("gmm_patches_digits")
    numbers = card["metrics"]
    assert {"nll", "patch_log_likelihood", "patch_log_likelihood_components_1"} <= set(numbers)
    assert numbers["psnr_sigma_25"]["protocol"] == "2 images, fast setting"
    # Not rounded: a product with the factor of a precision needs all bits.
    first = vae_zoo.load_model(tmp_path / "gmm_patches_digits")
    for old, new in zip(first.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    golden = golden_of("gmm_patches_digits")
    assert golden["x"].shape == (4, 8, 8) and golden["output"].shape == (4, 2)
    np.testing.assert_array_equal(golden["x"], model.sample(4, seed=0))


def test_every_card_says_the_terms_of_its_data():
    for path in zoo.FOLDER.glob("*/card.json"):
        assert json.loads(path.read_text())["data_licence"] in LICENCES.values(), path


def test_all_entries_together_are_small():
    paths = [path for path in zoo.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) < 40 * 2**20
    assert all(path.stat().st_size < canvas.LIMIT for path in paths if path.suffix == ".png")


def test_a_large_picture_has_fewer_colours_and_what_is_undefined_stays_magenta(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype("uint8")
    images[3:6, 3:6] = canvas.NAN_COLOUR
    for path, image in (("large", images), ("few", images // 200 * 200), ("small", images[:9, :9])):
        path = canvas.write(Image.fromarray(image), tmp_path / f"{path}.png")
        with Image.open(path) as picture:
            written = np.asarray(picture.convert("RGB"))
        assert path.stat().st_size < canvas.LIMIT and written.shape == image.shape
        undefined = (image == canvas.NAN_COLOUR).all(-1)
        assert (undefined == (written == canvas.NAN_COLOUR).all(-1)).all()
        assert (written == image).all() == (path.stem != "large")


def test_greys_and_diagrams_are_thinned_out_and_other_colours_are_not(tmp_path):
    greys = np.random.default_rng(0).integers(0, 256, (60, 80)).astype("uint8")
    colours = np.stack([greys, greys // 2, greys], axis=-1)
    for name, image, error in (("grey", greys, 8), ("samples", colours, 0), ("curves", colours, 8)):
        before = canvas.write(Image.fromarray(image), tmp_path / f"{name}.png").read_bytes()
        canvas.thin_out(tmp_path / f"{name}.png")
        after = (tmp_path / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(after)) as picture:
            written = np.asarray(picture.convert("RGB")).astype(int)
        assert (len(after) < len(before)) == (name != "samples")
        assert np.abs(written - (greys[..., None] if name == "grey" else colours)).max() <= error


def tiny():
    keras.utils.set_random_seed(1)
    return DenseVAE((12, 12, 1), latent_dim=2, hidden=(8,), seed=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    return tmp_path


def test_an_entry_comes_back_as_it_was_saved(folder):
    model = tiny()
    model.compile("adam")
    picture = folder / "picture.png"
    picture.write_bytes(b"drawn")
    zoo.save(model, "tiny_vae", {"dataset": "digits"}, [picture])
    assert zoo.names() == ["tiny_vae"] and model.compiled
    card = zoo.card("tiny_vae")
    assert card["class"] == "DenseVAE" and card["dataset"] == "digits"
    assert card["parameters"] == model.count_params()
    again, golden = zoo.load("tiny_vae"), golden_of("tiny_vae")
    assert not again.compiled and (folder / "tiny_vae" / "picture.png").read_bytes() == b"drawn"
    assert set(np.unique(golden["x"])) <= {0, 255} and golden["x"].shape == (4, 12, 12, 1)
    z_mean = keras.ops.convert_to_numpy(again.posterior(again.domain.tensor(golden["x"])).mean)
    np.testing.assert_allclose(golden["latent"], z_mean, atol=1e-5)
    np.testing.assert_allclose(golden["reconstruction"], again.decode(golden["latent"]))
    # The loss at the mean of the posterior, by hand.
    x, p = golden["x"] / 255.0, golden["reconstruction"].astype("float64")
    kl = again.kl_per_latent(golden["x"][:1]).sum()
    distortion = -(x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2, 3))
    np.testing.assert_allclose(golden["loss"][0], distortion[0] + kl, rtol=1e-4)


def test_weights_are_rounded_as_a_half_float_is():
    numbers = np.random.default_rng(0).normal(size=10_000).astype("float32")
    numbers = numbers[abs(numbers) > 2e-4]  # smaller ones have fewer bits in a half float
    np.testing.assert_array_equal(files.rounded(numbers), numbers.astype("float16"))
    ties = 1 + np.float32([1, 3, 5]) / 2**11  # to even
    np.testing.assert_array_equal(files.rounded(ties), 1 + np.float32([0, 4, 4]) / 2**11)
    kept = np.float32([0, 1e-30, -2.5, 1e30, np.inf, -np.inf, np.nan])
    np.testing.assert_allclose(files.rounded(kept), kept, rtol=2**-11)
    assert files.rounded(kept).dtype == "float32" and files.rounded(np.float32(0.1)).shape == ()


def test_only_float_weights_are_rounded():
    layer = keras.layers.Layer()
    values = {"float32": 1 / 3, "float16": 1 / 3, "int32": 2**24 - 1, "bool": True}
    for dtype, value in values.items():
        constant = keras.initializers.Constant(value)
        layer.add_weight(shape=(2,), dtype=dtype, initializer=constant, trainable=False)
    layer.built = True
    before = [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
    model = keras.Sequential([layer])
    zoo.round_weights(model)
    after = [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
    assert (after[0] == files.rounded(before[0])).all() and (after[0] != before[0]).all()
    for old, new in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(old, new)


def test_rounding_moves_the_elbo_by_less_than_a_tenth_of_its_standard_error():
    (x, _), (test, _) = data.load("digits"), data.load("digits", "test")
    model = DenseVAE(x.shape[1:], latent_dim=4, hidden=(32,), seed=0)
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(x, batch_size=64, epochs=5, verbose=0)
    test = data.binarize(test)
    before = measure(model, test, num_samples=0, elbo_samples=4)["elbo"]
    zoo.round_weights(model)
    after = measure(model, test, num_samples=0, elbo_samples=4)["elbo"]  # by the same draws
    assert after["value"] != before["value"]
    assert abs(after["value"] - before["value"]) < before["standard_error"] / 10


def test_files_of_entries_are_compressed_and_plain_keras_reads_them(folder):
    model = tiny()
    model.sample(2)
    zoo.save(model, "tiny_vae", {"dataset": "digits"})
    path = folder / "tiny_vae" / "model.keras"
    again = keras.models.load_model(path)
    for old, new in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
    items = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as content:
        with h5py.File(content) as file:
            file.visititems(lambda name, item: items.append(item))
            arrays = [item for item in items if isinstance(item, h5py.Dataset)]
            large = [item for item in arrays if item.nbytes >= files.SMALL]
            assert large and all(item.shuffle for item in large)
            assert {item.compress_type for item in archive.infolist()} == {zipfile.ZIP_LZMA}
            assert any(item.dtype == "int64" for item in arrays)  # noise
    model.save(folder / "plain.keras")
    assert path.stat().st_size < (folder / "plain.keras").stat().st_size / 2


def test_entries_are_stored_anew_with_what_is_known_of_them(folder, capsys):
    store_anew = runpy.run_path(str(ROOT / "tools" / "store_anew.py"))["store_anew"]
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    zoo.save(classifier, "classifier_digits", {"machine": "a"})
    drawn = [folder / f"picture.{kind}" for kind in ("gif", "png", "svg")]
    for path in drawn:
        path.write_bytes(b"drawn")
    numbers = {"metrics": {"elbo": {"value": 1.0}}, "classifier_sha256": "of another"}
    model = tiny()
    zoo.save(model, "tiny_vae", {"dataset": "digits", **numbers}, drawn)
    for path in drawn:
        path.unlink()
    before = {name: zoo.card(name) for name in ("classifier_digits", "tiny_vae")}
    store_anew()
    after = {name: zoo.card(name) for name in before}
    assert list(after["tiny_vae"]) == list(before["tiny_vae"])
    sha256 = after["classifier_digits"]["sha256"]
    assert after["tiny_vae"]["classifier_sha256"] == sha256
    assert sha256 == files.sha256(folder / "classifier_digits" / "model.keras")
    for name in before:
        for key in ("sha256", "classifier_sha256"):
            before[name].pop(key, None), after[name].pop(key, None)
    assert after == before and "config" not in after["classifier_digits"]
    assert {path.name for path in (folder / "tiny_vae").iterdir()} == {
        "model.keras",
        "card.json",
        "golden.npz",
        *(path.name for path in drawn),
    }
    for old, new in zip(model.get_weights(), zoo.load("tiny_vae").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_saving_anew_replaces_whole_entries(folder):
    zoo.save(tiny(), "tiny_vae", {"dataset": "digits"})
    first = zoo.card("tiny_vae")["sha256"]
    other = tiny()
    other.set_weights([w + 1 for w in other.get_weights()])
    zoo.save(other, "tiny_vae", {"dataset": "digits"})
    assert zoo.card("tiny_vae")["sha256"] != first
    assert [path.name for path in folder.iterdir()] == ["tiny_vae"]


def test_what_is_wrong_with_an_entry_is_said(folder):
    zoo.save(tiny(), "tiny_vae", {"dataset": "digits"})
    with pytest.raises(ValueError, match=r"one of \['tiny_vae'\]. Received: 'tiny'"):
        zoo.load("tiny")
    file = folder / "tiny_vae" / "model.keras"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="model.keras is damaged: its sha256"):
        zoo.load("tiny_vae")
    file.unlink()
    with pytest.raises(ValueError, match="damaged"):
        zoo.load("tiny_vae")


@pytest.mark.parametrize("text", ["[]", "", "{}", "[" * 10**5, '{"sha256": 1}', "\\xff", "1"])
def test_a_card_that_is_none_is_one_line(folder, text):
    zoo.save(tiny(), "tiny_vae", {})
    path = folder / "tiny_vae" / "card.json"
    path.write_bytes(text.encode().replace(b"\\xff", b"\xff"))
    for look in (zoo.card, zoo.load):
        with pytest.raises(ValueError) as error:
            look("tiny_vae")
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_path_is_no_name(folder, monkeypatch):
    zoo.save(tiny(), "tiny_vae", {})
    monkeypatch.setattr(zoo, "FOLDER", folder / "inner")
    (folder / "inner").mkdir()
    for name in ("../tiny_vae", str(folder / "tiny_vae"), "./../tiny_vae", "..", "", None):
        with pytest.raises(ValueError, match="`name` must be one of"):
            zoo.load(name)


COMMANDS = [
    "touch marker",
    "KERAS_BACKEND=torch python -c 'import os'",
    "KERAS_BACKEND=torch sh recipes/dense_vae.py",
    "KERAS_BACKEND=torch python recipes/../tools/store_anew.py",
    "KERAS_BACKEND=torch python /tmp/recipes/dense_vae.py",
    "PYTHONPATH=/tmp python recipes/dense_vae.py",
    "KERAS_BACKEND=torch PYTHONPATH=/tmp python recipes/dense_vae.py",
    "KERAS_BACKEND=torch python recipes/dense_vae.py --output /tmp/x",
    "KERAS_BACKEND=torch python recipes/dense_vae.py --overwrite",
    "KERAS_BACKEND=torch python recipes/dense_vae.py --epochs 0",
    "KERAS_BACKEND=torch python recipes/dense_vae.py --epochs 1; touch marker",
    "KERAS_BACKEND=torch python recipes/dense_vae.py --help",
    "'",
    "",
    7,
    None,
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_card_runs_nothing_but_a_recipe(command):
    command_of = runpy.run_path(str(ROOT / "tools" / "reproduce.py"))["command_of"]
    with pytest.raises(ValueError, match="A card's command must be") as error:
        command_of({"command": command})
    assert "\n" not in str(error.value)


def test_commands_of_cards_are_recipes_with_settings():
    command_of = runpy.run_path(str(ROOT / "tools" / "reproduce.py"))["command_of"]
    backend, recipe, arguments = command_of(zoo.card("ladder_vae_mnist"))
    assert (backend, recipe) == ("jax", ROOT / "recipes" / "hierarchical_vae.py")
    assert arguments[:2] == ["--dataset=mnist", "--latents=40,20,10,5"]
    assert "--balance" in command_of(zoo.card("hierarchical_vae_mnist"))[2]


def test_the_results_table_is_a_function_of_the_cards(tmp_path):
    """Running the tool changes nothing: every number of the README comes from a card."""
    (tmp_path / "saved_models").mkdir()
    tables = ["README.md", "saved_models/README.md"]
    for name in tables:
        shutil.copy(ROOT / name, tmp_path / name)
    runpy.run_path(str(ROOT / "tools" / "results_table.py"))["results_table"](str(tmp_path))
    for name in [*tables, *(f"saved_models/{entry}/README.md" for entry in zoo.names())]:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the same on each backend")
def test_a_wheel_brings_the_entries(tmp_path):
    """Built without isolation, so that nothing is downloaded; installed into a folder."""
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", ".*")
    )
    subprocess.run([*build, "-q", "-w", tmp_path], cwd=source, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run([*install, "--target", tmp_path / "site"], check=True)
    code = (
        "import json, vae_zoo; from vae_zoo import zoo; names = zoo.names();"
        "from vae_zoo.__main__ import recipes; scripts = [path.name for path in recipes()];"
        "loaded = [zoo.load(n).name for n in names[:1]];"
        "print(json.dumps([vae_zoo.__file__, names, loaded, scripts]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    file, names, loaded, scripts = json.loads(done.stdout.splitlines()[-1])
    assert file.startswith(str(tmp_path / "site"))
    assert names == ENTRIES and len(loaded) == min(1, len(names))
    assert scripts == sorted(path.name for path in (ROOT / "recipes").glob("*.py"))
    assert vae_zoo.__file__ != file


@pytest.mark.parametrize(
    "form", ["{}", "saved_models/{}", "{folder}/{}", "{folder}/{}/model.keras"]
)
def test_an_entry_is_found_by_its_name_from_any_folder(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = zoo.find(form.format("dense_vae_mnist_2d", folder=zoo.FOLDER))
    assert path.samefile(zoo.FOLDER / "dense_vae_mnist_2d" / "model.keras")


def test_a_file_of_the_users_comes_before_an_entry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "dense_vae_mnist_2d"
    own.mkdir()
    assert zoo.find(own.name).parent == zoo.FOLDER / own.name  # there is nothing in it
    with pytest.raises(ValueError, match="dense_vae_mnist_2d holds no model.keras"):
        zoo.find(own)
    (own / "model.keras").write_text("")
    assert zoo.find(own.name) == pathlib.Path("dense_vae_mnist_2d/model.keras")


@pytest.mark.parametrize(
    "name, near",
    [("conv_vae_mnst", "conv_vae_mnist"), ("dense_vae", "dense_vae_mnist"), ("zzz", None)],
)
def test_near_names_are_listed(name, near):
    for look_up in (zoo.find, vae_zoo.load_model, zoo.card):
        with pytest.raises(ValueError) as error:
            look_up(name)
        assert name in str(error.value) and "\n" not in str(error.value)
        if near:
            assert near in str(error.value).split("near names" if look_up != zoo.card else "; ")[-1]
        elif look_up != zoo.card:
            assert "near" not in str(error.value)
