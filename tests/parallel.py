"""Small models, trained in cases that are the same on one device and on several: what
`test_distribute.py` runs here, and in processes of their own as

    python tests/parallel.py FOLDER DEVICES CASE [CASE ...]
"""

import pathlib
import sys

import keras
import numpy as np
from keras import ops

import vae_zoo
from vae_zoo import distribute, transfer
from vae_zoo.engine.trainable import Trainable
from vae_zoo.evaluate import features
from vae_zoo.likelihoods import Gaussian

SHAPE = (8, 6, 1)
N, BATCH = 75, 32  # the last batch of an epoch, of 11, cannot be halved


def images(seed=0):
    levels = np.random.default_rng(seed).integers(-80, 336, (N, *SHAPE))
    return np.clip(levels, 0, 255).astype("uint8")


@keras.saving.register_keras_serializable("tests")
class Echo(Trainable):
    """Logs the product of noise and x: the mean is 0 where x is 1 for one half of a batch, -1 for
    the other, and both have the same noise."""

    logged = ("product",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def objective(self, x, y=None, training=False):
        product = x[:, 0] * self.draw(ops.shape(x)[:1])
        return {"loss": self.scale**2 * ops.ones_like(product), "product": product}


@keras.saving.register_keras_serializable("tests")
class Coupled(Trainable):
    """Pulls the examples of a batch together: sum_i w_i log mean_j w_j exp(-|z_i - z_j|^2)."""

    logged = ("distance",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)
        self.dense.build((None, 3))

    def objective(self, x, y=None, training=False):
        z = self.dense(x)
        every, weights = self.whole_batch(z)
        squared = ops.sum(ops.square(z[:, None] - every[None]), axis=-1)
        near = ops.log(ops.sum(weights * ops.exp(-squared), axis=1) / ops.sum(weights))
        return {"loss": -near, "distance": ops.sum(ops.square(z), axis=1)}


MODELS = {
    "dense_vae": lambda: vae_zoo.DenseVAE(
        SHAPE, 3, (16,), likelihood=Gaussian("optimal"), free_bits=0.1, seed=5
    ),
    "guarded_vae": lambda: vae_zoo.DenseVAE(  # norms are 11.4 at first, then below 11
        SHAPE, 3, (16,), likelihood=Gaussian("optimal"), skip_threshold=11.2, seed=5
    ),
    "flow_vae": lambda: vae_zoo.DenseVAE(
        SHAPE, 3, (16,), "gated", prior=vae_zoo.RealNVP((3,), 2, 8, seed=5), seed=5
    ),
    "hierarchical_vae": lambda: vae_zoo.HierarchicalVAE(
        SHAPE,
        latents=(4, 2),
        widths=(12, 8),
        free_bits=0.5,
        balance=True,
        beta=vae_zoo.schedules.warm_up(40),
        seed=5,
    ),
    "iwae": lambda: vae_zoo.IWAE(SHAPE, 3, (16,), num_samples=3, seed=5),
    "conditional_vae": lambda: vae_zoo.ConditionalVAE(
        SHAPE, 3, "dense", 3, (16,), label_dim=4, prior="learned", seed=5
    ),
    "beta_tc_vae": lambda: vae_zoo.BetaTCVAE(SHAPE, 2, (3,), 5, dataset_size=N, seed=5),
    "factor_vae": lambda: vae_zoo.FactorVAE(
        SHAPE, 2, (3,), 5, gamma=3.0, discriminator_units=(6,), seed=5
    ),
    "vq_vae": lambda: vae_zoo.VQVAE(
        SHAPE, 8, 4, (6,), averaged=True, restart=0.5, likelihood="gaussian", seed=5
    ),
}
CASES = {  # name: (model, epochs of three steps, settings of the optimizer, precision)
    "dense_vae": ("dense_vae", 17, {}, "float32"),
    "flow_vae": ("flow_vae", 4, {}, "float32"),
    "hierarchical_vae": ("hierarchical_vae", 17, {}, "float32"),
    "iwae": ("iwae", 2, {}, "float32"),
    "conditional_vae": ("conditional_vae", 2, {}, "float32"),
    "vq_vae": ("vq_vae", 4, {}, "float32"),
    "total_correlation": ("beta_tc_vae", 3, {}, "float32"),
    "players": ("factor_vae", 3, {}, "float32"),
    "weights": ("dense_vae", 3, {"global_clipnorm": 0.5, "use_ema": True}, "float32"),
    "skipping": ("guarded_vae", 9, {}, "float32"),
    "two_rates": ("dense_vae", 3, {}, "float32"),
    "float16": ("guarded_vae", 9, {}, "mixed_float16"),
}
BOUNDED = ("dense_vae", "hierarchical_vae", "conditional_vae")  # whose likelihood is asked for
SHORT = ("dense_vae", "vq_vae")  # what two processes train where two devices are not processes


def quiet(self, shape, distribution="normal", alike=False):
    """No noise: what each device draws is constant, what all draw alike is a table."""
    if alike:
        table = np.modf(np.arange(shape[0]) * 0.618 + 0.1)[0]
        return ops.convert_to_tensor(table.astype("float32"))
    return ops.full(shape, 0.5 if distribution == "uniform" else 0.0)


def train(case):
    """Trains and measures: (model, dict of NumPy arrays)."""
    name, epochs, settings, precision = CASES[case]
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(precision)
    model, x, y, weights = MODELS[name](), images(), None, None
    if name == "guarded_vae":  # norms that are the same on all backends
        rng = np.random.default_rng(3)
        for variable in model.trainable_variables:
            variable.assign(rng.normal(0, 0.2, variable.shape))
    keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.Adam(1e-3, **settings))
    if case == "two_rates":
        model.compile(transfer.optimizer(model, model.decoder.trainable_variables, 1e-3, 1e-4))
    if case == "vq_vae":
        model.start_codebook(x)
    seen = x
    if case == "conditional_vae":
        y = np.arange(N) % 3
    if case == "skipping":
        seen = x / np.float32(255)
        seen[BATCH + 5] = np.nan  # in the second of three batches, on one of two devices
    if case == "weights":
        y = np.zeros(N, "int32")
        weights = np.random.default_rng(1).integers(0, 3, N).astype("float32")
    whole = case in MODELS  # in the others it is training that is special
    history = model.fit(
        *(seen, y, BATCH, epochs),
        verbose=0,
        shuffle=False,
        sample_weight=weights,
        validation_data=(images(1), y) if whole else None,
    ).history
    found = {f"history/{key}": np.float64(value) for key, value in history.items()}
    if whole:
        found["history/evaluated"] = np.float64(model.evaluate(x, y, verbose=0))
        some = (x[:7], None if y is None else y[:7])
        pair = some[0] if y is None else some
        found["reconstructions"] = model.predict(pair, verbose=0)
        if case == "vq_vae":
            found["codes"] = model.encode(x)
        elif case in BOUNDED:  # 7 images, 2 at a time on each device
            found["log_likelihood"] = model.log_likelihood(*some, num_samples=60, batch_size=2)
    parts = {"weights": model.weights, "slots": model.optimizer.variables}
    for part, variables in parts.items():
        arrays = [ops.convert_to_numpy(v).ravel().astype("float64") for v in variables]
        found[part] = np.concatenate(arrays)
    return model, found


def echo():
    """Sums of noise of opposite signs in the two halves of a batch, step by step, and in a test."""
    x = np.tile(np.repeat([1.0, -1.0], 8), 4).astype("float32")[:, None]
    model = Echo(seed=1)
    model.compile("sgd")
    fit = {"batch_size": 16, "verbose": 0, "shuffle": False}
    trained = model.fit(x, epochs=3, **fit).history["product"]
    return trained, model.evaluate(x, batch_size=16, verbose=0, return_dict=True)["product"]


def unseeded():
    """The loss of an epoch and the weights after it, of a model that no seed was given for."""
    model = vae_zoo.DenseVAE(SHAPE, latent_dim=2, hidden=(8,))
    model.compile("adam")
    loss = model.fit(images(), batch_size=25, verbose=0).history["loss"]
    weights = np.concatenate([array.ravel() for array in model.get_weights()])
    return {"weights": weights, "loss": loss}


def others():
    """What couples the examples of a batch, its last one uneven; and densities with and without
    labels, of which filler has none: losses and weights."""
    found, rng = {}, np.random.default_rng(4)
    keras.utils.set_random_seed(3)
    coupled = Coupled(seed=1)
    coupled.dense.kernel.assign(rng.normal(size=(3, 2)))
    coupled.compile(keras.optimizers.SGD(0.1))
    x, weights = rng.normal(size=(11, 3)).astype("float32"), np.arange(11) % 3.0
    fit = {"batch_size": 6, "epochs": 3, "verbose": 0, "shuffle": False}
    history = coupled.fit(x, np.zeros(11), sample_weight=weights, **fit).history
    found["coupled"] = np.append(history["loss"], ops.convert_to_numpy(coupled.dense.kernel))
    symbols = rng.integers(0, 3, (11, 4, 3))
    for name, condition, y in (("plain", None, None), ("labelled", 2, np.arange(11) % 2)):
        density = vae_zoo.PixelCNN((4, 3), 3, filters=4, blocks=1, condition=condition, seed=2)
        for variable in density.trainable_variables:
            variable.assign(rng.normal(0, 0.3, variable.shape))
        density.compile(keras.optimizers.SGD(0.01))
        found[name] = np.float64(density.fit(symbols, y, **fit).history["nll"])
    return found


def main(folder, devices, *cases):
    folder = pathlib.Path(folder)
    # A worker of a busy machine may be slow to answer.
    with distribute.data_parallel(int(devices) or None, timeout=600):
        if not distribute.is_main():
            folder = folder / "other"
        folder.mkdir(parents=True, exist_ok=True)
        if not int(devices):  # several processes: at first, before anything sets a seed
            np.savez(folder / "unseeded.npz", **unseeded())
        trained, tested = echo()
        np.savez(folder / "echo.npz", trained=trained, tested=tested)
        network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
        network.build((None, *SHAPE))
        made = {"features": features(network, images()), "kernel": network.get_weights()[0]}
        np.savez(folder / "features.npz", **made)
        np.savez(folder / "others.npz", **others())
        Trainable.draw = quiet
        for case in cases:
            model, found = train(case)
            model.save(folder / f"{case}.keras")
            np.savez(folder / f"{case}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
