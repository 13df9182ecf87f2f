"""Archives from anywhere: the smallest of each kind that cost more than a line to refuse."""

import io
import json
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest

import vae_zoo
from vae_zoo import archives, data
from vae_zoo.engine import saving


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.keras"
    model = vae_zoo.DenseVAE((4, 4, 1), 2, hidden=(3,), seed=0)
    model.compile("adam")
    model.save(path)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return path


def rewritten(good, path, **config):
    """A copy with other values in its config."""
    parts = members(good)
    whole = json.loads(parts["config.json"])
    whole["config"] |= config
    return write(path, {**parts, "config.json": json.dumps(whole)})


def reweighted(good, path, change):
    """A copy whose weights, an open `h5py.File`, `change` has changed."""
    parts = members(good)
    file = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(file, "r+") as weights:
        change(weights)
    return write(path, {**parts, "model.weights.h5": file.getvalue()})


def refused(path, words, load=vae_zoo.load_model):
    with pytest.raises(ValueError) as caught:
        load(path)
    said = str(caught.value)
    assert words in said and str(path) in said and "\n" not in said, said


# The place of a byte after the mark of a member in the list of members, its value, and what for.
HEADERS = {
    "encrypted": (8, 1, "encrypted"),
    "compressed as nothing is": (10, 77, "compression"),
    "of another version": (6, 255, "version"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_one_byte_of_a_header_is_one_line(good, tmp_path, case):
    place, value, word = HEADERS[case]
    content = bytearray(good.read_bytes())
    content[content.index(b"PK\1\2") + place] = value
    (tmp_path / "model.keras").write_bytes(content)
    refused(tmp_path / "model.keras", word)


def test_json_that_is_too_deep_is_one_line(good, tmp_path):
    for depth in (500, 10**5):
        deep = "[" * depth + "]" * depth
        parts = members(good)
        whole = parts["config.json"].decode().replace('"seed": 0', f'"seed": {deep}')
        assert deep in whole
        path = write(tmp_path / "model.keras", {**parts, "config.json": whole})
        refused(path, "too deep" if depth > 500 else "Recursion")


def test_a_file_that_inflates_to_more_than_it_can_hold_is_refused(good, tmp_path):
    path = tmp_path / "model.keras"
    for name in ("model.weights.h5", "config.json", "another"):
        parts = {**members(good), name: b" " * 2**25}
        refused(write(path, parts, zipfile.ZIP_DEFLATED), "inflates to 33,")
    refused(write(path, {**members(good), "config.json": " " * (2**22 + 1)}), "above the limit")
    many = {f"{i}" * 60_000: b"" for i in range(1, 10)} | {f"1{i}" * 32_000: b"" for i in range(9)}
    refused(write(path, members(good) | many), "its list of members is longer")
    refused(write(path, members(good), zipfile.ZIP_BZIP2), "compression that is not read here")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_user_may_compress_a_file(good, tmp_path, compression):
    assert vae_zoo.load_model(write(tmp_path / "model.keras", members(good), compression)).compiled


def test_a_read_of_what_is_packed_tight_takes_little_memory(tmp_path):
    """However little of an archive's bytes a member takes, one read of it stays small."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x", bytes(2**28))
    tracemalloc.start()
    with zipfile.ZipFile(content) as archive, archive.open("x") as member:
        member.read(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27


BOMBS = {
    "an array that is not there": lambda file: file.create_dataset("x", (2**30,), chunks=(2**20,)),
    "many of them, in /vars": lambda file: [
        file["vars"].create_dataset(f"x{i}", (2**24,), chunks=(2**20,)) for i in range(3)
    ],
    "many groups": lambda file: [file.create_group(f"x{i}") for i in range(99)],
    "a circle": lambda file: file.__setitem__("x", file["/"]),
    "a link": lambda file: file.__setitem__("x", h5py.SoftLink("/vars")),
    "a link to a file": lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
}


@pytest.mark.parametrize("case", BOMBS)
def test_weights_that_are_declared_and_not_there_are_refused(good, tmp_path, monkeypatch, case):
    monkeypatch.setattr(archives, "MOST_OBJECTS", 90)
    path = reweighted(good, tmp_path / "model.keras", BOMBS[case])
    word = "declare arrays of" if "arra" in case or "vars" in case else "link to elsewhere"
    refused(path, "has more than 90 objects" if case in ("many groups", "a circle") else word)


SIZES = {
    "in sum": {"hidden": [11_000] * 250},
    "of few weights in many arrays": {"hidden": [1] * 200},
    "of one layer": {"hidden": [400]},
    "samples": {"num_samples": 10**30},
    "seed": {"seed": 10**30},
    "of a prior": {
        "prior": {
            "module": None,
            "class_name": "vae_zoo>StandardNormal",
            "registered_name": "vae_zoo>StandardNormal",
            "config": {"latent_shape": [10**9]},
        }
    },
}


@pytest.mark.parametrize("case", SIZES)
def test_a_config_asks_for_what_its_file_holds(good, tmp_path, monkeypatch, case):
    path = rewritten(good, tmp_path / "model.keras", **SIZES[case])
    built = []
    monkeypatch.setattr(keras.initializers.Zeros, "__call__", lambda *_, **__: built.append(1))
    refused(path, "limit")
    assert not built


def test_layers_by_the_hundred_are_refused(good, tmp_path):
    path = tmp_path / "model.keras"
    sizes = {"groups": (1, 1), "latents": (1, 1), "widths": (2, 2), "blocks": 0}
    vae_zoo.HierarchicalVAE((4, 4, 1), **sizes).save(path)
    for more in ({"groups": [200] * 3, "latents": [1] * 3, "widths": [1] * 3}, {"blocks": 256}):
        refused(rewritten(path, tmp_path / "more.keras", **more), "limit")


def test_the_cap_is_the_users(good):
    with pytest.raises(ValueError, match="more weights than the limit of 100 in"):
        vae_zoo.load_model(good, most_weights=100)
    assert vae_zoo.load_model(good, most_weights=10**12).count_params() > 100


def test_looking_leaves_no_trace(good):
    """Neither in the random numbers that follow nor in what the next scope of Keras builds."""
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    with saving.on_paper():
        np.random.random(9)
        vae_zoo.DenseVAE((4, 4, 1), 2, hidden=(3,))
    assert np.random.get_state()[1].tolist() == before
    with keras.StatelessScope():
        pass
    shapes = archives.look(good)[1]
    assert sorted(shapes.elements()) == sorted(a.shape for a in arrays(good))


def test_weights_of_other_shapes_are_refused_on_paper(good, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.models, "load_model", lambda *args, **kwargs: pytest.fail("built"))
    refused(rewritten(good, tmp_path / "less.keras", hidden=[2]), "asks for weights of shape (")


def arrays(path):
    found = []
    with h5py.File(io.BytesIO(members(path)["model.weights.h5"])) as file:
        file.visititems(lambda _, item: found.append(item[()]) if hasattr(item, "size") else None)
    return [np.asarray(a) for a in found]


def test_a_set_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=np.zeros((40, 64, 64, 1), "uint8"))
    assert len(data.load(path)[0]) == 32
    monkeypatch.setattr(archives, "MEMORY", 100_000)
    refused(path, "inflates to 163,", data.load)
    write(path, {"x.npy": b"text"})
    refused(path, "with x: ", data.load)
    write(path, {"x": b"text"})
    refused(path, "with x: it is none", data.load)


NOISE = {
    "missing": (None, "holds 0 states of noise for 1"),
    "of another shape": (
        np.zeros((2, 3), "int64"),
        r"must be pairs of ints. Received: int64 \(2, 3\)",
    ),
    "too many": (np.zeros((3, 2), "int64"), "holds 3 states of noise for 1"),
    "NaN": (np.full((1, 2), np.nan), "must be pairs of ints. Received: float64"),
    "text": (b"text", "must be pairs of ints"),
}


@pytest.mark.parametrize("case", NOISE)
def test_noise_is_whole_or_said_to_be_made_anew(good, tmp_path, case):
    state, words = NOISE[case]

    def change(file):
        del file["vars/noise"]
        if state is not None:
            file["vars/noise"] = state

    path = reweighted(good, tmp_path / "model.keras", change)
    if "states" in words and "must" not in words:
        with pytest.warns(UserWarning, match=words):
            vae_zoo.load_model(path)
    else:
        with pytest.raises(ValueError, match=words):
            vae_zoo.load_model(path)


def test_a_missing_slot_of_the_optimizer_is_a_warning(good, tmp_path):
    path = reweighted(good, tmp_path / "model.keras", lambda file: file["optimizer/vars"].pop("3"))
    with pytest.warns(UserWarning, match=f"{path} lacks a part of its optimizer's state") as told:
        assert vae_zoo.load_model(path).compiled
    assert sum(w.category is UserWarning for w in told) == 1
    assert vae_zoo.load_model(path, compile=False)
