"""Trainable: what a model family writes, and the one step that trains it on three engines."""

import functools

import keras
from keras import ops

from vae_zoo.engine import backend, replicas
from vae_zoo.engine.batches import counted
from vae_zoo.engine.fitting import FittedModel
from vae_zoo.engine.tracking import TermMeans

EVALUATION_SEED = 1_000_003  # evaluation draws the same noise each time, so that it is repeatable


def check_threshold(skip_threshold):
    if skip_threshold is not None and not skip_threshold > 0:
        raise ValueError(f"`skip_threshold` must be positive. Received: {skip_threshold}")


class Trainable(FittedModel):
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
    numbers = ()  # of `adjustable` those that a step only calculates with: see `number`
    adjustable = {"skip_threshold": check_threshold}
    monitor = "loss"  # the term whose best validation epoch is kept; a bound, unless it is the loss

    def __init__(self, seed=None, skip_threshold=None, logged=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.built = True  # a family creates every weight in its __init__
        self.skip_threshold = skip_threshold
        self.logged = self.logged if logged is None else tuple(logged)
        self.tracker = TermMeans(("loss", *self.logged), self.numbers)

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
                [*self.non_trainable_variables, *optimizer.variables, *self.tracker.numbers],
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

    def number(self, name):
        """One of `numbers`, float32 (), as it is when a step runs, not when it was compiled."""
        if name not in self.numbers:  # of a family that has it fixed
            return ops.convert_to_tensor(getattr(self, name), "float32")
        return ops.convert_to_tensor(self.tracker.numbers[self.numbers.index(name)])

    def adjusting(self, name, value):
        if name in self.numbers and not callable(value):
            backend.synchronize(self)
            self.tracker.numbers[self.numbers.index(name)].assign(value)
        else:  # what was compiled has read it
            self.compile_anew()

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
            return terms, ops.ones(ops.shape(terms)[:1], "float32")
        return replicas.whole_batch(terms), replicas.whole_batch(weights)

    def own_places(self, rows):
        """Where the rows of a tensor stand in the whole batch: int32 (batch,)."""
        size = ops.shape(rows)[0]
        if self._now.weights is None:
            return ops.arange(size, dtype="int32")
        return ops.cast(replicas.replica()[0] * size, "int32") + ops.arange(size, dtype="int32")

    def without_training(self, variables):
        """Context in which `variables` are constants, for a term that must not train them."""
        optimizer = self.optimizer.variables if self.compiled else []
        others = [*self.non_trainable_variables, *optimizer, *self.tracker.numbers]
        return backend.constant(variables, [*self.trainable_variables, *others])

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
        shape = getattr(y, "shape", ())
        if getattr(shape, "rank", 0) is not None and tuple(shape[1:]) == (0,):
            y = None  # see `Batches`
        if weights is None:
            return x, y, ops.ones(ops.shape(keras.tree.flatten(x)[0])[:1], "float32")
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
