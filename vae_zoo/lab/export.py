"""Encoder and decoder as ONNX files, to run without Keras: in a browser, on a phone, in C++."""

import importlib.util
import os
import pathlib
import tempfile

import keras
import numpy as np

from vae_zoo import quiet
from vae_zoo.engine import BACKEND, backend
from vae_zoo.models.kinds import LatentModel
from vae_zoo.parts.domains import Arrays, Symbols


def to_onnx(model, folder) -> list:
    """Writes `encoder.onnx` (images -> latents) and `decoder.onnx` (latents -> images).

    They do what `model.encode` and `model.decode` do, for any number of images, in float32; the
    input and the output of each are called "image" and "latent". Of a model with labels both take
    a second input, "label". On JAX a process of its own does it on TensorFlow.

    Args:
        model: `LatentModel` with one group of float latents.
        folder: where to write.

    Returns:
        The two paths.

    Raises:
        ValueError: if the latents are codes, or several groups.
        ImportError: if a package is missing; it names the extra.
    """
    if not isinstance(model, LatentModel):
        raise ValueError(f"`model` must have latents. Received: a {type(model).__name__}")
    if not isinstance(model.latent_domain, Arrays):
        raise ValueError(
            "`model` must have one group of float latents. "
            f"Received: a {type(model).__name__} of latents {model.latent_shape}"
        )
    needed = {"tensorflow": "tf2onnx", "torch": "onnxscript", "jax": "tf2onnx"}
    if not all(map(importlib.util.find_spec, ("onnx", needed[BACKEND]))):
        raise ImportError("ONNX files need pip install 'vae_zoo[onnx]'")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / "encoder.onnx", folder / "decoder.onnx"]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx") as partial:
        made = [pathlib.Path(partial, path.name) for path in names]
        if BACKEND == "jax":
            _on_tensorflow(model, partial)
        else:

            def encode(x, *y):
                return model.infer(model.domain.tensor(x), *map(model.prepare_labels, y))

            def decode(z, *y):
                return model.generate(z, *map(model.prepare_labels, y))

            _export(model, encode, "image", model.domain, made[0])
            _export(model, decode, "latent", model.latent_domain, made[1])
            _name_output(made[0], "latent")
            _name_output(made[1], "image")
        for new, path in zip(made, names):
            os.replace(new, path)
    return names


class _Function(keras.Model):
    """A function of tensors, as Keras exports models; it holds the model whose weights it reads, or
    PyTorch would not find them."""

    def __init__(self, model, function):
        super().__init__(name="function")
        self.whole, self.function, self.built = model, function, True

    def call(self, x, *y):
        return self.function(x, *y)


def _export(model, function, name, domain, path):
    inputs = {name: domain} if model.condition is None else {name: domain, "label": model.condition}
    types = ["int32" if isinstance(each, Symbols) else "float32" for each in inputs.values()]
    whole = _Function(model, function)
    whole(*(np.zeros((2, *each.shape), dtype) for each, dtype in zip(inputs.values(), types)))
    signature = [
        keras.InputSpec(shape=(None, *each.shape), dtype=dtype, name=name)
        for (name, each), dtype in zip(inputs.items(), types)
    ]
    with quiet.exporting():
        whole.export(path, format="onnx", input_signature=signature, verbose=False)


def _name_output(path, name):
    """Gives the one output of an ONNX file a name that says something."""
    import onnx

    model = onnx.load(path)
    (output,) = model.graph.output
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if n == output.name else n for n in names]
    output.name = name
    onnx.save(model, path)


def _on_tensorflow(model, folder):
    if not importlib.util.find_spec("tensorflow"):
        raise ImportError("On JAX ONNX files need pip install 'vae_zoo[tensorflow,onnx]'")
    path = pathlib.Path(folder, "model.keras")
    model.save(path)
    code = (
        "import sys, vae_zoo; from vae_zoo.export import to_onnx;"
        "to_onnx(vae_zoo.load_model(sys.argv[1], compile=False), sys.argv[2])"
    )
    run = backend.run_on_tensorflow(code, path, folder)
    if run.returncode:
        raise ValueError(f"TensorFlow could not export it: {run.stderr.strip().splitlines()[-1]}")
