"""Convolutional VAE: strided convolutions down to a flat latent or to a grid of latents.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114, with the networks
of Radford et al. 2016, arXiv:1511.06434 (strided and transposed convolutions in place of pooling).
"""

import keras

from vae_zoo import likelihoods, networks
from vae_zoo.models.vae import VAE


@keras.saving.register_keras_serializable("vae_zoo")
class ConvVAE(VAE):
    """`VAE` with convolutional networks, for images of any size and number of channels.

    Args:
        image_shape: (height, width, channels).
        latent_dim: int, size of z, or its channels at each place of a grid.
        latent_grid: True for a grid of latents, as high and wide as the image after all halvings
            (28×28 and two stages: 7×7), False for a flat latent.
        filters: ints, channels after each halving, from the image on; the decoder mirrors them.
        units: int, width of the dense layers beside a flat latent.
        activation: a Keras activation, or "gated".
        blocks: int, residual blocks after each halving and doubling.
        likelihood, beta, prior, free_bits, num_samples, seed, skip_threshold: see `VAE`.

    Latent: (batch, latent_dim) or (batch, rows, columns, latent_dim). Input, output and logs as of
    `VAE`.

    Example:
        model = ConvVAE((33, 47, 3), latent_dim=16, likelihood="discretized_logistic")
        model.compile("adam")
        model.fit(images, epochs=2)
        new = model.sample(16)
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        latent_dim=32,
        latent_grid=False,
        filters=(32, 64),
        units=256,
        activation="relu",
        blocks=0,
        likelihood="bernoulli",
        **kwargs,
    ):
        likelihood = likelihoods.get(likelihood)
        networks.check_image_shape(image_shape)
        num_parameters = likelihood.num_parameters(image_shape[-1])
        shared = {
            "filters": filters,
            "units": None if latent_grid else units,
            "activation": activation,
            "blocks": blocks,
            "dtype": kwargs.get("dtype"),
        }
        super().__init__(
            networks.conv_encoder(image_shape, latent_dim, **shared),
            networks.conv_decoder(latent_dim, image_shape, num_parameters, **shared),
            likelihood=likelihood,
            **kwargs,
        )
        self.latent_dim, self.latent_grid, self.filters = latent_dim, latent_grid, tuple(filters)
        self.units, self.activation, self.blocks = units, activation, blocks

    def get_config(self):
        config = super().get_config()
        del config["encoder"], config["decoder"]  # built from what follows
        own = (
            "image_shape",
            "latent_dim",
            "latent_grid",
            "filters",
            "units",
            "activation",
            "blocks",
        )
        return {**config, **{name: getattr(self, name) for name in own}}
