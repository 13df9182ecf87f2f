"""The one file that knows which engine runs.

Everything else in `vae_zoo` is written once, in the stateful style (`variable.assign`,
`optimizer.apply`, `metric.update_state`). TensorFlow and PyTorch run that style as it is. JAX calls
`train_step(state, data)` under `jax.jit` and wants the new state back, so `stateful` replays the
same code inside a `keras.StatelessScope` that holds *every* variable and reads the new values out
of the scope.
"""

import keras
from keras import ops

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch
elif BACKEND == "jax":
    import jax
else:
    raise ImportError(
        f"vae_zoo trains on the Keras backends tensorflow, jax and torch. Received: {BACKEND}"
    )


def stateful(step, args, *groups):
    """Runs `step(data)` under the signature with which the engine calls it.

    Args:
        step: function of one batch that reads and assigns variables.
        args: what Keras passed: `(data,)`, or `(state, data)` on JAX.
        *groups: lists of variables, in the order of JAX's `state` tuple.

    Returns:
        `step(data)`; on JAX `(step(data), new_state)`.
    """
    if BACKEND != "jax":
        return step(*args)
    state, data = args
    pairs = [pair for group, values in zip(groups, state) for pair in zip(group, values)]
    with keras.StatelessScope(pairs) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)


def value_and_gradients(function, variables, others=()):
    """Differentiates `function() -> (scalar, outputs)` with respect to `variables`.

    Args:
        function: takes nothing; reads `variables` and may assign any of `others`.
        variables: list of `keras.Variable`.
        others: every other variable that `function` may read or assign (JAX needs them, since an
            inner scope does not see the values of the outer one).

    Returns:
        `(outputs, gradients)`: `outputs` cut from the graph; gradients dense, zeros for a variable
        that the scalar does not depend on.
    """
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            scalar, outputs = function()
        gradients = tape.gradient(scalar, [v.value for v in variables])
    elif BACKEND == "torch":
        scalar, outputs = function()
        # A variable used by no term (a frozen prior's, say) has no gradient: `allow_unused`.
        gradients = torch.autograd.grad(scalar, [v.value for v in variables], allow_unused=True)
    else:

        def pure(values):
            pairs = [*zip(variables, values), *((v, v.value) for v in others)]
            # `collect_losses`: or activity regularisers would get lost.
            with keras.StatelessScope(pairs, collect_losses=True) as scope:
                scalar, outputs = function()
            return scalar, (outputs, [scope.get_current_value(v) for v in others])

        differentiate = jax.value_and_grad(pure, has_aux=True)
        (_, (outputs, values)), gradients = differentiate([v.value for v in variables])
        for variable, value in zip(others, values):
            variable.assign(value)
    gradients = [
        ops.zeros(v.shape, v.dtype) if g is None else _dense(g)
        for g, v in zip(gradients, variables)
    ]
    return keras.tree.map_structure(ops.stop_gradient, outputs), gradients


def _dense(gradient):
    return tf.convert_to_tensor(gradient) if BACKEND == "tensorflow" else gradient


def global_norm(tensors):
    """sqrt of the sum of squares of all entries of a list of tensors: a float32 scalar."""
    if BACKEND == "torch":  # one fused call instead of three for each tensor
        norms = torch._foreach_norm([t.float() for t in tensors])
        return torch.linalg.vector_norm(torch.stack(norms))
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors))


def apply_gradients(optimizer, gradients, variables, accept):
    """`optimizer.apply`, or nothing at all where the boolean scalar `accept` is false.

    What is refused leaves the variables, the optimizer's slots and `iterations` as they were. The
    choice is made on the device; only PyTorch on a CPU looks at `accept`, where that costs nothing.
    """
    if BACKEND == "tensorflow":

        def update():
            _apply(optimizer, gradients, variables)
            return True

        tf.cond(accept, update, lambda: False)
    elif BACKEND == "torch" and _is_on_host(accept):
        if accept:
            _apply(optimizer, gradients, variables)
    else:
        everything = [*variables, *optimizer.variables]
        with unchanged_unless(accept, everything):
            _apply(optimizer, gradients, variables)


def _is_on_host(tensor):
    return tensor.device.type == "cpu"


def _apply(optimizer, gradients, variables):
    if BACKEND == "torch":
        with torch.no_grad():
            optimizer.apply(gradients, variables)
    elif BACKEND == "tensorflow":
        optimizer.apply(gradients, variables)
    else:
        weights, slots = optimizer.stateless_apply(
            [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
        )
        for variable, value in zip([*variables, *optimizer.variables], [*weights, *slots]):
            variable.assign(value)


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


def compiled(function, model):
    """Compiles `function(*arrays) -> tensor(s)` that reads `model`'s variables and assigns none.

    For what is not `fit`: log-likelihoods, sampling, encoding. JAX jits it over the mapped state,
    TensorFlow traces it, PyTorch runs it eagerly without a graph for gradients.

    Returns:
        A function of NumPy arrays (of equal shapes from call to call, else it compiles again) that
        returns NumPy arrays.
    """
    if BACKEND == "tensorflow":
        traced = tf.function(function, reduce_retracing=True)

        def run(*arrays):  # as tensors, or each new number would be traced anew
            return traced(*[tf.convert_to_tensor(a) for a in arrays])
    elif BACKEND == "torch":

        def run(*arrays):
            with torch.inference_mode():
                return function(*[ops.convert_to_tensor(a) for a in arrays])
    else:

        @jax.jit
        def pure(values, *arrays):
            with keras.StatelessScope(list(zip(model.variables, values))):
                return function(*arrays)

        def run(*arrays):
            return pure([v.value for v in model.variables], *arrays)

    return lambda *arrays: keras.tree.map_structure(ops.convert_to_numpy, run(*arrays))


def own_buffers(variables):
    """Gives each variable an array of its own.

    With `use_ema` Keras leaves weights and averages sharing arrays at the end of `fit`, and JAX's
    next `fit` would donate them twice.
    """
    if BACKEND == "jax":
        for variable in variables:
            variable.assign(jax.numpy.array(variable.value, copy=True))
