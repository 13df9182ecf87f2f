"""One step on three engines: the only wing that knows which engine runs."""

import sys

import keras
from keras.src.utils import module_utils

BACKEND = keras.config.backend()

if BACKEND not in ("tensorflow", "jax", "torch"):
    raise ImportError(
        f"vae_zoo trains on the Keras backends tensorflow, jax and torch. Received: {BACKEND}"
    )

if BACKEND != "tensorflow" and "tensorflow" not in sys.modules:
    # Keras imports an installed TensorFlow on every backend, to seed it and to save a model. It
    # costs seconds, pages of log and, beside PyTorch, a process that may crash.
    module_utils.tensorflow._available = False
