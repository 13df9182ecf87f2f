"""What depends on the whole of a batch that is spread over devices: sums, gathering, dealing out.

On TensorFlow and PyTorch a step that is spread over devices runs once a device, as a replica that
sees its part of the batch. What depends on the whole batch goes through `replica_sum` or
`whole_batch`, so that every replica then assigns equal values to its copies of the variables. On
JAX one program sees the whole batch, and all of this does nothing.
"""

import math

import keras
import numpy as np
from keras import ops

from vae_zoo.engine import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch
elif BACKEND == "jax":
    import jax


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


def whole_batch(rows):
    """The rows of a tensor (batch, ...) of all replicas, in their order, with their gradient.

    A loss that couples examples, computed by each replica for its own rows of the whole batch, so
    has the gradient that one device would find: replicas' gradients are summed afterwards.
    """
    number, count = replica()
    if count == 1:
        return rows
    # A sum of what is zero but for one replica's rows: whose gradient each engine knows.
    own = ops.reshape(ops.arange(count) == number, (count, *[1] * len(rows.shape)))
    padded = ops.reshape(ops.where(own, rows[None], 0), (-1, *rows.shape[1:]))
    if BACKEND == "tensorflow":
        return tf.distribute.get_replica_context().all_reduce("SUM", padded)
    return _SumWithGradient.apply(padded)


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


def own_rows(array):
    """This replica's rows of a batch."""
    number, count = replica()
    size = array.shape[0] // count
    return array[number * size : (number + 1) * size]


def divided(array):
    """A batch as one array whose rows lie on the devices (JAX)."""
    distribution = keras.distribution.distribution()
    axes = [distribution.batch_dim_name, *[None] * (array.ndim - 1)]
    layout = keras.distribution.TensorLayout(axes, distribution.device_mesh).backend_layout
    return jax.make_array_from_callback(array.shape, layout, lambda index: array[index])


def gathered(result):
    """What the devices made of their rows, as one array in every process."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().gather(result, axis=0).numpy()
    if BACKEND == "jax":
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(result, tiled=True))
    parts = [torch.empty_like(result) for _ in range(devices()[0])]
    torch.distributed.all_gather(parts, result.contiguous())
    return ops.convert_to_numpy(torch.cat(parts))


if BACKEND == "torch":

    class _SumWithGradient(torch.autograd.Function):
        """Sum over replicas, of a loss that is summed over replicas too."""

        @staticmethod
        def forward(context, tensor):
            return replica_sum(tensor)

        @staticmethod
        def backward(context, gradient):
            return replica_sum(gradient)
