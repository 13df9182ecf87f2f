"""What is logged, as a reader meets it: the names and the units of terms."""

import re

import numpy as np

NAMES = {  # in the order in which they are read
    "elbo": "ELBO",
    "iwae": "IWAE bound",
    "kl": "rate",
    "reconstruction": "distortion",
    "nll": "NLL",
    "squared_error": "squared error",
    "accuracy": "accuracy",
    "perplexity": "perplexity",
    "codes_used": "codes used",
}
NATS = "nats per example"
UNITS = {  # of what is no number of nats, several grids of codes included
    "beta": "weight of the KL",
    "skipped": "updates",
    "perplexity": "codes",
    "codes_used": "share of the codes",
    "accuracy": "share",
    "learning_rate": "size of a step",
    "squared_error": "squares summed over pixels",
}


def name(term):
    """The name of a term in words."""
    return NAMES.get(term, term.replace("_", " "))


def unit(term, logged=()):
    """The unit of a term; `logged` are all terms of its run, which say what the loss is made of."""
    if term == "loss" and "squared_error" in logged:
        return UNITS["squared_error"]
    return next((unit for start, unit in UNITS.items() if term.startswith(start)), NATS)


def line(logs, monitor):
    """The terms of an epoch in words and numbers, for a line: the monitored one, then its parts.

    The bound on validation data is a sum of what stands beside it. The loss is left out where it
    says the same, and the KL of single scales, whose sum is there.

    Args:
        logs: dict of floats, those of validation data named `val_…`.
        monitor: str, the term whose best epoch is kept, `val_` included.

    Returns:
        list of pairs (name, value).
    """
    monitor = monitor.removeprefix("val_")
    held_out = {k.removeprefix("val_"): v for k, v in logs.items() if k.startswith("val_")}
    parts = [k for k in held_out if k not in ("loss", "beta", "skipped")]
    parts = [k for k in parts if not re.fullmatch(r"kl_\d+", k)]
    if monitor == "loss":  # which may be a term that has a name
        monitor = next((k for k in parts if held_out[k] == held_out["loss"]), "loss")
    order = [monitor, *NAMES]
    parts = dict.fromkeys([monitor, *parts])
    parts = sorted(parts, key=lambda k: order.index(k) if k in order else len(order))
    return [(name(part), held_out[part]) for part in parts]


def best_epoch(history, monitor=None):
    """The number, from 1, of the epoch with the best number of validation.

    Args:
        history: dict, name -> a number an epoch.
        monitor: str, what it is judged by, the least of a loss, the highest of all else; None takes
            the bound, without one the loss.

    Returns:
        int; None where there is no such number.
    """
    names = [monitor] if monitor else ["val_iwae", "val_elbo", "val_loss"]
    name = next((name for name in names if name in history), None)
    values = np.array(history.get(name, []), "float64")
    if np.isnan(values).all():
        return None
    return 1 + int((np.nanargmin if name == "val_loss" else np.nanargmax)(values))
