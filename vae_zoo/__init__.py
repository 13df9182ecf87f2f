"""Variational autoencoders for Keras 3: one code base on TensorFlow, JAX and PyTorch."""

import importlib
import importlib.abc
import importlib.machinery
import sys

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as _error:
    _backend = _error.name.partition(".")[0]
    if _backend not in ("tensorflow", "jax", "torch"):
        raise
    sys.tracebacklimit = 0  # one line; nothing can be run without a backend anyway
    raise ImportError(
        f"Keras is to run on {_backend}, which is not installed: pip install "
        f"'vae_zoo[{_backend}]', or set KERAS_BACKEND to tensorflow, jax or torch"
    ) from None

from vae_zoo.models.autoencoder import Autoencoder  # noqa: E402
from vae_zoo.models.conv_vae import ConvVAE  # noqa: E402
from vae_zoo.models.dense_vae import DenseVAE  # noqa: E402
from vae_zoo.models.gaussian_mixture import GaussianMixture  # noqa: E402
from vae_zoo.models.hierarchical_vae import HierarchicalVAE  # noqa: E402
from vae_zoo.models.pixel_cnn import PixelCNN  # noqa: E402
from vae_zoo.models.real_nvp import RealNVP  # noqa: E402
from vae_zoo.models.vae import VAE  # noqa: E402
from vae_zoo.models.vq_vae import VQVAE  # noqa: E402
from vae_zoo.models.vq_vae_2 import VQVAE2  # noqa: E402
from vae_zoo.zoo import load_model  # noqa: E402

# Public modules by their short names, wherever they live; imported when they are first asked for.
_WINGS = {
    "parts": ("distributions", "domains", "layers", "likelihoods", "networks", "posteriors")
    + ("priors", "quantizers", "schedules"),
    "lab": ("evaluate", "export", "metrics", "plots", "restoration", "runs")
    + ("transfer", "tuning"),
    "engine": ("distribute",),
    "data": ("folders", "patches"),
    "models": ("kinds",),
}
_MODULES = {name: f"vae_zoo.{wing}.{name}" for wing, names in _WINGS.items() for name in names}
_MODULES |= {name: f"vae_zoo.{name}" for name in ("cli", "data", "zoo")}


class _ShortNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`import vae_zoo.likelihoods` is `import vae_zoo.parts.likelihoods`."""

    def find_spec(self, name, path=None, target=None):
        package, _, short = name.rpartition(".")
        if package == "vae_zoo" and _MODULES.get(short, name) != name:
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        module = importlib.import_module(_MODULES[spec.name.rpartition(".")[2]])
        self.own = module.__spec__  # which Python is about to replace
        return module

    def exec_module(self, module):
        module.__spec__ = self.own


sys.meta_path.append(_ShortNames())

__all__ = [
    "Autoencoder",
    "ConvVAE",
    "DenseVAE",
    "GaussianMixture",
    "HierarchicalVAE",
    "PixelCNN",
    "RealNVP",
    "VAE",
    "VQVAE",
    "VQVAE2",
    "load_model",
    *_MODULES,
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'vae_zoo' has no attribute {name!r}")
    return importlib.import_module(_MODULES[name])


def __dir__():
    return sorted([*globals(), *_MODULES])
