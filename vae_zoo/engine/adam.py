"""Adam by the engine's fused kernel, in one pass over memory."""

import functools

import keras
from keras import ops

from vae_zoo.engine import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch


def accelerate(optimizer, compiled=False):
    """Makes Adam and AdamW update by the engine's fused kernel, in one pass over memory.

    Keras's own update makes a temporary of every intermediate: on PyTorch nearly half of a step of
    a dense network. The slots stay Keras's, and so saving, resuming and other backends see no
    difference. (On JAX XLA fuses the update anyway, and so does PyTorch's compiler, which cannot
    look into the kernel.)

    Args:
        optimizer: Keras optimizer.
        compiled: True where the engine compiles the step, and PyTorch's kernel is left out.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss-scaling one
    for one in getattr(optimizer, "optimizers", ()):  # of several in one
        accelerate(one, compiled)
    if BACKEND == "tensorflow":  # gradients come summed over replicas, and clipping needs them so
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: (
            gradients_and_variables
        )
    if isinstance(optimizer, keras.optimizers.Adam):
        if BACKEND == "torch" and compiled:
            vars(optimizer).pop("_parallel_update_step", None)  # of an earlier `compile`
        elif BACKEND == "torch":
            optimizer._parallel_update_step = functools.partial(_torch_adam, optimizer)
        elif BACKEND == "tensorflow":
            optimizer.update_step = functools.partial(_tensorflow_adam, optimizer)


def _tensorflow_adam(optimizer, gradient, variable, learning_rate):
    """var -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon), Keras's order.

    Kingma and Ba 2015, arXiv:1412.6980, the form before section 2.1.
    """

    def handle(v):  # of Keras's variable, or of the engine's own, as under a distribution strategy
        return (v.value if isinstance(v, keras.Variable) else v).handle

    def cast(number):
        return tf.cast(number, variable.dtype)

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

    def slots(name):
        return [getattr(optimizer, name)[i].value for i in places]

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
