"""Files that are written whole or not at all, and small."""

import atexit
import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import shutil
import zipfile

import h5py
import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SMALL = 1024  # bytes of an array that gains nothing from a filter
LONGEST_JSON = 2**22  # bytes
SEAL = 64  # hex digits of a sha256


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
    except OSError as error:  # of a full disk it names no file, or the hidden one
        if error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror or in_words(error), str(path)) from error
    finally:
        _remove(partial)


def sweep(folder, *names):
    """Removes what processes that were killed while they wrote have left in a folder.

    Args:
        folder: path.
        *names: of files that were being written, "model.keras" or "images-*.u8" say.
    """
    for name in map(pathlib.Path, names):
        for path in pathlib.Path(folder).glob(f".{name.stem}.*{name.suffix}"):
            process = path.name.removesuffix(name.suffix).rpartition(".")[2]
            if process.isdigit() and not _runs(int(process)):
                _remove(path)


def _runs(process):
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True


_HELD = {}  # path of a lock that this process holds -> number of its open file


def lock(folder, holder):
    """Locks a folder, which is created, until this process ends, however it does.

    Args:
        folder: path.
        holder: str, what other processes are told.

    Returns:
        None, or what another process has told that holds the folder.
    """
    path = pathlib.Path(folder).resolve() / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None or path in _HELD:
        return None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = os.read(file, 1000).decode(errors="replace")
            os.close(file)
            return printable(told) or "another process"
        except OSError:  # not every file system has locks
            pass
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # its last holder has just removed it
    os.truncate(file, 0)
    os.write(file, holder.encode(errors="replace"))
    _HELD[path] = file
    atexit.register(path.unlink, missing_ok=True)
    return None


def bundled(name):
    """Path of a folder that travels with the package: inside of it where a wheel was installed, in
    a checkout beside it."""
    inside, beside = (pathlib.Path(__file__).parents[i] / name for i in (0, 1))
    return inside if inside.is_dir() else beside


def release_empty():
    """Lets go of the folders that hold nothing but this process's lock, and removes them."""
    for path in list(_HELD):
        if [inner.name for inner in path.parent.glob("*")] == [path.name]:
            os.close(_HELD.pop(path))
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def keep(path, name):
    """Gives the file `path`, where there is one, a second name, beside it: there it stays when the
    file of the first name is replaced."""
    if path.exists():
        with replacing(path.with_name(name)) as partial:
            try:
                os.link(path, partial)
            except OSError:  # not every file system has links
                shutil.copyfile(path, partial)


def write_bytes(path, content):
    """Write `content` (bytes) to `path`, whole or not at all, and create the folders above it."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path, content):
    """Write `content` as JSON, whole or not at all; NumPy scalars and arrays become plain numbers.

    Keys keep their order. NaN and infinity, which JSON does not have, become null. Content that is
    not JSON is a `TypeError`, and the file that was there stays as it was.
    """
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
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


def read_json(path, kind=dict):
    """What a JSON file holds, a `kind`, NaN and infinity not among it.

    Raises:
        ValueError: in one line that names the file, if it is damaged, above 4 MiB, or something
            else.
    """
    path = pathlib.Path(path)
    if path.stat().st_size > LONGEST_JSON:
        raise ValueError(f"{path} has more than {LONGEST_JSON:,} bytes, which no JSON here has")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no JSON ({error})") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}. Received: {shown(content)}")
    return content


def parse_json(text):
    """What JSON (str or bytes) says; `ValueError`, in one line, if it is none, or too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8: {error.reason}") from None


def in_words(error, longest=300):
    """An exception in one line, which names its kind where that says more than what it says."""
    text = " ".join(str(error).split())[:longest]
    kind = type(error).__name__
    return text if text and isinstance(error, (ValueError, OSError)) else f"{kind}: {text}"


def printable(name):
    """The name of a file, for a line: what has no place there, or is no UTF-8, escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def shown(value, longest=60):
    """A value in the words of an error: its `repr`, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else text[:longest] + "…"


def sha256(path):
    """Hex digest of a file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def sealed(archive):
    """The bytes of a zip archive (a `.npz` is one) with their sha256 as its comment, which whoever
    opens an archive passes over."""
    archive = archive[:-2] + SEAL.to_bytes(2, "little")  # the length of the comment
    return archive + hashlib.sha256(archive).hexdigest().encode()


def is_whole(archive):
    """Whether the bytes of a zip archive are those that were sealed, or have no comment at all."""
    digest = hashlib.sha256(archive[:-SEAL]).hexdigest().encode()
    return archive[-SEAL:] == digest or archive[-2:] == bytes(2)


def rounded(numbers):
    """float32 numbers with ten bits of mantissa, as many as a half float has, ties to even; their
    exponents, infinities and NaN stay."""
    bits = np.array(numbers, "float32").view("uint32")
    odd = bits >> 13 & 1  # the last bit that is kept
    kept = bits + 0xFFF + odd & ~np.uint32(0x1FFF)
    return np.where(np.isfinite(numbers), kept.view("float32"), numbers)


def compress(path):
    """Rewrite a `.keras` file, whole or not at all, with HDF5's shuffle filter on the arrays of its
    weights, and packed by LZMA, which comes nearer to their entropy than HDF5's gzip. Keras reads
    it as before."""
    with replacing(path) as partial:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(partial, "w") as new:
            for item in old.infolist():
                content = old.read(item)
                content = _shuffled(content) if item.filename.endswith(".h5") else content
                new.writestr(item, content, zipfile.ZIP_LZMA)


def _shuffled(content):
    """The bytes of an HDF5 file in which all first bytes of an array stand side by side, then all
    second ones, and so on."""
    file, version = io.BytesIO(), ("v110", "v110")  # of 2016, whose groups take far less space
    with h5py.File(io.BytesIO(content)) as old, h5py.File(file, "w", libver=version) as new:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                made = new.create_group(name)
            else:
                filters = {"shuffle": True, "chunks": item.shape}
                filters = filters if item.nbytes >= SMALL else {}
                made = new.create_dataset(name, data=item[()], **filters)
            made.attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)
    return file.getvalue()


def _plain(value):
    """A value in JSON's terms: without NumPy scalars and arrays, paths, NaN and infinity."""
    if isinstance(value, dict):
        return {key: _plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(content) for content in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"JSON has no place for {type(value).__name__}. Received: {value!r}")
