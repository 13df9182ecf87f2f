"""Sketch-RNN: train on sketches, measure beside Markov chains, draw. `--help` lists the settings.

Ha and Eck 2018, arXiv:1704.03477.

    python recipes/sketch_rnn.py --dataset aaron_sheep --units 512 --latent-dim 128
"""

import functools
import pathlib

from vae_zoo import SketchDecoder, SketchRNN, chains, cli, data, runs, schedules
from vae_zoo.data import strokes

# isort: split
# After the package, which says in one line what is missing.
import keras


def sketch_rnn(
    dataset="scribbles",
    epochs=30,
    batch_size=100,
    conditional=True,
    latent_dim=32,
    units=256,
    encoder_units=128,
    components=20,
    normalized=False,
    dropout=0.0,
    beta=1.0,
    annealing=0.999,
    free_bits=0.0,
    prior_kind="normal",
    stretch=0.15,
    drop=0.1,
    learning_rate=2e-3,
    schedule="cosine",
    averaged_epochs=0.5,
    patience=30,
    importance_samples=0,
    seed=0,
    output="output/sketch_rnn",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a Sketch-RNN, and measure it on the test sketches beside two Markov chains.

    Args:
        dataset: scribbles (generated), aaron_sheep, omniglot_strokes or another .npz of strokes
        epochs: passes over the training sketches, at most
        batch_size: sketches in a step
        conditional: a VAE; without it is the decoder alone, an exact density
        latent_dim: size of z (128 in the paper)
        units: of the decoder's LSTM (512 in the original code)
        encoder_units: of each LSTM of the encoder (256 in the original code)
        components: Gaussians of an offset's mixture
        normalized: cells with layer normalisation, which are slower
        dropout: recurrent dropout, which is slower (0.1 in the paper)
        beta: weight of the KL in the end
        annealing: factor a step of what its weight lacks at first (0.99995 in the paper)
        free_bits: nats of the KL of a sketch that cost nothing while training (25.6 in the paper)
        prior_kind: normal; flow, a RealNVP, trained jointly; mixture of Gaussians, fitted to the
            latents afterwards, which mends samples where free bits leave holes in N(0, I)
        stretch: how much training sketches are stretched at random
        drop: share of their points that is left out at random
        learning_rate: of Adam, at the start
        schedule: of the learning rate: cosine, linear, exponential (to a hundredth) or constant
        averaged_epochs: that the averaged weights reach back, which are validated and kept; 0 keeps
            no averages
        patience: epochs without a better validation bound before it stops
        importance_samples: k of the importance-weighted test NLL
        seed: of weights, noise and the order of the sketches
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    kinds = ("normal", "mixture", "flow") if conditional else ("normal",)
    if prior_kind not in kinds:
        raise ValueError(
            f"`prior_kind` must be {' or '.join(kinds)}. "
            f"Received: prior_kind={prior_kind}, conditional={conditional}"
        )
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    splits = [data.load(dataset, split) for split in data.SPLITS]
    train, validation, test = splits
    points = train[0].shape[1] - 1
    print(f"{dataset}: {', '.join(f'{len(x):,}' for x, _ in splits)} sketches, {points} points")

    sizes = {"points": points, "units": units, "components": components}
    sizes |= {"normalized": normalized, "dropout": dropout, "seed": seed}
    if conditional:
        rising = schedules.Approach(beta, decay=annealing)
        of_z = {"latent_dim": latent_dim, "encoder_units": encoder_units}
        prior = runs.prior(prior_kind, (latent_dim,), train[0], seed=seed)
        model = SketchRNN(**sizes, **of_z, beta=rising, free_bits=free_bits, prior=prior)
    else:
        model = SketchDecoder(**sizes)
    rate = runs.scheduled(learning_rate, schedule, epochs, len(train[0]), batch_size)
    averages = runs.averages(averaged_epochs, -(-len(train[0]) // batch_size))
    # As a norm of 1 where nats are averaged over points, as in the original code.
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=float(points), **averages))

    unit = 1 / strokes.scale(data.find(dataset))
    augment = functools.partial(strokes.augmented, stretch=stretch, drop=drop, unit=unit)
    history = runs.fit(model, train, validation, augment=augment, **settings)
    model = runs.fitted_prior(model, prior_kind, train, seed)
    numbers = runs.report(model, train, test, history, settings, importance_samples)
    print()
    others = chains.markov_numbers(train[0], test[0], seed)
    cli.table(others)
    cli.write_json(pathlib.Path(output, "numbers.json"), numbers | others)
    return numbers | others


if __name__ == "__main__":
    cli.run(sketch_rnn)
