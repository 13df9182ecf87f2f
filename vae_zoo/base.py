"""The seam: what a model family writes, and the one step that trains it on three engines.

`Trainable` has the step, the noise and saving. `LatentModel` adds an encoder and a decoder;
`BaseVAE` adds the bound on log p(x): importance weights, a prior, sampling.
"""

import contextlib
import os
import pathlib
import threading

import keras
import numpy as np
from keras import ops

from vae_zoo import backend, data

EVALUATION_SEED = 1_000_003  # evaluation draws the same noise each time, so that it is repeatable
PATIENCE = 50  # updates skipped in a row after which training is given up


def restore(value):
    """The object behind its serialised form (a dict with a class name); anything else as it is."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return value


def kl_weights(beta, free_bits):
    """The weight of the KL, out of its serialised form where it is a schedule.

    Raises:
        ValueError: unless `beta` is a float >= 0 or a schedule, and `free_bits` a float >= 0.
    """
    beta = restore(beta)
    if not callable(beta) and not (isinstance(beta, (int, float)) and 0 <= beta < float("inf")):
        raise ValueError(
            f"`beta` must be a float >= 0 or a LearningRateSchedule. Received: beta={beta!r}"
        )
    if not 0 <= free_bits < float("inf"):
        raise ValueError(f"`free_bits` must be >= 0. Received: free_bits={free_bits}")
    return beta


def noise_source(seed):
    """A `SeedGenerator` whose stream is its own; `seed` is an int, None to draw one (as
    `keras.utils.set_random_seed` says), or such a generator, which is returned as it is.

    On PyTorch Keras seeds a draw by the sum of seed and counter, so that near seeds would give
    shifted copies of one stream: they are spread.
    """
    if isinstance(seed, keras.random.SeedGenerator):
        return seed
    seed = np.random.randint(2**31 - 1) if seed is None else seed
    return keras.random.SeedGenerator(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 2))


class Trainable(keras.Model):
    """A model trained by minimising `objective(x, y, training)["loss"]`.

    A family writes `__init__` (every weight exists when it returns), `get_config`, `call`,
    `objective`, and `update_state` where it has state that no gradient trains.

    One step: objective, gradient, norm, then the update (clipped by the optimizer's
    `global_clipnorm`), or none where the gradient is not finite or its norm is above
    `skip_threshold`; then `update_state` and the metrics, under the same condition. A skipped step
    changes no variable but the noise state and the count `skipped` in the logs.

    Args:
        seed: int, of all noise; None draws one. Initial weights follow
            `keras.utils.set_random_seed`.
        skip_threshold: float, norm of the gradient (unscaled, before clipping) above which an
            update is skipped; None skips only what is not finite.
    """

    logged = ()
    assigned = ()  # trainable variables that `update_state` assigns too

    def __init__(self, seed=None, skip_threshold=None, logged=None, **kwargs):
        super().__init__(**kwargs)
        self.built = True  # a family creates every weight in its __init__
        if skip_threshold is not None and not skip_threshold > 0:
            raise ValueError(f"`skip_threshold` must be positive. Received: {skip_threshold}")
        self.seed, self.skip_threshold = seed, skip_threshold
        self.noise = noise_source(seed)
        self.means = Means(("loss", *(self.logged if logged is None else logged)))
        # What holds during one step, which on TensorFlow replicas walk through at once. Not by
        # attribute assignment: Keras would track it as the model's own state.
        self.__dict__["_now"] = threading.local()

    def objective(self, x, y=None, training=False):
        """What is minimised, and what is logged.

        Args:
            x, y: one batch, as `prepare` returns it; `y` is None without labels.
            training: False gives the honest bound: no weights on terms, nothing coupled.

        Returns:
            dict of float32 (batch,) tensors in nats per example: "loss", every name in `logged`,
            and what else `update_state` wants to see.
        """
        raise NotImplementedError

    def update_state(self, outputs, weights, training):
        """Assigns state that no gradient trains, from what `objective` returned.

        Args:
            outputs: dict, what `objective` returned, cut from the graph.
            weights: float32 (batch,), sample weights; rows of weight 0 do not count.
            training: bool.
        """

    def prepare(self, x):
        """Data as the user gave it -> data as `objective` takes it, on the device."""
        return x

    def check_data(self, x):
        """Raises `ValueError` where arrays given to `fit` or `evaluate` cannot be right."""

    # === Noise ===

    def draw(self, shape, distribution="normal", alike=False):
        """All noise of all families: float32 of the given shape, N(0, 1) or "uniform" in [0, 1).

        Replicas, each of which sees a part of the batch, draw different noise; `alike=True` is for
        what they decide together.
        """
        source = getattr(self._now, "noise", None) or self.noise
        if not alike:
            source = backend.noise_of_replica(source)
        return getattr(keras.random, distribution)(shape, seed=source)

    @contextlib.contextmanager
    def noise_from(self, seed, counter=0):
        """Context in which `draw` is a function of `seed` and `counter`, and moves no state."""
        self._now.noise = _StatelessNoise(seed, counter, self.noise.state.dtype)
        try:
            yield
        finally:
            del self._now.noise

    def _compiled(self, name, function, noisy=False, loops=False, dealt=False):
        cache = self.__dict__.setdefault("_compiled_functions", {})
        if (name, dealt) not in cache:
            cache[name, dealt] = backend.compiled(function, self, noisy, loops, dealt)
        return cache[name, dealt]

    def run(self, name, function, *arrays, batch_size=256, seed=None):
        """Runs `function(*tensors)` compiled, batch by batch, over the first axis of NumPy arrays.

        The last batch is filled up by repetition, so that one shape is compiled and no more; `name`
        is what the compiled function is remembered by. A function that draws needs an int `seed`;
        each batch has noise of its own. Arguments and results may be tuples of arrays.
        """
        flat, tree = keras.tree.flatten(arrays), keras.tree
        places = tree.pack_sequence_as(arrays, list(range(len(flat))))

        def of_flat(*flat):
            return function(*tree.map_structure(lambda place: flat[place], places))

        run = self._compiled(name, of_flat, noisy=seed is not None)
        n = len(flat[0])
        if n == 0:
            raise ValueError("At least one example is needed. Received: an empty array")
        results = []
        for start in range(0, n, batch_size):
            rows = np.minimum(np.arange(start, start + min(batch_size, n)), n - 1)
            seeds = () if seed is None else (np.int32(seed), np.int32(start))
            results.append(run(*seeds, *[np.asarray(a[rows]) for a in flat]))
        return tree.map_structure(lambda *parts: np.concatenate(parts)[:n], *results)

    # === The step ===

    def train_step(self, *args):
        logs = backend.stateful(
            self._train_on_batch,
            args,
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        return backend.as_keras_reduces(logs)

    def test_step(self, *args):
        logs = backend.stateful(
            self._test_on_batch,
            args,
            self.trainable_variables,
            self.non_trainable_variables,
            self.metrics_variables,
        )
        return backend.as_keras_reduces(logs)

    def _train_on_batch(self, data):
        x, y, weights = self._unpack(data)
        optimizer, variables = self.optimizer, self.trainable_variables
        shares = weights / backend.replica_sum(ops.sum(weights))  # of the whole batch

        # The noise state moves on; everything else comes back after a bad batch.
        kept = [*self.non_trainable_weights, *self.assigned]
        with backend.unchanged_unless(None, kept) as state:
            outputs, gradients = backend.value_and_gradients(
                self._loss_and_outputs,
                (x, y, shares),
                variables,
                [*self.non_trainable_variables, *optimizer.variables],
                self._recordings,
            )
            gradients = backend.replica_sum(gradients)
            scaled = hasattr(optimizer, "dynamic_scale")
            norm = backend.global_norm(gradients) / (optimizer.dynamic_scale if scaled else 1.0)
            finite = ops.isfinite(norm)
            small = True if self.skip_threshold is None else norm <= self.skip_threshold
            accepted = state.accept = ops.logical_and(finite, small)
            # A loss-scaling optimizer must see every overflow, or its scale would never fall.
            apply = ops.logical_or(small, ops.logical_not(finite)) if scaled else accepted
            backend.apply_gradients(optimizer, gradients, variables, apply)
            self.update_state(outputs, weights, training=True)
        for metric in self.metrics:
            metric.update_state(outputs, weights, accepted)
        return self.get_metrics_result()

    def _loss_and_outputs(self, x, y, shares):
        self._now.shares = shares
        try:
            outputs = self._checked(self.objective(self.prepare(x), y, training=True))
        finally:
            del self._now.shares
        outputs["loss"] = outputs["loss"] + sum(self.losses)  # regularisers of the layers
        return self.optimizer.scale_loss(ops.sum(shares * outputs["loss"])), outputs

    def batch_mean(self, terms):
        """Weighted mean over the examples of a training batch, on all replicas, without a gradient.

        What couples examples needs no more: max(mean, floor) has the gradient of the batch's mean
        of `where(mean > floor, terms, floor)`.

        Args:
            terms: float32 (batch, ...).
        """
        shares = getattr(self._now, "shares", None)
        if shares is None:  # an objective called on its own
            return ops.stop_gradient(ops.mean(terms, axis=0))
        terms = ops.reshape(shares, (-1, *[1] * (len(terms.shape) - 1))) * terms
        return ops.stop_gradient(backend.replica_sum(ops.sum(terms, axis=0)))

    def _test_on_batch(self, data):
        x, y, weights = self._unpack(data)
        # The number of examples seen so far makes the noise of each batch its own.
        with self.noise_from(EVALUATION_SEED, self.means.weight):
            outputs = self._checked(self.objective(self.prepare(x), y, training=False))
        self.update_state(outputs, weights, training=False)
        for metric in self.metrics:
            metric.update_state(outputs, weights)
        logs = self.get_metrics_result()
        del logs["skipped"]
        return logs

    def _unpack(self, data):
        data = keras.tree.map_structure(ops.convert_to_tensor, data, none_is_leaf=False)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is None:
            weights = ops.ones(ops.shape(keras.tree.flatten(x)[0])[:1])
        return x, y, ops.cast(weights, "float32")

    def _checked(self, outputs):
        missing = set(self.means.names) - set(outputs)
        if missing:
            raise ValueError(
                f"{type(self).__name__}.objective() must return {sorted(self.means.names)}. "
                f"Missing: {sorted(missing)}"
            )
        return dict(outputs)

    @property
    def metrics(self):
        """`self.means`, and metrics of a whole set where a family has some; each takes
        `update_state(outputs, weights, accepted)` and returns a dict."""
        return [self.means]

    def _flatten_metrics_in_order(self, logs):
        # Of a list, `evaluate` without `return_dict` say, the loss is the first.
        first = [name for name in (*self.means.names, "skipped") if name in logs]
        return [logs[name] for name in dict.fromkeys([*first, *logs])]

    # === Training and evaluating ===

    def compile(
        self,
        optimizer="adam",
        jit_compile="auto",
        run_eagerly=False,
        steps_per_execution=None,
        auto_scale_loss=True,
    ):
        """Keras's `compile`, without `loss` and `metrics`: the family's objective is the loss.

        `steps_per_execution=None` takes what is fast on the backend: 8 on TensorFlow, where
        callbacks then see every eighth batch, 1 on the others.
        """
        self._chosen_execution = steps_per_execution is None and not run_eagerly
        if steps_per_execution is None:
            one = run_eagerly or backend.devices()[0] > 1
            steps_per_execution = 1 if one else backend.STEPS_PER_EXECUTION
        elif backend.BACKEND == "tensorflow" and steps_per_execution > 1 < backend.devices()[0]:
            raise ValueError(
                "TensorFlow cannot sum over replicas inside the loop of several steps: leave "
                f"`steps_per_execution` out. Received: {steps_per_execution}"
            )
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            auto_scale_loss=auto_scale_loss,
        )
        backend.accelerate(self.optimizer)
        # Not by attribute assignment: Keras would track it as the model's own state.
        eager = run_eagerly or self.jit_compile
        self.__dict__["_recordings"] = None if eager else backend.Recordings(self)

    def fit(
        self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs
    ):
        """Keras's `fit`: `fit(x)`, with `y` where the family takes labels.

        Raises:
            ValueError: if data cannot be right, or `sample_weight` comes without `y` (Keras would
                drop it).
            RuntimeError: if no update is made for long, since every gradient is refused.
        """
        self._check_arguments(x, y, kwargs.get("sample_weight"))
        self._stop_at(kwargs.get("steps_per_epoch"), kwargs.get("validation_steps"))
        if self.compiled and backend.devices()[0] > 1:
            self.optimizer.build(self.trainable_variables)
            backend.share_from_first([*self.variables, *self.optimizer.variables])
            x, y = self._dealt_out(x, y, batch_size, kwargs), None
        if isinstance(x, keras.utils.PyDataset):
            # A dataset has an order of its own; Keras would deal its batches by the global seed.
            kwargs.setdefault("shuffle", False)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [*_as_list(callbacks), GiveUpWhenAllSkipped()]
        try:
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)
        finally:
            if self.compiled:
                backend.own_buffers(self.optimizer.variables)

    def evaluate(
        self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs
    ):
        """Keras's `evaluate`; works on a model that was never compiled too."""
        self._check_arguments(x, y, sample_weight)
        self._stop_at(kwargs.get("steps"))
        if backend.devices()[0] > 1 and isinstance(x, np.ndarray):
            x = data.Batches(x, y, sample_weight, batch_size or 32, shuffle=False)
            y = sample_weight = None
        if self.compiled:
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
        self.compile("sgd")
        try:
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
        finally:
            self.compiled, self.optimizer = False, None

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Keras's `predict`: reconstructions."""
        self._stop_at(steps)
        if backend.devices()[0] > 1 and isinstance(x, np.ndarray):
            return self.run("call", self.call, x, batch_size=batch_size or 32)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: every weight exists, and Keras's way fails with several workers (TensorFlow)."""

    def _dealt_out(self, x, y, batch_size, kwargs):
        """Arrays for `fit` as batches that are dealt out to the devices; of `kwargs` those of the
        data are replaced. Anything else is as it was."""
        batch_size, seed = batch_size or 32, self.seed or 0
        if kwargs.get("validation_split"):
            raise ValueError("On several devices pass `validation_data`, not `validation_split`")
        held_out = kwargs.get("validation_data")
        if isinstance(held_out, tuple):
            batches = kwargs.pop("validation_batch_size", None) or batch_size
            held_out = (*held_out, None, None)[:3]
            kwargs["validation_data"] = data.Batches(*held_out, batches, shuffle=False)
        if not isinstance(x, np.ndarray):
            return x
        shuffle, weights = kwargs.pop("shuffle", True), kwargs.pop("sample_weight", None)
        seed += int(ops.convert_to_numpy(self.optimizer.iterations))  # another order each time
        return data.Batches(x, y, weights, batch_size, seed, shuffle)

    def _stop_at(self, *steps):
        """One step an execution where the number of steps is given: Keras runs whole ones."""
        if any(steps) and getattr(self, "_chosen_execution", False):
            if self.steps_per_execution > 1:
                self.steps_per_execution = 1
                self.train_function = self.test_function = self.predict_function = None

    def _check_arguments(self, x, y, sample_weight):
        if sample_weight is not None and y is None:
            raise ValueError(
                "`sample_weight` needs `y`: Keras drops weights that come without it. Pass labels, "
                "of any value where the model takes none, or a dataset of (x, y, w)."
            )
        self.check_data(x)

    # === Saving ===

    def save(self, filepath, overwrite=True, **kwargs):
        """Keras's `save`, but whole or not at all: half a file never replaces a good one."""
        path = pathlib.Path(filepath)
        if path.suffix != ".keras":
            raise ValueError(f"`filepath` must end in .keras. Received: {filepath}")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; pass overwrite=True to replace it.")
        partial = path.with_name(f".{path.stem}.{os.getpid()}.keras")
        try:
            super().save(partial, **kwargs)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def get_config(self):
        config = {"seed": self.seed, "skip_threshold": self.skip_threshold}
        return {**super().get_config(), **config}

    def get_compile_config(self):
        if not self.compiled:
            return None
        if not self.optimizer.built:  # what is loaded has a built one, whose file must fit it
            self.optimizer.build(self.trainable_variables)
        # How a step is compiled is the business of the backend that runs it, not of the file.
        return _portable({"optimizer": super().get_compile_config()["optimizer"]})

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(_portable(config)["optimizer"]))
        self.optimizer.build(self.trainable_variables)

    def _noise_states(self):
        return [v for v in self.variables if v.path.endswith("seed_generator_state")]

    def save_own_variables(self, store):
        super().save_own_variables(store)
        states = [ops.convert_to_numpy(v) for v in self._noise_states()]
        store["noise"] = np.stack(states).astype("int64")  # Keras leaves it out

    def load_own_variables(self, store):
        store = {key: store[key] for key in store.keys()}
        states = np.asarray(store.pop("noise", []))
        super().load_own_variables(store)
        for variable, state in zip(self._noise_states(), states):
            variable.assign(state)


def _portable(config):
    """A compile config for any backend: PyTorch's own optimizer classes become Keras's."""
    if not isinstance(config, dict):
        return config
    config = {key: _portable(value) for key, value in config.items()}
    module = str(config.get("module"))
    if module.startswith("keras.src.backend.") and ".optimizers." in module:
        config.update(module="keras.optimizers", registered_name=None)
    return config


def _as_list(callbacks):
    return (
        list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks] * bool(callbacks)
    )


class _StatelessNoise(keras.random.SeedGenerator):
    """Seeds that are functions of (seed, counter, number of draws so far); holds no variable."""

    def __init__(self, seed, counter, dtype):
        # 4096 draws of one objective before two counters meet.
        self.base = [ops.cast(seed, dtype), ops.cast(ops.cast(counter, "int32") * 4096, dtype)]
        self.draws, self.dtype = 0, dtype

    def next(self, ordered=True):
        self.draws += 1
        return ops.stack([self.base[0], self.base[1] + ops.cast(self.draws, self.dtype)])


class Means(keras.metrics.Metric):
    """Weighted means over all examples of several named terms, and the number of skipped updates.

    One metric with one state vector instead of one metric a term: a step costs less.
    """

    def __init__(self, names):
        super().__init__(name="means", dtype="float32")
        self.names = tuple(names)
        # Equal on all replicas, so that the first one speaks for all.
        state = {"initializer": "zeros", "aggregation": "only_first_replica"}
        self.totals = self.add_variable((len(self.names),), name="totals", **state)
        self.weight = self.add_variable((), name="weight", **state)
        self.skipped = self.add_variable((), name="skipped", **state)

    def update_state(self, outputs, weights, accepted=True):
        accepted = ops.cast(accepted, "float32")
        weights = weights * accepted
        terms = ops.stack([outputs[name] for name in self.names])
        # A refused batch may hold NaN, which 0 would not silence.
        terms = ops.where(weights > 0, terms, 0.0)
        sums = ops.sum(weights * terms, axis=1), ops.sum(weights)
        total, weight = backend.replica_sum(list(sums))
        self.totals.assign_add(total)
        self.weight.assign_add(weight)
        self.skipped.assign_add(1.0 - accepted)

    def result(self):
        means = self.totals / self.weight
        return {**dict(zip(self.names, ops.unstack(means))), "skipped": self.skipped * 1.0}


class GiveUpWhenAllSkipped(keras.callbacks.Callback):
    """Ends training with a clear error when the last `PATIENCE` updates were all skipped.

    Looks at the logs at doubling batch numbers and at the end of an epoch only. `async_safe` lets
    Keras hand it the logs from another thread, in whatever order, while the next step runs.
    """

    async_safe = True

    def on_train_begin(self, logs=None):
        self.before = 0  # updates skipped in a row when the epoch began
        # Read here: on JAX `self.model` would put the state back, under a step that is running.
        self.threshold = self.model.skip_threshold

    def on_epoch_begin(self, epoch, logs=None):
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        # With several steps an execution Keras counts the last one as full.
        steps = min(batch + 1, self.params.get("steps") or batch + 1)
        self.steps = max(self.steps, steps)
        if steps >= PATIENCE and steps & (steps - 1) == 0:
            self._check(logs, steps)

    def on_epoch_end(self, epoch, logs=None):
        skipped_all = self._check(logs, self.steps)
        self.before = self.before + self.steps if skipped_all else 0

    def _check(self, logs, steps):
        skipped_all = float(logs["skipped"]) >= steps > 0
        in_a_row = self.before + steps
        if skipped_all and in_a_row >= PATIENCE:
            raise RuntimeError(
                f"The last {in_a_row} updates were all skipped: the gradient is not finite, or its "
                f"norm is above skip_threshold={self.threshold}. Look for NaN in the "
                "data, lower the learning rate, or raise the threshold."
            )
        return skipped_all


def _assign_all(new, old, leave_out=()):
    """Gives one object's variables the values of another's."""
    pairs = [[v for v in part.variables if id(v) not in leave_out] for part in (new, old)]
    for variable, value in zip(*pairs, strict=True):
        variable.assign(value)


def serialized(part):
    """The config of a part of a model; without its optimizer, if it was trained on its own."""
    config = keras.saving.serialize_keras_object(part)
    config.pop("compile_config", None)
    return config


def _each(function, *latents):
    """`function` of arrays, or of each of the groups of latents that tuples hold."""
    if not isinstance(latents[0], tuple):
        return function(*latents)
    return tuple(function(*group) for group in zip(*latents, strict=True))


class LatentModel(Trainable):
    """A `Trainable` with `encoder` and `decoder`, two Keras models, over images.

    `infer(x)` and `generate(z)` are what families write: latents of images and images of latents,
    as tensors, inside a graph. `encode`, `decode` and `interpolate` run them over NumPy arrays of
    any length, compiled, batch by batch.
    """

    latent_dtype = "float32"

    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = restore(encoder), restore(decoder)
        self.image_shape = tuple(self.encoder.input_shape[1:])
        self.latent_shape = tuple(self.decoder.input_shape[1:])

    def infer(self, x):
        """Images (batch, *image_shape) in [0, 1] -> latents (batch, *latent_shape)."""
        raise NotImplementedError

    def generate(self, z):
        """Latents (batch, *latent_shape) -> images (batch, *image_shape)."""
        raise NotImplementedError

    def call(self, x):
        return self.generate(self.infer(self.images(x)))

    def images(self, x):
        """float32 images in [0, 1] from float, bool or uint8 ones (0..255).

        Raises:
            ValueError: if the shape or the type is wrong.
        """
        if self._check_images(x) == "uint8":
            return ops.cast(x, "float32") / 255.0
        return ops.cast(x, "float32")

    def _check_images(self, x):
        shape, dtype = tuple(x.shape), keras.backend.standardize_dtype(x.dtype)
        if len(shape) != 4 or shape[1:] != self.image_shape:
            raise ValueError(
                f"{type(self).__name__} takes images of shape (batch, *{self.image_shape}). "
                f"Received: shape={shape}"
            )
        if not (dtype in ("uint8", "bool") or "float" in dtype):
            raise ValueError(
                f"Images must be uint8 in 0..255 or float in [0, 1]. Received: dtype={dtype}"
            )
        return dtype

    def prepare(self, x):
        return self.images(x)

    def check_data(self, x):
        if isinstance(x, np.ndarray):
            self._check_images(x)
            if x.dtype.kind == "f" and ((x < 0).any() or (x > 1).any()):
                raise ValueError(
                    "Float images must lie in [0, 1] (divide by 255, or pass uint8). "
                    f"Received: values in [{np.nanmin(x):g}, {np.nanmax(x):g}]"
                )

    def encode(self, x, batch_size=256):
        """Latents of images: NumPy (n, *image_shape) -> NumPy (n, *latent_shape), the posterior
        means where the posterior has one; a tuple of such arrays where there are several groups of
        latents, and `latent_shape` a tuple of their shapes."""
        return self.run("infer", lambda x: self.infer(self.images(x)), x, batch_size=batch_size)

    def decode(self, z, batch_size=256):
        """Images of latents, as `encode` returns them: NumPy (n, *image_shape) in [0, 1].

        Raises:
            ValueError: if the shape is wrong.
        """
        z = _each(lambda part: np.asarray(part, self.latent_dtype), z)
        if _each(lambda part: part.shape[1:], z) != self.latent_shape:
            raise ValueError(
                f"{type(self).__name__} takes latents of shape {self.latent_shape}, n of them. "
                f"Received: shape={_each(np.shape, z)}"
            )
        return self.run("generate", self.generate, z, batch_size=batch_size)

    def interpolate(self, start, end, steps=10):
        """Images on the straight lines between the latents of two sets of images.

        Args:
            start, end: images (n, *image_shape).
            steps: int, images on a line, both ends included.

        Returns:
            NumPy (n, steps, *image_shape).
        """
        return self._images_between(self.encode(start), self.encode(end), steps, self.decode)

    def _images_between(self, first, last, steps, decode):
        """Images that `decode` makes of the straight lines between NumPy points (n, ...), or
        between tuples of such."""

        def lines(first, last):
            point = first.shape[1:]
            t = np.linspace(0, 1, steps, dtype="float32").reshape(1, steps, *[1] * len(point))
            return ((1 - t) * first[:, None] + t * last[:, None]).reshape(-1, *point)

        images = decode(_each(lines, first, last))
        return images.reshape(-1, steps, *self.image_shape)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        config = {"encoder": serialize(self.encoder), "decoder": serialize(self.decoder)}
        return {**super().get_config(), **config}


class BaseVAE(LatentModel):
    """A `LatentModel` with a likelihood p(x|z), a prior p(z) and a bound on log p(x).

    Families set `self.likelihood` and `self.prior` in `__init__`, and write `log_weights`,
    `likelihood_parameters(z)` (of latents) and `objective`. The objective returns "reconstruction",
    "kl" and "elbo" = -reconstruction - kl; with `training=False` its loss is -elbo, whatever it
    trains on. A tighter bound is a term of its own, and `monitor` may name it.
    """

    monitor = "elbo"  # of the logged terms, the one whose best validation epoch is kept

    def log_weights(self, x, y=None, num_samples=1, training=False):
        """log p(x, z) - log q(z|x) of `num_samples` reparametrised draws z ~ q(z|x).

        Args:
            x: float32 (batch, *image_shape), as `prepare` returns it.
            y: labels or None.
            num_samples: int.
            training: True where it is part of a training loss (dropout, a variance being fitted).

        Returns:
            float32 (num_samples, batch), nats.
        """
        raise NotImplementedError

    def prepare(self, x):
        """Images as the likelihood sees them: grey levels become bits for a Bernoulli one."""
        x = self.images(x)
        if self.likelihood.binary:  # changes nothing on 0/1 data
            x = ops.cast(self.draw(ops.shape(x), "uniform") < x, "float32")
        return x

    def log_likelihood(self, x, y=None, num_samples=1000, batch_size=None, seed=0, progress=None):
        """Importance-weighted bound on log p(x), which grows to log p(x) with `num_samples` = k.

        L_k = log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x)

        Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519, eq. 8. Computed in chunks of 50
        samples; the log-sum-exp is taken in float32 within a chunk, in float64 over chunks. Within
        `vae_zoo.distribute.data_parallel` devices share the images, and all processes must call it.

        Args:
            x: images (n, *image_shape); grey levels become bits once where the likelihood is
                Bernoulli (fixed test bits are better: they can be named).
            y: labels or None.
            num_samples: int, k.
            batch_size: int, images at a time on each device; None takes 50, and 10 where latents
                are grids, since layers of 50 samples of each are held in memory.
            seed: int; equal seeds give equal numbers.
            progress: wraps the iterable of batches, `tqdm.tqdm` say.

        Returns:
            NumPy float64 (n,), nats.
        """
        if num_samples < 1:
            raise ValueError(f"`num_samples` must be at least 1. Received: {num_samples}")
        chunks = [min(50, num_samples - start) for start in range(0, num_samples, 50)]
        x = np.asarray(x)
        self.check_data(x)
        arrays = [x] if y is None else [x, np.asarray(y)]
        if batch_size is None:  # of a grid, latent_shape holds (height, width, channels)
            batch_size = 50 if max(map(np.size, self.latent_shape)) == 1 else 10
        devices = backend.devices()[0]
        size = devices * min(batch_size, -(-len(x) // devices))
        batches = range(0, len(x), size)
        bounds = []
        for start in batches if progress is None else progress(batches):
            # The last batch is filled up by repetition: one shape, compiled once.
            rows = np.minimum(np.arange(start, start + size), len(x) - 1)
            parts = [a[rows] for a in arrays]
            prepare = self._compiled("prepare", self.prepare, noisy=True)
            parts[0] = prepare(np.int32(seed), np.int32(start), parts[0])
            sums = [
                self._log_sum(k, devices > 1)(
                    np.int32(seed + 1), np.int32(start // size * len(chunks) + i), *parts
                )
                for i, k in enumerate(chunks)
            ]
            bounds.append(np.logaddexp.reduce(np.float64(sums), axis=0) - np.log(num_samples))
        return np.concatenate(bounds)[: len(x)]

    def _log_sum(self, num_samples, dealt):
        """log sum_i p(x, z_i) / q(z_i|x), compiled; see `backend.compiled`."""

        def log_sum(x, y=None):
            return ops.logsumexp(self.log_weights(x, y, num_samples), axis=0)

        return self._compiled(f"log_sum_{num_samples}", log_sum, noisy=True, dealt=dealt)

    def update_state(self, outputs, weights, training):
        """Fits a likelihood's variance; what the objective returns while training then holds `x`
        and `parameters` too."""
        if training and self.likelihood.fitted:
            self.likelihood.update(outputs["x"], outputs["parameters"], weights)

    def sample_latents(self, n, seed=0):
        """n latents from the prior, as `encode` returns them: NumPy (n, *latent_shape)."""
        return _each(ops.convert_to_numpy, self.prior.sample(n, seed=noise_source(seed)))

    def sample(self, n, seed=None, pixels=False, batch_size=256, **of_latents):
        """New images: z ~ p(z), then the mean of p(x|z).

        Args:
            n: int.
            seed: int; None draws one.
            pixels: True draws x ~ p(x|z) instead of taking its mean.
            batch_size: int, images at a time.
            **of_latents: what the family's `sample_latents` takes.

        Returns:
            NumPy float32 (n, *image_shape) in data space.
        """
        seed = int(np.random.randint(2**31 - 1) if seed is None else seed % (2**31 - 1))
        z = self.sample_latents(n, seed, **of_latents)
        if not pixels:
            return self.decode(z, batch_size)

        def draw_pixels(z):
            parameters = self.likelihood_parameters(z)
            return self.likelihood.sample(parameters, self.image_shape[-1], self.draw)

        return self.run("pixels", draw_pixels, z, batch_size=batch_size, seed=seed)

    def with_prior(self, prior):
        """A new model, equal but for its prior; one `.keras` file holds both.

        Args:
            prior: anything with `log_prob(z)` and `sample(n, seed=…)`, serialisable by Keras; None
                for the family's own. The new model has a copy of it, whose weights are frozen.
        """
        if prior is not None:
            copy = type(prior).from_config(prior.get_config())
            _assign_all(copy, prior)
            copy.trainable, prior = False, copy
        new = type(self).from_config({**self.get_config(), "prior": prior})
        of_priors = {id(v) for model in (self, new) for v in getattr(model.prior, "variables", ())}
        _assign_all(new, self, leave_out=of_priors)
        backend.own_buffers(new.variables)  # or training the one would take them from the other
        return new
