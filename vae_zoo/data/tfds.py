"""Image sets of TensorFlow Datasets, read once by TensorFlow and kept as `.npz` for all engines."""

import difflib
import importlib.util
import os
import pathlib
import sys
import threading
import urllib.error
import urllib.request

import numpy as np

from vae_zoo import files
from vae_zoo.engine import backend

SPLITS = ("train", "validation", "test")


def cache():
    """Path of the folder that keeps what was read."""
    return pathlib.Path(os.environ.get("VAE_ZOO_CACHE") or "~/.cache/vae_zoo").expanduser()


def cached(name, embedded=()):
    """Path of the cached `.npz` of a TFDS image data set, written first if need be."""
    target = cache() / (name.replace("/", "-") + ".npz")
    if target.is_file():
        return target
    if not all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets"))):
        raise _unknown(
            name, embedded, "TensorFlow Datasets needs pip install 'vae_zoo[tensorflow]'"
        )
    data_dir = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    data_dir = data_dir.expanduser()
    prepared = sorted(data_dir.glob(f"{name}/*/dataset_info.json"))
    # TFDS itself would retry for minutes.
    if not prepared and not _online():
        raise _unknown(name, embedded, f"not prepared in {data_dir}, and no network to download it")
    with files.replacing(target) as partial:
        code = "import sys; from vae_zoo.data.tfds import write; write(*sys.argv[1:])"
        source = prepared[-1].parent if prepared else ""
        run = backend.run_on_tensorflow(code, name, source, partial, TFDS_DATA_DIR=str(data_dir))
        if run.returncode:
            reason = (run.stderr.strip() or "killed").splitlines()[-1]
            raise _unknown(name, embedded, reason)
    return target


def write(name, folder, target):
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


def _unknown(name, embedded, reason):
    root = os.environ.get("VAE_ZOO_DATA")
    local = [*embedded, *(sorted(p.stem for p in pathlib.Path(root).glob("*")) if root else ())]
    near = difflib.get_close_matches(name, local)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"`name` must be a path, one of {embedded}, a file or folder of $VAE_ZOO_DATA ({root}) or "
        f"an image data set of TensorFlow Datasets. Received: {name=} ({reason}{hint})"
    )
