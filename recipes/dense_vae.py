"""Dense VAE: train, measure, draw. `python recipes/dense_vae.py --help` lists the settings.

Kingma and Welling 2014, arXiv:1312.6114; the networks are those of Tomczak and Welling 2018,
arXiv:1705.07120.
"""

from vae_zoo import DenseVAE, cli, likelihoods, runs, schedules

# isort: split
# After the package, which says in one line what is missing.
import keras


def dense_vae(
    dataset="digits",
    epochs=100,
    batch_size=128,
    latent_dim=16,
    hidden=(300, 300),
    likelihood="bernoulli",
    static=False,
    beta=1.0,
    warmup_epochs=10,
    free_bits=0.0,
    learning_rate=1e-3,
    schedule="cosine",
    patience=50,
    importance_samples=100,
    precision="float32",
    seed=0,
    output="output/dense_vae",
    resume=False,
    tensorboard=False,
):
    """Train a fully connected VAE and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        epochs: passes over the training images, at most
        batch_size: images in a step
        latent_dim: size of z; 2 also draws the decoded plane
        hidden: widths of the encoder's hidden layers, mirrored in the decoder
        likelihood: bernoulli (black and white), gaussian, laplace or discretized_logistic (8 bits)
        static: draw the bits of the training images once instead of at every step (bernoulli)
        beta: weight of the KL while training; above 1 a beta-VAE
        warmup_epochs: epochs in which the weight of the KL rises from 0
        free_bits: nats of each latent that cost nothing while training
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        patience: epochs without a better validation ELBO before it stops
        importance_samples: k of the importance-weighted test NLL
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of weights, noise and the order of the images
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    binary = likelihoods.get(likelihood).binary
    train, validation, test = runs.splits(dataset, binary=binary, static=static)
    images = train[0]
    steps_per_epoch = -(-len(images) // batch_size)

    model = DenseVAE(
        shape=images.shape[1:],
        latent_dim=latent_dim,
        hidden=hidden,
        likelihood=likelihood,
        beta=schedules.warm_up(warmup_epochs * steps_per_epoch, beta),
        free_bits=free_bits,
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    model.compile(keras.optimizers.Adam(rate))

    history = runs.fit(model, train, validation, **settings)
    return runs.report(model, train, test, history, settings, importance_samples)


if __name__ == "__main__":
    cli.run(dense_vae, distribute=True)
