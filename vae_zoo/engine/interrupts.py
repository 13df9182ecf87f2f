"""Errors and interruptions in the midst of `fit`, which leave a model with its weights."""

import contextlib
import signal
import threading

import keras

from vae_zoo.engine import BACKEND, backend


@contextlib.contextmanager
def alive(model, variables):
    """Context of Keras's `fit`, `evaluate` and `predict`, of which the first step takes the arrays
    of all variables away (JAX): an error before it leaves them where they were, one between two
    steps puts back what the last one returned."""
    before = [(v, v._value) for v in variables] if BACKEND == "jax" else []
    try:
        yield
    except BaseException:
        backend.synchronize(model)
        for variable, value in before:
            if variable._value is None and value is not None and not value.is_deleted():
                variable.assign(value)
        raise


@contextlib.contextmanager
def interruptible(callbacks, *others):
    """Context of `fit`, `evaluate` and `predict` in which SIGINT and SIGTERM wait until a step has
    ended; a second one does not. Yields the callbacks to pass: these, the others and one that ends
    the waiting. A `CallbackList`, which is `fit`'s own, stays as it is, and nothing waits.

    On JAX a step takes the arrays of all variables and returns new ones: an exception between the
    two, as `KeyboardInterrupt` is, would leave a model without weights.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        yield callbacks
        return
    if not isinstance(callbacks, (list, tuple)):
        callbacks = [callbacks] * bool(callbacks)
    waiting = _Waiting()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # no signal arrives here
    for number in numbers:
        handler = signal.getsignal(number)
        if callable(handler):  # else the system ends the process, or the signal is ignored
            waiting.handlers[number] = handler
            signal.signal(number, waiting.hold)
    try:
        yield [*callbacks, *others, waiting]
        waiting.release()
    finally:
        for number, handler in waiting.handlers.items():
            if signal.getsignal(number) == waiting.hold:
                signal.signal(number, handler)


class _Waiting(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.handlers = {}  # number of a signal -> what handles it
        self.held = None  # the arguments of the one that waits

    def hold(self, number, frame):
        if self.held is not None:
            self.handlers[number](number, frame)
        self.held = number, frame

    def release(self):
        if self.held is not None:
            held, self.held = self.held, None
            self.handlers[held[0]](*held)

    def on_train_batch_begin(self, batch, logs=None):
        self.release()

    def on_test_batch_begin(self, batch, logs=None):
        self.release()

    def on_predict_batch_begin(self, batch, logs=None):
        self.release()

    def on_epoch_end(self, epoch, logs=None):
        self.release()
