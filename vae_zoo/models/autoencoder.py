"""Autoencoder: an encoder and a decoder, trained on the squared error.

Rumelhart, Hinton and Williams 1986; Hinton and Salakhutdinov, "Reducing the Dimensionality of Data
with Neural Networks", Science 2006. What it lacks is a distribution of its codes: it does not
generate, and logs no bound.
"""

import keras
from keras import ops

from vae_zoo.models.kinds import LatentModel
from vae_zoo.parts import domains, networks


@keras.saving.register_keras_serializable("vae_zoo")
class Autoencoder(LatentModel):
    """loss = 1/2 ||x - decoder(encoder(x))||^2 = -log N(x; decoder(encoder(x)), I) + constant

    Args:
        shape: tuple, of an example: (height, width, channels) of images, or that of
            other numbers in [0, 1].
        latent_dim: int, size of the code: the information bottleneck.
        network: "dense" or "conv".
        hidden: ints, widths of the dense encoder's hidden layers; the decoder mirrors them.
        filters: ints, channels of the convolutional encoder after each halving.
        units: int, width of the dense layers beside the code of the convolutional network.
        activation: a Keras activation, or "gated".
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *shape), uint8 in 0..255 or float in [0, 1].
    Output: float32 of the same shape. Latent: (batch, latent_dim).
    Logs: squared_error (||x - x_hat||^2 summed over pixels, per example).

    Example:
        model = Autoencoder((28, 28, 1), latent_dim=2)
        model.compile("adam")
        model.fit(images, epochs=2)
        codes = model.encode(images)
    """

    logged = ("squared_error",)

    def __init__(
        self,
        shape=(28, 28, 1),
        latent_dim=4,
        network="dense",
        hidden=(300, 300),
        filters=(32, 64),
        units=256,
        activation="relu",
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        shape = networks.check_shape(shape, images=network == "conv")
        shared = {"activation": activation, "dtype": dtype}
        if network == "dense":
            encoder, decoder = networks.mlp_encoder, networks.mlp_decoder
            shared["hidden"] = hidden
        elif network == "conv":
            encoder, decoder = networks.conv_encoder, networks.conv_decoder
            shared.update(filters=filters, units=units)
        else:
            raise ValueError(f'`network` must be "dense" or "conv". Received: network={network!r}')
        encoder = encoder(shape, latent_dim, heads=("code",), **shared)
        decoder = decoder(latent_dim, shape, shape[-1], **shared)
        super().__init__(
            domains.of_shape(shape, unit=True),
            domains.Arrays((latent_dim,)),
            parts={"encoder": encoder, "decoder": decoder},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape, self.latent_dim, self.network = shape, latent_dim, network
        self.hidden, self.filters, self.units = tuple(hidden), tuple(filters), units
        self.activation = activation

    def infer(self, x, y=None):
        return ops.cast(self.encoder(x), "float32")

    def generate(self, z, y=None):
        return ops.sigmoid(ops.cast(self.decoder(z), "float32"))  # pixels lie in [0, 1]

    def objective(self, x, y=None, training=False):
        error = ops.square(x - self.generate(self.infer(x)))
        error = ops.sum(error, axis=tuple(range(1, len(x.shape))))
        return {"loss": 0.5 * error, "squared_error": error}
