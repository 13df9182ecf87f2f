"""What engines say that is no news to a user, kept from standard error."""

import contextlib
import os
import re
import sys
import tempfile
import warnings

# Of TensorFlow at its start, before it has read `TF_CPP_MIN_LOG_LEVEL`.
NOISE = re.compile(rb"WARNING: All log messages before absl|[IW]0000 .*\.cc:\d+\]")


@contextlib.contextmanager
def starting():
    """Context in which lines of `NOISE` do not reach standard error; all others do at its end.

    Whoever sets `TF_CPP_MIN_LOG_LEVEL` below 2 sees all of them.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # of a process without one
        stderr = None
    if stderr is None or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
        yield
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
                sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            os.write(2, b"".join(line for line in file if not NOISE.match(line)))


@contextlib.contextmanager
def exporting():
    """Context without the warnings of exporters: that PyTorch traces what depends on shapes alone,
    and that Keras asks for a name that NumPy no longer has."""
    noise = r"Converting a tensor to a Python|torch\.as_tensor results|In the future `np\.object`"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", noise)
        yield
