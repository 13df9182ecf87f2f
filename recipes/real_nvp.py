"""RealNVP: train, measure, draw. `python recipes/real_nvp.py --help` lists the settings.

Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803; Kingma and Dhariwal 2018 (Glow),
arXiv:1807.03039.

Points of the plane by default; images in grey or colour by their name:

    python recipes/real_nvp.py --dataset digits --couplings 12 --squeezes 2 --blocks 1
"""

import numpy as np
from sklearn import datasets

from vae_zoo import RealNVP, cli, runs

# isort: split
# After the package, which says in one line what is missing.
import keras

TOYS = {  # function of (number of points, seed) -> points (n, 2) or (n, 3)
    "moons": lambda n, seed: datasets.make_moons(n, noise=0.08, random_state=seed)[0],
    "circles": lambda n, seed: datasets.make_circles(n, noise=0.05, factor=0.5, random_state=seed)[
        0
    ],
    "blobs": lambda n, seed: datasets.make_blobs(
        n,
        centers=[(np.cos(t), np.sin(t)) for t in np.arange(8) * np.pi / 4],
        cluster_std=0.1,
        random_state=seed,
    )[0],
    "spiral": lambda n, seed: datasets.make_swiss_roll(n, noise=0.4, random_state=seed)[0][:, ::2],
}


def real_nvp(
    dataset="moons",
    image_size: tuple[int, ...] = None,
    points=5000,
    epochs=60,
    batch_size=128,
    couplings=8,
    units=64,
    blocks=0,
    squeezes=0,
    activation="relu",
    learning_rate=2e-3,
    schedule="cosine",
    averaged_epochs=1.0,
    patience=50,
    precision="float32",
    seed=0,
    output="output/real_nvp",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a RealNVP and measure it on the test split.

    Args:
        dataset: moons, circles, blobs or spiral, points of the plane; or images as the other
            recipes take them, whose 256 levels are seen with uniform noise
        image_size: height,width that images are brought to; as they are if left out
        points: of the plane, in the training split; half as many for validation and for the test
        epochs: passes over the training split, at most
        batch_size: examples in a step
        couplings: steps of the chain
        units: width of the networks of a coupling
        blocks: residual cells of each of these networks
        squeezes: how often 2×2 places of images become one
        activation: of these networks, any of Keras
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        averaged_epochs: that the averaged weights reach back, which are validated and kept; 0 keeps
            no averages
        patience: epochs without a better validation loss before it stops
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of weights, noise and the order of the examples
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    if dataset in TOYS:
        sizes = (points, points // 2, points // 2)
        splits = [(toy(dataset, n, seed + i), None) for i, n in enumerate(sizes)]
    else:
        splits = runs.splits(dataset, image_size)
    train, validation, test = splits
    examples = train[0]

    model = RealNVP(
        shape=examples.shape[1:],
        couplings=couplings,
        units=units,
        blocks=blocks,
        activation=activation,
        pixels=dataset not in TOYS,
        squeezes=squeezes,
        seed=seed,
    )
    model.start_norms(np.asarray(examples[:2000]))
    rate = runs.scheduled(learning_rate, schedule, epochs, len(examples), batch_size)
    averages = runs.averages(averaged_epochs, -(-len(examples) // batch_size))
    model.compile(keras.optimizers.Adam(rate, **averages))

    history = runs.fit(model, train, validation, **settings)
    return runs.report(model, train, test, history, settings)


def toy(name, n, seed):
    """n points of the plane, float32, centred and of variance 1 in the mean of both axes."""
    x = TOYS[name](n, seed)
    known = TOYS[name](10_000, 1_000)  # of every split the same
    return np.float32((x - known.mean(axis=0)) / known.std())


if __name__ == "__main__":
    cli.run(real_nvp, distribute=True)
