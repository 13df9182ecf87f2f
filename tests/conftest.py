"""Settings of the test process, made before Keras is imported."""

import os

# Tiny models: threads cost more than they give, and on JAX nearly all time goes into compiling.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("KERAS_BACKEND") == "jax":
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fast}"
