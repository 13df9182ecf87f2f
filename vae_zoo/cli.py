"""The command line of a recipe: its keyword defaults are the flags, its docstring is the help.

    def conv_vae(dataset="digits", epochs=60, hidden=(300, 300), mixed_precision=False): ...

    if __name__ == "__main__":
        run(conv_vae)

    python recipes/conv_vae.py --epochs 5 --hidden 512,256 --mixed-precision

What goes wrong for a reason outside the code (a typo, a missing file, a full disk) ends in exit
status 2 and one line on stderr; `VAE_ZOO_TRACEBACK=1` in the environment shows the traceback.
"""

import argparse
import contextlib
import difflib
import importlib
import inspect
import math
import os
import re
import signal
import sys
import threading
import traceback
import typing
import warnings
import zipfile
import zlib
from pathlib import Path

# What a recipe or a tool needs beside `run`, from where it lives; asked for late, so that a wrong
# flag is answered before the package is imported.
_FROM = {
    **dict.fromkeys(("command", "heading", "machine", "note", "progress"), "vae_zoo.lab.console"),
    **dict.fromkeys(("rows", "table"), "vae_zoo.lab.console"),
    **dict.fromkeys(("replace_block", "write_bytes", "write_json"), "vae_zoo.files"),
}


def _at_least(low):
    return (lambda value: value >= low), f"must be {low} or more"


def _one_of(*choices):
    return (lambda value: value in choices), f"must be one of {', '.join(choices)}"


_share = (lambda value: 0 <= value < 1), "must be 0 or more, and less than 1"


def _is_size(value):
    return len(value) in (2, 3) and min(value) > 0 and value[2:] in ((), (1,), (3,))


# What a setting may be, by its name, in every recipe and tool: a test and words that say it. Of
# several numbers each is tested. What a user sets wrong is refused before anything is read.
RANGES = {
    **dict.fromkeys(("epochs", "prior_epochs", "batch_size", "steps"), _at_least(1)),
    **dict.fromkeys(("latent_dim", "hidden", "filters", "units", "latents"), _at_least(1)),
    "encoder_units": _at_least(1),
    **dict.fromkeys(("dropout", "stretch", "drop", "missing"), _share),
    "annealing": ((lambda value: 0 < value < 1), "must be between 0 and 1"),
    **dict.fromkeys(("widths", "groups", "codes", "code_dim", "prior_filters"), _at_least(1)),
    **dict.fromkeys(("importance_images", "elbo_samples", "distribute"), _at_least(1)),
    **dict.fromkeys(("trials", "labels", "draws", "devices", "rounds"), _at_least(1)),
    **dict.fromkeys(("couplings", "prior_couplings", "prior_units", "components"), _at_least(1)),
    **dict.fromkeys(("prior_components", "pseudo_inputs", "points", "number"), _at_least(1)),
    **dict.fromkeys(("parts", "steps_per_epoch", "discriminator_units"), _at_least(1)),
    **dict.fromkeys(("patch_size", "levels"), _at_least(2)),
    "images": (lambda value: not isinstance(value, int) or value >= 1, "must be 1 or more"),
    "sigma": (lambda value: 0 <= value <= 255, "must be 0 to 255"),
    **dict.fromkeys(("blocks", "prior_blocks", "warmup_epochs", "averaged_epochs"), _at_least(0)),
    "squeezes": _at_least(0),
    **dict.fromkeys(("num_samples", "label_dim"), _at_least(1)),
    "quadrants": (lambda value: 0 <= value <= 3, "must be 0 to 3"),
    **dict.fromkeys(("patience", "importance_samples", "restart"), _at_least(0)),
    **dict.fromkeys(("beta", "free_bits", "commitment", "beta_tc", "gamma"), _at_least(0)),
    **dict.fromkeys(
        ("learning_rate", "old_learning_rate", "encoder_learning_rates", "skip_threshold")
        + ("factor_learning_rate", "blur"),
        (lambda value: value > 0, "must be more than 0"),
    ),
    "kernel_size": (lambda value: value >= 3 and value % 2, "must be odd, 3 or more"),
    **dict.fromkeys(("seed", "seeds"), (lambda n: 0 <= n < 2**31, f"must be 0 to {2**31 - 1}")),
    "image_size": (_is_size, "must be height,width or height,width,channels (1 or 3 channels)"),
    "likelihood": _one_of("bernoulli", "gaussian", "laplace", "discretized_logistic"),
    "schedule": _one_of("cosine", "linear", "exponential", "constant"),
    "precision": _one_of("float32", "mixed_bfloat16", "mixed_float16"),
    "network": _one_of("dense", "conv"),
    "freeze": _one_of("encoder", "decoder", "none"),
    "tuner": _one_of("random", "bayesian", "hyperband"),
}
# What goes wrong for a reason outside the code: settings, files, memory, a run that diverges.
FAILURES = (ValueError, OSError, ImportError, RuntimeError, MemoryError, EOFError)
FAILURES += (zipfile.BadZipFile, zlib.error)
MAY_BE_EMPTY = ("hidden",)  # of what is several numbers


def __getattr__(name):
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FROM[name]), name)


def run(function, argv=None, distribute=False):
    """Call `function` with the settings of a command line, and return what it returns.

    What has a `seed` and an `output` has a flag `--seeds 0,1,2` too, which runs it once with each.
    With `distribute=True` there is a flag `--distribute [N]` too, with which it is called within
    `vae_zoo.distribute.data_parallel(N)`. Of several processes one prints, and writes to `output`.

    Args:
        function: a recipe. Each parameter becomes a flag (`batch_size` is `--batch-size`), read as
            the type of its default: int, float (finite), str, bool (`--flag`, `--no-flag`), or a
            tuple of these, separated by commas. An annotation such as `float` or `int | None`
            comes before the default; None without one is read as str. A parameter without a
            default is given by its place, without a flag. What is in `RANGES` has a range.
        argv: list of str, the arguments; those of the process if None.
        distribute: bool, whether `function` works on several devices.

    Exits: 0 after `--help`; 2 with one line on stderr for wrong arguments and for what a function
        raises that is no mistake in it, see `FAILURES`; 130 when interrupted, 143 when terminated,
        with a line that says how to go on. All else propagates.
    """
    with contextlib.suppress(AttributeError):  # a notebook's has no buffer
        sys.stdout.reconfigure(line_buffering=True)  # a line is in a log once it is printed
    warnings.formatwarning = _one_line
    parser = _parser(function)
    if distribute:
        parser.add_argument(
            "--distribute",
            nargs="?",
            type=_read_int,
            const=0,
            metavar="N",
            help="work on all devices, or on N of them (default: on one)",
        )
    takes = inspect.signature(function).parameters
    if "seeds" not in takes and {"seed", "output"} <= takes.keys():
        parser.add_argument(
            "--seeds",
            type=lambda text: tuple(map(_read_int, text.split(","))),
            metavar="INT,INT,...",
            help="run once with each of these seeds, and print mean and deviation of the numbers",
        )
    argv = sys.argv[1:] if argv is None else argv
    settings = _settings(parser, argv)
    _check_ranges(parser, settings)
    try:
        with _terminable():
            return _call(function, settings, argv)
    except KeyboardInterrupt as error:
        how = ": the same command with --resume goes on after the last epoch"
        how = how if "resume" in takes else ""
        parser.exit(143 if error.args else 130, f"interrupted{how}\n")
    except Exception as error:
        of_engine = type(error).__module__.startswith("tensorflow.")
        if not (isinstance(error, FAILURES) or of_engine):
            raise
        if os.environ.get("VAE_ZOO_TRACEBACK") == "1":
            raise
        files = sys.modules.get("vae_zoo.files")  # without it no folder was taken
        if files is not None:
            files.release_empty()  # refused before anything was written
        parser.error(_describe(error, function))


def _call(function, settings, argv):
    takes = inspect.signature(function).parameters
    if not settings.keys() - takes:
        return function(**settings)
    from vae_zoo.lab import several

    if "seeds" in settings and "seeds" not in takes:
        words = _without(argv, ("--seed", "--seeds", "--output"))
        output = settings.get("output", takes["output"].default)
        return several.over_seeds(inspect.getfile(function), words, settings["seeds"], output)
    return several.distributed(function, settings.pop("distribute") or None, settings)


def _without(argv, flags):
    """The words of a command line but these flags, each with its value."""
    words, skip = [], False
    for word in argv:
        name, _, value = word.partition("=")
        if skip or name in flags:
            skip = not skip and not value
        else:
            words.append(word)
    return words


@contextlib.contextmanager
def _terminable():
    """Context in which SIGTERM does what SIGINT does; a second one ends the process at once."""

    def terminate(number, frame):
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def checked(function, argv):
    """The arguments `argv` of a recipe's command line, read and written anew.

    Args:
        function: the recipe.
        argv: list of str.

    Returns:
        list of str: values without a flag, then one `--flag=value` a setting.

    Raises:
        ValueError: in one line, if the recipe would not take them.
    """
    parser = _parser(function)

    def refuse(message):
        raise ValueError(f"{parser.prog} does not take {argv}: {message}")

    parser.error = refuse
    parser.exit = lambda *_: refuse("help is no setting")
    settings = _settings(parser, argv)
    _check_ranges(parser, settings)
    words = [str(settings.pop(name)) for name in _required(function)]
    for name, value in settings.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words.append(f"{flag}={_show(value)}")
    return words


def _one_line(message, category, filename, lineno, line=None, full=warnings.formatwarning):
    """A warning to a user without the line of code that gave it."""
    if category is UserWarning:
        return f"warning: {' '.join(str(message).split())}\n"
    return full(message, category, filename, lineno, line)


# === From a function to flags ===


class _Parser(argparse.ArgumentParser):
    """argparse, with one line for an error where it prints the usage too."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def _parser(function):
    """The command line of `function`. Only the flags given are returned: defaults stay in it."""
    doc = inspect.getdoc(function) or ""
    texts = _argument_texts(doc)
    parser = _Parser(
        prog=Path(inspect.getfile(function)).name,
        usage=" ".join(["%(prog)s", *_required(function), "[--setting value ...]"]),
        description=doc.split("\n\n")[0],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        text = texts.get(name, "").replace("%", "%%")  # argparse uses %
        if name in _required(function):
            parser.add_argument(
                name, help=text, type=_reader(name, None, parameter.annotation)["type"]
            )
            continue
        parser.add_argument(
            f"--{name.rstrip('_').replace('_', '-')}",
            dest=name,
            help=f"{text} (default: {_show(parameter.default)})".strip(),
            **_reader(name, parameter.default, parameter.annotation),
        )
    return parser


def _required(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


def _reader(name, default, annotation):
    """argparse's keywords that read one setting, from its default and its annotation."""
    hints = typing.get_args(annotation) or (annotation,)  # `int | None` holds int
    kind = next((hint for hint in hints if hint in _READERS or hint is bool), None)
    several = isinstance(default, tuple) or typing.get_origin(annotation) is tuple
    if kind is None:
        kinds = {type(value) for value in (default if several else (default,))}
        kind = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else str
        kind = str if kind is type(None) else kind
    if kind is bool and not several:
        return {"action": argparse.BooleanOptionalAction}
    if kind not in _READERS:
        raise ValueError(
            f"The default of `{name}` must be int, float, str, bool, None or a tuple of numbers. "
            f"Received: {name}={default!r}"
        )
    read, word = _READERS[kind], kind.__name__.upper()
    if not several:
        return {"type": read, "metavar": word}
    return {
        "type": lambda text: tuple(read(part) for part in text.split(",")) if text else (),
        "metavar": f"{word},{word},...",
    }


def _read_int(text):
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number. Received: {text!r}") from None


def _read_float(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number. Received: {text!r}")
    return value


_READERS = {int: _read_int, float: _read_float, str: str}


def _settings(parser, argv):
    """The flags of `argv` as a dict of keywords; an unknown one is an error with a hint."""
    joined = []
    for word in argv:  # argparse takes the value -1e-3 or -1,2 for a flag, unless it follows a "="
        if joined and re.match(r"-\.?\d", word) and re.fullmatch(r"--[\w-]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    settings, unknown = parser.parse_known_args(joined)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        wrong = next((word for word in unknown if word.startswith("-")), "").split("=")[0]
        close = difflib.get_close_matches(wrong.replace("_", "-"), flags, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return vars(settings)


def _check_ranges(parser, settings):
    """An error that names the flag where a setting is none of those in `RANGES`."""
    for name, value in settings.items():
        if name not in RANGES or value is None or (name == "distribute" and value == 0):
            continue
        holds, words = RANGES[name]
        several = isinstance(value, tuple) and name != "image_size"
        if several and not value and name not in MAY_BE_EMPTY:
            words = "must hold one number at least"
        elif all(map(holds, value)) if several else holds(value):
            continue
        shown = _show(value) if isinstance(value, tuple) else repr(value)
        parser.error(f"--{name.replace('_', '-')} {words}. Received: {name}={shown}")


def _argument_texts(doc):
    """The `name: text` entries of the section `Args:` of a docstring, as a dict."""
    section = re.split(r"\n(?=\S)", doc.partition("\nArgs:\n")[2])[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _show(default):
    """A default as one would type it."""
    if isinstance(default, bool) or default is None:
        return {True: "yes", False: "no", None: "none"}[default]
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


# === Errors and numbers in words ===


def _describe(error, function):
    """An exception in one line: what is wrong and, for a file, with which."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename is not None else "")
    # Our own messages say what to change; an error from deep inside another library may not.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = {Path(__file__).resolve().parent, Path(inspect.getfile(function)).resolve().parent}
    if ours & set(Path(frame.filename).resolve().parents) and str(error):
        return str(error)
    if isinstance(error, (OSError, ImportError)):
        return str(error) or type(error).__name__
    kind = "" if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: "
    return f"{kind}{error} (VAE_ZOO_TRACEBACK=1 shows where)"
