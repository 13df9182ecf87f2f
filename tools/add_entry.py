"""Makes an entry of the zoo from a finished run: python tools/add_entry.py output/dense_vae_mnist

The run is measured by `vae_zoo.evaluate`, and its card says all there is to say.
"""

import json
import pathlib
import sys
import time

import keras

from vae_zoo import GaussianMixture, cli, data, folders, load_model, patches, zoo
from vae_zoo.lab.evaluate import evaluate, measure

LICENCES = {
    "mnist": "CC BY-SA 3.0 (Y. LeCun, C. Cortes, C. Burges)",
    "frey_faces": "none stated (B. Frey, S. Roweis)",
    "sprites": "CC BY-SA 3.0 and GPL 3.0 (Liberated Pixel Cup)",
    "cifar10_subset": "none stated (A. Krizhevsky, V. Nair, G. Hinton)",
    "train400": "research and education only (Berkeley Segmentation Data Set: D. Martin, C. "
    "Fowlkes, D. Tal, J. Malik)",
    "digits": "CC BY 4.0 (E. Alpaydin, C. Kaynak; with scikit-learn)",
}
# What the literature reports: entry -> metric -> (number, where it stands).
EPLL = "EPLL with 200 components of two million patches: Zoran and Weiss 2011, as in the README of"
EPLL += " github.com/cszn/DnCNN, BSD68, the same protocol"
PYTORCH_GENERATIVE = "README of github.com/EugenHotaj/pytorch-generative, dynamic MNIST"
ANCHORS = {
    "dense_vae_mnist": {
        "nll_iw5000": (
            84.45,
            "VAE of the same two layers of 300 gated units, z = 40, dynamic MNIST: Norouzi et al. "
            "2020 (Exemplar VAE), arXiv:2004.04795",
        )
    },
    "conv_vae_mnist": {
        "elbo": (86.77, f"residual VAE, 2×2 grid of 16 latents, 457 epochs: {PYTORCH_GENERATIVE}")
    },
    "ladder_vae_mnist": {
        "nll_iw1000": (
            81.74,
            "ladder VAE of five layers, 2,000 epochs and importance-weighted fine-tuning, dynamic "
            "MNIST, 5,000 samples: Sønderby et al. 2016, arXiv:1602.02282",
        )
    },
    "hierarchical_vae_mnist": {
        "nll_iw1000": (
            78.01,
            "NVAE without flows, 400 epochs, dynamic MNIST, 1,000 samples: Vahdat and Kautz 2020, "
            "arXiv:2007.03898, table 1",
        )
    },
    "pixel_cnn_mnist": {
        "nll": (81.50, f"gated PixelCNN, 10 blocks of 128, 457 epochs: {PYTORCH_GENERATIVE}")
    },
    "gmm_patches_bsds": {
        "patch_log_likelihood": (
            164.52,
            "200 components, patches of the BSDS300 test images, not dequantised as far as the "
            "paper says: Zoran and Weiss 2011, table 1",
        ),
        "psnr_sigma_15": (31.21, EPLL),
        "psnr_sigma_25": (28.68, EPLL),
        "psnr_sigma_50": (25.67, EPLL),
    },
    "vq_vae_cifar10_subset": {
        "relative_mse": (
            0.056,
            "8×8 codes of 512, averaged codebook, training batches of the whole of CIFAR-10 after "
            "10,000 steps of 32: vqvae_example.ipynb of github.com/deepmind/sonnet",
        )
    },
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
        importance_images: test images that it is taken over, the first ones; all if left out
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
    x_test, _ = data.load(dataset, "test")
    x_test = data.binarize(x_test) if binary else x_test
    if isinstance(model, GaussianMixture):
        n, size = max(1, settings["number"] // 10), settings["patch_size"]
        x_test = patches.drawn(x_test, n, size, settings["seed"])
    found = data.fingerprint(x_test)
    if found != config["test_images"]:
        raise ValueError(f"The test images are not those of the run: {found} is their fingerprint")
    start = time.monotonic()
    keras.utils.set_random_seed(seed)
    if isinstance(model, GaussianMixture):
        numbers = _of_patches(model, x_test, images, denoising, fewer)
    else:
        numbers = evaluate(
            model,
            dataset,
            importance_samples=importance_samples,
            importance_images=importance_images,
            classifier=zoo.classifier(dataset),
            seed=seed,
            progress=cli.progress("importance sampling"),
        )
    for metric, (anchor, source) in ANCHORS.get(name, {}).items():
        if metric.startswith("nll_iw"):  # of however many samples were taken here
            metric = next(m for m in numbers if m.startswith("nll_iw"))
        numbers[metric] |= {"anchor": anchor, "anchor_source": source}
    own = ("output", "resume", "tensorboard")
    of_patches = ""
    if isinstance(model, GaussianMixture):
        of_patches = ", patches at random places, dequantised by U(0, 1) / 255"
    bits = "bits drawn from the grey levels, anew at every training step, once for test (seed 777)"
    card = {
        "dataset": dataset,
        "preprocessing": bits if binary else "grey levels or colours in [0, 1]" + of_patches,
        "data_licence": LICENCES.get(dataset, "unknown"),
        "command": config["command"],
        "settings": {k: v for k, v in settings.items() if k not in own},
        "training": {
            **{key: config[key] for key in ("backend", "keras", "machine", "epochs", "minutes")},
            "seed": settings["seed"],
        },
        "evaluation": {
            "backend": keras.backend.backend(),
            "machine": cli.machine(),
            "minutes": round((time.monotonic() - start) / 60, 1),
            "test_images": config["test_images"],
        },
        "metrics": numbers,
    }
    if zoo.classifier(dataset) is not None:
        card["classifier_sha256"] = zoo.card(zoo.CLASSIFIER + pathlib.Path(dataset).stem)["sha256"]
    if note:
        card["note"] = note
    pictures = sorted(run.glob("*.png"))
    folder = zoo.save(model, name, card, pictures)
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
        for name, number in found["numbers"].items():
            numbers[name + suffix] = {**number, "protocol": f"{number['protocol']}, {how}"}
    return numbers


def _size(folder):
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


if __name__ == "__main__":
    sys.exit(not cli.run(add_entry))
