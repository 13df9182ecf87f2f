"""`vae-zoo` on the command line, and a recipe with several seeds."""

import csv
import importlib.metadata
import re
import sys

import pytest

from vae_zoo import __main__ as command
from vae_zoo import cli, zoo
from vae_zoo.lab import several


def test_the_list_has_every_entry_with_the_terms_of_its_data_and_every_recipe(capsys):
    command.main(["list"])
    said = capsys.readouterr().out
    for name in zoo.names():
        (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
        assert zoo.card(name)["data_licence"] in line
    for path in command.recipes():
        assert f"\n{path.stem} " in said or f"\n{path.stem.replace('_', '-')} *" in said


@pytest.mark.parametrize(
    "words, said",
    [
        (["trian"], "trian is not a command: classify, .*did you mean train?"),
        (["train", "con_vae"], "con_vae is not a recipe that trains: .*did you mean conv_vae?"),
        (["train", "tune"], "tune is not a recipe that trains: autoencoder, "),
        (["train", "conv_vae", "--epochs", "0"], "conv_vae.py: error: --epochs must be 1 or more"),
        (["fine-tune", "--imges", "x"], "fine_tune.py: error: .*did you mean --images?"),
    ],
)
def test_what_is_typed_wrong_is_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vae-zoo"])
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1
    assert re.search(said.replace("?", r"\?"), lines[0]), lines[0]


def test_the_command_is_installed(capsys):
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="vae-zoo")
    entry.load()(["--version"])
    assert capsys.readouterr().out.strip() == importlib.metadata.version("vae_zoo")


RECIPE = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
seed, output = int(flags["--seed"]), pathlib.Path(flags["--output"])
if seed == 9:
    sys.exit(3)
output.mkdir(parents=True)
numbers = {"elbo": {"value": -100.0 - seed, "unit": "nats"}, "note": {"value": "text"}}
(output / "numbers.json").write_text(json.dumps(numbers | {"flags": {"value": len(flags)}}))
"""


def test_several_seeds_are_one_mean_and_deviation(tmp_path, capsys, monkeypatch):
    script = tmp_path / "recipe.py"
    script.write_text(RECIPE)

    def recipe(epochs=3, seed=0, output="out"):
        raise AssertionError("runs in processes of its own")

    monkeypatch.setattr(cli.inspect, "getfile", lambda function: script)
    words = ["--epochs", "5", "--seeds", "0,2,4", "--seed=7", "--output", str(tmp_path / "runs")]
    numbers = cli.run(recipe, words)
    assert numbers["elbo"]["value"] == -102 and numbers["elbo"]["standard_deviation"] == 2
    assert numbers["flags"]["value"] == 3 and "note" not in numbers
    assert "elbo" in capsys.readouterr().out
    rows = list(csv.reader((tmp_path / "runs" / "seeds.csv").read_text().splitlines()))
    assert rows[1] == ["elbo", "nats", "-100.0", "-102.0", "-104.0", "-102.0", "2.0"]
    assert r"elbo & nats & $-102.0 \pm 2.0$ \\" in (tmp_path / "runs" / "seeds.tex").read_text()
    with pytest.raises(SystemExit) as ended:
        several.over_seeds(script, [], (1, 9), tmp_path / "failing")
    assert ended.value.code == 3
    with pytest.raises(SystemExit):
        cli.run(recipe, ["--seeds", "3"])
    assert "--seeds must be two or more" in capsys.readouterr().err
