"""Entries: what a card promises holds on this backend, and damage is noticed."""

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import vae_zoo
from vae_zoo import DenseVAE, zoo

ROOT = pathlib.Path(__file__).parent.parent
ENTRIES = zoo.names()


def golden_of(name):
    with np.load(zoo.FOLDER / name / "golden.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_returns_what_its_golden_file_says(name):
    expected = golden_of(name)
    model = zoo.load(name)
    found = zoo.golden(model, expected["x"])
    assert set(found) == set(expected)
    for key, value in found.items():
        exact = value.dtype.kind == "i"
        tolerance = {"rtol": 1e-5} if key == "loss" else {"rtol": 0, "atol": 0 if exact else 1e-4}
        np.testing.assert_allclose(value, expected[key], **tolerance, err_msg=key)
    by_keras = keras.models.load_model(zoo.FOLDER / name / "model.keras")
    for old, new in zip(model.get_weights(), by_keras.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_says_where_its_model_comes_from(name):
    card = zoo.card(name)
    assert card["name"] == name and card["class"] == type(zoo.load(name)).__name__
    assert card["command"].split()[1:2] == ["python"] and card["data_licence"] != "unknown"
    assert {"backend", "keras", "machine", "epochs", "minutes", "seed"} <= set(card["training"])
    assert {"backend", "machine", "test_images"} <= set(card["evaluation"])
    for metric, number in card["metrics"].items():
        assert {"value", "unit", "protocol"} <= set(number), metric
        assert np.isfinite(number["value"]).all(), metric
        assert ("anchor" in number) == ("anchor_source" in number), metric


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
    results_table = runpy.run_path(str(ROOT / "tools" / "results_table.py"))["results_table"]
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    results_table(str(readme))
    assert f" -elbo of seeds 0, 1: {-seeds['0']:.2f}, {-seeds['1']:.2f}." in readme.read_text()


def test_all_entries_together_are_small():
    files = [path for path in zoo.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40 * 2**20


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
    z_mean, _ = again.posterior(again.images(golden["x"]))
    np.testing.assert_allclose(golden["latent"], keras.ops.convert_to_numpy(z_mean), atol=1e-5)
    np.testing.assert_allclose(golden["reconstruction"], again.decode(golden["latent"]))
    # The loss at the mean of the posterior, by hand.
    x, p = golden["x"] / 255.0, golden["reconstruction"].astype("float64")
    kl = again.kl_per_latent(golden["x"][:1]).sum()
    distortion = -(x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2, 3))
    np.testing.assert_allclose(golden["loss"][0], distortion[0] + kl, rtol=1e-4)


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


def test_the_results_table_is_a_function_of_the_cards(tmp_path):
    """Running the tool changes nothing: every number of the README comes from a card."""
    copy = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", copy)
    runpy.run_path(str(ROOT / "tools" / "results_table.py"))["results_table"](str(copy))
    assert copy.read_text() == (ROOT / "README.md").read_text()


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
        "print(json.dumps([vae_zoo.__file__, names, [zoo.load(n).name for n in names[:1]]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    file, names, loaded = json.loads(done.stdout.splitlines()[-1])
    assert file.startswith(str(tmp_path / "site"))
    assert names == ENTRIES and len(loaded) == min(1, len(names))
    assert vae_zoo.__file__ != file
