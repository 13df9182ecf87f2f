"""The command line: what is read, what is refused and how, and what is left on the disk."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vae_zoo import cli


def recipe(
    dataset="digits",
    epochs=60,
    hidden=(300, 300),
    betas=(1.0, 4),
    beta=1.0,
    mixed_precision=False,
    shuffle=True,
    checkpoint=None,
    latent_grid: int = None,
    clip: float | None = None,
    rate: float = 1,
    widths: tuple[int, ...] = None,
    offsets=(0, 1),
    shift=1.0,
):
    """Train a model on 100% of
    a data set.

    A second paragraph.

    Args:
        dataset: name of the
            data set (5% are enough).
        epochs: int, passes over the data.

    Returns:
        nothing: of interest.
    """
    return {name: value for name, value in locals().items() if value is not None}


def given(*argv):
    """The settings of `recipe` that differ from its defaults, in type or in value."""
    return {
        k: v for k, v in cli.run(recipe, list(argv)).items() if repr(v) != repr(DEFAULTS.get(k))
    }


DEFAULTS = recipe()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--dataset", "mnist"], {"dataset": "mnist"}),
        (["--epochs", "5"], {"epochs": 5}),
        (["--epochs=5", "--epochs=6"], {"epochs": 6}),
        (["--hidden", "512,256,3"], {"hidden": (512, 256, 3)}),
        (["--hidden", "512"], {"hidden": (512,)}),
        (["--hidden", ""], {"hidden": ()}),
        (["--offsets", "-1,2"], {"offsets": (-1, 2)}),
        (["--betas", "2,1e-1"], {"betas": (2.0, 0.1)}),
        (["--beta", "4"], {"beta": 4.0}),
        (["--shift", "-1e-3"], {"shift": -0.001}),
        (["--mixed-precision", "--no-shuffle"], {"mixed_precision": True, "shuffle": False}),
        (["--checkpoint", "3"], {"checkpoint": "3"}),
        (["--latent-grid", "20"], {"latent_grid": 20}),
        (["--clip", "20"], {"clip": 20.0}),
        (["--rate", "2"], {"rate": 2.0}),
        (["--widths", "2,3"], {"widths": (2, 3)}),
    ],
)
def test_flags_are_read_as_the_types_of_the_defaults(argv, expected):
    assert repr(given(*argv)) == repr(expected)  # repr: 4 is not 4.0


def failure(capsys, function, argv=()):
    """The one line that a failing run leaves on stderr; its exit status must be 2."""
    with pytest.raises(SystemExit) as end:
        cli.run(function, list(argv))
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1
    assert err.startswith("test_cli.py: error: ")
    return err.removeprefix("test_cli.py: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--foo"], ["unrecognized arguments: --foo"]),
        (["--epoch", "5"], ["unrecognized arguments: --epoch 5", "did you mean --epochs?"]),
        (["--mixed_precision"], ["did you mean --mixed-precision?"]),
        (["--dateset=mnist"], ["did you mean --dataset?"]),
        (["--a\nb"], ["unrecognized arguments: --a b"]),
        (["stray"], ["unrecognized arguments: stray"]),
        (["--epochs", "3.5"], ["--epochs", "whole number", "'3.5'"]),
        (["--epochs"], ["--epochs", "expected one argument"]),
        (["--hidden", "300,,3"], ["--hidden", "whole number"]),
        (["--beta", "abc"], ["--beta", "finite number", "'abc'"]),
        (["--beta", "nan"], ["--beta", "finite number", "'nan'"]),
        (["--clip", "inf"], ["--clip", "finite number", "'inf'"]),
        (["--latent-grid", "2.0"], ["--latent-grid", "whole number"]),
        (["--mixed-precision=maybe"], ["--mixed-precision", "maybe"]),
    ],
)
def test_wrong_arguments_end_in_one_line(capsys, argv, words):
    line = failure(capsys, recipe, argv)
    for word in words:
        assert word in line
    assert ("did you mean" in line) == any("did you mean" in word for word in words)


def test_help_shows_the_docstring_and_the_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        cli.run(recipe, ["--help"])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and err == ""
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "Train a model on 100% of a data set." in lines
    assert "--dataset STR name of the data set (5% are enough). (default: digits)" in lines
    assert "--epochs INT int, passes over the data. (default: 60)" in lines
    assert "--hidden INT,INT,... (default: 300,300)" in lines
    assert "--mixed-precision, --no-mixed-precision" in out
    assert "second paragraph" not in out and "of interest" not in out


def test_a_parameter_without_a_default_is_given_by_its_place(capsys):
    def tune(checkpoint, seed: int, lambda_=1.0):
        return checkpoint, seed, lambda_

    assert cli.run(tune, ["a", "3", "--lambda", "2"]) == ("a", 3, 2.0)
    assert cli.run(tune, ["--lambda", "2", "a", "3"]) == ("a", 3, 2.0)
    assert "seed" in failure(capsys, tune, ["a"])
    assert "whole number" in failure(capsys, tune, ["a", "b"])


def test_the_command_that_made_a_run_is_told_without_its_places(monkeypatch):
    arguments = [
        "--epochs",
        "3",
        "--output",
        "there",
        "--resume",
        "--output=x y",
        "--dataset",
        "a b",
    ]
    monkeypatch.setattr(sys, "argv", ["/some/where/recipes/conv_vae.py", *arguments])
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    told = "KERAS_BACKEND=jax python recipes/conv_vae.py --epochs 3 --dataset 'a b'"
    assert cli.command() == told


def test_a_block_of_a_text_file_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- t -->\nold\n<!-- /t -->\nb\n")
    for _ in range(2):  # the second time changes nothing
        cli.replace_block(page, "t", "| new |")
        assert page.read_text() == "a\n<!-- t -->\n| new |\n<!-- /t -->\nb\n"
    with pytest.raises(ValueError, match="README.md must have <!-- u -->"):
        cli.replace_block(page, "u", "")


def test_a_default_that_no_flag_can_express_is_refused():
    def schedule(beta=len):
        return beta

    with pytest.raises(ValueError, match="`beta`.*Received: beta=<built-in"):
        cli.run(schedule, [])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("`epochs` must be\n   positive.\n\nReceived: 0"),
            "`epochs` must be positive. Re",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.npz"),
            "No such file or directory: a.n",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("unable to write\ndata"), "unable to write data"),
        (ImportError("install tensorflow"), "install tensorflow"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_the_user_can_mend_ends_in_one_line(capsys, monkeypatch, error, line):
    monkeypatch.delenv("VAE_ZOO_TRACEBACK", raising=False)

    def fails():
        raise error

    assert failure(capsys, fails).startswith(line)
    monkeypatch.setenv("VAE_ZOO_TRACEBACK", "1")
    with pytest.raises(type(error)):
        cli.run(fails, [])


def test_only_an_error_from_elsewhere_mentions_the_traceback(capsys):
    def ours():
        raise ValueError("`epochs` must be positive")

    def elsewhere():
        json.loads("{")

    assert failure(capsys, ours) == "`epochs` must be positive"
    assert failure(capsys, elsewhere).endswith("(VAE_ZOO_TRACEBACK=1 shows where)")


def test_a_mistake_in_the_code_keeps_its_traceback():
    def wrong():
        return {}["absent"]

    with pytest.raises(KeyError):
        cli.run(wrong, [])


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path.append({folder!r})
from cli import run
def conv_vae(seconds=0):
    print("started", flush=True)
    time.sleep(seconds)
    open("absent.npz")
run(conv_vae)
"""


@pytest.fixture
def script(tmp_path):
    """A recipe as a process; `cli` is imported alone, since the package may import Keras."""
    path = tmp_path / "conv_vae.py"
    path.write_text(SCRIPT.format(folder=str(Path(cli.__file__).parent)))
    environment = {k: v for k, v in os.environ.items() if k != "VAE_ZOO_TRACEBACK"}

    def start(*argv):
        return subprocess.Popen(
            [sys.executable, str(path), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    return start


def test_the_process_says_one_line_and_its_status(script):
    with script("--secnds", "1") as unknown, script() as missing:
        assert unknown.communicate(timeout=300) == (
            "",
            "conv_vae.py: error: unrecognized arguments: --secnds 1 (did you mean --seconds?)\n",
        )
        assert missing.communicate(timeout=300) == (
            "started\n",
            "conv_vae.py: error: No such file or directory: absent.npz\n",
        )
    assert unknown.returncode == missing.returncode == 2


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_one_word_and_a_status(script, number, status):
    with script("--seconds", "600") as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        assert process.communicate(timeout=300)[1] == "interrupted\n"
    assert process.returncode == status


def test_what_can_be_resumed_says_how_to_go_on(capsys):
    def recipe(resume=False):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit:
        cli.run(recipe, [])
    how = "the same command with --resume goes on after the last epoch"
    assert exit.value.code == 143 and capsys.readouterr().err == f"interrupted: {how}\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "error, line",
    [
        (RuntimeError("The last 50 updates were all skipped"), "RuntimeError: The last 50"),
        (zipfile.BadZipFile("File is not a zip file"), "BadZipFile: File is not"),
        (MemoryError(), "MemoryError: (VAE_ZOO"),
        (RecursionError("maximum recursion depth"), "RecursionError: maximum"),
        (EOFError("Ran out of input\nof a file"), "EOFError: Ran out of input of a file (VAE"),
    ],
)
def test_what_is_no_mistake_in_the_code_is_one_line(capsys, error, line):
    def raises():
        exec("raise error", {"error": error})  # from elsewhere

    assert failure(capsys, raises).startswith(line)


# === The table ===


def test_the_table_is_aligned_and_rounded(capsys):
    cli.table(
        {
            "elbo": {
                "value": np.float32(-101.2345),
                "unit": "nats",
                "standard_error": 0.2512,
                "protocol": "test set, " * 12 + "once",
            },
            "active_units": {"value": np.int64(12), "unit": "of 20"},
            "bits_per_dim": {"value": 3.14159, "unit": "bits", "standard_error": None},
        },
        [("runs/a/card.json", "the numbers"), ("runs/a/samples.png", "drawn from the prior")],
    )
    lines = capsys.readouterr().out.splitlines()
    numbers, files = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert numbers[0].startswith("elbo          -101.23 ± 0.25  nats   test set, test set")
    assert " ".join(" ".join(line.split()) for line in numbers).count("test set,") == 12
    assert numbers[-2] == "active_units       12         of 20"
    assert numbers[-1] == "bits_per_dim    3.142         bits"
    assert max(map(len, lines)) <= 100
    assert files == [
        "runs/a/card.json    the numbers",
        "runs/a/samples.png  drawn from the prior",
    ]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-101.2345, None, "-101.2"),
        (123456.78, None, "123457"),
        (0.000123456, None, "0.0001235"),
        (0.0, None, "0"),
        (float("nan"), None, "nan"),
        (float("inf"), 1.0, "inf ± 1.0"),
        (-101.2345, 12.34, "-101 ± 12"),
        (0.98765, 0.00123, "0.9877 ± 0.0012"),
        (2.5, 0.0, "2.500 ± 0"),
        (2.5, float("nan"), "2.500 ± nan"),
        (7, None, "7"),
        (7, 0.25, "7.00 ± 0.25"),
        (None, None, "-"),
        ("exact", None, "exact"),
    ],
)
def test_a_number_has_the_digits_that_mean_something(capsys, value, error, text):
    cli.table({"x": {"value": value, "unit": "nats", "standard_error": error}})
    assert capsys.readouterr().out == f"x  {text}  nats\n"


def test_the_table_of_files_alone(capsys):
    cli.table({}, [(Path("a.png"), "samples")])
    assert capsys.readouterr().out == "a.png  samples\n"


# === Files ===


def test_json_keeps_order_and_makes_numbers_plain(tmp_path):
    content = {
        "z": np.float32(0.5),
        "a": np.arange(3),
        "flag": np.bool_(True),
        "path": tmp_path / "x",
        "text": "log p(x|z) − KL",
        "nested": {"n": np.int64(3), "rows": [np.zeros((1, 2))]},
    }
    path = tmp_path / "new" / "folder" / "card.json"
    cli.write_json(path, content)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {
        "z": 0.5,
        "a": [0, 1, 2],
        "flag": True,
        "path": str(tmp_path / "x"),
        "text": "log p(x|z) − KL",
        "nested": {"n": 3, "rows": [[[0.0, 0.0]]]},
    }
    assert text.startswith('{\n  "z": 0.5,\n  "a": [') and text.endswith("}\n") and "−" in text


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    cli.write_json(path, {"elbo": 1})
    with pytest.raises(TypeError, match="object"):
        cli.write_json(path, {"elbo": 2, "model": object()})
    assert json.loads(path.read_text()) == {"elbo": 1}

    def full_disk(self, content):
        with open(self, "wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space") as caught:
        cli.write_json(path, {"elbo": 3})
    assert caught.value.filename == str(path)
    assert json.loads(path.read_text()) == {"elbo": 1}
    assert os.listdir(tmp_path) == ["card.json"]


def test_a_good_file_is_replaced_and_never_written_into(tmp_path):
    path = tmp_path / "card.json"
    cli.write_json(path, {"elbo": 1})
    os.link(path, tmp_path / "same file")
    cli.write_json(path, {"elbo": 2})
    assert json.loads(path.read_text()) == {"elbo": 2}
    assert json.loads((tmp_path / "same file").read_text()) == {"elbo": 1}


def test_a_written_file_can_be_read_by_others(tmp_path):
    (tmp_path / "plain").write_text("")
    cli.write_json(tmp_path / "card.json", {})
    assert (tmp_path / "card.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
