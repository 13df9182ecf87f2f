"""Autoencoder: train, measure, draw. `python recipes/autoencoder.py --help` lists the settings.

The bottleneck of two numbers keeps what it needs to draw a digit again, and no more.
Look at `latent_grid.png`: between the codes there is nothing, which is why an autoencoder does not
generate.
"""

from vae_zoo import Autoencoder, cli, runs

# isort: split
# After the package, which says in one line what is missing.
import keras


def autoencoder(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=50,
    batch_size=64,
    latent_dim=2,
    network="dense",
    hidden=(300, 300),
    filters=(32, 64),
    units=256,
    learning_rate=1e-3,
    schedule="cosine",
    patience=50,
    precision="float32",
    seed=0,
    output="output/autoencoder",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train an autoencoder on the squared error and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to, such as the
            photos of a folder; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        latent_dim: size of the code; 2 also draws the decoded plane
        network: dense or conv
        hidden: widths of the dense encoder's hidden layers, mirrored in the decoder
        filters: channels of the convolutional encoder after each halving of the image
        units: width of the dense layers beside the code of the convolutional network
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        patience: epochs without a better validation loss before it stops
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of weights and the order of the images
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    train, validation, test = runs.splits(dataset, image_size)
    images = train[0]

    model = Autoencoder(
        shape=images.shape[1:],
        latent_dim=latent_dim,
        network=network,
        hidden=hidden,
        filters=filters,
        units=units,
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    model.compile(keras.optimizers.Adam(rate))

    history = runs.fit(model, train, validation, **settings)
    return runs.report(model, train, test, history, settings)


if __name__ == "__main__":
    cli.run(autoencoder, distribute=True)
