"""Every data set by name: embedded ones, `.npz` files, folders of images, TensorFlow Datasets.

`load(name, split)` returns uint8 images and integer labels, a graph or sketches. Files are named,
not located: `$VAE_ZOO_DATA` is where names are looked up, `$TFDS_DATA_DIR` holds sets that
TensorFlow Datasets has prepared, and `$VAE_ZOO_CACHE` (`~/.cache/vae_zoo`) keeps what was read from
there, so that JAX and PyTorch train on it without TensorFlow.
"""

import hashlib
import os
import warnings

import numpy as np

from vae_zoo import archives, files
from vae_zoo.data import folders, graphs, strokes, tfds
from vae_zoo.data.digits import digits
from vae_zoo.data.places import AS_THEY_ARE, EMBEDDED, SOURCES, find
from vae_zoo.data.quadrants import given_part
from vae_zoo.data.shapes import Shapes, side_of
from vae_zoo.data.tfds import SPLITS
from vae_zoo.engine.batches import Batches

__all__ = [
    "EMBEDDED",
    "AS_THEY_ARE",
    "SOURCES",
    "SPLITS",
    "Batches",
    "Shapes",
    "binarize",
    "find",
    "fingerprint",
    "given_part",
    "graph",
    "load",
]


def load(name, split="train", seed=0, image_size=None, progress=None) -> tuple:
    """One split of a data set. What is not read of a folder is said in a warning, of one line.

    Args:
        name: str or path: "digits", "shapes", a `.npz` file, a folder of images, the name of
            either in `$VAE_ZOO_DATA`, or an image data set of TensorFlow Datasets ("mnist"); the
            first that exists, in this order. Or a graph, see `graph`, or sketches: "scribbles"
            (generated), or a `.npz` of strokes.
        split: "train", "validation" or "test"; disjoint, together the whole set.
        seed: int, fixes the splits of a set that has none of its own.
        image_size: (height, width) or (height, width, channels), 1 or 3 channels, to which the
            middle of each image is resized (shapes are drawn in that size); None leaves images as
            they are, which must be of one size then. A folder's are written to the cache, and
            mapped into memory from there.
        progress: wraps the iterable of a folder's images, given it and their number.

    Returns:
        (x, y): x uint8 (N, height, width, channels) in 0..255 (`Shapes` for "shapes"), y int32
        (N,), or None without labels. A folder has labels where it has two class folders or more.
        Of a graph what `graphs.split` returns, of sketches what `strokes.load` does.

    Raises:
        ValueError: unknown name or split, or content that is not such images.
        FileNotFoundError: `name` is a path and nothing is there.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}. Received: split={split!r}")
    name, path = os.fspath(name), find(name)
    if name == "communities" or (path and path.is_file() and graphs.holds_graph(path)):
        return graphs.split(graph(name), split, seed)
    if name == "scribbles" or (path and path.is_file() and strokes.holds_sketches(path)):
        return strokes.load(path, split, seed), None
    if name == "shapes":
        x, y = _shapes(split, seed, Shapes(size=side_of(image_size)))
        image_size = None
    elif name == "digits":
        x, y = digits(split, seed)
    elif path and path.is_dir() and image_size:
        x, y = _mapped_folder(path, split, seed, tuple(image_size), progress)
        image_size = None
    elif path:
        x, y = (_npz if path.is_file() else _folder)(path, split, seed)
    else:
        x, y = _npz(tfds.cached(name, EMBEDDED), split, seed)
    x = _resized(x, tuple(image_size)) if image_size else x
    if not len(x):
        raise ValueError(f"`name` must have images in every split. Received: {name=}, {split=}")
    return x, y


def graph(name) -> graphs.Graph:
    """A whole graph by its name, a `graphs.Graph`: "communities" (generated), a file as
    `graphs.read` reads it, or the name of one in `$VAE_ZOO_DATA` or its folder `graphs`."""
    path = find(name)
    if not path and name != "communities":
        raise ValueError(
            "`name` must be a graph: communities, a file, or a name of one in $VAE_ZOO_DATA "
            f"({os.environ.get('VAE_ZOO_DATA')}). Received: {name!r}"
        )
    return graphs.read(path) if path else graphs.communities()


def binarize(x, seed=777) -> np.ndarray:
    """One fixed draw from Bernoulli(x / 255) for each pixel ("static" binarisation).

    Grey levels as Bernoulli targets are not a likelihood. Validation and test images are drawn
    once, here, and so are the same for every model; training draws anew at every step.

    Args:
        x: uint8, any shape, in 0..255.
        seed: int; the same `x` and `seed` give the same bits.

    Returns:
        uint8 of the same shape, 0 or 255.
    """
    x = x[:]
    if x.dtype != np.uint8:
        raise ValueError(f"`x` must be uint8. Received: dtype={x.dtype}")
    # P(r < x) = x / 255 exactly, for r uniform over 0..254: no rounding, and 0 and 255 are certain.
    r = np.random.default_rng(seed).integers(0, 255, x.shape, np.uint8)
    return np.where(r < x, 255, 0).astype(np.uint8)


def fingerprint(x) -> str:
    """First 16 hex digits of the sha256 of the shape and the bytes of `x` (array or `Shapes`)."""
    digest = hashlib.sha256(repr(tuple(int(n) for n in x.shape)).encode())
    for start in range(0, len(x), 4096):  # a part at a time: the lazy set is 3 GB
        digest.update(np.ascontiguousarray(x[start : start + 4096]))
    return digest.hexdigest()[:16]


def _shapes(split, seed, whole):
    x = Shapes(_deal(whole.twins(), seed, (8, 1, 1))[SPLITS.index(split)], whole.size)
    return x, x.factors()[:, 1].astype(np.int32)


# === Splits ===


def _deal(groups, seed, shares):
    """Index arrays that part examples by `shares` (ints), examples of one group together.

    Args:
        groups: ints (n,) in 0 … groups - 1.
    """
    count = groups.max() + 1
    rank = np.random.default_rng(seed).permutation(count)[groups]
    order = np.argsort(rank, kind="stable")
    ends = [-(-share * count // sum(shares)) for share in np.cumsum(shares)[:-1]]
    return np.split(order, np.searchsorted(rank[order], ends))


def _part(available, read, split, seed):
    """(x, y) of `split`, where `read(name)` reads one of the `available` splits, `read(None)` all,
    as x, y and groups of examples that belong together, or None.

    A set without splits is dealt 80/10/10; a missing validation split is cut from train.
    """
    if split in available and (split != "train" or "validation" in available):
        return read(split)[:2]
    if available and (split == "test" or "train" not in available):
        raise ValueError(f"`split` must be one of {sorted(available)}. Received: split={split!r}")
    x, y, groups = read("train" if available else None)
    n = len(x)
    held = min(n // 6, 10_000)
    shares = (n - held, held) if available else (8, 1, 1)
    if groups is not None:
        groups = np.unique(groups, return_inverse=True)[1]
    else:
        # Unlabelled images are often the frames of a film, whose neighbours are nearly equal: dealt
        # one by one, the test split would be known from training. So runs of frames are dealt.
        runs = n if y is not None else min(n, max(40, n // 1000))
        groups = np.arange(n) * runs // n
    rows = _deal(groups, seed, shares)[SPLITS.index(split)]
    return x[rows], None if y is None else y[rows]


# === Files ===


def _npz(path, split, seed):
    """Keys `x_<split>`, `y_<split>`; or `x` or `images`, with `y` or `labels`, and `is_test`; and
    `groups` or `character`, ints, of which a split has all examples or none."""
    with archives.arrays(path) as archive:
        return _part(*_reader(_Arrays(archive, path), path), split, seed)


class _Arrays:
    """The arrays of an archive; one of Python objects is an error that names the file."""

    def __init__(self, archive, path):
        self.archive, self.path, self.files = archive, path, archive.files

    def __getitem__(self, key):
        reason = "it is none"
        try:
            if isinstance(array := self.archive[key], np.ndarray):
                return array
        except ValueError as error:  # NumPy's own, which unpickles nothing
            reason = files.in_words(error)
        raise ValueError(
            f"`name` must hold arrays of numbers. Received: {self.path} with {key}: {reason}"
        )


def _reader(archive, path):
    keys = set(archive.files)
    available = {split for split in SPLITS if f"x_{split}" in keys}
    image_key = next((key for key in ("x", "images") if key in keys), None)
    label_key = next((key for key in ("y", "labels") if key in keys), None)
    group_key = next((key for key in ("groups", "character") if key in keys), None)

    def read_split(split):
        x = _images(archive[f"x_{split}"], path)
        return x, _labels(archive, f"y_{split}", len(x), path), None

    def read_whole(split):
        x = _images(archive[image_key], path)
        y = _labels(archive, label_key, len(x), path)
        groups = _labels(archive, group_key, len(x), path)
        if split is None:
            return x, y, groups
        rows = np.atleast_1d(archive["is_test"]) == (split == "test")
        if rows.shape != (len(x),):
            raise ValueError(
                f"`is_test` must be {len(x)} bools. Received: {path} with {rows.shape}"
            )
        return tuple(part if part is None else part[rows] for part in (x, y, groups))

    if available:
        return available, read_split
    if image_key is None:
        raise ValueError(
            f"`name` must hold `x_train` and `x_test`, `x` or `images`. "
            f"Received: {path} with keys {sorted(keys)}"
        )
    return {"train", "test"} if "is_test" in keys else set(), read_whole


def _images(x, path):
    if x.ndim not in (3, 4) or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
        raise ValueError(
            f"`name` must hold uint8, or float in [0, 1], images (N, height, width[, channels]). "
            f"Received: {path} with {x.dtype} {x.shape}"
        )
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        warnings.warn(
            f"{path} has images of {x.shape[3]} channels, of shape {x.shape[1:]}: if channels come "
            "first, move them to the end with numpy.moveaxis(x, 1, -1)",
            stacklevel=2,
        )
    if x.dtype != np.uint8:
        low, high = (x.min(), x.max()) if x.size else (0, 0)
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise ValueError(f"`name` must be in [0, 1]. Received: {path} in [{low}, {high}]")
        x = np.round(x * 255).astype(np.uint8)
    return x if x.ndim == 4 else x[..., None]


def _labels(archive, key, n, path):
    if key not in archive.files:
        return None
    y = archive[key]
    if y.dtype.kind not in "iu" or y.shape not in ((n,), (n, 1)):
        raise ValueError(f"`{key}` must be {n} integers. Received: {path} with {y.dtype} {y.shape}")
    return y.reshape(n).astype(np.int32)


def _folder(root, split, seed):
    """Images at any depth, all of one size; class folders give labels."""
    found = folders.arranged(root)

    def read(split):
        x, kept = _read_images(found, split)
        y = found.labels and [found.labels[split][i] for i in kept]
        return x, None if y is None else np.array(y, np.int32), None

    return _part(set(found.images) - {None}, read, split, seed)


def _read_images(found, split):
    """Images uint8 (n, height, width, 1 or 3), and the places of those that could be read."""
    images, kept, broken, paths = [], [], {}, found.images[split]
    for i, file in enumerate(paths):
        try:
            image = folders.read(file)
        except folders.UNREADABLE as error:
            broken[str(file)] = folders.why(error)
            continue
        if images and image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{file} {image.shape[:2]}", f"{paths[kept[0]]} {images[0].shape[:2]}"]
            raise ValueError(
                "`name` must hold images of one size: resize them, by image_size "
                f"(--image-size height,width) say. Received: {sizes}"
            )
        images.append(image)
        kept.append(i)
    _tell(found, len(images), broken)
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(x, (*x.shape[:2], channels)) for x in images]), kept


def _tell(found, read, broken):
    """Warns, in one line, of what was not read of a folder; an error if that is all of it."""
    told = folders.told(read, broken, found.skipped)
    if not read:
        told = f" ({told})" if broken or found.skipped else ""
        raise ValueError(
            f"`name` must hold {folders.KINDS} images. Received: {found.root} without any{told}"
        )
    if broken or found.skipped:
        warnings.warn(f"{told} ({found.root})", stacklevel=2)


# === In another size ===


def _mapped_folder(root, split, seed, image_size, progress):
    """Images of any size in one, which lie on disk in the cache; class folders give labels."""
    found = folders.arranged(root)
    every = [path for part in found.images.values() for path in part]
    if not every:
        _tell(found, 0, {})
    shape = image_size if len(image_size) == 3 else (*image_size, folders.channels_of(every))

    def paths_of(split):
        y = found.labels and np.array(found.labels[split], np.int32)
        return np.array(found.images[split], object), y, None

    # One file holds all splits that there are, one after the other.
    available = set(found.images) - {None}
    cut = {"validation"} if "train" in available else set()
    names = [s for s in SPLITS if s == split or s in (available | cut or SPLITS)]
    parts = [_part(available, paths_of, name, seed) for name in names]
    paths = np.concatenate([x for x, _ in parts])
    what = repr((os.path.realpath(root), seed, shape)).encode()
    place = tfds.cache() / f"{root.resolve().name}-{hashlib.sha256(what).hexdigest()[:12]}"
    x, kept, broken = folders.mapped(list(paths), shape, place, progress)
    _tell(found, len(x), broken)

    before = sum(len(x) for x, _ in parts[: names.index(split)])
    mine, y = parts[names.index(split)]
    kept = np.array(kept) - before
    inside = (kept >= 0) & (kept < len(mine))
    first = int(np.argmax(inside))
    return x[first : first + inside.sum()], None if y is None else y[kept[inside]]


def _resized(x, image_size):
    """Arrays of images in another size: the middle of each."""
    if x.shape[-1] not in (1, 3):
        raise ValueError(
            "`image_size` is for images with 1 or 3 channels. "
            f"Received: images of shape {x.shape[1:]}"
        )
    shape = image_size if len(image_size) == 3 else (*image_size, x.shape[-1])
    return np.stack([folders.fitted(image, shape) for image in x]) if len(x) else x
