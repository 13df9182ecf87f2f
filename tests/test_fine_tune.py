"""Folders of a user's own images, and a trained model that goes on with them."""

import csv
import json
import os
import pathlib
import runpy
import time

import damage
import keras
import numpy as np
import pytest
from families import FAMILIES, SHAPE, images
from PIL import Image
from test_families import array, filled

from vae_zoo import (
    ConditionalVAE,
    ConvVAE,
    DenseVAE,
    HierarchicalVAE,
    cli,
    data,
    folders,
    load_model,
    runs,
    schedules,
    transfer,
)
from vae_zoo.evaluate import measure

RECIPE = pathlib.Path(__file__).parent.parent / "recipes" / "fine_tune.py"
RNG = np.random.default_rng(0)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def folder(tmp_path):
    """Thirty good images of every kind, and six files that are none."""
    root = tmp_path / "images"
    for i in range(24):
        kind = ("png", "jpg", "bmp", "webp")[i % 4]
        save(root / f"{i % 3}" / f"{i:02}.{kind}", RNG.integers(0, 256, (9 + i, 12, 3), np.uint8))
    for i in range(6):
        save(root / f"grey{i}.png", RNG.integers(0, 256, (12, 9 + i), np.uint8))
    (root / "notes.txt").write_text("not an image")
    (root / "empty.png").touch()
    (root / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    whole = (root / "0" / "00.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "text.png").write_text("text")
    Image.fromarray(np.ones((8, 8), np.float32)).save(root / "float.tiff")
    (root / ".hidden.png").write_text("hidden")
    return root


BROKEN = {"notes.txt", "empty.png", "broken.jpg", "cut.png", "text.png", "float.tiff"}


@pytest.mark.parametrize("shape", [(8, 6, 1), (5, 7, 3)])
def test_a_mixed_folder_is_brought_to_one_shape(folder, tmp_path, shape):
    *parts, skipped = folders.stream(folder, shape, tmp_path / "out")
    train, held, test = parts
    assert sum(map(len, parts)) == 30 and 1 <= len(held) <= 6 and 1 <= len(test) <= 6
    assert set(skipped) == BROKEN and all(skipped.values())
    assert isinstance(train, np.memmap) and train.dtype == np.uint8
    every = np.concatenate(parts)
    expected = {folders.read_as(p, shape).tobytes() for p in folders.files_of(folder)
                if p.name not in BROKEN}  # fmt: skip
    assert {image.tobytes() for image in every} == expected and every.shape[1:] == shape


def test_files_are_read_once(folder, tmp_path, monkeypatch):
    first = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    other = folders.stream(folder, (4, 4, 1), tmp_path / "other", seed=1)
    assert not np.array_equal(other[1], first[1])  # another split
    monkeypatch.setattr(folders, "read_as", None)
    again = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    for a, b in zip(first, again):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    save(folder / "one_more.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(TypeError):
        folders.stream(folder, (4, 4, 1), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))  # no half-written file


def test_images_beside_what_is_written_stay(folder):
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    save(folder / "images-000.png", np.zeros((5, 5), np.uint8))
    for seed in (0, 1):  # the second takes the place of what the first wrote
        *parts, _ = folders.stream(folder, (4, 4, 1), folder, seed)
        assert sum(map(len, parts)) == 31
    assert len(list(folder.glob("images-*.u8"))) == 1 and (folder / "images-000.png").exists()
    assert all((folder / name).read_bytes() == content for name, content in before.items())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_too_large_to_be_meant_is_skipped(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_PIXELS", 600)
    save(folder / "poster.png", np.zeros((25, 25), np.uint8))
    (folder / "more.png").write_bytes(damage.png(13_000, 13_000))  # of which PIL would warn
    *_, skipped = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    assert skipped["poster.png"] == "625 pixels, above the limit of 600"
    assert skipped["more.png"] == "169,000,000 pixels, above the limit of 600"


def test_large_images_are_read_one_at_a_time(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MANY_PIXELS", 1)
    now, most, pixels = [], [], folders._pixels

    def slowly(image):
        now.append(1)
        time.sleep(0.001)
        most.append(len(now))
        now.pop()
        return pixels(image)

    monkeypatch.setattr(folders, "_pixels", slowly)
    folders.stream(folder, (4, 4, 1), tmp_path / "out")
    assert max(most) == 1 and len(most) > 20


def test_odd_names_and_what_is_no_file_are_told_in_one_line(folder, tmp_path):
    place = os.fsencode(folder)
    pixels = (folder / "0" / "00.png").read_bytes()
    for name, content in ((b"\xff.png", pixels), (b"\xfe.png", b"no image"), (b"a\nb.png", b"")):
        with open(os.path.join(place, name), "wb") as file:
            file.write(content)
    (folder / "link.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    *parts, skipped = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    assert {
        "link.png": "a link to nothing",
        "pipe.png": "no regular file",
    }.items() <= skipped.items()
    assert {"\\udcfe.png", "a\\nb.png"} <= set(skipped) and "\\udcff.png" not in skipped
    with pytest.warns(UserWarning) as told:
        found = data.load(folder, "train", image_size=(4, 4))[0]
    assert len(found) + 2 * len(parts[1]) >= 30
    assert all("\n" not in str(w.message) and str(w.message).encode() for w in told)


@pytest.mark.parametrize("content", ["", "[]", '{"kept": [0], "broken": []}', '{"kept": '])
def test_an_index_that_is_not_whole_is_made_anew(folder, tmp_path, content):
    first = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    (index,) = (tmp_path / "out").glob("images-*.json")
    whole = index.read_text()
    index.write_text(content)
    again = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    assert index.read_text() == whole and again[3] == first[3]
    for a, b in zip(first[:3], again[:3]):
        np.testing.assert_array_equal(a, b)


def test_links_and_hidden_folders_end_nothing(folder, tmp_path):
    (folder / "lost.png").symlink_to("nowhere.png")
    (folder / "circle").symlink_to(folder)
    save(folder / ".ipynb_checkpoints" / "00.png", np.zeros((5, 5), np.uint8))
    *parts, skipped = folders.stream(folder, (4, 4, 1), tmp_path / "out")
    assert sum(map(len, parts)) == 30 and set(skipped) == BROKEN | {"lost.png", "circle"}
    assert skipped["lost.png"] == "a link to nothing"


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_one_pixel_is_an_image(size, tmp_path):
    colour = np.full((*size, 3), (200, 0, 0), np.uint8)
    save(tmp_path / "colour.png", colour)
    save(tmp_path / "grey.png", colour[..., 0])
    assert (folders.read_as(tmp_path / "colour.png", (4, 4, 3)) == (200, 0, 0)).all()
    assert (folders.read_as(tmp_path / "grey.png", (4, 4, 1)) == 200).all()


def test_the_middle_is_resized(tmp_path):
    image = np.zeros((10, 20), np.uint8)
    image[:, 5:15] = 200  # a square in the middle of a wide picture
    save(tmp_path / "wide.png", image)
    found = folders.read_as(tmp_path / "wide.png", (4, 4, 1))
    np.testing.assert_allclose(found, 200, atol=15)  # the filter sees a little of the sides


def test_kinds_of_pixels(tmp_path):
    save(tmp_path / "16.png", np.array([[0, 257 * 90], [65535, 256]], np.uint16))
    np.testing.assert_array_equal(folders.read(tmp_path / "16.png")[..., 0], [[0, 90], [255, 0]])
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0] = (10, 20, 30, 255)  # the row below is transparent
    save(tmp_path / "rgba.png", rgba)
    np.testing.assert_array_equal(
        folders.read(tmp_path / "rgba.png")[:, 0], [[10, 20, 30], [255] * 3]
    )
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    turned = folders.read(tmp_path / "turned.png")[..., 0]
    np.testing.assert_array_equal(turned, [[3, 0], [4, 1], [5, 2]])


def test_augmented_images_are_mirrored_and_moved():
    x = images(400, (32, 32, 1))
    y = folders.augmented(x, np.random.default_rng(1))
    np.testing.assert_array_equal(y, folders.augmented(x, np.random.default_rng(1)))
    inner = slice(2, -2)
    found = []
    for a, b in zip(x, y):
        moves = {
            (flip, i, j)
            for flip, source in enumerate((a, a[:, ::-1]))
            for i in range(-2, 3)
            for j in range(-2, 3)
            if np.array_equal(b[inner, inner], np.roll(source, (-i, -j), (0, 1))[inner, inner])
        }
        assert len(moves) == 1
        found += moves
    flips, down, right = np.array(found).T
    assert 150 < flips.sum() < 250 and set(down) == set(right) == {-2, -1, 0, 1, 2}


def test_batches_augment_by_epoch():
    x = images(20, SHAPE)
    batches = data.Batches(x, batch_size=8, seed=3, augment=lambda x, rng: rng.random(len(x)))
    first = [batches[i] for i in range(3)]
    expected = [np.random.default_rng([3, 0, i]).random(n) for i, n in enumerate((8, 8, 4))]
    for a, b in zip(first, expected):
        np.testing.assert_array_equal(a, b)
    batches.epoch = 1
    assert not np.array_equal(batches[0], first[0])


# === Weights ===


@pytest.mark.parametrize("name", ["conv_flat", "dense_bernoulli", "ladder_conv", "vq_vae"])
def test_the_same_images_keep_every_weight(name):
    old, family = filled(FAMILIES[name].make(seed=1)), FAMILIES[name]
    new, fresh = transfer.adapted(old)
    assert fresh == [] and new is not old
    np.testing.assert_allclose(new.predict(family.x), old.predict(family.x), atol=1e-6)


def test_other_images_keep_what_fits():
    old = filled(ConvVAE((8, 6, 1), latent_dim=2, filters=(3, 4), units=5))
    new, fresh = transfer.adapted(old, (12, 12, 3), "discretized_logistic")
    assert new.shape == (12, 12, 3) and np.isfinite(new.predict(images(2, (12, 12, 3)))).all()
    kept = [(a, b) for a, b in zip(new.encoder.weights, old.encoder.weights) if a.shape == b.shape]
    for a, b in kept:
        np.testing.assert_array_equal(array(a), array(b), err_msg=a.path)
    # The first convolution sees colours, the dense layers another grid, the last has a new head.
    shapes = {tuple(v.shape) for v in fresh}
    assert (3, 3, 3, 3) in shapes and (3, 3, 3, 4) not in shapes
    assert all(any(v is w for w in new.trainable_variables) for v in fresh)


def test_a_warm_up_is_over():
    beta = keras.optimizers.schedules.PolynomialDecay(0.0, 5, 0.5)
    model = HierarchicalVAE(SHAPE, (2,), (3,), beta=beta)
    assert transfer.adapted(model)[0].beta == 0.5
    model = DenseVAE((8, 6, 1), latent_dim=2, hidden=(4,), beta=schedules.Cyclical(10, 0.25))
    assert transfer.adapted(model)[0].beta == 0.25


def test_new_layers_learn_faster():
    old = filled(DenseVAE(SHAPE, latent_dim=2, hidden=(5,)))
    model, fresh = transfer.adapted(old, likelihood="discretized_logistic")
    assert [v.path.split("/")[-2] for v in fresh] == ["parameters", "parameters"]
    model.compile(transfer.optimizer(model, fresh, new_rate=1e-2, old_rate=1e-4))
    before = [np.array(array(v)) for v in model.trainable_variables]
    model.fit(images(8, SHAPE), batch_size=8, verbose=0)
    for variable, value in zip(model.trainable_variables, before):
        rate = 1e-2 if any(variable is v for v in fresh) else 1e-4
        change = np.abs(array(variable) - value).max()  # Adam's first step is the rate
        assert 0.5 * rate < change < 1.1 * rate, variable.path


def test_bits_are_of_black_and_white_images():
    bernoulli = DenseVAE(SHAPE, latent_dim=2, hidden=(5,)).likelihood
    assert transfer.fits(bernoulli, data.load("digits")[0][:100])
    assert not transfer.fits(bernoulli, np.full((4, 8, 6, 1), 90, np.uint8))
    assert transfer.fits(FAMILIES["dense_laplace"].make().likelihood, np.full((4, 8, 6, 1), 90))


# === The recipe ===


def history_of(output):
    with open(output / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def fine_tune(*arguments):
    return cli.run(runpy.run_path(str(RECIPE))["fine_tune"], [str(a) for a in arguments])


@pytest.fixture
def checkpoint(tmp_path):
    keras.utils.set_random_seed(1)
    model = ConvVAE((8, 6, 1), latent_dim=2, filters=(3, 4), units=5, likelihood="gaussian")
    (tmp_path / "checkpoint").mkdir()
    model.save(tmp_path / "checkpoint" / "model.keras")
    return tmp_path / "checkpoint"


def test_a_checkpoint_goes_on_with_a_folder(folder, checkpoint, tmp_path, capsys):
    output = tmp_path / "out"
    settings = ("--images", folder, "--output", output, "--epochs", 3, "--batch-size", 8)
    numbers = fine_tune("--checkpoint", checkpoint, *settings, "--augment", "--seed", 1)
    printed = capsys.readouterr().out
    assert "Skipped 6 files" in printed and "notes.txt: not PNG" in printed
    assert set(json.loads((output / "skipped.json").read_text())) == BROKEN
    before, after = (numbers[f"elbo_{when}"]["value"] for when in ("before", "after"))
    assert after > before and "elbo_scratch" in numbers
    model = load_model(output / "model.keras")
    _, held, test, _ = folders.stream(folder, (8, 6, 1), output, seed=1)
    assert measure(model, test, num_samples=0)["elbo"]["value"] == pytest.approx(after, rel=1e-5)
    number = numbers["elbo_after"]  # of images that have not chosen the epoch
    assert number["images"] == len(test) and number["standard_error"] > 0
    best = max(float(row["val_elbo"]) for row in history_of(output))
    elbo = model.evaluate(held, batch_size=128, verbose=0, return_dict=True)["elbo"]
    assert elbo == pytest.approx(best, rel=1e-4)
    for name in ("reconstructions", "samples", "curves"):
        assert (output / f"{name}.png").is_file()


@pytest.mark.parametrize(
    "old_rate, rate, better", [(1e-9, 1e-2, "scratch/model.keras"), (1e-2, 1e-9, "model.keras")]
)
def test_both_models_are_kept_and_the_better_one_is_named(
    old_rate, rate, better, folder, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(runs, "seconds_of", lambda output: 0.1)  # time for an epoch from scratch
    output = tmp_path / "out"
    settings = ("--checkpoint", checkpoint, "--images", folder, "--output", output)
    rates = ("--old-learning-rate", old_rate, "--learning-rate", rate)
    numbers = fine_tune(*settings, *rates, "--epochs", 1, "--batch-size", 4, "--seed", 1)
    assert f"The better model is {output / better}: " in capsys.readouterr().out
    _, held, test, _ = folders.stream(folder, (8, 6, 1), output, seed=1)
    elbos, reported = {}, {}
    for name in ("model.keras", "scratch/model.keras"):
        model = load_model(output / name)
        elbos[name] = model.evaluate(held, batch_size=128, verbose=0, return_dict=True)["elbo"]
        reported[name] = measure(model, test, num_samples=0)["elbo"]["value"]
    written = [numbers[f"elbo_{which}"]["value"] for which in ("after", "scratch")]
    assert list(reported.values()) == pytest.approx(written, rel=1e-5)
    assert numbers["better"]["value"] == max(elbos, key=elbos.get) == better
    assert json.loads((output / "numbers.json").read_text()) == numbers


def test_a_conditional_checkpoint_takes_the_names_of_folders_for_labels(tmp_path, capsys):
    keras.utils.set_random_seed(2)
    old = ConditionalVAE(
        (8, 6, 1), 10, "conv", 2, filters=(3, 4), units=5, label_dim=3, likelihood="gaussian",
        prior="learned",
    )  # fmt: skip
    old.save(tmp_path / "old.keras")
    for i in range(30):  # dark, grey, light
        name, level = (("ash", 60), ("birch", 120), ("cedar", 180))[i % 3]
        noise = RNG.integers(-40, 40, (9, 7, 3))
        save(tmp_path / "trees" / name / f"{i:02}.png", (level + noise).astype("uint8"))
    arguments = ("--checkpoint", tmp_path / "old.keras", "--images", tmp_path / "trees")
    settings = ("--epochs", 2, "--batch-size", 8, "--learning-rate", 0.05, "--no-scratch")
    numbers = fine_tune(*arguments, "--output", tmp_path / "out", *settings)
    printed = capsys.readouterr().out
    assert "Labels: 0 ash, 1 birch, 2 cedar" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("New weights")]
    assert len(line.split(", ")) == 3 and line.count("embedding") >= 3  # and nothing else is new
    assert numbers["elbo_after"]["value"] > numbers["elbo_before"]["value"]
    assert json.loads((tmp_path / "out/config.json").read_text())["classes"][1] == "birch"
    model = load_model(tmp_path / "out")
    assert model.condition.levels == 3 and model.sample(y=[0, 1, 2], seed=1).shape == (3, 8, 6, 1)
    *parts, _ = folders.stream(tmp_path / "trees", (8, 6, 1), tmp_path / "x", labelled=True)
    for x, y in parts:
        np.testing.assert_array_equal(np.round(x.mean((1, 2, 3)) / 60 - 1), y)
    with pytest.raises(ValueError, match="a folder of images for each class"):
        folders.classes_of(tmp_path / "trees" / "ash")


def test_what_is_written_is_never_worse(folder, checkpoint, tmp_path):
    output = tmp_path / "out"
    arguments = ("--checkpoint", checkpoint, "--images", folder, "--output", output)
    numbers = fine_tune(*arguments, "--epochs", 1, "--old-learning-rate", 50.0, "--no-scratch")
    assert numbers["elbo_after"]["value"] == numbers["elbo_before"]["value"]
    old, new = (load_model(f / "model.keras") for f in (checkpoint, output))
    for a, b in zip(old.encoder.get_weights(), new.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_frozen_part_stays(folder, checkpoint, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--images", folder, "--output", tmp_path / "out")
    fine_tune(*arguments, "--freeze", "encoder", "--epochs", 1, "--no-scratch")
    old, new = (load_model(f / "model.keras") for f in (checkpoint, tmp_path / "out"))
    for a, b in zip(old.encoder.get_weights(), new.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert new.encoder.trainable
    assert any((a != b).any() for a, b in zip(old.decoder.get_weights(), new.decoder.get_weights()))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--images", "no/such/folder"], "no/such/folder is not a folder"),
        (["--images", "{empty}"], "has 0 readable images, 20 are needed"),
        ([], "--images is missing"),
        (["--images", "{folder}", "--checkpoint", "no/such.keras"], "no/such.keras"),
        (["--images", "{folder}", "--image-size", "8,8,4"], "1 or 3 channels"),
        (["--images", "{folder}", "--freeze", "all"], "--freeze must be"),
        (["--images", "{folder}", "--image-size", "12,12", "--freeze", "encoder"],
         "would keep 1 new weights untrained"),
        (["--images", "{folder}", "--checkpoint", "{pixel_cnn}"],
         "A PixelCNN cannot be built for other images"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(arguments, words, folder, checkpoint, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"folder": folder, "empty": tmp_path / "empty"}
    places["pixel_cnn"] = RECIPE.parent.parent / "saved_models" / "pixel_cnn_mnist"
    arguments = [argument.format(**places) for argument in arguments]
    with pytest.raises(SystemExit) as exit:
        fine_tune("--checkpoint", checkpoint, "--output", tmp_path / "out", *arguments)
    lines = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and len(lines) == 1 and words in lines[0]
