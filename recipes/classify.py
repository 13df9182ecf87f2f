"""The encoder of a trained VAE as the start of a classifier with few labels.

`python recipes/classify.py --dataset mnist --labels 10,100,1000 --checkpoint
saved_models/conv_vae_mnist`; `--help` lists the settings. Three ways to learn from the same labels:
a linear probe of the latents, the encoder fine-tuned, the encoder's architecture from scratch.
"""

import pathlib

import numpy as np

from vae_zoo import VAE, cli, data, load_model, metrics, plots, transfer

# isort: split
# After the package, which says in one line what is missing.
import keras
from keras import layers

WAYS = ("probe", "fine-tuned", "scratch")


def classify(
    dataset="digits",
    checkpoint="saved_models/conv_vae_mnist",
    labels=(10, 100),
    draws=3,
    steps=1000,
    batch_size=64,
    learning_rate=1e-3,
    encoder_learning_rates=(3e-4, 1e-3),
    seed=0,
    output="output/classify",
):
    """Train classifiers with few labels and measure them on the test split.

    Args:
        dataset: a labelled one, of images as the checkpoint takes them
        checkpoint: a folder with model.keras in it (an entry of the zoo, a run), or a .keras file
        labels: per class, that are known
        draws: of which images are the labelled ones; what is reported is mean and spread
        steps: of training, fine-tuned and from scratch
        batch_size: images in a step
        learning_rate: of Adam, for the new layer
        encoder_learning_rates: of Adam, for the encoder, the checkpoint's and the one from scratch;
            of several each takes the one that is best on the validation split
        seed: of weights and draws
        output: folder for the numbers and the picture
    """
    output, model = pathlib.Path(output), load_model(checkpoint, compile=False)
    (x, y), held, test = (data.load(dataset, split) for split in data.SPLITS)
    if y is None:
        raise ValueError(f"{dataset} has no labels")
    if not isinstance(model, VAE) or x.shape[1:] != model.domain.shape:
        raise ValueError(
            f"{checkpoint} must have an encoder of {x.shape[1:]} images with an output z_mean. "
            f"Received: a {type(model).__name__} of {model.domain.shape}"
        )
    few = np.bincount(y).min()
    if max(labels) > few:
        raise ValueError(f"{dataset} has {few} training images of its rarest class: --labels")

    accuracies = {way: {n: [] for n in labels} for way in WAYS}
    for n in labels:
        for draw in range(draws):
            keras.utils.set_random_seed(seed + draw)
            rows = _labelled(y, n, np.random.default_rng([seed, n, draw]))
            known = np.asarray(x[rows]), y[rows]
            parts = [(model.encode(images), classes) for images, classes in (known, held, test)]
            found = [metrics.probe_accuracy(parts)]
            epochs = -(-steps // -(-len(rows) // batch_size))
            for trained in (True, False):
                classifiers = [
                    _classifier(model, trained, int(y.max()) + 1, learning_rate, rate, steps)
                    for rate in encoder_learning_rates
                ]
                for classifier in classifiers:
                    classifier.fit(*known, batch_size, epochs, verbose=0)
                best = max(classifiers, key=lambda classifier: _accuracy(classifier, held))
                found.append(_accuracy(best, test))
            for way, accuracy in zip(WAYS, found):
                accuracies[way][n].append(accuracy)
            shown = ", ".join(f"{way} {value:.4f}" for way, value in zip(WAYS, found))
            print(f"{n} a class, draw {draw}: {shown}", flush=True)
    return _report(accuracies, len(test[0]), output)


def _labelled(y, n, rng):
    """Places of n images of each class."""
    return np.concatenate([rng.choice(np.flatnonzero(y == c), n, False) for c in np.unique(y)])


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


def _report(accuracies, n_test, output):
    numbers, what = {}, f"accuracy, {n_test:,} test images; ± over draws of the labels"
    for way, by_labels in accuracies.items():
        for n, values in by_labels.items():
            numbers[f"{way}, {n} a class"] = {
                "value": float(np.mean(values)),
                "standard_error": float(np.std(values)),
                "unit": "",
                "protocol": what,
            }
    cli.write_json(output / "numbers.json", {"command": cli.command(), "accuracies": accuracies})
    files = [
        (output / "numbers.json", "the accuracy of each draw"),
        (plots.accuracies(accuracies, output / "accuracies.png"), "over the number of labels"),
    ]
    print()
    cli.table(numbers, files)
    return numbers


if __name__ == "__main__":
    cli.run(classify, distribute=True)
