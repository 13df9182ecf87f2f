"""What an engine offers works with every optimizer; what compiles once may be called by many."""

import concurrent.futures
import functools

import keras
import numpy as np
import pytest
from families import FAMILIES
from keras import ops

import vae_zoo

BACKEND = keras.config.backend()
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": functools.partial(keras.optimizers.AdamW, weight_decay=0.1),
    "amsgrad": functools.partial(keras.optimizers.Adam, amsgrad=True, global_clipnorm=1.0),
    "sgd": keras.optimizers.SGD,
}


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_that_is_compiled_is_the_same(name):
    """By all of the compiler but the code for the processor, which takes a minute a model."""
    import torch

    results = []
    for compiled in (False, True):
        model = FAMILIES["dense_gaussian_fixed"].make(seed=1)
        optimizer = OPTIMIZERS[name]()
        model.compile(optimizer)
        if compiled:  # the same optimizer once more
            model.compile(optimizer, jit_compile=True)
        variables = [keras.Variable(np.linspace(-1, 1, 6).reshape(2, 3)), keras.Variable([3.0])]
        optimizer.build(variables)
        gradients = [0.5 * v.value.detach() for v in variables]

        def update(gradients, optimizer=optimizer, variables=variables):
            with torch.no_grad():
                optimizer.apply(gradients, variables)

        if compiled:
            update = torch.compile(update, backend="aot_eager")
        for _ in range(2):
            update(gradients)
        results.append([ops.convert_to_numpy(v) for v in variables])
    for mine, its in zip(*results):
        np.testing.assert_allclose(mine, its, rtol=1e-5)


def in_threads(function, count=8):
    """What `function(i)` returns, called by four threads at once."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(function, range(count)))


THREADED = {
    "encode": lambda model, x, i: model.encode(x),
    "decode": lambda model, x, i: model.decode(np.full((5, 2), i / 8, "float32")),
    "log_likelihood": lambda model, x, i: model.log_likelihood(x, num_samples=3),
    "sample": lambda model, x, i: model.sample(4, seed=i, pixels=i % 2 == 0),
    "shapes": lambda model, x, i: model.encode(x[: 1 + i]),
    "call": lambda model, x, i: ops.convert_to_numpy(model(x)),
}


@pytest.mark.parametrize("use", THREADED)
@pytest.mark.parametrize("name", ["dense_gaussian_optimal", "vae_custom"])
def test_several_threads_get_what_one_gets(name, use):
    family = FAMILIES[name]
    model = family.make(seed=1)
    for _ in range(3):  # nothing is compiled when they begin
        model.__dict__.pop("_compiled_functions", None)
        many = in_threads(functools.partial(THREADED[use], model, family.x))
    for i, made in enumerate(many):
        np.testing.assert_allclose(made, THREADED[use](model, family.x, i), rtol=1e-5, atol=1e-6)


def test_models_train_in_threads():
    family = FAMILIES["dense_gaussian_optimal"]

    def trained(i):
        model = vae_zoo.DenseVAE(family.x.shape[1:], 2, (5,), likelihood="gaussian", seed=i)
        model.compile(keras.optimizers.SGD(0.01))
        history = model.fit(family.x, epochs=2, verbose=0).history
        assert history["skipped"] == [0, 0]
        return model.encode(family.x)

    assert np.isfinite(in_threads(trained, 4)).all()
