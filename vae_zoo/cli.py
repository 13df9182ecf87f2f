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
import functools
import inspect
import json
import math
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import traceback
import typing
from numbers import Real
from pathlib import Path

WIDTH = 100  # columns of the table


def run(function, argv=None, distribute=False):
    """Call `function` with the settings of a command line, and return what it returns.

    With `distribute=True` there is a flag `--distribute [N]` too, with which it is called within
    `vae_zoo.distribute.data_parallel(N)`. Of several processes one prints, and writes to `output`.

    Args:
        function: a recipe. Each parameter becomes a flag (`batch_size` is `--batch-size`), read as
            the type of its default: int, float (finite), str, bool (`--flag`, `--no-flag`), or a
            tuple of these, separated by commas. An annotation such as `float` or `int | None`
            comes before the default; None without one is read as str. A parameter without a
            default is given by its place, without a flag.
        argv: list of str, the arguments; those of the process if None.
        distribute: bool, whether `function` works on several devices.

    Exits: 0 after `--help`; 2 with one line on stderr for wrong arguments and for a `ValueError`,
        `OSError` or `ImportError` of the function; 130 when interrupted. All else propagates.
    """
    with contextlib.suppress(AttributeError):  # a notebook's has no buffer
        sys.stdout.reconfigure(line_buffering=True)  # a line is in a log once it is printed
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
    settings = _settings(parser, sys.argv[1:] if argv is None else argv)
    try:
        if distribute and "distribute" in settings:
            return _distributed(function, settings.pop("distribute") or None, settings)
        return function(**settings)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("VAE_ZOO_TRACEBACK") == "1":
            raise
        parser.error(_describe(error, function))


def _distributed(function, devices, settings):
    from vae_zoo import distribute

    with distribute.data_parallel(devices), contextlib.ExitStack() as stack:
        if not distribute.is_main():
            # Does all that the first one does, but where nobody looks.
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            output = inspect.signature(function).parameters.get("output")
            if output is not None:
                given = Path(settings.get("output", output.default))
                # What a run goes on from; TensorFlow's workers read their own checkpoint.
                if (given / "checkpoint.npz").exists():
                    shutil.copy(given / "checkpoint.npz", folder)
                for images in given.glob("images-*.*"):
                    Path(folder, images.name).symlink_to(images.resolve())
                if (given / "trials").exists():
                    shutil.copytree(given / "trials", Path(folder, "trials"))
                settings["output"] = folder
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
            )
        return function(**settings)


def table(numbers, files=()):
    """Print what a run ends with: its numbers, then the files that it wrote.

    Args:
        numbers: dict, name -> dict with `value` (int, float, str or None), `unit` (str) and, where
            they exist, `standard_error` (float) and `protocol` (str: how it was measured).
        files: pairs (path, what it is).
    """
    cells = []
    for name, number in numbers.items():
        if isinstance(number.get("value"), (list, tuple)):
            continue  # for a file, or a picture
        value, error = _digits(number.get("value"), number.get("standard_error"))
        cells.append((name, value, error, number.get("unit") or "", number.get("protocol") or ""))
    if cells:
        name, value, error, unit, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
        gap = " " if error else ""
        for row in cells:
            start = f"{row[0]:<{name}}  {row[1]:>{value}}{gap}{row[2]:<{error}}  {row[3]:<{unit}}  "
            _print_beside(start, row[4])
    if cells and files:
        print()
    longest = max((len(str(path)) for path, _ in files), default=0)
    for path, description in files:
        _print_beside(f"{str(path):<{longest}}  ", description)


def progress(description):
    """What wraps an iterable (as `tqdm.tqdm` does) in a bar, shown where somebody watches."""
    import tqdm

    from vae_zoo import distribute

    hidden = None if distribute.is_main() else True  # None: where nobody watches
    return functools.partial(tqdm.tqdm, desc=description, leave=False, disable=hidden)


def command():
    """The command line that started this process, as one would type it in the project's folder.

    Flags that only say where results go, or that go on from there, are left out.
    """
    words, skip = [], False
    for word in sys.argv[1:]:
        if skip:
            skip = False
        elif word in ("--resume", "--tensorboard"):
            continue
        elif word == "--output":
            skip = True
        elif not word.startswith("--output="):
            words.append(shlex.quote(word))
    script = Path(sys.argv[0]).resolve()
    backend = f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND', 'tensorflow')}"
    return " ".join([backend, "python", f"{script.parent.name}/{script.name}", *words])


def machine():
    """The kind of processor, as measurements name it: "2 cores of AMD EPYC (x86_64)"."""
    name = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        name = found.group(1) if found else name
    return f"{os.cpu_count()} cores of {name or 'unknown make'} ({platform.machine()})"


def replace_block(path, name, text):
    """Write `text` into a text file between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: if the file does not have both marks, once each.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = Path(path).read_text()
    if content.count(start) != 1 or content.count(end) != 1:
        raise ValueError(f"{path} must have {start} and {end}, once each")
    before, rest = content.split(start)
    _, after = rest.split(end)
    write_bytes(path, f"{before}{start}\n{text}\n{end}{after}".encode())


def write_json(path, content):
    """Write `content` as JSON, whole or not at all; NumPy scalars and arrays become plain numbers.

    Keys keep their order. NaN and infinity are written as Python's `json` reads them back. Content
    that is not JSON is a `TypeError`, and the file that was there stays as it was.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain)
    write_bytes(path, (text + "\n").encode())


def write_bytes(path, content):
    """Write `content` (bytes) to `path`, whole or not at all, and create the folders above it.

    The bytes go to a hidden file beside it first, which then takes its place: an interruption or a
    full disk never leaves half a file where a good one was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    text = str(error) or type(error).__name__
    # Our own messages say what to change; a ValueError from deep inside another library may not.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = {Path(__file__).resolve().parent, Path(inspect.getfile(function)).resolve().parent}
    if isinstance(error, ValueError) and not ours & set(Path(frame.filename).resolve().parents):
        text += " (VAE_ZOO_TRACEBACK=1 shows where)"
    return text


def _digits(value, error):
    """A number and its standard error as text: two digits of the error, else four of the value."""
    value = value.item() if hasattr(value, "item") else value  # a NumPy scalar
    if isinstance(value, Real) and error is not None and 1e-6 < error < 1e7:
        decimals = max(0, 1 - math.floor(math.log10(error)))
        return f"{value:.{decimals}f}", f"± {error:.{decimals}f}"
    text = "-" if value is None else str(value)
    if isinstance(value, float):
        text = f"{value:.4g}"
        if 1e-3 <= abs(value) < 1e9:  # no exponent, and every digit before the decimal point
            text = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    return text, "" if error is None else f"± {error:.2g}"


def _print_beside(start, text):
    """Print `text` after `start`, wrapped into the columns that are left."""
    for line in textwrap.wrap(text, max(30, WIDTH - len(start))) or [""]:
        print((start + line).rstrip())
        start = " " * len(start)


def _plain(value):
    """What `json` cannot write, in its terms: NumPy scalars and arrays, and paths."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON has no place for {type(value).__name__}. Received: {value!r}")
