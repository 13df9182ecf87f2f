"""What is done to the parts of a model, which its keywords do not tell, is in its file."""

import json

import keras
import numpy as np
import pytest
from families import SHAPE, conv, custom, dense, images, ladder, vq
from keras import ops

import vae_zoo
from vae_zoo import zoo

BACKEND = keras.config.backend()
X = images(8, SHAPE)


def inner(model):
    model.encoder.layers[-1].trainable = False  # one head of it alone


def whole_but_one(model):
    model.decoder.trainable = False
    model.decoder.layers[-2].trainable = True


def several(model):
    for part in (model.encoder, model.codebooks[0], model.likelihood):
        part.trainable = False


def one_group(model):
    model.ladder[1].trainable = False
    model.decoder.trainable = False


CASES = {
    "dense": (dense(), lambda model: setattr(model.encoder, "trainable", False)),
    "dense, one layer": (dense(), inner),
    "dense, the variance": (
        dense(likelihood=lambda: vae_zoo.likelihoods.Gaussian("learned")),
        lambda model: setattr(model.likelihood, "trainable", False),
    ),
    "conv": (conv(blocks=1), whole_but_one),
    "own networks": (custom, inner),
    "codes": (vq(likelihood="laplace"), several),
    "ladder": (ladder(), one_group),
}


def flags(model):
    """By place: names of layers go on counting in one process."""
    return [layer.trainable for layer in model._parts()], [v.trainable for v in model.weights]


def stepped(model):
    """As after steps, without any."""
    model.optimizer.build(model.trainable_variables)
    for i, variable in enumerate(model.optimizer.variables):
        variable.assign(np.full(variable.shape, i + 1))


def trained(model):
    """Places of what its optimizer has slots for."""
    places = {id(v): i for i, v in enumerate(model.weights)}
    return [places[id(v)] for v in model.optimizer._trainable_variables]


@pytest.mark.parametrize("case", CASES)
def test_frozen_parts_are_frozen_in_the_file(case, tmp_path):
    make, freeze = CASES[case]
    model = make(seed=1)
    everything = len(model.trainable_variables)
    freeze(model)
    model.compile("adam")
    assert len(model.trainable_variables) < everything
    stepped(model)
    model.save(tmp_path / "model.keras")
    loaded = vae_zoo.load_model(tmp_path / "model.keras")
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert flags(loaded) == flags(model)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for mine, its in zip(loaded.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(its))


@pytest.mark.parametrize("frozen", [(True, False), (False, True)])
def test_the_optimizer_keeps_its_state_whatever_was_frozen_since(frozen, tmp_path):
    model = dense()(seed=1)
    model.encoder.trainable = frozen[0]
    model.compile("adam")
    stepped(model)
    model.encoder.trainable = frozen[1]
    model.save(tmp_path / "model.keras")
    loaded = vae_zoo.load_model(tmp_path / "model.keras")
    assert flags(loaded) == flags(model)
    assert trained(loaded) == trained(model)
    for mine, its in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(its))


def test_an_untouched_config_says_nothing_of_it():
    assert "frozen" not in dense()().get_config()
    with_prior = dense()().with_prior(vae_zoo.GaussianMixture((2,), 2))
    assert "frozen" not in with_prior.get_config()


def test_a_prior_is_fitted_to_a_frozen_model(tmp_path):
    model = dense()(seed=1)
    model.encoder.trainable = False
    new = model.with_prior(vae_zoo.GaussianMixture((2,), 2))
    assert not new.encoder.trainable and new.decoder.trainable
    new.save(tmp_path / "model.keras")
    assert flags(vae_zoo.load_model(tmp_path / "model.keras")) == flags(new)
    # What is adapted to other images learns as a whole.
    larger, _ = vae_zoo.transfer.adapted(conv(seed=1)(), (9, 7, 1))
    assert all(v.trainable for v in larger.trainable_variables)


def test_flags_of_other_parts_are_refused():
    config = dense()().get_config() | {"frozen": {"parts": [0], "of": 3}}
    with pytest.raises(ValueError, match="is of a model with other parts"):
        vae_zoo.DenseVAE.from_config(config)


EXPORTED = {
    "dense": (dense(likelihood="gaussian"), X),
    "codes": (vq(), X),
    "an entry": (lambda: zoo.load("dense_vae_mnist_2d"), images(3, (28, 28, 1))),
    "labels": (
        lambda: vae_zoo.PixelCNN((4, 3), 3, 4, 1, condition=2),
        (np.int32([[[0, 1, 2]] * 4] * 2), np.int32([0, 1])),
    ),
}


@pytest.mark.filterwarnings("ignore:.*native_serialization:DeprecationWarning")  # of Keras's
@pytest.mark.parametrize("name", EXPORTED if BACKEND == "tensorflow" else ["dense"])
def test_a_model_is_exported_that_was_never_called(name, tmp_path):
    make, x = EXPORTED[name]
    model, path = make(), str(tmp_path / "exported")
    if BACKEND == "torch":
        import torch

        with pytest.raises(ValueError, match='pass format="torch" or "onnx"'):
            model.export(path, verbose=False)
        model.export(f"{path}.pt2", format="torch", verbose=False)
        run = torch.export.load(f"{path}.pt2").module()
        x = x[:1]  # one at a time, as Keras has it
        made = run(torch.from_numpy(x / np.float32(255))).detach().numpy()
    else:
        import tensorflow as tf

        model.export(path, verbose=False)
        loaded = tf.saved_model.load(path)
        made = loaded.serve(x / np.float32(255) if not isinstance(x, tuple) else x).numpy()
    np.testing.assert_allclose(made, ops.convert_to_numpy(model(x)), atol=1e-5)
