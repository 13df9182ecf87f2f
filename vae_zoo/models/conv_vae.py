"""Convolutional VAE: strided convolutions down to a flat latent or to a grid of latents.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114, with the networks
of Radford et al. 2016, arXiv:1511.06434 (strided and transposed convolutions in place of pooling).
"""

import keras

from vae_zoo.models.vae import VAE
from vae_zoo.parts import likelihoods, networks


@keras.saving.register_keras_serializable("vae_zoo")
class ConvVAE(VAE):
    """`VAE` with convolutional networks, for images of any size and number of channels.

    Args:
        shape: (height, width, channels).
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
        shape=(28, 28, 1),
        latent_dim=32,
        latent_grid=False,
        filters=(32, 64),
        units=256,
        activation="relu",
        blocks=0,
        likelihood="bernoulli",
        *,
        beta=1.0,
        prior=None,
        free_bits=0.0,
        num_samples=1,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        likelihood = likelihoods.get(likelihood)
        shape = networks.check_shape(shape, images=True)
        num_parameters = likelihood.num_parameters(shape[-1])
        shared = {
            "filters": filters,
            "units": None if latent_grid else units,
            "activation": activation,
            "blocks": blocks,
            "dtype": dtype,
        }
        super().__init__(
            networks.conv_encoder(shape, latent_dim, **shared),
            networks.conv_decoder(latent_dim, shape, num_parameters, **shared),
            likelihood=likelihood,
            beta=beta,
            prior=prior,
            free_bits=free_bits,
            num_samples=num_samples,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.latent_dim, self.latent_grid, self.filters = latent_dim, latent_grid, tuple(filters)
        self.shape, self.units, self.activation, self.blocks = shape, units, activation, blocks
