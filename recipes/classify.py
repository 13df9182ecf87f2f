"""The encoder of a trained VAE as the start of a classifier with few labels.

`python recipes/classify.py --dataset mnist --labels 10,100,1000 --checkpoint conv_vae_mnist`;
`--help` lists the settings. Three ways to learn from the same labels: a linear probe of the
latents, the encoder fine-tuned, the encoder's architecture from scratch. What is chosen by
validation labels, the probe's penalty and the rate of the encoder, is chosen by as many of them as
there are training labels; beside it stands what all of them would have chosen.
"""

import pathlib

import numpy as np

from vae_zoo import VAE, cli, load_model, metrics, plots, runs, transfer

# isort: split
# After the package, which says in one line what is missing.
import keras
from keras import layers

WAYS = ("probe", "fine-tuned", "scratch")


def classify(
    dataset="digits",
    image_size: tuple[int, ...] = None,
    checkpoint="conv_vae_mnist",
    labels=(10, 100),
    draws=3,
    steps=1000,
    batch_size=64,
    learning_rate=1e-3,
    encoder_learning_rates=(3e-4, 1e-3),
    seed=0,
    output="output/classify",
    overwrite=False,
):
    """Train classifiers with few labels and measure them on the test split.

    Args:
        dataset: a labelled one, of images as the checkpoint takes them
        image_size: height,width (or height,width,channels) that images are brought to; as they are
            if left out
        checkpoint: the name of an entry of the zoo, a folder with model.keras in it (a run), or a
            .keras file
        labels: per class, that are known
        draws: of which images are the labelled ones; what is reported is mean and spread
        steps: of training, fine-tuned and from scratch
        batch_size: images in a step
        learning_rate: of Adam, for the new layer
        encoder_learning_rates: of Adam, for the encoder, the checkpoint's and the one from scratch;
            of several each takes the one that is best on the validation labels
        seed: of weights and draws
        output: folder for the numbers and the picture
        overwrite: replace a run with other settings in output
    """
    settings = dict(locals())
    output, model = pathlib.Path(output), load_model(checkpoint, compile=False)
    (x, y), held, test = runs.splits(dataset, image_size)
    if y is None:
        raise ValueError(f"{dataset} has no labels")
    if not isinstance(model, VAE) or x.shape[1:] != model.domain.shape:
        raise ValueError(
            f"{checkpoint} must have an encoder of {x.shape[1:]} images with an output z_mean. "
            f"Received: a {type(model).__name__} of {model.domain.shape}"
        )
    if len(np.unique(y)) < 2 or y.min() < 0:
        raise ValueError(f"{dataset} must have classes 0, 1, … to tell apart, two at least")
    few = np.unique(y, return_counts=True)[1].min()
    if max(labels) > few:
        raise ValueError(f"{dataset} has {few} training images of its rarest class: --labels")
    runs.claim(settings)

    classes = 1 + max(int(column.max()) for column in (y, held[1], test[1]))
    accuracies = {
        chosen: {way: {n: [] for n in labels} for way in WAYS}
        for chosen in ("by as many", "by all")
    }
    for n in labels:
        for draw in range(draws):
            keras.utils.set_random_seed(seed + draw)
            rng = np.random.default_rng([seed, n, draw])
            known, as_many = _labelled((x, y), n, rng), _labelled(held, n, rng)
            epochs = -(-steps // -(-len(known[1]) // batch_size))
            classifiers = {}
            for way, trained in (("fine-tuned", True), ("scratch", False)):
                classifiers[way] = [
                    _classifier(model, trained, classes, learning_rate, rate, steps)
                    for rate in encoder_learning_rates
                ]
                for classifier in classifiers[way]:
                    classifier.fit(*known, batch_size, epochs, verbose=0)
            for chosen, by in zip(accuracies, (as_many, held)):
                parts = [(model.encode(images), known_as) for images, known_as in (known, by, test)]
                accuracies[chosen]["probe"][n].append(metrics.probe_accuracy(parts))
                for way, several in classifiers.items():
                    best = max(several, key=lambda classifier: _accuracy(classifier, by))
                    accuracies[chosen][way][n].append(_accuracy(best, test))
            found = {way: accuracies["by as many"][way][n][-1] for way in WAYS}
            shown = ", ".join(f"{way} {value:.4f}" for way, value in found.items())
            print(f"{n} a class, draw {draw}: {shown}", flush=True)
    return _report(accuracies, len(test[0]), settings, output)


def _labelled(split, n, rng):
    """n images of each class, or all where there are fewer, and their labels."""
    x, y = split
    places = [np.flatnonzero(y == c) for c in np.unique(y)]
    rows = np.concatenate([rng.choice(of, min(n, len(of)), False) for of in places])
    return np.asarray(x[rows]), y[rows]


def _accuracy(classifier, split):
    images, classes = split
    return classifier.evaluate(images[:], classes, 256, verbose=0, return_dict=True)["accuracy"]


def _classifier(model, trained, classes, rate, encoder_rate, steps):
    """The encoder up to what its z_mean is made of, as it was trained or new, and one new layer."""
    encoder = type(model).from_config(model.get_config()).encoder
    if trained:
        encoder.set_weights(model.encoder.get_weights())
    features = layers.Flatten()(encoder.get_layer("z_mean").input)
    head = layers.Dense(classes, name="classes")
    classifier = transfer.Classifier(keras.Model(encoder.input, head(features)))
    falling = [
        keras.optimizers.schedules.CosineDecay(start, steps) for start in (rate, encoder_rate)
    ]
    classifier.compile(transfer.optimizer(classifier, head.trainable_variables, *falling))
    return classifier


def _report(accuracies, n_test, settings, output):
    numbers = {}
    for chosen, by_way in accuracies.items():
        what = f"accuracy, {n_test:,} test images, settings chosen {chosen} validation labels"
        for way, by_labels in by_way.items():
            for n, values in by_labels.items():
                numbers[f"{way}, {n} a class, {chosen}"] = {
                    "value": float(np.mean(values)),
                    "standard_deviation": float(np.std(values, ddof=1)) if values[1:] else None,
                    "unit": "",
                    "protocol": f"{what}; ± standard deviation over {len(values)} draws",
                }
    cli.write_json(output / "config.json", {"command": cli.command(), "settings": settings})
    cli.write_json(output / "numbers.json", {"command": cli.command(), "accuracies": accuracies})
    picture = plots.accuracies(accuracies["by as many"], output / "accuracies.png")
    files = [
        (output / "numbers.json", "the accuracy of each draw"),
        (picture, "over the number of labels"),
    ]
    print()
    cli.table(numbers, files)
    return numbers


if __name__ == "__main__":
    cli.run(classify, distribute=True)
