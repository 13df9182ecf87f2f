"""Gaussian mixture of image patches: fit, measure exactly, draw. `denoise.py` uses it as a prior.

`python recipes/gaussian_mixture.py --help` lists the settings. Zoran and Weiss 2011, ICCV.
"""

import pathlib

import numpy as np

from vae_zoo import GaussianMixture, cli, patches, plots, runs

SHOWN = 10  # components in the picture


def gaussian_mixture(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    number=20_000,
    patch_size=8,
    components=20,
    epochs=40,
    batch_size=256,
    start="responsibilities",
    patience=5,
    seed=0,
    output="output/gaussian_mixture",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Fit a mixture of zero-mean Gaussians to patches of grey images, without their mean grey.

    Args:
        dataset: digits, train400 or any grey image set: a .npz, a folder, a name of TensorFlow
            Datasets
        image_size: height,width that images are brought to; as they are if left out
        number: training patches, at random places; as many as a tenth of them are held out twice
        patch_size: height and width of a patch in pixels
        components: Gaussians
        epochs: iterations of expectation-maximisation, at most
        batch_size: patches whose responsibilities are in memory at a time
        start: kmeans or responsibilities (drawn)
        patience: iterations without a better validation likelihood before it stops
        seed: of patches and start
        output: folder for the model, its numbers and its pictures
        resume: go on from the last iteration's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    runs.claim(settings)
    sizes = (number, max(1, number // 10), max(1, number // 10))
    train, validation, test = (
        (patches.drawn(images, n, patch_size, seed), None)
        for (images, _), n in zip(runs.splits(dataset, image_size), sizes)
    )

    model = GaussianMixture(
        (patch_size, patch_size), components, zero_means=True, remove_dc=True, seed=seed
    )
    history = runs.fit(model, train, validation, **settings)
    numbers = runs.report(model, train, test, history, settings)
    path = plots.image_rows(*_rows(model, seed), pathlib.Path(output, "components.png"))
    print(f"{path}  the most frequent components: eigenvectors, largest first, and samples")
    return numbers


def _rows(model, seed):
    """Eigenvectors and samples of the components of the largest weights, and what they are."""
    weights, _, values, vectors = model.spectra()
    rows = []
    for k in np.argsort(-weights)[:SHOWN]:
        axes = model.from_coordinates(vectors[k, :, :5].T)
        z = np.random.default_rng(seed).normal(size=(5, model.size)) * np.sqrt(values[k])
        rows.append([*(0.5 + axes), *(0.5 + model.from_coordinates(z @ vectors[k].T))])
    titles = [*(f"{i + 1}." for i in range(5)), *["drawn"] * 5]
    return np.array(rows)[..., None], titles


if __name__ == "__main__":
    cli.run(gaussian_mixture)
