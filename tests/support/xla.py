"""How XLA compiles in tests, and in the processes that they start: as fast as it can."""

import importlib.metadata

# Without LLVM's optimisation, and with the loops from before XLA's fusion emitters, which take every loop through MLIR
# first: a test compiles in less than half of the time, and rounds as well.
FAST = "--xla_backend_optimization_level=0"
JAX = next((found.version for found in importlib.metadata.distributions(name="jax")), "")  # there may be none
if JAX.startswith(("0.7.", "0.8.", "0.9.", "0.10.")):  # later ones know no other loops, and end at the flag
    FAST += " --xla_cpu_use_fusion_emitters=false"


def flags(devices: int) -> str:
    """Returns the XLA_FLAGS of a process with so many CPU devices."""
    return f"--xla_force_host_platform_device_count={devices} {FAST}"
