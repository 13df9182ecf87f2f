"""Images in folders, as users have them: any depth, size and kind, some of them broken.

`read` is what `data.load` takes images from; `stream` brings any number of them to one shape, in
one file on disk that is mapped into memory and never read as a whole.
"""

import concurrent.futures
import hashlib
import json
import pathlib
import struct

import numpy as np
from PIL import Image, ImageOps

from vae_zoo import files

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FEWEST = 20  # readable images that a model can be trained and judged on at all
# What PIL raises on damaged files, and on ones too large to be meant.
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


def files_of(folder):
    """Paths of the PNG, JPEG, BMP and WebP images at any depth, sorted; no hidden ones."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return sorted(p for p in found if not p.name.startswith("."))


def read(file):
    """uint8 (height, width, 1 or 3) of an image file, upright as its camera says.

    16-bit grey levels become 8-bit ones; what is transparent is shown on white.

    Raises:
        one of `UNREADABLE`: if it is no sound image.
    """
    return _pixels(_opened(file))


def read_as(file, image_shape):
    """uint8 (height, width, channels) of a file: its middle, resized, in grey or in colour."""
    height, width, channels = image_shape
    pixels = _pixels(_opened(file))
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image_shape)


def _opened(file):
    with Image.open(file) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def _pixels(image):
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip to 8
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("more than 16 bits a channel")
        return (grey // 257).astype("uint8")[..., None]
    if image.mode == "F":
        raise ValueError("floating-point levels, of which the range is unknown")
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        grey = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.array(image).reshape(*image.size[::-1], -1)


def stream(folder, image_shape, output, seed=0, progress=None):
    """All images of a folder in one shape, as two arrays that lie on disk.

    Files are read once, several at a time, and written to `<output>/images-<key>.u8`; a later call
    for the same files, shape and seed finds them there. Every tenth run of neighbours (by name; the
    frames of a film are alike) is held out for validation.

    Args:
        folder: path.
        image_shape: (height, width, channels), 1 or 3 channels.
        output: folder for what is written.
        seed: int, of the split.
        progress: wraps the iterable of images, given it and their number.

    Returns:
        train, validation: uint8 (n, *image_shape), memory-mapped; skipped: dict, name -> why.

    Raises:
        ValueError: if there is no such folder, or fewer than 20 readable images in it.
    """
    folder, output, image_shape = pathlib.Path(folder), pathlib.Path(output), tuple(image_shape)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if image_shape[-1] not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels. Received: image_shape={image_shape}")
    every = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    paths = files_of(folder)
    others = [str(p.relative_to(folder)) for p in sorted(set(every) - set(paths))]
    skipped = dict.fromkeys(others, "not PNG, JPEG, BMP or WebP")
    key = _key(paths, image_shape, seed)
    target, index = output / f"images-{key}.u8", output / f"images-{key}.json"
    if not (target.is_file() and index.is_file()):
        for suffix in (".u8", ".json"):  # of other files, or another shape
            for old in output.glob(f"images-{'[0-9a-f]' * 12}{suffix}"):
                old.unlink()
        counts, broken = _write(paths, folder, image_shape, target, seed, progress)
        files.write_json(index, {"counts": counts, "skipped": broken})
    found = json.loads(index.read_text())
    skipped |= found["skipped"]
    n, held = found["counts"]
    if n + held < FEWEST:
        reasons = f", {len(skipped)} skipped, first {next(iter(skipped))}" if skipped else ""
        raise ValueError(
            f"{folder} has {n + held} readable images, {FEWEST} are needed at least{reasons}"
        )
    images = np.memmap(target, np.uint8, "r", shape=(n + held, *image_shape))
    return images[:n], images[n:], skipped


def _key(paths, image_shape, seed):
    digest = hashlib.sha256(repr((image_shape, seed)).encode())
    for file in paths:
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _write(paths, folder, image_shape, target, seed, progress):
    """Counts of both parts, and what was broken: training images first, then those held out."""
    runs = min(50, len(paths))
    run_of = np.arange(len(paths)) * runs // max(1, len(paths))
    held = np.isin(run_of, np.random.default_rng(seed).permutation(runs)[: max(1, runs // 10)])
    order = np.argsort(held, kind="stable")
    counts, broken = [0, 0], {}

    def read_one(place):
        try:
            return place, read_as(paths[place], image_shape), None
        except UNREADABLE as error:
            return place, None, str(error).splitlines()[0] if str(error) else "unreadable"

    def read_all(pool):
        for start in range(0, len(order), 1000):  # so many wait in memory at most
            yield from pool.map(read_one, order[start : start + 1000])

    with files.replacing(target) as partial:
        with open(partial, "wb") as out, concurrent.futures.ThreadPoolExecutor() as pool:
            rows = read_all(pool)
            if progress is not None:
                rows = progress(rows, total=len(paths))
            for place, image, reason in rows:
                if image is None:
                    broken[str(paths[place].relative_to(folder))] = reason
                else:
                    out.write(np.ascontiguousarray(image).tobytes())
                    counts[int(held[place])] += 1
    return counts, broken


def augmented(images, rng):
    """Half of the images mirrored, all moved by up to a sixteenth, their edges repeated.

    Args:
        images: uint8 (n, height, width, channels).
        rng: `np.random.Generator`.
    """
    n, height, width, _ = images.shape
    images = np.where(rng.random(n)[:, None, None, None] < 0.5, images[:, :, ::-1], images)
    down, right = (
        np.clip(np.arange(size) + rng.integers(-reach, reach + 1, (n, 1)), 0, size - 1)
        for size, reach in ((height, height // 16), (width, width // 16))
    )
    return images[np.arange(n)[:, None, None], down[:, :, None], right[:, None, :]]
