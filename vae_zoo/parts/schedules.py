"""Schedules of the weight of the KL, and of the learning rate of a run.

Every `beta` of the zoo is a float or a `keras.optimizers.schedules.LearningRateSchedule`: a
function of the optimizer's `iterations`, saved and restored with the model. A linear warm-up
is Keras's own `PolynomialDecay`, which `warm_up` spells out.
"""

import math

import keras
from keras import ops

from vae_zoo.engine.saving import Settled

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule


def warm_up(steps, beta=1.0):
    """`beta`, reached by a straight line from 0 over the first `steps` updates (0: at once)."""
    if not beta >= 0:
        raise ValueError(f"`beta` must be >= 0. Received: beta={beta}")
    if steps <= 0:
        return beta
    return keras.optimizers.schedules.PolynomialDecay(0.0, steps, end_learning_rate=beta)


@keras.saving.register_keras_serializable("vae_zoo")
class Cyclical(Settled, LearningRateSchedule):
    """Rises linearly from 0 to `beta`, stays there, and starts again, `period` by `period`.

    beta(t) = beta * min(1, (t mod period) / (ratio * period))

    Fu et al., "Cyclical Annealing Schedule", NAACL 2019, arXiv:1903.10145, eq. 6-7 (there without
    an end; four cycles and ratio 0.5 are the paper's values).

    Args:
        period: int, optimizer steps in a cycle.
        beta: float, the weight at the top.
        ratio: float in (0, 1], share of the cycle that rises.
    """

    def __init__(self, period, beta=1.0, ratio=0.5):
        if period < 1:
            raise ValueError(f"`period` must be at least 1. Received: period={period}")
        if not 0 < ratio <= 1:
            raise ValueError(f"`ratio` must be in (0, 1]. Received: ratio={ratio}")
        self.period, self.beta, self.ratio = period, beta, ratio

    def __call__(self, step):
        position = ops.cast(ops.mod(step, self.period), "float32") / self.period
        return self.beta * ops.minimum(position / self.ratio, 1.0)

    def get_config(self):
        return {"period": self.period, "beta": self.beta, "ratio": self.ratio}


@keras.saving.register_keras_serializable("vae_zoo")
class Sigmoid(Settled, LearningRateSchedule):
    """Rises along a logistic curve: beta(t) = beta / (1 + exp(-(t - midpoint) / width)).

    Bowman et al., "Generating Sentences from a Continuous Space", CoNLL 2016, arXiv:1511.06349,
    section 3.1.

    Args:
        midpoint: step at which half of `beta` is reached.
        width: steps; from 12 % to 88 % of `beta` it takes four of them.
        beta: float, the weight at the end.
    """

    def __init__(self, midpoint, width=None, beta=1.0):
        width = midpoint / 6 if width is None else width
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"`width` must be positive. Received: width={width}")
        self.midpoint, self.width, self.beta = midpoint, width, beta

    def __call__(self, step):
        return self.beta * ops.sigmoid((ops.cast(step, "float32") - self.midpoint) / self.width)

    def get_config(self):
        return {"midpoint": self.midpoint, "width": self.width, "beta": self.beta}


@keras.saving.register_keras_serializable("vae_zoo")
class Approach(Settled, LearningRateSchedule):
    """Comes ever nearer to `beta`: beta(t) = beta * (1 - (1 - start) * decay^t).

    Ha and Eck 2018, arXiv:1704.03477, eq. 11 (there start 0.01, decay 0.99995).

    Args:
        beta: float, the weight in the end.
        start: float, its share at first.
        decay: float in (0, 1), of the distance, per step.
    """

    def __init__(self, beta=1.0, start=0.01, decay=0.99995):
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be in (0, 1). Received: decay={decay}")
        self.beta, self.start, self.decay = beta, start, decay

    def __call__(self, step):
        left = ops.exp(math.log(self.decay) * ops.cast(step, "float32"))
        return self.beta * (1.0 - (1.0 - self.start) * left)

    def get_config(self):
        return {"beta": self.beta, "start": self.start, "decay": self.decay}


def scheduled(learning_rate, schedule, epochs, n, batch_size):
    """`learning_rate`, decayed to a hundredth over all updates of a run.

    Args:
        learning_rate: float, at the start.
        schedule: "cosine" (half a period), "linear", "exponential" or "constant" (no decay).
        epochs, n, batch_size: ints, of the run; n training images.
    """
    steps, schedules = max(1, epochs * -(-n // batch_size)), keras.optimizers.schedules
    if schedule == "constant":
        return learning_rate
    if schedule == "cosine":
        return schedules.CosineDecay(learning_rate, steps, alpha=0.01)
    if schedule == "linear":
        return schedules.PolynomialDecay(learning_rate, steps, 0.01 * learning_rate)
    if schedule == "exponential":
        return schedules.ExponentialDecay(learning_rate, steps, 0.01)
    raise ValueError(
        f"`schedule` must be cosine, linear, exponential or constant. Received: {schedule}"
    )


def averages(epochs, steps_per_epoch):
    """What an optimizer of Keras takes to keep averages of the weights, which are then validated
    and kept; a dict.

    Args:
        epochs: float, how far they reach back; 0 keeps none.
        steps_per_epoch: int.
    """
    return {"use_ema": epochs > 0, "ema_momentum": 1 - 1 / (1 + epochs * steps_per_epoch)}
