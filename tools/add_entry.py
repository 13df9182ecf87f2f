"""Makes an entry of the zoo from a finished run: python tools/add_entry.py output/dense_vae_mnist

The run is measured by `vae_zoo.evaluate`, and its card says all there is to say.
"""

import json
import pathlib
import sys
import time

from vae_zoo import GaussianMixture, cli, data, folders, load_model, patches, zoo
from vae_zoo.data.places import LICENCES
from vae_zoo.graphs import Graphs
from vae_zoo.lab import canvas
from vae_zoo.lab.evaluate import evaluate, measure
from vae_zoo.strokes import Strokes

# isort: split
# After the package, which says in one line what is missing.
import keras

PREPARED = {  # what the examples of a domain are, where they are no images
    Graphs: "85 % of the links to train on, 5 and 10 % held out beside as many pairs without one",
    Strokes: "offsets with noise of U(-1/2, 1/2) (seed 777 for held-out ones), scaled by the "
    "deviation of the training offsets",
}


def anchor(value, source, differs, samples=None, compared=True):
    """What the literature reports: a number, where it stands, the samples of its bound, what
    differs from ours, and whether a difference of the two says anything."""
    return {
        "value": value,
        "source": source,
        "differs": differs,
        "samples": samples,
        "compared": compared,
    }


PYTORCH_GENERATIVE = (
    "README of github.com/EugenHotaj/pytorch-generative, dynamic MNIST",
    "457 epochs of all 60,000 training images, padded to 32×32; that README once said of its "
    "numbers that they may be optimistic",
)
EPLL = (
    "Zoran and Weiss 2011, as in the README of github.com/cszn/DnCNN, BSD68, the same protocol",
    "EPLL with 200 components fitted to two million patches",
)
VGAE = (
    "Kipf and Welling 2016, arXiv:1611.07308, table 1, Cora",
    "ten runs on one choice of held-out links, where ours are ten choices, by which it spreads as "
    "far as the standard deviation in the card says",
)
ANCHORS = {
    "graph_vae_cora": {
        "link_auc_parts": anchor(0.914, *VGAE),
        "link_ap_parts": anchor(0.926, *VGAE),
    },
    "dense_vae_mnist": {
        "nll_iw5000": anchor(
            84.45,
            "Norouzi et al. 2020 (Exemplar VAE), arXiv:2004.04795, dynamic MNIST",
            "the same two layers of 300 gated units, z = 40 and 50,000 images; early stopping",
            samples=5000,
        )
    },
    "flow_prior_vae_mnist": {
        "nll_iw1000": anchor(
            82.09,
            "Norouzi et al. 2020 (Exemplar VAE), arXiv:2004.04795, dynamic MNIST",
            "an Exemplar prior with the same networks; none is published for a dense VAE with a "
            "RealNVP prior",
            samples=5000,
            compared=False,
        )
    },
    "flow_prior_conv_vae_mnist": {
        "nll_iw1000": anchor(
            78.49,
            "Xu et al. 2019, arXiv:1905.13452, residual network with a RealNVP prior, dynamic "
            "MNIST",
            "the mean of three runs on a GPU; the flow has 20 blocks or 50; 78.61 without residual "
            "connections",
            samples=1000,
        )
    },
    "vamp_prior_vae_mnist": {
        "nll_iw5000": anchor(
            82.43,
            "Norouzi et al. 2020 (Exemplar VAE), arXiv:2004.04795, VampPrior, dynamic MNIST",
            "the same networks and 500 pseudo-inputs, 50,000 images; early stopping",
            samples=5000,
        )
    },
    **dict.fromkeys(
        ("beta_tc_vae_shapes", "factor_vae_shapes"),
        {
            "mig_lib": anchor(
                0.15,
                "Locatello et al. 2019, arXiv:1811.12359, medians of .10 to .20 on dSprites",
                "64×64 images drawn from the original masters, five factors, 300,000 steps",
                compared=False,
            )
        },
    ),
    "iwae_mnist": {
        "nll_iw5000": anchor(
            84.90,
            "README of github.com/nbip/IWAE, one layer, k = 5, DReG, dynamic MNIST",
            "200 tanh units in the place of 300 gated ones, z = 50, 3,280 epochs of 60,000 images; "
            "Burda et al. 2016 have 85.54 with the plain gradient",
            samples=5000,
        )
    },
    "iwae_mnist_two_layers": {
        "nll_iw5000": anchor(
            83.48,
            "README of github.com/nbip/IWAE, two layers, k = 5, dynamic MNIST",
            "200 and 100 tanh units, z = 100 and 50, 3,280 epochs of 60,000 images; Burda et al. "
            "2016 have 83.89",
            samples=5000,
        )
    },
    "conditional_vae_mnist": {
        "nll_given_y_iw5000": anchor(
            82.32,
            "README of github.com/nbip/IWAE, conditional, k = 1, dynamic MNIST",
            "200 tanh units in the place of 300 gated ones, a learned p(z|y), 3,280 epochs of "
            "60,000 images; 80.78 with k = 50",
            samples=5000,
        )
    },
    "conv_vae_mnist": {
        "elbo": anchor(
            86.77,
            PYTORCH_GENERATIVE[0],
            f"residual VAE, 2×2 grid of 16 latents; {PYTORCH_GENERATIVE[1]}",
        )
    },
    "ladder_vae_mnist": {
        "nll_iw1000": anchor(
            81.74,
            "Sønderby et al. 2016, arXiv:1602.02282, dynamic MNIST",
            "ladder VAE of widths 512 to 64, batch normalisation, 2,000 epochs of 60,000 images, "
            "importance-weighted fine-tuning",
            samples=5000,
        )
    },
    "hierarchical_vae_mnist": {
        "nll_iw100": anchor(
            78.01,
            "Vahdat and Kautz 2020 (NVAE), arXiv:2007.03898, table 1, dynamic MNIST",
            "without flows; twenty groups, 400 epochs of 60,000 images on two GPUs",
            samples=1000,
        )
    },
    "pixel_cnn_mnist": {
        "nll": anchor(
            81.50,
            PYTORCH_GENERATIVE[0],
            f"gated PixelCNN, 10 blocks of 128; {PYTORCH_GENERATIVE[1]}",
        )
    },
    "gmm_patches_bsds": {
        "patch_log_likelihood": anchor(
            164.52,
            "Zoran and Weiss 2011, table 1",
            "patches of the BSDS300 test images, not dequantised as far as the paper says",
            compared=False,
        ),
        **{
            f"psnr_sigma_{sigma}": anchor(value, *EPLL)
            for sigma, value in ((15, 31.21), (25, 28.68), (50, 25.67))
        },
    },
    "vq_vae_cifar10_subset": {
        "relative_mse": anchor(
            0.056,
            "vqvae_example.ipynb of github.com/deepmind/sonnet",
            "the same 8×8 codes of 512, an averaged codebook; training batches of all 50,000 "
            "images of CIFAR-10, where ours are held-out images of a fifth of it, and JPEG copies: "
            "quality 75 alone removes about 1.2 % of the variance, more than the difference of the "
            "two",
            compared=False,
        )
    },
}


def measured(model, name, dataset, samples, images, seed, image_size=None, factors=False):
    """Numbers of a model as an entry has them, the published ones beside, and how they were taken.

    Args:
        model: with the weights that are stored.
        name, dataset: of the entry, and what it was trained on.
        samples, images, seed: see `add_entry`.
        image_size: see `data.load`.
        factors: bool, what the latents say of the data set's factors too.

    Returns:
        dict, name -> number; dict for the card's "evaluation".
    """
    start = time.monotonic()
    keras.utils.set_random_seed(seed)
    numbers = evaluate(
        model,
        dataset,
        importance_samples=samples,
        importance_images=images,
        classifier=zoo.classifier(dataset, (*model.domain.shape, 1)[:3]),
        seed=seed,
        progress=cli.progress("importance sampling"),
        image_size=image_size,
        with_factors=factors,
    )
    x, _ = data.load(dataset, "test", image_size=image_size)
    x = data.binarize(x) if model.sees_bits else x
    return numbers | _published(name, numbers), _how(start, data.fingerprint(x))


def _published(name, numbers):
    """Those numbers of an entry that published ones stand beside, with these."""
    return {
        m: {**numbers[m], "anchor": a} for m, a in ANCHORS.get(name, {}).items() if m in numbers
    }


def _how(start, fingerprint):
    return {
        "backend": keras.backend.backend(),
        "machine": cli.machine(),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "test_images": fingerprint,
    }


def add_entry(
    run,
    name: str = None,
    importance_samples=5000,
    importance_images: int = None,
    seed=0,
    note="",
    images: str = None,
    denoising: tuple[str, ...] = (),
    fewer: tuple[str, ...] = (),
):
    """Measure a run and store it in the zoo.

    Args:
        run: the output folder of a recipe
        name: of the entry; that of the folder if left out
        importance_samples: k of the importance-weighted NLL; 0 leaves it out
        importance_images: test images that it is taken over, spread over all; all if left out
        seed: of samples, mixtures and the untrained encoder
        note: a sentence for the card
        images: of a mixture of patches, a folder of images for its likelihood
        denoising: of a mixture of patches, output folders of `recipes/denoise.py --benchmark`
        fewer: of a mixture of patches, runs of fewer components to compare it with
    """
    run = pathlib.Path(run)
    name = name or run.name
    config = json.loads((run / "config.json").read_text())
    settings = config["settings"]
    dataset = settings["dataset"]
    model = load_model(run, compile=False)
    zoo.round_weights(model)  # what is measured is what is stored
    binary = model.sees_bits
    image_size = settings.get("image_size")
    x_test, _ = data.load(dataset, "test", image_size=image_size)
    x_test = data.binarize(x_test) if binary else x_test
    if isinstance(model, GaussianMixture):
        n, size = max(1, settings["number"] // 10), settings["patch_size"]
        x_test = patches.drawn(x_test, n, size, settings["seed"])
    parts = json.loads((run / "numbers.json").read_text())
    found = data.fingerprint(x_test)
    if found != config["test_images"]:
        raise ValueError(f"The test images are not those of the run: {found} is their fingerprint")
    if isinstance(model, GaussianMixture):
        start = time.monotonic()
        numbers = _of_patches(model, x_test, images, denoising, fewer)
        numbers |= _published(name, numbers)
        evaluation = _how(start, config["test_images"])
    else:
        how = importance_samples, importance_images, seed, image_size, "mig_lib" in parts
        numbers, evaluation = measured(model, name, dataset, *how)
    # What the run has measured of models that it does not keep.
    numbers |= {key: number for key, number in parts.items() if key.endswith("_parts")}
    numbers |= _published(name, numbers)
    own = ("output", "resume", "overwrite", "tensorboard")
    of_patches = ", patches at random places, dequantised by U(0, 1) / 255"
    of_patches = of_patches if isinstance(model, GaussianMixture) else ""
    levels = "grey levels or colours in [0, 1]" + of_patches
    bits = "bits drawn from the grey levels, anew at every training step, once for test (seed 777)"
    card = {
        "dataset": dataset,
        "preprocessing": PREPARED.get(type(model.domain), bits if binary else levels),
        "data_licence": LICENCES.get(dataset, "unknown"),
        "command": config["command"],
        "settings": {k: v for k, v in settings.items() if k not in own},
        "training": {
            **{key: config[key] for key in ("backend", "keras", "machine", "epochs", "minutes")},
            "seed": settings["seed"],
        },
        "evaluation": evaluation,
        "metrics": numbers,
    }
    if zoo.classifier(dataset) is not None:
        card["classifier_sha256"] = zoo.card(zoo.CLASSIFIER + pathlib.Path(dataset).stem)["sha256"]
    if note:
        card["note"] = note
    folder = zoo.save(model, name, card, zoo.pictures_of(run))
    for picture in folder.glob("*.png"):
        canvas.thin_out(picture)
    cli.table(numbers, [(folder, f"{_size(folder):.1f} MiB")])
    return folder


def _of_patches(model, x_test, folder, denoising, fewer, n=50_000):
    """Likelihoods of a mixture of patches, and what `recipes/denoise.py` measured with it."""
    numbers = measure(model, x_test)
    if folder:
        images = [folders.read(path) for path in folders.files_of(pathlib.Path(folder))]
        x = patches.drawn(images, n, model.shape[0])
        what = f"exact, {n:,} patches of {len(images)} images of {pathlib.Path(folder).name}, "
        what += "dequantised by U(0, 1) / 255, in the space without the mean"
        models = {"": model} | {
            f"_components_{other.components}": other
            for other in (load_model(run, compile=False) for run in fewer)
        }
        for suffix, one in models.items():
            values = one.log_likelihood(x)
            error = float(values.std(ddof=1) / n**0.5)
            own = {"value": float(values.mean()), "unit": "nats", "standard_error": error}
            numbers[f"patch_log_likelihood{suffix}"] = own | {"protocol": what}
    for run in denoising:
        found = json.loads(pathlib.Path(run, "benchmark.json").read_text())
        how = "fast setting" if found["settings"]["fast"] else "exact setting"
        suffix = f"_sigma_{found['settings']['sigma']:g}"
        suffix += "" if found["settings"]["fast"] else "_exact"
        damage = {key: found["settings"].get(key) for key in ("blur", "missing")}
        suffix += "".join(f"_{key}_{value:g}" for key, value in damage.items() if value)
        for name, number in found["numbers"].items():
            numbers[name + suffix] = {**number, "protocol": f"{number['protocol']}, {how}"}
    return numbers


def _size(folder):
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


if __name__ == "__main__":
    sys.exit(not cli.run(add_entry))
