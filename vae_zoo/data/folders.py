"""Images in folders, as users have them: any depth, size and kind, some of them broken.

`walk` finds them and names all that is not read; `arranged` tells splits and classes by their
folders. `read` is what `data.load` takes images from; `mapped` brings any number of them to one
shape, in one file on disk that is mapped into memory and never read as a whole.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import struct
import threading
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from vae_zoo import files
from vae_zoo.data.augment import augmented as augmented

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff")
SUFFIXES += (".bmp", ".pbm", ".pgm", ".ppm", ".pnm")
KINDS = "PNG, JPEG, WebP, GIF, TIFF, BMP or PNM"  # what these are
NOISE = ("__MACOSX", "@eaDir")  # folders of thumbnails and the like, which nobody made
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FEWEST = 20  # readable images that a model can be trained and judged on at all
# What PIL raises on damaged files, and on ones too large to be meant.
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, LookupError)
UNREADABLE += (OverflowError, MemoryError)
UNREADABLE += (Image.DecompressionBombError, Image.DecompressionBombWarning)
MOST_PIXELS = 2**26  # of an image; 8192 x 8192
MANY_PIXELS = 2**22  # of an image that is read while no other is
ONE_AT_A_TIME = threading.Lock()
# Of images that are above the limit here anyway.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


# === Which files ===


def walk(folder):
    """Images at any depth, and all else.

    Hidden files and folders are passed over. Links are followed, but not in a circle.

    Args:
        folder: path.

    Returns:
        paths of the images, sorted; dict, name -> why it is not read.
    """
    folder, paths, skipped = pathlib.Path(folder), [], {}

    def skip(path, why):
        skipped[files.printable(path.relative_to(folder))] = why

    def visit(place, above):
        real = os.path.realpath(place)
        if real in above:
            return skip(place, "a link to a folder around it")
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            return skip(place, error.strerror)
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith(".") or entry.name in NOISE:
                continue
            if entry.is_dir():
                visit(path, {*above, real})
            elif not entry.is_file():
                skip(path, "a link to nothing" if entry.is_symlink() else "no regular file")
            elif path.suffix.lower() in SUFFIXES:
                paths.append(path)
            else:
                skip(path, f"not {KINDS}")

    visit(folder, frozenset())
    return sorted(paths), skipped


def files_of(folder):
    """Paths of the images at any depth, sorted; no hidden ones."""
    return walk(folder)[0]


@dataclasses.dataclass
class Arranged:
    """What `arranged` returns.

    Args:
        root: path of the folder.
        images: dict, split (None where there are no splits) -> paths of its images.
        labels: dict, split -> number of the class of each; or None.
        classes: list, names of the classes.
        skipped: dict, name -> why it is not read.
    """

    root: pathlib.Path
    images: dict
    labels: dict | None
    classes: list
    skipped: dict


def arranged(folder):
    """The images of a folder by their splits and classes.

    Folders that hold one folder and nothing else are passed through. Then two or more folders with
    the names of splits (train and test, val …) are the splits; and where all images lie in folders,
    in two or more of them, these are the classes, sorted.
    """
    folder = pathlib.Path(folder)
    paths, skipped = walk(folder)
    top = pathlib.Path(os.path.commonpath([path.parent for path in paths])) if paths else folder
    inside = {path: path.relative_to(top).parts for path in paths}
    named = {part[0] for part in inside.values() if len(part) > 1 and part[0].lower() in SPLITS}
    if len({SPLITS[name.lower()] for name in named}) > 1:
        images = collections.defaultdict(list)
        for path, parts in inside.items():
            if parts[0] in named and len(parts) > 1:
                images[SPLITS[parts[0].lower()]].append(path)
                inside[path] = parts[1:]
            else:
                name = files.printable(path.relative_to(folder))
                skipped[name] = "beside the folders of the splits"
        images = dict(images)
    else:
        images = {None: paths}
    read = [path for part in images.values() for path in part]
    classes = sorted({inside[path][0] for path in read if len(inside[path]) > 1})
    labels = None
    if len(classes) > 1 and all(len(inside[path]) > 1 for path in read):
        number = {name: i for i, name in enumerate(classes)}
        labels = {s: [number[inside[path][0]] for path in part] for s, part in images.items()}
    return Arranged(folder, images, labels, classes if labels else [], skipped)


def told(read, broken, skipped):
    """One line: how many images were read of a folder, and what was not.

    Args:
        read: int.
        broken: dict, name of an image -> why it could not be read.
        skipped: dict, name -> why it was not read, as `walk` returns it.
    """
    parts = []
    if broken:
        first, why = map(files.printable, next(iter(broken.items())))
        parts.append(f"{_count(len(broken), 'unreadable image')}, first {first} ({why})")
    for why, n in collections.Counter(skipped.values()).items():
        first = next(name for name in skipped if skipped[name] == why)
        parts.append(f"{_count(n, 'file')} ({why}), first {first}")
    return f"Skipped {'; '.join(parts)}. Read {_count(read, 'image')}."


def _count(n, what):
    return f"{n:,} {what}" + ("" if n == 1 else "s")


# === What is in them ===


def read(file):
    """uint8 (height, width, 1 or 3) of an image file, upright as its camera says.

    16-bit grey levels become 8-bit ones; what is transparent is shown on white; of an animation, or
    of several pages, the first is taken.

    Raises:
        one of `UNREADABLE`: if it is no sound image.
    """
    with _opened(file) as image:
        return _pixels(image)


def read_as(file, image_shape):
    """uint8 (height, width, channels) of a file: its middle, resized, in grey or in colour."""
    with _opened(file) as image:
        return fitted(_pixels(image), image_shape)


def fitted(pixels, image_shape):
    """The middle of an image uint8 (height, width, 1 or 3), resized to (height, width, 1 or 3)."""
    height, width, channels = image_shape
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image_shape)


def channels_of(paths):
    """3 if one of the images is in colour as it stands in its file, else 1."""
    for path in paths:
        try:
            with Image.open(path) as image:
                grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        except UNREADABLE:
            continue
        if not grey:
            return 3
    return 1


def why(error):
    """What is wrong with an unreadable image, in one line."""
    return (str(error).splitlines() or ["unreadable"])[0]


@contextlib.contextmanager
def _opened(file):
    """Context with an image, upright; one at a time of those that are large."""
    with Image.open(file) as image:
        pixels = math.prod(image.size)
        if pixels > MOST_PIXELS:
            raise ValueError(f"{pixels:,} pixels, above the limit of {MOST_PIXELS:,}")
        with ONE_AT_A_TIME if pixels > MANY_PIXELS else contextlib.nullcontext():
            try:
                image.load()
            except TypeError as error:  # Pillow's, over the damaged tags of a TIFF
                raise ValueError(str(error)) from None
            yield ImageOps.exif_transpose(image)


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


# === All of them in one shape ===


def stream(folder, image_shape, output, seed=0, progress=None, labelled=False):
    """All images of a folder in one shape, as three arrays that lie on disk, see `mapped`.

    Of ten runs of neighbours (by name; the frames of a film are alike) one is held out for
    validation and one for the test.

    Args:
        folder: path.
        image_shape: (height, width, channels), 1 or 3 channels.
        output: folder for what is written.
        seed: int, of the split.
        progress: see `mapped`.
        labelled: bool, with the labels, see `classes_of`.

    Returns:
        train, validation, test: uint8 (n, *image_shape), memory-mapped, or pairs of these and
        labels int32 (n,); skipped: dict, name -> why.

    Raises:
        ValueError: if there is no such folder, fewer than 20 readable images in it, or no classes
            where they are asked for.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    paths, skipped = walk(folder)
    runs = min(50, len(paths))
    run_of = np.arange(len(paths)) * runs // max(1, len(paths))
    tenth = max(1, runs // 10)
    rank = np.random.default_rng(seed).permutation(runs)
    part = np.isin(run_of, rank[:tenth]) + 2 * np.isin(run_of, rank[tenth : 2 * tenth])
    order = [paths[i] for i in np.argsort(part, kind="stable")]
    images, kept, broken = mapped(order, image_shape, output, progress)
    for name, why in broken.items():
        skipped[files.printable(pathlib.Path(name).relative_to(folder))] = why
    if len(images) < FEWEST:
        reasons = f", {len(skipped)} skipped, first {next(iter(skipped))}" if skipped else ""
        raise ValueError(
            f"{folder} has {len(images)} readable images, {FEWEST} are needed at least{reasons}"
        )
    ends = np.searchsorted(kept, np.cumsum(np.bincount(part, minlength=3))[:2])
    parts = np.split(images, ends)
    if labelled:
        labels = classes_of(folder)[1]
        y = np.array([labels[order[i]] for i in kept], "int32")
        parts = list(zip(parts, np.split(y, ends)))
    return *parts, skipped


def classes_of(folder):
    """Names of the classes of a folder, sorted, and a dict, path of an image -> number of its.

    Raises:
        ValueError: if its images do not all lie in two class folders or more.
    """
    found = arranged(folder)
    if found.labels is None:
        raise ValueError(f"{folder} must hold a folder of images for each class, two or more")
    pairs = (zip(paths, found.labels[split]) for split, paths in found.images.items())
    return found.classes, dict(pair for one in pairs for pair in one)


def mapped(paths, image_shape, output, progress=None):
    """Image files in one shape, as an array that lies on disk.

    Files are read once, several at a time, and written to `<output>/images-<key>.u8`; a later call
    for the same files and shape finds them there.

    Args:
        paths: of the files, in the order of the array.
        image_shape: (height, width, channels), 1 or 3 channels.
        output: folder for what is written; what other files or shapes have left there goes.
        progress: wraps the iterable of images, given it and their number.

    Returns:
        uint8 (n, *image_shape), memory-mapped; places in `paths` of those that could be read; dict,
        path of each other one -> why.
    """
    output, image_shape = pathlib.Path(output), tuple(image_shape)
    if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[-1] not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels. Received: image_shape={image_shape}")
    key = _key(paths, image_shape)
    target, index = output / f"images-{key}.u8", output / f"images-{key}.json"
    files.sweep(output, "images-*.u8", "images-*.json")
    found = _found(target, index, image_shape)
    if found is None:
        for suffix in (".u8", ".json"):
            for old in output.glob(f"images-{'[0-9a-f]' * 12}{suffix}"):
                old.unlink(missing_ok=True)  # another process may have been faster
        found = _write(paths, image_shape, target, progress)
        files.write_json(index, found)
    kept, broken = found["kept"], {str(paths[place]): why for place, why in found["broken"]}
    shape = (len(kept), *image_shape)
    images = np.memmap(target, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, "uint8")
    return images, kept, broken


def _found(target, index, image_shape):
    """What an earlier call has written, None where it is not whole."""
    try:
        found = files.read_json(index)
        whole = target.stat().st_size == len(found["kept"]) * math.prod(image_shape)
        return found if whole and isinstance(found["broken"], list) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _key(paths, image_shape):
    digest = hashlib.sha256(repr(image_shape).encode())
    for file in paths:
        status = file.stat()
        digest.update(os.fsencode(f"{file} {status.st_size} {status.st_mtime_ns}\n"))
    return digest.hexdigest()[:12]


def _write(paths, image_shape, target, progress):
    """Places of the images that were written, and those of the broken ones with what they lack."""
    kept, broken = [], []

    def read_one(place):
        try:
            return place, read_as(paths[place], image_shape), None
        except UNREADABLE as error:
            return place, None, why(error)

    def read_all(pool):
        for start in range(0, len(paths), 1000):  # so many wait in memory at most
            yield from pool.map(read_one, range(start, min(start + 1000, len(paths))))

    with files.replacing(target) as partial:
        with open(partial, "wb") as out, concurrent.futures.ThreadPoolExecutor() as pool:
            rows = read_all(pool)
            if progress is not None:
                rows = progress(rows, total=len(paths))
            for place, image, reason in rows:
                if image is None:
                    broken.append([place, reason])
                else:
                    out.write(np.ascontiguousarray(image).tobytes())
                    kept.append(place)
    return {"kept": kept, "broken": broken}
