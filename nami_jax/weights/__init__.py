"""Tensors on disk and parameters on devices: every network's weights are read and written through here.

`files` reads and writes safetensors without ever holding a whole file; `slots` relates released tensors to our
parameters by one table, which loading and exporting both walk; `sizes` reads a config.json. Knows no network.
"""

from nami_jax.weights.sizes import read_sizes
from nami_jax.weights.slots import (
    Slot,
    differences,
    expected_shapes,
    export_tensors,
    load_module,
    load_params,
    released_shape,
    require_tensors,
    slots_by_name,
)
from nami_jax.weights.tensors import (
    SHARD_BYTES,
    Shapes,
    StoredTensor,
    Tensor,
    WeightsError,
    open_tensors,
    save_tensors,
    tensor_bytes,
    write_tensors,
)

__all__ = [
    "SHARD_BYTES",
    "Shapes",
    "Slot",
    "StoredTensor",
    "Tensor",
    "WeightsError",
    "differences",
    "expected_shapes",
    "export_tensors",
    "load_module",
    "load_params",
    "open_tensors",
    "read_sizes",
    "released_shape",
    "require_tensors",
    "save_tensors",
    "slots_by_name",
    "tensor_bytes",
    "write_tensors",
]
