"""The table of families: every property in `test_families.py` is tested over all its entries.

A new family, or a variant that takes another path through the code, is one entry here.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from vae_zoo import (
    IWAE,
    VAE,
    VQVAE,
    VQVAE2,
    Autoencoder,
    BetaTCVAE,
    ConditionalVAE,
    ConvVAE,
    DenseVAE,
    FactorVAE,
    GaussianMixture,
    GraphAutoencoder,
    GraphVAE,
    HierarchicalVAE,
    PixelCNN,
    RealNVP,
    SketchDecoder,
    SketchRNN,
    schedules,
)
from vae_zoo.domains import Symbols
from vae_zoo.graphs import FILLER, Graphs
from vae_zoo.likelihoods import DiscretizedLogistic, Gaussian
from vae_zoo.priors import VampPrior
from vae_zoo.strokes import Strokes

# One small shape for nearly all of them: JAX compiles each operation once a shape. Two halvings
# give 2×2, so convolutional decoders have two columns to crop.
SHAPE, COLOUR = (8, 6, 1), (8, 6, 3)


def images(n, shape, seed=0):
    """uint8 images of all kinds of grey levels, black and white too."""
    x = np.random.default_rng(seed).integers(-80, 336, (n, *shape))
    return np.clip(x, 0, 255).astype("uint8")


@dataclasses.dataclass
class Family:
    """`make(**kwargs)` returns a new tiny model; `x` and `y` are eight examples for it; `noisy`
    is False where its objective draws nothing."""

    make: Callable
    x: np.ndarray = dataclasses.field(default_factory=lambda: images(8, SHAPE))
    y: np.ndarray | None = None
    noisy: bool = True


def dense(**settings):
    return lambda **kwargs: DenseVAE(
        SHAPE,
        latent_dim=2,
        hidden=(5,),
        # A layer belongs to one model: made anew, with the model.
        **{key: v() if callable(v) else v for key, v in settings.items()},
        **kwargs,
    )


def iwae(**settings):
    settings = {"latent_dim": 2, "hidden": (5,), "num_samples": 3, **settings}
    return lambda **kwargs: IWAE(SHAPE, **settings, **kwargs)


def conditional(condition=3, **settings):
    sizes = {"latent_dim": 2, "hidden": (5,), "filters": (3, 4), "units": 5, "label_dim": 4}
    settings = {**sizes, **settings}
    return lambda **kwargs: ConditionalVAE(SHAPE, condition, **settings, **kwargs)


def conv(shape=SHAPE, cls=ConvVAE, **settings):
    settings = {"latent_dim": 2, "filters": (3, 4), "units": 5, **settings}
    return lambda **kwargs: cls(shape, **settings, **kwargs)


def custom(**kwargs):
    """Networks of the user's own, with what has state, noise and losses inside."""
    x = image = keras.Input(SHAPE)
    x = layers.Flatten()(x)
    x = layers.Dense(5, use_bias=False, kernel_regularizer="l2", activity_regularizer="l1")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3, seed=1)(layers.Activation("tanh")(x))
    encoder = keras.Model(image, [layers.Dense(2)(x), layers.Dense(2)(x)])
    latent = keras.Input((2,))
    x = layers.Dropout(0.3, seed=2)(layers.Dense(5, activation="tanh")(latent))
    decoder = keras.Model(latent, layers.Reshape(SHAPE)(layers.Dense(48)(x)))
    return VAE(encoder, decoder, "bernoulli", **kwargs)


def ladder(shape=SHAPE, **settings):
    settings = {"latents": (3, 2), "widths": (5, 4), **settings}
    return lambda **kwargs: HierarchicalVAE(
        shape, **{key: v() if callable(v) else v for key, v in settings.items()}, **kwargs
    )


def vq(cls=VQVAE, **settings):
    settings = {"codes": 5, "code_dim": 3, "filters": (3, 4), "blocks": 0, **settings}
    settings = {"commitment": 0.25, **settings}
    return lambda **kwargs: cls(SHAPE, **{**settings, **kwargs})


def mixture():
    prior = GaussianMixture((2,), components=2, seed=1)
    prior.trainable = False
    prior.logits.assign([0.0, 1.0])
    prior.means.assign([[1.0, 0.0], [-1.0, 0.5]])
    prior.factors.assign([[[1.0, 0.5], [0.0, 2.0]], [[0.8, 0.0], [0.0, 1.2]]])
    return prior


def flow(shape=(2,), **kwargs):
    return RealNVP(shape, couplings=2, units=4, **kwargs)


def rows(*shape):
    return np.random.default_rng(0).normal(1.0, 2.0, (8, *shape)).astype("float32")


def graphs(n=8):
    """Tables of graphs of six nodes, the last row of every second one a filler."""
    x = Graphs(6).examples(n, np.random.default_rng(0))
    x[::2, -1] = 0, 0, FILLER
    return x


def sketches(n=8):
    return Strokes(4).examples(n, np.random.default_rng(0))


def sketch_rnn(**settings):
    sizes = {"latent_dim": 2, "units": 4, "encoder_units": 3, "components": 2}
    return lambda **kwargs: SketchRNN(4, **sizes, **settings, **kwargs)


def sketch_decoder(**settings):
    return lambda **kwargs: SketchDecoder(4, units=4, components=2, **settings, **kwargs)


FAMILIES = {
    "autoencoder_dense": Family(
        lambda **kwargs: Autoencoder(SHAPE, latent_dim=2, hidden=(5,), **kwargs)
    ),
    "autoencoder_conv": Family(conv(cls=Autoencoder, network="conv")),
    "vae_custom": Family(custom),
    "dense_bernoulli": Family(dense()),
    "dense_gaussian_fixed": Family(dense(likelihood=lambda: Gaussian(0.3))),
    "dense_gaussian_learned": Family(dense(likelihood=lambda: Gaussian("learned"))),
    "dense_gaussian_optimal": Family(dense(likelihood="gaussian", activation="relu")),
    "dense_laplace": Family(dense(likelihood="laplace")),
    "dense_discretized_logistic": Family(dense(likelihood=lambda: DiscretizedLogistic(2))),
    "dense_beta_schedule": Family(dense(beta=lambda: schedules.Sigmoid(2, 1.0, beta=3.0))),
    "dense_free_bits": Family(dense(free_bits=0.4, beta=0.5)),
    "dense_num_samples": Family(dense(num_samples=3, likelihood="gaussian")),
    "dense_mixture_prior": Family(dense(prior=mixture)),
    "dense_flow_prior": Family(dense(prior=lambda: flow(seed=1), num_samples=2)),
    "dense_vamp_prior": Family(dense(prior=lambda: VampPrior(SHAPE, 3))),
    "iwae": Family(iwae()),
    "iwae_plain_gradient": Family(iwae(doubly_reparametrized=False)),
    "iwae_gaussian": Family(iwae(likelihood="gaussian")),
    "conditional_dense": Family(conditional(prior="learned", num_samples=2), y=np.arange(8) % 3),
    "conditional_conv": Family(conditional(network="conv", blocks=1), y=np.arange(8) % 3),
    "conditional_image": Family(
        conditional("image", network="conv", prior="learned", activation="relu"),
        y=images(8, SHAPE, seed=2),
    ),
    "conv_flat": Family(conv(activation="gated")),
    "conv_grid": Family(conv(latent_grid=True, blocks=1)),
    "beta_tc_vae": Family(conv(cls=BetaTCVAE, dataset_size=8)),
    "beta_tc_vae_weighted": Family(
        conv(
            cls=BetaTCVAE, dataset_size=20, beta_tc=3.0, sampling="weighted", likelihood="gaussian"
        )
    ),
    "factor_vae": Family(conv(cls=FactorVAE, gamma=3.0, discriminator_units=(6, 5))),
    "ladder_dense": Family(ladder(balance=True, beta=lambda: schedules.Sigmoid(2, 1.0, beta=0.9))),
    "ladder_conv": Family(ladder(network="conv", groups=(2, 1), free_bits=0.3)),
    "ladder_colour": Family(
        ladder(COLOUR, network="conv", blocks=0, likelihood="gaussian", latents=(2,), widths=(4,)),
        x=images(8, COLOUR),
    ),
    "ladder_flow_prior": Family(ladder(prior=lambda: flow(seed=1))),
    "ladder_importance": Family(ladder(num_samples=3)),
    "vq_vae": Family(vq(), noisy=False),
    "vq_vae_averaged": Family(vq(averaged=True, cosine=True, likelihood="bernoulli")),
    "vq_vae_scalars": Family(vq(levels=(16, 15), activation="tanh"), noisy=False),
    "vq_vae_2": Family(vq(cls=VQVAE2, filters=(3,)), noisy=False),
    "vq_vae_2_averaged": Family(vq(cls=VQVAE2, averaged=True, filters=(3,)), noisy=False),
    "pixel_cnn": Family(
        lambda **kwargs: PixelCNN((4, 3), levels=3, filters=4, blocks=1, **kwargs),
        x=np.random.default_rng(0).integers(0, 3, (8, 4, 3)).astype("int32"),
    ),
    "pixel_cnn_classes": Family(
        lambda **kwargs: PixelCNN((4, 3), levels=3, filters=4, blocks=1, condition=2, **kwargs),
        x=np.random.default_rng(0).integers(0, 3, (8, 4, 3)).astype("int32"),
        y=np.arange(8) % 2,
    ),
    "pixel_cnn_grid": Family(
        lambda **kwargs: PixelCNN(
            (4, 2),
            levels=3,
            filters=4,
            blocks=1,
            condition=Symbols((2, 1), 3),
            **kwargs,
        ),
        x=np.random.default_rng(0).integers(0, 3, (8, 4, 2)).astype("int32"),
        y=np.random.default_rng(1).integers(0, 3, (8, 2, 1)).astype("int32"),
    ),
    "real_nvp": Family(functools.partial(flow, (3,), blocks=1), x=rows(3), noisy=False),
    "real_nvp_grid": Family(functools.partial(flow, (2, 3, 2)), x=rows(2, 3, 2), noisy=False),
    "real_nvp_pixels": Family(
        functools.partial(flow, COLOUR, pixels=True, squeezes=1), x=images(8, COLOUR)
    ),
    "gaussian_mixture": Family(
        lambda **kwargs: GaussianMixture((3,), components=2, **kwargs),
        x=np.random.default_rng(0).normal(size=(8, 3)).astype("float32"),
        noisy=False,
    ),
    "gaussian_mixture_patches": Family(
        lambda **kwargs: GaussianMixture(
            (2, 2), components=3, zero_means=True, remove_dc=True, **kwargs
        ),
        x=np.random.default_rng(0).random((8, 2, 2)).astype("float32"),
        noisy=False,
    ),
    "graph_vae": Family(
        lambda **kwargs: GraphVAE(6, 3, hidden=4, latent_dim=2, **kwargs), x=graphs(), y=rows(6, 3)
    ),
    "graph_vae_nodes": Family(
        lambda **kwargs: GraphVAE(6, hidden=4, latent_dim=2, beta=0.5, free_bits=0.2, **kwargs),
        x=graphs(),
    ),
    "graph_autoencoder": Family(
        lambda **kwargs: GraphAutoencoder(6, 3, hidden=4, latent_dim=2, **kwargs),
        x=graphs(),
        y=rows(6, 3),
        noisy=False,
    ),
    "sketch_rnn": Family(sketch_rnn(), x=sketches()),
    "sketch_rnn_normalized": Family(
        sketch_rnn(normalized=True, dropout=0.2, free_bits=0.5), x=sketches()
    ),
    "sketch_decoder": Family(sketch_decoder(), x=sketches(), noisy=False),
    "sketch_decoder_normalized": Family(sketch_decoder(normalized=True, dropout=0.2), x=sketches()),
    "conv_colour": Family(conv(COLOUR, likelihood="discretized_logistic"), x=images(8, COLOUR)),
}


# Properties that are of one domain of x, and why others are exempt from them.
EXEMPT = {
    "wrong_images": {
        Graphs: "tables of pairs, no images: see test_graph_vae.py",
        Strokes: "tables of strokes, no images: see test_sketch_rnn.py",
    }
}


def exempt(model, what):
    """Why a model need not have a property, by the domain of its data; None where it must."""
    return EXEMPT[what].get(type(model.domain))
