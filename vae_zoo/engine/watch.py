"""Processes of one run that notice at once when another one is gone (JAX).

JAX notices by heartbeats, after up to a minute, and aborts then. Here the first process holds a
connection to each other one, which the system closes when a process dies, however it does.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time

BYE = b"."  # of a process that ends as it should
NAME = "vae_zoo/watch"
ENDING = threading.Lock()  # held by the thread that tells of the end


def told(reason):
    """What a process says when it ends because of another one."""
    return (
        f"A worker of this run was lost ({reason}). Start all of them again, with --resume to go "
        "on from the last checkpoint"
    )


@contextlib.contextmanager
def watching(store, host, number, count):
    """Context in which this process ends, with one line and status 1, when another one does.

    Where no connection can be made it does nothing.

    Args:
        store: JAX's client, by which the processes tell each other names and values.
        host: str, of the first process.
        number: int, of this process.
        count: int, of all.
    """
    links, server = [], None
    # Losing the first process, whose service it is, JAX aborts in the same moment as the connection
    # breaks. The thread that does so sleeps 6 s first, 6 being the number that a handler is passed.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    try:
        if number == 0:
            server = socket.create_server(("", 0))
            store.key_value_set(NAME, str(server.getsockname()[1]))
            server.settimeout(60)
            links += [server.accept()[0] for _ in range(count - 1)]
        else:
            port = int(store.blocking_key_value_get(NAME, 60_000))
            links.append(socket.create_connection((host, port), 60))
    except OSError:  # a wall between the hosts
        pass
    for link in links:
        link.settimeout(None)
        threading.Thread(target=_watch, args=(link,), daemon=True).start()
    try:
        yield
        for link in links:
            with contextlib.suppress(OSError):
                link.sendall(BYE)
    finally:
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        if server is not None:
            server.close()


def _watch(link):
    try:
        said = link.recv(1)
    except OSError:
        said = b""
    if said != BYE:
        end_first()
        print(told("its process has ended"), file=sys.stderr, flush=True)
        os._exit(1)


def end_first():
    """Returns in the thread that is the first to tell of the end; another one waits for it."""
    if not ENDING.acquire(blocking=False):
        time.sleep(60)
