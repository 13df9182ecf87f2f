"""VQ-VAE-2: train, fit priors of both grids, measure, draw.

`python recipes/vq_vae_2.py --help` lists the settings. Razavi, van den Oord and Vinyals 2019,
arXiv:1906.00446.
"""

from vae_zoo import VQVAE2, PixelCNN, cli, domains, likelihoods, priors, runs

# isort: split
# After the package, which says in one line what is missing.
import keras


def vq_vae_2(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=60,
    batch_size=128,
    codes=64,
    code_dim=16,
    filters=(32,),
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
    output="output/vq_vae_2",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a VQ-VAE-2 and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to, such as the
            photos of a folder; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        codes: size of each of the two codebooks
        code_dim: size of a code's vector
        filters: channels after each halving of the image; the bottom grid is what is left, the top
            grid half of it
        blocks: residual blocks after each halving
        likelihood: gaussian, laplace, discretized_logistic (8 bits) or bernoulli (black and white)
        commitment: weight of the commitment term (0.25 in the paper, against squared errors)
        averaged: learn the codebooks by moving averages instead of gradients
        cosine: compare directions of vectors only
        restart: codes chosen for less than this share of their fair share are moved; 0 never
        levels: finite scalars of so many levels each instead of codebooks, 8,6,5 say
        kmeans: start the codebooks at the k-means centres of the first encoder outputs
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        patience: epochs without a better validation ELBO before it stops
        prior: then fit a PixelCNN to the top codes and one to the bottom codes given the top ones;
            with resume, to those of a finished run
        prior_epochs: passes over the codes, at most; each stops when it has learned them by heart
        prior_filters: channels of the priors' stacks
        prior_blocks: gated blocks of the priors
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

    model = VQVAE2(
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
        (top_train, bottom_train), (top_validation, bottom_validation) = (
            model.encode(x) for x, _ in (train, validation)
        )
        top_shape, bottom_shape = model.latent_shape
        stacks = {"levels": model.codes, "filters": prior_filters, "blocks": prior_blocks}
        top = PixelCNN(top_shape, seed=seed, **stacks)
        above = domains.Symbols(top_shape, model.codes)
        bottom = PixelCNN(bottom_shape, condition=above, seed=seed, **stacks)
        for pixel_cnn in (top, bottom):
            rate = runs.scheduled(1e-3, schedule, prior_epochs, len(images), batch_size)
            pixel_cnn.compile(keras.optimizers.Adam(rate))

        parts = (top_train, None), (top_validation, None)
        runs.fit(top, *parts, **runs.settings_of_prior(settings, "prior_top"))
        parts = (bottom_train, top_train), (bottom_validation, top_validation)
        runs.fit(bottom, *parts, **runs.settings_of_prior(settings, "prior_bottom"))
        model = model.with_prior(priors.TopDown(top, bottom))

    return runs.report(model, train, test, history, settings)


if __name__ == "__main__":
    cli.run(vq_vae_2, distribute=True)
