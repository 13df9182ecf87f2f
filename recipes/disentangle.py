"""Disentanglement: train β-VAE, β-TCVAE and FactorVAE side by side, and compare their latents.

`python recipes/disentangle.py --help` lists the settings. Higgins et al. 2017 (β-VAE), Chen et al.
2018, arXiv:1802.04942 (β-TCVAE), Kim and Mnih 2018, arXiv:1802.05983 (FactorVAE); numbers by the
code of Locatello et al. 2019, arXiv:1811.12359, and of Chen et al.
"""

import csv
import io
import pathlib

import numpy as np

from vae_zoo import (
    BetaTCVAE,
    ConvVAE,
    FactorVAE,
    cli,
    factors,
    files,
    likelihoods,
    load_model,
    plots,
    runs,
)
from vae_zoo.lab import factor_numbers, factor_pictures
from vae_zoo.lab.measure import spread
from vae_zoo.lab.output import FREE

# isort: split
# After the package, which says in one line what is missing.
import keras

FAMILIES = ("vae", "beta_vae", "beta_tc_vae", "factor_vae")
SHOWN = ("mig_lib", "mig_chen", "factor_vae_score", "dci_disentanglement", "sap")
SHOWN += ("total_correlation", "rate", "distortion")
OWN = {  # settings of one family only
    "beta": "beta_vae",
    "beta_tc": "beta_tc_vae",
    **dict.fromkeys(("gamma", "discriminator_units", "factor_learning_rate"), "factor_vae"),
}
VALIDATION = 2000  # images that each epoch is judged by


def disentangle(
    families=FAMILIES,
    seeds=(0,),
    dataset="shapes",
    image_size: tuple[int, ...] = (32, 32),
    steps=1000,
    steps_per_epoch=500,
    batch_size=64,
    latent_dim=10,
    filters=(32, 32, 64, 64),
    units=256,
    likelihood="bernoulli",
    beta=4.0,
    beta_tc=6.4,
    gamma=35.0,
    discriminator_units=(256, 256, 256, 256),
    learning_rate=1e-3,
    factor_learning_rate=5e-4,
    full_metrics=False,
    output="output/disentangle",
    resume=False,
    overwrite=False,
):
    """Train the families side by side, each for several seeds, and compare their latents.

    Args:
        families: vae, beta_vae, beta_tc_vae, factor_vae; convolutional networks of one size
        seeds: of weights, noise and the order of the images; a run each
        dataset: shapes, sprites, or a .npz with factors
        image_size: height,width (or height,width,channels) that images are brought to
        steps: updates of each run; 20000 tell the families apart
        steps_per_epoch: updates after which a run is judged and can be resumed
        batch_size: images in a step
        latent_dim: size of z
        filters: channels after each halving of the image, mirrored in the decoder
        units: width of the dense layers beside the latent
        likelihood: bernoulli (black and white), gaussian, laplace or discretized_logistic (8 bits)
        beta: weight of the KL in beta_vae; in vae it is 1
        beta_tc: weight of the total correlation in beta_tc_vae
        gamma: weight of the total correlation in factor_vae
        discriminator_units: widths of the discriminator of factor_vae; six of 1000 in the paper
        learning_rate: of Adam; of the discriminator's too, whose moments are .5 and .9
        factor_learning_rate: of the VAE in factor_vae, so slow that the discriminator keeps up
        full_metrics: numbers of the whole set, with as many images and trees as their sources have,
            which take minutes a run
        output: folder; each run has a folder of its own in it, and one alone is there itself
        resume: go on from the last epoch's end where runs were killed; finished ones stay
        overwrite: replace runs with other settings in output
    """
    of_runs = {k: v for k, v in locals().items() if k not in ("families", "seeds")}
    if not families or set(families) - set(FAMILIES):
        received = ",".join(families)
        raise ValueError(f"--families must be of {', '.join(FAMILIES)}. Received: {received}")
    alone = len(families) * len(seeds) == 1
    plan = [
        {"family": family, "seed": seed}
        | {name: value for name, value in of_runs.items() if OWN.get(name, family) == family}
        | {"output": output if alone else str(pathlib.Path(output, f"{family}_{seed}"))}
        for seed in seeds
        for family in families
    ]
    waiting = [settings for settings in plan if not finished(settings)]
    for settings in waiting:
        runs.claim(settings)
    whole = factors.load(dataset, image_size)
    if waiting:
        splits = runs.splits(dataset, image_size, binary=likelihoods.get(likelihood).binary)
    for settings in waiting:
        print(f"\n{settings['family']}, seed {settings['seed']}: {settings['output']}")
        train(settings, *splits, whole)
    for folder in (pathlib.Path(settings["output"]) for settings in plan):
        if not (folder / "mutual_information.png").exists():
            model = load_model(folder, compile=False)
            cli.table({}, list(factor_pictures.pictures(model, *whole, folder)))
    return table(plan, None if alone else pathlib.Path(output))


def finished(settings):
    """Whether the run with these settings is there and is not to be made anew."""
    output = pathlib.Path(settings["output"])
    if not settings["resume"] or not (output / "config.json").is_file():
        return False
    then = files.read_json(output / "config.json")["settings"]
    return all(list_of(then.get(k)) == list_of(v) for k, v in settings.items() if k not in FREE)


def list_of(value):
    return list(value) if isinstance(value, tuple) else value


def train(settings, train, validation, test, whole):
    """One run, in its folder: trains, measures, draws."""
    family, seed, batch_size = (settings[key] for key in ("family", "seed", "batch_size"))
    keras.utils.clear_session()  # a run is what it is alone
    keras.utils.set_random_seed(seed)
    names = ("latent_dim", "filters", "units", "likelihood")
    networks = {name: settings[name] for name in names} | {"seed": seed}
    networks["shape"] = train[0].shape[1:]
    adam = keras.optimizers.Adam(settings["learning_rate"])
    if family == "beta_tc_vae":
        size, weight = len(train[0]), settings["beta_tc"]
        model = BetaTCVAE(**networks, dataset_size=size, beta_tc=weight)
        model.compile(adam)
    elif family == "factor_vae":
        widths = settings["discriminator_units"]
        model = FactorVAE(**networks, gamma=settings["gamma"], discriminator_units=widths)
        judge = keras.optimizers.Adam(settings["learning_rate"], beta_1=0.5, beta_2=0.9)
        model.compile(keras.optimizers.Adam(settings["factor_learning_rate"]), judge)
    else:
        model = ConvVAE(**networks, beta=settings["beta"] if family == "beta_vae" else 1.0)
        model.compile(adam)

    epochs = -(-settings["steps"] // min(settings["steps_per_epoch"], len(train[0]) // batch_size))
    of_training = {k: v for k, v in settings.items() if k not in ("steps", "full_metrics")}
    of_training |= {"epochs": epochs, "patience": epochs}
    of_training["steps_per_epoch"] = -(-settings["steps"] // epochs)
    some = spread(len(validation[0]), VALIDATION)
    judged = tuple(part if part is None else part[some] for part in validation)
    history = runs.fit(model, train, judged, keep="last", **of_training)

    full = settings["full_metrics"]
    how = {"num_images": None if full else 10_000, "fast": not full, "progress": cli.progress}
    numbers = factor_numbers.numbers(model, *whole, **how)
    how = {"elbo_samples": 16 if full else 2, "beside": numbers, "keep": "last"}
    command = cli.command(families=family, seeds=seed)
    runs.report(model, train, test, history, settings, command=command, **how)


def table(plan, output):
    """Prints medians and spreads over seeds; writes them, and all runs, to a folder, if any.

    Returns:
        dict, family -> name -> dict of `median`, `min`, `max` and `values`.
    """
    rows = []
    for settings in plan:
        numbers = files.read_json(pathlib.Path(settings["output"], "numbers.json"))
        own = {name: n["value"] for name, n in numbers.items()}
        rows.append({"family": settings["family"], "seed": settings["seed"], **own})
    found = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        values = {name: [r[name] for r in rows if r["family"] == family] for name in SHOWN}
        found[family] = {
            name: {"median": np.median(v), "min": min(v), "max": max(v), "values": v}
            for name, v in values.items()
            if None not in v
        }
    seeds = len({row["seed"] for row in rows})
    print(f"\nmedians of {seeds} seeds, least to most" if seeds > 1 else "\none seed")
    for name in SHOWN:
        print(name)
        for family, numbers in found.items():
            if name in numbers:
                median, least, most = (numbers[name][k] for k in ("median", "min", "max"))
                spread_of = f"  {least:.3f} to {most:.3f}" if seeds > 1 else ""
                print(f"    {family:<12} {median:8.3f}{spread_of}")
    if output:
        cli.write_json(output / "numbers.json", found)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        cli.write_bytes(output / "runs.csv", text.getvalue().encode())
        picture = plots.rate_distortion(rows, output / "rate_distortion.png")
        written = [
            (output / "numbers.json", "the numbers above"),
            (output / "runs.csv", "all runs"),
        ]
        print()
        cli.table({}, [*written, (picture, "rate and distortion of each run")])
    return found


if __name__ == "__main__":
    cli.run(disentangle)
