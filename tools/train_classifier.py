"""Trains the classifier of a labelled data set whose features `cnn_fid` compares, and stores it in
the zoo: python tools/train_classifier.py --dataset mnist
"""

import sys

import numpy as np

from vae_zoo import cli, data, zoo
from vae_zoo.data.places import LICENCES

# isort: split
# After the package, which says in one line what is missing.
import keras
from keras import layers


def train_classifier(dataset="mnist", epochs=15, batch_size=128, learning_rate=2e-3, seed=0):
    """Train a small classifier and store it as saved_models/classifier_<dataset>.

    Args:
        dataset: a labelled one
        epochs: passes over the training images
        batch_size: images in a step
        learning_rate: of Adam, at the start of a cosine decay
        seed: of weights and order
    """
    keras.utils.set_random_seed(seed)
    parts = [(x[:] / np.float32(255), y) for x, y in (data.load(dataset, s) for s in data.SPLITS)]
    if parts[0][1] is None:
        raise ValueError(f"{dataset} has no labels")
    (x, y), validation, test = parts

    image = keras.Input(x.shape[1:], name="image")
    h = image
    for filters in (16, 32):
        h = layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
        h = layers.MaxPooling2D()(h)
    h = layers.Dropout(0.3)(layers.Flatten()(h))
    features = layers.Dense(64, activation="relu", name="features")(h)
    logits = layers.Dense(int(y.max()) + 1, name="logits")(features)
    model = keras.Model(image, logits)
    steps = epochs * -(-len(x) // batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=batch_size, epochs=epochs, validation_data=validation, verbose=2)
    zoo.round_weights(model)  # what is measured is what is stored
    accuracy = model.evaluate(*test, batch_size=256, verbose=0, return_dict=True)["accuracy"]

    trained = keras.Model(image, logits)  # without its optimizer
    card = {
        "dataset": dataset,
        "data_licence": LICENCES.get(dataset, "unknown"),
        "settings": {"dataset": dataset, "epochs": epochs, "seed": seed},
        "command": cli.command(),
        "machine": cli.machine(),
        "metrics": {
            "accuracy": {
                "value": accuracy,
                "standard_error": float(np.sqrt(accuracy * (1 - accuracy) / len(test[0]))),
                "unit": "",
                "protocol": f"{len(test[0]):,} test images",
                "images": len(test[0]),
            }
        },
    }
    folder = zoo.save(trained, zoo.CLASSIFIER + dataset, card)
    cli.table(card["metrics"], [(folder, "the classifier")])
    return accuracy


if __name__ == "__main__":
    sys.exit(not cli.run(train_classifier))
