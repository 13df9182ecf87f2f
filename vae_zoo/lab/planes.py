"""Pictures of densities of the plane. `plots` hands them on."""

import numpy as np

from vae_zoo.lab.canvas import TRAINING, Picture, figure_of, save, tidy


def density(x, new, log_prob, path=None, points=200) -> Picture:
    """Points of the plane, the density of a model, and what it draws, side by side.

    Args:
        x: data (n, 2).
        new: samples of the model (m, 2).
        log_prob: function of NumPy points (k, 2) -> (k,), nats.
        path: of the picture, or None; see `plots`.
        points: int, at which the density is taken along each axis.
    """
    x, new = np.asarray(x), np.asarray(new)
    low, high = x.min(axis=0), x.max(axis=0)
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    axes = [np.linspace(*ends, points, dtype="float32") for ends in zip(low, high)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    image = np.exp(np.float64(log_prob(grid))).reshape(points, points)
    figure = figure_of(960, 340, layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    left.scatter(*x.T, s=3, color=TRAINING, linewidths=0)
    middle.imshow(image, origin="lower", extent=(low[0], high[0], low[1], high[1]), cmap="viridis")
    right.scatter(*new.T, s=3, color=TRAINING, linewidths=0)
    for axes, title in ((left, "data"), (middle, "density"), (right, "samples")):
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        axes.set_title(title, fontsize=9)
        tidy(axes)
    return save(figure, path)


def steps(points, path=None, columns=5) -> Picture:
    """Points on their way through a chain of maps, each in the colour of where it began.

    Args:
        points: list of (n, 2), before the first map and after each.
        path: of the picture, or None; see `plots`.
        columns: int, panels in a row.
    """
    points = [np.asarray(x) for x in points]
    began = points[0] - points[0].mean(axis=0)
    angle = np.arctan2(began[:, 1], began[:, 0])
    rows = -(-len(points) // columns)
    figure = figure_of(200 * columns, 210 * rows, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for k, axes in enumerate(panels):
        if k >= len(points):
            axes.set_axis_off()
            continue
        axes.scatter(*points[k].T, s=3, c=angle, cmap="twilight", linewidths=0)
        axes.set_title("noise" if k == 0 else f"after {k}", fontsize=9)
        axes.set_aspect("equal", adjustable="datalim")
        tidy(axes)
    return save(figure, path)
