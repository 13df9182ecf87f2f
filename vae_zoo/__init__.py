"""Variational autoencoders for Keras 3: one code base on TensorFlow, JAX and PyTorch."""

import importlib.util
import os
import sys

_backend = os.environ.get("KERAS_BACKEND")
if _backend in ("tensorflow", "jax", "torch") and importlib.util.find_spec(_backend) is None:
    sys.tracebacklimit = 0  # one line; nothing can be run without a backend anyway
    raise ImportError(
        f"KERAS_BACKEND={_backend}, but {_backend} is not installed: "
        f"pip install 'vae_zoo[{_backend}]'"
    )

from vae_zoo import likelihoods, priors, schedules  # noqa: E402
from vae_zoo.models.autoencoder import Autoencoder  # noqa: E402
from vae_zoo.models.conv_vae import ConvVAE  # noqa: E402
from vae_zoo.models.dense_vae import DenseVAE  # noqa: E402
from vae_zoo.models.vae import VAE  # noqa: E402
from vae_zoo.zoo import load_model  # noqa: E402

__all__ = [
    "Autoencoder",
    "ConvVAE",
    "DenseVAE",
    "VAE",
    "likelihoods",
    "load_model",
    "priors",
    "schedules",
]
