"""The tool that makes the data behind five entries: what it takes, and what it refuses."""

import os
import pathlib
import pickle
import runpy
import zipfile

import numpy as np
import pytest
from PIL import Image

from vae_zoo import cli, data, zoo

TOOL = runpy.run_path(str(pathlib.Path(__file__).parent.parent / "tools" / "build_data.py"))
HERE = pathlib.Path(os.environ.get("VAE_ZOO_DATA") or "nowhere")


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        cli.run(TOOL["build_data"], list(map(str, arguments)))
    (line,) = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2
    return line


def test_every_entry_has_data_that_a_stranger_can_get():
    for name in zoo.names():
        dataset = zoo.card(name)["dataset"]
        graphs = ("cora", "citeseer")  # of github.com/kimiyoung/planetoid, or any list of edges
        assert dataset in (*data.EMBEDDED, *data.SOURCES, *data.AS_THEY_ARE, *graphs, "mnist")
    assert set(TOOL["BUILDERS"]) == set(data.SOURCES)


@pytest.mark.parametrize("name", data.SOURCES)
def test_a_missing_set_names_its_tool_and_its_source(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAE_ZOO_DATA", str(tmp_path))
    with pytest.raises(ValueError) as error:
        data.load(name)
    assert f"tools/build_data.py {name} CHECKOUT" in str(error.value)
    assert data.SOURCES[name] in str(error.value) and "\n" not in str(error.value)
    line = failure(capsys, name, tmp_path, "--output", tmp_path / "out")  # an empty checkout
    assert f"is not there: {name} needs a checkout of {data.SOURCES[name]}" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", data.AS_THEY_ARE)
def test_a_missing_set_names_the_file_to_copy(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_ZOO_DATA", str(tmp_path))
    with pytest.raises(ValueError) as error:
        data.load(name)
    assert f"copy {data.AS_THEY_ARE[name]} there" in str(error.value)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", data.SOURCES)
def test_the_digests_are_those_of_the_sets(name):
    path = HERE / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"VAE_ZOO_DATA has no {name}")
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    assert TOOL["digest_of"](arrays) == TOOL["BUILDERS"][name][1]


def faces(checkout, content):
    place = checkout / "datasets" / "Freyfaces"
    place.mkdir(parents=True)
    (place / "freyfaces.pkl").write_bytes(content)


def test_faces_of_another_source_are_not_written(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (7, 560), np.uint8)
    faces(tmp_path, pickle.dumps([x], protocol=4))
    built = TOOL["frey_faces"](tmp_path)["x"]
    assert np.array_equal(built, x.reshape(7, 28, 20, 1))
    line = failure(capsys, "frey_faces", tmp_path, "--output", tmp_path / "out")
    assert "are not those of the entries" in line and "vae_vampprior" in line
    assert not (tmp_path / "out").exists()
    assert "name must be one of frey_faces, sprites" in failure(capsys, "faces", tmp_path)


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    faces(tmp_path, pickle.dumps([zipfile.ZipFile.__init__, print], protocol=2))
    assert "is no array" in failure(capsys, "frey_faces", tmp_path)


def test_characters_have_each_kind_of_each_part_equally_often():
    chosen = np.array(TOOL["characters"]())
    assert chosen.shape == (96, 4) and len(np.unique(chosen, axis=0)) == 96
    for six in chosen.reshape(16, 6, 4):
        assert (np.sort(six, axis=0) == np.arange(6)[:, None]).all()


def test_a_subset_takes_the_first_of_each_class_by_number(tmp_path, monkeypatch):
    names = ("airplane", "cat")
    monkeypatch.setitem(TOOL["cifar10_subset"].__globals__, "CLASSES", names)
    for split, count in (("train", 1001), ("test", 201)):
        for k, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (2, 2), (k, i % 256, i // 256))
                image.save(tmp_path / split / name / f"{i:04}.jpg", "PNG", compress_level=0)
    arrays = TOOL["cifar10_subset"](tmp_path)
    for split, count in (("train", 1000), ("test", 200)):
        x, y, number = (arrays[f"{key}_{split}"] for key in ("x", "y", "file_number"))
        assert (np.bincount(y) == count).all() and number.max() == count - 1
        assert (x[:, 0, 0, 0] == y).all()
        assert (x[:, 0, 0, 1:].astype(int) @ [1, 256] == number).all()
        assert (np.diff(y.astype(int)) != 0).sum() > count / 2  # mixed
