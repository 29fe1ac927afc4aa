"""What XLA's compiler is told for the programs of the network, by device."""

from typing import Any


def compiler_options(device: Any) -> dict[str, bool]:
    """Returns what `jax.jit` takes as `compiler_options`.

    Args:
        device: one of jax's, present or described by a topology.
    """
    if device.platform != "gpu" or not device.device_kind.startswith("NVIDIA"):
        return {}
    # All products are cuBLAS's, which adds the bias and computes GELU before it writes: where XLA tries Triton's as
    # well, GELU becomes a pass of its own. And timing Triton's takes most of the compilation.
    return {"xla_gpu_enable_triton_gemm": False}
