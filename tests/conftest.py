"""Settings of the test process, made before Keras is imported, and who runs which tests."""

import os
import re

import pytest

# Tiny models: threads cost more than they give, and on JAX nearly all time goes into compiling.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")
if os.environ.get("KERAS_BACKEND") == "jax":
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fast}"

# Modules of long tests, which come first so that no worker waits for the last of them. These, and
# those of a few others, share nothing: any worker may run any of them.
LONG = ("test_distribute", "test_recipes", "test_tuning")
INDEPENDENT = (*LONG, "test_cli", "test_fine_tune", "test_zoo", "test_files_of_0_1")
DEVICES = {"two_devices", "two_processes", "one_device"}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups
def pytest_collection_modifyitems(items):
    """Tests that share models or fixtures go to one worker: those of a family, of the processes
    that work on several devices, of a module."""
    items.sort(key=lambda item: item.module.__name__ not in LONG)
    for item in items:
        group = module = item.module.__name__
        if module == "test_families":
            family = re.search(r"\[(?:True-|False-)?(\w+)\]$", item.name)
            group = family[1] if family else item.name
        elif module in INDEPENDENT:
            group = "devices" if DEVICES & set(item.fixturenames) else None
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
