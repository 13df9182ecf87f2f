"""The one file that knows which engine runs.

Everything else in `vae_zoo` is written once, in the stateful style (`variable.assign`,
`optimizer.apply`, `metric.update_state`). TensorFlow and PyTorch run that style as it is. JAX calls
`train_step(state, data)` under `jax.jit` and wants the new state back, so `stateful` replays the
same code inside a `keras.StatelessScope` that holds *every* variable and reads the new values out
of the scope.
"""

import contextlib
import functools
import math
import os
import subprocess
import sys

import keras
import numpy as np
from keras import ops
from keras.src.utils import module_utils

BACKEND = keras.config.backend()
STEPS_PER_EXECUTION = 8 if BACKEND == "tensorflow" else 1  # a tenth of a small step there

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


if BACKEND != "tensorflow" and "tensorflow" not in sys.modules:
    # Keras imports an installed TensorFlow on every backend, to seed it and to save a model. It
    # costs seconds, pages of log and, beside PyTorch, a process that may crash.
    module_utils.tensorflow._available = False


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
        differentiate = jax.value_and_grad(_pure(function, variables, others), has_aux=True)
        (_, (outputs, values)), gradients = differentiate(
            [v.value for v in variables], [v.value for v in others], inputs
        )
        for variable, value in zip(others, values):
            variable.assign(value)
    elif recordings is not None and (play := recordings.of(function, inputs, variables, others)):
        return play(inputs)
    else:
        scalar, outputs = function(*inputs)
        gradients = _torch_gradients(scalar, [v.value for v in variables])
    gradients = [
        ops.zeros(v.shape, v.dtype) if g is None else _dense(g)
        for g, v in zip(gradients, variables)
    ]
    return keras.tree.map_structure(ops.stop_gradient, outputs), gradients


def _pure(function, variables, others):
    """`function` of explicit values of its variables; returns the new values of `others` too."""

    def pure(values, other_values, inputs):
        pairs = [*zip(variables, values), *zip(others, other_values)]
        # `collect_losses`: or activity regularisers would get lost.
        with keras.StatelessScope(pairs, collect_losses=True) as scope:
            scalar, outputs = function(*inputs)
        return scalar, (outputs, [scope.get_current_value(v) for v in others])

    return pure


def _torch_gradients(scalar, values):
    # A variable used by no term (a frozen prior's, say) has no gradient: `allow_unused`.
    return torch.autograd.grad(scalar, values, allow_unused=True)


class Recordings:
    """On PyTorch, a function and its gradient as flat lists of tensor operations, one a shape.

    Keras's layers cost a third of a small step in Python. So the first call with inputs of new
    shapes is recorded, and later calls play it back: the same operations in the same order, and
    nothing between them. What reads a number on the host, as a dropout layer does its seed, cannot
    be recorded and runs layer by layer. As with a compiled function on the other backends, Python
    attributes are read once.

    Args:
        model: `Trainable`, whose `draw` makes all noise.
    """

    def __init__(self, model):
        self.model, self.players = model, {}

    def of(self, function, inputs, variables, others):
        """A function of `inputs` that does what `value_and_gradients` says, or None."""
        key = (*map(_description, inputs), *map(id, variables))
        if key not in self.players:
            self.players[key] = self._player(function, inputs, variables, others)
        return self.players[key]

    def _player(self, function, inputs, variables, others):
        pure, assigned = _pure(function, variables, others), []

        def differentiate(values, other_values, *inputs):
            with torch.enable_grad():
                values = [v.detach().requires_grad_() for v in values]
                scalar, (outputs, new) = pure(values, other_values, inputs)
                gradients = [
                    torch.zeros_like(v) if g is None else g
                    for g, v in zip(_torch_gradients(scalar, values), values)
                ]
            assigned[:] = [i for i, v in enumerate(new) if v is not other_values[i]]
            return outputs, gradients, [new[i] for i in assigned]

        def arguments(inputs):
            return [v.value for v in variables], [v.value for v in others], *inputs

        play = _recorded(differentiate, self.model, arguments(inputs))

        def assign_and_return(inputs):
            outputs, gradients, new = play(*arguments(inputs))
            for i, value in zip(assigned, new):
                others[i].assign(value)
            return outputs, gradients

        return play and assign_and_return


def _description(tensor):
    return None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)


def _recorded(function, model, arguments):
    """`function` as a flat list of operations (PyTorch); None if it cannot be recorded.

    `make_fx` runs it once and notes every operation. Noise is an argument of the recording, drawn
    by `model.draw` each time it is played.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # half a second, so not at import

    drawn = []

    def note(shape, distribution="normal", alike=False):
        drawn.append((tuple(shape), distribution, alike))
        return getattr(keras.random, distribution)(shape, seed=0)

    with torch.no_grad(), drawing(model, note):  # how many draws there are, of which shapes
        function(*arguments)

    def of_noise(noise, *arguments):
        noise = iter(noise)
        with drawing(model, lambda *_, **__: next(noise)):
            return function(*arguments)

    noise = [getattr(keras.random, kind)(shape, seed=0) for shape, kind, _ in drawn]
    try:
        with torch.no_grad():
            graph = _streamlined(make_fx(of_noise)(noise, *arguments))
    except RuntimeError:  # a value was asked for
        return None

    def play(*arguments):
        with torch.no_grad():
            return graph([model.draw(*one) for one in drawn], *arguments)

    return play


def _streamlined(graph):
    """A recorded graph, which never runs under autograd, without detaching and copying, and with
    each matrix product and its bias as one operation; as it is if it writes to a tensor."""
    aten = torch.ops.aten
    if any(
        getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in graph.graph.nodes
    ):
        return graph
    layout = lambda node: (node.meta["val"].shape, node.meta["val"].stride())  # noqa: E731
    for node in graph.graph.nodes:
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.clone.default:
            source = node.args[0]
            while source.target is aten.clone.default:  # to another layout and back
                source = source.args[0]
            if layout(source) == layout(node):
                node.replace_all_uses_with(source)
        elif node.target is aten.add.Tensor and not node.kwargs:
            product, bias = node.args
            once = getattr(product, "target", None) is aten.mm.default and len(product.users) == 1
            if once and isinstance(bias, torch.fx.Node) and bias.meta["val"].ndim == 1:
                node.target, node.args = aten.addmm.default, (bias, *product.args)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


@contextlib.contextmanager
def drawing(model, draw):
    """Context in which `model.draw` is the function `draw`."""
    before = model.__dict__.get("draw")
    model.__dict__["draw"] = draw
    try:
        yield
    finally:
        del model.__dict__["draw"]
        if before is not None:
            model.__dict__["draw"] = before


def _dense(gradient):
    return tf.convert_to_tensor(gradient) if BACKEND == "tensorflow" else gradient


def global_norm(tensors):
    """sqrt of the sum of squares of all entries of a list of tensors: a float32 scalar."""
    if BACKEND == "torch":  # one fused call instead of three for each tensor
        norms = torch._foreach_norm([t.float() for t in tensors])
        return torch.linalg.vector_norm(torch.stack(norms))
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors))


# === Replicas ===
#
# On TensorFlow and PyTorch a step that is spread over devices runs once a device, as a replica that
# sees its part of the batch. What depends on the whole batch goes through `replica_sum`, so that
# every replica then assigns equal values to its copies of the variables. On JAX one program sees
# the whole batch, and all of this does nothing.


def replica():
    """(number of this replica, how many there are)."""
    if BACKEND == "tensorflow":
        context = tf.distribute.get_replica_context()  # None where a strategy runs no step
        count = context.num_replicas_in_sync if context else 1
        return (context.replica_id_in_sync_group if count > 1 else 0), count
    if BACKEND == "torch" and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def replica_sum(tensors):
    """The sum over replicas of a float tensor, or of each of a list of them, in one message."""
    if replica()[1] == 1:
        return tensors
    if not isinstance(tensors, list):
        return replica_sum([tensors])[0]
    flat = ops.concatenate([ops.reshape(t, (-1,)) for t in tensors])
    if BACKEND == "tensorflow":
        flat = tf.distribute.get_replica_context().all_reduce("SUM", flat)
    else:  # as a function of its argument, unlike `torch.distributed.all_reduce`
        functional = torch.distributed._functional_collectives
        group = torch.distributed.group.WORLD
        flat = functional.wait_tensor(functional.all_reduce(flat, "sum", group))
    ends = np.cumsum([0, *(math.prod(t.shape) for t in tensors)]).tolist()
    parts = [flat[start:end] for start, end in zip(ends, ends[1:])]
    return [ops.reshape(part, t.shape) for part, t in zip(parts, tensors)]


def as_keras_reduces(logs):
    """Logs of a step in the form in which Keras takes the mean of those of several workers."""
    if BACKEND == "tensorflow" and isinstance(
        tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy
    ):
        return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
    return logs


def devices():
    """(devices that share a batch, processes that each feed a part of it, number of this one)."""
    if BACKEND == "tensorflow":  # divides whole batches by itself
        return tf.distribute.get_strategy().num_replicas_in_sync, 1, 0
    if BACKEND == "torch":
        number, count = replica()
        return count, count, number
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1, 1, 0
    mesh = distribution.device_mesh
    count = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
    return count, jax.process_count(), jax.process_index()


def from_first(content):
    """What the first process passes, bytes or None, in all of them."""
    if devices()[1] == 1:
        return content
    if BACKEND == "torch":
        box = [content]
        torch.distributed.broadcast_object_list(box, 0)
        return box[0]
    from jax.experimental import multihost_utils

    size = -1 if content is None else len(content)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(size)))
    if size < 0:
        return None
    buffer = np.zeros(size, "uint8")
    if jax.process_index() == 0:
        buffer[:] = np.frombuffer(content, "uint8")
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()


def number_from_first(number):
    """A float as the first process has it, in all of them."""
    return float(from_first(repr(float(number)).encode()))


def share_from_first(variables):
    """Gives variables the values that they have in the first process."""
    if devices()[1] == 1:
        return
    if BACKEND == "torch":
        for variable in variables:
            value = ops.convert_to_tensor(variable).detach().clone()
            torch.distributed.broadcast(value, 0)
            variable.assign(value)
    else:
        from jax.experimental import multihost_utils

        local = [np.asarray(v.value) for v in variables]
        for variable, value in zip(variables, multihost_utils.broadcast_one_to_all(local)):
            variable.assign(np.asarray(value))


def noise_of_replica(source):
    """A `SeedGenerator` (or what has its `next`) as this replica draws from it: all replicas move
    its state alike, and get different numbers."""
    number, count = replica()
    return source if count == 1 else _NoiseOfReplica(source, number)


class _NoiseOfReplica(keras.random.SeedGenerator):
    def __init__(self, source, number):  # holds no variable
        self.source, self.number = source, number

    def next(self, ordered=True):
        state = self.source.next(ordered)
        return ops.stack([state[0] + ops.cast(self.number, state.dtype) * 101_390_237, state[1]])


def accelerate(optimizer):
    """Makes Adam and AdamW update by the engine's fused kernel, in one pass over memory.

    Keras's own update makes a temporary of every intermediate: on PyTorch nearly half of a step of
    a dense network. The slots stay Keras's, and so saving, resuming and other backends see no
    difference. (On JAX XLA fuses the update anyway.)
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss-scaling one
    for one in getattr(optimizer, "optimizers", ()):  # of several in one
        accelerate(one)
    if BACKEND == "tensorflow":  # gradients come summed over replicas, and clipping needs them so
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: (
            gradients_and_variables
        )
    if isinstance(optimizer, keras.optimizers.Adam):
        if BACKEND == "torch":
            optimizer._parallel_update_step = functools.partial(_torch_adam, optimizer)
        elif BACKEND == "tensorflow":
            optimizer.update_step = functools.partial(_tensorflow_adam, optimizer)


def _tensorflow_adam(optimizer, gradient, variable, learning_rate):
    """var -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon), Keras's order.

    Kingma and Ba 2015, arXiv:1412.6980, the form before section 2.1.
    """
    # Of Keras's variable, or of the engine's own, which it is under a distribution strategy.
    handle = lambda v: (v.value if isinstance(v, keras.Variable) else v).handle  # noqa: E731
    cast = lambda number: tf.cast(number, variable.dtype)  # noqa: E731
    place = optimizer._get_variable_index(variable)
    step = cast(optimizer.iterations + 1)
    arguments = {
        "var": handle(variable),
        "m": handle(optimizer._momentums[place]),
        "v": handle(optimizer._velocities[place]),
        "beta1_power": tf.pow(cast(optimizer.beta_1), step),
        "beta2_power": tf.pow(cast(optimizer.beta_2), step),
        "lr": cast(learning_rate),
        "beta1": cast(optimizer.beta_1),
        "beta2": cast(optimizer.beta_2),
        "epsilon": cast(optimizer.epsilon),
        "grad": cast(gradient),
    }
    if optimizer.amsgrad:
        vhat = handle(optimizer._velocity_hats[place])
        tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=vhat, **arguments)
    else:
        tf.raw_ops.ResourceApplyAdam(**arguments)


def _torch_adam(optimizer, gradients, variables, learning_rate):
    """The same for a list of variables.

    PyTorch's kernel has the paper's other form (algorithm 1), with bias corrections of m and v; a
    step number at which they are 1 turns them off, and the rate takes them in.
    """
    step = ops.cast(optimizer.iterations + 1, "float32")
    power_1, power_2 = (beta**step for beta in (optimizer.beta_1, optimizer.beta_2))
    rate = ops.cast(learning_rate, "float32") * torch.sqrt(1 - power_2) / (1 - power_1)
    places = [optimizer._get_variable_index(v) for v in variables]
    slots = lambda name: [getattr(optimizer, name)[i].value for i in places]  # noqa: E731
    late = torch.full((), 1e12, device=step.device)
    torch._fused_adam_(
        [v.value for v in variables],
        # The kernel walks through memory: a kernel's gradient that lies transposed there would be
        # applied to other weights.
        [gradient.contiguous() for gradient in gradients],
        slots("_momentums"),
        slots("_velocities"),
        slots("_velocity_hats") if optimizer.amsgrad else [],
        [late] * len(variables),
        lr=rate,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=0.0,  # Keras has applied it
        eps=optimizer.epsilon,
        amsgrad=optimizer.amsgrad,
        maximize=False,
    )


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
            return whole(*arrays[: 2 * noisy], *map(_own_rows, arrays[2 * noisy :]))

        def on_replicas(*arrays):
            return strategy.run(of_part, arrays)

        # A partial: TensorFlow counts traces by code, and takes all that is compiled here for one
        # function that is traced too often.
        whole_batch = functools.partial(on_replicas if dealt else whole)
        traced = tf.function(whole_batch, reduce_retracing=True)

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
            key = tuple(map(_description, tensors))
            with torch.no_grad(), model.noise_from(*seeds) if noisy else contextlib.nullcontext():
                if key not in players:
                    recorded = None if loops else _recorded(pure, model, arguments)
                    players[key] = recorded or pure
                return players[key](*arguments)

    def call(*arrays):
        if not dealt:
            return keras.tree.map_structure(ops.convert_to_numpy, run(*arrays))
        if BACKEND != "tensorflow":  # whose replicas take theirs inside
            part = _divided if BACKEND == "jax" else _own_rows
            arrays = *arrays[: 2 * noisy], *map(part, arrays[2 * noisy :])
        return keras.tree.map_structure(_gathered, run(*arrays))

    return call


def _own_rows(array):
    """This replica's rows of a batch."""
    number, count = replica()
    size = array.shape[0] // count
    return array[number * size : (number + 1) * size]


def _divided(array):
    """A batch as one array whose rows lie on the devices (JAX)."""
    distribution = keras.distribution.distribution()
    axes = [distribution.batch_dim_name, *[None] * (array.ndim - 1)]
    layout = keras.distribution.TensorLayout(axes, distribution.device_mesh).backend_layout
    return jax.make_array_from_callback(array.shape, layout, lambda index: array[index])


def _gathered(result):
    """What the devices made of their rows, as one array in every process."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().gather(result, axis=0).numpy()
    if BACKEND == "jax":
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(result, tiled=True))
    parts = [torch.empty_like(result) for _ in range(devices()[0])]
    torch.distributed.all_gather(parts, result.contiguous())
    return ops.convert_to_numpy(torch.cat(parts))


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
