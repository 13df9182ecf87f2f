"""ONNX files compute what the model does."""

import numpy as np
import pytest
from families import COLOUR, FAMILIES, conv, images
from test_families import filled

from vae_zoo import export

onnxruntime = pytest.importorskip("onnxruntime")
MODELS = {
    "dense": FAMILIES["dense_gaussian_learned"].make,
    "colour": conv(COLOUR, likelihood="discretized_logistic", blocks=1),
    "autoencoder": FAMILIES["autoencoder_conv"].make,
    "conditional": FAMILIES["conditional_dense"].make,
}


def run(path, *arrays):
    session = onnxruntime.InferenceSession(str(path))
    given, (made,) = session.get_inputs(), session.get_outputs()
    names = [one.name for one in given]
    return names, made.name, session.run(None, dict(zip(names, arrays, strict=True)))[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporters: no user sees them
def test_files_compute_what_the_model_does(name, tmp_path):
    model = filled(MODELS[name](seed=1))
    encoder, decoder = export.to_onnx(model, tmp_path / "onnx")
    for n in (1, 5):  # any number of images
        x = images(n, model.shape, seed=n) / np.float32(255)
        y = () if model.condition is None else (np.int32(np.arange(n) % model.condition.levels),)
        labels = ["label"] * len(y)
        given, made, z = run(encoder, x, *y)
        assert (given, made) == (["image", *labels], "latent")
        np.testing.assert_allclose(z, model.encode(x, *y), atol=1e-4)
        given, made, decoded = run(decoder, z, *y)
        assert (given, made) == (["latent", *labels], "image")
        np.testing.assert_allclose(decoded, model.decode(z, *y), atol=1e-4)
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"encoder.onnx", "decoder.onnx"}


@pytest.mark.parametrize("name, words", [("vq_vae", "float latents"), ("ladder_dense", "one group"),
                                         ("pixel_cnn", "a PixelCNN")])  # fmt: skip
def test_what_has_no_such_latents_is_named(name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export.to_onnx(FAMILIES[name].make(), tmp_path)


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"vae_zoo\[onnx\]"):
        export.to_onnx(FAMILIES["dense_bernoulli"].make(), tmp_path)
