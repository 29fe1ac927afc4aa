"""Tensors on disk and parameters on devices: every network's weights are read and written through here.

`tensors` reads and writes safetensors without ever holding a whole file; `slots` relates released tensors to our
parameters by one table, which loading and exporting both walk. Neither knows a network: how each one's release names
its tensors stands in `nami_keys`, `bert_keys` and so on.
"""

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
    StoredTensor,
    Tensor,
    TensorShapes,
    WeightsError,
    open_tensors,
    save_tensors,
    tensor_bytes,
    write_tensors,
)

__all__ = [
    "SHARD_BYTES",
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
    "write_tensors",
]
