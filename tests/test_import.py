"""Importing: what is public, and one line where something is missing."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import types

import pytest

import vae_zoo

ROOT = pathlib.Path(vae_zoo.__file__).parent.parent


def run(code, **environment):
    """stderr and exit status of a process."""
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": paths} | environment
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.stderr, done.returncode


def as_script(path):
    return f"import runpy; runpy.run_path({str(ROOT / path)!r}, run_name='__main__')"


MISSING = "import sys; sys.modules[{0!r}] = None; "
CASES = {
    "package": (MISSING.format("jax") + "import vae_zoo", "jax", r"vae_zoo[jax]"),
    "module": (MISSING.format("torch") + "import vae_zoo.plots", "torch", r"vae_zoo[torch]"),
    "recipe": (MISSING.format("jax") + as_script("recipes/vq_vae.py"), "jax", r"vae_zoo[jax]"),
    "tool": (
        MISSING.format("tensorflow") + as_script("tools/store_anew.py"),
        "tensorflow",
        r"vae_zoo[tensorflow]",
    ),
    "other backend": ("import vae_zoo", "numpy", "Received: numpy"),
    "no backend": (as_script("recipes/tune.py"), "mxnet", "Received: mxnet"),
    "extra": (MISSING.format("keras_tuner") + as_script("recipes/tune.py"), None, "[tuner]"),
    "keras": (MISSING.format("keras") + "import vae_zoo", None, "pip install 'keras>=3.15"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_said_in_one_line(case):
    code, backend, word = CASES[case]
    error, status = run(code, **({} if backend is None else {"KERAS_BACKEND": backend}))
    assert status == 1, error
    (line,) = error.splitlines()  # and none of TensorFlow's, where it was imported before
    assert word in line and line.startswith("ImportError: ")


def test_only_the_noise_of_the_start_is_kept_from_stderr():
    lines = [
        "WARNING: All log messages before absl::InitializeLog() is called",
        "I0000 00:00:1.5 1 port.cc:153] oneDNN custom operations are on",
        "E0000 00:00:1.5 1 cuda_platform.cc:52] out of memory",
        "a line",
    ]
    code = "import os; from vae_zoo import quiet\nwith quiet.starting(): os.write(2, {})"
    code = code.format("\n".join(lines).encode())
    assert run(code) == ("\n".join(lines[2:]), 0)
    assert run(code, TF_CPP_MIN_LOG_LEVEL="0")[0].endswith("\n".join(lines))


def test_recipes_and_tools_import_the_package_before_keras():
    for path in (*ROOT.glob("recipes/*.py"), *ROOT.glob("tools/*.py")):
        lines = path.read_text().splitlines()
        first = [line for line in lines if line.startswith(("import keras", "from keras"))]
        ours = [i for i, line in enumerate(lines) if line.startswith("from vae_zoo")]
        if first and ours:
            assert ours[0] < lines.index(first[0]), path


def test_dir_shows_what_is_public_and_no_more():
    assert set(dir(vae_zoo)) == {*vae_zoo.__all__, "__version__"}
    for name in dir(vae_zoo):
        assert not isinstance(getattr(vae_zoo, name), type(None))
    assert not {"importlib", "os", "sys"} & set(dir(vae_zoo))


def test_modules_are_there_once_the_package_is():
    code = "import vae_zoo; vae_zoo.plots.image_grid, vae_zoo.data.load, vae_zoo.priors.get"
    assert run(code)[1] == 0
    assert isinstance(vae_zoo.plots, types.ModuleType)
    with pytest.raises(AttributeError, match="has no attribute 'plotting'"):
        vae_zoo.__getattr__("plotting")


def test_all_that_a_file_may_name_is_known_once_the_package_is_imported():
    """As a schedule of beta, which no module of the models needs."""
    code = """
import importlib, pkgutil, sys, keras, vae_zoo
known = set(keras.saving.get_custom_objects())
for wing in "data", "engine", "lab", "models", "parts":
    package = importlib.import_module(f"vae_zoo.{wing}")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
late = {name for name in keras.saving.get_custom_objects() if name.startswith("vae_zoo>")} - known
sys.exit(f"registered too late: {late}" if late else 0)
"""
    error, status = run(code)
    assert status == 0, error


def test_the_version_is_that_of_the_distribution():
    assert vae_zoo.__version__ == importlib.metadata.version("vae_zoo")
