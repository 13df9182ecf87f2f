"""What an example x is, a label y, or a latent z: its shape, its type, and what it may hold.

A model holds a domain of each. It checks what a user passes, at every entrance; it moves data to
the device as the objective takes them; it makes examples. All shapes are those of one example.
"""

import keras
import numpy as np
from keras import ops


class Domain:
    """Base of all.

    Args:
        shape: tuple of ints, of one example.
    """

    plural = "examples"  # what they are called in numbers
    dtype = "float32"  # of the examples of an exported model

    def __init__(self, shape):
        self.shape = tuple(shape)

    def check(self, x, what="`x`"):
        """Raises `ValueError` unless an array or tensor (batch, *shape) is of this kind."""
        if isinstance(x, (dict, tuple, list)):
            held = f", of {sorted(x)}" if isinstance(x, dict) else f" of {len(x)}"
            raise ValueError(f"{what} must be {self}. Received: a {type(x).__name__}{held}")
        try:
            shape, dtype = tuple(x.shape), keras.backend.standardize_dtype(x.dtype)
        except (AttributeError, ValueError, TypeError):  # ragged rows, a path, None
            of = f" of shape {x.shape}" if hasattr(x, "shape") else ""
            raise ValueError(f"{what} must be {self}. Received: a {type(x).__name__}{of}") from None
        if not self.is_shape(shape):
            raise ValueError(f"{what} must be {self}. Received: shape={shape}")
        if not self.is_type(dtype):
            raise ValueError(f"{what} must be {self}. Received: dtype={dtype}")

    def check_values(self, x, what="`x`"):
        """Raises `ValueError` where a NumPy array holds what no example holds."""

    def is_shape(self, shape):
        """Whether (batch, …) is the shape of such examples; the batch may be unknown."""
        return shape[1:] == self.shape

    def is_type(self, dtype):
        """Whether a type, by its name, is one of such examples."""
        raise NotImplementedError

    def tensor(self, x):
        """Examples as the objective takes them, on the device."""
        raise NotImplementedError

    def examples(self, n, rng):
        """n random examples, NumPy (n, *shape); `rng` is a `np.random.Generator`."""
        raise NotImplementedError

    def from_means(self, means, bits=False):
        """Examples as a user has them, near the float32 means that a model decodes to; of `bits`
        only the two ends of the scale."""
        return np.asarray(means)

    def pictures(self, x):
        """Examples as images (n, height, width, channels) in [0, 1]; None where there are none."""
        return None

    def get_config(self):
        return {"shape": self.shape}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("vae_zoo")
class Images(Domain):
    """Images (height, width, channels): uint8 in 0..255, bool, or float in [0, 1].

    The objective takes float32 in [0, 1].
    """

    plural = "images"

    def __init__(self, shape):
        if not isinstance(shape, (tuple, list)) or len(shape) != 3:
            raise ValueError(f"`shape` must be (height, width, channels). Received: shape={shape}")
        super().__init__(shape)

    def __str__(self):
        return f"images of shape (batch, *{self.shape}), uint8 in 0..255 or float in [0, 1]"

    def is_type(self, dtype):
        return dtype in ("uint8", "bool") or "float" in dtype

    def check_values(self, x, what="`x`"):
        _check_range(x, what, "(divide by 255, or pass uint8)")

    def tensor(self, x):
        self.check(x)
        x, dtype = ops.convert_to_tensor(x), keras.backend.standardize_dtype(x.dtype)
        return ops.cast(x, "float32") / 255.0 if dtype == "uint8" else ops.cast(x, "float32")

    def examples(self, n, rng):
        return rng.integers(0, 256, (n, *self.shape)).astype("uint8")

    def from_means(self, means, bits=False):
        x = np.clip(np.round(means * 255), 0, 255)
        return (np.where(x > 127, 255, 0) if bits else x).astype("uint8")

    def pictures(self, x):
        """Of neither 1 nor 3 channels each channel, in grey, beside the others."""
        x = x / np.float32(255) if x.dtype == np.uint8 else np.asarray(x, "float32")
        x = np.clip(x, 0, 1)  # the mean of a Gaussian may lie outside
        if x.shape[-1] in (1, 3):
            return x
        return np.moveaxis(x, -1, -2).reshape(*x.shape[:-2], -1, 1)


@keras.saving.register_keras_serializable("vae_zoo")
class Arrays(Domain):
    """Numbers of any shape and meaning, rows of a table say; the objective takes float32.

    Args:
        shape: tuple of ints.
        unit: True where they lie in [0, 1], as a Bernoulli likelihood wants them.
    """

    def __init__(self, shape, unit=False):
        super().__init__(shape)
        self.unit = unit

    def __str__(self):
        return f"numbers of shape (batch, *{self.shape})" + (" in [0, 1]" if self.unit else "")

    def is_type(self, dtype):
        return True

    def check_values(self, x, what="`x`"):
        if self.unit:
            _check_range(x, what, "for a likelihood of bits")

    def tensor(self, x):
        self.check(x)
        return ops.cast(x, "float32")

    def examples(self, n, rng):
        return (rng.random if self.unit else rng.normal)(size=(n, *self.shape)).astype("float32")

    def from_means(self, means, bits=False):
        return np.round(means) if bits else np.asarray(means)

    def get_config(self):
        return {**super().get_config(), "unit": self.unit}


@keras.saving.register_keras_serializable("vae_zoo")
class Symbols(Domain):
    """Integers 0 … levels - 1: labels of classes (shape ()), a grid of codes (height, width).

    Args:
        shape: tuple of ints.
        levels: int.
    """

    dtype = "int32"

    def __init__(self, shape, levels):
        super().__init__(shape)
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            raise ValueError(f"`levels` must be a positive int. Received: levels={levels!r}")
        self.levels = levels

    def __str__(self):
        shape = f"(batch, *{self.shape})" if self.shape else "(batch,)"
        return f"int symbols of shape {shape} in 0..{self.levels - 1}"

    def is_type(self, dtype):
        return "int" in dtype or dtype == "bool"

    def check_values(self, x, what="`x`"):
        if x.size and x.dtype != bool and not (0 <= x.min() and x.max() < self.levels):
            raise ValueError(f"{what} must be {self}. Received: values in [{x.min()}, {x.max()}]")

    def tensor(self, x):
        self.check(x)
        return ops.cast(x, "int32")

    def examples(self, n, rng):
        return rng.integers(0, self.levels, (n, *self.shape)).astype("int32")

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


@keras.saving.register_keras_serializable("vae_zoo")
class Bits(Symbols):
    """Black and white images (height, width) of symbols 0 and 1; also taken as images
    (height, width, 1), uint8 in 0..255 or float in [0, 1], whose grey levels are probabilities."""

    plural = "images"

    def __init__(self, shape, levels=2):
        super().__init__(shape, 2)

    def __str__(self):
        return f"{super().__str__()}, or images (batch, *{(*self.shape, 1)})"

    def check(self, x, what="`x`"):
        images = getattr(x, "shape", None) is not None and len(x.shape) == len(self.shape) + 2
        (Images((*self.shape, 1)) if images else super()).check(x, what)

    def check_values(self, x, what="`x`"):
        images = x.ndim == len(self.shape) + 2
        (Images((*self.shape, 1)) if images else super()).check_values(x, what)

    def tensor(self, x):
        """int32 symbols as they are; of images probabilities float32 (batch, height, width)."""
        if len(x.shape) == len(self.shape) + 2:
            return Images((*self.shape, 1)).tensor(x)[..., 0]
        return super().tensor(x)

    def pictures(self, x):
        x = np.asarray(x, "float32")
        return x if x.ndim == len(self.shape) + 2 else x[..., None]


def of_shape(shape, unit=False):
    """`Images` of (height, width, channels), `Arrays` of any other shape (in [0, 1] if `unit`)."""
    if not isinstance(shape, (tuple, list)):
        raise ValueError(f"`shape` must be a tuple of ints. Received: shape={shape!r}")
    return Images(shape) if len(shape) == 3 else Arrays(shape, unit)


def all_numbers(latents):
    """Whether latents, a `Domain` or a tuple of such, are numbers, not symbols."""
    groups = latents if isinstance(latents, tuple) else (latents,)
    return all(isinstance(group, Arrays) for group in groups)


def classes(domain):
    """How many classes there are, where y is one of them; None where it is something else."""
    one = isinstance(domain, Symbols) and not domain.shape
    return domain.levels if one else None


def get(identifier):
    """A `Domain` of labels from None (no labels), an int (so many classes), its serialised form or
    itself.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = Symbols((), identifier)
    if not isinstance(identifier, (Domain, type(None))):
        raise ValueError(
            "`condition` must be None, a number of classes or a Domain. "
            f"Received: condition={identifier!r}"
        )
    return identifier


def _check_range(x, what, advice):
    if "float" in str(x.dtype) and ((x < 0).any() or (x > 1).any()):
        raise ValueError(
            f"{what}: float images must lie in [0, 1] {advice}. "
            f"Received: values in [{np.nanmin(x):g}, {np.nanmax(x):g}]"
        )
