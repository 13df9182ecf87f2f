"""One trained model, one prior after the other: `python recipes/priors.py saved_models/<name>`

`--help` lists the settings. Tomczak and Welling 2018 (VampPrior), arXiv:1705.07120; Dinh et al.
2017 (RealNVP), arXiv:1605.08803; Ghosh et al. 2020 (a mixture fitted afterwards), arXiv:1903.12436;
Dai and Wipf 2019 (a second VAE), arXiv:1903.05789.

An autoencoder has no prior, and so does not generate; with one of these it does.
"""

import pathlib

import numpy as np

from vae_zoo import cli, data, domains, kinds, load_model, plots, runs, zoo
from vae_zoo.evaluate import Found, Quality, measure, number, spread

# isort: split
# After the package, which says in one line what is missing.
import keras
from keras import ops


def compare_priors(
    path,
    dataset: str = None,
    image_size: tuple[int, ...] = None,
    kinds_of_prior=("normal", "mixture", "vamp", "flow", "two_stage"),
    components=10,
    pseudo_inputs=500,
    couplings=8,
    units=64,
    epochs=50,
    importance_samples=100,
    importance_images=1000,
    seed=0,
    output="output/priors",
    resume=False,
    overwrite=False,
):
    """Fit several priors to the latents of one model, and compare what they are worth.

    Args:
        path: the name of an entry of the zoo, a run (a folder with model.keras in it), or a file; a
            VAE or an autoencoder of one group of latents
        dataset: of the images; a folder knows what its model was trained on
        image_size: height,width that the images are brought to; a folder knows this too
        kinds_of_prior: of normal, mixture (of Gaussians), vamp (the posteriors of training images,
            for a VAE), flow (a RealNVP) and two_stage (a second VAE)
        components: Gaussians of the mixture
        pseudo_inputs: training images of the VampPrior
        couplings: steps of the flow
        units: width of the networks of the flow; the second VAE's are four times as wide
        epochs: passes of the flow and the second VAE over the latents, at most
        importance_samples: k of the importance-weighted NLL of a VAE; 0 leaves it out
        importance_images: test images that it is taken over, spread over all
        seed: of draws, fits and samples
        output: folder for the numbers, the picture and the runs of the flow and the second VAE
        resume: go on from the last epoch's end of such a run that was killed
        overwrite: replace a run with other settings in output
    """
    settings = dict(locals())
    runs.claim(settings)
    output, path = pathlib.Path(output), zoo.find(path)
    if not dataset:
        known = runs.trained_on(path.parent)
        dataset, image_size = known["dataset"], image_size or known.get("image_size")
    keras.utils.set_random_seed(seed)
    model = load_model(path, compile=False)
    is_vae, latents = isinstance(model, kinds.BaseVAE), getattr(model, "latent_domain", ())
    if isinstance(latents, tuple) or not domains.all_numbers(latents) or model.condition:
        raise ValueError(f"A {type(model).__name__} has no one group of latents to fit a prior to")
    if not is_vae:
        kinds_of_prior = [kind for kind in kinds_of_prior if kind != "vamp"]

    splits = {s: data.load(dataset, s, image_size=image_size) for s in data.SPLITS}
    train = splits["train"]
    validation, test = (
        (data.binarize(x) if model.sees_bits else x, y) for x, y in list(splits.values())[1:]
    )
    classifier = zoo.classifier(dataset, (*model.domain.shape, 1)[:3])
    found = Found(splits, *test, train[0], classifier, seed)
    quality = Quality(found) if classifier else None
    x = np.asarray(test[0][spread(len(test[0]), importance_images)])
    how = {"couplings": couplings, "units": units, "epochs": epochs, "seed": seed}
    how["resume"] = resume
    numbers, strips = {}, {}
    for kind in kinds_of_prior:
        size = pseudo_inputs if kind == "vamp" else components
        cli.heading(f"Prior: {kind}")
        how |= {"components": size, "output": output / f"prior_{kind}"}
        prior = runs.prior_of_latents(kind, model, train, validation, **how)
        new = model.with_prior(prior) if is_vae else model
        strips[kind] = model.domain.pictures(new_images(new, prior, 10, seed))
        if is_vae and importance_samples:
            progress = cli.progress(f"importance sampling, {kind}")
            found = measure(new, x, num_samples=importance_samples, progress=progress)
            name = f"nll_iw{importance_samples}"
            numbers[f"{name}_{kind}"] = found[name]
        if quality:
            value = quality.of(new_images(new, prior, quality.n, seed))
            numbers[f"cnn_fid_{kind}"] = number(value, "", quality.protocol + kind)
    if quality:
        numbers |= quality.floor
    cli.write_json(output / "numbers.json", numbers)
    cli.write_json(output / "config.json", {"command": cli.command(), "settings": settings})
    written = [(output / "numbers.json", "the numbers above")]
    if all(images is not None for images in strips.values()):
        picture = plots.strips(strips, output / "priors.png")
        written.append((picture, "ten samples from each prior"))
    print()
    cli.table(dict(sorted(numbers.items())), written)
    return numbers


def new_images(model, prior, n, seed):
    """n images, of a VAE that has the prior, or of an autoencoder that has none."""
    if isinstance(model, kinds.BaseVAE):
        return model.sample(n, seed=seed)
    return model.decode(ops.convert_to_numpy(prior.sample(n, seed=seed)))


if __name__ == "__main__":
    cli.run(compare_priors)
