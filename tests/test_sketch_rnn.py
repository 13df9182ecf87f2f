"""Sketch-RNN: its density, its cells, its data and what it draws, by oracles."""

import io
import pickle
import zipfile

import keras
import numpy as np
import pytest
from families import FAMILIES, sketches
from keras import ops
from scipy import stats
from test_families import array, filled

from vae_zoo import SketchDecoder, data, schedules, strokes, zoo
from vae_zoo.data import strokes as files
from vae_zoo.parts import recurrent

ENDS = np.float32([[[0, 0, 0, 0, 1]]])


def mixture(components=3, batch=()):
    parameters = np.random.default_rng(0).normal(0, 0.7, (*batch, 6 * components + 3))
    return strokes.StrokeMixture(components), ops.convert_to_tensor(parameters.astype("float32"))


def rows_at(points):
    """A point a sketch, with its end: (n, 2, 5)."""
    x = np.tile(ENDS, (len(points), 2, 1))
    x[:, 0] = np.concatenate([points, np.tile([1, 0, 0], (len(points), 1))], axis=1)
    return ops.convert_to_tensor(x)


# === Density ===


def test_the_mixture_of_offsets_integrates_to_one_and_the_pen_sums_to_one():
    likelihood, parameters = mixture(batch=(1, 2))
    axis = np.linspace(-12, 12, 161)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    offsets, _ = likelihood.log_probs(rows_at(grid), parameters)
    density = np.exp(np.float64(array(offsets)[:, 0]))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)
    pens = []
    for state in np.eye(3):
        x = np.concatenate([[[[0, 0, *state]]], ENDS], axis=1)
        pens.append(array(likelihood.log_probs(ops.convert_to_tensor(x, "float32"), parameters)[1]))
    assert np.exp(np.float64(pens))[:, 0, 0].sum() == pytest.approx(1, rel=1e-5)


def test_the_density_of_an_offset_is_that_of_scipy():
    likelihood, parameters = mixture(batch=(1, 2))
    weights, means, log_scales, rho, _ = (array(t)[0, 0] for t in likelihood.split(parameters))
    points = np.random.default_rng(1).normal(size=(6, 2))
    expected = 0
    for w, mean, (a, b), r in zip(np.exp(weights), means, np.exp(log_scales), rho):
        covariance = [[a * a, r * a * b], [r * a * b, b * b]]
        expected = expected + w * stats.multivariate_normal(mean, covariance).pdf(points)
    found = array(likelihood.log_probs(rows_at(points), parameters)[0])[:, 0]
    np.testing.assert_allclose(found, np.log(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sketch_rnn", "sketch_decoder", "sketch_decoder_normalized"])
def test_rows_of_ends_change_nothing(name):
    model = filled(FAMILIES[name].make(seed=1))
    short = Shorter(2).take(8)
    with model.drawing(lambda shape, *_: ops.ones(shape) * 0.5):
        losses = [
            array(model.objective(model.domain.tensor(x))["loss"])
            for x in (short, np.concatenate([short, np.tile(ENDS, (8, 2, 1))], axis=1))
        ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


class Shorter:
    """Sketches of fewer rows than a model takes."""

    def __init__(self, points):
        self.domain = strokes.Strokes(points)

    def take(self, n):
        return self.domain.examples(n, np.random.default_rng(3))


def test_what_comes_later_says_nothing_of_a_row():
    model = filled(FAMILIES["sketch_decoder"].make(seed=1))
    x = sketches()
    x[:, :3] = [0.5, 0.5, 1, 0, 0]
    other = x.copy()
    other[:, 2, :2] = 9
    before, after = (array(model.decoder(ops.convert_to_tensor(a))) for a in (x, other))
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)  # row i sees those above
    assert (before[:, 3] != after[:, 3]).any()


def test_a_log_likelihood_is_that_of_the_rows_that_count():
    model = filled(FAMILIES["sketch_decoder"].make(seed=1))
    x, n = sketches(), files.lengths_of(sketches())
    parameters = model.decoder(ops.convert_to_tensor(x))
    offsets, pens = map(array, model.likelihood.log_probs(ops.convert_to_tensor(x), parameters))
    *_, pen = map(array, model.likelihood.split(parameters))
    expected = [
        offsets[i, : n[i]].sum() + (pen[i] * x[i, :, 2:]).sum(axis=-1)[: n[i] + 1].sum()
        for i in range(8)
    ]
    np.testing.assert_allclose(model.log_likelihood(x), expected, rtol=1e-5)
    assert (offsets[np.arange(8), n] == 0).all() and (pens != 0).sum() == (n + 1).sum()


def test_the_floor_holds_for_all_latents_together():
    family = FAMILIES["sketch_rnn_normalized"]  # of 0.5 nats
    model = family.make(seed=1)
    x = model.prepare(family.x)
    outputs = {k: array(v) for k, v in model.objective(x, training=True).items()}
    assert outputs["kl"].mean() < 0.5  # a new encoder says next to nothing
    np.testing.assert_allclose(outputs["loss"], outputs["reconstruction"] + 0.5, rtol=1e-5)


def test_the_annealing_is_that_of_the_paper():
    schedule = schedules.Approach(0.5, 0.01, 0.9)
    found = [float(array(ops.convert_to_tensor(schedule(t)))) for t in (0, 1, 7, 1000)]
    expected = [0.5 * (1 - 0.99 * 0.9**t) for t in (0, 1, 7, 1000)]
    assert found == pytest.approx(expected, rel=1e-5)


# === Cells ===


def by_hand(x, kernel, recurrent, bias):
    """An LSTM in NumPy: h of all rows."""
    sigmoid = lambda t: 1 / (1 + np.exp(-t))  # noqa: E731
    h = c = np.zeros((len(x), recurrent.shape[0]))
    made = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        made.append(h)
    return np.stack(made, axis=1)


@pytest.mark.parametrize("fused", [True, False])
def test_a_cell_is_that_of_the_book(fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(recurrent.recurrence, "FUSED", False)
    cell = recurrent.LSTM(3, 4)
    cell.bias.assign(np.linspace(-1, 1, 16))
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    weights = map(array, (cell.kernel, cell.recurrent, cell.bias))
    np.testing.assert_allclose(array(cell(x)), by_hand(x, *weights), atol=1e-5)


def test_normalised_gates_forget_their_scale():
    cell = recurrent.LSTM(3, 16, normalized=True)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    before = array(cell(x))
    cell.kernel.assign(7.0 * cell.kernel)
    cell.recurrent.assign(7.0 * cell.recurrent)
    np.testing.assert_allclose(array(cell(x)), before, atol=1e-3)


def test_dropout_takes_away_as_much_as_it_says():
    cell = recurrent.LSTM(3, 64, dropout=0.25)
    x = np.random.default_rng(0).normal(size=(2, 1, 3)).astype("float32")
    drawn = ops.convert_to_tensor(np.random.default_rng(1).random((1, 2, 64)), "float32")
    some, all_ = array(cell(x, draw=lambda *_: drawn)), array(cell(x))
    kept = array(drawn)[0] >= 0.25
    np.testing.assert_array_equal(some[:, 0] != 0, kept)
    assert (np.abs(some[:, 0][kept]) > np.abs(all_[:, 0][kept])).all()  # made up for


def test_sequences_are_read_backwards_within_their_lengths():
    x = ops.convert_to_tensor(np.arange(8.0).reshape(2, 4, 1))
    found = array(recurrent.reversed_rows(x, ops.convert_to_tensor([2, 4])))[..., 0]
    np.testing.assert_array_equal(found, [[1, 0, 2, 3], [7, 6, 5, 4]])


# === Drawing ===


def test_drawn_sketches_are_sketches_and_follow_their_seed():
    for name in ("sketch_rnn", "sketch_decoder", "sketch_rnn_normalized"):
        model = filled(FAMILIES[name].make(seed=1))
        a, b, c = (model.sample(6, seed=seed, temperature=1.0) for seed in (1, 1, 2))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
        model.domain.check_values(a)
        assert model.domain.pictures(a).shape == (6, 64, 64, 1)


def test_rows_are_drawn_as_often_as_the_density_says():
    likelihood, parameters = mixture(2, (1,))
    many = ops.tile(parameters, (20_000, 1))
    rng = np.random.default_rng(0)
    noise = [
        ops.convert_to_tensor(draw((20_000, 2)), "float32") for draw in (rng.random, _normal(rng))
    ]
    one = ops.convert_to_tensor(1.0)
    rows = array(likelihood.draw_row(many, one, *noise, ops.convert_to_tensor(False)))
    weights, means, log_scales, rho, pen = (array(t)[0] for t in likelihood.split(parameters))
    w, (scale) = np.exp(weights), np.exp(log_scales)
    assert rows[:, 2:].mean(axis=0) == pytest.approx(np.exp(pen), abs=0.015)
    points = rows[rows[:, 4] == 0, :2]
    mean = w @ means
    assert points.mean(axis=0) == pytest.approx(mean, abs=0.05)
    across = w @ (rho * scale.prod(axis=1) + means.prod(axis=1)) - mean.prod()
    assert np.cov(points.T)[0, 1] == pytest.approx(across, abs=0.1)
    # Cold, it is the mean of the likeliest component.
    cold = array(likelihood.draw_row(many[:1], 0 * one, noise[0][:1], noise[1][:1], one > 2))[0]
    if cold[4] == 0:
        np.testing.assert_allclose(cold[:2], means[np.argmax(w)], rtol=1e-5)
    np.testing.assert_array_equal(cold[2:], np.eye(3)[np.argmax(pen)])


def _normal(rng):
    return lambda shape: rng.normal(size=shape)


def test_what_is_begun_is_completed():
    begun = sketches()[:3]
    begun[:, :2] = [[1, 2, 1, 0, 0], [3, 4, 0, 1, 0]]
    for name in ("sketch_rnn", "sketch_decoder"):
        model = filled(FAMILIES[name].make(seed=1))
        made = model.complete(begun[:, :2], temperature=0.5, seed=1)
        np.testing.assert_array_equal(made[:, :2], begun[:, :2])
        model.domain.check_values(made)
        with pytest.raises(ValueError, match="no end yet"):
            model.complete(sketches()[:, 1:])
        with pytest.raises(ValueError, match="up to 4 rows.*5, 5"):
            model.complete(np.zeros((1, 5, 5)))
        with pytest.raises(ValueError, match="temperature=-1"):
            model.complete(begun[:, :2], temperature=-1)


def test_a_golden_file_is_teacher_forced():
    model = filled(FAMILIES["sketch_rnn"].make(seed=1))
    golden = zoo.golden(model)
    model.domain.check_values(golden["x"])
    np.testing.assert_allclose(golden["reconstruction"], array(model(golden["x"])), atol=1e-6)


# === Data ===


def test_offsets_are_whole_numbers_with_noise(tmp_path):
    x, _ = data.load("scribbles")
    unit = 1 / files.scale(None)
    strokes.Strokes(x.shape[1] - 1).check_values(x)
    points = x[..., 4] == 0
    assert x[points][:, :2].std() == pytest.approx(1, abs=0.01)
    noise = x[points][:, :2] / unit - np.round(x[points][:, :2] / unit)
    assert stats.kstest(noise.ravel(), stats.uniform(-0.5, 1).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(x, data.load("scribbles")[0])


def test_augmented_sketches_end_where_they_did():
    x, _ = data.load("scribbles", "test")
    made = files.augmented(x, np.random.default_rng(0), stretch=0.0, drop=0.5)
    strokes.Strokes(x.shape[1] - 1).check_values(made)
    fewer = files.lengths_of(made).sum() / files.lengths_of(x).sum()
    assert 0.5 < fewer < 0.7  # first and last of a stroke stay
    np.testing.assert_allclose(made[..., :2].sum(axis=1), x[..., :2].sum(axis=1), atol=1e-4)
    assert (made[..., 3].sum(axis=1) == x[..., 3].sum(axis=1)).all()
    wide = files.augmented(x, np.random.default_rng(0), stretch=0.2, drop=0.0)
    ratio = (wide / np.where(x == 0, 1, x))[:, 0, :2]
    assert ratio.min() > 0.79 and ratio.max() < 1.21 and ratio.std() > 0.05
    anew = files.augmented(x, np.random.default_rng(0), 0.0, 0.0, unit=1 / files.scale(None))
    assert 0 < np.abs(anew - x).max() < 1 / files.scale(None)


def three(n=4):
    rng = np.random.default_rng(0)
    made = [np.column_stack([rng.integers(-9, 9, (k + 2, 2)), np.zeros(k + 2)]) for k in range(n)]
    for sketch in made:
        sketch[-1, 2] = 1
    return [sketch.astype("int16") for sketch in made]


def archive(path, change=lambda arrays: None):
    """A file of stroke-3, end to end."""
    arrays = {}
    for name in ("train", "valid", "test"):
        arrays[f"{name}_strokes"] = np.concatenate(three())
        arrays[f"{name}_lengths"] = np.int32([len(sketch) for sketch in three()])
    change(arrays)
    np.savez(path, **arrays)
    return path


def quickdraw(path, content=None):
    """A file as QuickDraw's are: pickled arrays of arrays, as of Python 2."""
    objects = np.empty(4, object)
    objects[:] = three()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (4,)}
    )
    pickled = pickle.dumps(objects if content is None else content, protocol=2)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("train", "valid", "test"):
            file.writestr(f"{name}.npy", header.getvalue() + pickled)
    return path


def test_both_forms_of_files_are_read(tmp_path):
    a, b = archive(tmp_path / "a.npz"), quickdraw(tmp_path / "b.npz")
    for split in data.SPLITS:
        (x, y), (same, _) = data.load(a, split), data.load(b, split)
        np.testing.assert_array_equal(x, same)
        assert y is None and x.shape == (4, 6, 5) and files.lengths_of(x).tolist() == [2, 3, 4, 5]
        whole = np.round(x[..., :2] * files.scale(a))
        np.testing.assert_array_equal(whole[3, :5], three()[3][:, :2])


class Evil:
    def __reduce__(self):
        return print, ("run",)


def set_to(key, rows, value):
    def change(arrays):
        arrays[key][rows] = value

    return change


BROKEN = {
    "train sketch 0 must end": set_to("train_strokes", (1, 2), 0),
    "validation sketch 1 must be finite, and its third column 0 or 1": set_to(
        "valid_strokes", (3, 2), 2
    ),
    "lengths of test must add up.*14 points.*13": set_to("test_lengths", 0, 1),
    "train sketch 0 must have 1 to 250 points. Received: 0": lambda arrays: arrays.update(
        train_lengths=np.int32([0, 2, 3, 4, 5])
    ),
    "train sketch 0 must have 1 to 250 points. Received: 300": lambda arrays: arrays.update(
        train_strokes=np.zeros((300, 3)), train_lengths=np.int32([300])
    ),
    r"train sketch 0 must be numbers \(points, 3\).*\(2, 4\)": lambda arrays: arrays.update(
        train_strokes=np.zeros((14, 4))
    ),
    "must hold train, valid and test": lambda arrays: arrays.pop("valid_lengths"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_malformed_file_is_named(message, tmp_path):
    path = archive(tmp_path / "a.npz", BROKEN[message])
    with pytest.raises(ValueError, match=message):
        data.load(path)


def test_what_is_pickled_is_never_run(tmp_path, capsys):
    with pytest.raises(ValueError, match="print is no array"):
        data.load(quickdraw(tmp_path / "a.npz", Evil()))
    assert capsys.readouterr().out == ""


def test_what_no_sketch_is_is_named():
    model = SketchDecoder(4, units=3, components=1)
    wrong = {
        "sketch 1 has no end": (slice(1, 2), -1, [0, 0, 1, 0, 0]),
        "sketch 0 has no point": (0, 0, ENDS[0, 0]),
        "sketch 2 has a pen state": (2, 0, [0, 0, 1, 1, 0]),
        "sketch 3 has an offset that is not finite": (3, 0, [np.nan, 0, 1, 0, 0]),
    }
    for message, (sketch, row, value) in wrong.items():
        x = sketches()
        x[sketch, row] = value
        for use in (model.fit, model.log_likelihood, model.evaluate):
            with pytest.raises(ValueError, match=message):
                use(x)
    for x in (np.zeros((2, 6, 5), "float32"), np.zeros((2, 4, 4), "float32")):
        with pytest.raises(ValueError, match="sketches of shape.*Received: shape"):
            model.fit(x)


def test_an_lstm_learns_sketches_better_than_none():
    x, _ = data.load("scribbles", "test")
    model = SketchDecoder(x.shape[1] - 1, units=24, components=3, seed=0)
    before = model.log_likelihood(x).mean()
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=20.0))
    model.fit(x, epochs=8, batch_size=25, verbose=0)
    assert model.log_likelihood(x).mean() > before + 15
