"""What a run says while it trains: one line an epoch, and no more than is worth reading."""

import io
import re
import sys

import keras
import numpy as np
import pytest

from vae_zoo import DenseVAE, runs, schedules
from vae_zoo.lab import console, terms
from vae_zoo.lab.callbacks import EpochLines

LOGS = {"loss": 2.0, "elbo": -171.83, "skipped": 0.0, "val_loss": 171.83, "val_elbo": -171.83}
LOGS |= {"val_kl": 20.2, "val_kl_1": 20.2, "val_reconstruction": 151.63, "val_skipped": 0.0}


def lines(logs, capsys, monitor="val_elbo", epochs=100, steps=11):
    """What is printed of epochs with these logs."""
    callback = EpochLines(monitor)
    callback.set_params({"epochs": epochs, "steps": steps})
    for epoch, own in enumerate(logs):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, own)
    out, err = capsys.readouterr()
    assert err == ""  # no bar where nobody watches
    return [re.sub(r"\d+\.\d s", "0.1 s", line) for line in out.splitlines()]


def test_the_bound_is_followed_by_its_parts(capsys):
    (line,) = lines([LOGS], capsys)
    assert line == "  1/100  0.1 s  val ELBO -171.8  rate 20.20  distortion 151.6"


def test_the_weight_of_the_kl_is_named_while_it_rises_and_skipped_steps_where_there_are(capsys):
    betas = [0.5, 1.0, 1.0]
    logs = [{**LOGS, "beta": beta, "val_beta": 1.0, "skipped": i} for i, beta in enumerate(betas)]
    ends = [line.partition("distortion 151.6")[2] for line in lines(logs, capsys)]
    assert ends == ["  beta 0.5000", "  beta 1.000  skipped 1 steps", "  skipped 2 steps"]


def test_a_line_has_room_for_what_matters_most(capsys):
    more = {f"val_a_term_{i}": float(i) for i in range(9)}
    (line,) = lines([{**more, **LOGS, "skipped": 3.0}], capsys)
    assert 80 < len(line) <= console.WIDTH
    assert "distortion 151.6  a term 0" in line and line.endswith("skipped 3 steps")


@pytest.mark.parametrize(
    "logs, monitor, shown",
    [
        ({"loss": 3.5, "nll": 3.5}, "loss", [("NLL", 3.5)]),
        ({"loss": 1.5, "squared_error": 3.0}, "loss", [("loss", 1.5), ("squared error", 3.0)]),
        ({"loss": 4.0, "elbo": -5.0, "iwae": -4.0, "kl": 1.0}, "iwae",
         [("IWAE bound", -4.0), ("ELBO", -5.0), ("rate", 1.0)]),
        ({"perplexity_top": 7.0, "elbo": -1.0}, "elbo", [("ELBO", -1.0), ("perplexity top", 7.0)]),
    ],
)  # fmt: skip
def test_families_are_shown_by_what_they_have(logs, monitor, shown):
    assert terms.line({f"val_{k}": v for k, v in logs.items()}, f"val_{monitor}") == shown


def test_units_are_those_of_the_terms():
    assert terms.unit("kl_2") == terms.unit("loss") == "nats per example"
    assert terms.unit("perplexity_top") == "codes" and terms.unit("codes_used") != terms.NATS
    assert terms.unit("loss", ["loss", "squared_error"]) == terms.unit("squared_error")


def test_a_bar_counts_the_steps_without_their_logs(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Unread:
        def __getattribute__(self, name):
            raise AssertionError("a step waits for its logs")

    monkeypatch.setattr(sys, "stderr", Terminal())
    callback = EpochLines("val_elbo")
    callback.set_params({"epochs": 2, "steps": 11})
    callback.on_epoch_begin(0)
    for batch in (7, 15):  # as TensorFlow says it, of eight steps an execution
        callback.on_train_batch_end(batch, Unread())
    assert callback.bar.n == callback.bar.total == 11
    callback.on_train_batch_end(3, Unread())  # of a thread that comes late
    assert callback.bar.n == 11
    bar = callback.bar
    callback.close()
    assert bar.disable and sys.stderr.getvalue().endswith("\r")  # its line is free again


def test_a_run_is_a_heading_and_a_line_an_epoch(tmp_path, capsys):
    x = np.zeros((20, 4, 4, 1), np.uint8)
    vae = DenseVAE((4, 4, 1), 2, hidden=(3,), beta=schedules.warm_up(9, 1.0), seed=0)
    vae.compile(keras.optimizers.Adam(1e-3))
    how = {"batch_size": 5, "seed": 0, "patience": 9, "output": tmp_path}
    runs.fit(vae, (x, None), (x, None), epochs=2, title="Trying", **how)
    out, err = capsys.readouterr()
    heading, first, second, *rest = out.split("\n", 1)[1].splitlines()
    assert heading.startswith(f"Trying: DenseVAE, {vae.count_params()} parameters, 2 epochs of 4")
    for number, line in enumerate((first, second), start=1):
        assert re.match(rf"{number}/2  [\d.]+ s  val ELBO -[\d.]+  rate [\d.]+  dist", line)
    assert rest[-1].startswith("Best epoch ") and err == ""


def test_rows_are_aligned_and_as_wide_as_a_page(capsys):
    table = [{"trial": "0", "x": 0.5, "y" * 90: 1}, {"trial": "11", "z": None, "x": 123.456}]
    console.rows(table)
    assert capsys.readouterr().out.splitlines() == [
        "trial       x  z",
        "    0  0.5000  -",
        "   11   123.5  -",
    ]
