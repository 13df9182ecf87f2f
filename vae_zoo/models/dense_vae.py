"""Dense VAE: fully connected encoder and decoder.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114, appendix C.2.
Differs from the paper: two hidden layers of gated units (Tomczak and Welling 2018,
arXiv:1705.07120) in place of one of tanh units.
"""

import keras

from vae_zoo import likelihoods, networks
from vae_zoo.models.vae import VAE


@keras.saving.register_keras_serializable("vae_zoo")
class DenseVAE(VAE):
    """`VAE` with fully connected networks.

    Args:
        image_shape: (height, width, channels).
        latent_dim: int, size of z.
        hidden: ints, widths of the encoder's hidden layers; the decoder mirrors them.
        activation: a Keras activation, or "gated".
        likelihood, beta, prior, free_bits, num_samples, seed, skip_threshold: see `VAE`.

    Latent: (batch, latent_dim). Input, output and logs as of `VAE`.

    Example:
        model = DenseVAE((28, 28, 1), latent_dim=2)
        model.compile("adam")
        model.fit(images, epochs=2)
        new = model.sample(16)
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        latent_dim=40,
        hidden=(300, 300),
        activation="gated",
        likelihood="bernoulli",
        **kwargs,
    ):
        likelihood = likelihoods.get(likelihood)
        networks.check_image_shape(image_shape)
        num_parameters = likelihood.num_parameters(image_shape[-1])
        shared = {"hidden": hidden, "activation": activation, "dtype": kwargs.get("dtype")}
        super().__init__(
            networks.mlp_encoder(image_shape, latent_dim, **shared),
            networks.mlp_decoder(latent_dim, image_shape, num_parameters, **shared),
            likelihood=likelihood,
            **kwargs,
        )
        self.latent_dim, self.hidden, self.activation = latent_dim, tuple(hidden), activation

    def get_config(self):
        config = super().get_config()
        del config["encoder"], config["decoder"]  # built from what follows
        own = ("image_shape", "latent_dim", "hidden", "activation")
        return {**config, **{name: getattr(self, name) for name in own}}
