"""Archives from anywhere, looked at before anything in them is inflated or built.

A `.keras` file is a zip of a config, `config.json`, and an HDF5 file of weights. What it may cost
to load is bounded by what it holds: by the bytes that it has on disk, and by the arrays that the
headers of its weights declare.
"""

import collections
import contextlib
import io
import math
import os
import pathlib
import zipfile

import h5py
import numpy as np

from vae_zoo import files

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
LONGEST_LIST = 2**20  # bytes of a zip's list of its members
MOST_OBJECTS = 2**13  # groups and arrays of an HDF5 file
IN_MEMORY = 2**26  # bytes of an HDF5 file that is read as a whole
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes, of this machine
SMALL = 2**24  # bytes that any archive may inflate to
# How members may be packed. Of bzip2 one read of four kilobytes may inflate to gigabytes.
PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA}
# How often its bytes on disk a `.keras` file may inflate to, and its arrays may have. Weights
# hardly get smaller, but moments that are zero do.
INFLATED, DECLARED = 20, 100


@contextlib.contextmanager
def opened(path, most):
    """Context with a zip archive, a `ZipFile`.

    Args:
        path: of the file.
        most: int, bytes that its members may inflate to, all together.

    Raises:
        ValueError: in one line that names the file, whatever is wrong with the archive, or with
            what is read of it in the context.
    """
    try:
        with open(path, "rb") as file:
            end = zipfile._EndRecData(file)
            if end and end[zipfile._ECD_SIZE] > LONGEST_LIST:
                raise ValueError("its list of members is longer than any archive's here")
        with zipfile.ZipFile(path) as archive:
            if {item.compress_type for item in archive.infolist()} - PACKED:
                raise ValueError("its members have a compression that is not read here")
            inflated = sum(item.file_size for item in archive.infolist())
            if inflated > most:
                raise ValueError(f"it inflates to {inflated:,} bytes, above the limit of {most:,}")
            yield archive
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds
        kind, reason = pathlib.Path(path).suffix, files.in_words(error)
        raise ValueError(f"{path} is truncated, damaged or no {kind} file ({reason})") from error


@contextlib.contextmanager
def arrays(path):
    """Context with the arrays of a `.npz` of at most this machine's memory, as `np.load` has them;
    it unpickles nothing. Raises as `opened` does."""
    with opened(path, MEMORY), np.load(path, allow_pickle=False) as archive:
        yield archive


def names(path):
    """Names of an archive's members, a set; none of what is no archive."""
    try:
        with opened(path, math.inf) as archive:
            return set(archive.namelist())
    except ValueError:
        return set()


def look(path):
    """What a `.keras` file declares, checked: its checksums hold, its config is JSON, and all sizes
    are in proportion to its bytes on disk.

    Args:
        path: of the file.

    Returns:
        config, a dict; shapes of all its arrays, a `Counter` of tuples.

    Raises:
        ValueError: in one line that names the file.
    """
    size = pathlib.Path(path).stat().st_size
    with opened(path, SMALL + INFLATED * size) as archive:
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} in it does not match its checksum")
        if archive.getinfo(CONFIG).file_size > files.LONGEST_JSON:
            raise ValueError(f"its {CONFIG} is above the limit of {files.LONGEST_JSON:,} bytes")
        config = files.parse_json(archive.read(CONFIG))
        if not isinstance(config, dict):
            raise ValueError(f"its {CONFIG} must be a dict. Received: {files.shown(config)}")
        found = list(_arrays(archive))
        declared = sum(nbytes for _, nbytes in found)
        if declared > SMALL + DECLARED * size:
            raise ValueError(f"its {size:,} bytes declare arrays of {declared:,}")
    return config, collections.Counter(shape for shape, _ in found)


def _arrays(archive):
    """Shape and bytes of each array of the weights, by its header; a link is refused."""
    with archive.open(WEIGHTS) as content:
        item = archive.getinfo(WEIGHTS)
        if item.file_size < IN_MEMORY or item.compress_type != zipfile.ZIP_STORED:
            content = io.BytesIO(content.read())  # a zip is slow to go back and forth in
        with h5py.File(content, "r") as file:
            waiting, objects = [file], 0
            while waiting:
                group = waiting.pop()
                objects += len(group)
                if objects > MOST_OBJECTS:
                    raise ValueError(f"its {WEIGHTS} has more than {MOST_OBJECTS:,} objects")
                for name in group:
                    if group.get(name, getclass=True, getlink=True) is not h5py.HardLink:
                        raise ValueError(f"its {WEIGHTS} has a link to elsewhere, {name}")
                    item = group[name]
                    if isinstance(item, h5py.Group):
                        waiting.append(item)
                    elif isinstance(item, h5py.Dataset):
                        yield item.shape or (), item.nbytes  # None where there is no array
