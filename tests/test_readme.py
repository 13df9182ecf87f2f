"""What the README and the docstrings show runs as it stands there."""

import ast
import inspect
import pathlib
import re
import runpy
import shlex
import textwrap

import keras
import numpy as np
import pytest

import vae_zoo
from vae_zoo import cli
from vae_zoo.strokes import Strokes

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/README.md"))]
CLASSES = [
    value
    for name, value in vars(vae_zoo).items()
    if isinstance(value, type) and issubclass(value, keras.Model)
]


def code(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


TEN_LINES, NUMBERS = code("README.md")
OWN_NETWORKS, ONNX = code("vae_zoo/README.md")


def test_every_code_block_is_run_by_a_test_here():
    found = [block for page in PAGES for block in code(page)]
    assert found == [TEN_LINES, NUMBERS, OWN_NETWORKS, ONNX]
    assert len(PAGES) == 5


def test_the_numbers_of_the_readme(capsys):
    names = {}
    exec(NUMBERS, names)
    assert names["z"].shape == (1, 32) and "standard_error" in capsys.readouterr().out


COMMANDS = {
    (words, page.relative_to(ROOT))
    for page in PAGES
    for words in re.findall(
        r"(?:python (?:recipes|tools)/\w+\.py|vae-zoo [a-z])[^`|<\n]*(?:\n[^`|\n]+`)?",
        page.read_text(),
    )
}


@pytest.mark.parametrize("words, page", sorted(COMMANDS, key=str))
def test_every_command_is_one_that_the_recipe_takes(words, page):
    words = shlex.split(words.strip(" `").partition(" (")[0])
    if words[-1] in ("tools/test_all.py", "tools/measure_anew.py"):  # without a setting
        return
    words = words[1:] if words[0] == "python" else words
    if words[0] == "vae-zoo":
        if words[1] == "list":
            return
        words = words[2:] if words[1] == "train" else words[1:]
        words[0] = f"recipes/{words[0].replace('-', '_')}.py"
    script = ROOT / words[0]
    recipe = runpy.run_path(str(script))[re.search(r"cli\.run\((\w+)", script.read_text())[1]]
    flags = [word for word in words[1:] if word not in ("--distribute", "--resume", "--help")]
    if "--seeds" in flags:
        del flags[flags.index("--seeds") : flags.index("--seeds") + 2]
    cli.checked(recipe, flags)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    headings = {}
    for target in re.findall(r"(?:\]\(|src=\")([^)\"\s]+)", page.read_text()):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in {line.lower().replace(" ", "-") for line in headings}, target


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
    names = {}
    exec(TEN_LINES, names)
    assert (tmp_path / "digits.png").read_bytes()[:4] == b"\x89PNG"
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
    example = textwrap.dedent(doc.partition("Example:\n")[2])
    shape = re.search(r"\((\d+,[ \d,]*)\)", example)
    shape = ast.literal_eval(shape[0]) if shape else ()
    if "images" in example and len(shape) == 2:  # a PixelCNN's, of one channel
        shape = (*shape, 1)
    examples = np.random.default_rng(0).random((300, *shape))
    names = {family.__name__: family, "points": examples, "patches": examples}
    sketches = Strokes(24).examples(4, np.random.default_rng(0))
    names |= {"keras": keras, "np": np, "sketches": sketches}
    names |= {"images": examples[:8], "labels": np.arange(8)}
    exec(example, names)
    last = names[example.strip().splitlines()[-1].split()[0]]
    assert np.isfinite(last).all()
