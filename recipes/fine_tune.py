"""Fine-tune a checkpoint on a folder of your own images.

`python recipes/fine_tune.py --checkpoint conv_vae_mnist --images FOLDER --output OUT`;
`--help` lists the settings.
"""

import pathlib

import numpy as np

from vae_zoo import cli, data, folders, load_model, plots, runs, transfer
from vae_zoo.evaluate import measure

# isort: split
# After the package, which says in one line what is missing.
import keras


def fine_tune(
    images: str = None,
    checkpoint="conv_vae_mnist",
    image_size: tuple[int, ...] = None,
    likelihood="discretized_logistic",
    freeze="none",
    epochs=200,
    batch_size=64,
    learning_rate=1e-3,
    old_learning_rate=3e-4,
    augment=False,
    patience=20,
    scratch=True,
    precision="float32",
    seed=0,
    output="output/fine_tune",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Fine-tune a trained VAE and compare it with one trained from scratch for the same time.

    Args:
        images: folder of images (PNG, JPEG, WebP, GIF, TIFF …), at any depth, of any size, or its
            name in $VAE_ZOO_DATA; of a conditional checkpoint with a folder for each class
        checkpoint: the name of an entry of the zoo, a folder with model.keras in it (a run), or a
            .keras file
        image_size: height,width or height,width,channels to build new input and output layers for;
            that of the checkpoint if left out
        likelihood: of a new output layer, where the checkpoint's does not fit the images
        freeze: encoder, decoder or none, what keeps its weights
        epochs: passes over the training images, at most
        batch_size: images in a step
        learning_rate: of Adam, for new layers, and for all layers from scratch
        old_learning_rate: of Adam, for the checkpoint's layers
        augment: mirror and move training images at random
        patience: epochs without a better validation ELBO before it stops
        scratch: train a new model for the same time too
        precision: float32, mixed_bfloat16 or mixed_float16
        seed: of the split, weights, noise and the order of the images
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    if images is None:
        raise ValueError("--images is missing: the folder of images to train on")
    runs.claim(settings)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    output, old = pathlib.Path(output), load_model(checkpoint, compile=False)
    transfer.check(old)

    # === Images, in the shape that the model takes ===
    shape = tuple(image_size or old.shape)
    shape = shape if len(shape) == 3 else (*shape, old.shape[-1])
    found, classes = data.find(images) or images, None
    if old.condition is not None:
        classes, _ = folders.classes_of(found)
        print(f"Labels: {', '.join(f'{i} {name}' for i, name in enumerate(classes))}")
    bar = cli.progress("reading images")
    *parts, skipped = folders.stream(found, shape, output, seed, bar, labelled=bool(classes))
    parts = parts if classes else [(x, None) for x in parts]
    (train, y_train), (validation, y_validation), (test, y_test) = parts
    counts = f"{len(train):,} train, {len(validation):,} validation, {len(test):,} test"
    print(f"{images}: {counts} {shape} images")
    (output / "skipped.json").unlink(missing_ok=True)
    if skipped:
        cli.write_json(output / "skipped.json", skipped)
        print(f"Skipped {len(skipped)} files (all in {output / 'skipped.json'}):")
        for name, why in list(skipped.items())[:10]:
            print(f"  {name}: {why}")

    # === The model: the checkpoint's weights, wherever they fit ===
    fitting = transfer.fits(old.likelihood, train[:500])
    changed = {"shape": shape, "likelihood": None if fitting else likelihood}
    changed["condition"] = len(classes) if classes else None
    model, new = transfer.adapted(old, **changed)
    if new:
        print(f"New weights: {', '.join(variable.path for variable in new)}")
    if freeze != "none":
        frozen = getattr(model, freeze)
        if fixed := {id(v) for v in frozen.variables} & {id(v) for v in new}:
            raise ValueError(f"--freeze {freeze} would keep {len(fixed)} new weights untrained")
        frozen.trainable = False
    model.compile(transfer.optimizer(model, new, learning_rate, old_learning_rate))
    # The validation images choose, the test images are what is reported.
    bits = model.likelihood.binary
    held_out, tested = (data.binarize(x) if bits else x for x in (validation, test))
    held_out, tested = (held_out, y_validation), (tested, y_test)
    before, first = _elbo(model, held_out), model.get_weights()
    numbers = {"elbo_before": _number(model, tested, "new head" if new else "the checkpoint")}
    shown = np.asarray(tested[0][:10])
    pictures = {"original": shown / 255.0}
    shown = (shown, y_test[:10]) if classes else shown
    pictures["new head" if new else "before"] = model.predict(shown, verbose=0)

    # === Training, and keeping the better ===
    parts = (train, y_train), held_out
    options = {**settings, "augment": folders.augmented if augment else None}
    history = runs.fit(model, *parts, title="Fine-tuning", **options)
    after = _elbo(model, held_out)
    if not after >= before:  # or it has diverged
        print("No epoch was better than the checkpoint: its weights are kept")
        model.set_weights(first)
        after = before
    pictures["after"] = model.predict(shown, verbose=0)
    what = f"fine-tuned, {len(history['loss'])} epochs"
    numbers["elbo_after"] = _number(model, tested, what)

    if scratch:
        keras.utils.set_random_seed(seed)
        other = type(model).from_config(model.get_config())
        other.compile(keras.optimizers.Adam(learning_rate))
        seconds = runs.seconds_of(output)
        own = {"output": output / "scratch", "epochs": 10_000, "patience": 10_000}
        own["title"] = "Training from scratch, as long"
        tried = runs.fit(other, *parts, **{**options, **own}, seconds=seconds)
        what = f"from scratch, {len(tried['loss'])} epochs in the same {seconds:.0f} seconds"
        numbers["elbo_scratch"] = _number(other, tested, what)
        pictures["from scratch"] = other.predict(shown, verbose=0)

    # === Both are kept, and the better one is named ===
    model.compiled = False  # an optimizer of some of the weights would fit no other model
    model.encoder.trainable = model.decoder.trainable = True  # frozen for this run alone
    saved = {output / "model.keras": "fine-tuned: the better of before and after"}
    model.save(output / "model.keras")
    best = model
    if scratch:
        saved[output / "scratch" / "model.keras"] = "from scratch, in the same time"
        other.save(output / "scratch" / "model.keras")
        gap = _elbo(other, held_out) - after
        best = other if gap > 0 else model
        name = list(saved)[gap > 0]
        kind = "from scratch" if gap > 0 else "fine-tuned"
        print(f"The better model is {name}: {kind}, ahead by {abs(gap):,.1f} nats")
        what = f"{kind}, ahead by {abs(gap):,.1f} nats on the validation images"
        numbers["better"] = {"value": str(name.relative_to(output)), "unit": "", "protocol": what}
    return _report(best, saved, numbers, pictures, history, settings, classes, output)


def _report(model, saved, numbers, pictures, history, settings, classes, output):
    cli.write_json(output / "numbers.json", numbers)
    config = {"command": cli.command(), "settings": settings, "backend": keras.backend.backend()}
    cli.write_json(output / "config.json", {**config, **({"classes": classes} if classes else {})})
    y = np.arange(64) % len(classes) if classes else None
    new = model.sample(64, seed=settings["seed"], y=y)
    rows = np.stack([np.asarray(x, "float32") for x in pictures.values()], axis=1)
    files = [
        *saved.items(),
        (
            plots.image_rows(rows, list(pictures), output / "reconstructions.png"),
            "held-out images, and what each model makes of them",
        ),
        (plots.samples(new, output / "samples.png"), "new images, of the better model"),
        (plots.curves(history, output / "curves.png"), "every term, training and validation"),
        (output / "numbers.json", "the numbers above"),
    ]
    print()
    cli.table(numbers, files)
    return numbers


def _elbo(model, held_out):
    return model.evaluate(*held_out, batch_size=128, verbose=0, return_dict=True)["elbo"]


def _number(model, tested, what):
    number = measure(model, np.asarray(tested[0]), tested[1], num_samples=0)["elbo"]
    return {**number, "protocol": f"{what}: {number['protocol']} that chose nothing"}


if __name__ == "__main__":
    cli.run(fine_tune, distribute=True)
