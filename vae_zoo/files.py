"""Files that are written whole or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil


@contextlib.contextmanager
def replacing(path):
    """Context that gives a hidden path beside `path`, of the same suffix, and puts what was written
    there in its place on leaving: an interruption or a full disk never leaves half a file, or half
    a folder, where a good one was. Folders above are created.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    _remove(partial)
    try:
        yield partial
        if partial.is_dir() and path.exists():  # a folder cannot be written over
            old = path.with_name(f".{path.name}.old")
            _remove(old)
            path.rename(old)
            partial.rename(path)
            _remove(old)
        else:
            os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path, content):
    """Write `content` (bytes) to `path`, whole or not at all, and create the folders above it."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path, content):
    """Write `content` as JSON, whole or not at all; NumPy scalars and arrays become plain numbers.

    Keys keep their order. NaN and infinity are written as Python's `json` reads them back. Content
    that is not JSON is a `TypeError`, and the file that was there stays as it was.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain)
    write_bytes(path, (text + "\n").encode())


def replace_block(path, name, text):
    """Write `text` into a text file between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: if the file does not have both marks, once each.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = pathlib.Path(path).read_text()
    if content.count(start) != 1 or content.count(end) != 1:
        raise ValueError(f"{path} must have {start} and {end}, once each")
    before, rest = content.split(start)
    _, after = rest.split(end)
    write_bytes(path, f"{before}{start}\n{text}\n{end}{after}".encode())


def sha256(path):
    """Hex digest of a file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _plain(value):
    """What `json` cannot write, in its terms: NumPy scalars and arrays, and paths."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON has no place for {type(value).__name__}. Received: {value!r}")
