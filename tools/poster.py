"""Draws the README's picture, six systems of the zoo side by side: python tools/poster.py

It takes trained models from the zoo and the citations of Cora from $VAE_ZOO_DATA.
"""

import pathlib
import sys

import numpy as np

from vae_zoo import cli, data, zoo
from vae_zoo.lab import canvas
from vae_zoo.restoration import restore

ROOT = pathlib.Path(__file__).parent.parent
SIDE, WORDS = 320, 24  # pixels of a panel, and of the line below it


def poster(output=str(ROOT / "recipes" / "systems.png"), seed=0):
    """Draw six systems and write the picture.

    Args:
        output: the file
        seed: of what is sampled
    """
    panels = {
        "VAE: the plane of a two-dimensional latent": _tiles(_plane(), 10),
        "conditional VAE: a class a row, a latent a column": _tiles(_classes(seed), 10),
        "hierarchical VAE: samples": _tiles(_samples("hierarchical_vae_mnist", 100, seed), 10),
        "convolutional VAE: faces it drew": _tiles(_samples("conv_vae_frey_faces", 35, seed), 7),
        "mixture of Gaussians: a photograph denoised": _denoised(seed),
        "graph VAE: papers of Cora, by topic": None,
    }
    figure = canvas.figure_of(3 * SIDE, 2 * (SIDE + WORDS))
    for i, (words, image) in enumerate(panels.items()):
        row, column = divmod(i, 3)
        x, y = column / 3, (1 - row) / 2
        share = SIDE / (2 * (SIDE + WORDS))
        place = [x + 0.005, y + (0.5 - share), 1 / 3 - 0.01, share - 0.01]
        axes = figure.add_axes(place)
        axes.set_axis_off()
        if image is None:
            _graph(axes)
        else:
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none")
        figure.text(x + 1 / 6, y + 0.012, words, ha="center", fontsize=9, color=canvas.INK)
    canvas.save(figure, output, limit=150_000)
    print(f"{output}  six systems of the zoo")


def _tiles(images, columns):
    """One image of (n, height, width, channels), `columns` a row."""
    n, height, width, channels = images.shape
    image = images.reshape(n // columns, columns, height, width, channels)
    return image.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, channels)


def _plane():
    from scipy.stats import norm

    steps = norm.ppf(np.linspace(0.05, 0.95, 10))
    z = np.stack(np.meshgrid(steps, -steps), axis=-1).reshape(-1, 2)
    return zoo.load("dense_vae_mnist_2d").decode(np.float32(z))


def _classes(seed):
    model = zoo.load("conditional_vae_mnist")
    z = np.random.default_rng(seed).normal(size=(10, model.latent_dim))
    return model.decode(np.float32(np.tile(z, (10, 1))), np.repeat(np.arange(10), 10))


def _samples(name, n, seed):
    return np.asarray(zoo.load(name).sample(n, seed=seed))


def _denoised(seed, sigma=40):
    """The left half with noise of `sigma` grey levels, the right one without it."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    clean = np.asarray(Image.fromarray(load_sample_image("china.jpg")).convert("L"))
    clean = clean[100:324, 180:404, None] / 255
    noisy = clean + np.random.default_rng(seed).normal(0, sigma / 255, clean.shape)
    image = restore(noisy, zoo.load("gmm_patches_bsds"), sigma / 255)
    half = clean.shape[1] // 2
    return np.clip(np.concatenate([noisy[:, :half], image[:, half:]], axis=1), 0, 1)


def _graph(axes):
    from matplotlib.collections import LineCollection
    from sklearn.manifold import TSNE

    graph = data.graph("cora")
    z = zoo.load("graph_vae_cora").encode(*data.load("cora", "train"))[0]
    plane = TSNE(random_state=0).fit_transform(z)
    axes.add_collection(LineCollection(plane[graph.edges], colors="#cccccc", linewidths=0.1))
    axes.scatter(*plane.T, c=graph.labels, s=3, zorder=2, cmap="tab10", linewidths=0)


if __name__ == "__main__":
    sys.exit(cli.run(poster))
