"""Every data set by name: embedded ones, `.npz` files, folders of images, TensorFlow Datasets.

`load(name, split)` returns uint8 images and integer labels. Files are named, not located:
`$VAE_ZOO_DATA` is where names are looked up, `$TFDS_DATA_DIR` holds sets that TensorFlow Datasets
has prepared, and `$VAE_ZOO_CACHE` (`~/.cache/vae_zoo`) keeps what was read from there, so that JAX
and PyTorch train on it without TensorFlow.

Shapes follow dSprites (Matthey et al., 2017, "dSprites: Disentanglement testing Sprites dataset")
in the factors, their order and sizes. They differ in the drawing (own outlines), in the positions
(steps of one pixel) and in the 40 orientations, which stop short of a full turn (dSprites repeats
the first as the last).
"""

import difflib
import functools
import hashlib
import importlib.util
import os
import pathlib
import sys
import threading
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib

import keras
import numpy as np

from vae_zoo import backend, folders

SPLITS = ("train", "validation", "test")
EMBEDDED = ("digits", "shapes")


def load(name, split="train", seed=0):
    """One split of a data set.

    Args:
        name: str or path: "digits", "shapes", a `.npz` file, a folder of images, the name of
            either in `$VAE_ZOO_DATA`, or an image data set of TensorFlow Datasets ("mnist"); the
            first that exists, in this order.
        split: "train", "validation" or "test"; disjoint, together the whole set.
        seed: int, fixes the splits of a set that has none of its own.

    Returns:
        (x, y): x uint8 (N, height, width, channels) in 0..255 (`Shapes` for "shapes"), y int32
        (N,), or None without labels.

    Raises:
        ValueError: unknown name or split, or content that is not such images.
        FileNotFoundError: `name` is a path and nothing is there.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}. Received: split={split!r}")
    name = os.fspath(name)
    if name == "digits":
        x, y = _digits(split, seed)
    elif name == "shapes":
        x, y = _shapes(split, seed)
    elif path := _local(name):
        x, y = (_npz if path.is_file() else _folder)(path, split, seed)
    elif not name or name.endswith(".npz") or name.startswith((".", "~", os.sep)):
        raise FileNotFoundError(f"`name` must be a data set or an existing path. Received: {name=}")
    else:
        x, y = _npz(_tfds(name), split, seed)
    if not len(x):
        raise ValueError(f"`name` must have images in every split. Received: {name=}, {split=}")
    return x, y


def binarize(x, seed=777):
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


def fingerprint(x):
    """First 16 hex digits of the sha256 of the shape and the bytes of `x` (array or `Shapes`)."""
    digest = hashlib.sha256(repr(tuple(int(n) for n in x.shape)).encode())
    for start in range(0, len(x), 4096):  # a part at a time: the lazy set is 3 GB
        digest.update(np.ascontiguousarray(x[start : start + 4096]))
    return digest.hexdigest()[:16]


class Batches(keras.utils.PyDataset):
    """Batches in an order that is a function of (seed, epoch) alone, so that runs resume exactly.

    Epoch e is read in the order `np.random.default_rng([seed, e]).permutation(n)`. `epoch` goes on
    counting from one `fit` to the next; set it to resume. Pass `shuffle=False` to `fit` with it:
    Keras otherwise deals the batches (not the examples) anew from Python's global generator. On an
    accelerator the whole arrays are moved there once, if they fit.
    Reading by `evaluate` counts as an epoch too: evaluate on a `Batches(…, shuffle=False)`.

    Within `distribute.data_parallel` a batch is dealt out to all devices: filled up to a number
    that they can share evenly, by repeating its first example with weight 0, of which this process
    gets its part. `batch_size` stays that of all devices together.

    Args:
        x: array or array-like with `__len__` and indexing by slices and index arrays.
        y: None or labels, of the length of `x`.
        sample_weight: None or weights, of the length of `x`; they need `y`, since Keras would
            take them for labels or drop them.
        batch_size: int, examples a batch; the last batch of an epoch holds the rest.
        seed: int, not negative.
        shuffle: bool; False keeps the order of `x`.
        augment: None, or a function of a batch of `x` and a NumPy generator, which is a function of
            (seed, epoch, number of the batch, number of the process): `folders.augmented` say.

    Output: `x[i]`, `(x[i], y[i])` or `(x[i], y[i], sample_weight[i])`, dtypes unchanged.
    Example:
        batches = Batches(x, y, batch_size=64)
        model.fit(batches, epochs=3, shuffle=False)  # orders 0, 1, 2
    """

    def __init__(
        self, x, y=None, sample_weight=None, batch_size=128, seed=0, shuffle=True, augment=None
    ):
        super().__init__()
        if y is None and sample_weight is not None:
            raise ValueError("`sample_weight` must come with `y`. Received: y=None")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: {batch_size=}")
        columns = (x, y, sample_weight)
        self.columns = [column for column in columns if column is not None]
        self.devices, self.processes, self.process = backend.devices()
        if self.devices > 1:
            ones = np.ones(len(x), "float32")
            y = np.zeros(len(x), "int32") if y is None else y
            self.columns = [x, y, ones if sample_weight is None else sample_weight]
        elif augment is None:
            self.columns = [backend.on_device(column) for column in self.columns]
        lengths = [len(column) for column in self.columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"`x`, `y`, `sample_weight` must match. Received: lengths {lengths}")
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.augment = augment
        self.epoch = 0
        self._new_adapter = False

    def __len__(self):
        return -(-len(self.columns[0]) // self.batch_size)

    def __getitem__(self, index):
        n = len(self.columns[0])
        rows = slice(index * self.batch_size, min((index + 1) * self.batch_size, n))
        if self.shuffle:
            rows = _order(n, self.seed, self.epoch)[rows].copy()
        if self.devices > 1:
            batch = self._part(rows if self.shuffle else np.arange(rows.start, rows.stop))
        else:
            batch = [column[rows] for column in self.columns]
        if self.augment:
            rng = np.random.default_rng([self.seed, self.epoch, index, self.process])
            batch[0] = self.augment(batch[0], rng)
        return tuple(batch) if len(batch) > 1 else batch[0]

    def _part(self, rows):
        """This process's part of a batch: [x, y, weights]."""
        size = -(-len(rows) // self.devices) * self.devices
        part = np.arange(size).reshape(self.processes, -1)[self.process]
        counts = part < len(rows)
        rows = rows[np.where(counts, part, 0)]
        x, y, weights = (column[rows] for column in self.columns)
        return [x, y, np.where(counts, weights, 0).astype("float32")]

    # `fit` ends an "epoch" before its first one, to drop the batch that it built the model with.
    # Keras reads `workers` when it makes an adapter, and then only: that tells the two ends apart.
    @property
    def workers(self):
        self._new_adapter = True
        return super().workers

    def on_epoch_end(self):
        self.epoch += not self._new_adapter
        self._new_adapter = False


@functools.lru_cache(maxsize=4)
def _order(n, seed, epoch):
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.setflags(write=False)
    return order


# Embedded sets.


class Shapes:
    """737,280 binary sprites with dSprites' factors, drawn when indexed; a lazy uint8 array.

    `shapes[i]` is (64, 64, 1) for an int, (n, 64, 64, 1) for a slice or an index array; 0 or 255.
    Every sprite fits the image at every position; one step of x or y moves it by one pixel.

    Args:
        indices: None for all, or an int array of places in the full set: a subset.
    """

    factor_names = ("color", "shape", "scale", "orientation", "x", "y")
    factor_sizes = (1, 3, 6, 40, 32, 32)
    dtype = np.dtype("uint8")

    def __init__(self, indices=None):
        full = np.arange(np.prod(self.factor_sizes))
        self.indices = full if indices is None else full[indices]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.render(self.factors(index))

    @property
    def shape(self):
        return (len(self), 64, 64, 1)

    def factors(self, indices=slice(None)):
        """Factors of the images at `indices` of this (sub)set: int (n, 6), or (6,) for one int."""
        return np.stack(np.unravel_index(self.indices[indices], self.factor_sizes), axis=-1)

    def render(self, factors):
        """Images uint8 (…, 64, 64, 1) of factors int (…, 6); out of range is an IndexError."""
        factors = np.asarray(factors)
        _, shape, scale, orientation, x, y = factors.reshape(-1, 6).T
        images = np.zeros((len(x), 64, 64), np.uint8)
        # A view of the 32 x 32 places where a master of 33 x 33 fits, and so no loop over images.
        places = np.lib.stride_tricks.sliding_window_view(
            images, (33, 33), axis=(1, 2), writeable=True
        )
        places[np.arange(len(x)), y, x] = _masters()[shape, scale, orientation]
        return images.reshape(*factors.shape[:-1], 64, 64, 1)


@functools.cache
def _masters():
    """uint8 (shape, scale, orientation, 33, 33): sprites of radius below 16.5 pixels, centred."""
    outlines = (_square, _ellipse, _heart)
    pixels = np.linspace(-16.5, 16.5, 33 * 4, endpoint=False) + 1 / 8  # 4 x 4 points a pixel
    v, u = np.meshgrid(pixels / 16.5, pixels / 16.5, indexing="ij")
    masters = np.zeros((3, 6, 40, 33, 33), np.uint8)
    for i, scale in enumerate(np.linspace(0.5, 1, 6)):
        for j, angle in enumerate(np.arange(40) * (2 * np.pi / 40)):
            a = (u * np.cos(angle) + v * np.sin(angle)) / scale
            b = (v * np.cos(angle) - u * np.sin(angle)) / scale
            for k, outline in enumerate(outlines):
                inside = outline(a, b).reshape(33, 4, 33, 4).mean(axis=(1, 3))
                masters[k, i, j] = np.where(inside >= 0.5, 255, 0)
    return masters


# Outlines within the unit circle, (u, v) to the right and down.


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) < 0.69


def _ellipse(u, v):
    return (u / 0.97) ** 2 + (v / 0.53) ** 2 < 1


def _heart(u, v):
    x, y = 1.3 * u, 0.28 - 1.3 * v
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def _shapes(split, seed):
    n = len(Shapes())
    x = Shapes(_deal(n, seed, (8, 1, 1), n)[SPLITS.index(split)])
    return x, x.factors()[:, 1].astype(np.int32)


def _digits(split, seed):
    """scikit-learn's 1,797 digits of 8 x 8 in 0..16, at 28 x 28: 1,297 / 200 / 300, stratified.

    Enlarging smears an edge over several pixels; the contrast is raised until strokes are as crisp
    as MNIST's, so that bits drawn from the grey levels look like digits too.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    resize = functools.partial(Image.Image.resize, size=(28, 28), resample=Image.Resampling.BICUBIC)
    x = np.stack([resize(Image.fromarray(image)) for image in grey])[..., None]
    x = np.clip((x.astype("int32") - 128) * 4 + 128, 0, 255).astype(np.uint8)
    y = digits.target.astype(np.int32)
    rest, test = train_test_split(np.arange(len(y)), test_size=300, stratify=y, random_state=seed)
    train, held = train_test_split(rest, test_size=200, stratify=y[rest], random_state=seed)
    index = {"train": train, "validation": held, "test": test}[split]
    return x[index], y[index]


# Splits.


def _deal(n, seed, shares, blocks):
    """Index arrays that part range(n) by `shares` (ints), `blocks` runs of neighbours dealt whole.

    blocks = n deals the examples one by one.
    """
    rank = np.random.default_rng(seed).permutation(blocks)[np.arange(n) * blocks // n]
    order = np.argsort(rank, kind="stable")
    ends = [-(-share * blocks // sum(shares)) for share in np.cumsum(shares)[:-1]]
    return np.split(order, np.searchsorted(rank[order], ends))


def _part(available, read, split, seed):
    """(x, y) of `split`, where `read(name)` reads one of the `available` splits, `read(None)` all.

    A set without splits is dealt 80/10/10; a missing validation split is cut from train.
    """
    if split in available and (split != "train" or "validation" in available):
        return read(split)
    if available and (split == "test" or "train" not in available):
        raise ValueError(f"`split` must be one of {sorted(available)}. Received: split={split!r}")
    x, y = read("train" if available else None)
    held = min(len(x) // 6, 10_000)
    shares = (len(x) - held, held) if available else (8, 1, 1)
    # Unlabelled images are often the frames of a film, whose neighbours are nearly equal: dealt
    # one by one, the test split would be known from training. So whole runs of frames are dealt.
    blocks = len(x) if y is not None else min(len(x), max(40, len(x) // 1000))
    rows = _deal(len(x), seed, shares, blocks)[SPLITS.index(split)]
    return x[rows], None if y is None else y[rows]


# Files.


def _local(name):
    """Path of the `.npz` or the folder that `name` says, or None."""
    root = os.environ.get("VAE_ZOO_DATA")
    paths = [pathlib.Path(name).expanduser()] if name else []
    if name and root:
        paths += [pathlib.Path(root, name + ".npz"), pathlib.Path(root, name)]
    found = (p for p in paths if p.is_dir() or (p.suffix == ".npz" and p.is_file()))
    return next(found, None)


def _npz(path, split, seed):
    """Keys `x_<split>`, `y_<split>`; or `x` or `images`, with `y` or `labels`, and `is_test`."""
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            return _part(*_reader(archive, path), split, seed)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"`name` must be a sound .npz file. Received: {path} ({error})") from error


def _reader(archive, path):
    keys = set(archive.files)
    available = {split for split in SPLITS if f"x_{split}" in keys}
    image_key = next((key for key in ("x", "images") if key in keys), None)
    label_key = next((key for key in ("y", "labels") if key in keys), None)

    def read_split(split):
        x = _images(archive[f"x_{split}"], path)
        return x, _labels(archive, f"y_{split}", len(x), path)

    def read_whole(split):
        x = _images(archive[image_key], path)
        y = _labels(archive, label_key, len(x), path)
        if split is None:
            return x, y
        rows = np.atleast_1d(archive["is_test"]) == (split == "test")
        if rows.shape != (len(x),):
            raise ValueError(
                f"`is_test` must be {len(x)} bools. Received: {path} with {rows.shape}"
            )
        return x[rows], None if y is None else y[rows]

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
    """PNG, JPEG, BMP and WebP images at any depth; class folders give labels."""
    names = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    inside = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    roots = {names[p.name]: p for p in inside if p.name in names}
    if len(roots) < 2:  # a set without splits, maybe all in one folder; or a class named "train"
        root, roots = inside[0] if roots and len(inside) == 1 else root, {}
    files = {split: folders.files_of(folder) for split, folder in roots.items()}
    files = files or {None: folders.files_of(root)}
    roots = roots or {None: root}
    parts = {s: [p.relative_to(roots[s]).parts for p in files[s]] for s in files}
    labelled = all(len(part) > 1 for s in parts for part in parts[s])
    classes = sorted({part[0] for s in parts for part in parts[s]})

    def read(split):
        x, kept = _read_images(files[split], roots[split])
        y = [classes.index(parts[split][i][0]) for i in kept] if labelled else None
        return x, None if y is None else np.array(y, np.int32)

    return _part(set(files) - {None}, read, split, seed)


def _read_images(files, folder):
    """Images uint8 (n, height, width, 1 or 3), and the places in `files` of those that it read."""
    images, kept, broken = [], [], []
    for i, file in enumerate(files):
        try:
            image = folders.read(file)
        except folders.UNREADABLE:
            broken.append(file)
            continue
        if images and image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{file} {image.shape[:2]}", f"{files[kept[0]]} {images[0].shape[:2]}"]
            raise ValueError(f"`name` must hold images of one size: resize them. Received: {sizes}")
        images.append(image)
        kept.append(i)
    if broken:
        warnings.warn(f"Skipped {len(broken)} unreadable images, first {broken[0]}", stacklevel=2)
    if not images:
        raise ValueError(f"`name` must hold PNG, JPEG, BMP or WebP images. Received: {folder}")
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(x, (*x.shape[:2], channels)) for x in images]), kept


# TensorFlow Datasets.


def _tfds(name):
    """Path of the cached `.npz` of a TFDS image data set, written first if need be."""
    folder = os.environ.get("VAE_ZOO_CACHE") or "~/.cache/vae_zoo"
    cache = pathlib.Path(folder).expanduser() / (name.replace("/", "-") + ".npz")
    if cache.is_file():
        return cache
    if not all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets"))):
        raise _unknown(name, "TensorFlow Datasets needs pip install 'vae_zoo[tensorflow]'")
    data_dir = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    data_dir = data_dir.expanduser()
    prepared = sorted(data_dir.glob(f"{name}/*/dataset_info.json"))
    # TFDS itself would retry for minutes.
    if not prepared and not _online():
        raise _unknown(name, f"not prepared in {data_dir}, and no network to download it")
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.stem}.{os.getpid()}.npz")
    try:
        code = "import sys; from vae_zoo.data import _write_tfds as write; write(*sys.argv[1:])"
        source = prepared[-1].parent if prepared else ""
        run = backend.run_on_tensorflow(code, name, source, partial, TFDS_DATA_DIR=str(data_dir))
        if run.returncode:
            raise _unknown(name, (run.stderr.strip() or "killed").splitlines()[-1])
        os.replace(partial, cache)
    finally:
        partial.unlink(missing_ok=True)
    return cache


def _write_tfds(name, folder, target):
    """Write `.npz` arrays of a prepared TFDS `folder`, or of data set `name` (downloaded first).

    Runs in a process of its own; what it exits with is the reason that `load` gives.
    """
    import tensorflow_datasets as tfds

    if folder:
        builder = tfds.builder_from_directory(folder)
    else:
        known = tfds.list_builders(with_community_datasets=False)
        base = name.partition("/")[0].partition(":")[0]
        if base not in known:
            near = difflib.get_close_matches(base, known)
            sys.exit(f"unknown to TensorFlow Datasets too, which has near names {near}")
        builder = tfds.builder(name)
        builder.download_and_prepare()
    features = dict(builder.info.features.items())
    kinds = {type(feature): key for key, feature in reversed(features.items())}  # the first of each
    image_key, label_key = kinds.get(tfds.features.Image), kinds.get(tfds.features.ClassLabel)
    if image_key is None or builder.info.features[image_key].dtype != np.uint8:
        sys.exit(f"not a data set of 8-bit images: its features are {sorted(features)}")
    present = [split for split in SPLITS if split in builder.info.splits]
    if "train" not in present:
        sys.exit(f"no train split: it has {sorted(builder.info.splits)}")
    arrays = {}
    for split in present:
        examples = list(tfds.as_numpy(builder.as_dataset(split=split)))
        shapes = sorted({example[image_key].shape for example in examples})
        if len(shapes) != 1:
            sys.exit(f"images of {len(shapes)} sizes, {shapes[0]} and {shapes[-1]} among them")
        arrays[f"x_{split}"] = np.stack([example[image_key] for example in examples])
        if label_key:
            arrays[f"y_{split}"] = np.array([e[label_key] for e in examples], np.int32)
    if present == ["train"]:
        arrays = {key[0]: value for key, value in arrays.items()}  # `load` splits it by seed
    elif "validation" not in present:
        # MNIST's custom, the last 10,000 of train, for all.
        held = min(len(arrays["x_train"]) // 6, 10_000)
        for key in [key for key in "xy" if f"{key}_train" in arrays]:
            train = arrays[f"{key}_train"]
            arrays[f"{key}_train"], arrays[f"{key}_validation"] = train[:-held], train[-held:]
    np.savez(target, **arrays)


def _online(url="https://storage.googleapis.com/tfds-data/", seconds=5):
    """Whether the host that TFDS asks first answers, be it with an error, through any proxy."""
    answered = threading.Event()

    def probe():
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, ValueError):
            return
        answered.set()

    # In a thread, because the look-up of a name may outlast the timeout of the connection.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def _unknown(name, reason):
    root = os.environ.get("VAE_ZOO_DATA")
    local = [*EMBEDDED, *(sorted(p.stem for p in pathlib.Path(root).glob("*")) if root else ())]
    near = difflib.get_close_matches(name, local)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"`name` must be a path, one of {EMBEDDED}, a file or folder of $VAE_ZOO_DATA ({root}) or "
        f"an image data set of TensorFlow Datasets. Received: {name=} ({reason}{hint})"
    )
