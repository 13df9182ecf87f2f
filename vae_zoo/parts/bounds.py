"""What a bound on log p(x) is weighed by, and summed and averaged over."""

from keras import ops


def check_weight(name):
    """A function that raises `ValueError` unless its argument is a finite number >= 0."""

    def check(value):
        if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be >= 0. Received: {name}={value}")

    return check


def check_beta(beta):
    if not callable(beta) and not (isinstance(beta, (int, float)) and 0 <= beta < float("inf")):
        raise ValueError(
            f"`beta` must be a float >= 0 or a LearningRateSchedule. Received: beta={beta!r}"
        )


def weights_of(terms):
    """log w = log p(x|z) + log p(z) - log q(z|x) of `terms`."""
    log_likelihood, log_prior, log_posterior = terms
    return log_likelihood + log_prior - log_posterior


def check_samples(num_samples):
    """Raises `ValueError` unless it is 1 or more."""
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1. Received: {num_samples}")


def check_importance(name, value):
    """Raises `ValueError` where an attribute would weigh the KL, of which an importance-weighted
    bound has none."""
    plain = {"beta": 1.0, "free_bits": 0.0, "balance": False}
    if name in plain and value != plain[name]:
        raise ValueError(
            f"An importance-weighted bound has no KL to weigh: `{name}` must be {plain[name]}. "
            f"Received: {name}={value}"
        )


def summed(terms):
    """Over all but the batch."""
    return ops.sum(terms, axis=tuple(range(1, len(terms.shape))))


def over_draws(log_prob):
    """The mean over all axes but the batch, the last."""
    return ops.mean(log_prob, axis=tuple(range(len(log_prob.shape) - 1)))
