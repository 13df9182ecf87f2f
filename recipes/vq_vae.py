"""VQ-VAE: train, fit a prior, measure, draw. `python recipes/vq_vae.py --help` lists the settings.

van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937.
"""

from vae_zoo import VQVAE, PixelCNN, cli, likelihoods, runs

# isort: split
# After the package, which says in one line what is missing.
import keras


def vq_vae(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=100,
    batch_size=128,
    codes=64,
    code_dim=16,
    filters=(32, 64),
    blocks=1,
    likelihood="gaussian",
    commitment=10.0,
    averaged=False,
    cosine=False,
    restart=0.03,
    levels: tuple[int, ...] = None,
    kmeans=True,
    learning_rate=1e-3,
    schedule="cosine",
    patience=50,
    prior=False,
    prior_epochs=100,
    prior_filters=32,
    prior_blocks=4,
    precision="float32",
    seed=0,
    output="output/vq_vae",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a VQ-VAE and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to, such as the
            photos of a folder; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        codes: size of the codebook
        code_dim: size of a code's vector
        filters: channels after each halving of the image; the grid of codes is what is left
        blocks: residual blocks after each halving
        likelihood: gaussian, laplace, discretized_logistic (8 bits) or bernoulli (black and white)
        commitment: weight of the commitment term (0.25 in the paper, against squared errors)
        averaged: learn the codebook by moving averages instead of gradients
        cosine: compare directions of vectors only
        restart: codes chosen for less than this share of their fair share are moved; 0 never
        levels: finite scalars of so many levels each instead of a codebook, 8,6,5 say
        kmeans: start the codebook at the k-means centres of the first encoder outputs
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        patience: epochs without a better validation ELBO before it stops
        prior: then fit a PixelCNN to the codes; with resume, to those of a finished run
        prior_epochs: passes over the codes, at most; it stops when it has learned them by heart
        prior_filters: channels of the prior's stacks
        prior_blocks: gated blocks of the prior
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
    train, validation, test = runs.splits(dataset, image_size, binary=binary)
    images = train[0]

    model = VQVAE(
        shape=images.shape[1:],
        codes=codes,
        code_dim=code_dim,
        filters=filters,
        blocks=blocks,
        likelihood=likelihood,
        commitment=commitment,
        averaged=averaged,
        cosine=cosine,
        restart=restart,
        levels=levels,
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    model.compile(keras.optimizers.Adam(rate))
    if kmeans:
        model.start_codebook(images, seed=seed)

    history = runs.fit(model, train, validation, **settings)

    if prior:
        codes_train, codes_validation = (model.encode(x) for x, _ in (train, validation))
        pixel_cnn = PixelCNN(
            model.latent_shape, model.codes, prior_filters, prior_blocks, seed=seed
        )
        rate = runs.scheduled(1e-3, schedule, prior_epochs, len(images), batch_size)
        pixel_cnn.compile(keras.optimizers.Adam(rate))
        parts = (codes_train, None), (codes_validation, None)
        runs.fit(pixel_cnn, *parts, **runs.settings_of_prior(settings))
        model = model.with_prior(pixel_cnn)

    return runs.report(model, train, test, history, settings)


if __name__ == "__main__":
    cli.run(vq_vae, distribute=True)
