"""Log-probabilities, divergences and samples: pure functions, elementwise, in float32 and nats.

Nothing is summed here but what a formula sums itself: callers add up pixels and latents. Inputs
may have any float type (a mixed-precision network's float16 too); results are float32. Noise is
an argument, never drawn: a test can put a table in its place.

Gaussians: Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.
Discretised logistic mixture: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN
with Discretized Logistic Mixture Likelihood and Other Modifications", ICLR 2017, arXiv:1701.05517.
Original code: openai/pixel-cnn, pixel_cnn_pp/nn.py (MIT), read, not copied.
Differs from that code: a bin's log-probability is exact (there: density times width below 1e-5);
log-scales are clipped from above too; samples are rounded to the 256 levels; any channel count;
the order of the parameters.
"""

import math

from keras import ops

LOG_2PI = math.log(2.0 * math.pi)

# On the scale [-1, 1]: the 256 levels lie 2/255 apart, so a bin reaches 1/255 to either side.
HALF_BIN = 1.0 / 255.0

# -7 is the paper's code: a logistic nine times narrower than its bin. At +7 all but 0.05% of the
# mass is in the two end bins already; going further would only bring the interior to log(0).
LOG_SCALE_RANGE = (-7.0, 7.0)


def gaussian_sample(mean, log_var, noise):
    """z = mean + exp(log_var / 2) * noise, with noise ~ N(0, 1): the reparametrisation trick.

    A sample of N(mean, exp(log_var)) that is differentiable in both parameters.
    Shapes broadcast. Source: arXiv:1312.6114, section 2.4.
    """
    mean, log_var, noise = _float32(mean, log_var, noise)
    return mean + ops.exp(0.5 * log_var) * noise


def gradient_scaled(z, scale):
    """z as it is; the gradient that comes back to it is multiplied by `scale`, a constant that
    broadcasts against z."""

    @ops.custom_gradient
    def identity(z, scale):
        def gradient(*arguments, upstream=None):
            upstream = arguments[-1] if upstream is None else upstream  # as the engine passes it
            return upstream * scale, ops.zeros_like(scale)

        return z, gradient

    return identity(z, scale)


def gaussian_log_prob(x, mean, log_var):
    """log N(x; mean, v) = -1/2 (log 2 pi + log v + (x - mean)^2 / v), v = exp(log_var).

    A log-density, elementwise, in nats. Shapes broadcast. Source: arXiv:1312.6114, appendix C.2.
    """
    x, mean, log_var = _float32(x, mean, log_var)
    return -0.5 * (LOG_2PI + log_var + ops.square(x - mean) * ops.exp(-log_var))


def gaussian_kl(mean, log_var, prior_mean=0.0, prior_log_var=0.0):
    """KL(N(mean, v) || N(m, w)) = 1/2 (v/w - log(v/w) - 1 + (mean - m)^2 / w), elementwise, nats.

    v = exp(log_var), m = prior_mean, w = exp(prior_log_var). For the standard normal prior it is
    1/2 (mean^2 + v - log v - 1): arXiv:1312.6114, appendix B, where its negative stands.
    Shapes broadcast; sum over the features for the KL of a vector with independent entries.
    """
    mean, log_var, prior_mean, prior_log_var = _float32(mean, log_var, prior_mean, prior_log_var)
    log_ratio = log_var - prior_log_var
    # expm1: near the prior, v/w - 1 and log(v/w) nearly cancel.
    spread = ops.expm1(log_ratio) - log_ratio
    return 0.5 * (spread + ops.square(mean - prior_mean) * ops.exp(-prior_log_var))


def bernoulli_log_prob(x, logits):
    """x log p + (1 - x) log(1 - p) = x * logits - softplus(logits), p = sigmoid(logits).

    The log-probability of x in {0, 1}, elementwise, in nats; finite for any finite logits. (For
    grey levels x in between it is a cross-entropy, not a likelihood.) Shapes broadcast.
    Source: arXiv:1312.6114, appendix C.1, eq. 11.
    """
    x, logits = _float32(x, logits)
    return x * logits - ops.softplus(logits)


def laplace_log_prob(x, mean, log_scale):
    """log Laplace(x; mean, b) = -log 2 - log b - |x - mean| / b, b = exp(log_scale).

    A log-density, elementwise, in nats. Shapes broadcast.
    """
    x, mean, log_scale = _float32(x, mean, log_scale)
    return -math.log(2.0) - log_scale - ops.abs(x - mean) * ops.exp(-log_scale)


def discretized_logistic_mixture_log_prob(x, parameters):
    """log P(pixel) = log sum_k pi_k prod_c P(x_c | x_<c, k), in nats per pixel.

    P(x_c | x_<c, k) = sigmoid((x_c + 1/255 - m) / s) - sigmoid((x_c - 1/255 - m) / s)      (eq. 2)
    m = mean_kc + sum_{j<c} tanh(coefficient_kcj) x_j                                       (eq. 3)

    on the scale [-1, 1], with s = exp(log_scale_kc). The end bins are open: level 0 takes all that
    is below its upper edge, level 255 all that is above its lower one, so the probabilities of
    the 256 levels sum to 1. One mixture indicator is shared by the channels of a pixel; its
    K components say nothing across channels, the shifts by the true earlier channels do.

    Args:
        x: (..., H, W, C), the levels k/255 in [0, 1].
        parameters: (..., H, W, P), any float, P = K (1 + 2C + C(C-1)/2): seen as a table of rows
            of K entries, one row of mixture logits, C of means, C of log-scales, and C(C-1)/2 of
            coefficients, for the channel pairs (1,0), (2,0), (2,1), ... K is inferred.
    Leading axes broadcast: x (B, H, W, C) goes with parameters (S, B, H, W, P).
    Returns: (..., H, W). Source: arXiv:1701.05517, sections 2.1 and 2.2, eq. 1-3.
    """
    (x,) = _float32(x)
    channels = x.shape[-1]
    logits, means, log_scales, coefficients = _split(parameters, channels)
    # A trailing axis of 1 for each channel's value, to broadcast over the K components.
    values = [2.0 * x[..., c : c + 1] - 1.0 for c in range(channels)]
    log_prob = ops.log_softmax(logits, axis=-1)
    for c in range(channels):
        mean = _conditional_mean(means, coefficients, values[:c])
        log_prob = log_prob + _log_bin(values[c], mean, log_scales[..., c, :])
    return ops.logsumexp(log_prob, axis=-1)


def discretized_logistic_mixture_sample(parameters, uniform_component, uniform_logistic):
    """A sample of the mixture on the 256 levels, as float32 k/255 in [0, 1].

    k = argmax_k logit_k - log(-log u_k)                                               (Gumbel-max)
    x_c = round(m + s (log u_c - log(1 - u_c))), to the nearest level, m as in eq. 3

    Channels are drawn in turn, each shifted by the drawn earlier ones. Rounding to the nearest
    level, the ends included, makes it an exact sample of `discretized_logistic_mixture_log_prob`.

    Args:
        parameters: (..., H, W, P), as in `discretized_logistic_mixture_log_prob`.
        uniform_component: (..., H, W, K), uniform noise in [0, 1] for the choice of a component.
        uniform_logistic: (..., H, W, C), uniform noise in [0, 1] for the channels.
    Returns: (..., H, W, C). Source: arXiv:1701.05517, eq. 1 and 3.
    """
    uniform_component, uniform_logistic = _float32(uniform_component, uniform_logistic)
    components, channels = uniform_component.shape[-1], uniform_logistic.shape[-1]
    logits, means, log_scales, coefficients = _split(parameters, channels)
    if logits.shape[-1] != components:
        raise ValueError(
            "`uniform_component` must have one entry a component on its last axis. Received: "
            f"uniform_component.shape={tuple(uniform_component.shape)} for "
            f"{logits.shape[-1]} components."
        )
    # Generators return 0, which would send a pixel to an end of the range, however improbable.
    # Float32 ones are spaced by about 1e-7: nothing else is moved.
    uniform_component = ops.clip(uniform_component, 1e-7, 1.0 - 1e-7)
    uniform_logistic = ops.clip(uniform_logistic, 1e-7, 1.0 - 1e-7)

    gumbel = -ops.log(-ops.log(uniform_component))
    chosen = ops.one_hot(ops.argmax(logits + gumbel, axis=-1), components, dtype="float32")[
        ..., None, :
    ]
    means, log_scales, coefficients = (
        ops.sum(rows * chosen, axis=-1, keepdims=True) for rows in (means, log_scales, coefficients)
    )
    logistic = ops.log(uniform_logistic) - ops.log1p(-uniform_logistic)
    values = []
    for c in range(channels):
        mean = _conditional_mean(means, coefficients, values)
        value = mean + ops.exp(log_scales[..., c, :]) * logistic[..., c : c + 1]
        # Later channels must see what log_prob will see: the level, not the value before rounding.
        level = ops.clip(ops.round((value + 1.0) * 127.5), 0.0, 255.0)
        values.append(level / 127.5 - 1.0)
    return ops.round((ops.concatenate(values, axis=-1) + 1.0) * 127.5) / 255.0


def discretized_logistic_mixture_mean(parameters, channels):
    """E[x_c] = sum_k pi_k m_kc, m_kc = clip(mean_kc + sum_{j<c} tanh(coefficient_kcj) m_kj).

    The mean of a pixel up to clipping: the tails that the open end bins fold back are clipped at
    the mean of each component, not integrated, so it is off where a component overlaps an end.

    Args:
        parameters: (..., H, W, P), as in `discretized_logistic_mixture_log_prob`.
        channels: int, C, which `parameters` alone does not tell.
    Returns: (..., H, W, C), in [0, 1]. Source: arXiv:1701.05517, eq. 1 and 3.
    """
    logits, means, _, coefficients = _split(parameters, channels)
    weights = ops.exp(ops.log_softmax(logits, axis=-1))  # ops.softmax warns where K = 1
    values = []
    for _ in range(channels):
        values.append(ops.clip(_conditional_mean(means, coefficients, values), -1.0, 1.0))
    mean = ops.stack([ops.sum(weights * value, axis=-1) for value in values], axis=-1)
    return ops.clip(0.5 * (mean + 1.0), 0.0, 1.0)  # weights sum to 1 up to rounding only


def _float32(*tensors):
    """The arguments as float32 tensors: half precision has no room for a sum of log-densities."""
    return tuple(ops.cast(tensor, "float32") for tensor in tensors)


def _split(parameters, channels):
    """(..., P) -> logits (..., K), means, log-scales (..., C, K), coefficients (..., C(C-1)/2, K).

    Log-scales come clipped and coefficients bounded in (-1, 1) by tanh, as in the paper's code.
    """
    (parameters,) = _float32(parameters)
    rows = 1 + 2 * channels + channels * (channels - 1) // 2
    size = parameters.shape[-1]
    if size < rows or size % rows:
        raise ValueError(
            f"`parameters` must have a multiple of {rows} entries on its last axis for pixels of "
            f"channels={channels}. Received: parameters.shape={tuple(parameters.shape)}"
        )
    table = ops.reshape(parameters, (*ops.shape(parameters)[:-1], rows, size // rows))
    logits = table[..., 0, :]
    means = table[..., 1 : 1 + channels, :]
    log_scales = ops.clip(table[..., 1 + channels : 1 + 2 * channels, :], *LOG_SCALE_RANGE)
    coefficients = ops.tanh(table[..., 1 + 2 * channels :, :])
    return logits, means, log_scales, coefficients


def _conditional_mean(means, coefficients, earlier):
    """m_c = mean_c + sum_{j<c} coefficient_cj x_j, for the channel c = len(earlier) (eq. 3).

    Channel c's coefficients follow the 0 + 1 + ... + (c - 1) of the channels before it.
    """
    c = len(earlier)
    mean = means[..., c, :]
    for j, value in enumerate(earlier):
        mean = mean + coefficients[..., c * (c - 1) // 2 + j, :] * value
    return mean


def _log_bin(value, mean, log_scale):
    """log(sigmoid(a) - sigmoid(b)), a and b = (value +- 1/255 - mean) / s; open at the ends.

    The difference cancels to 0 in the tails, its factors do not:
    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), where a - b = 2/255 / s.
    """
    inverse_scale = ops.exp(-log_scale)
    below = ops.log_sigmoid((value + HALF_BIN - mean) * inverse_scale)  # log P(under upper edge)
    above = ops.log_sigmoid(-(value - HALF_BIN - mean) * inverse_scale)  # log P(over lower edge)
    inside = below + above + ops.log(-ops.expm1(-2.0 * HALF_BIN * inverse_scale))
    # Every branch is finite, so the gradients of those not taken are 0, not NaN.
    return ops.where(
        value < HALF_BIN - 1.0, below, ops.where(value > 1.0 - HALF_BIN, above, inside)
    )
