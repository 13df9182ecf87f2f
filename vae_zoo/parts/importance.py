"""The importance-weighted bound of many samples, in chunks that bound its memory."""

import keras
import numpy as np
from keras import ops

from vae_zoo.engine import replicas
from vae_zoo.parts.bounds import check_samples

CHUNK = 50  # samples that are in memory together


def weigh(model, arrays, num_samples, batch_size=None, seed=0, progress=None):
    """What `BaseVAE.importance` returns, of NumPy arrays (x,) or (x, y); args as there."""
    check_samples(num_samples)
    chunks = [min(CHUNK, num_samples - start) for start in range(0, num_samples, CHUNK)]
    n = len(arrays[0])
    if n == 0:
        raise ValueError("At least one example is needed. Received: an empty array")
    if batch_size is None:
        grids = any(len(shape.shape) > 1 for shape in keras.tree.flatten([model.latent_domain]))
        batch_size = 10 if grids else 50
    devices = replicas.devices()[0]
    size = devices * min(batch_size, -(-n // devices))
    prepare = model.compiled_function("prepare", model.prepare, noisy=True)
    batches, sums = range(0, n, size), []
    for start in batches if progress is None else progress(batches):
        # The last batch is filled up by repetition: one shape, compiled once.
        rows = np.minimum(np.arange(start, start + size), n - 1)
        x, *y = (a[rows] for a in arrays)
        x = prepare(np.int32(seed), np.int32(start), x)
        first = start // size * len(chunks)
        chunk_sums = [
            _log_sums(model, k, devices > 1)(np.int32(seed + 1), np.int32(first + i), x, *y)
            for i, k in enumerate(chunks)
        ]
        sums.append(np.logaddexp.reduce(np.float64(chunk_sums), axis=0))
    first, second = np.concatenate(sums)[:n].T
    return first - np.log(num_samples), np.exp(2 * first - second)


def _log_sums(model, num_samples, dealt):
    """log sum_i w_i and log sum_i w_i^2 of w_i = p(x, z_i) / q(z_i|x), (batch, 2), compiled; see
    `backend.compiled`."""

    def log_sums(x, y=None):
        log_weights = model.log_weights(x, model.prepare_labels(y), num_samples)
        powers = [ops.logsumexp(power * log_weights, axis=0) for power in (1.0, 2.0)]
        return ops.stack(powers, axis=-1)

    return model.compiled_function("log_sums", log_sums, noisy=True, dealt=dealt)
