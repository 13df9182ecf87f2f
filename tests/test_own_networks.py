"""Networks of the user's own: what can be meant is taken, all else refused at once, in a line."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from vae_zoo import VAE, load_model

X = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 1), dtype="uint8")


def encoder(*sizes, shape=(6, 5, 1), named=False):
    x = image = keras.Input(shape)
    x = layers.Flatten()(x)
    heads = [layers.Dense(n)(x) for n in sizes]
    if named:
        return keras.Model(image, dict(zip(("z_mean", "z_log_var", "z"), heads)))
    return keras.Model(image, heads[0] if len(heads) == 1 else heads)


def decoder(n, *last, units=30, shape=(6, 5, 1), activation=None):
    first = [keras.Input((n,)), layers.Dense(units, activation=activation)]
    return keras.Sequential([*first, layers.Reshape(shape), *last])


def functional(n, function):
    z = keras.Input((n,))
    return keras.Model(z, function(layers.Reshape((6, 5, 1))(layers.Dense(30)(z))))


class Subclassed(keras.Model):
    def call(self, x):
        return x, x


class Sampling(layers.Layer):
    """Of the example on keras.io."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        noise = keras.random.normal(ops.shape(z_mean), seed=self.seeds)
        return z_mean + ops.exp(0.5 * z_log_var) * noise


def with_sample():
    image = keras.Input((6, 5, 1))
    x = layers.Dense(4, activation="relu")(layers.Flatten()(image))
    z_mean, z_log_var = layers.Dense(2)(x), layers.Dense(2)(x)
    return keras.Model(image, [z_mean, z_log_var, Sampling()([z_mean, z_log_var])])


TAKEN = {
    "two outputs": lambda: (encoder(2, 2), decoder(2)),
    "a dict": lambda: (encoder(2, 2, named=True), decoder(2)),
    "one output for both": lambda: (encoder(4), decoder(2)),
    "a grid": lambda: (
        keras.Sequential([keras.Input((6, 5, 1)), layers.Conv2D(4, 3, 2, padding="same")]),
        keras.Sequential(
            [
                keras.Input((3, 3, 2)),
                layers.Conv2DTranspose(1, 3, 2, padding="same"),
                layers.Cropping2D(((0, 0), (0, 1))),
            ]
        ),
    ),
    "an activation that is followed by more": lambda: (
        encoder(2, 2),
        decoder(2, layers.Dense(1), activation="sigmoid"),
    ),
    "the example of keras.io without its sample": lambda: (
        (lambda whole: keras.Model(whole.inputs, whole.outputs[:2]))(with_sample()),
        decoder(2),
    ),
    "a subclassed one in a functional one": lambda: (
        encoder(2, 2),
        (lambda z, inner: keras.Model(z, inner(z)))(keras.Input((2,)), decoder(2)),
    ),
}


@pytest.mark.parametrize("pair", TAKEN)
def test_what_can_be_meant_is_taken(pair, tmp_path):
    model = VAE(*TAKEN[pair](), seed=1)
    model.compile("sgd")
    assert np.isfinite(model.fit(X, verbose=0).history["loss"]).all()
    z = model.encode(X)
    assert z.shape == (8, *model.latent_shape) and model.decode(z).shape == X.shape
    if pair in ("a dict", "one output for both"):
        model.save(tmp_path / "model.keras")
        np.testing.assert_allclose(load_model(tmp_path / "model.keras").encode(X), z, atol=1e-6)


def test_one_output_holds_the_means_first():
    image = keras.Input((6, 5, 1))
    both = layers.Dense(4, kernel_initializer="zeros", name="both")
    whole = keras.Model(image, both(layers.Flatten()(image)))
    both.bias.assign([1.0, 2.0, 3.0, 4.0])
    posterior = VAE(whole, decoder(2)).posterior(ops.convert_to_tensor(X / np.float32(255)))
    np.testing.assert_array_equal(ops.convert_to_numpy(posterior.mean[0]), [1, 2])
    np.testing.assert_array_equal(ops.convert_to_numpy(posterior.log_var[0]), [3, 4])


ONE_LINE = "must be a functional or Sequential Keras model"
REFUSED = {
    "three outputs": (lambda: VAE(encoder(2, 2, 2), decoder(2)), "z is drawn by the VAE itself"),
    "of keras.io": (lambda: VAE(with_sample(), decoder(2)), r"leave it out by .*outputs\[:2\]"),
    "a dict of three": (
        lambda: VAE(encoder(2, 2, 2, named=True), decoder(2)),
        r"Received: outputs \['z', 'z_log_var', 'z_mean'\]",
    ),
    "one output": (lambda: VAE(encoder(2), decoder(2)), r"\(batch, \*\(4,\)\). Received: one outp"),
    "another latent": (
        lambda: VAE(encoder(2, 2), decoder(3)),
        r"both \(batch, \*\(3,\)\) as `decoder` takes them. Received: outputs \[\(2,\), \(2,\)\]",
    ),
    "unequal heads": (lambda: VAE(encoder(2, 1), decoder(2)), r"outputs \[\(2,\), \(1,\)\]"),
    "subclassed": (lambda: VAE(Subclassed(), decoder(2)), f"`encoder` {ONE_LINE}.*Subclassed"),
    "never called": (
        lambda: VAE(encoder(2, 2), keras.Sequential([layers.Dense(30)])),
        f"`decoder` {ONE_LINE}.*Received: Sequential",
    ),
    "a layer": (lambda: VAE(layers.Dense(4), decoder(2)), f"`encoder` {ONE_LINE}.*Dense"),
    "a function": (lambda: VAE(lambda x: x, decoder(2)), f"`encoder` {ONE_LINE}.*function"),
    "nothing": (lambda: VAE(encoder(2, 2), None), f"`decoder` {ONE_LINE}.*NoneType"),
    "two inputs": (
        lambda: VAE(
            encoder(2, 2),
            (lambda a, b: keras.Model([a, b], a + b))(keras.Input((2,)), keras.Input((2,))),
        ),
        f"`decoder` {ONE_LINE}",
    ),
    "unknown sizes": (
        lambda: VAE(
            keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(4, 3)]), decoder(2)
        ),
        "`encoder` must have fixed sizes",
    ),
    "another image": (
        lambda: VAE(encoder(2, 2), decoder(2, shape=(5, 6, 1))),
        r"`decoder` must return \(batch, \*\(6, 5, 1\)\).*Received: \(None, 5, 6, 1\)",
    ),
    "sigmoid": (lambda: VAE(encoder(2, 2), decoder(2, activation="sigmoid")), "ends in sigmoid"),
    "a sigmoid layer": (
        lambda: VAE(encoder(2, 2), decoder(2, layers.Activation("sigmoid"))),
        "ends in sigmoid",
    ),
    "a relu layer": (lambda: VAE(encoder(2, 2), decoder(2, layers.ReLU())), "ends in relu"),
    "a sigmoid operation": (
        lambda: VAE(encoder(2, 2), functional(2, ops.sigmoid)),
        "ends in sigmoid",
    ),
    "a sigmoid inside": (
        lambda: VAE(
            encoder(2, 2),
            keras.Sequential([keras.Input((2,)), decoder(2, activation="sigmoid")]),
        ),
        "ends in sigmoid",
    ),
    "logistics": (
        lambda: VAE(
            encoder(2, 2),
            decoder(2, units=450, shape=(6, 5, 15), activation="tanh"),
            "discretized_logistic",
        ),
        "DiscretizedLogistic likelihood, which takes logits.*ends in tanh",
    ),
}


@pytest.mark.parametrize("pair", REFUSED)
def test_the_rest_is_refused_at_once_in_one_line(pair):
    build, message = REFUSED[pair]
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_means_may_end_in_a_sigmoid(likelihood):
    model = VAE(encoder(2, 2), decoder(2, activation="sigmoid"), likelihood)
    made = model.decode(np.zeros((1, 2), "float32"))
    assert ((made > 0) & (made < 1)).all()
