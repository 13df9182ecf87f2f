"""Settings of the test process, made before Keras is imported, and who runs which tests."""

import atexit
import itertools
import os
import re
import shutil
import sys
import tempfile

import pytest

# Tiny models: threads cost more than they give, and on JAX nearly all time goes into compiling.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")
if os.environ.get("KERAS_BACKEND") == "jax" and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Flags that make XLA compile fast; its older emitters take half the time of the newer ones.
    fast = """--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
        --xla_cpu_use_fusion_emitters=false --xla_llvm_enable_alias_scope_metadata=false
        --xla_llvm_enable_noalias_metadata=false --xla_llvm_enable_invariant_load_metadata=false"""
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *fast.split()])
    # What one process of a run has compiled, its workers and all they start need not.
    cache = tempfile.mkdtemp(prefix="vae_zoo_tests_")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Modules of long tests, which come first so that no worker waits for the last of them. These, and
# those of a few others, share nothing: any worker may run any of them.
LONG = ("test_distribute", "test_recipes", "test_tuning")
INDEPENDENT = (*LONG, "test_cli", "test_fine_tune", "test_zoo", "test_files_of_0_1")
DEVICES = {"two_devices", "two_processes", "one_device"}


def group(item):
    """Tests that share models or fixtures have one name: those of a family, of the processes that
    work on several devices, of a module."""
    module = item.module.__name__
    if module == "test_families":
        family = re.search(r"\[(?:True-|False-)?(\w+)\]$", item.name)
        return family[1] if family else item.name
    if module in INDEPENDENT:
        return "devices" if DEVICES & set(item.fixturenames) else None
    return module


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.module.__name__ not in LONG)
    for item in items:
        if group(item):
            item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup(item):
    """Every test starts from the same weights and draws, alone or after others, on any machine."""
    import keras  # after what is set above

    keras.utils.set_random_seed(0)


groups_done = itertools.count(1)


def pytest_runtest_teardown(item, nextitem):
    """On JAX all that was compiled stays in memory, gigabytes in the end. Groups share a good part
    of it, so it goes after every fourth."""
    if "jax" in sys.modules and (nextitem is None or group(nextitem) != group(item)):
        if next(groups_done) % 4 == 0:
            sys.modules["jax"].clear_caches()
