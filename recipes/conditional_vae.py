"""Conditional VAE: train, measure, draw. `python recipes/conditional_vae.py --help` lists the
settings.

Sohn, Lee and Yan 2015, "Learning Structured Output Representation using Deep Conditional Generative
Models". The task of its section 5.1, a quarter of a digit given, the rest drawn:

    python recipes/conditional_vae.py --quadrants 1 --prior-kind learned
"""

from vae_zoo import ConditionalVAE, cli, data, likelihoods, runs, schedules

# isort: split
# After the package, which says in one line what is missing.
import keras
import numpy as np


def conditional_vae(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=100,
    batch_size=128,
    quadrants=0,
    network="dense",
    latent_dim=16,
    hidden=(300, 300),
    filters=(32, 64),
    units=256,
    blocks=0,
    activation="gated",
    label_dim=32,
    prior_kind="normal",
    likelihood="bernoulli",
    static=False,
    beta=1.0,
    warmup_epochs=10,
    free_bits=0.0,
    learning_rate=1e-3,
    schedule="cosine",
    averaged_epochs=1.0,
    patience=50,
    importance_samples=100,
    precision="float32",
    seed=0,
    output="output/conditional_vae",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a VAE of images of given classes, or given parts, and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to, such as the
            photos of a folder; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        quadrants: 0, the condition is the class; 1 to 3, it is as many quarters of the image: the
            lower left, the left half, all but the upper right
        network: dense or conv
        latent_dim: size of z
        hidden: widths of the hidden layers of dense networks
        filters: channels after each halving of the image, of convolutional ones
        units: width of the dense layers of convolutional ones
        blocks: residual blocks after each halving, of convolutional ones
        activation: of the layers, any of Keras, or gated
        label_dim: size of the embedding of a class, or of the features of a part
        prior_kind: normal, the same for all, or learned, a normal for each condition
        likelihood: bernoulli (black and white), gaussian, laplace or discretized_logistic (8 bits)
        static: draw the bits of the training images once instead of at every step (bernoulli)
        beta: weight of the KL while training; above 1 a beta-VAE
        warmup_epochs: epochs in which the weight of the KL rises from 0
        free_bits: nats of each latent that cost nothing while training
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        averaged_epochs: that the averaged weights reach back, which are validated and kept; 0 keeps
            no averages
        patience: epochs without a better validation ELBO before it stops
        importance_samples: k of the importance-weighted test NLL
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of weights, noise and the order of the images
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    binary = likelihoods.get(likelihood).binary
    # The bits of a part that is given must be those of the image.
    static = static or quadrants > 0
    parts = runs.splits(dataset, image_size, binary=binary, static=static)
    if quadrants:
        parts = [(x, data.given_part(np.asarray(x), quadrants)) for x, _ in parts]
    train, validation, test = parts
    images, y = train
    if y is None:
        raise ValueError(f"--dataset {dataset} has no classes: choose another, or --quadrants 1")
    steps_per_epoch = -(-len(images) // batch_size)

    model = ConditionalVAE(
        shape=images.shape[1:],
        condition="image" if quadrants else int(max(y.max() for _, y in parts)) + 1,
        network=network,
        latent_dim=latent_dim,
        hidden=hidden,
        filters=filters,
        units=units,
        blocks=blocks,
        activation=activation,
        label_dim=label_dim,
        prior=prior_kind if prior_kind == "learned" else None,
        likelihood=likelihood,
        beta=schedules.warm_up(warmup_epochs * steps_per_epoch, beta),
        free_bits=free_bits,
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    averages = runs.averages(averaged_epochs, steps_per_epoch)
    model.compile(keras.optimizers.Adam(rate, **averages))

    history = runs.fit(model, train, validation, **settings)
    return runs.report(model, train, test, history, settings, importance_samples)


if __name__ == "__main__":
    cli.run(conditional_vae, distribute=True)
