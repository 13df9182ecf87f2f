"""Files that version 0.1 wrote, compiled, of every family: they load, and training goes on as it
would have gone on there. `numbers.json` beside them was written with them, on PyTorch."""

import json
import pathlib

import keras
import numpy as np
import pytest
from families import FAMILIES
from test_families import array, objective, step, table

from vae_zoo import load_model

FOLDER = pathlib.Path(__file__).with_name("files_of_0_1")
NUMBERS = json.loads((FOLDER / "numbers.json").read_text())


@pytest.fixture
def noise_table(monkeypatch):
    from vae_zoo.kinds import Trainable

    monkeypatch.setattr(Trainable, "draw", lambda self, *args, **how: table(*args, **how))


@pytest.mark.filterwarnings("ignore:.*states of noise")  # which some kept otherwise
@pytest.mark.parametrize("name", NUMBERS)
def test_a_file_of_before_goes_on_as_before(name, noise_table):
    expected, family = NUMBERS[name], FAMILIES[name]
    model = keras.models.load_model(FOLDER / f"{name}.keras")
    assert type(model) is type(family.make())
    np.testing.assert_allclose(objective(model, family)["loss"], expected["loss"], rtol=1e-4)
    inputs = family.x if model.condition is None else (family.x, family.y)
    output = np.abs(array(model(inputs))).mean()
    assert output == pytest.approx(expected["output"], rel=1e-4)
    model.run_eagerly = True  # compiling for two steps is slow
    losses = [float(step(model, family)["loss"]) for _ in range(2)]
    assert losses == pytest.approx(expected["next_steps"], rel=2e-4)
    after = objective(model, family)["loss"].mean()
    assert after == pytest.approx(expected["after"], rel=2e-4)


def test_all_families_of_then_are_there():
    assert set(NUMBERS) <= set(FAMILIES)
    again = load_model(FOLDER / "pixel_cnn_grid.keras")  # whose condition has another form now
    assert again.condition.shape == (2, 1) and again.condition.levels == 3
