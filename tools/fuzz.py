"""Reads thousands of damaged files, by a seed: KERAS_BACKEND=torch python tools/fuzz.py

Files are damaged as `tests/damage.py` says, and read in a process of their own, which is started
anew where it crashes or hangs. Exit status 0 when every file was read, or refused in one line.
"""

import collections
import json
import os
import pathlib
import selectors
import subprocess
import sys
import tempfile
import time

from vae_zoo import cli

ROOT = pathlib.Path(__file__).parent.parent
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import damage
damage.work(*map(int, sys.argv[2:]))
"""
COLUMNS = ("files", "read", "refused", "hung", "crashed", "uncaught")


def fuzz(number=2000, seed=0, seconds=30):
    """Damage files of all kinds, read them, and print what became of them.

    Args:
        number: of files
        seed: of the damage
        seconds: after which a file hangs its reader
    """
    table, slowest = collections.defaultdict(collections.Counter), ("", 0.0)
    largest, code, done, wrong = ("", 0.0), 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        while done < number:
            for line in _lines(folder, done, number, seed, seconds):
                said = json.loads(line)
                done = said["number"] + 1
                what, name = said["outcome"], f"{said['kind']} {said['number']}, {said['way']}"
                column = what if what in COLUMNS else "uncaught"
                table[said["kind"]].update(["files", column])
                if column not in ("read", "refused"):
                    wrong.append(f"{name}: {what[:200]}")
                if column == "refused":
                    slowest = max(slowest, (name, said["seconds"]), key=lambda pair: pair[1])
                    largest = max(largest, (name, said["mib"]), key=lambda pair: pair[1])
                code += said["code"]
    for line in wrong:
        print(line)
    print(f"{'':<12}" + "".join(f"{name:>10}" for name in COLUMNS))
    table["all"] = sum(table.values(), collections.Counter())
    for kind, counts in table.items():
        print(f"{kind:<12}" + "".join(f"{counts[name]:>10}" for name in COLUMNS))
    print(f"code run: {code}")
    print(f"slowest refusal: {slowest[1]:.2f} s ({slowest[0]})")
    print(f"memory of a refusal, at most: {largest[1]:.0f} MiB ({largest[0]})")
    return not wrong and not code


def _lines(folder, first, number, seed, seconds):
    """Lines of a process that reads files from number `first` on, and what ends it too early."""
    command = [sys.executable, "-c", CODE, str(ROOT / "tests"), first, number, seed]
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    own = {"PYTHONPATH": paths, "VAE_ZOO_CACHE": str(pathlib.Path(folder, "cache"))}
    place = tempfile.mkdtemp(dir=folder)
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=place,
        env=os.environ | own,
        text=True,
    )
    begun, limit = {"number": first, "kind": "?", "way": "?"}, 300  # to start, then for each file
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    while selector.select(limit):
        line = process.stdout.readline()
        if not line:
            break
        if not line.startswith("{"):
            continue  # what a checkpoint prints
        said, limit = json.loads(line), seconds
        if "outcome" in said:
            yield line
            begun = {"number": said["number"] + 1, "kind": "?", "way": "?"}
        else:
            begun = said
    else:
        process.kill()
    ended = process.wait()
    if begun["number"] < number:
        outcome = "hung" if ended == -9 else "crashed"
        yield json.dumps({**begun, "outcome": outcome, "seconds": seconds, "mib": 0, "code": 0})
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(not cli.run(fuzz))
