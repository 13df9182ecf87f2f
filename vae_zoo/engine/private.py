"""What the package touches inside of other packages: names that are not public and may go any day.

All of them are here, each with its reason. After an upgrade this tells which are gone:

    python -c "from vae_zoo.engine import private; print(private.gone())"
"""

import argparse
import importlib
import importlib.util

import keras

from vae_zoo.engine import BACKEND

# Versions of Keras that all this was tested with. Keras 3.16 puts every model on PyTorch into
# `DistributedDataParallel` once processes are connected, and sums metrics over them; here a step
# sums its gradients and metrics itself.
TESTED_KERAS = ((3, 15),)

# Engines on which a name is touched -> where the name is -> why. A class followed by () stands for
# an instance of it, built.
NAMES = {
    ("tensorflow", "jax", "torch"): {
        "keras.Model._flatten_metrics_in_order": "overridden: of a list of numbers the loss leads",
        "keras.Model._flatten_layers": "all parts of a model, some of which may be frozen",
        "keras.callbacks.SwapEMAWeights()._ema_weights_in_model": "what resuming sets again",
        "keras.optimizers.Adam()._trainable_variables": "which of several players it trains",
        "keras_tuner.src.utils.save_json": "replaced: when killed it leaves half a file",
        "keras_tuner.Tuner._try_build": "replaced: it clears all of Keras, the devices too",
        "keras_tuner.Tuner._build_hypermodel": "what replaces it",
        "keras_tuner.oracles.HyperbandOracle._get_num_brackets": "how many trials it begins with",
        "keras_tuner.oracles.HyperbandOracle._get_size": "how many trials it begins with",
        "keras_tuner.Oracle()._get_trial_dir": "where a trial is that the list of trials has not",
        "keras_tuner.Oracle()._retry_queue": "trials that a kill broke off, and some that are over",
        "keras.src.backend.common.global_state.set_global_attribute": "forgets what was not built",
        "zipfile._EndRecData": "how long a zip's list of its members is, before it is read",
        "zipfile._ECD_SIZE": "where that stands",
        "os._exit": "ends a process from a thread of it",
        "argparse.ArgumentParser()._actions": "the flags that are close to an unknown one",
    },
    ("jax", "torch"): {
        "keras.src.utils.module_utils.tensorflow": "what Keras imports TensorFlow through",
        "keras.src.utils.module_utils.LazyModule()._available": "set to False, it does not",
    },
    ("tensorflow", "torch"): {
        "keras.optimizers.Adam()._get_variable_index": "where the slots of a variable are",
        "keras.optimizers.Adam()._momentums": "slots that the fused kernel updates",
        "keras.optimizers.Adam()._velocities": "slots that the fused kernel updates",
        "keras.optimizers.Adam()._velocity_hats": "slots that the fused kernel updates",
    },
    ("tensorflow",): {
        "keras.Model._maybe_symbolic_build": "overridden: it fails with several workers",
        "keras.optimizers.Adam._all_reduce_sum_gradients": "replaced: gradients come summed",
    },
    ("jax",): {
        "jax._src.distributed.global_state.client": "where processes leave word for each other",
        "keras.Variable()._value": "None after an error in the first step, and then put back",
    },
    ("torch",): {
        "keras.optimizers.Adam()._parallel_update_step": "replaced by the fused kernel",
        "keras.src.backend.torch.optimizers": "in files: no other engine has it",
        "torch._foreach_norm": "the norms of all gradients in one call",
        "torch._fused_adam_": "Adam in one pass over memory",
        "torch.distributed._functional_collectives.all_reduce": "a sum that can be recorded",
        "torch.distributed._functional_collectives.wait_tensor": "a sum that can be recorded",
        "torch.fx.experimental.proxy_tensor.make_fx": "records a step",
        "torch.ops.aten.mm.default._schema.is_mutable": "whether an operation writes to a tensor",
    },
}


def _adam():
    optimizer = keras.optimizers.Adam(amsgrad=True)
    optimizer.build([keras.Variable([0.0])])
    return optimizer


def _lazy():
    from keras.src.utils import module_utils

    return module_utils.LazyModule("json")  # imports it when it is asked for what it has not


def _oracle():
    import keras_tuner

    return keras_tuner.Oracle("loss")


INSTANCES = {
    "argparse.ArgumentParser": argparse.ArgumentParser,
    "keras.Variable": lambda: keras.Variable([0.0]),
    "keras.callbacks.SwapEMAWeights": lambda: keras.callbacks.SwapEMAWeights(),
    "keras.optimizers.Adam": _adam,
    "keras.src.utils.module_utils.LazyModule": _lazy,
    "keras_tuner.Oracle": _oracle,
}


def gone():
    """The names touched on the engine that runs that the installed packages have no more.

    What the package replaces counts as there: ask before anything else is imported. Names of a
    package that is not installed are not looked for.

    Returns:
        dict, path -> reason.
    """
    names = {}
    for engines, touched in NAMES.items():
        names |= touched if BACKEND in engines else {}
    return {path: reason for path, reason in names.items() if not _exists(path)}


def _exists(path):
    place, *names = path.split(".")
    if importlib.util.find_spec(place) is None:
        return True
    head, _, attribute = path.rpartition("().")
    try:
        if head:
            found, place, names = INSTANCES[head](), head, attribute.split(".")
        else:
            found = importlib.import_module(place)
        for name in names:
            place += f".{name}"
            # Of an attribute that is a module too, and not imported yet, its package knows nothing.
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(place)
    except (AttributeError, ImportError):
        return False
    return True


def check_keras():
    """Refuses a Keras that, on PyTorch, spreads models over processes as this package does.

    Raises:
        ValueError: if Keras is newer than the last version tested.
    """
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    if version > TESTED_KERAS[-1]:
        new, tested = (".".join(map(str, v)) for v in (version, TESTED_KERAS[-1]))
        raise ValueError(
            f"Keras {new} spreads models over processes itself, and so twice: "
            f"install keras {tested}"
        )
