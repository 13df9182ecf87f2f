"""Autoencoder: an encoder and a decoder, trained on the squared error.

Rumelhart, Hinton and Williams 1986; Hinton and Salakhutdinov, "Reducing the Dimensionality of Data
with Neural Networks", Science 2006. What it lacks is a distribution of its codes: it does not
generate, and logs no bound.
"""

import keras
from keras import ops

from vae_zoo import networks
from vae_zoo.base import LatentModel


@keras.saving.register_keras_serializable("vae_zoo")
class Autoencoder(LatentModel):
    """loss = 1/2 ||x - decoder(encoder(x))||^2 = -log N(x; decoder(encoder(x)), I) + constant

    Args:
        image_shape: (height, width, channels).
        latent_dim: int, size of the code: the information bottleneck.
        network: "dense" or "conv".
        hidden: ints, widths of the dense encoder's hidden layers; the decoder mirrors them.
        filters: ints, channels of the convolutional encoder after each halving.
        units: int, width of the dense layers beside the code of the convolutional network.
        activation: a Keras activation, or "gated".
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *image_shape), uint8 in 0..255 or float in [0, 1].
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
        image_shape=(28, 28, 1),
        latent_dim=4,
        network="dense",
        hidden=(300, 300),
        filters=(32, 64),
        units=256,
        activation="relu",
        **kwargs,
    ):
        channels = networks.check_image_shape(image_shape)[-1]
        shared = {"activation": activation, "dtype": kwargs.get("dtype")}
        if network == "dense":
            encoder, decoder = networks.mlp_encoder, networks.mlp_decoder
            shared["hidden"] = hidden
        elif network == "conv":
            encoder, decoder = networks.conv_encoder, networks.conv_decoder
            shared.update(filters=filters, units=units)
        else:
            raise ValueError(f'`network` must be "dense" or "conv". Received: network={network!r}')
        super().__init__(
            encoder(image_shape, latent_dim, heads=("code",), **shared),
            decoder(latent_dim, image_shape, channels, **shared),
            **kwargs,
        )
        self.latent_dim, self.network, self.activation = latent_dim, network, activation
        self.hidden, self.filters, self.units = tuple(hidden), tuple(filters), units

    def infer(self, x):
        return ops.cast(self.encoder(x), "float32")

    def generate(self, z):
        return ops.sigmoid(ops.cast(self.decoder(z), "float32"))  # pixels lie in [0, 1]

    def objective(self, x, y=None, training=False):
        error = ops.sum(ops.square(x - self.generate(self.infer(x))), axis=(1, 2, 3))
        return {"loss": 0.5 * error, "squared_error": error}

    def get_config(self):
        config = super().get_config()
        del config["encoder"], config["decoder"]  # built from what follows
        own = ("image_shape", "latent_dim", "network", "hidden", "filters", "units", "activation")
        return {**config, **{name: getattr(self, name) for name in own}}
