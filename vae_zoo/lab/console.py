"""What a run prints, and what it says of itself: tables, bars, its command, its machine."""

import functools
import math
import os
import platform
import re
import shlex
import sys
import textwrap
from numbers import Real
from pathlib import Path

WIDTH = 100  # columns of what is printed


def heading(text):
    """Print what begins, with an empty line above it."""
    print(f"\n{textwrap.fill(text, WIDTH)}")


def note(text):
    """Print what a reader should know, wrapped."""
    print(textwrap.fill(text, WIDTH, subsequent_indent="  "))


def short(value):
    """A number in four digits, all of those before the decimal point."""
    return digits(value, None)[0]


def table(numbers, files=()):
    """Print what a run ends with: its numbers, then the files that it wrote.

    Args:
        numbers: dict, name -> dict with `value` (int, float, str or None), `unit` (str) and, where
            they exist, `standard_error` or `standard_deviation` (float) and `protocol` (str: how
            it was measured).
        files: pairs (path, what it is).
    """
    cells = []
    for name, number in numbers.items():
        if isinstance(number.get("value"), (list, tuple)):
            continue  # for a file, or a picture
        spread = number.get("standard_error", number.get("standard_deviation"))
        value, error = digits(number.get("value"), spread)
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


def rows(dicts):
    """Print dicts of numbers and words as rows, a column a name, as many columns as fit."""
    names = list(dict.fromkeys(name for row in dicts for name in row))
    lines = [""] * (len(dicts) + 1)
    for name in names:
        cells = [name, *(short(row.get(name)) for row in dicts)]
        width = max(map(len, cells))
        if len(lines[0]) + width <= WIDTH:
            lines = [f"{line}{cell:>{width}}  " for line, cell in zip(lines, cells, strict=True)]
    print("\n".join(line.rstrip() for line in lines))


def progress(description):
    """What wraps an iterable (as `tqdm.tqdm` does) in a bar, shown where somebody watches."""
    import tqdm

    from vae_zoo.engine import distribute

    hidden = None if distribute.is_main() else True  # None: where nobody watches
    return functools.partial(tqdm.tqdm, desc=description, leave=False, disable=hidden)


def command(**instead):
    """The command line that started this process, as one would type it in the project's folder.

    Flags that only say where results go, or that go on from there, are left out.

    Args:
        **instead: flag -> value, of those that stand in the place of the process's own.
    """
    words, skip = [], False
    left_out = ("--output", *(f"--{name}" for name in instead))
    for word in sys.argv[1:]:
        if skip:
            skip = False
        elif word in ("--resume", "--overwrite", "--tensorboard"):
            continue
        elif word in left_out:
            skip = True
        elif word.split("=")[0] not in left_out:
            words.append(shlex.quote(word))
    words += [word for name, value in instead.items() for word in (f"--{name}", str(value))]
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


def digits(value, error):
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
