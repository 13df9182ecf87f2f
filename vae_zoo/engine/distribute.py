"""Training on several devices: one context, on three engines.

    with data_parallel():
        model = DenseVAE()
        model.compile("adam")
        model.fit(images, batch_size=512)

A batch is the batch of all devices together, and what comes out is what one device would have made
of it (but for the noise, of which every device draws its own). Recipes do this with `--distribute`.

| engine     | devices of one host              | several hosts                                    |
|------------|----------------------------------|--------------------------------------------------|
| TensorFlow | `tf.distribute.MirroredStrategy` | `MultiWorkerMirroredStrategy`, which Keras does  |
|            |                                  | not support: experimental; `TF_CONFIG` names them|
| JAX        | `keras.distribution`, one process| one process a host; `KERAS_DISTRIBUTION_…` names |
|            |                                  | them                                             |
| PyTorch    | `torchrun`, a process a device   | `torchrun`                                       |
"""

import atexit
import contextlib
import datetime
import json
import os
import re

import keras
import numpy as np

from vae_zoo.engine import BACKEND, private, replicas, watch

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch
elif BACKEND == "jax":
    import jax

LOST = re.compile(
    "connection (closed|reset|refused)|heartbeat|unavailable|preempted|timed? ?out|socket closed"
    "|peer (is down|unreachable)|broken pipe|task.* (died|failed)|gloo",
    re.IGNORECASE,
)


@contextlib.contextmanager
def data_parallel(devices=None, timeout=50):
    """Context in which models are built, compiled and fitted on several devices.

    Arrays and `vae_zoo.data.Batches` are dealt out to the devices; a batch that cannot be dealt
    evenly is filled up with examples of weight 0. Of other data sets every process passes its own
    part on JAX and PyTorch, in batches that divide evenly. Initial weights are those of the first
    process; on JAX Keras is seeded alike in all for that.

    Args:
        devices: int, how many of this host's devices; None takes all of them. Where there is no
            accelerator, TensorFlow and JAX divide the CPU into as many: to try it out.
        timeout: float, seconds after which a worker that does not answer is given up.

    Raises:
        ValueError: if it is entered too late, after something was computed; on PyTorch, if the
            process was not started by torchrun.
        OSError: from whatever is inside, when a worker is lost; on JAX the process may end at once
            instead, with the same line and status 1.
    """
    if devices is not None and devices < 1:
        raise ValueError(f"`devices` must be at least 1. Received: devices={devices}")
    setting = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
    with setting(devices, timeout):
        try:
            yield
        except Exception as error:
            if lost(error):
                reason = next(line for line in str(error).splitlines() if LOST.search(line)).strip()
                if BACKEND == "jax":  # which would wait for the lost one, and abort then
                    watch.end_first()
                    atexit.register(os._exit, 1)
                raise OSError(watch.told(reason)) from error
            raise


@contextlib.contextmanager
def model_parallel(model_devices=2, devices=None):
    """Context in which the weights of large layers are divided over devices too (JAX only).

    Every kernel whose last axis can be divided by `model_devices` is, by that axis; all else is on
    every device. A checkpoint is the same as any other.

    Args:
        model_devices: int, devices that share one copy of the model; the others share the batch.
        devices: int, see `data_parallel`.

    Raises:
        ValueError: on another backend, or if the devices cannot be grouped so.
    """
    if BACKEND != "jax":
        raise ValueError(f"Models are divided on JAX only. Received: {BACKEND}")
    found = _jax_devices(devices)
    if len(found) % model_devices:
        raise ValueError(
            f"{len(found)} devices cannot be grouped by {model_devices}: `model_devices` must "
            "divide their number"
        )
    shape, axes = (len(found) // model_devices, model_devices), ("batch", "model")
    mesh = keras.distribution.DeviceMesh(shape, axes, found)
    layout = keras.distribution.LayoutMap(mesh)
    with _LastAxisParallel(layout_map=layout, batch_dim_name="batch").scope():
        yield


class _LastAxisParallel(keras.distribution.ModelParallel):
    def get_variable_layout(self, variable):
        layout = super().get_variable_layout(variable)
        size = self.device_mesh.shape[1]
        last = variable.shape[-1] if variable.path.endswith("kernel") else 0
        if last and last % size == 0:
            axes = [None] * (len(variable.shape) - 1) + ["model"]
            layout = keras.distribution.TensorLayout(axes, self.device_mesh)
        return layout


def lost(error):
    """Whether an exception says that another process of this run is gone."""
    return _processes() > 1 and bool(LOST.search(str(error)))


def is_main():
    """True in the one process that writes files and prints."""
    if BACKEND == "tensorflow":
        task = _tf_config().get("task", {})
        first = "chief" if "chief" in _tf_config().get("cluster", {}) else "worker"
        return (task.get("type", first), task.get("index", 0)) == (first, 0)
    return replicas.devices()[2] == 0


def _processes():
    if BACKEND == "tensorflow":
        cluster = _tf_config().get("cluster", {"worker": [""]})
        return sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    return replicas.devices()[1]


# === Engines ===


def _tf_config():
    return json.loads(os.environ.get("TF_CONFIG") or "{}")


@contextlib.contextmanager
def _tensorflow(devices, timeout):
    if _processes() > 1:
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    else:
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        if kind == "CPU" and devices:
            parts = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
            try:
                cpu = tf.config.list_physical_devices("CPU")[0]
                tf.config.set_logical_device_configuration(cpu, parts)
            except RuntimeError:
                raise _too_late() from None
        found = tf.config.list_logical_devices(kind)
        strategy = tf.distribute.MirroredStrategy(_first([d.name for d in found], devices))
    with strategy.scope():
        yield


def _jax_devices(devices):
    """Names of the devices, all or so many of each process; connects the processes."""
    if devices and jax.config.jax_num_cpu_devices != devices:
        os.environ.setdefault("NPROC", "8")  # with fewer threads than devices XLA may wait for ever
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError:
            raise _too_late() from None
    found = keras.distribution.list_devices()
    return found if jax.process_count() > 1 else _first(found, devices)


@contextlib.contextmanager
def _jax(devices, timeout):
    processes = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1))
    watched = contextlib.nullcontext()
    if processes > 1 and not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        try:
            jax.distributed.initialize(
                os.environ["KERAS_DISTRIBUTION_JOB_ADDRESSES"].split(",")[0],
                processes,
                int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"]),
                heartbeat_timeout_seconds=timeout,  # 100 otherwise
                shutdown_timeout_seconds=timeout,
            )
        except KeyError as missing:
            raise ValueError(f"{missing.args[0]} must be in the environment too") from None
        except RuntimeError as error:
            raise _too_late() if "before" in str(error) else error from None
        client = jax._src.distributed.global_state.client
        host = os.environ["KERAS_DISTRIBUTION_JOB_ADDRESSES"].split(",")[0].rpartition(":")[0]
        watched = watch.watching(client, host, jax.process_index(), processes)
    names = _jax_devices(devices)
    parallel = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    with watched, parallel.scope():
        if processes > 1:  # weights begin alike, of models without a seed too
            seed = replicas.number_from_first(np.random.randint(2**31 - 1))
            keras.utils.set_random_seed(int(seed))
        yield


@contextlib.contextmanager
def _torch(devices, timeout):
    private.check_keras()
    if "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "On PyTorch every device has a process of its own: start with torchrun "
            f"--nproc-per-node {devices or 'gpu'} in the place of python"
        )
    kind = "gloo"
    if torch.cuda.is_available():
        kind = "nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    limit = datetime.timedelta(seconds=timeout)
    torch.distributed.init_process_group(kind, timeout=limit)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _first(names, devices):
    if devices and devices > len(names):
        raise ValueError(f"`devices` must be at most {len(names)} here. Received: {devices}")
    return names[:devices]


def _too_late():
    return ValueError(
        "Devices must be set before anything is computed: enter data_parallel at the start of the "
        "program"
    )
