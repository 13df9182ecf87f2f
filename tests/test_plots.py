"""The pictures, pixel by pixel: what stands where, in which colour, and what is refused."""

import base64
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import vae_zoo
from vae_zoo import plots
from vae_zoo.lab import clouds, terms

RNG = np.random.default_rng(0)
WHITE = (255, 255, 255)


def pixels(path):
    """The picture as uint8 (height, width, 3)."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def block(image, scale):
    """An image (height, width, channels) of uint8 as it stands in the picture."""
    return np.broadcast_to(image, (*image.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)


def find(page, part):
    """The corners (y, x) at which `part` stands in `page`, exactly, from top to bottom."""
    height, width = part.shape[:2]
    corners = (page[: -height + 1, : -width + 1] == part[0, 0]).all(-1)
    corners &= (page[height - 1 :, width - 1 :] == part[-1, -1]).all(-1)
    return [
        (y, x)
        for y, x in np.argwhere(corners).tolist()
        if (page[y : y + height, x : x + width] == part).all()
    ]


def bytes_image(*shape):
    return RNG.integers(0, 255, shape).astype("uint8")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_crisply_and_in_order(tmp_path, channels):
    images = bytes_image(5, 14, 12, channels)
    path = plots.image_grid(images, tmp_path / "new" / "grid.png", columns=3)
    assert path == tmp_path / "new" / "grid.png"
    corners = [find(pixels(path), block(image, 6)) for image in images]
    assert all(len(corner) == 1 for corner in corners)
    (a, b, c, d, e) = (corner[0] for corner in corners)
    assert a[0] == b[0] == c[0] < d[0] == e[0]
    assert a[1] == d[1] < b[1] == e[1] < c[1]


def test_floats_bytes_booleans_and_missing_channels_give_the_same_picture(tmp_path):
    images = RNG.integers(0, 2, (4, 8, 8)) == 1
    same = [
        images,
        images[..., None],
        images * 1.0,
        images * 9.0 - 4.0,
        images.astype("uint8") * 255,
    ]
    same.append(np.repeat(images[..., None], 3, axis=3).astype("float16"))
    written = {plots.samples(x, tmp_path / f"{k}.png").read_bytes() for k, x in enumerate(same)}
    assert len(written) == 1


def test_what_is_not_a_number_is_magenta(tmp_path):
    images = np.zeros((1, 28, 28, 3), "float32")
    images[0, 5, 6, 2] = np.nan
    images[0, 0, 0] = np.inf
    page = pixels(plots.image_grid(images, tmp_path / "nan.png"))
    magenta = np.argwhere((page == (255, 0, 255)).all(-1))
    assert magenta.min(0).tolist() == [10 + 15, 10 + 18]  # the margin, then 3 pixels a pixel
    assert len(magenta) == 9
    assert (page[10:13, 10:13] == 255).all() and (page[13:16, 10:13] == 0).all()


def test_titles_and_captions_are_drawn_literally_around_the_images(tmp_path):
    images = bytes_image(4, 28, 28, 1)
    plain = pixels(plots.image_grid(images, tmp_path / "plain.png"))
    words = pixels(
        plots.image_grid(
            images, tmp_path / "t.png", titles=["$5", r"$\wrong$", "a_b", "^"], caption="$x " * 99
        )
    )
    assert words.shape[0] > plain.shape[0]
    for image in images:
        (corner,) = find(words, block(image, 3))
        above = words[corner[0] - 14 : corner[0], corner[1] : corner[1] + 84]
        assert above.min() < 128  # ink
    assert words[corner[0] + 84 + 12 :, :].min() < 128
    with pytest.raises(ValueError, match=r"one string an image \(4\).*3 titles"):
        plots.image_grid(images, tmp_path / "t.png", titles=["a", "b", "c"])


def test_samples_are_nearly_square(tmp_path):
    page = pixels(plots.samples(bytes_image(30, 16, 16, 3), tmp_path / "samples.png"))
    assert 1.0 <= page.shape[1] / page.shape[0] <= 1.25


def test_code_maps_show_each_place_in_the_colour_of_its_code(tmp_path):
    """Places as large as what they code for, and near vectors in near colours."""
    originals, made = bytes_image(3, 12, 12, 1), bytes_image(3, 12, 12, 1)
    codes = RNG.integers(0, 4, (3, 2, 3))
    vectors = np.array([[0.0], [1.0], [0.2], [0.9]])
    path = tmp_path / "c.png"
    page = pixels(plots.code_maps(originals, {"codes": (codes, vectors)}, made, path))
    rank = np.array([0, 3, 1, 2]) * 85  # along the only direction, up or down
    found = []
    for red in (rank, 255 - rank):
        for image in codes:
            colours = np.zeros((2, 3, 3), "uint8")
            colours[..., 0] = red[image]
            found += find(page, block(colours.repeat(6, 0).repeat(4, 1), 7))
    assert len(found) == 3
    (top, *_), (bottom, *_) = find(page, block(originals[0], 7)), find(page, block(made[0], 7))
    assert top[0] < found[0][0] < bottom[0]


def test_reconstructions_stand_below_their_originals(tmp_path):
    originals, made = bytes_image(13, 28, 28, 1), bytes_image(13, 28, 28, 1)
    page = pixels(plots.reconstructions(originals / 255.0, made, tmp_path / "r.png", caption="c"))
    previous = (0, 0)
    for k in range(13):
        ((y, x),) = find(page, block(originals[k], 3))
        ((below, same),) = find(page, block(made[k], 3))
        assert same == x and 84 < below - y < 95
        if k % 10:
            assert y == previous[0] and x > previous[1]
        else:  # a new pair of rows, with words at the left of both
            assert y > previous[0] + 84 or k == 0
            assert page[y : y + 84, : x - 2].min() < 128
            assert page[below : below + 84, : x - 2].min() < 128
        previous = (y, x)
    with pytest.raises(ValueError, match=r"same shape.*\(13, 28, 28\) and \(12, 28, 28\)"):
        plots.reconstructions(originals, made[:12], tmp_path / "r.png")


def test_an_interpolation_is_a_row(tmp_path):
    images = bytes_image(2, 5, 10, 14, 3)
    page = pixels(plots.interpolations(images, tmp_path / "i.png"))
    for row in images:
        corners = [find(page, block(image, 6)) for image in row]
        assert all(len(corner) == 1 for corner in corners)
        assert len({corner[0][0] for corner in corners}) == 1
        assert corners == sorted(corners, key=lambda corner: corner[0][1])
    with pytest.raises(ValueError, match=r"\(rows, steps.*\(5, 10, 14, 3\)"):
        plots.interpolations(images[0], tmp_path / "i.png")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 8, 8, 2)), r"shape=\(2, 8, 8, 2\)"),
        (np.zeros((8, 8)), r"shape=\(8, 8\)"),
        (np.zeros((0, 8, 8, 1)), r"shape=\(0, 8, 8, 1\)"),
        (np.zeros((2, 8, 8, 1), int), "dtype=int64"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, images, words):
    with pytest.raises(ValueError, match=words):
        plots.image_grid(images, tmp_path / "x.png")
    assert os.listdir(tmp_path) == []


def test_rows_have_a_title_a_column(tmp_path):
    with pytest.raises(ValueError, match="3 strings. Received: 2"):
        plots.image_rows(bytes_image(2, 3, 4, 4, 1), ["a", "b"], tmp_path / "x.png")


def test_the_bars_of_groups_are_as_high_as_their_rates(tmp_path):
    page = pixels(plots.group_rates([1.0, 4.0, 2.0], [2, 1, 1], tmp_path / "rates.png"))
    colours = {2: plots.VALIDATION, 1: plots.TRAINING}  # of the scales
    rgb = {s: [int(c[i : i + 2], 16) for i in (1, 3, 5)] for s, c in colours.items()}
    top, bottom = ((page == rgb[scale]).all(-1) for scale in (2, 1))
    heights = [mask.any(1).sum() for mask in (top, bottom)]
    assert heights[1] / heights[0] == pytest.approx(4, rel=0.05)
    assert bottom.sum() / top.sum() == pytest.approx(6, rel=0.05)
    assert np.flatnonzero(top.any(0)).max() < np.flatnonzero(bottom.any(0)).min()


def test_accuracies_rise_where_they_do(tmp_path):
    draws = {10: [0.5, 0.5], 100: [0.7, 0.7], 1000: [0.9, 0.9]}
    page = pixels(plots.accuracies({"one way": draws}, tmp_path / "accuracies.png"))
    line = (page == (31, 119, 180)).all(-1)  # the first colour
    left, middle = (np.argwhere(line[:, a:b])[:, 0].mean() for a, b in ((0, 200), (200, 400)))
    assert left - middle > 60  # to the right, upwards


# === The latent grid ===


def test_the_latent_grid_has_z1_to_the_right_and_z2_upwards(tmp_path):
    asked = []

    def decode(z):
        asked.append(z)
        colour = np.stack([0 * z[:, 0], (z[:, 0] + 2) / 4, (z[:, 1] + 2) / 4], axis=1)
        return np.tile(colour[:, None, None, :], (1, 6, 6, 1))

    page = pixels(plots.latent_grid(decode, tmp_path / "g.png", limit=2.0, steps=5)).astype(int)
    (z,) = asked
    assert z.shape == (25, 2) and z.dtype == np.float32
    assert sorted(map(tuple, z.tolist())) == [(a, b) for a in range(-2, 3) for b in range(-2, 3)]
    inside = (page[..., 0] == 0) & (page[..., 1:].max(-1) > 0)
    ys, xs = np.where(inside)
    height, width = ys.max() - ys.min(), xs.max() - xs.min()
    for row in range(5):
        for column in range(5):
            y = ys.min() + round((row + 0.5) * height / 5)
            x = xs.min() + round((column + 0.5) * width / 5)
            expected = [0, column / 4 * 255, (4 - row) / 4 * 255]
            assert np.abs(page[y, x] - expected).max() < 2


def test_the_pixels_of_the_latent_grid_stay_sharp(tmp_path):
    images = bytes_image(4, 18, 18, 3)
    page = pixels(plots.latent_grid(lambda z: images, tmp_path / "g.png", steps=2))
    # Away from the frame: it is drawn over the outermost pixels.
    for image in images:
        assert len(find(page, block(image[2:-2, 2:-2], 20))) == 1


def test_a_latent_grid_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match="must return 9 images. Received: 1"):
        plots.latent_grid(lambda z: np.zeros((1, 4, 4, 1)), tmp_path / "g.png", steps=3)
    with pytest.raises(ValueError, match="steps=1"):
        plots.latent_grid(None, tmp_path / "g.png", steps=1)


# === Curves and clouds ===


def colour_of(name):
    return tuple(int(name[k : k + 2], 16) for k in (1, 3, 5))


def where(page, name):
    """The pixels (y, x) drawn in exactly one colour, given as hex."""
    return np.argwhere((page == colour_of(name)).all(-1))


def test_curves_have_one_panel_a_term_and_both_sets_in_it(tmp_path):
    falling = np.linspace(200.0, 100.0, 30)
    history = {"loss": falling, "kl": falling[::-1], "skipped": np.zeros(30)}
    history |= {"val_loss": falling + 20, "val_skipped": np.zeros(30)}
    page = pixels(plots.curves(history, tmp_path / "c.png"))
    assert page.shape == (310, 760, 3)  # two panels, none for what was never skipped
    page = page[40:]  # below the legend
    left, right = page[:, :380], page[:, 380:]
    below, above = where(left, plots.TRAINING), where(left, plots.VALIDATION)
    assert below.size and above.size and below[:, 0].mean() > above[:, 0].mean()
    rising = where(right, plots.TRAINING)
    assert not where(right, plots.VALIDATION).size
    assert rising[rising[:, 1].argmin(), 0] > rising[rising[:, 1].argmax(), 0]
    assert below[below[:, 1] < 200, 0].mean() < below[below[:, 1] > 200, 0].mean()

    history["skipped"] = np.eye(30)[3]
    assert pixels(plots.curves(history, tmp_path / "c.png")).shape == (310, 1140, 3)


def test_equal_curves_are_equal_bytes_and_units_are_drawn(tmp_path):
    history = {"loss": [3.0, 2.0, 1.0]}
    first = plots.curves(history, tmp_path / "a.png").read_bytes()
    assert plots.curves(history, tmp_path / "b.png").read_bytes() == first
    assert (
        plots.curves(history, tmp_path / "b.png", {"loss": "nats per example"}).read_bytes()
        == first
    )
    assert plots.curves(history, tmp_path / "b.png", {"loss": "bits"}).read_bytes() != first


def test_curves_show_single_epochs_and_say_what_is_not_finite(tmp_path):
    one = pixels(plots.curves({"loss": [3.0]}, tmp_path / "one.png"))
    assert len(where(one, plots.TRAINING)) > 3
    values = [5.0, np.nan, 4.0, np.inf, 3.0]
    gaps = pixels(plots.curves({"loss": values, "val_loss": [np.nan] * 5}, tmp_path / "gaps.png"))
    assert len(where(gaps, plots.TRAINING)) > 3
    assert len(where(gaps, "#b00020")) > 3
    assert not len(where(one, "#b00020"))
    with pytest.raises(ValueError, match=r"at least one epoch. Received: \['loss'\]"):
        plots.curves({"loss": []}, tmp_path / "none.png")


def test_a_validation_every_other_epoch_is_spread_over_all(tmp_path):
    history = {"loss": np.arange(40.0), "val_loss": np.arange(20.0) * 2 + 1}
    page = pixels(plots.curves(history, tmp_path / "c.png"))
    # The two lines coincide then, and the one drawn last covers the other but for its first epoch.
    assert len(where(page, plots.VALIDATION)) > 10 * len(where(page, plots.TRAINING))


def test_the_scatter_puts_classes_where_they_are(tmp_path):
    z = RNG.normal(size=(400, 2)) * 0.1
    y = np.arange(400) % 2
    z[:, 0] += np.where(y == 1, 5.0, -5.0)
    z[:, 1] += np.where(y == 1, 5.0, -5.0)
    page = pixels(plots.latent_scatter(z, y, tmp_path / "s.png")).astype(int)[:, :600]
    blue, orange = (
        np.argwhere(np.abs(page - colour_of(name)).sum(-1) < 60) for name in ("#1f77b4", "#ff7f0e")
    )
    assert blue[:, 0].mean() > orange[:, 0].mean() + 100  # lower in the picture
    assert blue[:, 1].mean() < orange[:, 1].mean() - 100
    apart = orange.mean(0) - blue.mean(0)
    assert abs(apart[0] + apart[1]) < 5  # one unit is as long upwards as sideways


def test_more_dimensions_are_drawn_by_their_principal_components(tmp_path):
    # All variance lies along one direction of the eight: across the picture, none upwards.
    z = np.linspace(-3, 3, 300)[:, None] * RNG.normal(size=(1, 8))
    page = pixels(plots.latent_scatter(z, None, tmp_path / "s.png"))
    ys, xs = np.where(page[:540, 80:].max(-1).astype(int) - page[:540, 80:].min(-1) > 60)
    assert xs.max() - xs.min() > 400 and ys.max() - ys.min() < 20
    _, names = clouds._plane(z)
    assert names[0] == "principal component 1 (100 % of the variance)"
    assert names[1] == "principal component 2 (0 % of the variance)"


def test_one_dimension_is_a_histogram(tmp_path):
    z = np.repeat([[0.0], [10.0]], [300, 100], axis=0)
    page = pixels(plots.latent_scatter(z, z[:, 0].astype(int), tmp_path / "h.png"))[:, :620]
    tall, short = where(page, "#1f77b4"), where(page, "#ff7f0e")
    assert tall[:, 1].max() < short[:, 1].min()
    assert np.ptp(tall[:, 0]) / np.ptp(short[:, 0]) == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize("classes", [3, 15, 40])
def test_every_class_has_a_colour_of_its_own(tmp_path, classes):
    labels = np.arange(classes) * 3 + 1
    assert len(set(clouds._class_colours(labels))) == classes
    z = RNG.normal(size=(2 * classes, 2))
    page = pixels(plots.latent_scatter(z, np.tile(labels, 2), tmp_path / "s.png"))
    assert page[:, 650:].min() < 200  # the key at the right


def test_the_scatter_refuses_what_it_cannot_draw(tmp_path):
    z = np.zeros((3, 2))
    for arguments, words in [
        ((np.zeros(3), None), r"\(n, d\). Received: shape=\(3,\)"),
        ((z, np.zeros(4, int)), r"3 integer labels. Received: shape=\(4,\)"),
        ((z, np.zeros(3)), "dtype=float64"),
        ((z * np.nan, None), "finite. Received: 6"),
    ]:
        with pytest.raises(ValueError, match=words):
            plots.latent_scatter(*arguments, tmp_path / "s.png")
    assert os.listdir(tmp_path) == []


def test_the_neighbourhoods_of_many_dimensions_are_drawn_beside(tmp_path, monkeypatch):
    """Two clusters that the first two components do not show are apart by t-SNE."""
    z = RNG.normal(size=(60, 5)) * (9, 9, 0.1, 0.1, 0.1)
    y = np.arange(60) % 2
    z[:, 2:] += np.where(y, 4.0, -4.0)[:, None]
    page = pixels(plots.latent_scatter(z, y, tmp_path / "s.png", "tsne")).astype(int)
    assert page.shape == (600, 1240, 3)
    near = clouds._embedded(z, "tsne")
    distances = np.linalg.norm(near[:, None] - near, axis=-1) + 1e9 * np.eye(60)
    assert (y[distances.argmin(axis=1)] == y).mean() > 0.9
    few = plots.latent_scatter(z[:9], y[:9], tmp_path / "s.png", "tsne")  # too few to have any
    assert pixels(few).shape == (600, 720, 3)
    with pytest.raises(ValueError, match="tsne, umap or None. Received: 'pca'"):
        plots.latent_scatter(z, y, embedding="pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="umap-learn"):
        plots.latent_scatter(z, y, embedding="umap")


def axes_of(figure, term):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(term))


def test_the_last_epochs_can_be_read_and_the_best_is_marked():
    falling = 1000 * np.exp(-np.arange(50) / 2) + 100 - np.arange(50) / 50
    risen = falling.copy()
    risen[40:] += 0.4  # what it learns by heart
    history = {"loss": falling, "val_loss": risen, "beta": np.linspace(0, 1, 50)}
    figure = plots.curves(history | {"val_beta": np.ones(50)}, caption="A sentence.")
    loss, beta = axes_of(figure, "loss"), axes_of(figure, "beta")
    low, high = loss.get_ylim()
    assert low < falling.min() and risen[10:].max() < high < 110
    assert loss.get_title(loc="right") == "from epoch 11 on"
    assert beta.get_ylim()[0] <= 0 and not beta.get_title(loc="right")  # there all are seen
    assert [line.get_label() for line in beta.get_lines()] == ["training", "best epoch: 40"]
    (best,) = [line for line in loss.get_lines() if line.get_label().startswith("best")]
    assert best.get_xdata()[0] == 40
    (legend,) = figure.legends  # of all panels, above them
    assert {t.get_text() for t in legend.texts} == {"training", "validation", "best epoch: 40"}
    assert not any(axes.get_legend() for axes in figure.axes)
    assert figure.get_supxlabel() == "A sentence."


@pytest.mark.parametrize(
    "history, monitor, best",
    [
        ({"val_loss": [3, 1, 2], "val_elbo": [1, 2, 3]}, None, 3),
        ({"val_loss": [3, 1, 2], "val_elbo": [1, 2, 3]}, "val_loss", 2),
        ({"val_elbo": [1, 2, 3], "val_iwae": [np.nan, 2, 1]}, None, 2),
        ({"val_loss": [np.nan] * 3}, None, None),
        ({"loss": [1, 2, 3]}, None, None),
    ],
)
def test_the_best_epoch_is_that_of_validation(history, monitor, best):
    assert terms.best_epoch(history, monitor) == best


def test_axes_have_units_that_are_right_and_rates_of_learning_magnitudes():
    history = {"perplexity": [3.0, 4.0], "kl": [1.0, 2.0], "learning_rate": [1e-2, 1e-4]}
    figure = plots.curves(history)
    assert axes_of(figure, "perplexity").get_ylabel() == "codes"
    assert axes_of(figure, "rate (kl)").get_ylabel() == "nats per example"
    assert axes_of(figure, "learning rate").get_yscale() == "log"


# === All of them ===


@pytest.mark.parametrize("suffix, start", [("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89P")])
def test_the_suffix_says_what_is_written(suffix, start, tmp_path):
    history, images = {"loss": [3.0, 2.0]}, bytes_image(4, 8, 8, 3)
    for name, draw, data in (("c", plots.curves, history), ("s", plots.samples, images)):
        first = draw(data, tmp_path / f"{name}.{suffix}").read_bytes()
        assert first.startswith(start)
        assert draw(data, tmp_path / f"{name}.{suffix}").read_bytes() == first
    with pytest.raises(ValueError, match="must end in .png, .pdf, .svg. Received: .*c.jpg"):
        plots.curves(history, tmp_path / "c.jpg")


def test_the_pixels_of_an_image_are_whole_in_a_vector_picture(tmp_path):
    """An image in it, which has the pixels of the PNG."""
    images = bytes_image(2, 6, 6, 3)
    page = pixels(plots.samples(images, tmp_path / "s.png"))
    text = plots.samples(images, tmp_path / "s.svg").read_text()
    (encoded,) = re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', text)
    inner = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    for image in images:
        assert len(find(inner, block(image, 14))) == 1
    assert inner.shape == page.shape


def test_without_a_path_there_is_a_figure_that_a_notebook_shows(tmp_path):
    images = bytes_image(3, 5, 8, 8, 1)
    figures = [
        plots.curves({"loss": [3.0, 2.0]}),
        plots.samples(images[0]),
        plots.image_rows(images, "abcde"),
        plots.latent_scatter(RNG.normal(size=(20, 2)), None),
        plots.group_rates([1.0, 2.0], [2, 1]),
        plots.rate_distortion([{"rate": 1.0, "distortion": 2.0}]),
        plots.roc([True, False], [0.9, 0.1]),
        plots.density(np.eye(2), np.eye(2), lambda z: z[:, 0], points=5),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        shown = np.asarray(Image.open(io.BytesIO(figure._repr_png_())))
        assert len(np.unique(shown)) > 1


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = plots.samples(bytes_image(4, 8, 8), tmp_path / "samples.png")
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plots.samples(bytes_image(4, 8, 8), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["samples.png"]


def test_drawing_needs_no_pyplot_and_importing_no_matplotlib(tmp_path):
    """In a process of its own, with `plots` and `cli` without the rest of the package."""
    code = f"""
import sys, types
package = types.ModuleType("vae_zoo")
package.__path__ = [{os.path.dirname(vae_zoo.__file__)!r}]
sys.modules["vae_zoo"] = package
from vae_zoo.lab import plots
heavy = {{"matplotlib", "sklearn", "keras"}} & set(sys.modules)
plots.curves({{"loss": [1.0]}}, {str(tmp_path / "c.png")!r})
print(heavy, "matplotlib.pyplot" in sys.modules, "keras" in sys.modules)
"""
    environment = os.environ | {"MPLBACKEND": "tkagg", "DISPLAY": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert (done.stdout, done.returncode) == ("set() False False\n", 0), done.stderr


def test_density_is_brightest_where_it_is_highest(tmp_path):
    x = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    peak = np.array([8.0, 2.0])  # at the right, below the middle
    path = plots.density(x, x, lambda z: -((z - peak) ** 2).sum(axis=1), tmp_path / "density.png")
    page = pixels(path).astype(int)
    yellow = np.abs(page - (253, 231, 36)).sum(axis=-1) < 20  # the top of the scale
    purple = np.abs(page - (68, 1, 84)).sum(axis=-1) < 20  # its bottom
    (top, bottom), (left, right) = ((a.min(), a.max()) for a in np.nonzero(purple))
    y, x = (a.mean() for a in np.nonzero(yellow))
    assert (x - left) / (right - left) == pytest.approx((8 + 1.5) / 13, abs=0.03)
    assert (y - top) / (bottom - top) == pytest.approx(1 - (2 + 1.5) / 13, abs=0.03)
