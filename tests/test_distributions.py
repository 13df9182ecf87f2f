"""`vae_zoo.distributions` against scipy, integration, Monte Carlo and a second implementation."""

import keras
import numpy as np
import pytest
from scipy import integrate, special, stats

from vae_zoo import distributions as d

# Keras 3.15 itself calls np.array on a torch tensor, which NumPy 2.4 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LEVELS = np.arange(256, dtype="float32") / 255


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def fast(function):
    """On JAX, compiled as one piece: op by op, it would compile each for each new shape."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def dlm_log_prob(x, parameters):
    return array(fast(d.discretized_logistic_mixture_log_prob)(x, parameters))


def dlm_sample(parameters, uniform_component, uniform_logistic):
    function = fast(d.discretized_logistic_mixture_sample)
    return array(function(parameters, uniform_component, uniform_logistic))


def dlm_mean(parameters, channels):
    function = fast(lambda p: d.discretized_logistic_mixture_mean(p, channels))
    return array(function(parameters))


def gradients(function, *arrays):
    """d sum(function(*arrays)) / d each array; Keras has no gradient common to its backends."""
    arrays = [np.asarray(a, "float32") for a in arrays]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variables = [tf.Variable(a) for a in arrays]
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(function(*variables))
        return [g.numpy() for g in tape.gradient(total, variables)]
    if backend == "jax":
        import jax

        total = lambda *a: keras.ops.sum(function(*a))  # noqa: E731
        gradient = fast(jax.grad(total, tuple(range(len(arrays)))))
        return [np.asarray(g) for g in gradient(*arrays)]
    import torch

    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    function(*tensors).sum().backward()
    return [t.grad.numpy() for t in tensors]


# Elementwise densities


@pytest.fixture
def draws():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 200)).astype("float32") * [[2.0], [1.0], [1.5]]


def test_gaussian_log_prob_is_scipys(draws):
    x, mean, log_var = draws
    expected = stats.norm.logpdf(x, mean, np.exp(log_var / 2))
    np.testing.assert_allclose(array(d.gaussian_log_prob(x, mean, log_var)), expected, rtol=1e-5)


def test_laplace_log_prob_is_scipys(draws):
    x, mean, log_scale = draws
    expected = stats.laplace.logpdf(x, mean, np.exp(log_scale))
    np.testing.assert_allclose(
        array(d.laplace_log_prob(x, mean, log_scale)), expected, rtol=1e-5, atol=1e-6
    )


def test_bernoulli_log_prob_is_scipys(draws):
    logits = 3 * draws[0]
    for x in (0, 1):
        expected = stats.bernoulli.logpmf(x, special.expit(logits))
        np.testing.assert_allclose(array(d.bernoulli_log_prob(x, logits)), expected, atol=1e-5)


def test_bernoulli_log_prob_of_huge_logits():
    logits = np.float32([1e4, 1e4, -1e4, -1e4])
    x = np.float32([1, 0, 1, 0])
    assert array(d.bernoulli_log_prob(x, logits)).tolist() == [0, -1e4, -1e4, 0]
    (gradient,) = gradients(lambda logits: d.bernoulli_log_prob(x, logits), logits)
    assert gradient.tolist() == [0, -1, 1, 0]


def test_gaussian_sample_maps_quantiles_to_quantiles():
    q = np.linspace(0.01, 0.99, 50)
    sample = array(d.gaussian_sample(-0.7, 1.2, stats.norm.ppf(q)))
    np.testing.assert_allclose(sample, stats.norm(-0.7, np.exp(0.6)).ppf(q), rtol=1e-4, atol=1e-5)


def test_half_precision_comes_out_as_float32_without_rounding():
    x, mean, log_var = np.float16([[3.0], [0.25], [-6.0]])
    exact = stats.norm.logpdf(3.0, 0.25, np.exp(-3.0))  # -1524: float16 has steps of 1 there
    log_prob = array(d.gaussian_log_prob(x, mean, log_var))
    assert log_prob.dtype == "float32"
    np.testing.assert_allclose(log_prob, [exact], rtol=1e-5)


# Kullback-Leibler divergence

KL_CASES = [
    (0.5, -1.0, 0.0, 0.0),
    (-2.0, 0.7, 0.0, 0.0),
    (0.3, 0.2, 1.5, -0.8),
    (0.0, -3.0, -0.4, 1.1),
]


@pytest.mark.parametrize("case", KL_CASES)
def test_gaussian_kl_is_the_integral(case):
    mean, log_var, prior_mean, prior_log_var = case
    q = stats.norm(mean, np.exp(log_var / 2))
    p = stats.norm(prior_mean, np.exp(prior_log_var / 2))
    integral, _ = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), *q.interval(1 - 1e-13), limit=200
    )
    np.testing.assert_allclose(array(d.gaussian_kl(*case)), integral, rtol=1e-5)


@pytest.mark.parametrize("case", KL_CASES)
def test_gaussian_kl_is_the_monte_carlo_mean(case):
    mean, log_var, prior_mean, prior_log_var = case
    noise = np.random.default_rng(1).normal(size=100_000)
    z = d.gaussian_sample(mean, log_var, noise)
    ratio = d.gaussian_log_prob(z, mean, log_var) - d.gaussian_log_prob(
        z, prior_mean, prior_log_var
    )
    ratio = array(ratio).astype("float64")
    error = ratio.std() / np.sqrt(ratio.size)
    assert abs(ratio.mean() - array(d.gaussian_kl(*case))) < 4 * error


def test_gaussian_kl_default_prior_and_its_minimum():
    mean, log_var = np.float32([1.0, 0.0, 1e-3]), np.float32([0.5, 0.0, 2e-3])
    exact = 0.5 * (mean.astype("float64") ** 2 + np.expm1(log_var.astype("float64")) - log_var)
    np.testing.assert_allclose(array(d.gaussian_kl(mean, log_var)), exact, rtol=1e-3)
    same = array(d.gaussian_kl(1.7, -2.0, 1.7, -2.0))
    assert same == 0
    assert all(np.isfinite(g).all() for g in gradients(d.gaussian_kl, mean, log_var, mean, log_var))


# Discretised logistic mixture


def rows_for(channels):
    return 1 + 2 * channels + channels * (channels - 1) // 2


def table_of(shape, channels, components, seed, mean=0.5, log_scale=(-3.0, 1.0)):
    """Random parameters as a table (*shape, rows, K): logits, means, log-scales, coefficients."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(*shape, rows_for(channels), components))
    table[..., 1 : 1 + channels, :] *= mean
    log_scales = table[..., 1 + channels : 1 + 2 * channels, :]
    log_scales[...] = log_scale[0] + log_scale[1] * log_scales
    return table.astype("float32")


def flat(table):
    return table.reshape(*table.shape[:-2], -1)


def reference_pixel(levels, table):
    """float64 log-probability of one pixel: integer levels (C,), a table (rows, K)."""
    table = table.astype("float64")
    channels, components = len(levels), table.shape[1]
    v = [level / 127.5 - 1 for level in levels]
    logs = special.log_softmax(table[0])
    for k in range(components):
        row = 1 + 2 * channels
        for c, level in enumerate(levels):
            loc = table[1 + c, k]
            for j in range(c):
                loc += np.tanh(table[row, k]) * v[j]
                row += 1
            scale = np.exp(np.clip(table[1 + channels + c, k], -7, 7))
            # Mirror the bin to the left of the mean, where the CDFs are small, not near 1.
            high, low = (v[c] + 1 / 255 - loc) / scale, (v[c] - 1 / 255 - loc) / scale
            high, low = (np.inf if level == 255 else high), (-np.inf if level == 0 else low)
            if high + low > 0:
                high, low = -low, -high
            upper, lower = stats.logistic.logcdf(high), stats.logistic.logcdf(low)
            logs[k] += upper + np.log1p(-np.exp(lower - upper))
    return special.logsumexp(logs)


def reference(levels, table):
    pixels = levels.reshape(-1, levels.shape[-1])
    tables = table.reshape(-1, *table.shape[-2:])
    flat_result = [reference_pixel(p, t) for p, t in zip(pixels, tables, strict=True)]
    return np.array(flat_result).reshape(levels.shape[:-1])


@pytest.mark.parametrize("channels, components", [(1, 5), (2, 1), (3, 4), (4, 2)])
@pytest.mark.parametrize("log_scale", [(-3.0, 1.0), (-6.5, 1.0), (3.0, 3.0)])
def test_dlm_log_prob_is_the_reference(channels, components, log_scale):
    # Narrow scales put most levels far out in the tails: log-probabilities down to -1000s.
    table = table_of((2, 5, 6), channels, components, seed=channels, log_scale=log_scale)
    levels = np.random.default_rng(7).integers(256, size=(2, 5, 6, channels))
    levels[0, 0, :2], levels[0, 0, 2:4] = 0, 255
    result = dlm_log_prob(LEVELS[levels], flat(table))
    assert result.shape == (2, 5, 6) and result.dtype == "float32"
    # The float32 rounding of (x - mean) is multiplied by 1/s = 1100 when log-scales are at -7.
    np.testing.assert_allclose(result, reference(levels, table), rtol=2e-5, atol=1e-3)


def test_dlm_log_prob_broadcasts_leading_axes():
    table = table_of((4, 2, 3, 3), 3, 2, seed=3)
    levels = np.random.default_rng(4).integers(256, size=(2, 3, 3, 3))
    result = dlm_log_prob(LEVELS[levels], flat(table))
    expected = np.stack([reference(levels, t) for t in table])
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_dlm_probabilities_of_the_256_levels_sum_to_1():
    ordinary = table_of((20,), 1, 5, seed=0)
    spread = table_of((20,), 1, 5, seed=1, mean=3.0, log_scale=(0.0, 6.0))
    # logits, mean, log-scale of single components: between levels, on an edge, far out, flat.
    corners = [(0, m, s) for m in (0, 1, -1, 1 / 255, 0.99, 50, -1e6) for s in (-50, -7, -1, 50)]
    corners = np.repeat(np.float32(corners)[..., None], 5, axis=-1)
    table = np.concatenate([ordinary, spread, corners])
    x = LEVELS[:, None, None]  # (256 levels, pixels, 1 channel)
    log_prob = dlm_log_prob(x, flat(table))
    np.testing.assert_allclose(np.exp(log_prob.astype("float64")).sum(0), 1, atol=1e-4)


def test_dlm_summing_out_the_last_channel_leaves_the_joint_of_the_first():
    table = table_of((10,), 3, 4, seed=5)
    two = table[:, [0, 1, 2, 4, 5, 7]]  # logits, two means, two log-scales, one coefficient
    one = table[:, [0, 1, 4]]
    first = np.random.default_rng(6).integers(256, size=(10, 2))
    x = np.empty((256, 10, 3), "float32")
    x[..., :2], x[..., 2] = LEVELS[first], LEVELS[:, None]
    joint = dlm_log_prob(x, flat(table))
    of_two = dlm_log_prob(x[0, :, :2], flat(two))
    np.testing.assert_allclose(special.logsumexp(joint, axis=0), of_two, rtol=1e-5, atol=1e-4)
    x[..., 1] = LEVELS[:, None]
    joint = dlm_log_prob(x[..., :2], flat(two))
    of_one = dlm_log_prob(x[0, :, :1], flat(one))
    np.testing.assert_allclose(special.logsumexp(joint, axis=0), of_one, rtol=1e-5, atol=1e-4)


def test_dlm_gradient_is_the_finite_difference_of_the_reference():
    table = table_of((3,), 3, 2, seed=8)
    levels = np.array([[0, 17, 255], [100, 120, 3], [255, 255, 0]])
    (gradient,) = gradients(
        lambda p: d.discretized_logistic_mixture_log_prob(LEVELS[levels], p), flat(table)
    )
    step = 1e-5
    for pixel in range(3):
        for index in np.ndindex(table.shape[1:]):
            high, low = table[pixel].astype("float64"), table[pixel].astype("float64")
            high[index] += step
            low[index] -= step
            slope = reference_pixel(levels[pixel], high) - reference_pixel(levels[pixel], low)
            position = np.ravel_multi_index(index, table.shape[1:])
            np.testing.assert_allclose(
                gradient[pixel, position], slope / (2 * step), rtol=1e-3, atol=1e-3
            )


def test_dlm_values_and_gradients_are_finite_at_extreme_parameters():
    rng = np.random.default_rng(9)
    extremes = np.float32([0, 1, -1, 7, -7, 1e2, -1e2, 1e4, -1e4, 1e10, -1e10])
    parameters = rng.choice(extremes, size=(400, 3 * rows_for(3)))
    parameters[: len(extremes)] = extremes[:, None]
    x = LEVELS[rng.choice([0, 1, 128, 254, 255], size=(400, 3))]
    log_prob = dlm_log_prob(x, parameters)
    assert np.isfinite(log_prob).all() and (log_prob < 1e-3).all()
    of_x, of_parameters = gradients(d.discretized_logistic_mixture_log_prob, x, parameters)
    assert np.isfinite(of_parameters).all() and np.isfinite(of_x).all()


# Samples and the mean


def sample(table, count, channels, seed=0):
    rng = np.random.default_rng(seed)
    components = table.shape[-1]
    pixels = np.broadcast_to(flat(table), (count, flat(table).shape[-1]))
    x = dlm_sample(pixels, rng.random((count, components)), rng.random((count, channels)))
    levels = np.round(255 * x)
    np.testing.assert_allclose(x, levels / 255, rtol=1e-6)
    assert x.dtype == "float32" and x.min() >= 0 and x.max() <= 1
    return x, levels.astype(int)


def chi_square_p(observed, probabilities):
    """p-value of the counts; cells that expect fewer than 5 are pooled."""
    expected = observed.sum() * probabilities
    small = expected < 5
    observed = np.append(observed[~small], observed[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    return stats.chi2.sf(statistic, len(observed) - 1)


def test_dlm_samples_have_the_probabilities_of_the_levels():
    # Three components, one of them across the lower end, one narrower than a bin.
    table = np.float32([[0.0, 0.5, -1.0], [-0.9, 0.3, 0.8], [-2.0, -2.5, -7.0]])
    _, levels = sample(table, 50_000, channels=1)
    log_prob = dlm_log_prob(LEVELS[:, None], flat(table))
    assert chi_square_p(np.bincount(levels[:, 0], minlength=256), np.exp(log_prob)) > 1e-3


def test_dlm_samples_have_the_joint_probabilities_of_two_channels():
    # Logits, two means, two log-scales, one strong coefficient a component, of opposite signs.
    table = np.float32([[0, 1], [-0.3, 0.4], [0.1, 0.5], [-1.5, -2], [-3, -2], [1.5, -1.0]])
    _, levels = sample(table, 50_000, channels=2)
    pairs = np.stack(np.meshgrid(LEVELS, LEVELS, indexing="ij"), axis=-1)
    joint = np.exp(dlm_log_prob(pairs, flat(table)))
    cells = joint.astype("float64").reshape(16, 16, 16, 16).sum((1, 3))
    counts = np.zeros((16, 16))
    np.add.at(counts, tuple(levels.T // 16), 1)
    assert chi_square_p(counts.ravel(), cells.ravel()) > 1e-3


def test_dlm_sample_inverts_the_conditional_cdf_of_the_third_channel():
    count = 100
    table = table_of((count,), 3, 1, seed=10)  # one component: the sample is a function of u
    u = np.random.default_rng(11).random((count, 3)).astype("float32")
    x = dlm_sample(flat(table), np.ones((count, 1)), u)
    candidates = np.tile(x, (256, 1, 1))
    candidates[..., 2] = LEVELS[:, None]
    joint = dlm_log_prob(candidates, flat(table))
    cdf = np.cumsum(special.softmax(joint.astype("float64"), axis=0), axis=0)
    level = np.round(255 * x[:, 2]).astype(int)
    upper = cdf[level, range(count)]
    lower = np.where(level > 0, cdf[level - 1, range(count)], 0)
    assert ((lower - 1e-4 <= u[:, 2]) & (u[:, 2] <= upper + 1e-4)).all()


def test_dlm_sample_survives_noise_of_0_and_1_and_extreme_parameters():
    extremes = np.float32([0, 1, -7, 1e4, -1e4, 1e10])
    parameters = np.random.default_rng(12).choice(extremes, size=(300, 2 * rows_for(3)))
    for u in (0.0, 0.5, 1.0):
        x = dlm_sample(parameters, np.full((300, 2), u), np.full((300, 3), u))
        assert np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize("u, end", [(0.0, -1), (1.0, 1)])
def test_dlm_sample_with_noise_of_0_or_1_is_still_a_likely_one(u, end):
    # Equal noise for all components: the likelier is chosen. Its tail ends 16 scales off, not at
    # infinity: log(1e-7) = -16. A level 100 scales away would cost the log-probability -100.
    table = np.float32([[0, 3], [-0.9, 0.2], [-5, -5]])
    x = dlm_sample(flat(table), np.full(2, u), np.full(1, u))
    np.testing.assert_allclose(2 * x - 1, 0.2 + end * 16.1 * np.exp(-5), atol=1 / 255)


def test_dlm_mean_is_the_mean_of_samples_away_from_the_ends():
    table = table_of((), 3, 4, seed=13, mean=0.15, log_scale=(-3.5, 0.2))
    x, _ = sample(table, 50_000, channels=3)
    mean = dlm_mean(flat(table), channels=3)
    assert mean.shape == (3,)
    error = x.std(0) / np.sqrt(len(x))
    assert (np.abs(x.mean(0) - mean) < 4 * error + 1e-4).all()


def test_dlm_mean_is_clipped_before_it_shifts_later_channels():
    # The first channel saturates at level 255 (v = 1), whatever its mean; tanh(9) = 1 shifts by 1.
    table = np.float32([[0], [40], [-0.6], [-5], [-5], [9]])
    x, _ = sample(table, 1000, channels=2)
    mean = dlm_mean(flat(table), channels=2)
    np.testing.assert_allclose(mean, [1.0, 0.7], atol=1e-6)
    np.testing.assert_allclose(x.mean(0), mean, atol=2e-3)


def test_dlm_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"multiple of 10 .*channels=3.*\(2, 2, 29\)"):
        d.discretized_logistic_mixture_log_prob(np.zeros((2, 2, 3)), np.zeros((2, 2, 29)))
    with pytest.raises(ValueError, match=r"multiple of 3 .*channels=1.*\(2, 2, 2\)"):
        d.discretized_logistic_mixture_mean(np.zeros((2, 2, 2)), channels=1)
    with pytest.raises(ValueError, match=r"uniform_component.shape=\(2, 5\) for 4 components"):
        d.discretized_logistic_mixture_sample(np.zeros((2, 40)), np.zeros((2, 5)), np.zeros((2, 3)))
