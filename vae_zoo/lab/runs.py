"""A run, from data to numbers: what the recipes of all families share.

`claim` looks at the folder, `splits` reads a data set, `fit` trains and prints a line an epoch,
`report` measures, draws and saves.
"""

import functools
import pathlib
import platform

import keras
import numpy as np

from vae_zoo import data, files
from vae_zoo.engine.batches import Batches
from vae_zoo.lab import console, plots, terms, transfer
from vae_zoo.lab.callbacks import EpochLines, NoticeCollapse, TensorBoard
from vae_zoo.lab.checkpoint import Checkpoint, seconds_of
from vae_zoo.lab.evaluate import labels_of, latents, measure
from vae_zoo.lab.measure import spread
from vae_zoo.lab.output import claim, clear, hold, trained_on
from vae_zoo.lab.pictures import pictures, shown
from vae_zoo.models.dense_vae import DenseVAE
from vae_zoo.models.gaussian_mixture import GaussianMixture
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.models.real_nvp import RealNVP
from vae_zoo.parts import domains, likelihoods, priors
from vae_zoo.parts.schedules import averages, scheduled

__all__ = ["averages", "claim", "fit", "fitted_prior", "hold", "report", "scheduled", "splits"]
__all__ += ["trained_on"]


def splits(dataset, image_size=None, binary=False, static=False) -> list:
    """Train, validation and test split of a data set, each a pair (x, y); x uint8 images.

    Args:
        dataset: a name or a path, see `vae_zoo.data.load`.
        image_size: (height, width) or (height, width, channels) that images are brought to; None
            leaves them as they are.
        binary: True for Bernoulli likelihoods: validation and test images become fixed bits,
            training images stay grey levels that the step draws bits from ("dynamic").
        static: True makes fixed bits of the training images too.
    """
    parts = []
    for split in data.SPLITS:
        bar = console.progress("reading images")
        x, y = data.load(dataset, split, image_size=image_size, progress=bar)
        if binary and split == "train" and not transfer.black_and_white(x[:500]):
            console.note(
                f"{dataset} is not black and white: what is modelled are bits drawn from its levels"
                " (--likelihood discretized_logistic or gaussian models the levels)"
            )
        if binary and (static or split != "train"):
            x = data.binarize(x)
        parts.append((x, y))
    train, validation, test = (len(x) for x, _ in parts)
    kind = f"{parts[0][0].shape[1:]} images"
    if parts[0][1] is not None:
        classes = len(np.unique(np.concatenate([y for _, y in parts])))
        kind += f" of {classes} class" + ("es" if classes > 1 else "")
    print(f"{dataset}: {train:,} train, {validation:,} validation, {test:,} test {kind}")
    return parts


def prior(kind, latent_shape, images, components=100, couplings=8, units=64, seed=None):
    """A prior to train a model with, None for N(0, I).

    Args:
        kind: "normal"; "vamp", a `VampPrior` that starts from training images; "flow", a `RealNVP`;
            "mixture", which is fitted to the trained model (see `fitted_prior`), so that the prior
            it is trained with is N(0, I).
        latent_shape: tuple, of one example's latents.
        images: those of the training split.
        components: int, pseudo-inputs of the VampPrior.
        couplings, units, seed: of the flow.
    """
    if kind == "flow":
        return RealNVP(latent_shape, couplings, units, seed=seed)
    if kind == "vamp":
        vamp = priors.VampPrior(images.shape[1:], components)
        vamp.start(images, seed or 0)
        return vamp
    if kind not in ("normal", "mixture"):
        raise ValueError(f"`prior_kind` must be normal, mixture, vamp or flow. Received: {kind}")
    return None


def fitted_prior(model, kind, train, seed=0):
    """The trained model, with a mixture of Gaussians as its prior where that is the kind; args as
    of `prior_of_latents`."""
    if kind != "mixture":
        return model
    console.heading("Fitting the prior: a mixture of Gaussians")
    return model.with_prior(prior_of_latents(kind, model, train, seed=seed))


def prior_of_latents(
    kind,
    model,
    train,
    validation=None,
    *,
    components=10,
    couplings=8,
    units=64,
    epochs=50,
    seed=0,
    output=None,
    resume=False,
):
    """A prior fitted to the latents of a trained model: draws z ~ q(z|x), the codes of an
    autoencoder.

    Ghosh et al. 2020 (RAE), arXiv:1903.12436, section 4; with a VAE as the second model Dai and
    Wipf 2019, arXiv:1903.05789.

    Args:
        kind: "normal"; "mixture" of Gaussians; "vamp", the posteriors of training images; "flow", a
            `RealNVP` of standardised latents; "two_stage", a second VAE of the same size.
        model: trained `LatentModel` of one group of latents.
        train, validation: pairs (x, y); what is trained alone needs the second.
        components: int, of the mixture, or the VampPrior.
        couplings: int, of the flow.
        units: int, width of the networks of the flow; those of the second VAE are four times as
            wide.
        epochs, resume: of the training of these two.
        seed: int.
        output: folder of their run.
    """
    if kind == "normal":
        return priors.StandardNormal(model.latent_shape)
    if kind == "vamp":
        return prior(kind, model.latent_shape, train[0], components, seed=seed)
    if kind == "mixture":
        z = latents(model, np.asarray(train[0][spread(len(train[0]))]), seed)
        return GaussianMixture.fitted(z, components, seed)
    if kind not in ("flow", "two_stage"):
        raise ValueError(
            f"The prior must be normal, mixture, vamp, flow or two_stage. Received: {kind}"
        )
    z = [latents(model, np.asarray(x[:]), seed + i) for i, (x, _) in enumerate((train, validation))]
    if kind == "flow":
        density = RealNVP(model.latent_shape, couplings, units, seed=seed)
        density.start_norms(z[0][:5000])
    else:
        size = int(np.prod(model.latent_shape))
        of_latents = {"activation": "silu", "likelihood": likelihoods.Gaussian("learned")}
        density = DenseVAE(
            model.latent_shape, size, (4 * units, 4 * units), seed=seed, **of_latents
        )
    rate = scheduled(2e-3, "cosine", epochs, len(z[0]), 128)
    density.compile(keras.optimizers.Adam(rate, **averages(1.0, -(-len(z[0]) // 128))))
    how = {"epochs": epochs, "batch_size": 128, "seed": seed, "patience": 10}
    how |= {"output": output, "resume": resume, "couplings": couplings, "units": units}
    fit(density, *((part, None) for part in z), title="Fitting the prior", **how)
    return density if kind == "flow" else priors.SecondStage(density)


def fit(
    model,
    train,
    validation,
    *,
    epochs,
    batch_size,
    seed,
    patience,
    output,
    resume=False,
    overwrite=False,
    tensorboard=False,
    augment=None,
    seconds=None,
    keep="best",
    title="Training",
    steps_per_epoch=None,
    **settings,
) -> dict:
    """Trains, and keeps the weights of the best validation epoch.

    Each epoch ends by writing `<output>/history.csv` and `<output>/checkpoint.npz`. A run that was
    killed and goes on with `resume=True` ends with the weights that it would have had: what an
    epoch does is a function of the checkpoint and of (seed, epoch).

    Args:
        model: compiled model.
        train, validation: pairs (x, y).
        epochs: int, at most.
        batch_size: int.
        seed: int, of the order of the examples.
        patience: int, epochs without a better validation bound (or loss) after which to stop.
        output: folder.
        resume: bool, go on from the checkpoint where there is one; else what another run has left
            in the folder goes.
        overwrite: see `claim`, which has looked at the folder.
        tensorboard: bool, write every term to `<output>/tensorboard` too.
        augment: of training images, see `data.Batches`.
        keep: "best", of all epochs, or "last", whatever validation says.
        steps_per_epoch: int, batches after which an epoch ends; None for all.
        seconds: float, stop at the end of the epoch in which training has taken so long.
        title: str, what this training is; a line that says so comes first.
        **settings: all else that the run was started with: a resumed run must have the same.

    Returns:
        dict, name -> list: every logged term, epoch by epoch, those before a resume included.

    Raises:
        ValueError: if the checkpoint is of another model or of other settings.
        ImportError: if `tensorboard` is asked for and not installed.
    """
    settings.update(epochs=epochs, batch_size=batch_size, seed=seed, patience=patience)
    settings.update({"steps_per_epoch": steps_per_epoch} if steps_per_epoch else {})
    # What has no part in these weights.
    settings.pop("importance_samples", None)
    settings = {key: value for key, value in settings.items() if not key.startswith("prior")}
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        clear(output)
    how = {"augment": augment, "steps": steps_per_epoch}
    batches = Batches(*train, batch_size=batch_size, seed=seed, **how)
    held_out = Batches(*validation, batch_size=batch_size, shuffle=False)
    term, unit = terms.name(model.monitor), terms.unit(model.monitor, model.logged)
    console.heading(
        f"{title}: {type(model).__name__}, {model.count_params():,} parameters, {epochs:,} epochs "
        f"of {len(batches):,} steps; {term} in {unit}"
    )
    if (rising := settings.get("warmup_epochs", 0)) > epochs:
        console.note(
            f"The warm-up of {rising} epochs is longer than the training of {epochs}: the KL ends "
            f"with {epochs / rising:.0%} of its weight"
        )
    monitor, mode = monitored(model)
    stopping = keras.callbacks.EarlyStopping(
        monitor, patience=patience, mode=mode, restore_best_weights=keep == "best"
    )
    # Averaged weights, where the optimizer keeps them, are what is validated and kept.
    optimizer = model.optimizer if model.compiled else None
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    averages = getattr(optimizer, "use_ema", False)
    averaging = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if averages else []
    checkpoint = Checkpoint(output, model, batches, stopping, settings, averaging, seconds)
    if resume:
        checkpoint.load()
    watching = [TensorBoard(output / "tensorboard")] if tensorboard else []
    watching += watchers(model, validation, epochs)
    lines = EpochLines(monitor)
    try:
        model.fit(
            batches,
            epochs=epochs,
            initial_epoch=epochs if checkpoint.stopped else checkpoint.epoch,
            validation_data=held_out,
            callbacks=[*averaging, stopping, checkpoint, lines, *watching],
            verbose=0,
        )
    finally:
        lines.close()
    history = checkpoint.history
    values, term = history[monitor], f"val {term}"
    if keep == "last":
        print(f"Epoch {len(values)}, the last, is kept: {term} {values[-1]:.2f}")
    elif (best := terms.best_epoch(history, monitor)) is None:
        print(f"No epoch of {len(values)} has a {term} that is a number: the run has diverged")
    else:
        print(f"Best epoch {best} of {len(values)}: {term} {values[best - 1]:.2f}")
    return history


def monitored(model):
    """The logged term whose best validation epoch is kept, and whether "max" or "min" is best."""
    return f"val_{model.monitor}", "min" if model.monitor == "loss" else "max"


@functools.singledispatch
def watchers(model, validation, epochs):
    """Callbacks that a kind of model is watched by while it trains; none by default."""
    return []


@watchers.register
def _(model: BaseVAE, validation, epochs):
    if not domains.all_numbers(model.latent_domain):  # codes have a perplexity to look at
        return []
    rows = spread(len(validation[0]), 500)
    x, y = (None if part is None else np.asarray(part[rows]) for part in validation)
    return [NoticeCollapse(x, epochs, labels_of(model, y))]


def settings_of_prior(settings, name="prior"):
    """What `fit` takes for a prior over the latents of a run with these settings: `prior_epochs` of
    them, in a folder of its own; it stops once it learns the training latents by heart."""
    output = pathlib.Path(settings["output"], name)
    title = f"Fitting the {' of the '.join(name.split('_'))}"
    own = {"epochs": settings["prior_epochs"], "patience": 5, "output": output, "title": title}
    return {**settings, **own}


def report(
    model,
    train,
    test,
    history,
    settings,
    importance_samples=0,
    *,
    elbo_samples=16,
    beside=None,
    command=None,
    keep="best",
) -> dict:
    """Measures on the test split; writes the model, its numbers and its pictures; prints a table.

    Args:
        model: trained model.
        train, test: pairs (x, y).
        history: as `fit` returns it.
        settings: dict, what the run was started with; `settings["output"]` is the folder for
            `model.keras`, `config.json`, `numbers.json`, `history.csv` and pictures.
        importance_samples: int, k of the importance-weighted bound; 0 leaves it out.
        elbo_samples: int, draws of z per image that the ELBO is averaged over.
        beside: dict, name -> number, of what else was measured.
        command: str, what gives this run; None for the command line of this process.
        keep: "best" or "last", see `fit`: the best epoch is marked where it was kept.

    Returns:
        dict, name -> number, as `measure` does, those of `beside` too.
    """
    output = pathlib.Path(settings["output"])
    (x_train, _), (x, y) = train, test
    model.save(output / "model.keras")
    console.heading(f"Measuring on the test split: {len(x):,} examples")
    numbers = measure(
        model,
        np.asarray(x[:]),
        labels_of(model, y),
        num_samples=importance_samples,
        elbo_samples=elbo_samples,
        x_train=x_train,
        progress=console.progress("importance sampling"),
    )
    numbers |= beside or {}
    files.write_json(output / "numbers.json", numbers)
    seconds = sum(map(seconds_of, [output, *output.glob("prior*/")]))
    files.write_json(output / "config.json", _config(model, settings, history, seconds, x, command))
    console.table(numbers)  # before anything is drawn
    monitor = monitored(model)[0] if keep == "best" else None
    drawn = plots.curves(history, output / "curves.png", monitor=monitor)
    what = f"settings, versions, fingerprint of the test {model.domain.plural}"
    written = [
        (output / "model.keras", "the trained model: keras.models.load_model after import vae_zoo"),
        (output / "checkpoint.npz", "what --resume goes on from"),
        (output / "history.csv", "every logged term, epoch by epoch"),
        (output / "config.json", what),
        (output / "numbers.json", "the numbers above"),
        (drawn, "every term, training and validation"),
        *pictures(model, *shown(x, y), output, settings.get("seed", 0)),
    ]
    if settings.get("tensorboard"):
        written.append((output / "tensorboard", f"tensorboard --logdir {output / 'tensorboard'}"))
    print()
    console.table({}, written)
    return numbers


def _config(model, settings, history, seconds, x_test, command):
    return {
        "command": command or console.command(),
        "settings": settings,
        "class": type(model).__name__,
        "parameters": model.count_params(),
        "test_images": data.fingerprint(x_test),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "python": platform.python_version(),
        "machine": console.machine(),
        "epochs": len(history["loss"]),
        "minutes": round(seconds / 60, 1),
    }
