"""Keras's `compile`, `fit`, `evaluate` and `predict`; what enters is checked, at every entrance."""

import contextlib

import keras
import numpy as np
from keras import ops

from vae_zoo import quiet
from vae_zoo.engine import BACKEND, adam, backend, checks, replicas
from vae_zoo.engine.batches import Batches
from vae_zoo.engine.functions import NoisyModel
from vae_zoo.engine.interrupts import alive, interruptible
from vae_zoo.engine.recording import Recordings
from vae_zoo.engine.tracking import GiveUpWhenAllSkipped


class FittedModel(NoisyModel):
    """A model that Keras trains and evaluates on data of its `domain`, with labels of its
    `condition`. Arrays and tensors are checked whole, of streams the first batch is."""

    domain = None  # of x, a `Domain`; None where the family has none
    condition = None  # of y, a `Domain`; None where no labels are taken
    sees_bits = False  # True: held-out data are black and white, drawn once from the grey levels

    # === Checks ===

    def check_data(self, x, what="`x`", skipped=False):
        """x as NumPy, checked: all examples at once, as an array or a tensor of any engine.

        Args:
            x, what: the data, and their name.
            skipped: True where a step passes over NaN, and counts it; as bits it would be lost.

        Raises:
            ValueError: in one line, if it cannot be right.
        """
        x = checks.array_of(x)
        if self.domain is None:
            return x
        self.domain.check(x, what)
        if isinstance(x, np.ndarray):
            if len(x) == 0:
                raise ValueError(f"At least one example is needed. {what} is an empty array")
            self.domain.check_values(x, what)
            if (self.sees_bits or not skipped) and checks.holds_nan(x):
                raise ValueError(f"{what} must be {self.domain}. Received: NaN in it")
        return x

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
        y = np.asarray(checks.array_of(y))
        self.condition.check(y, "`y`")
        self.condition.check_values(y, "`y`")
        return y

    def _check_batch(self, batch, skipped=True):
        """One batch of a data set; superfluous labels need not be stripped of one. `skipped` is as
        of `check_data`."""
        x, y, _ = checks.parts(batch)
        if self.condition is not None and y is None and isinstance(x, (tuple, list)):
            x, y = (*x, None)[:2]  # the pair that `call` takes
        self.check_data(x, skipped=skipped)
        if self.condition is not None:
            self.check_labels(y)

    @contextlib.contextmanager
    def _checking(self, *sources, skipped=True):
        """Context with the sources, pairs (x, y), checked; of a stream the first batch is, when it
        is read. What is yielded replaces the x of each. `skipped` is as of `check_data`."""
        refused = []

        def look(batch):
            try:
                self._check_batch(batch)
            except ValueError as error:
                refused.append(error)
                raise

        shapes = [getattr(domain, "shape", None) for domain in (self.domain, self.condition)]
        checked = []
        for x, y in sources:
            if checks.is_stream(x):
                x = checks.looked_at(x, look, shapes)
            else:
                self._check_batch((x, y), skipped)
            checked.append(x)
        optimizer = getattr(getattr(self, "optimizer", None), "variables", [])
        try:
            with alive(self, [*self.variables, *self.metrics_variables, *optimizer]):
                yield checked
        except Exception:
            if refused:  # as an engine's error, if the engine reads the stream
                raise refused[0] from None
            raise

    def __call__(self, *args, **kwargs):
        for x in keras.tree.flatten(args[:1]):
            if isinstance(x, np.ndarray):
                self._check_batch(args[:1])
                break
        return super().__call__(*args, **kwargs)

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
        # Refuses what cannot train them.
        for own, _ in backend.optimizers_of(self.optimizer, self.players()):
            checks.check_learning_rate(own)
        adam.accelerate(self.optimizer, compiled=self.jit_compile)
        # Not by attribute assignment: Keras would track it as the model's own state.
        eager = run_eagerly or self.jit_compile or self.loops
        self.__dict__["_recordings"] = None if eager else Recordings(self)

    def compile_anew(self):
        """Forgets what was compiled, also in the midst of `fit`; the next step compiles it."""
        self.__dict__.pop("_compiled_functions", None)
        if self.__dict__.get("_recordings") is not None:
            self.__dict__["_recordings"] = Recordings(self)
        for kind in ("train", "test", "predict"):
            if getattr(self, f"{kind}_function", None) is not None:
                getattr(self, f"make_{kind}_function")(force=True)

    def _check_frozen(self):
        """Raises `ValueError` where the optimizer was built for other variables than are trained:
        what was compiled would train them still."""
        built_for = {id(v) for v in getattr(self.optimizer, "_trainable_variables", ())}
        if built_for and built_for != {id(v) for v in self.trainable_variables}:
            raise ValueError(
                "What is frozen has changed since `compile`: call it again, or the optimizer would "
                "go on with what it was built for"
            )

    def fit(
        self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs
    ):
        """Keras's `fit`: `fit(x)`, with `y` where the family takes labels.

        Raises:
            ValueError: if data cannot be right, or `sample_weight` comes without `y` (Keras would
                drop it).
            RuntimeError: if no update is made for long, since every gradient is refused.
        """
        _check_weights(y, kwargs.get("sample_weight"))
        if self.compiled:
            self._check_frozen()
        sources, held_out = [(x, y)], kwargs.get("validation_data")
        arrays = isinstance(held_out, (tuple, list))  # or a data set, or none
        if held_out is not None:
            sources.append((*held_out, None)[:2] if arrays else (held_out, None))
        with self._checking(*sources) as (x, *checked):
            if checked and not arrays:
                kwargs["validation_data"] = checked[0]
            self._stop_at(kwargs.get("steps_per_epoch"), kwargs.get("validation_steps"))
            if self.compiled and replicas.devices()[0] > 1:
                self.optimizer.build(self.trainable_variables)
                replicas.share_from_first([*self.variables, *self.optimizer.variables])
                x, y = self._dealt_out(x, y, batch_size, kwargs), None
            if checks.is_stream(x):
                # It has an order of its own; Keras would deal its batches by the global seed, or
                # warn that it cannot.
                kwargs.setdefault("shuffle", False)
            with interruptible(callbacks, GiveUpWhenAllSkipped()) as callbacks:
                try:
                    return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)
                finally:
                    if self.compiled:
                        backend.own_buffers(self.optimizer.variables)

    def evaluate(
        self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs
    ):
        """Keras's `evaluate`; works on a model that was never compiled too."""
        _check_weights(y, sample_weight)
        # What `fit` evaluates it has checked.
        by_fit = isinstance(kwargs.get("callbacks"), keras.callbacks.CallbackList)
        weighed = sample_weight is not None  # a row of weight 0 may hold anything
        with self._checking(*([] if by_fit else [(x, y)]), skipped=weighed) as checked:
            x = checked[0] if checked else x
            self._stop_at(kwargs.get("steps"))
            if replicas.devices()[0] > 1 and isinstance(x, np.ndarray):
                x = Batches(x, y, sample_weight, batch_size or 32, shuffle=False)
                y = sample_weight = None
            compiled = self.compiled
            if not compiled:
                self.compile("sgd")
            try:
                with interruptible(kwargs.get("callbacks")) as kwargs["callbacks"]:
                    return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
            finally:
                if not compiled:
                    self.compiled, self.optimizer = False, None

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Keras's `predict`: what `call` returns; of a conditional model x is a pair (x, y)."""
        with self._checking((x, None), skipped=False) as (x,):
            self._stop_at(steps)
            parts = x if isinstance(x, tuple) else (x,)
            if replicas.devices()[0] > 1 and all(isinstance(part, np.ndarray) for part in parts):

                def call(*parts):
                    return self.call(parts if len(parts) > 1 else parts[0])

                return self.run("call", call, *parts, batch_size=batch_size or 32)
            with interruptible(callbacks) as callbacks:
                return super().predict(x, batch_size, verbose, steps, callbacks)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Keras's, with the data checked."""
        _check_weights(y, sample_weight)
        if self.compiled:
            self._check_frozen()
        self._check_batch((x, y))
        return super().train_on_batch(x, y, sample_weight, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Keras's, with the data checked."""
        _check_weights(y, sample_weight)
        self._check_batch((x, y))
        return super().test_on_batch(x, y, sample_weight, **kwargs)

    def predict_on_batch(self, x):
        """Keras's, with the data checked."""
        self._check_batch((x,))
        return super().predict_on_batch(x)

    def export(
        self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs
    ):
        """Keras's `export` of `call`, for any number of examples of the domain; images are floats
        in [0, 1] there.

        Raises:
            ValueError: on PyTorch, of which no TensorFlow SavedModel can be made.
        """
        if BACKEND == "torch" and format == "tf_saved_model":
            raise ValueError(
                "No SavedModel of TensorFlow can be made on PyTorch: load the file on another "
                'backend, or pass format="torch" or "onnx"'
            )
        if input_signature is None and self.domain is not None:
            domains = [self.domain, *([] if self.condition is None else [self.condition])]
            specs = [keras.InputSpec(shape=(None, *d.shape), dtype=d.dtype) for d in domains]
            input_signature = specs if self.condition is None else [tuple(specs)]
        with quiet.exporting():
            super().export(filepath, format, verbose, input_signature, **kwargs)

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


def _check_weights(y, sample_weight):
    if sample_weight is not None and y is None:
        raise ValueError(
            "`sample_weight` needs `y`: Keras drops weights that come without it. Pass labels, "
            "of any value where the model takes none, or a dataset of (x, y, w)."
        )
