"""Trainable: what a model family writes, and the one step that trains it on three engines."""

import functools

import keras
import numpy as np
from keras import ops

from vae_zoo.engine import BACKEND, adam, backend, replicas
from vae_zoo.engine.batches import Batches, counted
from vae_zoo.engine.functions import NoisyModel
from vae_zoo.engine.recording import Recordings
from vae_zoo.engine.tracking import GiveUpWhenAllSkipped, TermMeans

EVALUATION_SEED = 1_000_003  # evaluation draws the same noise each time, so that it is repeatable


class Trainable(NoisyModel):
    """A model trained by minimising `objective(x, y, training)["loss"]`.

    A family writes `__init__` (every weight exists when it returns), `call`, `objective`, and
    `update_state` where it has state that no gradient trains.

    One step: objective, gradient, norm, then the update (clipped by the optimizer's
    `global_clipnorm`), or none where the gradient is not finite or its norm is above
    `skip_threshold`; then `update_state` and the metrics, under the same condition. A skipped step
    changes no variable but the noise state and the count `skipped` in the logs.

    Args:
        seed: int, of all noise; None draws one. Initial weights follow
            `keras.utils.set_random_seed`.
        skip_threshold: float, norm of the gradient (unscaled, before clipping) above which an
            update is skipped; None skips only what is not finite.
        logged: names of the terms that `objective` returns beside "loss", where they depend on the
            configuration; None for those of the class.
    """

    logged = ()
    assigned = ()  # trainable variables that `update_state` assigns too
    monitor = "loss"  # the term whose best validation epoch is kept; a bound, unless it is the loss
    domain = None  # of x, a `Domain`; None where the family has none
    condition = None  # of y, a `Domain`; None where no labels are taken
    sees_bits = False  # True: held-out data are black and white, drawn once from the grey levels

    def __init__(self, seed=None, skip_threshold=None, logged=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.built = True  # a family creates every weight in its __init__
        if skip_threshold is not None and not skip_threshold > 0:
            raise ValueError(f"`skip_threshold` must be positive. Received: {skip_threshold}")
        self.skip_threshold = skip_threshold
        self.logged = self.logged if logged is None else tuple(logged)
        self.tracker = TermMeans(("loss", *self.logged))

    def objective(self, x, y=None, training=False):
        """What is minimised, and what is logged.

        Args:
            x, y: one batch, as `prepare` and `prepare_labels` return it; `y` is None without
                labels.
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
        return x if self.domain is None else self.domain.tensor(x)

    def prepare_labels(self, y):
        """Labels as the user gave them -> labels as `objective` takes them."""
        return y

    def check_data(self, x):
        """Raises `ValueError` where an array given to the model cannot be right."""
        if self.domain is not None and isinstance(x, np.ndarray):
            self.domain.check(x)
            self.domain.check_values(x)

    def check_labels(self, y):
        """Labels as `objective` takes them, NumPy, None where the model takes none.

        Raises:
            ValueError: if they are missing, superfluous, of a wrong shape or type, or out of range.
        """
        if self.condition is None:
            if y is not None:
                raise ValueError(
                    f"This {type(self).__name__} takes no labels: `y` must be None. "
                    f"Received: y of shape {np.shape(y)}"
                )
            return None
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} needs labels: `y` must be {self.condition}. "
                "Received: y=None"
            )
        y = np.asarray(y)
        self.condition.check(y, "`y`")
        self.condition.check_values(y, "`y`")
        return y

    # === The step ===

    @backend.step(
        "trainable_variables",
        "non_trainable_variables",
        "optimizer.variables",
        "metrics_variables",
    )
    def train_step(self, data):
        x, y, weights = self._unpack(data)
        shares = weights / replicas.replica_sum(ops.sum(weights))  # of the whole batch
        optimizer, variables = self.optimizer, self.trainable_variables
        if not optimizer.built:  # a loss-scaling one has no scale before
            optimizer.build(variables)

        # The noise state moves on; everything else comes back after a bad batch.
        kept = [*self.non_trainable_weights, *self.assigned]
        with backend.unchanged_unless(None, kept) as state:
            outputs, gradients = backend.value_and_gradients(
                self._loss_and_outputs,
                (x, y, weights, shares),
                variables,
                [*self.non_trainable_variables, *optimizer.variables],
                self._recordings,
            )
            accepted = state.accept = self._update(replicas.replica_sum(gradients))
            self.update_state(outputs, weights, training=True)
        for metric in self.metrics:
            metric.update_state(outputs, weights, accepted)
        return replicas.as_keras_reduces(self.get_metrics_result())

    def _loss_and_outputs(self, x, y, weights, shares):
        self._now.weights, self._now.shares = weights, shares
        try:
            x, y = self.prepare(x), self.prepare_labels(y)
            outputs = self._checked(self.objective(x, y, training=True))
        finally:
            self._now.weights = self._now.shares = None
        outputs["loss"] = outputs["loss"] + sum(self.losses)  # regularisers of the layers
        return self.optimizer.scale_loss(ops.sum(shares * outputs["loss"])), outputs

    def players(self):
        """Lists of variables that are clipped and accepted apart; together all trainable ones.

        With more than one, compile with `keras.optimizers.MultiOptimizer`, an optimizer each.
        """
        return [self.trainable_variables]

    def _update(self, gradients):
        """Updates each player's variables, or leaves them as they are; True where none was left."""
        of = dict(zip(map(id, self.trainable_variables), gradients))
        accepted = []
        for optimizer, variables in backend.optimizers_of(self.optimizer, self.players()):
            own = [of[id(v)] for v in variables]
            scaled = backend.is_loss_scaling(optimizer)
            norm = backend.global_norm(own) / (optimizer.dynamic_scale if scaled else 1.0)
            finite = ops.isfinite(norm)
            small = True if self.skip_threshold is None else norm <= self.skip_threshold
            accepted.append(ops.logical_and(finite, small))
            # A loss-scaling optimizer must see every overflow, or its scale would never fall.
            apply = ops.logical_or(small, ops.logical_not(finite)) if scaled else accepted[-1]
            backend.apply_gradients(optimizer, own, variables, apply)
        if len(accepted) > 1:  # whose own count `MultiOptimizer` leaves to its `apply`
            self.optimizer.iterations.assign_add(1)
        return functools.reduce(ops.logical_and, accepted)

    def batch_mean(self, terms):
        """Weighted mean over the examples of a training batch, on all replicas, without a gradient.

        What couples examples often needs no more: max(mean, floor) has the gradient of the batch's
        mean of `where(mean > floor, terms, floor)`.

        Args:
            terms: float32 (batch, ...).
        """
        shares = self._now.shares
        if shares is None:  # an objective called on its own
            return ops.stop_gradient(ops.mean(terms, axis=0))
        terms = ops.reshape(shares, (-1, *[1] * (len(terms.shape) - 1))) * terms
        return ops.stop_gradient(replicas.replica_sum(ops.sum(terms, axis=0)))

    def whole_batch(self, terms):
        """What couples examples sees: `terms` (batch, ...) of all replicas, with their gradient,
        and the sample weights of the same rows, 0 for those that do not count.

        Returns:
            terms (whole batch, ...), weights float32 (whole batch,).
        """
        weights = self._now.weights
        if weights is None:  # an objective called on its own
            return terms, ops.ones(ops.shape(terms)[:1])
        return replicas.whole_batch(terms), replicas.whole_batch(weights)

    def without_training(self, variables):
        """Context in which `variables` are constants, for a term that must not train them."""
        return backend.constant(variables, self.variables)

    @backend.step("trainable_variables", "non_trainable_variables", "metrics_variables")
    def test_step(self, data):
        x, y, weights = self._unpack(data)
        # The number of examples seen so far makes the noise of each batch its own.
        with self.noise_from(EVALUATION_SEED, self.tracker.weight):
            x, y = self.prepare(x), self.prepare_labels(y)
            outputs = self._checked(self.objective(x, y, training=False))
        self.update_state(outputs, weights, training=False)
        for metric in self.metrics:
            metric.update_state(outputs, weights)
        logs = self.get_metrics_result()
        del logs["skipped"]
        return replicas.as_keras_reduces(logs)

    def predict_step(self, *args):
        *state, data = args  # JAX's comes first
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        pair = self.condition is not None and y is not None  # of a data set; Keras drops y
        return super().predict_step(*state, ((x, y) if pair else x,))

    def _unpack(self, data):
        data = keras.tree.map_structure(ops.convert_to_tensor, data, none_is_leaf=False)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None and tuple(getattr(y, "shape", ())[1:]) == (0,):
            y = None  # see `Batches`
        if weights is None:
            return x, y, ops.ones(ops.shape(keras.tree.flatten(x)[0])[:1])
        weights = ops.cast(weights, "float32")
        return *keras.tree.map_structure(lambda rows: counted(rows, weights), (x, y)), weights

    def _checked(self, outputs):
        missing = set(self.tracker.names) - set(outputs)
        if missing:
            raise ValueError(
                f"{type(self).__name__}.objective() must return {sorted(self.tracker.names)}. "
                f"Missing: {sorted(missing)}"
            )
        return dict(outputs)

    @property
    def metrics(self):
        """`self.tracker`, and metrics of a whole set where a family has some: `SetMetric`s."""
        return [self.tracker]

    def get_metrics_result(self):
        logs = {}
        for metric in self.metrics:
            logs |= metric.result()
        return logs

    def _flatten_metrics_in_order(self, logs):
        # Of a list, `evaluate` without `return_dict` say, the loss is the first.
        first = [name for name in (*self.tracker.names, "skipped") if name in logs]
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
            one = run_eagerly or replicas.devices()[0] > 1
            steps_per_execution = 1 if one else backend.STEPS_PER_EXECUTION
        elif BACKEND == "tensorflow" and steps_per_execution > 1 < replicas.devices()[0]:
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
        backend.optimizers_of(self.optimizer, self.players())  # refuses what cannot train them
        adam.accelerate(self.optimizer)
        # Not by attribute assignment: Keras would track it as the model's own state.
        eager = run_eagerly or self.jit_compile
        self.__dict__["_recordings"] = None if eager else Recordings(self)

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
        if isinstance(kwargs.get("validation_data"), tuple):
            held_out = (*kwargs["validation_data"], None)[:2]
            self._check_arguments(*held_out, None)
        self._stop_at(kwargs.get("steps_per_epoch"), kwargs.get("validation_steps"))
        if self.compiled and replicas.devices()[0] > 1:
            self.optimizer.build(self.trainable_variables)
            replicas.share_from_first([*self.variables, *self.optimizer.variables])
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
        if replicas.devices()[0] > 1 and isinstance(x, np.ndarray):
            x = Batches(x, y, sample_weight, batch_size or 32, shuffle=False)
            y = sample_weight = None
        if self.compiled:
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
        self.compile("sgd")
        try:
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
        finally:
            self.compiled, self.optimizer = False, None

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Keras's `predict`: what `call` returns; of a conditional model x is a pair (x, y)."""
        self._stop_at(steps)
        if replicas.devices()[0] > 1 and isinstance(x, np.ndarray):
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
            kwargs["validation_data"] = Batches(*held_out, batches, shuffle=False)
        if not isinstance(x, np.ndarray):
            return x
        shuffle, weights = kwargs.pop("shuffle", True), kwargs.pop("sample_weight", None)
        seed += int(ops.convert_to_numpy(self.optimizer.iterations))  # another order each time
        return Batches(x, y, weights, batch_size, seed, shuffle)

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
        if self.condition is not None and isinstance(x, np.ndarray):
            self.check_labels(y)


def _as_list(callbacks):
    return (
        list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks] * bool(callbacks)
    )
