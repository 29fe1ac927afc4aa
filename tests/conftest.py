"""What holds for every test: eight CPU devices and no silent broadcasting. Warnings are errors by pyproject.toml.

All of it is said through the environment before jax is first imported, so that processes started by a test inherit it.
"""

import os

# Without LLVM's optimisation a test compiles in two thirds of the time, and rounds as well as with it.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# jax 0.10.2 hangs when it runs a program from the cache on several forced CPU devices.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
