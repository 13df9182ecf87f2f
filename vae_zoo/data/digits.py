"""scikit-learn's handwritten digits, in the size of MNIST's."""

import functools

import numpy as np


def digits(split, seed):
    """scikit-learn's 1,797 digits of 8 x 8 in 0..16, at 28 x 28: 1,297 / 200 / 300, stratified.

    Enlarging smears an edge over several pixels; the contrast is raised until strokes are as crisp
    as MNIST's, so that bits drawn from the grey levels look like digits too.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small = load_digits()
    grey = np.round(small.images * (255 / 16)).astype(np.uint8)
    resize = functools.partial(Image.Image.resize, size=(28, 28), resample=Image.Resampling.BICUBIC)
    x = np.stack([resize(Image.fromarray(image)) for image in grey])[..., None]
    x = np.clip((x.astype("int32") - 128) * 4 + 128, 0, 255).astype(np.uint8)
    y = small.target.astype(np.int32)
    rest, test = train_test_split(np.arange(len(y)), test_size=300, stratify=y, random_state=seed)
    train, held = train_test_split(rest, test_size=200, stratify=y[rest], random_state=seed)
    index = {"train": train, "validation": held, "test": test}[split]
    return x[index], y[index]
