"""Latents as points of the plane. `plots` hands them on."""

import numpy as np

from vae_zoo.lab.canvas import INK, TRAINING, Picture, caption_of, figure_of, save, tidy

EMBEDDINGS = {"tsne": "t-SNE", "umap": "UMAP"}
MOST = 1000  # points that are embedded, which takes seconds


def latent_scatter(z, y, path=None, embedding=None, caption=None) -> Picture:
    """Latent codes as points, coloured by class.

    Args:
        z: (n, d). d = 2 is drawn as it is; d > 2 by its first two principal components, whose share
            of the variance stands on the axes (by its first two numbers where all points are one);
            d = 1 as a histogram.
        y: (n,) integer labels, or None. Up to 20 classes get a legend, more a colour bar.
        path: of the picture, or None; see `plots`.
        embedding: None; or "tsne" (van der Maaten and Hinton 2008) or "umap" (McInnes et al. 2018,
            arXiv:1802.03426; where it is installed), for a second panel of up to 1000 of the
            points, where there are ten or more in more than two dimensions.
        caption: str, below.
    """
    z, y = np.asarray(z), None if y is None else np.asarray(y)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"`z` must have the shape (n, d). Received: shape={z.shape}")
    if y is not None and (y.shape != z.shape[:1] or y.dtype.kind not in "iub"):
        raise ValueError(
            f"`y` must be {len(z)} integer labels. Received: shape={y.shape}, dtype={y.dtype}"
        )
    if not np.isfinite(z).all():
        wrong = int((~np.isfinite(z)).sum())
        raise ValueError(f"`z` must be finite. Received: {wrong} numbers that are not")
    if embedding not in (None, *EMBEDDINGS):
        raise ValueError(f"`embedding` must be tsne, umap or None. Received: {embedding!r}")

    labels = np.zeros(1, int) if y is None else np.unique(y)
    colours = np.asarray([TRAINING] if y is None else _class_colours(labels))
    index = np.zeros(len(z), int) if y is None else np.searchsorted(labels, y)
    both = embedding and len(z) >= 10 and z.shape[1] > 2 and np.ptp(z, axis=0).any()
    figure = figure_of(1240 if both else 720, 600, layout="constrained")
    panels = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    if z.shape[1] == 1:
        groups = [z[index == k, 0] for k in range(len(labels))]
        panels[0].hist(groups, bins=50, stacked=True, color=colours)
        panels[0].set(xlabel="$z_1$", ylabel="examples")
    else:
        plane, names = _plane(z)
        _cloud(panels[0], plane, colours[index])
        panels[0].set(xlabel=names[0], ylabel=names[1])
        panels[0].grid(alpha=0.25, linewidth=0.6)
    if both:
        rows = np.linspace(0, len(z) - 1, min(MOST, len(z))).astype(int)
        _cloud(panels[1], _embedded(z[rows], embedding), colours[index[rows]])
        what = f"{EMBEDDINGS[embedding]} of {len(rows):,} points: near ones stay near"
        panels[1].set_title(what, fontsize=9, color=INK)
        panels[1].set(xticks=[], yticks=[])
        panels[1].spines[:].set_visible(False)
    if y is not None:
        _class_key(figure, panels, labels, colours)
    for axes in panels:
        tidy(axes)
    caption_of(figure, caption, 180 if both else 100)
    return save(figure, path)


def _cloud(axes, plane, colours):
    size = float(np.clip(20_000 / len(plane), 3, 25))
    # One call in the order of the data: drawn class by class, the last would hide the others.
    axes.scatter(*plane.T, c=colours, s=size, alpha=0.7, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")


def _plane(z):
    """(n, d) -> (n, 2) and the names of the two axes: z itself, or its principal components."""
    if z.shape[1] == 2:
        return z, ("$z_1$", "$z_2$")
    if len(z) < 2 or not np.ptp(z, axis=0).any():  # without a variance to have components of
        return z[:, :2], ("$z_1$", "$z_2$")
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    plane = pca.fit_transform(z)
    first, second = 100 * pca.explained_variance_ratio_
    return plane, (
        f"principal component 1 ({first:.0f} % of the variance)",
        f"principal component 2 ({second:.0f} % of the variance)",
    )


def _embedded(z, method):
    """(n, d) -> (n, 2) in which what is near stays near, by t-SNE or UMAP."""
    if method == "tsne":
        from sklearn.manifold import TSNE

        near = min(30.0, (len(z) - 1) / 3)
        return TSNE(perplexity=near, init="pca", max_iter=500, random_state=0).fit_transform(z)
    try:
        from umap import UMAP
    except ImportError:
        raise ImportError('embedding="umap" needs pip install umap-learn') from None
    return UMAP(random_state=0).fit_transform(z)


def _class_colours(labels):
    """A colour (hex) for each of the sorted labels: distinct ones up to 20, then a scale."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if len(labels) > 20:
        shares = (labels - labels[0]) / (labels[-1] - labels[0])
        return [to_hex(colour) for colour in colormaps["viridis"](shares)]
    name = "tab10" if len(labels) <= 10 else "tab20"
    return [to_hex(colormaps[name](k)) for k in range(len(labels))]


def _class_key(figure, panels, labels, colours):
    """Say which colour is which label: a legend beside the axes, or a bar for more than 20."""
    if len(labels) <= 20:
        from matplotlib.patches import Patch

        patches = [
            Patch(color=colour, label=str(k)) for k, colour in zip(labels, colours, strict=True)
        ]
        figure.legend(
            handles=patches, title="class", loc="outside right center", frameon=False, fontsize=9
        )
    else:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(labels[0], labels[-1]), "viridis")
        figure.colorbar(scale, ax=panels, label="class")
