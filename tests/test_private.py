"""Names inside of other packages: every one that is touched is listed, and is there."""

import ast
import importlib
import json
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import pytest

import vae_zoo
from vae_zoo import distribute
from vae_zoo.engine import private

BACKEND = keras.config.backend()
PACKAGE = pathlib.Path(vae_zoo.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
del SOURCES["engine/private.py"]
LISTED = {path.replace("()", "") for names in private.NAMES.values() for path in names}
PRIVATE = re.compile(r"_[a-zA-Z]\w*")  # and not __name__
INSIDE = re.compile(r"(keras|keras_tuner)\.src\b")


def test_no_private_name_is_gone():
    # In a process of its own, in which nothing has been replaced yet.
    code = "import json; from vae_zoo.engine import private; print(json.dumps(private.gone()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[-2000:]
    gone = json.loads(done.stdout.splitlines()[-1])
    assert not gone, "\n" + "\n".join(f"{path} is gone: {why}" for path, why in gone.items())


def test_what_is_gone_is_found(monkeypatch):
    missing = ("json.loads._x", "keras.Nothing", "keras.src.nothing.x", "keras.Variable()._nothing")
    there = ("json.decoder.scanner", "no_such_package._x", "keras.Variable()._value")
    names = {path: "a test" for path in (*missing, *there)}
    monkeypatch.setattr(private, "NAMES", {(BACKEND,): names, ("other",): {"keras._no": "other"}})
    assert set(private.gone()) == set(missing)


def _own(tree):
    """Private names that a file defines: functions, classes, variables, attributes of self."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if ast.unparse(node.value).endswith(".__dict__"):
                yield node.slice.value


def _used(tree):
    """(line, name or path) of what a file touches: attributes, also by getattr, and imports."""
    for node in ast.walk(tree):
        used = []
        if isinstance(node, ast.Attribute):
            used = [node.attr, ast.unparse(node)]
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
                used = [a.value for a in node.args if isinstance(a, ast.Constant)]
        elif isinstance(node, ast.Constant):
            if re.match(INSIDE, str(node.value)):  # the module of a class, in a file
                used = [node.value]
        elif isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            used = [*names, *(f"{node.module}.{name}" for name in names)]
        yield from ((node.lineno, one) for one in used if isinstance(one, str))


def unlisted(sources):
    """Lines of `sources`, a dict of file name and text, that touch what `private.NAMES` lacks."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    known = {part for path in LISTED for part in path.split(".")}
    known |= {name for tree in trees.values() for name in _own(tree)}
    for name, tree in trees.items():
        for line, used in _used(tree):
            if INSIDE.match(used):
                touched = used.rstrip(".") + "."  # a part of what is listed, or of that a part
                listed = any(
                    f"{path}.".startswith(touched) or touched.startswith(f"{path}.")
                    for path in LISTED
                )
            else:
                listed = used in known or not PRIVATE.fullmatch(used)
            if not listed:
                yield f"{name}, line {line}: {used} is not in private.py"


def test_every_private_name_that_is_touched_is_listed():
    found = list(unlisted(SOURCES))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "model._loss_tracker.reset()",
        "self._loss_tracker",
        "getattr(x, '_loss_tracker')",
        "optimizer._loss_tracker = None",
        "from keras.src import tree",
        "import keras_tuner.src.engine",
        "keras.src.backend.Variable",
        "from torch import _dynamo",
    ],
)
def test_a_name_that_is_not_listed_is_found(line):
    assert list(unlisted({"new.py": line}))


def test_names_of_the_package_itself_need_no_list():
    own = "def _f(self): self._x = _f\nother._x._f()\nself.__dict__['_y'] = x.__name__\na._y"
    assert not list(unlisted({"new.py": own}))


def test_every_listed_name_is_touched():
    sources = "".join(SOURCES.values())
    for path in LISTED:
        name = path.rpartition(".")[2]
        assert re.search(rf"\b{re.escape(name)}\b", sources), f"{path} is touched no more"


def test_private_names_that_classes_override_are_listed():
    modules = [m.name for m in pkgutil.walk_packages(vae_zoo.__path__, "vae_zoo.")]
    listed = {path.rpartition(".")[2] for path in LISTED}
    own = {name for text in SOURCES.values() for name in _own(ast.parse(text))}
    for module in map(importlib.import_module, modules):
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__:
                above = [base for base in cls.__mro__ if not base.__module__.startswith("vae_zoo")]
                taken = {name for base in above for name in vars(base) if PRIVATE.fullmatch(name)}
                assert not (set(vars(cls)) & own & taken) - listed, cls


@pytest.mark.parametrize("version", ["3.16.0", "3.16.0.dev0", "4.0.1"])
def test_a_keras_that_spreads_models_itself_is_refused(version, monkeypatch):
    monkeypatch.setattr(keras, "__version__", version)
    message = r"^Keras (3\.16|4\.0) .* processes itself, and so twice: install keras 3\.15$"
    with pytest.raises(ValueError, match=message):
        private.check_keras()
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="and so twice"), distribute.data_parallel():
            pass


def test_the_tested_keras_is_taken(monkeypatch):
    for version in (keras.__version__, "3.15.0", "3.15.9.post1"):
        monkeypatch.setattr(keras, "__version__", version)
        private.check_keras()
