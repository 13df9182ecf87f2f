"""Properties that every family has, tested over the table in `families.py`.

`losses.json` holds the losses that every backend must reproduce. `python tests/test_families.py`
stores those of new families, and, after a change that is meant to move them, those it is given.
"""

import ast
import functools
import inspect
import json
import pathlib
import re
import sys

import keras
import numpy as np
import pytest
from families import FAMILIES, conv, exempt, images, ladder
from keras import ops
from scipy import stats

import vae_zoo
from vae_zoo import likelihoods, networks, priors, schedules, transfer
from vae_zoo.engine import backend
from vae_zoo.engine.trainable import Trainable
from vae_zoo.models.kinds import BaseVAE, LatentModel

LOSSES = pathlib.Path(__file__).with_name("losses.json")
PACKAGE = pathlib.Path(vae_zoo.__file__).parent

over_families = pytest.mark.parametrize("name", FAMILIES)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def table(shape, distribution="normal", alike=False):
    """Noise that is a function of the index alone: the first rows of many are those of few."""
    if not all(isinstance(n, int) for n in shape):  # TensorFlow, where it has not fixed the batch
        whole = table([n if isinstance(n, int) else 50 for n in shape], distribution)
        return whole[tuple(slice(n) for n in shape)]
    phase = sum(np.sin(k + 1.7) * i for k, i in enumerate(np.indices(shape)))
    uniform = np.modf(np.abs(np.sin(12.9898 * phase + 1.0) * 43758.5453))[0]
    if distribution == "normal":
        uniform = stats.norm.ppf(np.clip(uniform, 1e-3, 1 - 1e-3))
    return ops.convert_to_tensor(uniform.astype("float32"))


@pytest.fixture
def noise_table(monkeypatch):
    monkeypatch.setattr(Trainable, "draw", lambda self, *args, **how: table(*args, **how))


def filled(model):
    """The model, its weights from NumPy: equal on every backend, and none at a special point such
    as the zeros of a new residual block, where others get no gradient."""
    rng = np.random.default_rng(1)
    drawn = [v for v in model.assigned if len(v.shape) > 1]  # a codebook, whatever trains it
    for variable in {id(v): v for v in (*model.trainable_variables, *drawn)}.values():
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def new(name, seed=1, run_eagerly=True):
    model = filled(FAMILIES[name].make(seed=seed))
    model.compile(keras.optimizers.SGD(0.02, global_clipnorm=5.0), run_eagerly=run_eagerly)
    model.optimizer.build(model.trainable_variables)
    return model


@functools.cache
def _cached(name, run_eagerly):
    model = new(name, run_eagerly=run_eagerly)
    return model, state(model)


def fresh(name, run_eagerly=True):
    """A model in its initial state. Building one is slow, and compiling slower, so there is one of
    each kind a family; eager ones share on JAX what is compiled, an operation a shape."""
    model, initial = _cached(name, run_eagerly)
    for variable, value in zip(everything(model), initial):
        variable.assign(value)
    model.reset_metrics()
    return model


def everything(model):
    own = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in own] + model.optimizer.variables


def state(model):
    return [np.array(array(v)) for v in everything(model)]


def objective(model, family, training=False, rows=slice(None)):
    y = model.prepare_labels(None if family.y is None else family.y[rows])
    outputs = model.objective(model.prepare(family.x[rows]), y, training=training)
    return {key: array(outputs[key]) for key in model.tracker.names}


def step(model, family):
    return model.train_on_batch(family.x, family.y, return_dict=True)


# === Objective ===


def test_every_public_family_is_in_the_table():
    public = [getattr(vae_zoo, name) for name in vae_zoo.__all__]
    public = {c for c in public if isinstance(c, type) and issubclass(c, Trainable)}
    assert public == {type(family.make()) for family in FAMILIES.values()}


@over_families
@pytest.mark.parametrize("training", [True, False])
def test_objective_returns_one_finite_float32_number_an_example(name, training):
    model, family = fresh(name), FAMILIES[name]
    y = model.prepare_labels(family.y)
    outputs = model.objective(model.prepare(family.x), y, training=training)
    assert {"loss", *type(model).logged} <= set(model.tracker.names) <= set(outputs)
    for key in model.tracker.names:
        assert outputs[key].shape == (8,), key
        assert keras.backend.standardize_dtype(outputs[key].dtype) == "float32", key
        assert np.isfinite(array(outputs[key])).all(), key
    if isinstance(model, BaseVAE):
        assert {"reconstruction", "kl", "elbo"} <= set(outputs), "every BaseVAE returns these"
        elbo = -array(outputs["reconstruction"] + outputs["kl"])
        np.testing.assert_allclose(array(outputs["elbo"]), elbo, rtol=1e-5)
        if not training:
            message = "with training=False the loss is -elbo"
            np.testing.assert_allclose(array(outputs["loss"]), -elbo, rtol=1e-5, err_msg=message)


@over_families
def test_no_number_depends_on_the_other_examples(name, noise_table):
    model, family = fresh(name), FAMILIES[name]
    whole, part = objective(model, family), objective(model, family, rows=slice(3))
    for key in whole:
        # Batches of other sizes are summed in another order: 1e-5 of a nat or of the number.
        np.testing.assert_allclose(part[key], whole[key][:3], rtol=1e-5, atol=1e-5, err_msg=key)


@over_families
def test_no_example_depends_on_those_decoded_beside_it(name):
    """As by batch statistics in a decoder, which tell of the test images."""
    model, family = fresh(name, run_eagerly=False), FAMILIES[name]
    if isinstance(model, LatentModel):
        z = model.encode(family.x, family.y)
        some = keras.tree.map_structure(lambda z: np.concatenate([z[:3]] * 2), z)
        y = None if family.y is None else np.concatenate([family.y[:3]] * 2)
        whole, part = model.decode(z, family.y), model.decode(some, y)
    else:
        whole = model.log_likelihood(family.x, family.y, seed=3)
        y = None if family.y is None else family.y[:3]
        part = model.log_likelihood(family.x[:3], y, seed=3)
    np.testing.assert_allclose(part[:3], whole[:3], rtol=1e-4, atol=1e-6)


@over_families
def test_every_trainable_weight_gets_a_gradient(name, noise_table):
    model, family = fresh(name), FAMILIES[name]
    x, y = model.prepare(family.x), model.prepare_labels(family.y)

    def loss():
        outputs = model.objective(x, y, training=True)
        return ops.mean(outputs["loss"]), {"loss": outputs["loss"]}

    variables = model.trainable_variables
    others = [*model.non_trainable_variables, *model.optimizer.variables]
    _, gradients = backend.value_and_gradients(loss, (), variables, others)
    norms = {v.path: float(np.linalg.norm(array(g))) for v, g in zip(variables, gradients)}
    assert all(np.isfinite(norm) and norm > 1e-6 for norm in norms.values()), norms


def losses(name):
    """What `losses.json` holds; needs `noise_table`, and dropout, Keras's own noise, off."""
    model, family = new(name), FAMILIES[name]
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    numbers = [objective(model, family, training)["loss"].mean() for training in (True, False)]
    for _ in range(3):
        logs = step(model, family)
    numbers += [logs["loss"], objective(model, family)["loss"].mean()]
    return dict(zip(("training", "evaluation", "mean_of_3_steps", "after"), map(float, numbers)))


@over_families
def test_losses_are_the_same_on_every_backend(name, noise_table):
    stored = json.loads(LOSSES.read_text())
    assert set(stored) == set(FAMILIES), "run python tests/test_families.py"
    # How far three steps lower the loss is what depends on the gradients: in the number itself
    # it could drown.
    result, expected = losses(name), stored[name]
    assert result == pytest.approx(expected, rel=1e-4)
    fall = [numbers["evaluation"] - numbers["after"] for numbers in (result, expected)]
    assert abs(fall[1]) > 1e-4 * expected["after"]
    assert fall[0] == pytest.approx(fall[1], rel=1e-2)


# === Configuration and files ===


@over_families
def test_a_config_through_json_is_the_same_model(name, noise_table):
    model, family = fresh(name), FAMILIES[name]
    text = json.dumps(model.get_config())
    keywords = set(inspect.signature(type(model)).parameters) - {"kwargs"}
    assert keywords | {"seed", "skip_threshold"} <= set(json.loads(text))
    copy = type(model).from_config(json.loads(text))
    assert json.dumps(copy.get_config()) == text
    assert len(copy.variables) == len(model.variables)
    for mine, its in zip(copy.variables, model.variables):
        mine.assign(its)
    copy.compile("sgd")
    copy.optimizer.iterations.assign(model.optimizer.iterations)
    for training in (True, False):
        result, expected = (objective(m, family, training) for m in (copy, model))
        for key, value in expected.items():
            np.testing.assert_allclose(result[key], value, rtol=1e-6, err_msg=key)


@over_families
def test_a_file_is_the_same_model(name, noise_table, tmp_path):
    model, family = fresh(name), FAMILIES[name]
    step(model, family)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    for mine, its in zip(everything(loaded), everything(model), strict=True):
        np.testing.assert_array_equal(array(mine), array(its), err_msg=its.path)
    expected = objective(model, family)
    for key, value in objective(loaded, family).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-6, err_msg=key)
    inputs = family.x if family.y is None else (family.x, family.y)
    np.testing.assert_allclose(array(loaded(inputs)), array(model(inputs)), atol=1e-6)


# === Training and evaluating ===


@over_families
def test_evaluate_changes_nothing_and_repeats_itself(name):
    model, family = fresh(name, run_eagerly=False), FAMILIES[name]
    before = state(model)
    first = model.evaluate(family.x, family.y, 8, verbose=0, return_dict=True)
    others = {name for metric in model.metrics[1:] for name in metric.result()}
    assert set(first) == set(model.tracker.names) | others
    again = model.evaluate(family.x, family.y, 8, verbose=0, return_dict=True)
    assert first == again
    for variable, old, now in zip(everything(model), before, state(model)):
        np.testing.assert_array_equal(now, old, err_msg=variable.path)


@over_families
def test_fit_changes_every_weight_and_the_loss_falls(name):
    model, family = fresh(name, run_eagerly=False), FAMILIES[name]
    before = [np.array(array(v)) for v in model.trainable_variables]
    repeated = [a if a is None else np.concatenate([a] * 15) for a in (family.x, family.y)]

    def loss():
        return model.evaluate(family.x, family.y, 8, verbose=0, return_dict=True)["loss"]

    first = loss()
    history = model.fit(*repeated, batch_size=8, shuffle=False, verbose=0).history
    assert loss() < first - 0.003 * abs(first)
    assert np.isfinite(history["loss"][0])
    assert history.get("skipped", [0]) == [0]  # where there are steps that could be skipped
    for variable, old in zip(model.trainable_variables, before):
        assert not np.array_equal(array(variable), old), variable.path


@over_families
def test_eager_is_compiled(name):
    eager, compiled, family = fresh(name), fresh(name, run_eagerly=False), FAMILIES[name]
    # By `fit`, which compiled it before: `train_on_batch` would compile it once more.
    data = {"x": family.x, "y": family.y, "batch_size": 8, "shuffle": False, "verbose": 0}
    logs, expected = (
        {key: value[0] for key, value in model.fit(**data).history.items()}
        for model in (compiled, eager)
    )
    assert logs == pytest.approx(expected, rel=1e-4)
    for variable, a, b in zip(everything(eager), state(eager), state(compiled)):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5, err_msg=variable.path)


@over_families
def test_equal_seeds_give_equal_numbers_and_others_others(name):
    family = FAMILIES[name]
    a, b, c = (
        [objective(model, family, training=True)["loss"] for _ in range(2)]
        for model in (new(name, seed) for seed in (1, 1, 2))
    )
    np.testing.assert_array_equal(a, b)
    if family.noisy and isinstance(fresh(name), BaseVAE):
        assert np.isclose(a, c).mean() < 0.3
        assert np.isclose(a[0], a[1]).mean() < 0.3  # each step has noise of its own


SIZES = [(28, 20), (33, 47)]
TOWERS = {
    "flat": conv,
    "grid": functools.partial(conv, latent_grid=True, likelihood="gaussian"),
    "autoencoder": functools.partial(conv, cls=vae_zoo.Autoencoder, network="conv"),
    "ladder": lambda shape, filters: ladder(shape, network="conv"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tower", TOWERS)
def test_convolutional_networks_take_any_size(tower, size):
    shape = (*size, 1)
    model = TOWERS[tower](shape, filters=(2, 2))()
    model.compile(keras.optimizers.SGD(1e-5))
    x = images(2, shape)
    logs = model.train_on_batch(x, return_dict=True)
    assert np.isfinite(logs["loss"]) and logs["skipped"] == 0
    assert model.decode(model.encode(x)).shape == x.shape
    grid = (-(-size[0] // 4), -(-size[1] // 4), 2)
    ladder_of_two = grid, (-(-size[0] // 2), -(-size[1] // 2), 3)
    assert model.latent_shape == {"grid": grid, "ladder": ladder_of_two}.get(tower, (2,))
    if tower != "autoencoder":
        assert model.sample(2, seed=1).shape == x.shape


# === Errors ===


@over_families
def test_wrong_images_are_named(name):
    model, family = fresh(name), FAMILIES[name]
    if not isinstance(model, LatentModel):  # takes symbols: see its own tests
        return
    if why := exempt(model, "wrong_images"):
        pytest.skip(why)
    wrong = {
        rf"shape=\(8, 7, 6, {family.x.shape[-1]}\)": family.x[:, 1:],
        r"shape=\(8, 6, \d\)|shape=\(8, 8, 6\)": family.x[..., 0],
        "dtype=int32": family.x.astype("int32"),
    }
    for message, x in wrong.items():
        for use in (model.fit, model.evaluate, model.encode, model):
            with pytest.raises(ValueError, match=message):
                use(x)
    for x, message in ((family.x / 1.0, r"\[0, 255\]"), (family.x / -255, r"\[-1, -?0\]")):
        for use in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=message):
                use(x)
    with pytest.raises(ValueError, match=r"shape=\(3, 5\)"):
        model.decode(np.zeros((3, 5)))


WRONG = {
    "latent_dim=0": lambda: vae_zoo.DenseVAE((8, 6, 1), latent_dim=0),
    r"hidden=\(5, -1\)": lambda: vae_zoo.DenseVAE((8, 6, 1), hidden=(5, -1)),
    "hidden=300": lambda: vae_zoo.DenseVAE((8, 6, 1), hidden=300),
    r"filters=\(\)": lambda: vae_zoo.ConvVAE((8, 6, 1), filters=()),
    "blocks=-1": lambda: vae_zoo.ConvVAE((8, 6, 1), blocks=-1),
    "free_bits=nan": lambda: vae_zoo.DenseVAE((8, 6, 1), free_bits=float("nan")),
    "units=True": lambda: vae_zoo.ConvVAE((8, 6, 1), units=True),
    r"filters=\(4, 2.5\)": lambda: vae_zoo.ConvVAE((8, 6, 1), filters=(4, 2.5)),
    r"shape=\(8, 6\)": lambda: vae_zoo.ConvVAE((8, 6)),
    "beta=-1": lambda: vae_zoo.DenseVAE((8, 6, 1), beta=-1),
    "beta=nan": lambda: vae_zoo.DenseVAE((8, 6, 1), beta=float("nan")),
    "free_bits=-0.1": lambda: vae_zoo.DenseVAE((8, 6, 1), free_bits=-0.1),
    "num_samples`.*Received: 0": lambda: vae_zoo.DenseVAE((8, 6, 1), num_samples=0),
    "likelihood='normal'": lambda: vae_zoo.DenseVAE((8, 6, 1), likelihood="normal"),
    "skip_threshold`.*Received: 0": lambda: vae_zoo.DenseVAE((8, 6, 1), skip_threshold=0),
    "`prior` must have.*Received: 3": lambda: vae_zoo.DenseVAE((8, 6, 1), prior=3),
    "network='convolutional'": lambda: vae_zoo.Autoencoder(network="convolutional"),
    r"`decoder` must return \(batch, \*\(8, 6, 15\)\).*Received: \(None, 8, 6, 1\)": lambda: (
        vae_zoo.VAE(
            networks.mlp_encoder((8, 6, 1), 2, (3,), "relu"),
            networks.mlp_decoder(2, (8, 6, 1), 1, (3,), "relu"),
            "discretized_logistic",
        )
    ),
    "`variance`.*Received: 'optimum'": lambda: likelihoods.Gaussian("optimum"),
    "`variance`.*Received: -1.0": lambda: likelihoods.Gaussian(-1.0),
    "`scale`.*Received: 0": lambda: likelihoods.Laplace(0),
    "components=0": lambda: likelihoods.DiscretizedLogistic(0),
    "period=0": lambda: schedules.Cyclical(0),
    "ratio=1.5": lambda: schedules.Cyclical(5, ratio=1.5),
    "width=0": lambda: schedules.Sigmoid(5, width=0),
    "num_samples`.*Received: -1": lambda: (
        FAMILIES["dense_bernoulli"]
        .make()
        .log_likelihood(FAMILIES["dense_bernoulli"].x, num_samples=-1)
    ),
    "empty": lambda: FAMILIES["dense_bernoulli"].make().encode(images(0, (8, 6, 1))),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_settings_are_named(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


# === Structure ===

# What a family may define although Keras does: where Keras means it to.
OVERRIDES = {
    *("call", "build", "compute_output_shape", "get_config", "from_config"),
    *(
        "train_step",
        "test_step",
        "predict_step",
        "train_on_batch",
        "test_on_batch",
        "predict_on_batch",
        "export",
        "metrics",
        "get_metrics_result",
        "compile",
        "fit",
        "evaluate",
        "predict",
        "save",
    ),
    *(
        "_flatten_metrics_in_order",
        "_maybe_symbolic_build",  # TensorFlow's
        "get_compile_config",
        "compile_from_config",
        "save_own_variables",
        "load_own_variables",
    ),
}


def _classes():
    classes = {c for family in FAMILIES.values() for c in type(family.make()).__mro__}
    for module in (vae_zoo.layers, likelihoods, priors, transfer):
        classes |= {c for c in vars(module).values() if isinstance(c, type)}
    return {c for c in classes if c.__module__.startswith("vae_zoo.")}


def test_a_model_without_a_seed_follows_the_global_one():
    states = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        states.append(array(vae_zoo.DenseVAE((8, 6, 1), 2, (4,)).noise.state).tolist())
    assert states[0] == states[1] != states[2]


def test_no_name_of_keras_or_torch_is_reused():
    # On PyTorch a Keras model is a torch.nn.Module, so that run forbids torch's names too.
    taken = set(dir(keras.Model)) - OVERRIDES
    classes = _classes()
    assert {Trainable, vae_zoo.VAE, likelihoods.Gaussian, vae_zoo.layers.PixelShuffle} <= (classes)
    for cls in classes:
        own = {name for name in vars(cls) if not name.startswith("__")}
        assert not own & taken, cls
    for name, family in FAMILIES.items():
        model = family.make()
        plain = vars(keras.Model(name="plain"))
        own = {key for key in set(vars(model)) - set(plain) if not key.startswith("_")}
        assert not own & taken, name


LEVELS = (  # a wing, or a file at the top, imports only from levels above its own and from itself
    {"files", "quiet"},
    {"engine", "archives"},
    {"parts"},
    {"data", "models"},
    {"zoo", "lab"},
    {"cli"},
    {"__init__"},
    {"__main__"},
)
# In the engine and the laboratory, whose files stand on each other: the same.
ROOMS = {
    "engine": (
        {"__init__"},
        {"replicas", "recording", "private", "saving", "watch"},
        {"noise", "backend", "adam", "tracking"},
        {"batches", "checks", "distribute", "functions", "interrupts"},
        {"fitting"},
        {"trainable"},
    ),
    "lab": (
        {"__init__"},
        {
            "metrics",
            "svg",
            "disentanglement",
            "canvas",
            "checkpoint",
            "transfer",
            "export",
            "console",
            "terms",
            "several",
            "spaces",
            "gradients",
        },
        {"operators", "shrinkage"},
        {"charts", "planes", "curves", "clouds", "chains", "callbacks", "measure", "restoration"},
        {"plots", "evaluate", "descent", "factor_numbers"},
        {"pictures", "factor_pictures"},
        {"output"},
        {"runs"},
        {"tuning"},
    ),
}


def _imports(path):
    """Names of the modules a file imports, with what comes from the package itself in full."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: a relative import"
            inner = node.module in ("vae_zoo", "vae_zoo.models")
            yield from (f"{node.module}.{a.name}" if inner else node.module for a in node.names)


def test_imports_form_the_dag_of_the_design():
    level = {module: i for i, modules in enumerate(LEVELS) for module in modules}
    for path in PACKAGE.rglob("*.py"):
        wing, *room = path.relative_to(PACKAGE).with_suffix("").parts
        imported = set(_imports(path))
        inner = {tuple(i.split(".")[1:]) for i in imported if i.startswith("vae_zoo.")}
        for other in inner:
            same = other[0] == wing
            assert same or level[other[0]] < level[wing] or (wing, other[0]) == ("lab", "zoo"), (
                f"{path} imports {other}"
            )
            if same and wing in ROOMS and len(other) > 1:
                rank = {name: i for i, names in enumerate(ROOMS[wing]) for name in names}
                assert other[1] not in rank or rank[other[1]] <= rank[room[0]], (
                    f"{path} imports {other}"
                )
        if wing == "models" and room != ["__init__"]:
            parents = {i for i in inner if i[0] == "models"} - {("models", "kinds")}
            assert len({i[1] for i in parents if i[1] != "kinds"}) <= 1, f"{path}: {parents}"
        engines = {i.split(".")[0] for i in imported} & {"tensorflow", "torch", "jax"}
        assert not engines or wing == "engine", f"{path} imports {engines}"


def test_rooms_are_small():
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    large = {str(p.relative_to(PACKAGE)): n for p, n in lines.items() if n > 400}
    large |= {p.name: n for p, n in lines.items() if p.parent.name == "models" and n > 300}
    large.pop("kinds.py")  # of all families
    assert not large, large


def test_nobody_feels_for_what_a_model_is():
    """Kinds and domains say it: a model's own attributes are not asked for what it could be."""
    feeling = re.compile(
        r"latent_dtype|isinstance\([\w.]*latent_shape|(has|get)attr\((self\.)?model,|noqa: E731"
    )
    found = {
        f"{path.relative_to(PACKAGE)}:{number}": line.strip()
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if feeling.search(line)
    }
    assert not found, found


if __name__ == "__main__":
    Trainable.draw = lambda self, *args, **how: table(*args, **how)
    stored = json.loads(LOSSES.read_text())
    chosen = sys.argv[1:] or [name for name in FAMILIES if name not in stored]
    stored |= {name: losses(name) for name in chosen}
    LOSSES.write_text(json.dumps({name: stored[name] for name in FAMILIES}, indent=1) + "\n")
    sys.stdout.write(f"Stored in {LOSSES.name}, on {keras.backend.backend()}: {chosen}\n")
