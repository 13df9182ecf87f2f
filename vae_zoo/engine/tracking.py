"""What an epoch's logs are made of, and the end of a training in which nothing is learned."""

import keras
from keras import ops

from vae_zoo.engine.replicas import replica_sum

PATIENCE = 50  # updates skipped in a row after which training is given up


class SetMetric(keras.metrics.Metric):
    """A metric of all examples of an epoch or of a set: `update_state(outputs, weights, accepted)`
    takes what the objective returned, and `result()` is a dict.

    Its variables are equal on all replicas, so that the first one speaks for all, and are no part
    of a file.
    """

    def add(self, shape, name):
        """A variable of zeros, reset with the metric."""
        return self.add_variable(
            shape, "zeros", dtype="float32", aggregation="only_first_replica", name=name
        )

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


class TermMeans(SetMetric):
    """Weighted means over all examples of several named terms, and the number of skipped updates.

    One metric with one state vector instead of one metric a term: a step costs less.

    Args:
        names: of the terms.
        numbers: names of numbers that may be set while a model trains; see `Trainable.number`.
    """

    def __init__(self, names, numbers=()):
        super().__init__(name="terms", dtype="float32")
        self.names, self.number_names = tuple(names), tuple(numbers)
        self.totals = self.add((len(self.names),), "totals")
        self.weight = self.add((), "weight")
        self.skipped = self.add((), "skipped")
        # No part of the means: here since a step reads a metric's variables anew, on every engine.
        self.numbers = [self.add((), name) for name in self.number_names]

    def reset_state(self):
        for variable in (self.totals, self.weight, self.skipped):
            variable.assign(ops.zeros(variable.shape, "float32"))

    def update_state(self, outputs, weights, accepted=True):
        accepted = ops.cast(accepted, "float32")
        weights = weights * accepted
        terms = ops.stack([outputs[name] for name in self.names])
        # A refused batch may hold NaN, which 0 would not silence.
        terms = ops.where(weights > 0, terms, 0.0)
        sums = ops.sum(weights * terms, axis=1), ops.sum(weights)
        total, weight = replica_sum(list(sums))
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
