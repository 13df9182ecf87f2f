"""Hierarchical VAE: train, measure, draw. `python recipes/hierarchical_vae.py --help` lists the
settings.

Sønderby et al. 2016 (LVAE), arXiv:1602.02282; Vahdat and Kautz 2020 (NVAE), arXiv:2007.03898.

Colours of the size of CIFAR (published bits per dimension are of all of CIFAR-10, not of a part):

    python recipes/hierarchical_vae.py --dataset cifar10_subset --likelihood discretized_logistic
        --network conv --latents 4,8,16 --widths 32,64,64 --groups 1,2,2 --batch-size 64 --balance
"""

from vae_zoo import HierarchicalVAE, cli, likelihoods, networks, runs, schedules

# isort: split
# After the package, which says in one line what is missing.
import keras


def hierarchical_vae(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    epochs=100,
    batch_size=128,
    latents=(32, 16, 8),
    widths=(256, 128, 64),
    groups=(1,),
    network="dense",
    blocks=1,
    likelihood="bernoulli",
    static=False,
    beta=1.0,
    warmup_epochs=20,
    free_bits=0.0,
    balance=False,
    num_samples: int = None,
    prior_kind="normal",
    prior_couplings=8,
    prior_units=64,
    learning_rate=1e-3,
    schedule="cosine",
    averaged_epochs=1.0,
    skip_threshold: float = None,
    patience=50,
    importance_samples=100,
    precision="float32",
    seed=0,
    output="output/hierarchical_vae",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a hierarchical VAE and measure it on the test split.

    Args:
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to, such as the
            photos of a folder; as they are if left out
        epochs: passes over the training images, at most
        batch_size: images in a step
        latents: size of a group of latents on each scale (dense), or its channels (conv), from the
            image up; each scale has half the places of the one before
        widths: of the networks on each scale
        groups: groups of latents on each scale, or one number for all
        network: dense or conv
        blocks: residual cells on each scale of the encoder, and before the image
        likelihood: bernoulli (black and white), gaussian, laplace or discretized_logistic (8 bits)
        static: draw the bits of the training images once instead of at every step (bernoulli)
        beta: weight of the KL while training
        warmup_epochs: epochs in which the weight of the KL rises from 0
        free_bits: nats of each group that cost nothing while training
        balance: weigh the KL of the groups against each other during the warm-up
        num_samples: k of the importance-weighted bound (IWAE) to train on, with no KL to weigh;
            the ELBO is trained on if left out
        prior_kind: of the top group: normal; flow, a RealNVP trained jointly; mixture of Gaussians,
            fitted to the trained model
        prior_couplings: steps of the flow
        prior_units: width of the networks of the flow
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        averaged_epochs: that the averaged weights reach back, which are validated and kept; 0 keeps
            no averages
        skip_threshold: norm of the gradient above which an update is skipped; none if left out
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
    if len(widths) != len(latents) or len(groups) not in (1, len(latents)):
        raise ValueError(
            "--latents and --widths must have a number for each scale, --groups one or as many. "
            f"Received: {len(latents)}, {len(widths)} and {len(groups)} numbers"
        )
    if num_samples and (beta != 1 or warmup_epochs):
        raise ValueError(
            "--num-samples takes --beta 1 --warmup-epochs 0: its bound has no KL to weigh. "
            f"Received: {beta} and {warmup_epochs}"
        )
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)

    binary = likelihoods.get(likelihood).binary
    train, validation, test = runs.splits(dataset, image_size, binary=binary, static=static)
    images = train[0]
    steps_per_epoch = -(-len(images) // batch_size)

    grid = networks.grid_shape(images.shape[1:], latents) if network == "conv" else ()
    of_flow = {"couplings": prior_couplings, "units": prior_units, "seed": seed}
    prior = runs.prior(prior_kind, (*grid, latents[-1]), images, **of_flow)
    model = HierarchicalVAE(
        shape=images.shape[1:],
        latents=latents,
        widths=widths,
        groups=groups if len(groups) > 1 else groups[0],
        network=network,
        blocks=blocks,
        likelihood=likelihood,
        beta=schedules.warm_up(warmup_epochs * steps_per_epoch, beta),
        free_bits=free_bits,
        balance=balance,
        num_samples=num_samples,
        prior=prior,
        skip_threshold=skip_threshold,
        seed=seed,
    )
    rate = runs.scheduled(learning_rate, schedule, epochs, len(images), batch_size)
    averages = runs.averages(averaged_epochs, steps_per_epoch)
    model.compile(keras.optimizers.Adam(rate, **averages))

    history = runs.fit(model, train, validation, **settings)
    model = runs.fitted_prior(model, prior_kind, train, seed)
    return runs.report(model, train, test, history, settings, importance_samples)


if __name__ == "__main__":
    cli.run(hierarchical_vae, distribute=True)
