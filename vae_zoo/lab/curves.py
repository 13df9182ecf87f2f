"""What was logged while a model trained, as curves. `plots` hands them on."""

import math

import numpy as np

from vae_zoo.lab import terms
from vae_zoo.lab.canvas import (
    INK,
    TRAINING,
    VALIDATION,
    Picture,
    caption_of,
    figure_of,
    legend,
    save,
    tidy,
)

SKIPPED = 5  # the share of the epochs, 1 / this, that an axis may leave out at the start
FLAT = 3  # times the room of all others that these must take


def curves(history, path=None, units=None, monitor=None, caption=None) -> Picture:
    """What was logged, one panel a term: training and validation together, over the epochs.

    Where the first fifth of the epochs would press all others flat, the axis is cut to these, and
    the panel says so. The best epoch is marked.

    Args:
        history: dict, name -> a number an epoch; `val_` names go into the panel of their term, and
            a shorter list is spread evenly up to the last epoch. `skipped` is left out when no step
            was skipped. Numbers that are not finite leave a gap, and the panel says how many.
        path: of the picture, or None; see `plots`.
        units: dict, name -> unit, for terms that `terms.unit` knows nothing of.
        monitor: str, the term whose best epoch is marked; see `terms.best_epoch`.
        caption: str, below the panels.
    """
    history = {name: np.asarray(values, dtype="float64") for name, values in history.items()}
    order = ["loss", *terms.NAMES]
    shown = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    shown = [t for t in shown if any(v.size for v in _both(history, t).values())]
    shown = [t for t in shown if t != "skipped" or history[t].any()]
    shown.sort(key=lambda t: order.index(t) if t in order else len(order))
    if not shown:
        raise ValueError(f"`history` must hold at least one epoch. Received: {list(history)}")

    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = figure_of(380 * columns, 280 * rows + 30, layout="constrained")
    epochs = max(len(values) for values in history.values())
    best = terms.best_epoch(history, monitor)
    panels = []
    for position, term in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, position)
        _panel(axes, _both(history, term), epochs, term)
        name = terms.name(term)
        title = name if name.lower() == term.replace("_", " ") else f"{name} ({term})"
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        unit = {**(units or {})}.get(term, terms.unit(term, history))
        axes.set(xlabel="epoch", ylabel=unit)
        if best is not None:
            label = f"best epoch: {best}"
            axes.axvline(best, color=INK, linestyle=":", linewidth=1, label=label, zorder=0)
        panels.append(axes)
    legend(figure, panels)
    caption_of(figure, caption, 60 * columns)
    return save(figure, path)


def _both(history, term):
    """The curves of a term: those of training and of validation, as far as they say something."""
    names = {"training": term, "validation": f"val_{term}"}
    if term in ("beta", "skipped", "discriminator"):  # which are of training alone
        del names["validation"]
    return {label: history.get(name, np.empty(0)) for label, name in names.items()}


def _panel(axes, both, epochs, term):
    from matplotlib.ticker import MaxNLocator

    logarithmic, cut = term == "learning_rate", term not in ("learning_rate", "beta")
    gaps, drawn = 0, []
    for (label, values), colour in zip(both.items(), (TRAINING, VALIDATION)):
        if not values.size:
            continue
        at = np.arange(1, len(values) + 1) * (epochs // len(values))
        finite = np.where(np.isfinite(values), values, np.nan)
        # Few epochs are shown as points too: one point alone has no line.
        marker = "o" if np.isfinite(values).sum() <= 20 else None
        axes.plot(at, finite, color=colour, label=label, marker=marker, markersize=3)
        gaps += int(np.isnan(finite).sum())
        drawn.append(finite)
    first, limits = _cut(drawn)
    if limits and cut:
        axes.set_ylim(limits)
        axes.set_title(f"from epoch {first} on", fontsize=7, color=INK, loc="right")
    if logarithmic:
        axes.set_yscale("log")
    else:
        low, high = axes.get_ylim()
        middle = (low + high) / 2
        if high - low < 0.002 * abs(middle):  # rounding is no change
            axes.set_ylim(middle - 0.001 * abs(middle), middle + 0.001 * abs(middle))
        axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25, linewidth=0.6)
    if gaps:
        where = {"x": 0.5, "y": 0.5, "transform": axes.transAxes, "ha": "center"}
        axes.text(s=f"{gaps} not finite", color="#b00020", fontsize=9, **where)
    tidy(axes)


def _cut(drawn):
    """The first epoch that must be seen, and the limits of an axis that shows it and all later
    ones; None where an axis has room for all."""
    first = max(map(len, drawn)) // SKIPPED
    late = np.concatenate([values[len(values) // SKIPPED :] for values in drawn])
    late, everything = (v[np.isfinite(v)] for v in (late, np.concatenate(drawn)))
    if first < 2 or not late.size or np.ptp(everything) <= FLAT * np.ptp(late):
        return first + 1, None
    room = np.ptp(late) or abs(late[0]) or 1.0
    return first + 1, (late.min() - 0.05 * room, late.max() + 0.05 * room)
