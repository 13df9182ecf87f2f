"""Files that any backend loads: configs from signatures, portable optimizers, noise states."""

import contextlib
import contextvars
import functools
import inspect
import math
import pathlib
import random
import warnings

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import global_state

from vae_zoo import files


def restore(value):
    """The object behind its serialised form (a dict with a class name); anything else as it is."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return value


def serialized(value):
    """What `restore` takes: numbers, names and tuples as they are, objects as their config, without
    the optimizer of a model that was trained on its own."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(serialized, value))
    config = keras.saving.serialize_keras_object(value)
    if isinstance(config, dict):
        config.pop("compile_config", None)
    return config


def own_keywords(cls):
    """Names of the keywords that a class's constructor writes out."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def keywords(cls):
    """The same, those of its parents included where it hands `**kwargs` on to them."""
    names = []
    for one in cls.__mro__:
        if one is keras.Model:
            break
        if "__init__" not in vars(one):
            continue
        names += own_keywords(one)
        kinds = {p.kind for p in inspect.signature(one.__init__).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return list(dict.fromkeys(names))


class Settled:
    """What is built from keywords, each kept in an attribute of its name: those that would change
    nothing any more cannot be set anew.

    `adjustable` is a dict, name -> function that raises `ValueError` where a value is wrong: those
    that can. What a class does about a new value it says in `adjusting`.
    """

    adjustable = {}

    def adjusting(self, name, value):
        """Before the attribute `name` gets a new value; `ValueError` refuses it."""

    def __setattr__(self, name, value):
        check = self.adjustable.get(name)
        if check is not None:
            check(value)
        elif name not in _governed(type(self)):
            return super().__setattr__(name, value)
        first = name not in self.__dict__.setdefault("_settled", set())
        if not first and check is None:
            if not _equal(getattr(self, name), value):
                can = ", ".join(sorted(self.adjustable)) or "nothing"
                raise AttributeError(
                    f"`{name}` is fixed when a {type(self).__name__} is built: build another one. "
                    f"Of this one {can} can be set"
                )
            return None
        self.__dict__["_settled"].add(name)
        self.adjusting(name, value)
        super().__setattr__(name, value)


@functools.cache
def _governed(cls):
    """Names of all keywords that a class and its parents write out."""
    own = [one for one in cls.__mro__ if issubclass(one, Settled) and "__init__" in vars(one)]
    return {name for one in own for name in own_keywords(one)} - {"name", "dtype", "trainable"}


def _equal(a, b):
    try:
        return a is b or bool(serialized(a) == serialized(b))
    except (TypeError, ValueError):  # of arrays
        return False


# A size above these is a mistake or an attack, never a wish.
LARGEST = 2**16  # of one layer, by these keywords of a config
SIZES = ("latents", "widths", "groups", "units", "filters", "latent_dim", "hidden", "components")
SIZES += ("shape", "image_shape", "batch_shape", "codes", "code_dim", "num_samples", "levels")
DEEPEST = 256  # layers of one kind
MOST_OF_EXAMPLE = 2**27  # elements of one example
MOST_WEIGHTS = 2**29  # elements of all weights together
MOST_ARRAYS = 2**14  # arrays that these are in
LARGEST_INT = 2**63  # of what is no size, a seed say


def check_sizes(config, key=""):
    """Walks a model's config; raises `ValueError` at a size that no model of the zoo has."""
    if isinstance(config, dict):
        for name, value in config.items():
            check_sizes(value, name)
    elif isinstance(config, (list, tuple)):
        sizes = [value for value in config if isinstance(value, int)]
        shape = key.endswith("shape")
        if len(sizes) > DEEPEST or (shape and math.prod(sizes) > MOST_OF_EXAMPLE):
            shown = files.shown(config[:5])
            raise ValueError(f"{key}={shown} … of {len(config)} is above the limits of sizes")
        for value in config:
            check_sizes(value, key)
    elif isinstance(config, (int, float)):
        limit = DEEPEST if key == "blocks" else LARGEST if key in SIZES else None
        limit = LARGEST_INT if limit is None and isinstance(config, int) else limit
        if limit is not None and config > limit:
            raise ValueError(f"{key}={config} is above the limit of {limit}")


BUDGETED = contextvars.ContextVar("BUDGETED", default=False)


@contextlib.contextmanager
def weight_budget(elements=MOST_WEIGHTS, arrays=MOST_ARRAYS):
    """Context in which layers may ask for no more weights than that, all together: so many elements
    in so many arrays; `ValueError` before the first one too many is made. Inside of another one it
    does nothing.
    """
    if BUDGETED.get():
        yield
        return
    layer, left = keras.layers.Layer, [elements, arrays]
    before = layer.add_weight

    @functools.wraps(before)
    def add_weight(self, shape=None, *args, **kwargs):
        left[0] -= math.prod(shape or ())
        left[1] -= 1
        if min(left) < 0:
            raise ValueError(
                f"its config asks for more weights than the limit of {elements:,} in {arrays:,} "
                "arrays"
            )
        return before(self, shape, *args, **kwargs)

    layer.add_weight, token = add_weight, BUDGETED.set(True)
    try:
        yield
    finally:
        layer.add_weight = before
        BUDGETED.reset(token)


@contextlib.contextmanager
def on_paper():
    """Context in which a model is built without the values of its weights, which cost nothing then;
    global random states stay as they are."""
    states = random.getstate(), np.random.get_state()
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])  # or another scope would
        random.setstate(states[0])
        np.random.set_state(states[1])


# Keywords of files of version 0.1, which knew images only.
OLD_KEYWORDS = {"image_shape": "shape", "grid_shape": "shape", "latent_shape": "shape"}


def translated(config, taken):
    """The config of a file of any version, in the keywords of this one.

    Args:
        config: dict.
        taken: names of the keywords that the class takes.
    """
    new = {}
    for name, value in config.items():
        current = OLD_KEYWORDS.get(name, name)
        new[name if name in taken else current if current in taken else name] = value
    if "image_shape" in config and "shifted" in taken:
        new["shifted"] = True  # finite scalars lay as in their paper then
    if "latent_shape" in config and "latent_shape" not in taken:
        new["trainable"] = False  # of a mixture over latents, whose weights were fixed
    if "condition_levels" in new and "condition" in taken:
        levels, shape = new.pop("condition_levels"), new.pop("condition_shape", ())
        new["condition"] = levels or None
        if levels and shape:
            symbols = {"shape": shape, "levels": levels}
            new["condition"] = {"class_name": "vae_zoo>Symbols", "config": symbols}
            new["condition"] |= {"module": None, "registered_name": "vae_zoo>Symbols"}
    return new


class SavedModel(Settled, keras.Model):
    """A Keras model whose file, written whole or not at all, loads on every backend and holds all
    that training goes on from, noise included.

    Its config is its constructor's keywords, each kept in an attribute of the same name.
    """

    def __new__(cls, *args, **kwargs):
        model = super().__new__(cls, *args, **kwargs)
        model.__dict__["_passed"] = tuple(kwargs)  # what `**kwargs` hands on to a parent
        return model

    def save(self, filepath, overwrite=True, **kwargs):
        """Keras's `save`, but whole or not at all: half a file never replaces a good one."""
        path = pathlib.Path(filepath)
        if path.suffix != ".keras":
            raise ValueError(f"`filepath` must end in .keras. Received: {filepath}")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; pass overwrite=True to replace it.")
        with files.replacing(path) as partial:
            super().save(partial, **kwargs)

    def get_config(self):
        config = super().get_config()
        missing = []
        for name in dict.fromkeys((*own_keywords(type(self)), *self._passed)):
            if name in ("name", "dtype", "trainable"):
                continue
            if hasattr(self, name):
                config[name] = serialized(getattr(self, name))
            else:
                missing.append(name)
        layers = self._parts()
        frozen = [i for i, layer in enumerate(layers) if not layer.trainable]
        if frozen and self.trainable:
            config["frozen"] = {"parts": frozen, "of": len(layers)}
        if missing and type(self).get_config is SavedModel.get_config:
            raise ValueError(
                f"{type(self).__name__} must keep its keyword {missing[0]!r} in the attribute "
                f"self.{missing[0]}, or write get_config"
            )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        taken = keywords(cls)
        check_sizes(config)
        config = translated(config, taken)
        trainable, frozen = config.pop("trainable", True), config.pop("frozen", None)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = restore(config["dtype"])
        with weight_budget():
            model = cls(**config)
        if not trainable:
            model.trainable = False
        elif frozen is not None:
            layers = model._parts()
            if len(layers) != frozen["of"]:
                raise ValueError(f"frozen={frozen} is of a model with other parts")
            for i, layer in enumerate(layers):  # a whole comes before its parts, and sets theirs
                if layer.trainable != (i not in frozen["parts"]):
                    layer.trainable = i not in frozen["parts"]
        return model

    def _parts(self):
        """All layers inside, of which a model built from keywords would know nothing; not those of
        a prior, whose own config says what is frozen."""
        of_prior = getattr(getattr(self, "prior", None), "_flatten_layers", list)()
        left_out = {id(layer) for layer in of_prior}
        layers = self._flatten_layers(include_self=False)
        return [layer for layer in layers if id(layer) not in left_out]

    def get_compile_config(self):
        if not self.compiled:
            return None
        if not self.optimizer.built:  # what is loaded has a built one, whose file must fit it
            self.optimizer.build(self.trainable_variables)
        # How a step is compiled is the business of the backend that runs it, not of the file.
        config = _portable({"optimizer": super().get_compile_config()["optimizer"]})
        variables = [id(v) for v in self.optimizer._trainable_variables]
        if variables and variables != [
            id(v) for v in self.trainable_variables
        ]:  # frozen since, or freed
            places = {id(v): i for i, v in enumerate(self.weights)}
            config["trains"] = [places[v] for v in variables if v in places]
        return config

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(_portable(config)["optimizer"]))
        trained = config.get("trains")
        weights = self.weights
        self.optimizer.build(
            self.trainable_variables if trained is None else [weights[i] for i in trained]
        )

    def _noise_states(self):
        return [v for v in self.variables if v.path.endswith("seed_generator_state")]

    def save_own_variables(self, store):
        super().save_own_variables(store)
        states = [ops.convert_to_numpy(v) for v in self._noise_states()]
        store["noise"] = np.stack(states).astype("int64")  # Keras leaves it out

    def load_own_variables(self, store):
        super().load_own_variables(_Rest(store, "noise"))
        states = self._noise_states()
        noise = np.zeros((0, 2), int)
        if "noise" in store.keys():
            noise = np.asarray(store["noise"])
        if noise.dtype.kind not in "iu" or noise.shape[1:] != (2,):
            received = f"{noise.dtype} {noise.shape}"
            raise ValueError(f"states of noise must be pairs of ints. Received: {received}")
        if len(noise) != len(states):
            warnings.warn(
                f"The file of this {type(self).__name__} holds {len(noise)} states of noise for "
                f"{len(states)}: the others start anew",
                stacklevel=2,
            )
        for variable, state in zip(states, noise):
            variable.assign(state)


class _Rest:
    """A store of arrays without one of them; none is read before it is asked for."""

    def __init__(self, store, name):
        self.store, self.name = store, name

    def keys(self):
        return [key for key in self.store.keys() if key != self.name]

    def __getitem__(self, key):
        return self.store[key]


def _portable(config):
    """A compile config for any backend: PyTorch's own optimizer classes become Keras's."""
    if not isinstance(config, dict):
        return config
    config = {key: _portable(value) for key, value in config.items()}
    module = str(config.get("module"))
    if module.startswith("keras.src.backend.") and ".optimizers." in module:
        config.update(module="keras.optimizers", registered_name=None)
    return config
