"""VAE of image patches, to compare with a Gaussian mixture as a prior for denoising.

`python recipes/patch_vae.py --dataset train400`, then `python recipes/denoise.py --checkpoint
output/patch_vae`; `--help` lists the settings. Kingma and Welling 2014, arXiv:1312.6114; patches as
in Zoran and Weiss 2011, ICCV.
"""

from vae_zoo import DenseVAE, cli, patches, runs, schedules

# isort: split
# After the package, which says in one line what is missing.
import keras


def patch_vae(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    number=20_000,
    patch_size=8,
    epochs=40,
    batch_size=256,
    latent_dim=32,
    hidden=(256, 256),
    activation="silu",
    beta=1.0,
    warmup_epochs=5,
    learning_rate=1e-3,
    schedule="cosine",
    patience=10,
    importance_samples=100,
    precision="float32",
    seed=0,
    output="output/patch_vae",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a VAE of patches of grey images, without their mean grey.

    Args:
        dataset: digits, train400 or any grey image set: a .npz, a folder, a name of TensorFlow
            Datasets
        image_size: height,width that images are brought to; as they are if left out
        number: training patches, at random places; as many as a tenth of them are held out twice
        patch_size: height and width of a patch in pixels
        epochs: passes over the training patches, at most
        batch_size: patches in a step
        latent_dim: size of z
        hidden: widths of the encoder's hidden layers, mirrored in the decoder
        activation: of the layers, any of Keras, or gated
        beta: weight of the KL while training; above 1 a beta-VAE
        warmup_epochs: epochs in which the weight of the KL rises from 0
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        patience: epochs without a better validation ELBO before it stops
        importance_samples: k of the importance-weighted test NLL
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of patches, weights, noise and the order of the patches
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    sizes = (number, max(1, number // 10), max(1, number // 10))
    train, validation, test = (
        (x - x.mean(axis=(1, 2), keepdims=True), None)
        for x in (
            patches.drawn(images, n, patch_size, seed)
            for (images, _), n in zip(runs.splits(dataset, image_size), sizes)
        )
    )

    model = DenseVAE(
        shape=(patch_size, patch_size),
        latent_dim=latent_dim,
        hidden=hidden,
        activation=activation,
        likelihood="gaussian",
        beta=schedules.warm_up(warmup_epochs * -(-number // batch_size), beta),
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, number, batch_size)
    model.compile(keras.optimizers.Adam(rate))

    history = runs.fit(model, train, validation, **settings)
    return runs.report(model, train, test, history, settings, importance_samples)


if __name__ == "__main__":
    cli.run(patch_vae)
