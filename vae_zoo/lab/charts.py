"""Charts of runs and of what they reach: searches, classifiers with few labels, links. `plots`
hands them on."""

import math

import numpy as np

from vae_zoo.lab.canvas import INK, TRAINING, VALIDATION, Picture, figure_of, legend, save, tidy


def accuracies(values, path=None) -> Picture:
    """Accuracy over the number of labels a class, one line a way of learning, its spread shaded.

    Args:
        values: dict, way -> {number of labels: accuracies of several draws}.
        path: of the picture, or None; see `plots`.
    """
    figure = figure_of(560, 380, layout="constrained")
    axes = figure.subplots()
    for way, by_labels in values.items():
        labels = sorted(by_labels)
        means = np.array([np.mean(by_labels[n]) for n in labels])
        spreads = np.array([np.std(by_labels[n]) for n in labels])
        (line,) = axes.plot(labels, means, marker="o", markersize=4, label=way)
        axes.fill_between(
            labels, means - spreads, means + spreads, color=line.get_color(), alpha=0.2
        )
    axes.set_xscale("log")
    axes.set_xticks(labels, [f"{n:,}" for n in labels])
    axes.minorticks_off()
    axes.set(xlabel="labels a class", ylabel="accuracy")
    axes.grid(alpha=0.25, linewidth=0.6)
    legend(figure, axes)
    tidy(axes)
    return save(figure, path)


def signal_to_noise(ratios, ks, path=None) -> Picture:
    """Signal-to-noise ratio of a gradient against the number of draws k, one line an estimate.

    Args:
        ratios: dict, name -> floats, one for each k.
        ks: ints.
        path: of the picture, or None; see `plots`.
    """
    figure = figure_of(480, 340, layout="constrained")
    axes = figure.subplots()
    for name, values in ratios.items():
        axes.plot(ks, values, marker="o", markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_xticks(ks, map(str, ks))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(xlabel="k, draws of the bound", ylabel="|mean| / standard deviation")
    axes.grid(alpha=0.25, linewidth=0.6)
    legend(figure, axes)
    tidy(axes)
    return save(figure, path)


def variances(values, path=None) -> Picture:
    """Variances of estimates of one gradient, as bars on a logarithmic scale.

    Args:
        values: dict, name -> float.
        path: of the picture, or None; see `plots`.
    """
    figure = figure_of(480, 70 + 40 * len(values), layout="constrained")
    axes = figure.subplots()
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color=TRAINING)
    axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set(xlabel="variance of an estimate of the gradient")
    tidy(axes)
    return save(figure, path)


def rate_distortion(rows, path=None) -> Picture:
    """Rate and distortion of trials, by their β where it differs, with the Pareto front: no trial
    has less of both. Or of runs, by their family.

    Args:
        rows: dicts with "rate" and "distortion" (nats), and "beta", "family" or none; others are
            left out.
        path: of the picture, or None; see `plots`.
    """
    rows = [row for row in rows if row.get("rate") is not None]
    rate, distortion = (np.array([row[name] for row in rows]) for name in ("rate", "distortion"))
    front = [i for i in np.argsort(rate) if (distortion[rate < rate[i]] > distortion[i]).all()]
    figure = figure_of(520, 400, layout="constrained")
    axes = figure.subplots()
    beta, families = ([row.get(name) for row in rows] for name in ("beta", "family"))
    if None in families:
        front = rate[front], distortion[front]
        axes.plot(*front, color=VALIDATION, label="Pareto front", zorder=1)
    if None not in families:
        for family in dict.fromkeys(families):
            own = np.array(families) == family
            axes.scatter(rate[own], distortion[own], s=30, label=family, zorder=2)
    elif None in beta:
        axes.scatter(rate, distortion, s=22, color=TRAINING, zorder=2)
    else:
        points = axes.scatter(rate, distortion, s=22, c=np.log10(beta), cmap="viridis", zorder=2)
        figure.colorbar(points, label="log10 β")
    axes.set(xlabel="rate, nats", ylabel="distortion, nats")
    axes.grid(alpha=0.25, linewidth=0.6)
    legend(figure, axes)
    tidy(axes)
    return save(figure, path)


def information(shares, latents, factors, path=None) -> Picture:
    """What each latent says of each factor, as a table of shaded numbers.

    Args:
        shares: float (latents, factors), I(z_j; v_k) / H(v_k).
        latents, factors: names of the rows and the columns.
        path: of the picture, or None; see `plots`.
    """
    figure = figure_of(200 + 70 * len(factors), 70 + 26 * len(latents), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (j, k), share in np.ndenumerate(shares):
        color = "white" if share > 0.5 else INK
        axes.text(k, j, f"{share:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(factors)), factors)
    axes.set_yticks(range(len(latents)), latents)
    axes.set(xlabel="mutual information, as a share of the factor's entropy")
    tidy(axes)
    axes.tick_params(length=0)
    return save(figure, path)


def roc(linked, scores, path=None) -> Picture:
    """The ROC curve of scores that tell linked pairs of nodes from others.

    Args:
        linked: bools (n,).
        scores: (n,).
        path: of the picture, or None; see `plots`.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    false, true, _ = roc_curve(linked, scores)
    figure = figure_of(400, 400, layout="constrained")
    axes = figure.subplots()
    area = roc_auc_score(linked, scores)
    axes.plot(false, true, color=TRAINING, label=f"model, area {area:.3f}")
    axes.plot([0, 1], [0, 1], color=VALIDATION, linestyle="--", linewidth=0.8, label="chance")
    axes.set(xlabel="share of other pairs above", ylabel="share of links above", aspect="equal")
    axes.grid(alpha=0.25, linewidth=0.6)
    legend(figure, axes)
    tidy(axes)
    return save(figure, path)


def search(rows, names, objective, path=None) -> Picture:
    """The objective of trials over each of their settings, a panel each.

    Args:
        rows: dicts of settings and numbers, as `tuning.table` returns them; those without the
            objective are left out.
        names: of the settings.
        objective: the name of the number on the vertical axis.
        path: of the picture, or None; see `plots`.
    """
    rows = [row for row in rows if row.get(objective) is not None]
    columns = min(3, len(names))
    figure = figure_of(300 * columns, 260 * math.ceil(len(names) / columns), layout="constrained")
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(math.ceil(len(names) / columns), columns, position)
        values = np.array([row[name] for row in rows], "float64")
        axes.scatter(values, [row[objective] for row in rows], s=18, color=TRAINING)
        if _spans_magnitudes(values):
            axes.set_xscale("log")
            ticks = np.geomspace(values.min(), values.max(), 4)
            axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(xlabel=name, ylabel=objective)
        axes.grid(alpha=0.25, linewidth=0.6)
        tidy(axes)
    return save(figure, path)


def parallel(rows, names, objective, path=None) -> Picture:
    """Parallel coordinates: a line a trial through its settings and its objective, the best dark.

    Args:
        rows, names, objective, path: see `search`; rows come best first.
    """
    rows = [row for row in rows if row.get(objective) is not None]
    names = [*names, objective]
    table = np.array([[row[name] for name in names] for row in rows], "float64")
    scaled = np.empty_like(table)
    for column, values in enumerate(table.T):
        if _spans_magnitudes(values):
            values = np.log(values)
        scaled[:, column] = (values - values.min()) / (np.ptp(values) or 1.0)
    figure = figure_of(130 * len(names) + 80, 360, layout="constrained")
    axes = figure.subplots()
    for rank, line in reversed(list(enumerate(scaled))):
        shade = rank / max(1, len(rows) - 1)
        axes.plot(line, color=str(0.1 + 0.75 * shade), linewidth=2.0 - 1.4 * shade)
    ends = [
        f"{name}\n{low:.3g} to {high:.3g}"
        for name, low, high in zip(names, table.min(axis=0), table.max(axis=0))
    ]
    axes.set_xticks(range(len(names)), ends)
    axes.set_yticks([])
    axes.grid(alpha=0.4, axis="x")
    tidy(axes)
    return save(figure, path)


def _spans_magnitudes(values):
    """Whether values are better read on a logarithmic axis."""
    return values.min() > 0 and values.max() > 8 * values.min()
