"""Dense VAE: fully connected encoder and decoder.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114, appendix C.2.
Differs from the paper: two hidden layers of gated units (Tomczak and Welling 2018,
arXiv:1705.07120) in place of one of tanh units.
"""

import keras

from vae_zoo.models.vae import VAE
from vae_zoo.parts import likelihoods, networks


@keras.saving.register_keras_serializable("vae_zoo")
class DenseVAE(VAE):
    """`VAE` with fully connected networks.

    Args:
        shape: tuple, of an example: (height, width, channels) of images, (columns,) of
            the rows of a table.
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
        shape=(28, 28, 1),
        latent_dim=40,
        hidden=(300, 300),
        activation="gated",
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
        shape = networks.check_shape(shape)
        num_parameters = likelihood.num_parameters(shape[-1])
        shared = {"hidden": hidden, "activation": activation, "dtype": dtype}
        super().__init__(
            networks.mlp_encoder(shape, latent_dim, **shared),
            networks.mlp_decoder(latent_dim, shape, num_parameters, **shared),
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
        self.shape, self.latent_dim, self.hidden = shape, latent_dim, tuple(hidden)
        self.activation = activation
