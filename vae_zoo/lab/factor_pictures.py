"""Pictures of what each latent of a VAE does, and of the factors that it tells."""

import numpy as np

from vae_zoo.lab import charts, disentanglement, factor_numbers
from vae_zoo.lab.canvas import animate, in_rows, page, rgb, sheet

VALUES = np.linspace(-2.0, 2.0, 9)  # of a latent, whose prior is N(0, 1)
CLEAR = 0.1  # nats of a latent, and its share of a factor's entropy, to be named by the factor


def pictures(model, x, factors, names, output, num_images=10_000, seed=0):
    """Draws traversals, the same as an animation, and the matrix of mutual information.

    Args:
        model: VAE of a vector of latents.
        x, factors, names: the whole set, see `data.factors.load`.
        output: path of a folder.
        num_images: int, examples that latents are sorted and named by.
        seed: int, of these.

    Yields:
        path, what it shows.
    """
    rows = factor_numbers.drawn(len(x), num_images, seed)
    mean, log_var = factor_numbers.posteriors(model, x, rows)
    if not np.isfinite([mean, log_var]).all():  # of a model that has diverged
        return
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).mean(axis=0)
    order = np.argsort(-kl)
    shares, told = shares_of(mean, factors[rows], names)
    best = [told[k] if share[k] > CLEAR else "" for share in shares for k in [np.argmax(share)]]
    titles = [f"z{j + 1} {best[j] if kl[j] > CLEAR else ''}".strip() for j in order]
    labels = [f"{title}, {kl[j]:.1f} nats" for title, j in zip(titles, order)]

    made = model.domain.pictures(traversals(model, mean[0], order))
    if made is not None:
        tiles = rgb(made.reshape(-1, *made.shape[2:]))
        tiles = tiles.reshape(*made.shape[:2], *tiles.shape[1:])
        values = [f"{value:g}" for value in VALUES]
        path = sheet(tiles, output / "traversals.png", titles=values, labels=labels)
        yield path, "one latent a row, by its KL, at values from -2 to 2; the others stay"
        steps = [*range(len(VALUES)), *range(len(VALUES) - 2, 0, -1)]
        frames = [page(in_rows(tiles[:, i], 5), titles=titles) for i in steps]
        yield animate(frames, output / "traversals.gif"), "the same, moving"
    path = output / "mutual_information.png"
    yield charts.information(shares[order], labels, told, path), "what a latent tells of a factor"


def traversals(model, z, order, values=VALUES):
    """Examples (latents, values, *shape): each latent in this order at each value, the others as in
    z, float (latents,)."""
    rows = np.tile(z, (len(order), len(values), 1))
    rows[np.arange(len(order)), :, order] = values
    made = model.decode(rows.reshape(-1, len(z)))
    return made.reshape(len(order), len(values), *made.shape[1:])


def shares_of(codes, factors, names):
    """I(z_j; v_k) / H(v_k), float (latents, factors), of the factors that vary, and their names."""
    told = [name for name, column in zip(names, factors.T) if np.ptp(column)]
    information = disentanglement.mutual_information(codes, factors)
    return information / disentanglement.entropies(disentanglement.varying(factors)), told
