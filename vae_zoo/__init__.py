"""Variational autoencoders for Keras 3: one code base on TensorFlow, JAX and PyTorch."""

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

from vae_zoo import distribute, likelihoods, priors, schedules  # noqa: E402
from vae_zoo.models.autoencoder import Autoencoder  # noqa: E402
from vae_zoo.models.conv_vae import ConvVAE  # noqa: E402
from vae_zoo.models.dense_vae import DenseVAE  # noqa: E402
from vae_zoo.models.hierarchical_vae import HierarchicalVAE  # noqa: E402
from vae_zoo.models.pixel_cnn import PixelCNN  # noqa: E402
from vae_zoo.models.vae import VAE  # noqa: E402
from vae_zoo.models.vq_vae import VQVAE  # noqa: E402
from vae_zoo.models.vq_vae_2 import VQVAE2  # noqa: E402
from vae_zoo.zoo import load_model  # noqa: E402

__all__ = [
    "Autoencoder",
    "ConvVAE",
    "DenseVAE",
    "HierarchicalVAE",
    "PixelCNN",
    "VAE",
    "VQVAE",
    "VQVAE2",
    "distribute",
    "likelihoods",
    "load_model",
    "priors",
    "schedules",
]
