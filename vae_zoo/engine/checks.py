"""Data sets of all kinds, looked at before they are used: the first batch of a stream, no more."""

import sys
import types

import keras
import numpy as np
from keras import ops


def array_of(x):
    """What holds all examples at once, an array, a tensor of any engine or a data frame, as NumPy;
    anything else as it is."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, keras.KerasTensor) or not getattr(x, "is_fully_addressable", True):
        return x  # symbolic, or partly in other processes
    if ops.is_tensor(x):
        return ops.convert_to_numpy(x)
    if hasattr(x, "detach"):  # of PyTorch, beside another engine
        x = x.detach().cpu()
    return np.asarray(x) if hasattr(x, "__array__") else x


def holds_nan(x):
    """Whether a NumPy array of numbers holds NaN, without an array of answers."""
    return x.dtype.kind == "f" and x.size > 0 and bool(np.isnan(np.min(x)))


def check_count(n):
    """Raises `ValueError` unless `n`, of examples to draw, is a positive int."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"`n` must be a positive int. Received: n={n!r}")


def check_learning_rate(optimizer):
    """Raises `ValueError` unless the learning rate that an optimizer begins with is finite; of a
    `MultiOptimizer`, which has none, that of each of its own."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for one in getattr(optimizer, "optimizers", [optimizer]):
        rate = float(ops.convert_to_numpy(one.learning_rate))
        if not 0 <= rate < np.inf:
            raise ValueError(f"The learning rate must be finite, 0 or more. Received: {rate}")


def is_stream(x):
    """Whether x gives batches, one after the other, rather than holding examples."""
    held = (str, bytes, dict, tuple, list, set, range)
    return hasattr(x, "__iter__") and not hasattr(x, "shape") and not isinstance(x, held)


def parts(batch):
    """x, y and sample weights of a batch as a data set gives it; None for what is not there.

    Raises:
        ValueError: if it is something else.
    """
    batch = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if not 1 <= len(batch) <= 3:
        raise ValueError(
            "A data set must give x, (x, y) or (x, y, sample_weight). "
            f"Received: a tuple of {len(batch)}"
        )
    return (*batch, None, None)[:3]


def looked_at(source, look, shapes=(None, None)):
    """A data set that gives the same batches, the first of which is passed to `look` before.

    Where that costs nothing the first batch is not made twice, so that nothing is lost of what can
    be read but once.

    Args:
        source: tf.data, a generator, a `PyDataset`, PyTorch's `DataLoader`, or another iterable.
        look: function of a batch, of NumPy arrays; it may raise `ValueError`, which the step that
            reads the data raises.
        shapes: shapes of one x and of one y, for a tf.data that does not say them; None for y where
            it is not used.
    """
    tensorflow = sys.modules.get("tensorflow")
    loaders = sys.modules.get("torch.utils.data")
    if isinstance(source, types.GeneratorType):
        return _generator(source, look)
    if isinstance(source, keras.utils.PyDataset):
        if source.num_batches is None or source.num_batches > 0:
            look(source[0])
        return source
    if tensorflow is not None and isinstance(source, tensorflow.data.Dataset):
        return _of_tensorflow(source, look, shapes, tensorflow)
    if tensorflow is not None and type(source).__module__.startswith("tensorflow."):
        return source  # dealt out to replicas already
    if loaders is not None and isinstance(source, loaders.DataLoader):
        look(_first_of(source))
        return source
    look(next(iter(source)))
    return source


def _generator(source, look):
    for number, batch in enumerate(source):
        if number == 0:
            look(batch)
        yield batch


def _first_of(loader):
    """The first batch of PyTorch's loader; the order of the examples stays what it would be."""
    import torch

    own = getattr(loader.generator, "get_state", lambda: None)()
    with torch.random.fork_rng(devices=()):
        batch = next(iter(loader))
    if own is not None:
        loader.generator.set_state(own)
    return batch


def _of_tensorflow(dataset, look, shapes, tensorflow):
    """A tf.data of the same batches, looked at where TensorFlow makes them. What it says of its
    tensors is looked at before it makes any; shapes that it does not say are filled in."""
    spec = dataset.element_spec
    shapes = (*shapes, ())

    def whole(rank_and_sizes, shape):
        """(batch, *shape), known sizes as they are; None where all is known, or nothing is."""
        if rank_and_sizes.rank is None:
            return None if shape is None else (None, *shape)
        sizes = tuple(rank_and_sizes)
        if shape is None or None not in sizes[1:] or len(sizes) != 1 + len(shape):
            return None
        return (sizes[0], *(b if a is None else a for a, b in zip(sizes[1:], shape)))

    def example(spec, shape):
        if not isinstance(spec, tensorflow.TensorSpec):
            raise ValueError(f"A data set must give dense tensors. Received: {spec}")
        sizes = whole(spec.shape, shape) or (() if spec.shape.rank is None else spec.shape)
        zero = np.zeros((), spec.dtype.as_numpy_dtype)
        return np.broadcast_to(zero, [1 if size is None else size for size in sizes])

    if isinstance(spec, tuple):
        nested = any(isinstance(part, (dict, tuple)) for part in spec)
        announced = spec if nested or len(spec) > 3 else tuple(map(example, spec, shapes))
    else:
        announced = spec if isinstance(spec, dict) else example(spec, shapes[0])
    look(announced)

    def known(tensor, shape):
        full = whole(tensor.shape, shape)
        return tensor if full is None else tensorflow.ensure_shape(tensor, full)

    def look_once(*arrays):
        look(tensorflow.nest.pack_sequence_as(spec, arrays))
        return True

    def through(number, batch):
        tensorflow.cond(
            number == 0,
            lambda: tensorflow.numpy_function(
                look_once, tensorflow.nest.flatten(batch), tensorflow.bool
            ),
            lambda: True,
        )
        if not isinstance(batch, tuple):
            return known(batch, shapes[0])
        return batch if nested else tuple(map(known, batch, shapes))

    return dataset.enumerate().map(through)
