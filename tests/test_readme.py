"""What the README and the docstrings show runs as it stands there."""

import ast
import inspect
import pathlib
import re
import textwrap

import keras
import numpy as np
import pytest

import vae_zoo
from vae_zoo.strokes import Strokes

README = pathlib.Path(__file__).parent.parent / "README.md"
CLASSES = [
    value
    for name, value in vars(vae_zoo).items()
    if isinstance(value, type) and issubclass(value, keras.Model)
]


TEN_LINES, OWN_NETWORKS, ONNX = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore")  # of the exporters
def test_the_onnx_files_of_the_readme(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(ONNX, names)
    np.testing.assert_allclose(names["image"], names["model"].decode(names["z"]), atol=1e-4)


def test_the_networks_of_the_readme():
    names = {}
    exec(OWN_NETWORKS.replace("epochs=2", "epochs=1, batch_size=256"), names)
    assert names["new"].shape == (16, 28, 28, 1) and np.isfinite(names["new"]).all()


def test_the_ten_lines_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, names = TEN_LINES, {}
    exec(code, names)
    assert names["z"].shape == (10, 8) and names["images"].shape == (10, 28, 28, 1)
    assert names["nats"].mean() > -200  # independent pixels with the right means give -306
    again = names["again"]
    np.testing.assert_allclose(again.decode(names["z"]), names["images"], atol=1e-6)
    assert int(again.optimizer.iterations) == 20 * 21  # fit goes on where it stopped


@pytest.mark.parametrize("family", CLASSES, ids=lambda family: family.__name__)
def test_the_example_of_each_class(family):
    doc = inspect.getdoc(family)
    if family is vae_zoo.VAE:  # takes networks: its examples are its children's
        return
    assert "Example:" in doc, f"{family.__name__} needs an Example in its docstring"
    code = textwrap.dedent(doc.partition("Example:\n")[2])
    shape = re.search(r"\((\d+,[ \d,]*)\)", code)
    shape = ast.literal_eval(shape[0]) if shape else ()
    if "images" in code and len(shape) == 2:  # a PixelCNN's, of one channel
        shape = (*shape, 1)
    examples = np.random.default_rng(0).random((300, *shape))
    names = {family.__name__: family, "points": examples, "patches": examples}
    sketches = Strokes(24).examples(4, np.random.default_rng(0))
    names |= {"keras": keras, "np": np, "sketches": sketches}
    names |= {"images": examples[:8], "labels": np.arange(8)}
    exec(code, names)
    last = names[code.strip().splitlines()[-1].split()[0]]
    assert np.isfinite(last).all()
