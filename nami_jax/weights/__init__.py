"""Tensors on disk and parameters on devices: every network's weights are read and written through here.

Safetensors files are read and written without ever holding a whole file in memory. One table relates released tensors
to our parameters; loading and exporting both walk it.
"""

from nami_jax.weights.slots import (
    Shardings,
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
    StoredTensor,
    Tensor,
    TensorShapes,
    WeightsError,
    open_tensors,
    save_tensors,
    tensor_bytes,
    tensors_fingerprint,
    write_tensors,
)

__all__ = [
    "SHARD_BYTES",
    "Shardings",
    "Slot",
    "StoredTensor",
    "Tensor",
    "TensorShapes",
    "WeightsError",
    "differences",
    "expected_shapes",
    "export_tensors",
    "load_module",
    "load_params",
    "open_tensors",
    "released_shape",
    "require_tensors",
    "save_tensors",
    "slots_by_name",
    "tensor_bytes",
    "tensors_fingerprint",
    "write_tensors",
]
