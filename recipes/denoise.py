"""Denoise a picture of your own: `python recipes/denoise.py --image picture.png --sigma 25`

`--help` lists the settings. `--blur 1.6` sharpens what is blurred, `--mask holes.png` fills in what
is missing. Without an image it takes a photograph and does the damage itself; `--benchmark FOLDER`
measures over clean images. Zoran and Weiss 2011, ICCV.
"""

import io
import json
import pathlib
import time

import numpy as np

from vae_zoo import cli, folders, load_model, metrics, operators, plots, runs
from vae_zoo.restoration import estimated_noise, restore

# Which a benchmark goes on with.
SETTINGS = ("sigma", "blur", "missing", "fast", "checkpoint", "seed", "images")


def denoise(
    image: str = None,
    sigma: float = None,
    blur: float = None,
    mask: str = None,
    missing: float = None,
    checkpoint="gmm_patches_bsds",
    fast=True,
    benchmark: str = None,
    images: int = None,
    seed=0,
    output="output/denoise",
    resume=False,
):
    """Denoise a picture with a prior over patches, or measure how well that goes.

    Args:
        image: the picture, of any common format; a photograph with noise put in if left out
        sigma: standard deviation of the noise, of 255 grey levels. Left out, that of a picture of
            yours is estimated, and where noise is put in it is 25, or 2 on what is blurred. Where
            pixels are missing it is 0, which leaves the others as they are
        blur: standard deviation, in pixels, of a Gaussian blur that is undone
        mask: a picture as large as image: what is white there is missing, and is filled in
        missing: share of the pixels to take out at random, where no image is given
        checkpoint: the name of an entry of the zoo, a run (a folder with model.keras in it), or a
            file, of a Gaussian mixture of patches or of a VAE of patches without their mean
        fast: fewer patches and eigenvectors, several times as fast for a hundredth of a dB or two;
            --no-fast is exact
        benchmark: folder of clean images; noise is put in, and PSNR and SSIM of each are measured
        images: of the folder, evenly spread; all if left out
        seed: of the noise
        output: folder for pictures and numbers
        resume: go on with a benchmark that was killed
    """
    settings = {key: value for key, value in locals().items() if key in SETTINGS}
    if blur and (mask or missing):
        raise ValueError("--blur is undone, or holes are filled in, not both at once")
    if (image and missing) or (mask and not image):
        raise ValueError("--mask goes with an --image, --missing with none")
    output = pathlib.Path(output)
    runs.hold(output)
    prior = load_model(checkpoint, compile=False)
    if sigma is None and (not image or mask):
        settings["sigma"] = sigma = 0 if mask or missing else 2 if blur else 25
    if benchmark is not None:
        return _benchmark(prior, benchmark, settings, output, resume)
    if image is None:
        clean = _photograph()
        y, operator = damaged(clean, settings, seed)
        clean = operator.within(clean)
    else:
        clean, y = None, _read(image)
        operator = operator_of(blur, mask and _known(mask, y))
    estimate = sigma is None
    sigma = 255 * estimated_noise(y) if estimate else sigma
    print(f"Noise of {sigma:.1f} grey levels{', as estimated' if estimate else ''}")
    start = time.monotonic()
    x = restored(y, operator, prior, settings | {"sigma": sigma}, cli.progress("restoring"))
    numbers = {"seconds": _number(time.monotonic() - start, "s", "to restore the picture")}
    what = "blurred" if blur else "holes" if mask or missing else "noisy"
    shown = {what: y, "denoised" if what == "noisy" else "restored": x}
    if clean is not None:
        shown["clean"] = clean / 255.0
        numbers |= {f"{key}_{what}": n for key, n in quality(y, clean).items()}
        numbers |= quality(x, clean)
    files = [
        (_written(x, output / "denoised.png"), "the restored picture"),
        (_strip(shown, output), "before and after: the picture, and its middle enlarged"),
    ]
    cli.write_json(output / "numbers.json", numbers)
    cli.table(numbers, [*files, (output / "numbers.json", "the numbers above")])
    return numbers


def operator_of(blur, known):
    """What was done to a picture before the noise came."""
    if blur:
        return operators.Blur(operators.gaussian_kernel(blur), periodic=False)
    return operators.Identity() if known is None else operators.Mask(known)


def damaged(clean, settings, seed):
    """A uint8 image (height, width, channels) blurred or with holes, and with noise, float64 and
    neither clipped nor rounded; and the operator that did it."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, settings["sigma"], clean.shape)
    missing = settings["missing"]
    operator = operator_of(
        settings["blur"], rng.random(clean.shape[:2]) >= missing if missing else None
    )
    planes = np.moveaxis(np.float64(clean), -1, 0)
    y = np.stack([operator.forward(plane) for plane in planes], axis=-1)
    return (y + operator.within(noise)) / 255, operator


def restored(y, operator, prior, settings, progress=None):
    """The most probable image, as large as y."""
    sigma, fast = settings["sigma"] / 255, settings["fast"]
    return operator.within(restore(y, prior, sigma, operator, fast=fast, progress=progress))


def quality(x, clean):
    """PSNR and SSIM of an image in [0, 1], rounded to 256 levels, to a clean uint8 one."""
    rounded = np.round(np.clip(x, 0, 1) * 255) / 255
    clean = clean / 255.0
    psnr = float(metrics.psnr(np.mean((rounded - clean) ** 2)))
    ssim = float(metrics.ssim(rounded[None], clean[None])[0])
    protocol = "of the output rounded to 256 levels"
    return {"psnr": _number(psnr, "dB", protocol), "ssim": _number(ssim, "", protocol)}


def _benchmark(prior, folder, settings, output, resume):
    """PSNR, SSIM and seconds of each image, written as they come."""
    files = folders.files_of(pathlib.Path(folder))
    if not files:
        raise ValueError(f"--benchmark must be a folder of images. Received: {folder}")
    some = settings["images"] or len(files)
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(some, len(files))).astype(int)]
    path, rows = output / "benchmark.json", {}
    if resume and path.is_file():
        before = json.loads(path.read_text())
        if before["settings"] != settings:
            raise ValueError(f"{path} is of other settings: resume with {before['settings']}")
        rows = before["images"]
    print(f"{'image':<24} {'PSNR':>7} {'SSIM':>7} {'seconds':>8}")
    for i, file in enumerate(files):
        if file.name not in rows:
            clean = folders.read(file)
            y, operator = damaged(clean, settings, settings["seed"] + i)
            start = time.monotonic()
            x = restored(y, operator, prior, settings)
            seconds, clean = time.monotonic() - start, operator.within(clean)
            rows[file.name] = [n["value"] for n in quality(x, clean).values()] + [seconds]
            cli.write_json(path, {"settings": settings, "images": rows})
        psnr, ssim, seconds = rows[file.name]
        print(f"{file.name:<24} {psnr:7.2f} {ssim:7.4f} {seconds:8.1f}")
    table = np.array([rows[file.name] for file in files])
    damage = ", ".join(f"{k} = {settings[k]:g}" for k in SETTINGS[:3] if settings[k] is not None)
    protocol = f"{len(files)} images, {damage}, mean"
    errors = table.std(axis=0) / np.sqrt(len(table))
    numbers = {
        name: _number(value, unit, protocol, standard_error=error)
        for name, value, error, unit in zip(
            ("psnr", "ssim", "seconds"), table.mean(axis=0), errors, ("dB", "", "s an image")
        )
    }
    cli.write_json(path, {"settings": settings, "images": rows, "numbers": numbers})
    print()
    cli.table(numbers, [(path, "the numbers of each image")])
    return numbers


def _read(image):
    try:
        return folders.read(image) / 255.0
    except FileNotFoundError:
        raise
    except folders.UNREADABLE as error:
        raise ValueError(f"{image} is no sound image: {error}") from None


def _known(mask, y):
    """What a mask, white where pixels are missing, leaves of the image y: bool (height, width)."""
    holes = _read(mask).mean(axis=-1) > 0.5
    if holes.shape != y.shape[:2]:
        size, own = ("×".join(map(str, a.shape[:2])) for a in (y, holes))
        raise ValueError(f"--mask must be as large as --image, {size} pixels. Received: {own}")
    return ~holes


def _photograph():
    """The middle of scikit-learn's photograph of a temple, grey: uint8 (256, 320, 1)."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    grey = Image.fromarray(load_sample_image("china.jpg")).convert("L")
    return np.asarray(grey)[80:336, 160:480, None]


def _written(x, path):
    from PIL import Image

    pixels, content = np.round(np.clip(x, 0, 1) * 255).astype("uint8"), io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    cli.write_bytes(path, content.getvalue())
    return path


def _strip(shown, output, side=64):
    """All versions next to each other; below, the middle of each, enlarged as often as it fits."""
    height, width = next(iter(shown.values())).shape[:2]
    side = min(side, height, width)
    scale = max(1, min(height, width) // side)
    top, left = (height - side) // 2, (width - side) // 2
    rows = [np.stack(list(shown.values()))]
    middle = rows[0][:, top : top + side, left : left + side]
    middle = middle.repeat(scale, axis=1).repeat(scale, axis=2)
    pad = ((0, 0), (0, height - middle.shape[1]), (0, width - middle.shape[2]), (0, 0))
    rows.append(np.pad(middle, pad, constant_values=1.0))
    return plots.image_rows(np.clip(rows, 0, 1), list(shown), output / "comparison.png")


def _number(value, unit, protocol, **fields):
    return {"value": float(value), "unit": unit, "protocol": protocol, **fields}


if __name__ == "__main__":
    cli.run(denoise)
