"""Conditional VAE: p(x|y), of a class, or of the half of an image that is given.

Sohn, Lee and Yan, "Learning Structured Output Representation using Deep Conditional Generative
Models", NeurIPS 2015. Kingma, Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep
Generative Models", NeurIPS 2014, arXiv:1406.5298 (M2, whose p(x|y) this is).
Differs from the papers: gated units, or convolutions; the condition reaches every hidden layer of
both networks; p(z|y) is N(0, I) unless it is learned; no separate network that predicts x from y.
"""

import keras
import numpy as np

from vae_zoo.models.vae import VAE
from vae_zoo.parts import domains, likelihoods, networks, priors
from vae_zoo.parts.layers import check_sizes


@keras.saving.register_keras_serializable("vae_zoo")
class ConditionalVAE(VAE):
    """loss = -E_q log p(x|z, y) + beta KL(q(z|x, y) || p(z|y)), a bound on -log p(x|y)  (eq. 4)

    A class has an embedding in the encoder and one in the decoder; what is left for z to say is
    what the class does not. Labels are Keras's y.

    Args:
        shape: tuple, of an example: (height, width, channels) of images.
        condition: int, number of classes; "image" for an array like x, the part of it that is known
            say, the rest black; or the `Domain` of y. Convolutional networks see an image, or a
            grid of symbols, of the size of x place by place.
        network: "dense" or "conv".
        latent_dim: int, size of z.
        hidden: ints, widths of the hidden layers of dense networks, see `DenseVAE`.
        filters, units, blocks: of convolutional ones, see `ConvVAE`.
        activation: a Keras activation, or "gated".
        label_dim: int, size of the embedding, or of the features of an image.
        likelihood: a `Likelihood` or its name, see `VAE`.
        prior: None for N(0, I), whatever y is; "learned" for N(mean(y), variance(y)); or anything
            with `log_prob(z, y)` and `sample(n, y, seed)`.
        beta, free_bits, num_samples, seed, skip_threshold: see `VAE`.

    Input: x as of `VAE`, with labels y int (batch,) in 0 … condition - 1, or images; `call` and
    `predict` take the pair (x, y). Output and logs as of `VAE`. Latent: (batch, latent_dim).

    Example:
        model = ConditionalVAE((28, 28, 1), condition=10, latent_dim=2)
        model.compile("adam")
        model.fit(images, labels, epochs=2)
        threes = model.sample(16, y=3)
        in_every_class = model.swap(images[:4], labels[:4])
    """

    def __init__(
        self,
        shape=(28, 28, 1),
        condition=10,
        network="dense",
        latent_dim=40,
        hidden=(300, 300),
        filters=(32, 64),
        units=256,
        blocks=0,
        activation="gated",
        label_dim=32,
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
        shape = networks.check_shape(shape, images=network == "conv")
        check_sizes(label_dim=label_dim)
        networks.check_network(network)
        likelihood = likelihoods.get(likelihood)
        condition = domains.of_shape(shape) if condition == "image" else domains.get(condition)
        if condition is None:
            raise ValueError(
                '`condition` must be a number of classes, "image" or a Domain. Received: None'
            )
        num_parameters = likelihood.num_parameters(shape[-1])
        shared = {"activation": activation, "dtype": dtype}
        shared |= {"condition": condition, "label_dim": label_dim}
        if network == "dense":
            make, shared = (
                (networks.mlp_encoder, networks.mlp_decoder),
                {**shared, "hidden": hidden},
            )
        else:
            make = networks.conv_encoder, networks.conv_decoder
            shared |= {"filters": filters, "units": units, "blocks": blocks}
        if prior == "learned":
            prior = priors.ConditionalNormal(networks.prior_network(condition, latent_dim))
        super().__init__(
            make[0](shape, latent_dim, **shared),
            make[1](latent_dim, shape, num_parameters, **shared),
            likelihood=likelihood,
            beta=beta,
            prior=prior,
            free_bits=free_bits,
            num_samples=num_samples,
            condition=condition,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.shape, self.network, self.latent_dim, self.hidden = (
            shape,
            network,
            latent_dim,
            tuple(hidden),
        )
        self.filters, self.units, self.blocks = tuple(filters), units, blocks
        self.activation, self.label_dim = activation, label_dim

    def swap(self, x, y, batch_size=256) -> np.ndarray:
        """What the latents of examples make in every class: NumPy (n, classes, *shape).

        Args:
            x: examples (n, *shape).
            y: their own labels (n,).
            batch_size: int, examples at a time.

        Raises:
            ValueError: if the condition is no class.
        """
        classes = domains.classes(self.condition)
        if classes is None:
            raise ValueError(f"There are no classes to swap. The condition is {self.condition}")
        z = self.encode(x, y, batch_size)
        every = np.tile(np.arange(classes, dtype="int32"), len(z))
        made = self.decode(np.repeat(z, classes, axis=0), every, batch_size)
        return made.reshape(len(z), classes, *made.shape[1:])

    def get_config(self):
        config = super().get_config()
        if isinstance(self.prior, priors.ConditionalNormal):
            config["prior"] = "learned"  # of whatever condition a config is changed to
        return config
