"""What a search varies in each family; defaults are those of the recipes."""

from vae_zoo.models.autoencoder import Autoencoder
from vae_zoo.models.conditional_vae import ConditionalVAE
from vae_zoo.models.conv_vae import ConvVAE
from vae_zoo.models.dense_vae import DenseVAE
from vae_zoo.models.hierarchical_vae import HierarchicalVAE
from vae_zoo.models.iwae import IWAE
from vae_zoo.models.pixel_cnn import PixelCNN
from vae_zoo.models.vq_vae import VQVAE
from vae_zoo.models.vq_vae_2 import VQVAE2


def _latents(hp, default):
    return hp.Int("latent_dim", 2, 64, sampling="log", default=default)


def _width(hp, default, largest=512):
    return hp.Int("width", largest // 16, largest, sampling="log", default=default)


def _autoencoder(hp, **shared):
    return Autoencoder(latent_dim=_latents(hp, 2), hidden=(_width(hp, 300),) * 2, **shared)


def _dense_vae(hp, **shared):
    return DenseVAE(latent_dim=_latents(hp, 16), hidden=(_width(hp, 300),) * 2, **shared)


def _conv_vae(hp, **shared):
    filters = hp.Choice("filters", [8, 16, 32, 64], default=32)
    widths = {"filters": (filters, 2 * filters), "units": _width(hp, 256)}
    return ConvVAE(latent_dim=_latents(hp, 16), **widths, **shared)


def _iwae(hp, **shared):
    return IWAE(latent_dim=_latents(hp, 16), hidden=(_width(hp, 300),) * 2, **shared)


def _conditional_vae(hp, **shared):
    prior = hp.Choice("prior", ["normal", "learned"], default="normal")
    return ConditionalVAE(
        latent_dim=_latents(hp, 16),
        hidden=(_width(hp, 300),) * 2,
        label_dim=hp.Choice("label_dim", [8, 16, 32, 64], default=32),
        prior="learned" if prior == "learned" else None,
        **shared,
    )


def _hierarchical_vae(hp, **shared):
    latents, width = hp.Int("latent_dim", 8, 64, sampling="log", default=32), _width(hp, 256)
    latents, widths = ((size, size // 2, size // 4) for size in (latents, width))
    return HierarchicalVAE(latents=latents, widths=widths, **shared)


def _codes(hp):
    return {
        "codes": hp.Choice("codes", [16, 32, 64, 128, 256, 512], default=64),
        "code_dim": hp.Choice("code_dim", [4, 8, 16, 32, 64], default=16),
        "commitment": hp.Float("commitment", 0.1, 100.0, sampling="log", default=10.0),
    }


def _vq_vae(hp, **shared):
    filters = hp.Choice("filters", [8, 16, 32, 64], default=32)
    return VQVAE(filters=(filters, 2 * filters), **_codes(hp), **shared)


def _vq_vae_2(hp, **shared):
    filters = hp.Choice("filters", [8, 16, 32, 64], default=32)
    return VQVAE2(filters=(filters,), **_codes(hp), **shared)


def _pixel_cnn(hp, shape, **shared):
    filters = hp.Choice("filters", [8, 16, 32, 64], default=16)
    blocks = hp.Int("blocks", 2, 8, default=5)
    return PixelCNN(shape=shape[:2], filters=filters, blocks=blocks, **shared)


OF_CLASSES = ("conditional_vae",)  # which are given `condition`, the number of classes
FAMILIES = {  # function of (hp, shape, …) -> model, and its likelihood, None without a choice
    "autoencoder": (_autoencoder, None),
    "dense_vae": (_dense_vae, "bernoulli"),
    "conv_vae": (_conv_vae, "bernoulli"),
    "iwae": (_iwae, "bernoulli"),
    "conditional_vae": (_conditional_vae, "bernoulli"),
    "hierarchical_vae": (_hierarchical_vae, "bernoulli"),
    "vq_vae": (_vq_vae, "gaussian"),
    "vq_vae_2": (_vq_vae_2, "gaussian"),
    "pixel_cnn": (_pixel_cnn, None),
}
