"""Gradients, updates and compiled functions on the engine that runs.

Everything outside of this wing is written once, in the stateful style (`variable.assign`,
`optimizer.apply`, `metric.update_state`). TensorFlow and PyTorch run that style as it is. JAX calls
`train_step(state, data)` under `jax.jit` and wants the new state back, so `stateful` replays the
same code inside a `keras.StatelessScope` that holds *every* variable and reads the new values out
of the scope.
"""

import contextlib
import functools
import logging
import operator
import os
import re
import subprocess
import sys

import keras
import numpy as np
from keras import ops

from vae_zoo.engine import BACKEND
from vae_zoo.engine.recording import description, pure_function, recorded, torch_gradients
from vae_zoo.engine.replicas import divided, gathered, own_rows, replica

if BACKEND == "tensorflow":
    import tensorflow as tf

    # Each of several models has a step of its own, which TensorFlow takes for one traced anew.
    retraced = re.compile(r"<function TensorFlowTrainer.* triggered tf\.function retracing")
    logging.getLogger("tensorflow").addFilter(
        lambda record: not retraced.search(record.getMessage())
    )
elif BACKEND == "torch":
    import torch
elif BACKEND == "jax":
    import jax

STEPS_PER_EXECUTION = 8 if BACKEND == "tensorflow" else 1  # a tenth of a small step there


def step(*groups):
    """Makes of a method `step(self, data)` one with the signature by which the engine calls it.

    Args:
        *groups: names of the model's lists of variables, in the order of JAX's `state` tuple.
    """
    if BACKEND != "jax":
        return lambda method: method

    def of_jax(method):
        @functools.wraps(method)
        def with_state(self, state, data):
            groups_of_self = [operator.attrgetter(group)(self) for group in groups]
            pairs = [
                pair for group, values in zip(groups_of_self, state) for pair in zip(group, values)
            ]
            with keras.StatelessScope(pairs) as scope:
                logs = method(self, data)
            new = [[scope.get_current_value(v) for v in group] for group in groups_of_self]
            return logs, tuple(new)

        return with_state

    return of_jax


def value_and_gradients(function, inputs, variables, others=(), recordings=None):
    """Differentiates `function(*inputs) -> (scalar, outputs)` with respect to `variables`.

    Args:
        function: reads `variables` and may assign any of `others`.
        inputs: list of tensors, None among them allowed.
        variables: list of `keras.Variable`.
        others: every other variable that `function` may read or assign (JAX needs them, since an
            inner scope does not see the values of the outer one).
        recordings: None, or the `Recordings` of the model whose function it is (PyTorch).

    Returns:
        `(outputs, gradients)`: `outputs` cut from the graph; gradients dense, zeros for a variable
        that the scalar does not depend on.
    """
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            scalar, outputs = function(*inputs)
        gradients = tape.gradient(scalar, [v.value for v in variables])
    elif BACKEND == "jax":
        differentiate = jax.value_and_grad(pure_function(function, variables, others), has_aux=True)
        (_, (outputs, values)), gradients = differentiate(
            [v.value for v in variables], [v.value for v in others], inputs
        )
        for variable, value in zip(others, values):
            variable.assign(value)
    elif recordings is not None and (play := recordings.of(function, inputs, variables, others)):
        return play(inputs)
    else:
        scalar, outputs = function(*inputs)
        gradients = torch_gradients(scalar, [v.value for v in variables])
    gradients = [
        ops.zeros(v.shape, v.dtype) if g is None else _dense(g, v)
        for g, v in zip(gradients, variables)
    ]
    return keras.tree.map_structure(ops.stop_gradient, outputs), gradients


def _dense(gradient, variable):
    if BACKEND == "tensorflow":
        gradient = tf.convert_to_tensor(gradient)
        gradient.set_shape(variable.shape)  # which a sum over replicas loses
    return gradient


def global_norm(tensors):
    """sqrt of the sum of squares of all entries of a list of tensors: a float32 scalar."""
    if BACKEND == "torch":  # one fused call instead of three for each tensor
        norms = torch._foreach_norm([t.float() for t in tensors])
        return torch.linalg.vector_norm(torch.stack(norms))
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors))


@contextlib.contextmanager
def constant(variables, everything):
    """Context in which `variables` are read without a gradient, and all else as it is.

    Args:
        variables: list of `keras.Variable`.
        everything: every variable that may be read or assigned inside: on JAX a nested scope does
            not see the values of the outer one.
    """
    fixed = {id(v) for v in variables}
    every = list({id(v): v for v in (*variables, *everything)}.values())
    old = [v.value for v in every]
    inside = [ops.stop_gradient(o) if id(v) in fixed else o for v, o in zip(every, old)]
    with keras.StatelessScope(list(zip(every, inside))) as scope:
        yield
    for variable, value in zip(every, inside):
        new = scope.get_current_value(variable)
        if new is not value:
            variable.assign(new)


def is_loss_scaling(optimizer):
    """Whether an optimizer scales the loss (float16), and so must see every overflow."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def optimizers_of(optimizer, players):
    """Pairs (optimizer, variables), one a player.

    Raises:
        ValueError: if there are several players, and not one optimizer of each.
    """
    if len(players) == 1:
        return [(optimizer, players[0])]
    several = getattr(optimizer, "optimizers", ())
    if not several:
        raise ValueError(
            f"{len(players)} players need keras.optimizers.MultiOptimizer, an optimizer of each, "
            f"and no loss scaling. Received: {type(optimizer).__name__}"
        )
    if not optimizer.built:
        optimizer.build([v for variables in players for v in variables])
    pairs = []
    for one in several:
        own = {id(v) for v in one._trainable_variables}
        whose = [variables for variables in players if own == {id(v) for v in variables}]
        if not whose:
            raise ValueError(
                f"{type(one).__name__} {one.name} trains {len(own)} variables, which are not those "
                "of one player: name the layers of each in the map of MultiOptimizer"
            )
        pairs.append((one, whose[0]))
    return pairs


def apply_gradients(optimizer, gradients, variables, accept):
    """`optimizer.apply`, or nothing at all where the boolean scalar `accept` is false.

    What is refused leaves the variables, the optimizer's slots and `iterations` as they were. The
    choice is made on the device; only PyTorch on a CPU looks at `accept`, where that costs nothing.
    """
    if BACKEND == "tensorflow" and replica()[1] > 1:  # whose updates cannot be in a branch
        with unchanged_unless(accept, [*variables, *optimizer.variables]):
            optimizer.apply(gradients, variables)
    elif BACKEND == "tensorflow":

        def update():
            optimizer.apply(gradients, variables)
            return True

        tf.cond(accept, update, lambda: False)
    elif BACKEND == "torch":
        with torch.no_grad():
            if _is_on_host(accept):
                if accept:
                    optimizer.apply(gradients, variables)
            else:
                with unchanged_unless(accept, [*variables, *optimizer.variables]):
                    optimizer.apply(gradients, variables)
    else:
        everything = [*variables, *optimizer.variables]
        old, n = [v.value for v in everything], len(variables)

        def update(values):
            weights, slots = optimizer.stateless_apply(values[n:], gradients, values[:n])
            return [*weights, *slots]

        if jax.default_backend() == "cpu":
            new = jax.lax.cond(accept, update, list, old)  # saves a pass over all slots
        else:  # on an accelerator a branch would wait for `accept`
            new = [ops.where(accept, a, b) for a, b in zip(update(old), old)]
        for variable, value in zip(everything, new):
            variable.assign(value)


def _is_on_host(tensor):
    return tensor.device.type == "cpu"


class unchanged_unless:
    """Context in which `variables` may be assigned; on leaving, the old values come back where the
    boolean scalar `accept` is false. `accept` may be set late: `context.accept = …`."""

    def __init__(self, accept, variables):
        self.accept, self.variables = accept, list(variables)

    def __enter__(self):
        # On PyTorch `value` is the storage itself, so it is copied.
        self.old = [v.value.clone() if BACKEND == "torch" else v.value for v in self.variables]
        if BACKEND == "tensorflow":
            self.old = [tf.identity(value) for value in self.old]
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            for variable, old in zip(self.variables, self.old):
                variable.assign(ops.where(self.accept, variable.value, old))


def compiled(function, model, noisy=False, loops=False, dealt=False):
    """Compiles `function(*arrays) -> tensor(s)` that reads `model`'s variables and assigns none.

    For what is not `fit`: log-likelihoods, sampling, encoding. JAX jits it over the mapped state,
    TensorFlow traces it, PyTorch plays back a recording (see `Recordings`).

    Args:
        function: of tensors.
        model: `Trainable`.
        noisy: True where `function` draws. What is returned then takes `seed` and `counter`, two
            ints, before the arrays; see `Trainable.noise_from`.
        loops: True where it has a long loop inside, which a recording would unroll: on PyTorch it
            then runs as it is.
        dealt: True where the first axis of all arrays and results is a batch that the devices can
            share evenly: each then computes its part. All processes must call it.

    Returns:
        A function of NumPy arrays (of equal shapes from call to call, else it compiles again) that
        returns NumPy arrays.
    """

    def with_noise(seed, counter, *arrays):
        with model.noise_from(seed, counter):
            return function(*arrays)

    whole = with_noise if noisy else function
    if BACKEND == "tensorflow":
        strategy = tf.distribute.get_strategy()

        def of_part(*arrays):
            return whole(*arrays[: 2 * noisy], *map(own_rows, arrays[2 * noisy :]))

        def on_replicas(*arrays):
            return strategy.run(of_part, arrays)

        # A partial: TensorFlow counts traces by code, and takes all that is compiled here for one
        # function that is traced too often.
        whole_batch = functools.partial(on_replicas if dealt else whole)
        # Without AutoGraph, as Keras traces its steps: nothing here branches on a tensor.
        traced = tf.function(whole_batch, autograph=False, reduce_retracing=True)

        def run(*arrays):  # as tensors, or each new number would be traced anew
            return traced(*[tf.convert_to_tensor(a) for a in arrays])
    elif BACKEND == "jax":

        @jax.jit
        def pure(values, *arrays):
            with keras.StatelessScope(list(zip(model.variables, values))):
                return whole(*arrays)

        def run(*arrays):
            return pure([v.value for v in model.variables], *arrays)
    else:
        players = {}

        def pure(values, *arrays):
            with keras.StatelessScope(list(zip(model.variables, values))):
                return function(*arrays)

        def run(*arrays):
            seeds, tensors = (
                arrays[: 2 * noisy],
                [ops.convert_to_tensor(a) for a in arrays[2 * noisy :]],
            )
            arguments = ([v.value for v in model.variables], *tensors)
            key = tuple(map(description, tensors))
            with torch.no_grad(), model.noise_from(*seeds) if noisy else contextlib.nullcontext():
                if key not in players:
                    recording = None if loops else recorded(pure, model, arguments)
                    players[key] = recording or pure
                return players[key](*arguments)

    def call(*arrays):
        if not dealt:
            return keras.tree.map_structure(ops.convert_to_numpy, run(*arrays))
        if BACKEND != "tensorflow":  # whose replicas take theirs inside
            part = divided if BACKEND == "jax" else own_rows
            arrays = *arrays[: 2 * noisy], *map(part, arrays[2 * noisy :])
        return keras.tree.map_structure(gathered, run(*arrays))

    return call


def run_on_tensorflow(code, *arguments, **environment):
    """Runs Python code on TensorFlow in a process of its own: PyTorch and TensorFlow must not meet
    in one, and no GPU memory is taken from the process that trains.

    Args:
        code: str, that finds `arguments` in `sys.argv[1:]` and imports as this process does.
        **environment: variables of the new process beside those of this one.

    Returns:
        `subprocess.CompletedProcess`, its output captured as text.
    """
    own = {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | own | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def accelerator():
    """The device other than a CPU that this process computes on, and its memory in bytes; or None.

    TensorFlow has none here: its datasets copy ahead, batch by batch.
    """
    if BACKEND == "jax":
        device = jax.devices()[0]
        memory = {} if device.platform == "cpu" else device.memory_stats() or {}
        return (device, memory["bytes_limit"]) if "bytes_limit" in memory else None
    if BACKEND == "torch" and torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_properties(0).total_memory
    return None


def on_device(array):
    """A NumPy array on the accelerator, where there is one and the array takes an eighth of its
    memory at most; else as it is."""
    found = accelerator()
    if found is None or not isinstance(array, np.ndarray) or array.nbytes > found[1] / 8:
        return array
    if BACKEND == "jax":
        return jax.device_put(array, found[0])
    return torch.from_numpy(np.ascontiguousarray(array)).to(found[0])


def own_buffers(variables):
    """Gives each variable an array of its own.

    JAX donates the arrays of what it trains. With `use_ema` Keras leaves weights and averages
    sharing them at the end of `fit`, and a variable assigned to another shares its array too.
    """
    if BACKEND == "jax":
        for variable in variables:
            if variable._value is not None:  # as after an error in the first step
                variable.assign(jax.numpy.array(variable.value, copy=True))


def synchronize(model):
    """Puts the variables of a model that trains back, on JAX: what is assigned then counts."""
    if BACKEND == "jax":
        model.jax_state_sync()
