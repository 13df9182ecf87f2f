"""What every picture is drawn with: pixels, sheets of images, figures, one way to write them.

A pixel of an image becomes a square of whole pixels of the picture, never smoothed, and NaN is
magenta: nothing that a model gets wrong is hidden by the drawing. Only the PNG of a large picture
has fewer colours. Figures are made without pyplot, so no window, no display and no global state is
involved.
"""

import functools
import io
import textwrap
import typing
from pathlib import Path

import numpy as np

from vae_zoo import files

if typing.TYPE_CHECKING:
    import matplotlib.figure

# What a picture returns: where it was written, or the figure where no path was given.
Picture = typing.Union[Path, "matplotlib.figure.Figure"]

DPI = 100
LIMIT = 100_000  # bytes of a PNG
DIAGRAMS = ("curves", "latents", "rates", "roc")  # pictures of lines and dots, by name
SUFFIXES = (".png", ".pdf", ".svg")
TILE = 84  # pixels, about: the longer side of an image in a grid
GAP, GROUP_GAP, MARGIN = 3, 12, 10  # pixels between images, between groups of rows, around all
CHARACTER, LINE = 7, 15  # pixels, about: width and height of a letter of 8 points
NAN_COLOUR = (255, 0, 255)
INK, TRAINING, VALIDATION = "#333333", "#1f5fa8", "#e07b00"


def rgb(images):
    """(n, height, width[, 1 or 3]) of float in [0, 1], bool or uint8 -> uint8 (n, h, w, 3)."""
    images = np.asarray(images)
    shape, kind = images.shape, images.dtype
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "Images must have the shape (n, height, width) or (n, height, width, channels) with 1 "
            f"or 3 channels. Received: shape={shape}"
        )
    if kind.kind not in "fb" and kind != np.uint8:
        raise ValueError(f"Images must be float in [0, 1] or uint8. Received: dtype={kind}")
    undefined = np.isnan(images).any(axis=-1)
    if kind != np.uint8:
        images = np.nan_to_num(images.astype("float32"))
        images = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype("uint8")
    images = np.repeat(images, 3 // images.shape[3], axis=3)
    images[undefined] = NAN_COLOUR
    return images


def in_rows(images, columns):
    """(n, height, width, 3) -> (rows, columns, height, width, 3), white where there is no image."""
    rows = -(-len(images) // columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), 255, "uint8")
    return np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:])


def enlarged(image, scale):
    """Each pixel of (height, width, 3) as a square of scale x scale."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def sheet(tiles, path=None, caption=None, titles=None, labels=()):
    """Write a picture of tiles, see `page`."""
    vector = path is not None and Path(path).suffix.lower() in SUFFIXES[1:]
    return save(page(tiles, caption, titles, labels, vector), path)


def page(tiles, caption=None, titles=None, labels=(), vector=False):
    """A figure of uint8 tiles (rows, columns, height, width, 3), pixel by pixel, and words around.

    `titles` stand above the tiles, in order, as far as they reach; `labels` stand at the left of
    the rows, over and over, with some space between one set of labels and the next.
    """
    rows, columns, height, width, _ = tiles.shape
    scale = max(1, round(TILE / max(height, width)))
    height, width = height * scale, width * scale
    titles = [] if titles is None else [str(title) for title in titles]
    left = MARGIN + max((CHARACTER * len(label) + GAP for label in labels), default=0)
    page_width = left + columns * (width + GAP) - GAP + MARGIN
    page_width = max(page_width, 40 * CHARACTER) if caption else page_width
    lines = textwrap.wrap(caption or "", (page_width - 2 * MARGIN) // CHARACTER)

    words = []  # (x, y of the centre, text, horizontal alignment), in pixels from the top left
    places = []  # (y, x) of each tile's corner
    y = MARGIN
    for row in range(rows):
        row_titles = titles[row * columns : (row + 1) * columns]
        y += LINE if row_titles else 0
        for column in range(columns):
            places.append((y, left + column * (width + GAP)))
        for title, (_, x) in zip(row_titles, places[-columns:], strict=False):
            words.append((x + width / 2, y - LINE / 2 - 1, title, "center"))
        if labels:
            label = labels[row % len(labels)]
            words.append((left - 2 * GAP, y + height / 2, label, "right"))
        y += height + (GROUP_GAP if labels and (row + 1) % len(labels) == 0 else GAP)
    bottom = places[-1][0] + height + MARGIN
    for number, line in enumerate(lines):
        words.append((MARGIN, bottom + LINE * (number + 0.5), line, "left"))
    page_height = bottom + (LINE * len(lines) + MARGIN if lines else 0)

    pixels = np.full((page_height, page_width, 3), 255, "uint8")
    for tile, (y, x) in zip(tiles.reshape(-1, *tiles.shape[2:]), places, strict=True):
        pixels[y : y + height, x : x + width] = enlarged(tile, scale)
    figure = figure_of(page_width, page_height)
    if vector:  # pixels of their own, which a file that scales would else draw anew
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(pixels, aspect="auto", interpolation="none")
    else:
        figure.figimage(pixels)
    style = {"fontsize": 8, "color": INK, "va": "center", "parse_math": False}
    for x, y, text, align in words:
        figure.text(x / page_width, 1 - y / page_height, text, ha=align, **style)
    return figure


def figure_of(width, height, **kwargs):
    """An empty figure of width x height pixels."""
    # The tenth of a pixel keeps rounding from making the picture one pixel smaller.
    return _figure_class()(figsize=((width + 0.1) / DPI, (height + 0.1) / DPI), dpi=DPI, **kwargs)


@functools.cache
def _figure_class():
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows, whether or not pyplot was imported."""

        def _repr_png_(self):
            drawn = io.BytesIO()
            self.savefig(drawn, format="png")
            return drawn.getvalue()

    return Picture


def legend(figure, axes, **kwargs):
    """The legend of all that has a label in `axes`, above them, where no data are."""
    found = {}
    for one in np.atleast_1d(axes):
        for handle, label in zip(*one.get_legend_handles_labels()):
            found.setdefault(label, handle)
    style = {"fontsize": 8, "frameon": False, "ncols": 3, **kwargs}
    figure.legend(list(found.values()), list(found), loc="outside upper center", **style)


def caption_of(figure, text, letters):
    """A sentence below all axes of a figure, wrapped into so many letters."""
    if text:
        lines = textwrap.fill(text, letters)
        style = {"fontsize": 8, "color": INK, "parse_math": False}
        figure.supxlabel(lines, x=0.01, ha="left", **style)


def tidy(axes):
    """Small, grey letters; no frame at the top and the right."""
    axes.tick_params(labelsize=8, colors=INK)
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure, path=None, limit=LIMIT) -> Picture:
    """Write a figure, whole or not at all; equal figures give equal bytes.

    Args:
        figure: of Matplotlib.
        path: of the file: a PNG, or a PDF or an SVG where the suffix says so. None writes nothing.
        limit: int, bytes that a PNG stays below.

    Returns:
        the path; without one the figure, which a notebook shows.
    """
    from matplotlib import rc_context

    if path is None:
        return figure
    path, drawn = Path(path), io.BytesIO()
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"A picture must end in {', '.join(SUFFIXES)}. Received: {path}")
    if kind == ".png":
        return write(_drawn(figure), path, limit)
    dates = {"CreationDate": None} if kind == ".pdf" else {"Date": None}
    with rc_context({"svg.hashsalt": "vae_zoo"}):
        figure.savefig(drawn, format=kind[1:], metadata=dates)
    files.write_bytes(path, drawn.getvalue())
    return path


def animate(figures, path, milliseconds=120):
    """Write figures of one size as the frames of a GIF that goes on for ever."""
    frames = [_drawn(figure).convert("RGB").quantize(64, dither=0) for figure in figures]
    content, how = io.BytesIO(), {"duration": milliseconds, "loop": 0, "optimize": True}
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], **how)
    files.write_bytes(path, content.getvalue())
    return Path(path)


def _drawn(figure):
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return Image.open(drawn)


def write(image, path, limit=LIMIT):
    """Write a PIL image as a PNG of less than `limit` bytes.

    Without loss if that is small enough; else in fewer colours, and at last in fewer pixels.
    """
    content = next(c for c in map(_png, _versions(image.convert("RGB"), limit)) if len(c) < limit)
    files.write_bytes(path, content)
    return Path(path)


def thin_out(path):
    """Write a PNG anew in fewer colours, if that is smaller: 31 of grey levels, half the bytes
    and nothing to see, and 63 of `DIAGRAMS`; others stay as they are."""
    from PIL import Image

    path = Path(path)
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    grey = np.ptp(np.asarray(image), axis=-1).max() == 0
    if grey or path.stem in DIAGRAMS:
        content = _png(_in_colours(image, 31 if grey else 63, kmeans=1))
        if len(content) < path.stat().st_size:
            files.write_bytes(path, content)


def _png(image):
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def _versions(image, limit):
    """An image, first as it is, then with ever less in it; what is magenta stays so."""
    from PIL import Image

    few = image.getcolors(256)
    yield image.quantize(len(few), dither=Image.Dither.NONE) if few else image
    for factor in range(1, max(image.size) + 1):
        smaller = image.reduce(factor)
        undefined = (np.asarray(smaller) == NAN_COLOUR).all(axis=-1)
        for colours in (255, 127, 63, 31):
            # k-means makes the colours right and the file larger, and takes seconds.
            if len(_png(_in_colours(smaller, colours))) < limit:
                yield _marked(_in_colours(smaller, colours, kmeans=1), undefined)


def _in_colours(image, colours, kmeans=0):
    from PIL import Image

    how = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    return image.quantize(colours, kmeans=kmeans, **how)


def _marked(picture, where):
    """A picture with a palette, magenta in some places."""
    from PIL import Image

    indices, palette = np.array(picture), picture.getpalette()
    indices[where] = len(palette) // 3
    marked = Image.fromarray(indices)
    marked.putpalette([*palette, *NAN_COLOUR])
    return marked
