"""IWAE: train, measure, draw. `python recipes/iwae.py --help` lists the settings.

Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519; the gradient of Tucker et al. 2019 (DReG),
arXiv:1810.04152. Two stochastic layers and more: `recipes/hierarchical_vae.py --num-samples 5`.
"""

import pathlib

from vae_zoo import IWAE, cli, likelihoods, load_model, plots, runs
from vae_zoo import gradients as estimates

# isort: split
# After the package, which says in one line what is missing.
import keras


def iwae(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=100,
    batch_size=128,
    latent_dim=16,
    hidden=(300, 300),
    activation="gated",
    prior_kind="normal",
    prior_components=100,
    prior_couplings=8,
    prior_units=64,
    likelihood="bernoulli",
    static=False,
    num_samples=5,
    doubly_reparametrized=True,
    start: str = None,
    learning_rate=1e-3,
    schedule="cosine",
    averaged_epochs=1.0,
    patience=50,
    importance_samples=100,
    gradients=True,
    precision="float32",
    seed=0,
    output="output/iwae",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a fully connected IWAE and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to, such as the
            photos of a folder; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        latent_dim: size of z; 2 also draws the decoded plane
        hidden: widths of the encoder's hidden layers, mirrored in the decoder
        activation: of the layers, any of Keras, or gated
        prior_kind: normal; vamp, a VampPrior, or flow, a RealNVP, trained jointly; mixture of
            Gaussians, fitted to the trained model
        prior_components: pseudo-inputs of the VampPrior
        prior_couplings: steps of the flow
        prior_units: width of the networks of the flow
        likelihood: bernoulli (black and white), gaussian, laplace or discretized_logistic (8 bits)
        static: draw the bits of the training images once instead of at every step (bernoulli)
        num_samples: k of the bound that is trained on
        doubly_reparametrized: train the encoder by the gradient of DReG
        start: what to go on from, a run, an entry of the zoo or a file: a large k costs less when
            only the last epochs have it
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        averaged_epochs: that the averaged weights reach back, which are validated and kept; 0 keeps
            no averages
        patience: epochs without a better validation bound before it stops
        importance_samples: k of the importance-weighted test NLL
        gradients: draw how noisy estimates of the gradient are, for five test images
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
    train, validation, test = runs.splits(dataset, image_size, binary=binary, static=static)
    images = train[0]
    steps_per_epoch = -(-len(images) // batch_size)

    of_prior = prior_components, prior_couplings, prior_units, seed
    prior = runs.prior(prior_kind, (latent_dim,), images, *of_prior)
    model = IWAE(
        shape=images.shape[1:],
        latent_dim=latent_dim,
        hidden=hidden,
        activation=activation,
        prior=prior,
        likelihood=likelihood,
        num_samples=num_samples,
        doubly_reparametrized=doubly_reparametrized,
        seed=seed,
    )
    if start:
        old = load_model(start, compile=False)
        for mine, its in zip(model.trainable_variables, old.trainable_variables, strict=True):
            mine.assign(its)
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    averages = runs.averages(averaged_epochs, steps_per_epoch)
    model.compile(keras.optimizers.Adam(rate, **averages))

    history = runs.fit(model, train, validation, **settings)
    model = runs.fitted_prior(model, prior_kind, train, seed)
    numbers = runs.report(model, train, test, history, settings, importance_samples)
    if gradients:
        draw_gradients(model, test[0][:5], output, seed)
    return numbers


def draw_gradients(model, images, output, seed, ks=(1, 2, 5, 10, 20, 50)):
    """Two experiments on the trained model: the signal-to-noise ratio of the encoder's gradient
    against k (Rainforth et al. 2018, arXiv:1802.04537), and what the reparametrisation is good
    for: the variance of the ELBO's gradient without it (REINFORCE) and with it."""
    output = pathlib.Path(output)
    ratios = estimates.signal_to_noise(model, images, ks, seed=seed)
    plots.signal_to_noise(ratios, ks, output / "signal_to_noise.png")
    plots.variances(estimates.variances(model, images, seed=seed), output / "reinforce.png")
    print(f"How noisy gradients are: signal_to_noise.png and reinforce.png in {output}")


if __name__ == "__main__":
    cli.run(iwae, distribute=True)
