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

# Modules whose tests share nothing, so that any worker may run any of them.
INDEPENDENT = ("test_cli", "test_distribute", "test_recipes", "test_zoo", "test_files_of_0_1")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups
def pytest_collection_modifyitems(items):
    """Tests that share models or fixtures go to one worker: those of a family, of a fixture that
    starts processes, of a module."""
    for item in items:
        group = module = item.module.__name__
        family = re.search(r"\[(?:(?:True|False)-)?(\w+)(?:-(?:True|False))?\]$", item.name)
        if module == "test_families":
            group = family[1] if family else item.name
        elif module in INDEPENDENT:
            group = "two_devices" if "two_devices" in item.fixturenames else item.nodeid
        item.add_marker(pytest.mark.xdist_group(group))
