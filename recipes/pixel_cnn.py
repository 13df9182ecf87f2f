"""Gated PixelCNN of black and white images: train, measure exactly, draw.

`python recipes/pixel_cnn.py --help` lists the settings. van den Oord et al. 2016, arXiv:1606.05328.
"""

from vae_zoo import PixelCNN, cli, runs

# isort: split
# After the package, which says in one line what is missing.
import keras


def pixel_cnn(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=30,
    batch_size=64,
    filters=16,
    blocks=5,
    kernel_size=5,
    conditional=False,
    static=False,
    learning_rate=2e-3,
    schedule="cosine",
    patience=10,
    precision="float32",
    seed=0,
    output="output/pixel_cnn",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a PixelCNN and measure its likelihood on the test split, which is exact.

    Args:
        dataset: digits, mnist or any grey image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width that images, such as the photos of a folder, are brought to, in
            grey; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        filters: channels of both stacks
        blocks: gated blocks after the first
        kernel_size: of the blocks, odd
        conditional: on the labels of the data set
        static: draw the bits of the training images once instead of at every step
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        patience: epochs without a better validation likelihood before it stops
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of weights, noise and the order of the images
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    image_size = image_size and (*image_size[:2], 1)  # no colours
    settings = dict(locals())
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    train, validation, test = runs.splits(dataset, image_size, binary=True, static=static)
    images, labels = train
    if images.shape[-1] != 1:
        raise ValueError(f"{dataset} is in colour; a PixelCNN takes black and white images")
    if conditional and labels is None:
        raise ValueError(f"{dataset} has no labels to be conditional on")
    if conditional:  # of which few images may miss some in training
        classes = 1 + max(int(y.max()) for _, y in (train, validation, test))
    else:
        train, validation, test = ((x, None) for x, _ in (train, validation, test))

    model = PixelCNN(
        shape=images.shape[1:3],
        filters=filters,
        blocks=blocks,
        kernel_size=kernel_size,
        condition=classes if conditional else None,
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    model.compile(keras.optimizers.Adam(rate))

    history = runs.fit(model, train, validation, **settings)
    return runs.report(model, train, test, history, settings)


if __name__ == "__main__":
    cli.run(pixel_cnn, distribute=True)
