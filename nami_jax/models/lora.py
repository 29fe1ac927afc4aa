"""Low-rank adaptation: which parameters it trains, and the network's own weights with it merged in.

Low-rank pairs are recognised by their path. LoRA, Hu et al., arXiv 2106.09685; the factor alpha / rank is left to the
learning rate.
"""

from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict


def split(params: Any) -> tuple[Any, Any]:
    """Returns the low-rank parameters and all others, each as nested dicts."""
    flat = flatten_dict(params)
    low_rank = {path: leaf for path, leaf in flat.items() if "lora" in path}
    others = {path: leaf for path, leaf in flat.items() if path not in low_rank}
    return unflatten_dict(low_rank), unflatten_dict(others)


def join(params: Any, others: Any) -> Any:
    """Returns one tree of two without common leaves; undoes `split`."""
    return unflatten_dict(flatten_dict(params) | flatten_dict(others))


def merge(params: Any) -> Any:
    """Returns the parameters of the same network without low-rank pairs: each kernel becomes kernel + a b."""
    low_rank, others = split(params)
    kernels: dict[tuple, Any] = flatten_dict(others)
    pairs: dict[tuple, Any] = flatten_dict(low_rank)
    for path, a in pairs.items():
        if path[-1] != "lora_a":
            continue
        layer = path[:-2]
        kernel = (*layer, "kernel") if (*layer, "kernel") in kernels else (*layer, "linear", "kernel")
        update = jnp.matmul(a, pairs[(*path[:-1], "lora_b")], precision="highest")
        kernels[kernel] = (kernels[kernel] + update.reshape(kernels[kernel].shape)).astype(kernels[kernel].dtype)
    return unflatten_dict(kernels)
