"""Damage, by a seed: what disks, networks and attackers do to the files that the package reads.

`Sound` makes one sound file of each kind in a folder; `damaged` makes a copy of one that is damaged
in one way; `read` does with it what a user does. `tools/fuzz.py` does so thousands of times, and
`test_fuzz` two hundred times.
"""

import copy
import io
import json
import os
import pathlib
import pickle
import random
import re
import shutil
import signal
import struct
import time
import warnings
import zipfile
import zlib

import h5py
import keras
import numpy as np
from PIL import Image

import vae_zoo
from vae_zoo import data, files, zoo
from vae_zoo.lab.checkpoint import Checkpoint

KINDS = ("model", "checkpoint", "archive", "folder", "card", "graph", "sketches")
MARKER = "code-has-run"  # a file of this name in the working folder tells that it has


class Sound:
    """One sound file of each kind, in `folder`, and what reads a damaged one."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.paths = {
            "model": self.folder / "model.keras",
            "checkpoint": self.folder / "run" / "checkpoint.npz",
            "archive": self.folder / "set.npz",
            "folder": self.folder / "images",
            "graph": self.folder / "graph.npz",
            "sketches": self.folder / "sketches.npz",
            "card": self.folder / "zoo" / "tiny_vae" / "card.json",
        }
        images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1)).astype("uint8")
        self.images, self.trained = images, self.model()
        self.trained.fit(images, batch_size=16, verbose=0)
        self.trained.save(self.paths["model"])
        self.paths["checkpoint"].parent.mkdir()
        checkpoint = self.checkpoint(self.trained, self.paths["checkpoint"].parent)
        checkpoint.on_epoch_end(0, {"loss": 1.0})
        np.savez(self.paths["archive"], x=images, y=np.arange(30) % 3)
        edges = np.array([[i, i + step] for i in range(4) for step in (1, 2, 3)])
        np.savez(self.paths["graph"], edges=edges, features=np.eye(7), labels=np.arange(7) % 2)
        points = np.array([[1, 2, 0], [3, -4, 1]] * 5)
        parts = {f"{name}_strokes": points for name in ("train", "valid", "test")}
        parts |= {f"{name}_lengths": np.array([4, 6]) for name in ("train", "valid", "test")}
        np.savez(self.paths["sketches"], **parts)
        self.paths["folder"].mkdir()
        for i, image in enumerate(images):
            suffix = ("png", "jpg", "gif", "tiff", "bmp")[i % 5]
            Image.fromarray(image[..., 0]).save(self.paths["folder"] / f"{i:02}.{suffix}")
        self.paths["card"].parent.mkdir(parents=True)
        shutil.copy(self.paths["model"], self.paths["card"].parent)
        card = {"name": "tiny_vae", "sha256": files.sha256(self.paths["model"])}
        card |= {"command": "KERAS_BACKEND=jax python recipes/dense_vae.py --epochs 1"}
        card |= {"settings": {"dataset": "digits"}, "metrics": {"elbo": {"value": -1.0}}}
        files.write_json(self.paths["card"], card)

    def model(self):
        model = vae_zoo.DenseVAE((8, 8, 1), 2, hidden=(4,), seed=0)
        model.compile("adam")
        model.optimizer.build(model.trainable_variables)
        return model

    def checkpoint(self, model, folder):
        stopping = keras.callbacks.EarlyStopping("loss")
        stopping.on_train_begin()
        model.stop_training = False
        batches = data.Batches(self.images, batch_size=16)
        return Checkpoint(folder, model, batches, stopping, {"seed": 0})

    def read(self, kind, path):
        """Reads a damaged file as a user would; a `ValueError` refuses it."""
        if kind == "model":
            vae_zoo.load_model(path)
        elif kind == "checkpoint":
            self.checkpoint(self.trained, path.parent).load()
        elif kind in ("archive", "graph", "sketches"):
            data.load(path)
        elif kind == "folder":
            data.load(path, image_size=(4, 4))
        else:
            before, zoo.FOLDER = zoo.FOLDER, path.parent.parent
            try:
                zoo.load(path.parent.name)
            finally:
                zoo.FOLDER = before


def damaged(sound, number, seed=0):
    """A damaged copy: its kind, the way it was damaged, its path, in a fresh folder."""
    rng = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    source = sound.paths[kind]
    folder = sound.folder / f"damaged-{number}"
    path = folder / ("tiny_vae/card.json" if kind == "card" else source.name)
    path.parent.mkdir(parents=True)
    way = rng.choice([*WAYS[kind], *WAYS[kind], of_bytes] if kind != "folder" else WAYS[kind])
    if kind == "folder":
        shutil.copytree(source, path)
        way(path, rng)
    else:
        if kind == "card":
            shutil.copy(source.parent / "model.keras", path.parent)
        path.write_bytes(way(source.read_bytes(), rng))
    return kind, way.__name__, path


def outcome(sound, kind, path, seconds=60):
    """What became of reading a damaged file: "read", "refused", or what is wrong with that."""

    def late(*_):
        raise BaseException(f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            sound.read(kind, path)
        lines = [str(w.message) for w in told if w.category is UserWarning]
        long = [line for line in lines if "\n" in line]
        return f"a warning of several lines: {long[0]!r}" if long else "read"
    except ValueError as error:
        named = path.name in str(error) or path.parent.name in str(error)
        return "refused" if named and "\n" not in str(error) else f"said badly: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# === Bytes ===


def of_bytes(content, rng):
    """Bits flipped, parts cut out, doubled, zeroed or noise; the end lost; another file."""
    content, size = bytearray(content), len(content)
    start = rng.randrange(size)
    end = min(size, start + rng.choice((1, 16, 512, size)))
    way = rng.randrange(8)
    if way < 3:
        for _ in range(rng.choice((1, 1, 1, 8, 64))):
            content[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif way == 3:
        content[start:end] = bytes(end - start)
    elif way == 4:
        content[start:end] = rng.randbytes(end - start)
    elif way == 5:
        del content[start:end]
    elif way == 6:
        content[start:start] = content[start:end]
    else:
        other = (
            b"",
            b"\0" * 99,
            rng.randbytes(999),
            pickle.dumps(_Code()),
            b"[" * 10**5,
            b"PK\5\6",
        )
        content = rng.choice(other)
    return bytes(content)


class _Code:
    """What unpickled would run code."""

    def __reduce__(self):
        return (open, (MARKER, "w"))


# === Zip archives ===


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name twice
        for name, part in content.items() if isinstance(content, dict) else content:
            archive.writestr(name, part)
    return file.getvalue()


def list_of_members(content, rng):
    """A field of a header of the list of members, or of one of its members."""
    content = bytearray(content)
    marks = [m.start() for m in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", bytes(content))]
    start = rng.choice(marks) + rng.randrange(4, 30)
    for i in range(start, min(len(content), start + rng.choice((1, 2, 4)))):
        content[i] = rng.choice((0, 1, 8, 255, rng.randrange(256)))
    return bytes(content)


def members_changed(content, rng):
    """Members lost, doubled, renamed, damaged under a good checksum, or bombs."""
    parts = list(members(content).items())
    name, part = parts.pop(rng.randrange(len(parts)))
    way = rng.randrange(7)
    if way == 1:
        parts += [(name, part), (name, part)]
    elif way == 2:
        parts += [(rng.choice(("../x", "/x", "x" * 999, ".", "é\0")), part)]
    elif way in (3, 4):
        parts += [(name, of_bytes(part or b"x", rng))]
    elif way == 5:
        return zipped([*parts, (name, bytes(2**26))], zipfile.ZIP_DEFLATED)
    elif way == 6:
        parts += [(name, part), *((f"{i}" * 30_000, b"") for i in range(1, 20))]
    return zipped(parts, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


# === JSON ===

CODE = {"module": "builtins", "class_name": "open", "registered_name": None}
CODE |= {"config": {"file": MARKER, "mode": "w"}}
LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wEAAAAA"}}
HOSTILE = (
    None,
    True,
    -1,
    0,
    1,
    255,
    256,
    10**9,
    10**30,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
)
HOSTILE += ([], {}, [1] * 300, [200] * 3, [11000] * 250, [10**9], [[]], CODE, LAMBDA)


def changed(value, rng):
    """JSON with one value, anywhere in it, that is hostile, missing or too deep."""
    places, waiting = [], [value]
    while waiting:
        inside = waiting.pop()
        for key in inside if isinstance(inside, dict) else range(len(inside)):
            places.append((inside, key))
            if isinstance(inside[key], (dict, list)):
                waiting.append(inside[key])
    if not places:
        return value
    place, key = rng.choice(places)
    way = rng.randrange(8)
    if way == 0:
        del place[key]
    elif way == 1:
        for _ in range(rng.choice((50, 500))):
            place[key] = [place[key]]
    elif way == 2 and isinstance(place, dict):
        place[rng.choice(("x", "hidden", "latent_dim", "blocks", "prior", "name"))] = place.pop(key)
    else:
        place[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def json_changed(content, rng):
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = changed(value, rng)
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "[" * 2000 + "]" * 2000
    if rng.random() < 0.1:
        text = rng.choice((text * 2, text[:-1], "[" * 10**5, "1" * 10**5, f"[{text}]"))
    return text.encode()


def config_changed(content, rng):
    """Of a model, its checksums good."""
    parts = members(content)
    return zipped({**parts, "config.json": json_changed(parts["config.json"], rng)})


# === HDF5 and NumPy ===


def weights_changed(content, rng):
    """Arrays lost, of other shapes and types, NaN, links, many, or declared and not there."""
    parts = members(content)
    file = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(file, "r+") as weights:
        groups, arrays = [weights], []
        weights.visititems(
            lambda name, item: (arrays if isinstance(item, h5py.Dataset) else groups).append(item)
        )
        group, array = rng.choice(groups), rng.choice(arrays)
        way, name, parent = rng.randrange(9), array.name, array.parent
        if way == 0:
            del weights[name]
        elif way == 1:
            value = rng.choice((np.zeros(3), np.zeros((2, 2), "int8"), np.float32(np.nan), b"text"))
            del weights[name]
            weights[name] = value
        elif way == 2 and array.shape:
            array[...] = rng.choice((0, 2**31 - 1, -1)) if array.dtype.kind in "iu" else np.nan
        elif way == 3:
            del weights[name]
            link = (h5py.SoftLink("/"), h5py.ExternalLink("/etc/passwd", "/"), weights["/"])
            weights[name] = rng.choice(link)
        elif way == 4:
            group.create_dataset("bomb", (2**31,), chunks=(2**20,), compression="gzip")
        elif way == 5:
            for i in range(300):
                group.create_dataset(f"n{i}", (2**24,), chunks=(2**20,), compression="gzip")
        elif way == 6:
            for i in range(9_000):
                parent.create_group(f"g{i}")
        elif way == 7:
            for _ in range(300):
                group = group.create_group("g")
        else:
            shape = (2**20, *array.shape)
            del weights[name]
            weights.create_dataset(name, shape, compression="gzip", chunks=True)
    parts["model.weights.h5"] = file.getvalue()
    return zipped(parts, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def arrays_changed(content, rng):
    """Of a `.npz`: an array lost, of another shape, type or value, of objects, or a false header;
    its checksums good."""
    parts = members(content)
    name = rng.choice(list(parts))
    way = rng.randrange(6)
    if way == 0:
        del parts[name]
    elif way == 1:
        shape = rng.choice(("(30,)", "(10**12,)", "(2147483647, 9999)", "(-1,)", "(" * 300, "x"))
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        parts[name] = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(99)
    else:
        objects = np.empty(2, object)
        objects[0] = _Code()
        values = (
            objects,
            np.zeros(()),
            np.full((30, 8, 8, 1), np.nan),
            np.array("{}"),
            "[" * 10**5,
        )
        values += (np.zeros((0, 8, 8, 1), "uint8"), np.full(30, 2**40), np.arange(30) / 7, 1e30)
        file = io.BytesIO()
        np.save(file, rng.choice(values), allow_pickle=True)
        parts[name] = file.getvalue()
    return zipped(parts)


def sealed_again(content, rng):
    """Of a checkpoint: arrays or members changed, under a good checksum of the whole."""
    return files.sealed(rng.choice((arrays_changed, members_changed))(content[:-64], rng))


# === Folders of images ===


def names(folder, rng):
    """Links to nothing and in circles, fifos, names that are no UTF-8, folders named as images."""
    for _ in range(rng.choice((1, 3))):
        name = folder / f"{rng.randrange(10**6)}.png"
        way = rng.randrange(6)
        if way == 0:
            name.symlink_to("nowhere")
        elif way == 1:
            os.mkfifo(name)
        elif way == 2:
            name.symlink_to(folder)
        elif way == 3:
            name.mkdir()
        elif way == 4:
            shutil.copy(folder / "00.png", os.fsencode(folder) + b"/\xff\xfe%d.png" % way)
        else:
            shutil.copy(
                folder / "00.png", folder / rng.choice(("a\nb.png", "\x1b[2J.png", "é.png"))
            )


def images(folder, rng):
    """Damaged images, some of them of more pixels than any camera has."""
    for path in rng.sample(sorted(folder.iterdir()), rng.choice((1, 5, 30))):
        if rng.random() < 0.2:
            size = rng.choice((13_000, 30_000, 2**31 - 1))
            head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
            parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
            png = [
                struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
                for n, d in parts
            ]
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
        else:
            path.write_bytes(of_bytes(path.read_bytes(), rng))


def png(width, height):
    """An image of this size, by its header, in little more than a thousand bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for part in (b"IHDR" + head, b"IDAT" + zlib.compress(bytes(10**6)), b"IEND"):
        content += struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    return content


WAYS = {
    "model": (list_of_members, members_changed, config_changed, config_changed, weights_changed),
    "checkpoint": (list_of_members, members_changed, sealed_again),
    "archive": (list_of_members, members_changed, arrays_changed),
    "graph": (list_of_members, members_changed, arrays_changed),
    "sketches": (list_of_members, members_changed, arrays_changed),
    "folder": (names, images),
    "card": (json_changed,),
}


# === A process of its own ===


def work(first, last, seed):
    """Reads the damaged files of these numbers, in the working folder; prints a line of JSON when
    one is begun, and one when it is done: what became of it, seconds, and MiB that it took."""
    sound, marker = Sound(pathlib.Path.cwd()), pathlib.Path(MARKER)
    for number in range(first, last):
        kind, way, path = damaged(sound, number, seed)
        told = {"number": number, "kind": kind, "way": way}
        print(json.dumps(told), flush=True)
        before, start = _memory(fresh=True), time.perf_counter()
        said = outcome(sound, kind, path, 10**6)
        told |= {"outcome": said, "seconds": time.perf_counter() - start}
        told |= {"mib": _memory() - before, "code": int(marker.exists())}
        print(json.dumps(told), flush=True)
        marker.unlink(missing_ok=True)
        shutil.rmtree(sound.folder / f"damaged-{number}", ignore_errors=True)


def _memory(fresh=False):
    """MiB that this process has held at most, since it was last asked for a fresh count."""
    if fresh:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    (line,) = [s for s in pathlib.Path("/proc/self/status").open() if s.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
