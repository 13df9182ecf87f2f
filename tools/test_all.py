"""Runs the test suite once on each backend, each in a process of its own: python tools/test_all.py

Arguments are handed on to pytest, which runs two workers (`-n 0` for none) and names the twenty
slowest tests. The exit status is 0 when all three pass.
"""

import os
import pathlib
import subprocess
import sys
import time

WORKERS = "-n 2 --dist loadgroup --no-loadscope-reorder --durations 20".split()


def main():
    root = pathlib.Path(__file__).parent.parent
    results = []
    for backend in ("tensorflow", "jax", "torch"):
        print(f"=== {backend} ===", flush=True)
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *WORKERS, *sys.argv[1:]],
            cwd=root,
            env={**os.environ, "KERAS_BACKEND": backend},
        )
        results.append((backend, run.returncode, time.monotonic() - start))
    for backend, status, seconds in results:
        print(f"{backend:<11} {'passed' if status == 0 else f'exit {status}'} in {seconds:.0f} s")
    return max(status for _, status, _ in results)


if __name__ == "__main__":
    sys.exit(main())
