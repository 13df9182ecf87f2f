"""p(x|z): what a decoder's output means.

A likelihood turns decoder outputs into log-probabilities, means and samples of images. It is a
Keras layer, since some have a weight (a learned variance) or a running estimate (an optimal one).
"""

import math

import keras
from keras import layers, ops

from vae_zoo.engine.replicas import replica_sum
from vae_zoo.engine.saving import Settled
from vae_zoo.parts import distributions


def get(identifier):
    """A `Likelihood` from its name, its serialised form or itself.

    Raises:
        ValueError: if the name is not one of those below.
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, Likelihood):
        return identifier
    names = {
        "bernoulli": Bernoulli,
        "gaussian": Gaussian,
        "laplace": Laplace,
        "discretized_logistic": DiscretizedLogistic,
    }
    if identifier not in names:
        raise ValueError(
            f"`likelihood` must be a Likelihood or one of {sorted(names)}. "
            f"Received: likelihood={identifier!r}"
        )
    return names[identifier]()


class Likelihood(Settled, layers.Layer):
    """Base of all: `x` is float32 (batch, ..., channels), images in [0, 1] say, `parameters`
    float32 (..., batch, ..., `num_parameters(channels)`), as the decoder returns them; leading axes
    of `parameters` are draws of z."""

    binary = False  # True: training draws the bits x ~ Bernoulli(grey level) anew at every step
    unbounded = False  # True: parameters are logits and the like, which no activation may bound
    fitted = False  # True: `log_prob` depends on the batch where `batch_mean` is given

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.built = True

    def num_parameters(self, channels):
        """int, decoder outputs for a pixel of `channels` channels."""
        return channels

    def log_prob(self, x, parameters, batch_mean=None):
        """log p(x|z), summed over pixels and channels: (..., batch), nats per example.

        `batch_mean` is `Trainable.batch_mean` in a training loss, by which a scale can fit the
        batch; None takes what was fitted so far.
        """
        raise NotImplementedError

    def mean(self, parameters, channels):
        """E[x|z] in data space: (..., batch, height, width, channels)."""
        raise NotImplementedError

    def sample(self, parameters, channels, draw):
        """x ~ p(x|z); `draw(shape, distribution)` gives noise. Shape as of `mean`."""
        raise NotImplementedError

    def error(self, x, parameters):
        """What a fitted likelihood's scale is estimated from: float32 (batch,)."""
        raise NotImplementedError

    def update(self, errors, weights):
        """Assigns a running estimate from the `error` of one batch; `weights` is (batch,)."""
        raise NotImplementedError


def _summed(log_prob, x, parameters, *scale):
    """Sum over all of an example of an elementwise log-probability.

    Pixels are laid in a row first: where x is broadcast over samples, XLA is four times as fast.
    """
    axes = len(x.shape) - 1

    def row(t):
        return ops.reshape(t, (*ops.shape(t)[:-axes], math.prod(t.shape[-axes:])))

    return ops.sum(log_prob(row(x), row(parameters), *scale), axis=-1)


@keras.saving.register_keras_serializable("vae_zoo")
class Bernoulli(Likelihood):
    """log p(x|z) = sum x log y + (1 - x) log(1 - y) over pixels, y = sigmoid(logits).

    Kingma and Welling 2013, arXiv:1312.6114, eq. 11. A likelihood of bits: grey levels become bits
    by a draw, they are never targets themselves.
    """

    binary = unbounded = True

    def log_prob(self, x, parameters, batch_mean=None):
        return _summed(distributions.bernoulli_log_prob, x, parameters)

    def mean(self, parameters, channels):
        return ops.sigmoid(parameters)

    def sample(self, parameters, channels, draw):
        uniform = draw(ops.shape(parameters), "uniform")
        return ops.cast(uniform < ops.sigmoid(parameters), "float32")


class _LocationScale(Likelihood):
    """What `Gaussian` and `Laplace` share: a mean a pixel, and one scale for all pixels."""

    def mean(self, parameters, channels):
        return parameters

    def _scale_weight(self, value, name):
        if value == "learned":
            # Starts where it would end for images that vary by a few grey levels around the mean.
            self.log_scale = self.add_weight(shape=(), initializer="zeros", name=name)
        elif not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise ValueError(f"`{name}` must be positive or a named choice. Received: {value!r}")


@keras.saving.register_keras_serializable("vae_zoo")
class Gaussian(_LocationScale):
    """log p(x|z) = log N(x; mean, variance I), a density on [0, 1]-valued pixels.

    Args:
        variance: a float, fixed (1.0 makes it the squared error up to a constant); "learned", one
            weight that the gradient trains; or "optimal", the maximum-likelihood value: the mean
            squared error of the batch when training, a saved running estimate in evaluation
            (Rybkin, Daniilidis and Levine 2021, arXiv:2006.13202, eq. 6-7).
        momentum: float, decay of the running estimate, per step.
    """

    def __init__(self, variance="optimal", momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        self.variance, self.momentum = variance, momentum
        self.fitted = variance == "optimal"
        if self.fitted:
            self.squared_error = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="squared_error"
            )
            self.count = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="count"
            )
        else:
            self._scale_weight(variance, "variance")

    def log_variance(self, x, mean, batch_mean=None):
        """float32 scalar, log of the variance in force."""
        if self.variance == "learned":
            return ops.convert_to_tensor(self.log_scale)
        if not self.fitted:
            return ops.convert_to_tensor(math.log(self.variance), "float32")
        if batch_mean:
            # Without a gradient, of which none is lost: the optimum is stationary.
            error = batch_mean(self.error(x, mean))
        else:  # before the first step there is no estimate: 1
            count = ops.convert_to_tensor(self.count)
            error = ops.where(count > 0, self.squared_error / ops.maximum(count, 1e-6), 1.0)
        return ops.log(ops.maximum(error, 1e-6))

    def log_prob(self, x, parameters, batch_mean=None):
        log_var = self.log_variance(x, parameters, batch_mean)
        return _summed(distributions.gaussian_log_prob, x, parameters, log_var)

    def error(self, x, parameters):
        """The squared error, the mean over draws, pixels and channels: (batch,)."""
        errors = ops.square(x - parameters)
        errors = ops.mean(errors, axis=tuple(range(1 - len(x.shape), 0)))
        return ops.mean(ops.reshape(errors, (-1, ops.shape(x)[0])), axis=0)

    def update(self, errors, weights):
        decay = self.momentum
        total = ops.sum(ops.where(weights > 0, weights * errors, 0.0))
        total, count = replica_sum([total, ops.sum(weights)])
        self.squared_error.assign(decay * self.squared_error + (1 - decay) * total)
        self.count.assign(decay * self.count + (1 - decay) * count)

    def sample(self, parameters, channels, draw):
        log_var = self.log_variance(parameters, parameters)
        return distributions.gaussian_sample(parameters, log_var, draw(ops.shape(parameters)))

    def get_config(self):
        return {**super().get_config(), "variance": self.variance, "momentum": self.momentum}


@keras.saving.register_keras_serializable("vae_zoo")
class Laplace(_LocationScale):
    """log p(x|z) = sum -|x - mean| / scale - log(2 scale): the absolute error as a density.

    Args:
        scale: a positive float, fixed, or "learned", one weight that the gradient trains.
    """

    def __init__(self, scale="learned", **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self._scale_weight(scale, "scale")

    def _log_scale(self):
        learned = self.scale == "learned"
        return ops.convert_to_tensor(self.log_scale if learned else math.log(self.scale), "float32")

    def log_prob(self, x, parameters, batch_mean=None):
        return _summed(distributions.laplace_log_prob, x, parameters, self._log_scale())

    def sample(self, parameters, channels, draw):
        # The inverse of the distribution function, at u in (-1/2, 1/2).
        u = draw(ops.shape(parameters), "uniform") - 0.5
        tail = ops.log(ops.maximum(1.0 - 2.0 * ops.abs(u), 1e-7))
        return parameters - ops.exp(self._log_scale()) * ops.sign(u) * tail

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("vae_zoo")
class DiscretizedLogistic(Likelihood):
    """Mixture of discretised logistics on the 256 levels of 8-bit images, with open end bins.

    Salimans et al. 2017 (PixelCNN++), arXiv:1701.05517, eq. 1-3. Grey-level and colour images; a
    probability, so its negative in bits per dimension can be compared.

    Args:
        components: int, logistics in the mixture of a pixel (10 in the paper).
    """

    unbounded = True

    def __init__(self, components=5, **kwargs):
        super().__init__(**kwargs)
        if not 0 < components <= 1024:
            raise ValueError(f"`components` must be in 1..1024. Received: components={components}")
        self.components = components

    def num_parameters(self, channels):
        return self.components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def log_prob(self, x, parameters, batch_mean=None):
        log_probs = distributions.discretized_logistic_mixture_log_prob(x, parameters)
        places = tuple(range(2 - len(x.shape), 0))  # none where x is a vector of channels
        return ops.sum(log_probs, axis=places) if places else log_probs

    def mean(self, parameters, channels):
        return distributions.discretized_logistic_mixture_mean(parameters, channels)

    def sample(self, parameters, channels, draw):
        pixels = tuple(ops.shape(parameters)[:-1])
        return distributions.discretized_logistic_mixture_sample(
            parameters,
            draw((*pixels, self.components), "uniform"),
            draw((*pixels, channels), "uniform"),
        )

    def get_config(self):
        return {**super().get_config(), "components": self.components}
