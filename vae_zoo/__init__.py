"""Variational autoencoders for Keras 3: one code base on TensorFlow, JAX and PyTorch."""

import importlib
import importlib.abc
import importlib.machinery
import os
import sys

from vae_zoo import quiet

__version__ = "0.2.0"

# What ends in an exception is said by it; what does not is no error of a run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_BACKENDS = ("tensorflow", "jax", "torch")
_chosen = os.environ.get("KERAS_BACKEND") or None
try:
    if _chosen not in (None, *_BACKENDS):  # or Keras would look for what is not there
        raise ModuleNotFoundError(name=_chosen)
    with quiet.starting():
        import keras as _keras

    if _keras.config.backend() not in _BACKENDS:  # of keras.json
        raise ModuleNotFoundError(name=_keras.config.backend())
except ModuleNotFoundError as _error:
    _missing = _error.name.partition(".")[0]
    if _missing not in (*_BACKENDS, "keras", _chosen, "numpy", "openvino"):
        raise
    sys.tracebacklimit = 0  # one line; nothing can be run without a backend anyway
    if _missing == "keras":
        raise ImportError("vae_zoo needs Keras 3.15: pip install 'keras>=3.15,<3.16'") from None
    if _missing not in _BACKENDS:
        raise ImportError(
            f"vae_zoo trains on the Keras backends tensorflow, jax and torch. Received: {_missing} "
            "(set KERAS_BACKEND to one of them)"
        ) from None
    raise ImportError(
        f"Keras is to run on {_missing}, which is not installed: pip install "
        f"'vae_zoo[{_missing}]', or set KERAS_BACKEND to tensorflow, jax or torch"
    ) from None

from vae_zoo.models.autoencoder import Autoencoder  # noqa: E402
from vae_zoo.models.beta_tc_vae import BetaTCVAE  # noqa: E402
from vae_zoo.models.conditional_vae import ConditionalVAE  # noqa: E402
from vae_zoo.models.conv_vae import ConvVAE  # noqa: E402
from vae_zoo.models.dense_vae import DenseVAE  # noqa: E402
from vae_zoo.models.factor_vae import FactorVAE  # noqa: E402
from vae_zoo.models.gaussian_mixture import GaussianMixture  # noqa: E402
from vae_zoo.models.graph_autoencoder import GraphAutoencoder  # noqa: E402
from vae_zoo.models.graph_vae import GraphVAE  # noqa: E402
from vae_zoo.models.hierarchical_vae import HierarchicalVAE  # noqa: E402
from vae_zoo.models.iwae import IWAE  # noqa: E402
from vae_zoo.models.pixel_cnn import PixelCNN  # noqa: E402
from vae_zoo.models.real_nvp import RealNVP  # noqa: E402
from vae_zoo.models.sketch_decoder import SketchDecoder  # noqa: E402
from vae_zoo.models.sketch_rnn import SketchRNN  # noqa: E402
from vae_zoo.models.vae import VAE  # noqa: E402
from vae_zoo.models.vq_vae import VQVAE  # noqa: E402
from vae_zoo.models.vq_vae_2 import VQVAE2  # noqa: E402
from vae_zoo.parts import schedules as _schedules  # noqa: E402, F401  a file may name one
from vae_zoo.zoo import load_model  # noqa: E402

# Public modules by their short names, wherever they live; imported when they are first asked for.
_WINGS = {
    "parts": ("distributions", "domains", "graphs", "layers", "likelihoods", "networks")
    + ("posteriors", "priors", "quantizers", "schedules", "strokes"),
    "lab": ("chains", "disentanglement", "evaluate", "export", "gradients", "metrics", "operators")
    + ("plots", "restoration", "runs", "transfer", "tuning"),
    "engine": ("distribute",),
    "data": ("factors", "folders", "patches"),
    "models": ("kinds",),
}
_MODULES = {name: f"vae_zoo.{wing}.{name}" for wing, names in _WINGS.items() for name in names}
_MODULES |= {name: f"vae_zoo.{name}" for name in ("cli", "data", "zoo")}


_EXTRAS = {"keras_tuner": "tuner", "tensorboard": "tensorboard"}


def _imported(name):
    """A public module; without the extra that it stands on, one line that names it."""
    try:
        return importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name.partition(".")[0])
        if extra is None:
            raise
        if not hasattr(sys, "ps1"):  # nobody who goes on
            sys.tracebacklimit = 0
        raise ImportError(f"vae_zoo.{name} needs pip install 'vae_zoo[{extra}]'") from None


class _ShortNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`import vae_zoo.likelihoods` is `import vae_zoo.parts.likelihoods`."""

    def find_spec(self, name, path=None, target=None):
        package, _, short = name.rpartition(".")
        if package == "vae_zoo" and _MODULES.get(short, name) != name:
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        module = _imported(spec.name.rpartition(".")[2])
        self.own = module.__spec__  # which Python is about to replace
        return module

    def exec_module(self, module):
        module.__spec__ = self.own


sys.meta_path.append(_ShortNames())

__all__ = [
    "Autoencoder",
    "BetaTCVAE",
    "ConditionalVAE",
    "ConvVAE",
    "DenseVAE",
    "FactorVAE",
    "GaussianMixture",
    "GraphAutoencoder",
    "GraphVAE",
    "HierarchicalVAE",
    "IWAE",
    "PixelCNN",
    "RealNVP",
    "SketchDecoder",
    "SketchRNN",
    "VAE",
    "VQVAE",
    "VQVAE2",
    "load_model",
    *_MODULES,
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'vae_zoo' has no attribute {name!r}")
    return _imported(name)


def __dir__():
    return sorted([*__all__, "__version__"])
