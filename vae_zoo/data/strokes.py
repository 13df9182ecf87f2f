"""Sketches as sequences of strokes: `.npz` files of stroke-3, and generated scribbles.

A row of stroke-3 is (dx, dy, lifted): the offset from the point before, and 1 where the pen is
lifted after this point. Stroke-5 has (dx, dy, down, lifted, end) and rows of ends to fill up.
"""

import functools
import io
import pickle

import numpy as np

from vae_zoo import archives

LIMIT = 250  # points of a sketch, at most
SEED = 777  # of the noise that makes a density of whole numbers one of numbers
NAMES = {"train": "train", "validation": "valid", "test": "test"}  # as files have them


def load(path, split, seed=0):
    """One split of a file, as stroke-5, scaled so that the training offsets have a deviation of 1.

    Offsets are whole numbers, on which a density could grow without bound. So each gets noise of
    U(-1/2, 1/2) before it is scaled, always the same.

    Args:
        path: of a `.npz`; None for generated scribbles. Its keys are `<split>_strokes` int
            (points, 3), all sketches of a split end to end, with `<split>_lengths` (sketches,),
            for train, valid and test; or these three, each an array of arrays (points, 3) as
            QuickDraw's files have them.
        split: "train", "validation" or "test".
        seed: int, of the scribbles.

    Returns:
        float32 (sketches, rows, 5), of one row more than the longest sketch of all splits has
        points.

    Raises:
        ValueError: in one line, which says which sketch is wrong and how.
    """
    parts, _ = _read(path, seed)
    rows = 1 + max(len(sketch) for part in parts.values() for sketch in part)
    rng = np.random.default_rng([SEED, list(NAMES).index(split)])
    unit = 1 / scale(path, seed)
    x = np.zeros((len(parts[split]), rows, 5), "float32")
    for row, sketch in zip(x, parts[split]):
        n = len(sketch)
        row[:n, :2] = (sketch[:, :2] + rng.uniform(-0.5, 0.5, (n, 2))) * unit
        row[:n, 3], row[n:, 4] = sketch[:, 2], 1
        row[:n, 2] = 1 - sketch[:, 2]
    return x


def scale(path, seed=0):
    """The deviation of the training offsets of a file, in its own units: float."""
    return _read(path, seed)[1]


@functools.lru_cache(maxsize=2)
def _read(path, seed):
    parts = _scribbles(seed) if path is None else _checked(path)
    return parts, float(np.concatenate(parts["train"])[:, :2].std()) or 1.0


def lengths_of(x):
    """Points of sketches in stroke-5, without the end: NumPy int (sketches,)."""
    return np.argmax(x[..., 4] > 0.5, axis=-1)


def augmented(x, rng, stretch=0.15, drop=0.1, unit=None):
    """Sketches a little different each time, as Ha and Eck have them (section 3.1, "data").

    Each is stretched along both axes by factors of its own, and points within a stroke are left
    out: their offset goes to the next one.

    Args:
        x: stroke-5 (batch, rows, 5).
        rng: `np.random.Generator`.
        stretch: float, factors lie in 1 - stretch … 1 + stretch.
        drop: float, the probability that a point is left out.
        unit: None, or float, the size of a whole number in x (1 / `scale`): the noise on it is
            drawn anew then.
    """
    x = np.array(x)
    if unit is not None:
        whole = np.round(x[..., :2] / unit) + rng.uniform(-0.5, 0.5, x[..., :2].shape)
        x[..., :2] = np.where(x[..., 4:] > 0.5, 0, whole * unit)
    x[..., :2] *= rng.uniform(1 - stretch, 1 + stretch, (len(x), 1, 2))
    left_out = rng.random(x.shape[:2]) < drop
    made = np.zeros_like(x)
    made[..., 4] = 1
    for new, sketch, without, n in zip(made, x, left_out, lengths_of(x)):
        # Neither first nor last of a stroke: its ends stay where they are.
        down = sketch[:n, 2] > 0.5
        without = without[:n] & down & np.concatenate([[False], down[:-1]])
        places = np.cumsum(sketch[:n, :2], axis=0)[~without]
        new[: len(places), :2] = np.diff(places, axis=0, prepend=np.zeros((1, 2)))
        new[: len(places), 2:] = sketch[:n][~without, 2:]
    return made


# === Files ===


def holds_sketches(path):
    """Whether a `.npz` is one of strokes, by the names of its arrays."""
    names = archives.names(path)
    return "train_strokes.npy" in names or names >= {f"{name}.npy" for name in NAMES.values()}


class _ArraysOnly(pickle.Unpickler):
    """Reads NumPy arrays of Python objects, and refuses all else: a pickle may run anything."""

    allowed = {
        (module, name)
        for root in ("numpy.core", "numpy._core")
        for module, name in ((f"{root}.multiarray", "_reconstruct"), ("numpy", "ndarray"))
    } | {("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return super().find_class(module, name)


def _read_array(content):
    """An array from the bytes of a `.npy`; one of Python objects may hold arrays, and no more."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0}
    _, _, dtype = headers.get(version, np.lib.format.read_array_header_2_0)(file)
    if dtype.hasobject:
        return np.atleast_1d(_ArraysOnly(file, encoding="latin1").load())
    file.seek(0)
    return np.atleast_1d(np.lib.format.read_array(file))


def _checked(path):
    names = archives.names(path)
    whole = "train_strokes.npy" in names
    keys = ("{}_strokes.npy", "{}_lengths.npy") if whole else ("{}.npy",)
    keys = {split: [key.format(name) for key in keys] for split, name in NAMES.items()}
    missing = sorted(set().union(*keys.values()) - names)
    if missing:
        raise ValueError(f"{path} must hold train, valid and test sketches, and lacks {missing[0]}")
    with archives.opened(path, archives.MEMORY) as archive:
        parts = {split: [_read_array(archive.read(key)) for key in keys[split]] for split in keys}
    for split, arrays in parts.items():
        sketches = _cut(*arrays, f"{path}: the lengths of {split}") if whole else list(*arrays)
        if not sketches:
            raise ValueError(f"{path} must have sketches in each split. Received: {split} is empty")
        parts[split] = [_sketch(s, f"{path}, {split} sketch {i}") for i, s in enumerate(sketches)]
    return parts


def _cut(strokes, lengths, where):
    if strokes.ndim != 2 or lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise ValueError(f"{where} must be ints, one a sketch, beside rows of points")
    if lengths.sum() != len(strokes) or (lengths < 0).any():
        raise ValueError(
            f"{where} must add up to its {len(strokes)} points. Received: a sum of {lengths.sum()}"
        )
    return np.split(strokes, np.cumsum(lengths)[:-1])


def _sketch(strokes, where):
    """One sketch, float64 (points, 3)."""
    strokes = np.asarray(strokes)
    if strokes.ndim != 2 or strokes.shape[1] != 3 or strokes.dtype.kind not in "iuf":
        raise ValueError(f"{where} must be numbers (points, 3). Received: shape={strokes.shape}")
    if not 0 < len(strokes) <= LIMIT:
        raise ValueError(f"{where} must have 1 to {LIMIT} points. Received: {len(strokes)}")
    if not np.isfinite(strokes).all() or not np.isin(strokes[:, 2], (0, 1)).all():
        raise ValueError(f"{where} must be finite, and its third column 0 or 1")
    if strokes[-1, 2] != 1:
        raise ValueError(f"{where} must end: the pen is lifted after its last point")
    return strokes.astype("float64")


# === Generated ===


def _scribbles(seed):
    """Circles, boxes, zigzags and spirals, drawn by an unsteady hand: 1,000, 100 and 100."""
    rng = np.random.default_rng(seed)
    sizes = {"train": 1000, "validation": 100, "test": 100}
    return {split: [_scribble(rng) for _ in range(n)] for split, n in sizes.items()}


def _scribble(rng):
    """One or two figures beside each other, int-valued (points, 3)."""
    figures = []
    for number in range(rng.integers(1, 3)):
        t = np.linspace(0, 1, rng.integers(8, 13))
        turn = 2 * np.pi * (t + rng.random())
        kind, size = rng.integers(4), rng.uniform(15, 30)
        if kind == 0:  # circle
            points = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        elif kind == 1:  # box
            corner = np.abs((4 * t[:, None] + [0, 1]) % 4 - 2) - 1
            points = np.clip(2 * corner, -1, 1)
        elif kind == 2:  # zigzag
            points = np.stack([2 * t - 1, 0.7 * (-1.0) ** np.arange(len(t))], axis=1)
        else:  # spiral
            points = np.stack([t * np.cos(2 * turn), t * np.sin(2 * turn)], axis=1)
        points = size * points + [70 * number, 0] + rng.normal(0, 1.0, points.shape)
        figures.append(np.column_stack([points, np.arange(len(t)) == len(t) - 1]))
    strokes = np.concatenate(figures)
    strokes[:, :2] = np.diff(np.round(strokes[:, :2]), axis=0, prepend=np.zeros((1, 2)))
    return strokes
